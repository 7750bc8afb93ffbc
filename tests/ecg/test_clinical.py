"""Hospital files: each is written from its specification and read back; DICOM is compared with pydicom's own values."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pydicom
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydicom import uid

from etp_jax.ecg.deidentify import statements
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.read import read_signal
from etp_jax.errors import EtpError
from tests.helpers import clinical_files as files
from tests.helpers.lacking import lacking
from tests.helpers.wfdb_samples import wave

STORED = wave(300, 12)
EIGHT = ("I", "II", "V1", "V2", "V3", "V4", "V5", "V6")
OF_EIGHT = STORED[:, [LEADS.index(lead) for lead in EIGHT]]
LAYOUT = Layout()
REPORT = "Sinus rhythm. Left axis deviation"
KINDS: dict[str, tuple[Callable[[], str | bytes], float, float, tuple[str, ...]]] = {
    "muse.xml": (lambda: files.muse(OF_EIGHT, EIGHT, 500), 4.88, 500, EIGHT),
    "millivolts.xml": (lambda: files.muse(OF_EIGHT, EIGHT, 250, 0.005, "MILLIVOLTS"), 5, 250, EIGHT),
    "aecg.xml": (lambda: files.aecg(STORED, LEADS, 1000), 2.5, 1000, LEADS),
    "odd_rate.xml": (lambda: files.aecg(STORED, LEADS, 360.5, 0.0025, "mV"), 2.5, 360.5, LEADS),
    "philips.xml": (lambda: files.philips(STORED, LEADS, 500), 5, 500, LEADS),
    "xli.xml": (lambda: files.philips(STORED, LEADS, 500, packed=True), 5, 500, LEADS),
    "mortara.xml": (lambda: files.mortara(STORED, LEADS, 1000), 2.5, 1000, LEADS),
    "plain.scp": (lambda: files.scp(STORED, LEADS, 2000), 2.5, 500, LEADS),
    "first.scp": (lambda: files.scp(STORED, LEADS, 2000, differences=1), 2.5, 500, LEADS),
    "second.scp": (lambda: files.scp(STORED, LEADS, 2000, 1000, differences=2), 1, 500, LEADS),
    "huffman.scp": (lambda: files.scp(STORED, LEADS, 2000, differences=2, huffman=True), 2.5, 500, LEADS),
    "beat.scp": (lambda: files.scp(STORED, LEADS, 2000, huffman=True, beat=STORED[:50] // 2), 2.5, 500, LEADS),
    "odd_rate.scp": (lambda: files.scp(STORED, LEADS, 7000), 2.5, 1e6 / 7000, LEADS),
    "a.ecg": (lambda: files.ishne(STORED[:, :3], LEADS[:3], 200), 2.5, 200, LEADS[:3]),
    "little.mwf": (lambda: files.mfer(STORED, LEADS, 500), 2.5, 500, LEADS),
    "big.MFER": (lambda: files.mfer(STORED, LEADS, 250, 1250, big=True), 1.25, 250, LEADS),
    "kardia.json": (lambda: files.kardia(STORED[:, :6], LEADS[:6], 300), 0.5, 300, LEADS[:6]),
}
"""Content of each file, microvolts per stored unit, sampling rate and leads."""


def save(path: Path, content: str | bytes) -> Path:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def error_of(path: Path, layout: Layout = LAYOUT) -> str:
    with pytest.raises(EtpError) as error:
        read_signal(path, layout)
    assert "\n" not in str(error.value)
    assert not any(private in str(error.value) for private in files.PRIVATE)
    return str(error.value)


@pytest.mark.parametrize("name", KINDS)
def test_values_rates_and_leads(tmp_path: Path, name: str) -> None:
    content, gain, fs, leads = KINDS[name]
    found = read_signal(save(tmp_path / name, content()), LAYOUT)
    stored = STORED[:, [LEADS.index(lead) for lead in leads]]
    np.testing.assert_allclose(found.signal, stored * gain, rtol=1e-12, atol=1e-9)
    assert found.fs == pytest.approx(fs, rel=1e-12)
    assert found.channels == leads


@pytest.mark.parametrize("name", KINDS)
def test_report_age_and_sex_but_no_name_id_or_date(tmp_path: Path, name: str) -> None:
    found = read_signal(save(tmp_path / name, KINDS[name][0]()), LAYOUT)
    whole = repr(replace(found, signal=np.zeros(0)))
    assert not any(private in whole for private in files.PRIVATE), whole
    assert "SMITH" not in whole
    if name in ("muse.xml", "millivolts.xml"):
        assert found.report == f"{REPORT}. When compared with ECG of ___, ___"
    elif not name.endswith((".ecg", ".mwf", ".MFER", ".json")):
        assert found.report == REPORT
    if not name.endswith(".json"):
        assert (found.age, found.sex) == (63, "female")


@pytest.mark.parametrize(
    ("name", "note"), [("muse.xml", "median"), ("aecg.xml", "median"), ("kardia.json", "filtered")]
)
def test_what_is_left_out_is_noted(tmp_path: Path, name: str, note: str) -> None:
    assert any(note in line for line in read_signal(save(tmp_path / name, KINDS[name][0]()), LAYOUT).notes)


def test_the_origin_of_an_aecg_file(tmp_path: Path) -> None:
    """A value is origin + scale x digit, each with a unit of its own."""
    text = files.aecg(STORED, LEADS, 500, 2.5, origin=0.125).replace('"0.125" unit="uV"', '"0.125" unit="mV"')
    found = read_signal(save(tmp_path / "a.xml", text), LAYOUT)
    np.testing.assert_allclose(found.signal, STORED * 2.5 + 125)


def test_the_offset_of_a_philips_file(tmp_path: Path) -> None:
    text = files.philips(STORED + 20_000, LEADS, 500).replace(
        "<parsedwaveforms", '<parsedwaveforms signaloffset="20000"'
    )
    found = read_signal(save(tmp_path / "a.xml", text), LAYOUT)
    np.testing.assert_allclose(found.signal, STORED * 5.0)


def test_philips_files_whose_leads_would_be_shifted(tmp_path: Path) -> None:
    text = files.philips(STORED, LEADS, 500)
    shorter = text.replace('durationperchannel="600"', 'durationperchannel="500"')
    assert "holds 3600 samples, its leads 3000" in error_of(save(tmp_path / "a.xml", shorter))
    unnamed = text.replace('leadlabels="I II III', 'leadlabels="I III')
    assert "names 11 of 12 leads" in error_of(save(tmp_path / "a.xml", unnamed))


def test_muse_files_of_odd_times(tmp_path: Path) -> None:
    text = files.muse(STORED, LEADS, 500)
    late = text[::-1].replace("<LeadTimeOffset>0<"[::-1], "<LeadTimeOffset>20<"[::-1], 1)[::-1]
    assert "do not start and end together" in error_of(save(tmp_path / "a.xml", late))
    for base, exponent in (("257.5", "0"), ("2575", "-1")):
        odd = text.replace("<SampleBase>500<", f"<SampleBase>{base}<")
        odd = odd.replace("<SampleExponent>0<", f"<SampleExponent>{exponent}<")
        assert "no whole number of Hz" in error_of(save(tmp_path / "a.xml", odd))


def test_the_first_sample_of_muse_files(tmp_path: Path) -> None:
    text, odd = files.muse(STORED, LEADS, 500), "<FirstSampleBaseline>{}</FirstSampleBaseline><LeadID>V1<"
    for value in ("0", "0.0"):
        read_signal(save(tmp_path / "a.xml", text.replace("<LeadID>V1<", odd.format(value))), LAYOUT)
    assert "FirstSampleBaseline" in error_of(save(tmp_path / "a.xml", text.replace("<LeadID>V1<", odd.format("12"))))
    late = text.replace("<LeadID>V1<", "<LeadOffsetFirstSample>4</LeadOffsetFirstSample><LeadID>V1<")
    assert "do not start and end together" in error_of(save(tmp_path / "a.xml", late))


def test_derived_series_of_an_aecg_file(tmp_path: Path) -> None:
    text = files.aecg(STORED, LEADS, 500)
    whole = text[text.index("<derivation>") : text.index("</derivation>") + len("</derivation>")]
    again = text.replace(whole, whole + whole.replace("REPRESENTATIVE_BEAT", "RHYTHM"))
    found = read_signal(save(tmp_path / "a.xml", again), LAYOUT)
    np.testing.assert_allclose(found.signal, STORED * 2.5)
    assert found.notes == ("median beats left out", "derived series left out")


def test_an_mfer_file_of_fewer_samples(tmp_path: Path) -> None:
    count, more = b"\x04\x04" + (300).to_bytes(4, "little"), b"\x04\x04" + (400).to_bytes(4, "little")
    content = files.mfer(STORED, LEADS, 500).replace(count, more)
    assert "fewer samples than its MFER header" in error_of(save(tmp_path / "a.mwf", content))


def test_an_mfer_file_of_more_samples(tmp_path: Path) -> None:
    """Each lead is a block, so that a shorter block than the file's would shift all leads but the first."""
    for kind in ("<i2", "<f4"):
        content = files.mfer(STORED.astype(kind), LEADS, 500)
        np.testing.assert_allclose(read_signal(save(tmp_path / "a.mwf", content), LAYOUT).signal, STORED * 2.5)
        count, fewer = b"\x04\x04" + (300).to_bytes(4, "little"), b"\x04\x04" + (299).to_bytes(4, "little")
        assert "more samples than its MFER header" in error_of(save(tmp_path / "a.mwf", content.replace(count, fewer)))


