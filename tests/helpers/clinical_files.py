"""Hospital files written by hand from their specifications, of a patient whose name and id must not leave them."""

from __future__ import annotations

import base64
import binascii
import json
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import UID, ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

from etp_jax.ecg.leads import LEADS

FAMILY, GIVEN, ID, BORN, RECORDED = "Quux", "Zebedee", "ID4711", "1951-05-02", "2014-06-03"
STATEMENTS = ("Sinus rhythm", "Left axis deviation")
PRIVATE = (FAMILY, GIVEN, ID, "1951", "2014")
"""What no output may contain."""
SCP_CODES: dict[str, int] = dict(zip(LEADS, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))
"""Numbers of the leads in SCP-ECG, DICOM and MFER."""


def dicom_group(stored: np.ndarray, leads: Sequence[str], fs: float, **changes: Any) -> Dataset:
    """One waveform of int16 [T, leads]; `gain`, `correction`, `baseline` and `unit` hold for all channels."""
    settings = {"gain": 2.5, "correction": 1.0, "baseline": 0.0, "unit": "uV", "label": "RHYTHM", "meanings": None}
    settings |= {"originality": "ORIGINAL", **changes}
    group = Dataset()
    group.MultiplexGroupLabel, group.WaveformOriginality = settings["label"], settings["originality"]
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = stored.shape[1], len(stored)
    group.SamplingFrequency = f"{fs:g}"
    group.ChannelDefinitionSequence = []
    for number, lead in enumerate(leads):
        channel, source, unit = Dataset(), Dataset(), Dataset()
        if lead in SCP_CODES:
            source.CodeValue, source.CodingSchemeDesignator = f"5.6.3-9-{SCP_CODES[lead]}", "SCPECG"
        source.CodeMeaning = settings["meanings"][number] if settings["meanings"] else f"Lead {lead}"
        unit.CodeValue, unit.CodingSchemeDesignator = settings["unit"], "UCUM"
        channel.ChannelSourceSequence, channel.ChannelSensitivityUnitsSequence = [source], [unit]
        if settings["gain"] is not None:
            channel.ChannelSensitivity = f"{settings['gain']:.10g}"
            channel.ChannelSensitivityCorrectionFactor = f"{settings['correction']:.10g}"
        channel.ChannelBaseline = f"{settings['baseline']:.10g}"
        group.ChannelDefinitionSequence.append(channel)
    group.WaveformBitsAllocated = 8 * stored.dtype.itemsize
    group.WaveformSampleInterpretation = {"i2": "SS", "u2": "US", "i4": "SL"}[stored.dtype.str[1:]]
    group.WaveformData = stored.tobytes()
    return group


def write_dicom(
    path: Path,
    groups: Sequence[Dataset],
    statements: Sequence[str] = STATEMENTS,
    syntax: UID = ExplicitVRLittleEndian,
) -> Path:
    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = syntax
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID = TwelveLeadECGWaveformStorage
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID = generate_uid()
    data.PatientName, data.PatientID, data.PatientBirthDate = f"{FAMILY}^{GIVEN}", ID, BORN.replace("-", "")
    data.StudyDate = RECORDED.replace("-", "")
    data.PatientAge, data.PatientSex, data.Modality = "063Y", "F", "ECG"
    data.WaveformSequence = list(groups)
    data.WaveformAnnotationSequence = []
    for text in statements:
        annotation = Dataset()
        annotation.UnformattedTextValue = text
        data.WaveformAnnotationSequence.append(annotation)
    data.save_as(path, enforce_file_format=True)
    return path


