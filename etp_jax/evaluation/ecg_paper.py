"""A 12-lead ECG drawn on ECG paper, as SVG: 25 mm/s, 10 mm/mV, 3 rows of 4 leads and a rhythm strip.

The drawing's unit is 0.01 mm. So a microvolt is one unit upwards, a sample at 100 Hz is 25 units to the right, and the
stored integers reach the page as they are. Colours come from the page's style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np
from numpy.typing import NDArray

ROWS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
RHYTHM = "II"
SECONDS = 10.0
"""Longest stretch that is drawn; a longer record shows its beginning."""
MM = 100
"""Units a millimetre."""
SECOND = 25 * MM
"""Units a second: 25 mm/s."""
MILLIVOLT = 10 * MM
"""Units a millivolt: 10 mm/mV, so a microvolt is one unit."""
ROW = 30 * MM
"""Distance between the baselines of two rows."""
LEFT = 15 * MM
"""Room for the calibration pulse left of the leads."""
MARGIN = 5 * MM


def draw_ecg(
    ecg_TL: NDArray[np.int16], lead_mask_L: NDArray[np.bool_], leads: Sequence[str], fs: int, name: str
) -> str:
    """One ECG on paper. Each lead is drawn about its median, as a recorder's high-pass filter would centre it.

    Args:
      ecg_TL: [T, leads] int16, µV.
      lead_mask_L: [leads] bool; a lead that is false here, or that `leads` lacks, is drawn as "not recorded".
      leads: Lead names, in the order of the columns.
      fs: Sampling rate in Hz.
      name: What the drawing shows, read out by screen readers.

    Returns:
      An `<svg>` element whose viewBox is in units of 0.01 mm.
    """
    samples = min(len(ecg_TL), round(SECONDS * fs))
    width = LEFT + max(round(samples / fs * SECOND), 10 * MM) + MARGIN
    height = 2 * MARGIN + ROW * (len(ROWS) + 1)
    recorded = {lead: ecg_TL[:samples, column] for column, lead in enumerate(leads) if lead_mask_L[column]}
    parts = [_grid(width, height)]
    for row, names in enumerate((*ROWS, (RHYTHM,))):
        baseline = MARGIN + row * ROW + ROW // 2
        parts.append(_calibration_pulse(baseline))
        edges = np.linspace(0, samples, len(names) + 1).round().astype(int)
        for lead, start, stop in zip(names, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            parts.append(_lead(lead, recorded.get(lead), start, stop, fs, baseline))
    parts.append(_text(MM, height - MM, f"25 mm/s · 10 mm/mV · {fs} Hz"))
    return (
        f'<svg class="ecg" role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}"'
        f' style="max-width:{width / MM:g}mm">{"".join(parts)}</svg>'
    )


def _grid(width: int, height: int) -> str:
    """Fine lines every millimetre, strong ones every five."""

    def lines(step: int) -> str:
        across = "".join(f"M0 {y}h{width}" for y in range(0, height + 1, step))
        return across + "".join(f"M{x} 0v{height}" for x in range(0, width + 1, step))

    return f'<path class="fine" d="{lines(MM)}"/><path class="strong" d="{lines(5 * MM)}"/>'


def _calibration_pulse(baseline: int) -> str:
    """1 mV for 200 ms."""
    width = SECOND // 5
    return f'<path class="pulse" d="M{5 * MM} {baseline}h200v-{MILLIVOLT}h{width}v{MILLIVOLT}h200"/>'


def _lead(lead: str, signal_T: NDArray[np.int16] | None, start: int, stop: int, fs: int, baseline: int) -> str:
    """The lead's name and its trace between two samples, placed by the time at which it was recorded."""
    left = LEFT + round(start / fs * SECOND)
    title = _text(left + MM, baseline - 10 * MM, lead)
    if signal_T is None:
        return title + _text(left + MM, baseline, "not recorded")
    microvolt = signal_T.astype(int) - round(float(np.median(signal_T)))
    x = LEFT + np.rint(np.arange(start, stop) / fs * SECOND).astype(int)
    y = baseline - microvolt[start:stop]
    steps = " ".join(f"{dx} {dy}" for dx, dy in zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True))
    return f'{title}<path class="trace" data-lead="{lead}" d="M{x[0]} {y[0]}l{steps}"/>'


def _text(x: int, y: int, text: str) -> str:
    return f'<text x="{x}" y="{y}">{escape(text)}</text>'