def test_leads_without_a_name_in_an_ishne_file(tmp_path: Path) -> None:
    path = save(tmp_path / "a.ecg", files.ishne(STORED[:, :3], [None] * 3, 200))
    assert "no channel of a.ecg (channel 1, channel 2, channel 3) is a lead" in error_of(path)
    found = read_signal(path, Layout(leads=("V1", "V5", "aVF")))
    assert found.channels == ("V1", "V5", "aVF")


def test_missing_samples_in_an_ishne_file(tmp_path: Path) -> None:
    stored = STORED[:, :3].copy()
    stored[5:9, 1] = -32768
    found = read_signal(save(tmp_path / "a.ecg", files.ishne(stored, LEADS[:3], 200)), LAYOUT)
    assert np.argwhere(np.isnan(found.signal)).tolist() == [[row, 1] for row in range(5, 9)]


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_truncated_files(tmp_path: Path, name: str, share: float) -> None:
    content = KINDS[name][0]()
    content = content.encode() if isinstance(content, str) else content
    path = save(tmp_path / name, content[: int(share * len(content))])
    if name == "a.ecg" and share >= 0.5:  # samples follow up to the end of the file
        assert any("the header announces 300 samples" in note for note in read_signal(path, LAYOUT).notes)
    else:
        assert error_of(path)