def muse(stored: np.ndarray, leads: Sequence[str], fs: float, gain: float = 4.88, unit: str = "MICROVOLTS") -> str:
    def waveform(kind: str, values: np.ndarray) -> str:
        data = "".join(
            f"<LeadData><LeadByteCountTotal>{2 * len(values)}</LeadByteCountTotal><LeadTimeOffset>0</LeadTimeOffset>"
            f"<LeadSampleCountTotal>{len(values)}</LeadSampleCountTotal>"
            f"<LeadAmplitudeUnitsPerBit>{gain}</LeadAmplitudeUnitsPerBit><LeadAmplitudeUnits>{unit}</LeadAmplitudeUnits>"
            f"<LeadID>{lead}</LeadID><LeadSampleSize>2</LeadSampleSize>"
            f"<WaveFormData>\n{base64.encodebytes(values[:, number].astype('<i2').tobytes()).decode()}</WaveFormData>"
            "</LeadData>"
            for number, lead in enumerate(leads)
        )
        return (
            f"<Waveform><WaveformType>{kind}</WaveformType><SampleBase>{fs:g}</SampleBase>"
            f"<SampleExponent>0</SampleExponent>{data}</Waveform>"
        )

    said = "".join(
        f"<DiagnosisStatement><StmtFlag>ENDSLINE</StmtFlag><StmtText>{text}</StmtText></DiagnosisStatement>"
        for text in (
            *STATEMENTS,
            f"When compared with ECG of 01-JAN-2014 10:11, {FAMILY}",
            "Confirmed by SMITH MD, JOHN (3)",
        )
    )
    return (
        '<?xml version="1.0" encoding="ISO-8859-1"?>\n<!DOCTYPE RestingECG SYSTEM "restecg.dtd">\n<RestingECG>'
        f"<MuseInfo/><PatientDemographics><PatientID>{ID}</PatientID><PatientAge>63</PatientAge><AgeUnits>YEARS</AgeUnits>"
        f"<DateofBirth>05-02-1951</DateofBirth><Gender>FEMALE</Gender><PatientLastName>{FAMILY}</PatientLastName>"
        f"<PatientFirstName>{GIVEN}</PatientFirstName></PatientDemographics><TestDemographics>"
        "<AcquisitionDate>06-03-2014</AcquisitionDate><AcquisitionTime>10:11:12</AcquisitionTime></TestDemographics>"
        f"<Diagnosis>{said}</Diagnosis>{waveform('Median', stored[:50] + 100)}{waveform('Rhythm', stored)}</RestingECG>"
    )


def aecg(
    stored: np.ndarray, leads: Sequence[str], fs: float, gain: float = 2.5, unit: str = "uV", origin: float = 0
) -> str:
    def series(code: str, values: np.ndarray, inner: str = "") -> str:
        sequences = "".join(
            f'<component><sequence><code code="MDC_ECG_LEAD_{lead.upper()}" codeSystem="2.16.840.1.113883.6.24"/>'
            f'<value xsi:type="SLIST_PQ"><origin value="{origin!r}" unit="{unit}"/>'
            f'<scale value="{gain!r}" unit="{unit}"/>'
            f"<digits>{' '.join(map(str, values[:, number].tolist()))}</digits></value></sequence></component>"
            for number, lead in enumerate(leads)
        )
        return (
            f'<code code="{code}" codeSystem="2.16.840.1.113883.5.4"/><component><sequenceSet><component><sequence>'
            '<code code="TIME_ABSOLUTE" codeSystem="2.16.840.1.113883.5.4"/><value xsi:type="GLIST_TS">'
            f'<head value="20140603101112"/><increment value="{1 / fs!r}" unit="s"/></value></sequence></component>'
            f"{sequences}</sequenceSet></component>{inner}"
        )

    said = "".join(
        '<component><annotation><code code="MDC_ECG_INTERPRETATION_STATEMENT" codeSystem="2.16.840.1.113883.6.24"/>'
        f'<value xsi:type="ST">{text}</value></annotation></component>'
        for text in STATEMENTS
    )
    derived = (
        f"<derivation><derivedSeries>{series('REPRESENTATIVE_BEAT', stored[:50] + 100)}</derivedSeries></derivation>"
    )
    person = (
        f'<componentOf><timepointEvent><componentOf><subjectAssignment><subject><trialSubject><id extension="{ID}"/>'
        f"<subjectDemographicPerson><name><family>{FAMILY}</family><given>{GIVEN}</given></name>"
        '<administrativeGenderCode code="F"/><birthTime value="19510502"/></subjectDemographicPerson></trialSubject>'
        "</subject></subjectAssignment></componentOf></timepointEvent></componentOf>"
    )
    rhythm = series("RHYTHM", stored, f"{derived}<subjectOf><annotationSet>{said}</annotationSet></subjectOf>")
    return (
        '<?xml version="1.0" encoding="UTF-8"?><AnnotatedECG xmlns="urn:hl7-org:v3" '
        'xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"><id root="1.2.3"/><effectiveTime>'
        f'<low value="20140603101112"/></effectiveTime>{person}<component><series>{rhythm}</series></component>'
        "</AnnotatedECG>"
    )


