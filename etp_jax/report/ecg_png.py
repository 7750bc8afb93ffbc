"""Draws the ECG of `ecg_paper` as PNG, with matplotlib."""

from __future__ import annotations

import textwrap
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etp_jax.ecg.leads import Highlight
from etp_jax.files import whole_file
from etp_jax.plain import plain, plain_line
from etp_jax.report.ecg_paper import LEFT, LETTER, MM, SECOND, Paper

DPI = 150
INCH = 2540
"""Number of drawing units per inch."""
LINE = round(4.5 * MM)
"""Height of a line of the text below the leads."""


def write_png(file: Path, paper: Paper, caption: str, highlight: Highlight) -> None:
    """Draws an ECG at its true size, 25 mm/s and the paper's gain.

    Args:
      file: file to write.
      paper: the ECG, laid out.
      caption: lines below the drawing; lines wider than the paper are wrapped.
      highlight: leads and seconds to mark.
    """
    text = [
        line
        for part in plain(f"{paper.scale}\n{caption}").splitlines()
        for line in textwrap.wrap(part, (paper.width - 2 * MM) // LETTER)
    ]
    foot = LINE * len(text) + 2 * MM
    figure = Figure((paper.width / INCH, (paper.height + foot) / INCH), dpi=DPI)
    axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
    axes.set(xlim=(0, paper.width), ylim=(paper.height + foot, 0))
    axes.set_axis_off()
    for x, y, width, height in (box for second in highlight.seconds for box in paper.marked(second)):
        axes.fill_between([x, x + width], y, y + height, color="#fff3c4", linewidth=0)
    for step, colour, line in ((MM, "#f6d9d5", 0.3), (5 * MM, "#e8aaa3", 0.5)):
        axes.hlines(np.arange(0, paper.height + 1, step), 0, paper.width, colour, linewidth=line)
        axes.vlines(np.arange(0, paper.width + 1, step), 0, paper.height, colour, linewidth=line)
    for band in paper.bands:  # a calibration pulse of 1 mV for 200 ms
        x = LEFT - 10 * MM + np.cumsum([0, 2 * MM, 0, SECOND // 5, 0, 2 * MM])
        axes.plot(x, band.baseline - paper.gain * MM * np.array([0, 0, 1, 1, 0, 0]), color="#10131a", linewidth=0.8)
    for strip in paper.strips:
        colour = "#0072b2" if strip.lead in highlight.leads else "#10131a"
        axes.text(*strip.label, plain_line(strip.lead), color=colour, fontsize=9, parse_math=False)
        if strip.missing:
            axes.text(strip.label[0], paper.bands[strip.row].baseline, strip.missing, fontsize=9)
        else:
            axes.plot(strip.x, strip.y, color=colour, linewidth=0.8)
    axes.text(
        MM, paper.height + MM, "\n".join(text), fontsize=8, linespacing=1.25, verticalalignment="top", parse_math=False
    )
    with whole_file(file) as stream:
        FigureCanvasAgg(figure).print_png(stream)
