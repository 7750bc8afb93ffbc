"""WFDB records written by hand, as archives write them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import soundfile

LEADS = ("I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6")


def write_record(
    path: Path,
    samples: np.ndarray,
    leads: Sequence[str] = LEADS,
    *,
    fs: float = 500,
    format: str = "16",
    gain: str = "1000/mV",
    suffix: str = "dat",
    comments: Sequence[str] = (),
) -> Path:
    """Writes [T, leads] whole numbers, after 24 bytes if the format says `+24`; returns the path."""
    file = f"{path.name}.{suffix}"
    lines = [f"{path.name} {len(leads)} {fs:g} {len(samples)}"]
    sums = samples.sum(axis=0, dtype=np.int64).astype(np.int16)
    lines += [
        f"{file} {format} {gain} 16 0 {first} {total} 0 {lead}"
        for first, total, lead in zip(samples[0], sums, leads, strict=True)
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_name(f"{path.name}.hea").write_text("\n".join([*lines, *comments]) + "\n", encoding="utf-8")
    data = samples.astype("<i4" if format.startswith("32") else "<i2").tobytes()
    path.with_name(file).write_bytes(bytes(24 if format.endswith("+24") else 0) + data)
    return path


def write_flac(path: Path, samples: np.ndarray, *, fs: int, bits: int = 16, gain: str = "1000/mV") -> None:
    """Writes [T, 12] whole numbers into two FLAC files, which hold at most eight channels."""
    lines = [f"{path.name} 12 {fs} {len(samples)}"]
    for first in (0, 8):
        part, file = samples[:, first : first + 8], f"{path.name}{'' if first == 0 else '_2'}.dat"
        high = part.astype(np.int32) << (32 - bits)  # soundfile keeps the highest bits
        kind = {8: "PCM_S8", 16: "PCM_16", 24: "PCM_24"}[bits]
        lines += [f"{file} {500 + bits} {gain} {bits} 0 0 0 0 {lead}" for lead in LEADS[first : first + 8]]
        soundfile.write(path.with_name(file), high, fs, subtype=kind, format="FLAC")
    path.with_name(f"{path.name}.hea").write_text("\n".join(lines) + "\n", encoding="utf-8")


def wave(samples: int, leads: int, seed: int = 0) -> np.ndarray:
    """[samples, leads] int16: noise about a sine, a height of its own for every lead."""
    heights = 200 * (1 + np.arange(leads))
    noise = np.random.default_rng(seed).integers(-50, 50, (samples, leads))
    return (np.sin(np.arange(samples) / 30)[:, None] * heights + noise).astype(np.int16)