def philips(stored: np.ndarray, leads: Sequence[str], fs: float, gain: float = 5, packed: bool = False) -> str:
    data = xli(stored) if packed else stored.T.astype("<i2").tobytes()
    flags = 'compressflag="True" compression="XLI"' if packed else 'compressflag="False"'
    said = "".join(f"<statement><leftstatement>{text}</leftstatement></statement>" for text in STATEMENTS)
    return (
        '<?xml version="1.0" encoding="UTF-8"?><restingecgdata xmlns="http://www3.medical.philips.com"><documentinfo>'
        "<documenttype>PhilipsECG</documenttype><documentversion>1.04</documentversion></documentinfo>"
        f"<patient><generalpatientdata><patientid>{ID}</patientid><name><lastname>{FAMILY}</lastname>"
        f"<firstname>{GIVEN}</firstname></name><age><dateofbirth>{BORN}</dateofbirth><years>63</years></age>"
        f'<sex>Female</sex></generalpatientdata></patient><dataacquisition date="{RECORDED}" time="10:11:12">'
        f"<signalcharacteristics><samplingrate>{fs:g}</samplingrate><resolution>{gain!r}</resolution>"
        f"<numberchannelsallocated>{len(leads)}</numberchannelsallocated></signalcharacteristics></dataacquisition>"
        f'<waveforms><parsedwaveforms dataencoding="Base64" {flags} durationperchannel="{len(stored) * 1000 / fs:g}" '
        f'numberofleads="{len(leads)}" leadlabels="{" ".join(leads)}">{base64.b64encode(data).decode()}'
        f"</parsedwaveforms></waveforms><interpretations><interpretation>{said}</interpretation></interpretations>"
        "</restingecgdata>"
    )


def xli(stored: np.ndarray) -> bytes:
    """Philips' compression: limb leads as residuals, second differences, high bytes before low ones, LZW of 10 bits."""
    values = stored.T.astype(int).copy()
    one, two, three = values[0], values[1], values[2].copy()
    values[2] = two - one - three
    values[3] = -values[3] - (one + two) // 2
    values[4] = (one - three) // 2 - values[4]
    values[5] = (two + three) // 2 - values[5]
    chunks = b""
    for x in values:
        after = np.append(x[2:], 0)  # the last difference is not used
        codes = x.copy()
        codes[2:] = 64 + 2 * x[2:] - x[1:-1] - np.append(after[1:], 0)[: len(x) - 2]
        words = codes.astype(np.int16).view(np.uint16)
        body = lzw(bytes((words >> 8).astype(np.uint8)) + bytes((words & 255).astype(np.uint8)))
        chunks += struct.pack("<ihh", len(body), 0, int(2 * x[1] - x[0] - x[2])) + body
    return chunks


