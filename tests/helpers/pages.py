"""The figures of pages and of results/: tables by column, cells with intervals, and the lines of the CSV files."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).parents[2]
CELL = re.compile(r"(-?\d\.\d{3})(?: \[(-?\d\.\d{3}), (-?\d\.\d{3})\])?")
LABELS = {"1 %": "0.01", "10 %": "0.1", "100 %": "1.0"}
TASKS = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")
CHOSEN = "honest, --features pooled stages --views 1 8"
"""Protocol of probes that chose among features and views."""


def lines(stem: str, **columns: str) -> list[dict[str, str]]:
    """The lines of a file of results that have the values named."""
    with (ROOT / "results" / f"{stem}.csv").open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    return [row for row in rows if all(row[name] == value for name, value in columns.items())]


def figure(stem: str, **columns: str) -> tuple[str, str, str]:
    """A macro-AUROC and its interval, as pages show them; the mean over seeds where there are several."""
    found = lines(stem, metric="macro_auroc", **columns)
    (row,) = found if len(found) == 1 else [row for row in found if row["seed"] == "mean"]
    return figure_of(row)


def figure_of(row: Mapping[str, str]) -> tuple[str, str, str]:
    """The value and the interval of a line of results, as pages show them."""
    ends = [f"{float(row[end]):.3f}" if row[end] else "" for end in ("value", "low", "high")]
    return ends[0], ends[1], ends[2]


def same(cell: str, expected: Sequence[tuple[str, str, str]]) -> bool:
    """Whether a cell has the figures expected, in order; it may leave out intervals."""
    shown = CELL.findall(cell.replace("*", ""))
    return [value for value, *_ in shown] == [value for value, *_ in expected] and all(
        ends in (["", ""], list(exact)) for (_, *ends), (_, *exact) in zip(shown, expected, strict=True)
    )


def table(page: str, heading: str) -> list[dict[str, str]]:
    """The rows of the first table below a heading, by column."""
    text = (ROOT / page).read_text(encoding="utf-8")
    section = text[text.index(heading) :] if heading else text
    block = re.search(r"^\|(.+)\|\n\|[-|]+\|\n((?:\|.*\|\n)+)", section, re.MULTILINE)
    assert block
    names = [name.strip() for name in block[1].split("|")]
    return [dict(zip(names, map(str.strip, row.strip("|").split("|")), strict=True)) for row in block[2].splitlines()]


def check(rows: Sequence[Mapping[str, str]], expected: Callable[[str, str], list[tuple[str, str, str]]]) -> int:
    """Compares every cell of figures with what is expected of its row and column; returns their number."""
    first, *others = rows[0]
    count = 0
    for row in rows:
        for column in others:
            if CELL.search(row[column]):
                figures = expected(row[first], column)
                assert same(row[column], figures), (row[first], column, row[column], figures)
                count += len(figures)
    return count


def words(page: str) -> str:
    """The text of a page with every run of blanks and line breaks as one blank."""
    return " ".join((ROOT / page).read_text(encoding="utf-8").split())
