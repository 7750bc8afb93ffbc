"""A 12-lead ECG drawn on ECG paper, as SVG; `ecg_paper` lays it out. Colours come from the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight
from etp_jax.plain import escape
from etp_jax.report.ecg_paper import LEFT, MM, SECOND, WIDE, Paper, Row, Strip, lay_out

NO_HIGHLIGHT = Highlight()


def draw_ecg(
    ecg_TL: NDArray[np.int16],
    lead_mask_L: NDArray[np.bool_],
    leads: Sequence[str],
    fs: float,
    name: str,
    highlight: Highlight = NO_HIGHLIGHT,
    layout: Sequence[Row] = WIDE,
    unusable: Mapping[str, str] | None = None,
) -> str:
    """Draws one ECG on ECG paper.

    Args:
      ecg_TL: [T, leads] int16, µV.
      lead_mask_L: [leads] bool; a lead that is false here, or that `leads` lacks, is drawn as "not recorded".
      leads: Lead names, in the order of the columns.
      fs: Sampling rate in Hz.
      name: What the drawing shows, read out by screen readers.
      highlight: Leads and seconds to mark.
      layout: Rows from top to bottom.
      unusable: Why a lead is not drawn, by lead, instead of "not recorded".

    Returns:
      An `<svg>` element whose viewBox is in units of 0.01 mm.
    """
    paper = lay_out(ecg_TL, lead_mask_L, leads, fs, layout, unusable)
    parts = [
        f'<rect class="second" data-second="{second}" x="{x}" y="{y}" width="{width}" height="{height}"/>'
        for second in highlight.seconds
        for x, y, width, height in paper.marked(second)
    ]
    parts.append(_grid(paper.width, paper.height))
    parts += [_calibration_pulse(band.baseline, paper.gain) for band in paper.bands]
    parts += [_lead(strip, paper, strip.lead in highlight.leads) for strip in paper.strips]
    parts.append(_text(MM, paper.height - MM, paper.scale))
    return (
        f'<svg class="ecg" role="img" aria-label="{escape(name)}" viewBox="0 0 {paper.width} {paper.height}"'
        f' style="max-width:{paper.width / MM:g}mm">{"".join(parts)}</svg>'
    )


def _grid(width: int, height: int) -> str:
    """Draws fine lines every millimetre, and strong lines every five."""

    def lines(step: int) -> str:
        across = "".join(f"M0 {y}h{width}" for y in range(0, height + 1, step))
        return across + "".join(f"M{x} 0v{height}" for x in range(0, width + 1, step))

    return f'<path class="fine" d="{lines(MM)}"/><path class="strong" d="{lines(5 * MM)}"/>'


def _calibration_pulse(baseline: int, gain: float) -> str:
    """Draws a pulse of 1 mV for 200 ms."""
    width, height = SECOND // 5, round(gain * MM)
    return f'<path class="pulse" d="M{LEFT - 10 * MM} {baseline}h200v-{height}h{width}v{height}h200"/>'


def _lead(strip: Strip, paper: Paper, highlight: bool) -> str:
    """Draws the lead's name and its trace at the position of its recording time."""
    mark = " highlight" if highlight else ""
    title = _text(*strip.label, strip.lead, f"lead{mark}")
    if strip.missing:
        return title + _text(strip.label[0], paper.bands[strip.row].baseline, strip.missing)
    x, y = strip.x, strip.y
    steps = " ".join(f"{dx} {dy}" for dx, dy in zip(np.diff(x).tolist(), np.diff(y).tolist(), strict=True))
    return f'{title}<path class="trace{mark}" data-lead="{strip.lead}" d="M{x[0]} {y[0]}l{steps}"/>'


def _text(x: int, y: int, text: str, style: str = "") -> str:
    css = f' class="{style}"' if style else ""
    return f'<text{css} x="{x}" y="{y}">{escape(text)}</text>'