def lzw(data: bytes, bits: int = 10) -> bytes:
    table = {bytes([byte]): byte for byte in range(256)}
    codes, word = [], b""
    for byte in data:
        longer = word + bytes([byte])
        if longer in table:
            word = longer
            continue
        codes.append(table[word])
        if len(table) <= (1 << bits) - 2:
            table[longer] = len(table)
        word = bytes([byte])
    codes.append(table[word])
    text = "".join(f"{code:0{bits}b}" for code in [*codes, (1 << bits) - 1])
    return int(text.ljust(-(-len(text) // 8) * 8, "0"), 2).to_bytes(-(-len(text) // 8), "big")


def mortara(stored: np.ndarray, leads: Sequence[str], fs: float, per_mv: float = 400) -> str:
    channels = "".join(
        f'<CHANNEL BITS="16" FORMAT="SIGNED" UNITS_PER_MV="{per_mv:g}" DURATION="{len(stored)}" SAMPLE_FREQ="{fs:g}" '
        f'NAME="{lead}" ENCODING="BASE64" OFFSET="0" '
        f'DATA="{base64.b64encode(stored[:, number].astype("<i2").tobytes()).decode()}"/>'
        for number, lead in enumerate(leads)
    )
    said = "".join(f'<STATEMENT TEXT="{text}" REASON=""/>' for text in STATEMENTS)
    return (
        f'<?xml version="1.0"?><ECG ACQUISITION_TIME="20140603101112" AGE="63" AGE_UNITS="YEARS"><SUBJECT ID="{ID}" '
        f'LAST_NAME="{FAMILY}" FIRST_NAME="{GIVEN}" GENDER="Female" DOB="19510502"/>'
        f"<AUTOMATIC_INTERPRETATION>{said}</AUTOMATIC_INTERPRETATION>{channels}</ECG>"
    )


def kardia(stored: np.ndarray, leads: Sequence[str], fs: float, nanovolts: float = 500) -> str:
    names = {"I": "leadI", "II": "leadII", "III": "leadIII", "aVR": "AVR", "aVL": "AVL", "aVF": "AVF"}
    samples = {names[lead]: stored[:, number].tolist() for number, lead in enumerate(leads)}
    block = {"frequency": fs, "mainsFrequency": 50, "amplitudeResolution": nanovolts, "samples": samples}
    return json.dumps(
        {
            "recordedAt": "2014-06-03T10:11:12Z",
            "patientID": ID,
            "algorithmDetermination": "sinus rhythm",
            "note": f"{GIVEN} {FAMILY}",
            "data": {"raw": block, "enhanced": block},
        }
    )


def ishne(stored: np.ndarray, leads: Sequence[str | None], fs: int, nanovolts: int = 2500) -> bytes:
    codes = {lead: 5 + number for number, lead in enumerate(LEADS)}
    count = len(leads)
    block = bytearray(512 + 10)
    struct.pack_into("<iiii", block, 10, 0, len(stored), 522, 522)
    struct.pack_into("<h", block, 26, 1)
    for place, text in ((28, GIVEN), (68, FAMILY), (108, ID)):
        block[place : place + len(text)] = text.encode()
    struct.pack_into("<hh", block, 128, 2, 0)
    struct.pack_into("<3h3h3h3h", block, 132, 2, 5, 1951, 3, 6, 2014, 3, 6, 2014, 10, 11, 12)
    struct.pack_into("<h12h", block, 156, count, *[codes.get(lead or "", 0) for lead in leads], *[-9] * (12 - count))
    struct.pack_into("<12h", block, 206, *[nanovolts] * count, *[-9] * (12 - count))
    struct.pack_into("<h", block, 272, fs)
    crc = binascii.crc_hqx(bytes(block[10:]), 0xFFFF)
    return b"ISHNE1.0" + struct.pack("<H", crc) + bytes(block[10:]) + stored.astype("<i2").tobytes()


def mfer(stored: np.ndarray, leads: Sequence[str], fs: float, nanovolts: int = 2500, big: bool = False) -> bytes:
    order, name = ("big", ">i2") if big else ("little", stored.dtype.newbyteorder("<"))

    def tag(code: int, value: bytes) -> bytes:
        length = bytes([len(value)]) if len(value) < 128 else b"\x84" + len(value).to_bytes(4, "big")
        return bytes([code]) + length + value

    def number(value: int, size: int) -> bytes:
        return value.to_bytes(size, order)

    text = tag(0x40, b"MFR ECG".ljust(32)) + tag(0x01, bytes([not big])) + tag(0x08, number(1, 2))
    text += tag(0x0B, bytes([1, 256 - 6]) + number(round(1e6 / fs), 4)) + tag(
        0x0C, bytes([0, 256 - 9]) + number(nanovolts, 4)
    )
    text += tag(0x81, f"{FAMILY}^^{GIVEN}".encode()) + tag(0x82, ID.encode()) + tag(0x84, b"\x02")
    text += tag(0x83, bytes([63]) + number(0, 2) + number(1951, 2) + b"\x05\x02")
    text += tag(0x85, number(2014, 2) + bytes([6, 3, 10, 11, 12]))
    text += tag(0x0A, bytes([{"i": 0, "f": 7}[stored.dtype.kind]]))
    text += tag(0x04, number(len(stored), 4)) + tag(0x05, number(len(leads), 1)) + tag(0x06, number(1, 1))
    for place, lead in enumerate(leads):
        inner = tag(0x09, number(SCP_CODES[lead], 2))
        text += bytes([0x3F, place, len(inner)]) + inner
    return text + tag(0x1E, stored.T.astype(name).tobytes()) + b"\x80\x00"


def scp(
    stored: np.ndarray,
    leads: Sequence[str],
    microseconds: int,
    nanovolts: int = 2500,
    differences: int = 0,
    huffman: bool = False,
    beat: np.ndarray | None = None,
    claimed: int = 0,
) -> bytes:
    """SCP-ECG; with a beat [t, leads] subtracted from the rhythm at sample 101, as in section 4.

    Section 3 may claim another number of samples than there are.
    """
    codes = [SCP_CODES[lead] for lead in leads]
    stored = stored.astype(np.int64)

    def packed(values: np.ndarray) -> list[bytes]:
        columns = [np.diff(x, differences, prepend=[0] * differences) for x in values.T]
        for column, x in zip(columns, values.T, strict=True):
            column[:differences] = x[:differences]  # the first values are stored as they are
        return [huffman_bits(x) if huffman else x.astype("<i2").tobytes() for x in columns]

    def data(values: np.ndarray) -> bytes:
        parts = packed(values)
        sizes = struct.pack(f"<{len(parts)}H", *map(len, parts))
        return struct.pack("<HHBB", nanovolts, microseconds, differences, 0) + sizes + b"".join(parts)

    def texts(number: int, text: str) -> bytes:
        value = text.encode() + b"\0"
        return struct.pack("<BH", number, len(value)) + value

    sections = {1: texts(0, FAMILY) + texts(1, GIVEN) + texts(2, ID)}
    sections[1] += (
        struct.pack("<BHHB", 4, 3, 63, 1) + struct.pack("<BHHBB", 5, 4, 1951, 5, 2) + struct.pack("<BHB", 8, 1, 2)
    )
    sections[1] += struct.pack("<BHHBB", 25, 4, 2014, 6, 3) + b"\xff\0\0"
    if huffman:
        sections[2] = struct.pack("<H", 19999)
    flags = 0x04 | (beat is not None)
    sections[3] = struct.pack("<BB", len(leads), flags) + b"".join(
        struct.pack("<IIB", 1, claimed or len(stored), code) for code in codes
    )
    if beat is not None:
        length, fiducial, at = len(beat), 11, 111  # sample 1 of the beat is sample 101 of the rhythm
        sections[4] = struct.pack("<HHH", length * microseconds // 1000, fiducial, 1)
        sections[4] += struct.pack("<HIII", 0, 101, at, 100 + length) + struct.pack("<II", 101, 100 + length)
        sections[5] = data(beat.astype(np.int64))
        stored = stored.copy()
        stored[100 : 100 + length] -= beat
    sections[6] = data(stored)
    sections[8] = struct.pack("<BHBBBBBB", 0, 2014, 6, 3, 10, 11, 12, len(STATEMENTS))
    sections[8] += b"".join(texts(number + 1, text) for number, text in enumerate(STATEMENTS))

    def section(number: int, body: bytes, reserved: bytes = bytes(6)) -> bytes:
        body += bytes(len(body) % 2)
        rest = struct.pack("<HIBB", number, 16 + len(body), 20, 20) + reserved + body
        return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest

    bodies = {number: section(number, body) for number, body in sections.items()}
    start = 7 + 16 + 10 * 12
    pointers = struct.pack("<HII", 0, start - 7, 7)
    for number in range(1, 12):
        size = len(bodies.get(number, b""))
        pointers += struct.pack("<HII", number, size, start if size else 0)
        start += size
    content = section(0, pointers, b"SCPECG") + b"".join(bodies.values())
    rest = struct.pack("<I", 6 + len(content)) + content
    return struct.pack("<H", binascii.crc_hqx(rest, 0xFFFF)) + rest


def huffman_bits(values: np.ndarray) -> bytes:
    """The standard's default table: small values as ones, a zero and a sign; others in 8 or 16 bits after ten bits."""
    text = ""
    for value in values.tolist():
        if value == 0:
            text += "0"
        elif abs(value) <= 8:
            text += "1" * abs(value) + "0" + str(int(value < 0))
        elif -128 <= value < 128:
            text += "1111111110" + f"{value & 0xFF:08b}"
        else:
            text += "1111111111" + f"{value & 0xFFFF:016b}"
    text = text.ljust(-(-len(text) // 16) * 16, "0")
    return int(text, 2).to_bytes(len(text) // 8, "big")