@settings(max_examples=60, deadline=None)
@given(place=st.integers(0, 10**6), byte=st.integers(0, 255), name=st.sampled_from(sorted(KINDS)))
def test_a_changed_byte(tmp_path_factory: pytest.TempPathFactory, place: int, byte: int, name: str) -> None:
    """A damaged file is read or refused in one line."""
    content = KINDS[name][0]()
    data = bytearray(content.encode() if isinstance(content, str) else content)
    data[place % len(data)] = byte
    path = save(tmp_path_factory.mktemp("byte") / name, bytes(data))
    try:
        read_signal(path, LAYOUT)
    except EtpError as error:
        assert "\n" not in str(error)


def test_units_that_are_no_voltage_or_missing(tmp_path: Path) -> None:
    path = save(tmp_path / "a.xml", files.muse(OF_EIGHT, EIGHT, 500, unit=""))
    assert error_of(path).startswith("unit: a.xml is in ''")


def test_what_mfer_files_leave_open(tmp_path: Path) -> None:
    content = files.mfer(STORED, LEADS, 500)
    start = content.index(b"\x0b\x06")
    path = save(tmp_path / "a.mwf", content[:start] + content[start + 8 :])
    found = read_signal(path, LAYOUT)
    assert found.fs == 1000 and any("1000 Hz" in note for note in found.notes)
    path = save(tmp_path / "b.mwf", content[:start] + b"\x0d\x02\x05\x00" + content[start:])
    assert "MWF_OFF" in error_of(path)


