"""The table of a study as JSON, CSV, Markdown and HTML.

The JSON holds all that the others show:
    title, study, split, checkpoint, shards, bootstrap, versions
    rows: run, encoder ("trained", "random", "supervised", "published"), pretrained_on, kind, how (prompts, or the
        protocol), task, fraction (of the training labels), status ("measured", "failed", "not run", "published"),
        records, classes, classes_fitted (of them, with both outcomes in what was fitted, a mean), seeds, planned_seeds,
        values: by metric {mean, patients: {low, high}, seeds: {low, high} or null, by_seed}, of published rows also
        source
    comparisons: pair, kind, how, task, fraction, metric, common_seeds, the same four of the difference,
        p: {patients, seeds}
    failed: what went wrong, by its name
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from etp_jax import __version__
from etp_jax.files import write_text
from etp_jax.report import html
from etp_jax.report.results import KINDS, metric_name

ENDINGS = ("json", "csv", "md", "html")
LEGEND = (
    "Means over training seeds. In brackets: 95 % bootstrap over patients, seeds held fixed. After ±: half of the 95 % "
    "interval over seeds (Student's t), patients held fixed; none of a single seed. In parentheses: how many of the "
    "classes have both outcomes in the labels that were fitted, mean over subsets, where not all; a class without is "
    "scored by chance. Published figures are quoted from where the row says; the data they were "
    "pre-trained on, records and protocols differ."
)
CSV: tuple[str, ...] = (
    "run",
    "encoder",
    "pretrained_on",
    "kind",
    "how",
    "fraction",
    "task",
    "records",
    "status",
    "seeds",
    "metric",
)
CSV += ("mean", "patients_low", "patients_high", "seeds_low", "seeds_high", "patients_p", "seeds_p")

Text = tuple[str, str]
"""A cell: what it says, and what stands behind that in small letters."""


@dataclass(frozen=True)
class Grid:
    """A table to be read by people."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[Text]]


def write(figures: dict[str, Any], out: Path) -> list[Path]:
    """Writes `table.json`, `.csv`, `.md` and `.html` of what `figures.figures` gives."""
    grids = [*_kinds(figures), *_comparisons(figures), *_failed(figures)]
    texts = (
        json.dumps(figures, indent=1, allow_nan=False) + "\n",
        _csv(figures),
        _markdown(figures, grids),
        _html(figures, grids),
    )
    paths = [out / f"table.{ending}" for ending in ENDINGS]
    for path, text in zip(paths, texts, strict=True):
        write_text(path, text)
    return paths


def _kinds(figures: dict[str, Any]) -> list[Grid]:
    """A grid for each way of measuring."""
    grids = []
    for kind in dict.fromkeys(row["kind"] for row in figures["rows"]):
        rows = [row for row in figures["rows"] if row["kind"] == kind]
        grids.append(_retrieval(rows) if kind == "retrieval" else _tasks(kind, rows))
    return grids


def _tasks(kind: str, rows: Sequence[dict[str, Any]]) -> Grid:
    """A line for each encoder, prompts or protocol, and fraction; a column for each task."""
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    lines: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((*_who(row), _how(row)), {})[row["task"]] = row
    found = [
        [who, on, (how, ""), _seeds(by_task.values()), *(_cell(by_task.get(task)) for task in tasks)]
        for (who, on, how), by_task in lines.items()
    ]
    column = "prompts" if kind == "zero-shot" else "labels"
    return Grid(KINDS[kind], "Macro-AUROC.", ["encoder", "pre-trained on", column, "seeds", *tasks], found)


