"""Reading of hospital files by ecgdatakit: XML of carts, HL7 aECG, SCP-ECG, ISHNE, MFER and Kardia."""

from __future__ import annotations

import base64
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.ecg.channels import check_bytes, choose_channels, clinical_extra, microvolts
from etp_jax.ecg.deidentify import plausible, sex_word, statements
from etp_jax.ecg.leads import Layout, Recording
from etp_jax.errors import EtpError

KINDS = {
    "GEMuseXMLParser": "GE MUSE XML",
    "SierraXMLParser": "Philips XML",
    "MortaraEL250Parser": "Mortara XML",
    "HL7aECGParser": "HL7 aECG",
    "SCPECGParser": "SCP-ECG",
    "ISHNEHolterParser": "ISHNE",
    "MFERParser": "MFER",
    "AliveCorKardiaParser": "Kardia JSON",
}
"""Kind of each of ecgdatakit's parsers that is used; the first bytes of a file decide which."""
MAX_BYTES = {".xml": 2**26, ".json": 2**26}
"""Largest text that is read, in bytes; it takes up to 20 times as much memory."""
MAX_BINARY_BYTES = 2**28
_FAULT = -32768
"""Value that marks a missing sample in ISHNE files."""
_FRACTIONAL = re.compile(rb"<SampleExponent>\s*-|<SampleBase>\s*\d+[.,]\d*[1-9]")
"""A sampling rate of MUSE XML that may be no whole number; ecgdatakit rounds it."""
_MFER_BYTES = {0: 2, 1: 2, 2: 4, 3: 1, 4: 2, 5: 1, 6: 4, 7: 4, 8: 8}
"""Bytes of a sample by its type (MWF_DTP)."""
_ON_SIGNALS = re.compile(
    r"waveform|series|sequence|frame|lead|sampl|crc|checksum|channel|section|beat|rate|offset", re.IGNORECASE
)


def read_clinical(path: Path, layout: Layout) -> Recording:
    """Reads the rhythm of a hospital file; median beats and filtered copies of the rhythm are left out."""
    record, notes = _parse(path)
    leads: list[Any] = record.leads
    names, units = [_name(record, lead) for lead in leads], [str(lead.resolution_unit) for lead in leads]
    kept, left_out = choose_channels(path.name, names, units, _rates(record))
    chosen = [leads[number] for number in kept]
    # A start of its own is the number of a sample in SCP-ECG, and a time or a number of bytes in MUSE XML.
    starts = {"start_sample": "1", "LeadTimeOffset": "0", "LeadOffsetFirstSample": "0"}
    extents = {
        (len(lead.samples), *(lead.annotations.get(name, first) for name, first in starts.items())) for lead in chosen
    }
    if len(extents) > 1:
        raise EtpError(f"unreadable signal: the leads of {path.name} do not start and end together")
    if record.file_format.parser == "MFERParser" and any(lead.offset for lead in chosen):
        raise EtpError(f"unreadable signal: {path.name} has an offset (MWF_OFF), whose sign is not known for sure")
    if any(lead.annotations.get("FirstSampleBaseline", "").strip("0.") for lead in chosen):
        # Of the programs that read MUSE XML, some add it to the samples, some subtract it, and some ignore it.
        raise EtpError(f"unreadable signal: {path.name} has a FirstSampleBaseline, whose sign is not known for sure")
    samples = np.column_stack([np.asarray(lead.samples, np.float64) for lead in chosen])
    if record.file_format.parser == "ISHNEHolterParser":
        samples[samples == _FAULT] = np.nan
        if (announced := record.raw_metadata["ecg_size"]) != len(samples):
            notes.append(f"the header announces {announced} samples, the file holds {len(samples)}")
    scales = [microvolts(lead.resolution_unit) or np.nan for lead in chosen]
    signal = (samples * [lead.resolution for lead in chosen] + [lead.offset for lead in chosen]) * scales
    person = record.patient
    return Recording(
        signal,
        _rates(record)[kept[0]],
        tuple(names[number] for number in kept),
        (*notes, *left_out),
        age=plausible(person.age),
        sex=sex_word(person.sex),
        report=statements(
            (text for text, _ in record.interpretation.statements),
            *(person.first_name, person.last_name, person.patient_id),
            *(record.recording.technician, record.recording.referring_physician, record.interpretation.interpreter),
        ),
    )


def _parse(path: Path) -> tuple[Any, list[str]]:
    """Parses a file to ecgdatakit's record of stored values; also returns notes on its signals."""
    with clinical_extra(path.name):
        from ecgdatakit.exceptions import ECGDataKitError
        from ecgdatakit.parsing import FileParser
    check_bytes(path, MAX_BYTES.get(path.suffix.lower(), MAX_BINARY_BYTES))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found: Any = FileParser.detect_format(path)
        if found is None or found["parser"] not in KINDS:
            raise EtpError(f"kind not read: {path.name} is none of {', '.join(KINDS.values())}")
        try:
            record: Any = FileParser.parse(path, auto_scale=False)
        except ECGDataKitError as error:
            # A cause that ecgdatakit did not foresee may quote the file, and a person's name with it.
            reason = type(error.__cause__).__name__ if "cannot decode" in str(error) else _bare(error, path)
            raise EtpError(f"unreadable signal: {path.name} ({KINDS[found['parser']]}: {reason})") from None
    _check_xml(path, record)
    notes = [_bare(warning.message, path) for warning in caught]
    if any("shorter than the frame definition" in note for note in notes):  # then blocks belong to other leads
        raise EtpError(f"unreadable signal: {path.name} holds fewer samples than its MFER header describes")
    if record.file_format.parser == "MFERParser" and not any("not loaded" in note for note in notes):
        _check_mfer(path, record)
    notes = [note for note in dict.fromkeys(notes) if _ON_SIGNALS.search(note) and "auto_scale" not in note]
    notes += ["median beats left out"] * bool(record.median_beats)
    notes += ["derived series left out"] * _has_derived_series(path, record)
    notes += ["filtered copy of the signal left out"] * bool(record.leads_enhanced)
    return record, notes


