"""Draws the ECG of `ecg_svg` as PNG, with matplotlib."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from etp_jax.ecg.leads import Highlight
from etp_jax.files import whole_file
from etp_jax.report.ecg_svg import LEFT, MARGIN, MM, ROW, ROWS, SECOND, drawn_samples, strips

DPI = 150
INCH = 2540
"""Number of drawing units per inch."""
FOOT = 12 * MM
"""Height of the text below the leads."""


def write_png(
    file: Path,
    ecg_TL: NDArray[np.int16],
    lead_mask_L: NDArray[np.bool_],
    leads: Sequence[str],
    fs: int,
    caption: str,
    highlight: Highlight,
) -> None:
    """Draws an ECG at its true size, 25 mm/s and 10 mm/mV.

    Args:
      file: file to write.
      ecg_TL: [T, leads] int16, µV.
      lead_mask_L: [leads] bool.
      leads: names of the columns.
      fs: sampling rate, Hz.
      caption: lines below the drawing.
      highlight: leads and seconds to mark.
    """
    width = LEFT + max(round(drawn_samples(ecg_TL, fs) / fs * SECOND), 10 * MM) + MARGIN
    height = 2 * MARGIN + ROW * (len(ROWS) + 1)
    figure = Figure((width / INCH, (height + FOOT) / INCH), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, width), ylim=(height + FOOT, 0))
    axes.set_axis_off()
    for second in highlight.seconds:
        axes.fill_between([LEFT + second * SECOND, LEFT + (second + 1) * SECOND], 0, height, color="#fff3c4")
    for step, colour, line in ((MM, "#f6d9d5", 0.3), (5 * MM, "#e8aaa3", 0.5)):
        axes.hlines(np.arange(0, height + 1, step), 0, width, colour, linewidth=line)
        axes.vlines(np.arange(0, width + 1, step), 0, height, colour, linewidth=line)
    for strip in strips(ecg_TL, lead_mask_L, leads, fs):
        baseline = MARGIN + strip.row * ROW + ROW // 2
        colour = "#0072b2" if strip.lead in highlight.leads else "#10131a"
        left = LEFT + strip.start / fs * SECOND
        axes.text(left + MM, baseline - 10 * MM, strip.lead, color=colour, fontsize=9)
        if strip.microvolt is None:
            axes.text(left + MM, baseline, "not recorded", fontsize=9)
        else:
            x = left + np.arange(len(strip.microvolt)) / fs * SECOND
            axes.plot(x, baseline - strip.microvolt, color=colour, linewidth=0.8)
    axes.text(MM, height + MM, f"25 mm/s · 10 mm/mV · {fs} Hz\n{caption}", fontsize=8, verticalalignment="top")
    with whole_file(file) as stream:
        FigureCanvasAgg(figure).print_png(stream)
