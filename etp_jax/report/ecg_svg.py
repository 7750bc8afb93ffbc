"""A 12-lead ECG drawn on ECG paper, as SVG: 25 mm/s, 10 mm/mV, 3 rows of 4 leads and a rhythm strip.

The drawing's unit is 0.01 mm. So one microvolt is one unit upwards, one sample at 100 Hz is 25 units to the right, and
the stored integers are written to the page unchanged. Colours come from the page's style sheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight

ROWS = (("I", "aVR", "V1", "V4"), ("II", "aVL", "V2", "V5"), ("III", "aVF", "V3", "V6"))
RHYTHM = "II"
SECONDS = 10.0
"""Maximum duration that is drawn, in seconds; of a longer record, the beginning."""
MM = 100
"""Number of drawing units per millimetre."""
SECOND = 25 * MM
"""Number of drawing units per second, at 25 mm/s."""
MILLIVOLT = 10 * MM
"""Number of drawing units per millivolt, at 10 mm/mV; one microvolt is one unit."""
ROW = 30 * MM
"""Distance between the baselines of two rows."""
LEFT = 15 * MM
"""Width left of the leads, for the calibration pulse."""
MARGIN = 5 * MM
NO_HIGHLIGHT = Highlight()


@dataclass(frozen=True, eq=False)
class Strip:
    """The part of a lead that is drawn in one place."""

    lead: str
    row: int
    start: int
    """Index of the first sample of this part."""
    microvolt: NDArray[np.int64] | None
    """Signal minus the lead's median, µV, as a recorder's high-pass filter would centre it; None: not recorded."""


def draw_ecg(
    ecg_TL: NDArray[np.int16],
    lead_mask_L: NDArray[np.bool_],
    leads: Sequence[str],
    fs: int,
    name: str,
    highlight: Highlight = NO_HIGHLIGHT,
) -> str:
    """Draws one ECG on ECG paper.

    Args:
      ecg_TL: [T, leads] int16, µV.
      lead_mask_L: [leads] bool; a lead that is false here, or that `leads` lacks, is drawn as "not recorded".
      leads: Lead names, in the order of the columns.
      fs: Sampling rate in Hz.
      name: What the drawing shows, read out by screen readers.
      highlight: Leads and seconds to mark.

    Returns:
      An `<svg>` element whose viewBox is in units of 0.01 mm.
    """
    samples = drawn_samples(ecg_TL, fs)
    width = LEFT + max(round(samples / fs * SECOND), 10 * MM) + MARGIN
    height = 2 * MARGIN + ROW * (len(ROWS) + 1)
    parts = [
        f'<rect class="second" x="{LEFT + s * SECOND}" width="{SECOND}" height="{height}"/>' for s in highlight.seconds
    ]
    parts.append(_grid(width, height))
    parts += [_calibration_pulse(_baseline(row)) for row in range(len(ROWS) + 1)]
    parts += [_lead(strip, fs, strip.lead in highlight.leads) for strip in strips(ecg_TL, lead_mask_L, leads, fs)]
    parts.append(_text(MM, height - MM, f"25 mm/s · 10 mm/mV · {fs} Hz"))
    return (
        f'<svg class="ecg" role="img" aria-label="{escape(name)}" viewBox="0 0 {width} {height}"'
        f' style="max-width:{width / MM:g}mm">{"".join(parts)}</svg>'
    )


def drawn_samples(ecg_TL: NDArray[np.int16], fs: int) -> int:
    """Number of samples that fit on the paper."""
    return min(len(ecg_TL), round(SECONDS * fs))


def strips(ecg_TL: NDArray[np.int16], lead_mask_L: NDArray[np.bool_], leads: Sequence[str], fs: int) -> list[Strip]:
    """Places the leads on the paper; arguments as for `draw_ecg`."""
    samples = drawn_samples(ecg_TL, fs)
    recorded = {lead: ecg_TL[:samples, column] for column, lead in enumerate(leads) if lead_mask_L[column]}
    found = []
    for row, names in enumerate((*ROWS, (RHYTHM,))):
        edges = np.linspace(0, samples, len(names) + 1).round().astype(int)
        for lead, start, stop in zip(names, edges[:-1].tolist(), edges[1:].tolist(), strict=True):
            signal_T, microvolt = recorded.get(lead), None
            if signal_T is not None:
                microvolt = signal_T[start:stop].astype(int) - round(float(np.median(signal_T)))
            found.append(Strip(lead, row, start, microvolt))
    return found


def _baseline(row: int) -> int:
    return MARGIN + row * ROW + ROW // 2


def _grid(width: int, height: int) -> str:
    """Draws fine lines every millimetre, and strong lines every five."""

    def lines(step: int) -> str:
        across = "".join(f"M0 {y}h{width}" for y in range(0, height + 1, step))
        return across + "".join(f"M{x} 0v{height}" for x in range(0, width + 1, step))

    return f'<path class="fine" d="{lines(MM)}"/><path class="strong" d="{lines(5 * MM)}"/>'


def _calibration_pulse(baseline: int) -> str:
    """Draws a pulse of 1 mV for 200 ms."""
    width = SECOND // 5
    return f'<path class="pulse" d="M{5 * MM} {baseline}h200v-{MILLIVOLT}h{width}v{MILLIVOLT}h200"/>'


def _lead(strip: Strip, fs: int, highlight: bool) -> str:
    """Draws the lead's name and its trace at the position of its recording time."""
    left, baseline = LEFT + round(strip.start / fs * SECOND), _baseline(strip.row)
    mark = " highlight" if highlight else ""
    title = _text(left + MM, baseline - 10 * MM, strip.lead, mark)
    if strip.microvolt is None:
        return title + _text(left + MM, baseline, "not recorded")
    x = LEFT + np.rint(np.arange(strip.start, strip.start + len(strip.microvolt)) / fs * SECOND).astype(int)
    y = baseline - strip.microvolt
    steps = " ".join(f"{dx} {dy}" for dx, dy in zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True))
    return f'{title}<path class="trace{mark}" data-lead="{strip.lead}" d="M{x[0]} {y[0]}l{steps}"/>'


def _text(x: int, y: int, text: str, style: str = "") -> str:
    css = f' class="{style.strip()}"' if style else ""
    return f'<text{css} x="{x}" y="{y}">{escape(text)}</text>'