def test_other_files_of_the_suffixes(tmp_path: Path) -> None:
    assert error_of(save(tmp_path / "a.xml", "<html/>")).startswith("kind not read: a.xml is none of GE MUSE XML, ")
    assert error_of(save(tmp_path / "a.json", "{}")).startswith("kind not read: a.json is none of ")
    assert error_of(save(tmp_path / "a.ecg", b"\0" * 1000)).startswith("kind not read: a.ecg is none of ")


BOMB = '<?xml version="1.0"?><!DOCTYPE r [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;">]>'


@pytest.mark.parametrize("root", ["RestingECG", "AnnotatedECG", "restingecgdata", "ECG ACQUISITION_TIME='1'"])
def test_entities_are_refused(tmp_path: Path, root: str) -> None:
    path = save(tmp_path / "a.xml", f"{BOMB}<{root}>&b;</{root.split()[0]}>")
    assert "entit" in error_of(path).lower()


def test_large_files_are_refused(tmp_path: Path) -> None:
    with (tmp_path / "a.xml").open("wb") as file:
        file.write(b"<RestingECG>")
        file.truncate(2**26 + 1)
    assert error_of(tmp_path / "a.xml") == "size: a.xml holds more than 64 MiB"


def test_statements_without_names_and_dates() -> None:
    texts = [
        "Sinus rhythm.",
        "Sinus  rhythm",
        "ECG of 12-MAY-2010 15:04: no change",
        "2:1 AV block",
        "Reviewed by J. Doe",
    ]
    texts += ["Anterior infarct (V1-V4), Doe", "Dr. Miller", "since 2012-03-04", "Name: X"]
    assert statements(texts, "Doe^Jane", "12") == (
        "Sinus rhythm. ECG of ___: no change. 2:1 AV block. Anterior infarct (V1-V4), ___. since ___"
    )


# DICOM


def test_a_real_dicom_file() -> None:
    """The ECG among pydicom's own test files: two groups, of which the second is the median beat."""
    path = Path(pydicom.__path__[0]) / "data" / "test_files" / "waveform_ecg.dcm"
    found = read_signal(path, LAYOUT)
    expected = pydicom.dcmread(path).waveform_array(0)
    np.testing.assert_array_equal(found.signal, expected)
    assert (found.fs, found.channels) == (1000, LEADS)
    assert found.notes == ("waveform MEDIAN BEAT left out: RHYTHM is read",)
    assert (found.age, found.sex, found.report) == (42, "female", "RITMO SINUSALE. ECG NORMALE")


@pytest.mark.filterwarnings("error")
def test_pydicom_warns_of_no_value_of_a_patient(tmp_path: Path) -> None:
    path = files.write_dicom(tmp_path / "a.dcm", [rhythm()])
    content = path.read_bytes()
    for valid, invalid in ((b"063Y", b"Quux"), (b"19510502", b"Quuxquux"), (b"5.6.3-9-1 ", b"Quux\xff56789")):
        assert valid in content
        content = content.replace(valid, invalid)
    found = read_signal(save(path, content), LAYOUT)
    assert np.isnan(found.age) and found.channels == ("Lead I", *LEADS[1:])


MICROVOLTS = {"uV": 1.0, "mV": 1e3, "V": 1e6, "nV": 1e-3}