def _check_xml(path: Path, record: Any) -> None:
    """Raises EtpError where ecgdatakit takes samples for those of another lead or time."""
    from ecgdatakit.parsing.helpers.xml import parse_xml_root

    if record.file_format.parser == "GEMuseXMLParser" and _FRACTIONAL.search(path.read_bytes()):
        raise EtpError(f"sampling rate: {path.name} states one that is no whole number of Hz")
    if record.file_format.parser != "SierraXMLParser":
        return
    stated = record.raw_metadata["parsed_waveforms"]
    labels, leads = len(stated.get("leadlabels", "").split()), int(stated.get("numberofleads") or 0)
    if 0 < labels < leads:
        raise EtpError(f"lead names: {path.name} names {labels} of {leads} leads")
    method = f"{stated.get('compression', '')}{stated.get('compressmethod', '')}".upper()
    if method != "XLI" or stated.get("compressflag", "").lower() == "false":
        text = next(parse_xml_root(path.read_bytes()).iter("parsedwaveforms")).text or ""
        plain = stated.get("dataencoding") == "Plain"
        held = len(text.split()) if plain else len(base64.b64decode(text)) // 2
        taken = sum(len(lead.samples) for lead in record.leads)
        if held != taken:  # the leads follow each other: those after the first would start too early
            raise EtpError(f"unreadable signal: {path.name} holds {held} samples, its leads {taken}")


def _has_derived_series(path: Path, record: Any) -> bool:
    """Whether an aECG file has derived series other than the median beats, of which ecgdatakit says nothing."""
    from ecgdatakit.parsing.helpers.xml import parse_xml_root

    if record.file_format.parser != "HL7aECGParser":
        return False
    codes = (series.find("code") for series in parse_xml_root(path.read_bytes()).iter("derivedSeries"))
    return any(code is not None and code.get("code", "").upper() not in ("REPRESENTATIVE_BEAT", "") for code in codes)


def _check_mfer(path: Path, record: Any) -> None:
    """Raises EtpError if an MFER file holds more samples than its header describes: blocks belong to other leads."""
    held, types = _mfer_samples(path.read_bytes())
    status: dict[str, Any] = record.raw_metadata.get("status_channels", {})
    taken = sum(map(len, status.values())) + sum(len(lead.samples) for lead in (*record.leads, *record.median_beats))
    widest = max(_MFER_BYTES.get(one, 0) for one in types) if types else _MFER_BYTES[0]
    if held > taken * widest:
        raise EtpError(f"unreadable signal: {path.name} holds more samples than its MFER header describes")


def _mfer_samples(data: bytes) -> tuple[int, set[int]]:
    """Returns how many bytes of samples an MFER file holds, and the types of samples that it names."""
    place, held, types = 0, 0, set[int]()
    while place < len(data) and data[place] != 0x80:  # the end
        tag, place = data[place], place + 1
        if tag == 0:
            continue
        if tag == 0x3F:  # of one channel, whose number ends with the first byte below 128
            place = next(at for at in range(place, len(data)) if data[at] < 128) + 1
        size, place = data[place], place + 1
        if size > 0x80:
            place, size = place + size - 0x80, int.from_bytes(data[place : place + size - 0x80], "big")
        elif size == 0x80:  # up to two zeros, which are skipped
            continue
        if tag in (0x3F, 0x67):  # holds tags
            continue
        if tag == 0x1E:
            held += size
        elif tag == 0x0A and size:
            types.add(data[place])
        place += size
    return held, types


def _bare(message: object, path: Path) -> str:
    """Returns a message of ecgdatakit in one line, without the path of the file and advice on ecgdatakit."""
    names = rf"\s*(?:in|of)? *(?:{re.escape(str(path))}|{re.escape(path.name)})"
    return re.sub(rf"{names}|[;,]? *\(?see raw_metadata\S*", "", " ".join(str(message).split()))


def _name(record: Any, lead: Any) -> str:
    """Returns the name of a lead; ecgdatakit calls the first lead without a name in ISHNE files `Lead 1`, as lead I."""
    unnamed = record.file_format.parser == "ISHNEHolterParser" and lead.label.startswith("Lead ")
    return lead.label.replace("Lead", "channel") if unnamed else lead.label


def _rates(record: Any) -> list[float]:
    """Returns the sampling rate of each lead, which ecgdatakit's leads have as whole numbers only."""
    details = record.raw_metadata
    if "sampling_rates" in details:
        return [float(rate) for rate in details["sampling_rates"]]
    if "rhythm_sample_interval_us" in details:
        return [1e6 / details["rhythm_sample_interval_us"]] * len(record.leads)
    if "rhythm_time" in details:
        return [float(details["rhythm_time"]["sampling_rate_exact"])] * len(record.leads)
    return [float(lead.sampling_rate) for lead in record.leads]
