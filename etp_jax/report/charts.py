"""Small charts as SVG text: curves over training, ROC curves, and bars for table cells.

Colours, dashes and fonts come from the page's style sheet by class name, so that one drawing serves the light and
the dark scheme. Coordinates are rounded to a tenth of a unit, so the same figures always give the same text.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etp_jax.plain import escape

POINTS = 400
"""Maximum number of points of a drawn curve; longer curves are averaged in equal groups."""
WIDTH, HEIGHT = 480, 300
LEFT, RIGHT, TOP, BOTTOM = 56, 12, 12, 46
"""Margins of a chart, in units of the drawing; they contain the axes."""


@dataclass(frozen=True)
class Series:
    """A curve with its name, its class in the style sheet, and its points; NaN in y leaves a gap."""

    name: str
    style: str
    x: NDArray[np.float64]
    y: NDArray[np.float64]


def line_chart(label: str, series: Sequence[Series], x_name: str, y_name: str, from_zero: bool) -> str:
    """Draws curves over a common x axis that starts at 0, without a legend.

    Args:
      label: What the chart shows, read out by screen readers.
      series: Curves, of which at least one has a finite point.
      x_name: Name of the x axis.
      y_name: Name of the y axis.
      from_zero: Whether the y axis starts at 0 too.
    """
    x_ticks = ticks(0.0, max(s.x.max() for s in series))
    finite = np.concatenate([s.y[np.isfinite(s.y)] for s in series])
    y_ticks = ticks(0.0 if from_zero else finite.min(), finite.max())
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM

    def across(x: float) -> float:
        return LEFT + (x - x_ticks[0]) / (x_ticks[-1] - x_ticks[0]) * (right - LEFT)

    def up(y: float) -> float:
        return bottom - (y - y_ticks[0]) / (y_ticks[-1] - y_ticks[0]) * (bottom - TOP)

    parts = [f'<path class="grid" d="{"".join(f"M{LEFT} {up(y):.1f}H{right}" for y in y_ticks)}"/>']
    parts += [f'<text class="end" x="{LEFT - 6}" y="{up(y) + 4:.1f}">{y:g}</text>' for y in y_ticks]
    parts += [f'<text class="middle" x="{across(x):.1f}" y="{bottom + 18}">{x:g}</text>' for x in x_ticks]
    parts.append(f'<text class="middle" x="{(LEFT + right) / 2:g}" y="{HEIGHT - 8}">{escape(x_name)}</text>')
    parts.append(
        f'<text class="middle" transform="translate(14 {(TOP + bottom) / 2:g}) rotate(-90)">{escape(y_name)}</text>'
    )
    for curve in series:
        x, y = thin(curve.x, POINTS), thin(curve.y, POINTS)
        points = [(across(a), up(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        title = f"<title>{escape(curve.name)}</title>"
        parts.append(f'<path class="curve {curve.style}" d="{path(points)}">{title}</path>')
        if len(points) <= 40:
            parts.append(_dots(points, curve.style))
    return _svg("chart", label, WIDTH, HEIGHT, parts)


def roc_chart(label: str, curves: Sequence[tuple[str, NDArray[np.float64], NDArray[np.float64]]]) -> str:
    """Draws ROC curves of one class in a square, each given as (style, false positive rate, true positive rate)."""
    side, low, high = 200, 30, 192

    def spot(x: float, y: float) -> tuple[float, float]:
        return low + x * (high - low), high - low + 8 - y * (high - low)

    corner, top = spot(0, 0), spot(1, 1)
    frame = f"M{corner[0]:g} {corner[1]:g}H{top[0]:g}V{top[1]:g}H{corner[0]:g}Z"
    parts = [f'<path class="grid" d="{frame}"/>', f'<path class="chance" d="{path([corner, top])}"/>']
    for value in (0, 1):
        x, y = spot(value, value)
        parts.append(f'<text class="middle" x="{x:g}" y="{corner[1] + 16:g}">{value}</text>')
        parts.append(f'<text class="end" x="{low - 5}" y="{y + 5:g}">{value}</text>')
    for style, fpr, tpr in curves:
        points = [spot(x, y) for x, y in zip(fpr.tolist(), tpr.tolist(), strict=True)]
        parts.append(f'<path class="curve {style}" d="{path(points)}"/>')
    return _svg("roc", label, side, side - 6, parts)


def bar(style: str, value: float, low: float, high: float, start: float) -> str:
    """Draws a horizontal bar from 0.5 (chance) to `value` with its interval, on an axis from `start` to 1.

    The bar stretches to the width of its table cell, so it contains no text. No interval is drawn for NaN bounds.
    """

    def across(x: float) -> float:
        return (max(x, start) - start) / (1 - start) * 100

    chance = across(0.5)
    left, right = sorted((chance, across(value)))
    parts = [f'<rect class="{style}" x="{left:.1f}" y="2" width="{right - left:.1f}" height="8"/>']
    if math.isfinite(low) and math.isfinite(high):
        parts.append(f'<path class="interval" d="M{across(low):.1f} 6H{across(high):.1f}"/>')
    parts.append(f'<path class="chance" d="M{chance:.1f} 0V12"/>')
    return f'<svg class="bar" aria-hidden="true" viewBox="0 0 100 12" preserveAspectRatio="none">{"".join(parts)}</svg>'


def roc_curve(y: ArrayLike, score: ArrayLike, points: int = 120) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Computes false and true positive rate at every threshold; keeps at most about `points` of them for drawing.

    Args:
      y: [N] bool, with both outcomes.
      score: [N] float, higher means more likely.
      points: Number of points to keep, evenly spaced along the curve's length.
    """
    outcome, value = np.asarray(y, bool), np.asarray(score, np.float64)
    order = np.argsort(-value, kind="stable")
    last_of_ties = np.flatnonzero(np.append(np.diff(value[order]) != 0, True))
    hits = np.cumsum(outcome[order])[last_of_ties]
    tpr = np.append(0, hits) / outcome.sum()
    fpr = np.append(0, last_of_ties + 1 - hits) / (~outcome).sum()
    walked = np.round((tpr + fpr) / 2 * (points - 1))
    kept = np.append(np.diff(walked) != 0, True)
    kept[0] = True
    return fpr[kept], tpr[kept]


