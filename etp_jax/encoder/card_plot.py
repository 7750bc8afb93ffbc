"""The plots of a model card, drawn with matplotlib."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from etp_jax.files import whole_file
from etp_jax.plain import plain

DPI = 150
BLUE, GREY = "#0072b2", "#8a949d"


def draw(path: Path, parts: dict[str, dict[str, Any]], reliability: dict[str, list[list[float]]]) -> None:
    """Draws the figures of parts with their intervals, and a reliability diagram where calibration was measured.

    Args:
      path: PNG file to write.
      parts: figures by group or condition, as in a result file.
      reliability: bins by class code, each [records, mean probability, share with the class]; may be empty.
    """
    panels = 2 if reliability else 1
    figure = Figure((5 * panels + 1, max(3.0, 0.3 * len(parts) + 1)), dpi=DPI, layout="constrained")
    axes: Any = figure.subplots(1, panels, squeeze=False)[0]
    _draw_parts(axes[0], parts)
    if reliability:
        _draw_reliability(axes[1], reliability)
    path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        FigureCanvasAgg(figure).print_png(file)


def _draw_parts(axes: Axes, parts: dict[str, dict[str, Any]]) -> None:
    for place, part in enumerate(parts.values()):
        ends = [part["auroc_low"], part["auroc_high"]]
        if part["auroc"] is None:
            axes.text(0.02, place, "no figure", transform=axes.get_yaxis_transform(), color=GREY, va="center")
            continue
        axes.plot(part["auroc"], place, "o", color=BLUE)
        if None not in ends:
            axes.plot(ends, [place, place], color=BLUE, linewidth=1.5)
    axes.set_yticks(range(len(parts)), list(map(plain, parts)), parse_math=False)
    axes.set_ylim(len(parts) - 0.5, -0.5)
    axes.set_xlabel("macro-AUROC")
    axes.grid(axis="x", color="#e3e8ec")


def _draw_reliability(axes: Axes, reliability: dict[str, list[list[float]]]) -> None:
    axes.plot([0, 1], [0, 1], ":", color=GREY)
    for code, bins in reliability.items():
        axes.plot([row[1] for row in bins], [row[2] for row in bins], "o-", markersize=3, label=plain(code))
    axes.set(xlabel="mean probability of the bin", ylabel="share of records with the class", aspect="equal")
    if len(reliability) <= 12:
        axes.legend(frameon=False, fontsize=8)
