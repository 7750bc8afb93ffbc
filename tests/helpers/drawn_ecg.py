"""ECGs drawn from triangles and bumps, so that every interval and amplitude is known."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from etp_jax.ecg.leads import LEADS
from etp_jax.shards.record import Record

FS, SECONDS = 500, 10
LIMB = {"I": (1.0, 0.0), "II": (0.5, 0.75**0.5), "III": (-0.5, 0.75**0.5)}
LIMB |= {"aVR": (-0.75, -0.25 * 3**0.5), "aVL": (0.75, -0.25 * 3**0.5), "aVF": (0.0, 0.75**0.5)}
"""What each limb lead sees of a dipole to the left and to the feet: Einthoven's triangle."""


def draw(
    rate: float = 75,
    pr: float = 160,
    qrs: float = 100,
    axis: float = 45,
    r: float = 1000,
    st: Mapping[str, float] | None = None,
    t: Mapping[str, float] | None = None,
    chest: Mapping[str, float] | None = None,
    with_p: bool = True,
    times: list[float] | None = None,
    **fields: object,
) -> Record:
    """A record at 500 Hz.

    Args:
      rate: beats a minute.
      pr: ms, from the beginning of P (90 ms wide) to that of the QRS.
      qrs: ms, two triangles.
      axis: degrees.
      r: µV, size of the QRS in the frontal plane.
      st: µV from the end of the QRS to the T wave, by lead.
      t: µV, by lead; else 250.
      chest: µV of the QRS in chest leads; else `r`.
      with_p: whether there are P waves; else there is noise in their place.
      times: seconds of the QRS complexes; else by the rate.
      fields: of the record.
    """
    times = times or list(np.arange(0.6, SECONDS - 0.5, 60 / rate))
    ecg = np.zeros((FS * SECONDS, len(LEADS)))
    seconds = np.arange(len(ecg)) / FS
    rng = np.random.default_rng(0)
    direction = np.cos(np.radians(axis)), np.sin(np.radians(axis))
    for column, lead in enumerate(LEADS):
        size = r * float(np.dot(LIMB[lead], direction)) if lead in LIMB else (chest or {}).get(lead, r)
        for time in times:
            start = time - qrs / 2000
            # Notched, as wide complexes are.
            ecg[:, column] += size * _triangle(seconds, start, start + 0.6 * qrs / 1000)
            ecg[:, column] += 0.8 * size * _triangle(seconds, start + 0.5 * qrs / 1000, start + qrs / 1000)
            if with_p:
                upright = -1 if lead == "aVR" else 1
                ecg[:, column] += 120 * upright * _bump(seconds, start - pr / 1000, start - pr / 1000 + 0.09)
            end = start + qrs / 1000
            height = (t or {}).get(lead, -250 if lead == "aVR" else 250)
            ecg[:, column] += height * _bump(seconds, end + 0.1, end + 0.3)
            ecg[:, column] += (st or {}).get(lead, 0) * ((seconds >= end) & (seconds < end + 0.1))
    ecg += rng.normal(0, 4, ecg.shape) if with_p else rng.normal(0, 25, ecg.shape)
    values = {
        "ecg": np.round(ecg).astype(np.int16),
        "lead_mask": np.ones(len(LEADS), bool),
        "record_id": "drawn",
        "patient_id": "nobody",
        "report": "",
        "report_original": "",
        "statements": (),
        "labels": (),
        "likelihoods": (),
        "age": 50.0,
        "sex": "",
        "dataset": "drawn",
    }
    return Record(**{**values, **fields})  # pyright: ignore[reportArgumentType]


def _triangle(seconds: np.ndarray, start: float, end: float) -> np.ndarray:
    middle = (start + end) / 2
    return np.clip(1 - np.abs(seconds - middle) / (middle - start), 0, None)


def _bump(seconds: np.ndarray, start: float, end: float) -> np.ndarray:
    phase = np.clip((seconds - start) / (end - start), 0, 1)
    return np.sin(np.pi * phase) ** 2