def legend(entries: Sequence[tuple[str, str]], swatch: bool = False) -> str:
    """Draws a legend for entries (class in the style sheet, name), each with a sample of its line or bar."""
    drawn = '<rect class="{}" width="32" height="8"/>' if swatch else '<path class="curve {}" d="M0 4H32"/>'
    line = f'<svg aria-hidden="true" viewBox="0 0 32 8">{drawn}</svg>'
    items = "".join(f"<li>{line.format(style)}{escape(name)}</li>" for style, name in entries)
    return f'<ul class="legend">{items}</ul>'


def ticks(low: float, high: float) -> list[float]:
    """Chooses axis ticks that cover `low` to `high`; their distance is 1, 2 or 5 times a power of ten."""
    if high - low < 1e-9 * max(1.0, abs(high)):
        low, high = low - 0.5, high + 0.5
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [float(f"{number * step:.10g}") for number in range(first, last + 1)]


def thin(values: NDArray[np.float64], points: int) -> NDArray[np.float64]:
    """Averages equal groups, so that at most `points` values are left; a group that contains a NaN is NaN."""
    groups = min(points, len(values))
    return np.array([group.mean() for group in np.array_split(values, groups)]) if groups else values


def path(points: Sequence[tuple[float, float]]) -> str:
    """Joins points by lines; the path is interrupted at points that are not finite."""
    commands, joined = [], False
    for x, y in points:
        finite = math.isfinite(x) and math.isfinite(y)
        if finite:
            commands.append(f"{'L' if joined else 'M'}{x:.1f} {y:.1f}")
        joined = finite
    return "".join(commands)


def _dots(points: Sequence[tuple[float, float]], style: str) -> str:
    return "".join(f'<circle class="{style}" cx="{x:.1f}" cy="{y:.1f}" r="3"/>' for x, y in points if math.isfinite(y))


def _svg(style: str, label: str, width: int, height: int, parts: Sequence[str]) -> str:
    return (
        f'<svg class="{style}" role="img" aria-label="{escape(label)}" viewBox="0 0 {width} {height}">'
        f"{''.join(parts)}</svg>"
    )