def _retrieval(rows: Sequence[dict[str, Any]]) -> Grid:
    """A line for each encoder, a column for each metric."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["values"]))
    found = [
        [
            *_who(row),
            _seeds([row]),
            *([_cell(row, metric) for metric in metrics] or [(row["status"], "")]),
        ]
        for row in rows
    ]
    heads = ["encoder", "pre-trained on", "seeds", *(map(metric_name, metrics) if metrics else ["recall"])]
    return Grid(KINDS["retrieval"], "Among all reports of the split; equal reports count as hits.", heads, found)


def _comparisons(figures: dict[str, Any]) -> list[Grid]:
    compared = figures["comparisons"]
    if not compared:
        return []
    rows = []
    for each in compared:
        first, second = each["pair"]
        about = " ".join(filter(None, (each["kind"], each["task"])))
        metric = each["metric"] if each["kind"] == "retrieval" else "macro_auroc"
        over_seeds = ("–", "") if each["seeds"] is None else _with(each["mean"], each["seeds"], each["p"]["seeds"])
        rows.append(
            [
                (f"{first} – {second}", ""),
                (about, ""),
                (_how(each) or metric_name(metric), ""),
                _with(each["mean"], each["patients"], each["p"]["patients"]),
                over_seeds,
                (", ".join(map(str, each["common_seeds"])), ""),
            ]
        )
    note = (
        "Differences (first less second) of the means over the seeds that both have, with 95 % intervals and "
        "two-sided p. Over patients: paired bootstrap, the same draws for both. Over seeds: paired t test. The p "
        f"values are not corrected for there being {len(rows)} rows."
    )
    heads = ["pair", "measured by", "prompts or labels", "over patients", "over seeds", "seeds"]
    return [Grid("Differences", note, heads, rows)]


def _failed(figures: dict[str, Any]) -> list[Grid]:
    rows = [[(name, ""), (reason, "")] for name, reason in figures["failed"].items()]
    return [Grid("Failed", "The same command tries these again.", ["what", "why"], rows)] if rows else []


def _who(row: dict[str, Any]) -> tuple[Text, Text]:
    """Whose figures a line has, and what that was pre-trained on."""
    detail = {"supervised": "from scratch, supervised", "published": row.get("source", "")}.get(row["encoder"], "")
    return (row["run"], detail), (row["pretrained_on"], "")


def _how(row: dict[str, Any]) -> str:
    """Prompts, or the share of the labels, that a figure was made with."""
    if row["kind"] == "zero-shot":
        return row["how"] or ""
    share = f"{row['fraction']:.0%}" if row["fraction"] else ""
    return ", ".join(filter(None, (share, row["how"] if row["how"] != "honest" else None)))


def _seeds(rows: Any) -> Text:
    """How many seeds the figures of a line have, of how many."""
    counts = sorted({len(row["seeds"]) for row in rows})
    planned = max(len(row["planned_seeds"]) for row in rows)
    if planned == 0:
        return "–", ""
    count = "–".join(map(str, counts[:1] + counts[-1:] if len(counts) > 1 else counts))
    return count, "" if counts == [planned] else f"of {planned}"


def _cell(row: dict[str, Any] | None, metric: str = "macro_auroc") -> Text:
    if row is None or metric not in row["values"]:
        return (row["status"] if row else "–"), ""
    figure = row["values"][metric]
    if row["status"] == "published":
        return _short(figure["mean"]), ""
    main, detail = _with(figure["mean"], figure["patients"])
    if figure["seeds"]:
        half = (figure["seeds"]["high"] - figure["seeds"]["low"]) / 2
        detail += f" ±{_short(half)}"
    if row["classes_fitted"] is not None and row["classes_fitted"] < row["classes"]:
        detail += f" ({row['classes_fitted']:.1f} of {row['classes']})"
    return main, detail


def _with(mean: float | None, interval: dict[str, float | None], p: float | None = None) -> Text:
    """A figure with its interval, and p where there is one."""
    detail = f"[{_short(interval['low'])}, {_short(interval['high'])}]"
    return _short(mean), detail if p is None else f"{detail} p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _short(value: float | None) -> str:
    """Three decimals; ranks, which are above 1, one."""
    return "–" if value is None else f"{value:.{3 if abs(value) <= 1 else 1}f}"


def _csv(figures: dict[str, Any]) -> str:
    """A line for each row and metric, then for each comparison, whose encoder is `difference`."""
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV, restval="", lineterminator="\n")
    writer.writeheader()
    for row in figures["rows"]:
        about = {key: row[key] for key in CSV[:9]} | {"seeds": len(row["seeds"])}
        writer.writerows(about | {"metric": metric} | _columns(figure) for metric, figure in row["values"].items())
        if not row["values"]:
            writer.writerow(about)
    for each in figures["comparisons"]:
        about = {key: each[key] for key in ("kind", "how", "fraction", "task", "metric")}
        about |= {"run": " - ".join(each["pair"]), "encoder": "difference", "status": "measured"}
        p = {f"{over}_p": value for over, value in each["p"].items()}
        writer.writerow(about | {"seeds": len(each["common_seeds"])} | _columns(each) | p)
    return text.getvalue()


def _columns(figure: dict[str, Any]) -> dict[str, Any]:
    intervals = {
        f"{over}_{end}": value for over in ("patients", "seeds") for end, value in (figure[over] or {}).items()
    }
    return {"mean": figure["mean"], **intervals}


def _about(figures: dict[str, Any]) -> str:
    shards = figures["shards"]
    return (
        f"Study {figures['study']}: split {figures['split']} of {shards['name']}, {shards['fs']} Hz (shards "
        f"{shards['fingerprint'][:12]}), {figures['checkpoint']} checkpoints; intervals from {figures['bootstrap']}; "
        f"etp-jax {__version__}. {LEGEND}"
    )


def _markdown(figures: dict[str, Any], grids: Sequence[Grid]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    parts = [f"# {figures['title']}", _about(figures)]
    for grid in grids:
        rows = [line([" ".join(filter(None, cell)) for cell in row]) for row in grid.rows]
        parts += [f"## {grid.title}", grid.note, "\n".join([line(grid.heads), "|---" * len(grid.heads) + "|", *rows])]
    return "\n\n".join(parts) + "\n"


def _html(figures: dict[str, Any], grids: Sequence[Grid]) -> str:
    def cell(text: Text) -> str:
        main, detail = map(escape, text)
        return main + (f' <span class="interval-text">{detail}</span>' if detail else "")

    sections = {
        grid.title: f'<p class="quiet">{escape(grid.note)}</p>'
        + html.table([(head, "") for head in grid.heads], [list(map(cell, row)) for row in grid.rows])
        for grid in grids
    }
    return html.page(figures["title"], escape(_about(figures)), sections)