@settings(max_examples=40, deadline=None)
@given(
    data=st.data(),
    unit=st.sampled_from(sorted(MICROVOLTS)),
    kind=st.sampled_from(["<i2", "<u2", "<i4"]),
    gain=st.floats(0.001, 1000),
    correction=st.floats(0.5, 2),
    baseline=st.floats(-1000, 1000),
    fs=st.sampled_from([100, 128, 250.5, 500, 1000]),
)
def test_dicom_of_any_leads_gains_offsets_and_rates(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject, unit: str, kind: str, **scale: float
) -> None:
    leads = data.draw(st.permutations(LEADS).map(lambda names: names[: 1 + len(names) // 2]))
    fs = scale.pop("fs")
    stored = wave(40, len(leads), seed=int(fs)).astype(kind)
    group = files.dicom_group(stored, leads, fs, unit=unit, **scale)
    path = files.write_dicom(tmp_path_factory.mktemp("dicom") / "a.dcm", [group])
    found = read_signal(path, LAYOUT)
    whole = stored * (scale["gain"] * scale["correction"]) + scale["baseline"]
    half = scale["gain"] * scale["correction"] * MICROVOLTS[unit] / 2
    np.testing.assert_allclose(found.signal, whole * MICROVOLTS[unit], rtol=1e-8, atol=half * 1e-3)
    np.testing.assert_allclose(found.signal, pydicom.dcmread(path).waveform_array(0) * MICROVOLTS[unit], rtol=1e-12)
    assert (found.channels, found.fs) == (tuple(leads), fs)


def rhythm(**changes: Any) -> pydicom.Dataset:
    return files.dicom_group(STORED, LEADS, 500, **changes)


def test_which_waveform_of_a_dicom_file_is_read(tmp_path: Path) -> None:
    beat = files.dicom_group(STORED[:50] + 100, LEADS, 500, label="MEDIAN BEAT", originality="DERIVED")
    filtered, other = rhythm(label="FILTERED RHYTHM"), files.dicom_group(STORED[:, :1], ["II"], 500, label="STRIP")
    found = read_signal(files.write_dicom(tmp_path / "a.dcm", [beat, other, filtered, rhythm()]), LAYOUT)
    np.testing.assert_allclose(found.signal, STORED * 2.5)
    assert [note.split(" left out")[0] for note in found.notes] == [
        "waveform MEDIAN BEAT",
        "waveform STRIP",
        "waveform FILTERED RHYTHM",
    ]
    path = files.write_dicom(tmp_path / "b.dcm", [beat])
    assert error_of(path) == "unreadable signal: b.dcm holds only MEDIAN BEAT, no rhythm"


def test_leads_of_a_dicom_file(tmp_path: Path) -> None:
    names = ["Lead I (Einthoven)", "MDC_ECG_LEAD_II", "Respiration"]
    group = files.dicom_group(STORED[:, :3], ["x", "y", "z"], 500, meanings=names)
    assert read_signal(files.write_dicom(tmp_path / "a.dcm", [group]), LAYOUT).channels == (
        "Lead I",
        "MDC_ECG_LEAD_II",
        "Respiration",
    )
    group = files.dicom_group(STORED[:, :2], ["I", "II"], 500, meanings=["Lead I", "Lead III"])
    path = files.write_dicom(tmp_path / "b.dcm", [group])
    assert error_of(path) == "lead names: a channel of b.dcm is II by its code and III by its name"


def test_leads_by_names_of_mdc_alone(tmp_path: Path) -> None:
    group = files.dicom_group(STORED, [""] * 12, 500, meanings=[""] * 12)
    for channel, lead in zip(group.ChannelDefinitionSequence, LEADS, strict=True):
        channel.ChannelSourceSequence[0].CodeValue = f"MDC_ECG_LEAD_{lead.upper()}"
    assert read_signal(files.write_dicom(tmp_path / "a.dcm", [group]), LAYOUT).channels == LEADS


@pytest.mark.parametrize(("name", "skew"), [("Sample", "5"), ("Time", "0.01"), ("", "0.01")])
def test_channels_that_start_later(tmp_path: Path, name: str, skew: str) -> None:
    group = rhythm()
    field = f"Channel{name}Skew" if name else "ChannelOffset"
    for channel in group.ChannelDefinitionSequence:
        setattr(channel, field, skew)
    np.testing.assert_allclose(read_signal(files.write_dicom(tmp_path / "a.dcm", [group]), LAYOUT).signal, STORED * 2.5)
    setattr(group.ChannelDefinitionSequence[3], field, "0")
    assert "are shifted by whole samples" in error_of(files.write_dicom(tmp_path / "b.dcm", [group]))


def test_missing_samples_of_a_dicom_file(tmp_path: Path) -> None:
    group = rhythm()
    group.WaveformPaddingValue = STORED[7, 3].tobytes()
    found = read_signal(files.write_dicom(tmp_path / "a.dcm", [group]), LAYOUT)
    np.testing.assert_array_equal(np.isnan(found.signal), STORED[7, 3] == STORED)


@pytest.mark.parametrize("syntax", [uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian])
def test_byte_orders_of_dicom(tmp_path: Path, syntax: uid.UID) -> None:
    group = rhythm()
    stored = STORED.astype("<i2" if syntax.is_little_endian else ">i2")
    group.WaveformData, group.WaveformPaddingValue = stored.tobytes(), stored[7, 3:4].tobytes()
    found = read_signal(files.write_dicom(tmp_path / "a.dcm", [group], syntax=syntax), LAYOUT)
    np.testing.assert_allclose(found.signal, np.where(STORED[7, 3] == STORED, np.nan, STORED * 2.5))
    path = files.write_dicom(tmp_path / "b.dcm", [group], syntax=uid.DeflatedExplicitVRLittleEndian)
    assert "is deflated; save it as Explicit VR Little Endian" in error_of(path)


def test_what_dicom_files_lack(tmp_path: Path) -> None:
    assert "sensitivity" in error_of(files.write_dicom(tmp_path / "a.dcm", [rhythm(gain=None)]))
    assert error_of(files.write_dicom(tmp_path / "b.dcm", [rhythm(unit="mm[Hg]")])).startswith(
        "unit: b.dcm is in 'mm[Hg]'"
    )
    assert "holds no waveform, but 12-lead ECG Waveform Storage" in error_of(files.write_dicom(tmp_path / "c.dcm", []))
    long = rhythm()
    long.NumberOfWaveformSamples -= 50
    assert "describes 6000 bytes and has 7200" in error_of(files.write_dicom(tmp_path / "f.dcm", [long]))
    short = rhythm()
    short.WaveformData = short.WaveformData[:1000]
    assert error_of(files.write_dicom(tmp_path / "d.dcm", [short]))
    assert error_of(save(tmp_path / "e.dcm", b"no dicom" * 100))


@pytest.mark.parametrize("name", ["IM0001", "1.2.840.113619.2.1", "a.ima"])
def test_dicom_files_by_any_name(tmp_path: Path, name: str) -> None:
    np.testing.assert_allclose(read_signal(files.write_dicom(tmp_path / name, [rhythm()]), LAYOUT).signal, STORED * 2.5)


def test_dicom_without_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = files.write_dicom(tmp_path / "a.dcm", [rhythm()])
    for module in [module for module in sys.modules if module.split(".")[0] == "pydicom"]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "pydicom", None)
    assert error_of(path) == "kind not read: a.dcm needs pydicom; pip install 'etp-jax[clinical]'"


def test_hospital_files_without_the_extra(tmp_path: Path) -> None:
    path = save(tmp_path / "muse.xml", KINDS["muse.xml"][0]())
    with lacking("ecgdatakit", tmp_path):
        assert error_of(path) == "kind not read: muse.xml needs ecgdatakit; pip install 'etp-jax[clinical]'"
