"""Reading of DICOM waveforms by pydicom; the standard is at https://dicom.nema.org/medical/dicom/current/."""

from __future__ import annotations

import re
import warnings
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.channels import check_bytes, choose_channels, clinical_extra, microvolts
from etp_jax.ecg.deidentify import age_in_years, sex_word, statements
from etp_jax.ecg.leads import LEADS, Layout, Recording, lead_of
from etp_jax.errors import EtpError

MAX_BYTES = 2**28
"""Largest file that is read, in bytes."""
_BEAT = re.compile(r"median|average|mean|representative|template|beat", re.IGNORECASE)
_FILTERED = re.compile(r"filter", re.IGNORECASE)
_CODE = re.compile(r"(?:5\.6\.3-9-|2:)(\d+)")
"""Code of a lead in SCP-ECG (`5.6.3-9-1`) and in MDC (`2:1`), which share their numbers."""
_LEAD_OF_CODE: dict[int, str] = dict(zip((1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), LEADS, strict=True))
_DEFLATED = "1.2.840.10008.1.2.1.99"


def read_dicom(path: Path, layout: Layout) -> Recording:
    """Reads the rhythm waveform of a DICOM file.

    Of several groups of channels, the original one with the most leads is read, and of these the longest. Median beats
    are never read.
    """
    with clinical_extra(path.name):
        import pydicom
        from pydicom import uid
        from pydicom.waveforms import multiplex_array  # pyright: ignore[reportPrivateImportUsage]
    check_bytes(path, MAX_BYTES)
    content = path.read_bytes()  # an element that claims to be longer than a file in memory takes no memory for it
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # on values outside the standard, which may be names
        if _DEFLATED.encode() in content:  # wherever the header is: pydicom would inflate it, to any size
            raise EtpError(f"unreadable signal: {path.name} is deflated; save it as Explicit VR Little Endian")
        data: Any = pydicom.dcmread(BytesIO(content))
        groups: list[Any] = list(data.get("WaveformSequence") or ())
        if not groups:
            kind = data.file_meta.get("MediaStorageSOPClassUID", uid.UID("")).name
            raise EtpError(f"unreadable signal: {path.name} holds no waveform, but {kind or 'another object'}")
        number, notes = _rhythm(path, groups)
        raw = multiplex_array(data, number, as_raw=True)
        if data.original_encoding[1] is False:  # pydicom leaves samples as they are, and takes them for little-endian
            raw = raw.view(raw.dtype.newbyteorder(">"))
        recording = _recording(path, groups[number], raw)
        texts = [str(one.get("UnformattedTextValue", "")) for one in data.get("WaveformAnnotationSequence") or ()]
        return replace(
            recording,
            notes=(*notes, *recording.notes),
            age=age_in_years(str(data.get("PatientAge", ""))),
            sex=sex_word(str(data.get("PatientSex", ""))),
            report=statements(texts, str(data.get("PatientName", "")), str(data.get("PatientID", ""))),
        )


def _recording(path: Path, group: Any, raw: NDArray[Any]) -> Recording:
    """Converts the stored values [T, channels] of a group."""
    definitions: list[Any] = list(group.ChannelDefinitionSequence)
    if len(definitions) != raw.shape[1]:
        raise EtpError(f"unreadable signal: {path.name} describes {len(definitions)} channels and has {raw.shape[1]}")
    if len(group.WaveformData) > raw.nbytes + 1:  # one byte makes the length even
        raise EtpError(f"unreadable signal: {path.name} describes {raw.nbytes} bytes and has {len(group.WaveformData)}")
    names, fs = [_name(path, one) for one in definitions], float(group.SamplingFrequency)
    units = [_unit(one) for one in definitions]
    kept, left_out = choose_channels(path.name, names, units, [fs] * len(names))
    signal = raw[:, kept].astype(np.float64)
    signal[raw[:, kept] == _padding(group, raw.dtype)] = np.nan
    for column, one in enumerate(kept):
        gain, zero = _scale(path, definitions[one], names[one])
        signal[:, column] = (signal[:, column] * gain + zero) * (microvolts(units[one]) or np.nan)
    skews = [_skew(definitions[one], fs) for one in kept]
    if max(skews) - min(skews) >= 1:
        raise EtpError(f"unreadable signal: the channels of {path.name} are shifted by whole samples")
    return Recording(signal, fs, tuple(names[one] for one in kept), tuple(left_out))


def _rhythm(path: Path, groups: list[Any]) -> tuple[int, list[str]]:
    """Chooses the group that is read; also returns a note for each of the others."""
    labels = [str(group.get("MultiplexGroupLabel", "")).strip() or f"number {n + 1}" for n, group in enumerate(groups)]
    usable = [n for n, label in enumerate(labels) if not _BEAT.search(label)]
    if not usable:
        raise EtpError(f"unreadable signal: {path.name} holds only {', '.join(labels)}, no rhythm")

    def rank(number: int) -> tuple[bool, bool, int, int]:
        group = groups[number]
        original = str(group.get("WaveformOriginality", "ORIGINAL")) != "DERIVED"
        leads = int(group.NumberOfWaveformChannels), int(group.NumberOfWaveformSamples)
        return original, not _FILTERED.search(labels[number]), *leads

    best = max(usable, key=rank)
    notes = [f"waveform {label} left out: {labels[best]} is read" for n, label in enumerate(labels) if n != best]
    if not rank(best)[0]:
        notes.append("the waveform is derived from another one")
    return best, notes


def _name(path: Path, definition: Any) -> str:
    """Returns the lead of a channel by its code, else the meaning of the code, else the label of the channel."""
    source = next(iter(definition.get("ChannelSourceSequence") or ()), {})
    meaning = re.sub(r"\s*\([^)]*\)", "", str(source.get("CodeMeaning", ""))).strip()
    value = str(source.get("CodeValue", "")).strip()
    code = _CODE.fullmatch(value)
    lead = _LEAD_OF_CODE.get(int(code[1])) if code else lead_of(value)
    stated = lead_of(meaning)
    if lead and stated and lead != stated:
        raise EtpError(f"lead names: a channel of {path.name} is {lead} by its code and {stated} by its name")
    return lead or meaning or str(definition.get("ChannelLabel", "")).strip()


def _unit(definition: Any) -> str:
    units = next(iter(definition.get("ChannelSensitivityUnitsSequence") or ()), {})
    return str(units.get("CodeValue", "")).strip()


def _skew(definition: Any, fs: float) -> float:
    """Returns how many samples after the start of the group the first sample of a channel was taken."""
    seconds = sum(float(definition.get(name) or 0) for name in ("ChannelTimeSkew", "ChannelOffset"))
    return float(definition.get("ChannelSampleSkew") or 0) + seconds * fs


def _scale(path: Path, definition: Any, name: str) -> tuple[float, float]:
    """Returns units per stored unit, and the value of a stored 0 in units."""
    gain = float(definition.get("ChannelSensitivity") or 0)
    correction = definition.get("ChannelSensitivityCorrectionFactor")
    gain *= 1.0 if correction is None else float(correction)
    if gain == 0 or not np.isfinite(gain):
        raise EtpError(f"gain: lead {name} of {path.name} has no sensitivity")
    return gain, float(definition.get("ChannelBaseline") or 0)


def _padding(group: Any, dtype: np.dtype[Any]) -> int | None:
    """Returns the stored value that marks a missing sample, or None."""
    value = group.get("WaveformPaddingValue")
    return int(np.frombuffer(value, dtype)[0]) if isinstance(value, bytes) else value
