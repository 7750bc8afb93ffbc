"""The layout of an ECG on ECG paper: where each lead, its name and the highlighted seconds are drawn.

The unit is 0.01 mm. At 25 mm/s and 10 mm/mV, one microvolt is one unit upwards, and one second 2,500 to the right. Rows
are as far apart as their signals need. If one of them would be too tall, the gain of the whole drawing is halved, as in
electrocardiographs. Nothing is clipped, and no signal crosses a neighbouring row or the name of a lead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import LEADS

SECONDS = 10.0
"""Maximum duration that is drawn, in seconds; of a longer record, the beginning."""
MM = 100
"""Number of drawing units per millimetre."""
SECOND = 25 * MM
"""Number of drawing units per second, at 25 mm/s."""
GAINS = (10.0, 5.0, 2.5)
"""Gains, in mm/mV, of which the first is used that fits; see `TALLEST`."""
TALLEST = 60 * MM
"""Maximum height of the signals in a row, at all gains but the last."""
ABOVE, BELOW = 10 * MM, 15 * MM
"""Minimum space above and below the baseline of a row."""
LABEL = 5 * MM
"""Height of a lead's name, with its margins."""
LABEL_WIDTH = 12 * MM
"""Width of a lead's name, with its margins."""
GAP = 1 * MM
"""Minimum distance of a signal from a name and from the edge of its row."""
LEFT = 15 * MM
"""Width left of the leads, for the calibration pulse."""
MARGIN = 5 * MM
LETTER = round(1.75 * MM)
"""Mean width of a letter, rounded up."""
NOT_RECORDED = "not recorded"
TOO_NARROW = "–"
"""Shown for a missing lead whose place is too narrow for the reason."""


@dataclass(frozen=True)
class Row:
    """Leads that share a baseline, one after the other; each has the same share of the row's time."""

    leads: tuple[str, ...]
    """Names of the leads; an empty tuple is the rhythm strip: lead II, or the first one that was recorded."""
    start: float = 0.0
    """Start of the row, as a share of the drawn time."""
    stop: float = 1.0
    """End of the row, as a share of the drawn time."""


WIDE = (Row(("I", "aVR", "V1", "V4")), Row(("II", "aVL", "V2", "V5")), Row(("III", "aVF", "V3", "V6")), Row(()))
"""The usual sheet: three rows of four leads, and a rhythm strip."""
NARROW = (
    *(Row(pair, stop=0.5) for pair in zip(LEADS[:6], LEADS[6:], strict=True)),
    Row((), stop=0.5),
    Row((), start=0.5),
)
"""The sheet for a phone: six rows of two leads from the first half of the time, and a rhythm strip in two rows."""
TALL = tuple(Row((lead,)) for lead in LEADS)
"""The sheet for a short record: each lead in a row of its own, from beginning to end."""
SHORT = 5.0
"""Duration in seconds up to which a record is short: a quarter of it, as on the usual sheet, may hold no whole beat."""


def sheets(seconds: float) -> tuple[Sequence[Row], Sequence[Row]]:
    """Returns the sheets, for paper and for a phone, of a record of some duration."""
    return (TALL, TALL) if seconds <= SHORT else (WIDE, NARROW)


@dataclass(frozen=True, eq=False)
class Strip:
    """The part of a lead that is drawn in one place."""

    lead: str
    row: int
    x: NDArray[np.int64]
    """Horizontal position of each sample; empty for a lead without a signal."""
    y: NDArray[np.int64]
    """Vertical position of each sample, downwards."""
    label: tuple[int, int]
    """Left end of the base line of the lead's name."""
    missing: str
    """Why there is no signal; empty if there is one."""


@dataclass(frozen=True)
class Band:
    """The area of one row, over the whole width of the paper."""

    top: int
    bottom: int
    baseline: int
    start: float
    """Time of the row's left end, in seconds."""
    stop: float
    """Time of the row's right end, in seconds."""


@dataclass(frozen=True, eq=False)
class Paper:
    """A laid-out ECG."""

    width: int
    height: int
    gain: float
    """Gain, in mm/mV."""
    fs: float
    """Sampling rate of the signal, in Hz."""
    bands: tuple[Band, ...]
    """Area of each row, from top to bottom."""
    strips: tuple[Strip, ...]
    """Leads in the order of drawing."""

    @property
    def scale(self) -> str:
        """Paper speed, gain and sampling rate in words."""
        half = "" if self.gain == GAINS[0] else f" (reduced: the signal is too large for {GAINS[0]:g} mm/mV)"
        return f"25 mm/s · {self.gain:g} mm/mV{half} · {self.fs:g} Hz"

    def marked(self, second: int) -> list[tuple[int, int, int, int]]:
        """Rectangles (x, y, width, height) of a second, one in each row that shows it."""
        found = []
        for band in self.bands:
            start, stop = max(second, band.start), min(second + 1, band.stop)
            if start < stop:
                x = LEFT + round((start - band.start) * SECOND)
                found.append((x, band.top, round((stop - start) * SECOND), band.bottom - band.top))
        return found


def lay_out(
    ecg_TL: NDArray[np.int16],
    lead_mask_L: NDArray[np.bool_],
    leads: Sequence[str],
    fs: float,
    layout: Sequence[Row] = WIDE,
    unusable: Mapping[str, str] | None = None,
) -> Paper:
    """Places an ECG on paper.

    Args:
      ecg_TL: [T, leads] int16, µV. Each lead is centred on its median, as by a recorder's high-pass filter.
      lead_mask_L: [leads] bool; a lead that is false here, or that `leads` lacks, is drawn as text.
      leads: Lead names, in the order of the columns. Any that is no standard lead is drawn in a row of its own.
      fs: Sampling rate in Hz.
      layout: Rows from top to bottom.
      unusable: Why a lead is not drawn, by lead; by default it was not recorded.
    """
    samples = min(len(ecg_TL), round(SECONDS * fs))
    drawn = [(lead, ecg_TL[:samples, place]) for place, lead in enumerate(leads) if lead_mask_L[place]]
    signals = {lead: signal_T.astype(np.int64) - round(float(np.median(signal_T))) for lead, signal_T in drawn}
    rows = [*layout, *(Row((lead,)) for lead in leads if lead not in LEADS)]
    rhythm = next((lead for lead in ("II", *leads) if lead in signals), "II")
    cut = [_cut(row, rhythm, samples) for row in rows]
    reach = [_reach(parts, signals) for parts in cut]
    fitting = [gain for gain in GAINS if all((up + down) * gain / GAINS[0] <= TALLEST for up, down in reach)]
    gain = fitting[0] if fitting else GAINS[-1]
    bands, strips, top, width = [], [], MARGIN, 10 * MM
    for number, (row, parts, (up, down)) in enumerate(zip(rows, cut, reach, strict=True)):
        baseline = top + LABEL + max(ABOVE, round(up * gain / GAINS[0]) + GAP)
        bottom = baseline + max(BELOW, round(down * gain / GAINS[0]) + GAP)
        bands.append(Band(top, bottom, baseline, row.start * samples / fs, row.stop * samples / fs))
        for lead, start, stop in parts:
            origin = LEFT - round(parts[0][1] / fs * SECOND)
            x = origin + np.rint(np.arange(start, stop) / fs * SECOND).astype(np.int64)
            left, label = origin + round(start / fs * SECOND), baseline - 10 * MM
            if lead not in signals:
                missing = (unusable or {}).get(lead, NOT_RECORDED)
                if len(missing) * LETTER > (stop - start) / fs * SECOND:
                    missing = TOO_NARROW
                strips.append(Strip(lead, number, x[:0], x[:0], (left + MM, label), missing))
                continue
            y = baseline - np.rint(signals[lead][start:stop] * (gain / GAINS[0])).astype(np.int64)
            beside = y[x <= left + LABEL_WIDTH]
            strips.append(Strip(lead, number, x, y, (left + MM, min(label, int(beside.min()) - GAP)), ""))
        top, width = bottom, max(width, round((parts[-1][2] - parts[0][1]) / fs * SECOND))
    return Paper(LEFT + width + MARGIN, top + MARGIN, gain, fs, tuple(bands), tuple(strips))


def _cut(row: Row, rhythm: str, samples: int) -> list[tuple[str, int, int]]:
    """Name, first sample and end of each lead of a row."""
    names = row.leads or (rhythm,)
    edges = (np.linspace(row.start, row.stop, len(names) + 1) * samples).round().astype(int).tolist()
    return list(zip(names, edges[:-1], edges[1:], strict=True))


def _reach(parts: Sequence[tuple[str, int, int]], signals: Mapping[str, NDArray[np.int64]]) -> tuple[int, int]:
    """How far the signals of a row extend above and below the baseline, in microvolts."""
    cut = [signals[lead][start:stop] for lead, start, stop in parts if lead in signals]
    return max((int(part.max(initial=0)) for part in cut), default=0), max(
        (-int(part.min(initial=0)) for part in cut), default=0
    )
