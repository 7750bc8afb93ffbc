"""The table of a study as JSON, CSV, Markdown and HTML.

The JSON contains everything that the other files show:
    title, study, split, checkpoint, shards, bootstrap, versions
    rows: run, encoder ("trained", "random", "supervised", "published"), pretrained_on, kind, how (prompts or
        protocol, and options), task, fraction (of the training labels), status ("measured", "failed", "not run",
        "published"), records, classes, classes_fitted (mean number of them with both outcomes in the fitted labels),
        seeds, planned_seeds, values: by metric {mean, patients: {low, high}, seeds: {low, high} or null, by_seed,
        patients_by_seed}; published rows also have source
    comparisons: pair, kind, how, task, fraction, metric, common_seeds, the same five values of the
        difference, p: {patients, seeds}
    failed: error messages by name of the training or evaluation
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etp_jax import __version__
from etp_jax.evaluation.figures import percent
from etp_jax.evaluation.kinds import KINDS, Kind
from etp_jax.evaluation.request import HONEST
from etp_jax.files import has_fields, holds_all, keep_other_kinds, write_text
from etp_jax.plain import escape, markdown_cell, plain
from etp_jax.report import html
from etp_jax.report.results import metric_name

ENDINGS = ("json", "csv", "md", "html")
LEGEND = (
    "Means over training seeds. In brackets: 95 % bootstrap over patients, seeds held fixed. After ±: half of the 95 % "
    "interval over seeds (Student's t), patients held fixed; none for a single seed. In parentheses: number of "
    "classes with both outcomes in the fitted labels, mean over subsets, if not all have both; the other classes are "
    "scored at chance. Published figures are quoted from the source in their row; their pre-training data, "
    "records and protocols differ."
)
CSV: tuple[str, ...] = ("study", "run", "seed", "encoder", "task", "kind", "protocol", "prompts", "fraction", "metric")
CSV += ("value", "low", "high", "revision")
"""Columns of the tidy table, see `_csv`."""

Text = tuple[str, str]
"""A table cell: main text and small annotation."""


@dataclass(frozen=True)
class Grid:
    """A table for readers, used for Markdown and HTML."""

    title: str
    note: str
    heads: list[str]
    rows: list[list[Text]]


def check_free(out: Path) -> None:
    """Raises EtpError if a file of the table would replace one of another kind."""
    kinds = (
        has_fields("study", "rows", "comparisons"),
        holds_all(b"run,", b"encoder,", b",metric,"),
        holds_all(b"# ", b"Study ", b"etp-jax "),
        holds_all(html.GENERATED),
    )
    for ending, kind in zip(ENDINGS, kinds, strict=True):
        keep_other_kinds(out / f"table.{ending}", "the table of a study", kind)


def write(figures: dict[str, Any], out: Path) -> list[Path]:
    """Writes `table.json`, `.csv`, `.md` and `.html` from the result of `figures.figures`."""
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
    """Creates a grid for each kind of evaluation."""
    grids = []
    for name in dict.fromkeys(row["kind"] for row in figures["rows"]):
        rows = [row for row in figures["rows"] if row["kind"] == name]
        tasks = list(dict.fromkeys(row["task"] for row in rows))
        grids.append(_by_metric(KINDS[name], rows) if tasks == [None] else _by_task(KINDS[name], rows, tasks))
    return grids


def _by_task(kind: Kind, rows: Sequence[dict[str, Any]], tasks: Sequence[str]) -> Grid:
    """Creates a grid with a line for each encoder, prompts or protocol, and fraction; a column for each task."""
    lines: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for row in rows:
        lines.setdefault((*_who(row), _how(row)), {})[row["task"]] = row
    found = [
        [who, on, (how, ""), _seeds(by_task.values()), *(_cell(by_task.get(task), kind.compared[0]) for task in tasks)]
        for (who, on, how), by_task in lines.items()
    ]
    column = "labels" if any(row["fraction"] for row in rows) else kind.options.choice or "labels"
    return Grid(kind.title, kind.note, ["encoder", "pre-trained on", column, "seeds", *tasks], found)


def _by_metric(kind: Kind, rows: Sequence[dict[str, Any]]) -> Grid:
    """Creates a grid with a line for each encoder and a column for each metric."""
    metrics = list(dict.fromkeys(metric for row in rows for metric in row["values"]))
    found = [
        [
            *_who(row),
            _seeds([row]),
            *([_cell(row, metric) for metric in metrics] or [(row["status"], "")]),
        ]
        for row in rows
    ]
    heads = ["encoder", "pre-trained on", "seeds", *map(metric_name, metrics or kind.compared[:1])]
    return Grid(kind.title, kind.note, heads, found)


def _comparisons(figures: dict[str, Any]) -> list[Grid]:
    compared = figures["comparisons"]
    if not compared:
        return []
    rows = []
    for each in compared:
        first, second = each["pair"]
        about = " ".join(filter(None, (each["kind"], each["task"])))
        over_seeds = ("–", "") if each["seeds"] is None else _with(each["mean"], each["seeds"], each["p"]["seeds"])
        rows.append(
            [
                (f"{first} – {second}", ""),
                (about, ""),
                (_how(each, several=len(KINDS[each["kind"]].compared) > 1), ""),
                _with(each["mean"], each["patients"], each["p"]["patients"]),
                over_seeds,
                (", ".join(map(str, each["common_seeds"])), ""),
            ]
        )
    note = (
        "Differences (first minus second) of the means over the seeds that both have, with 95 % intervals and "
        "two-sided p. Over patients: paired bootstrap, the same draws for both. Over seeds: paired t test. The p "
        f"values are not corrected for the number of rows ({len(rows)})."
    )
    heads = ["pair", "measured by", "prompts or labels", "over patients", "over seeds", "seeds"]
    return [Grid("Differences", note, heads, rows)]


def _failed(figures: dict[str, Any]) -> list[Grid]:
    rows = [[(name, ""), (reason, "")] for name, reason in figures["failed"].items()]
    return [Grid("Failed", "The same command tries these again.", ["what", "why"], rows)] if rows else []


def _who(row: dict[str, Any]) -> tuple[Text, Text]:
    """Cells for the encoder of a line and its pre-training data."""
    detail = {"supervised": "from scratch, supervised", "published": row.get("source", "")}.get(row["encoder"], "")
    return (row["run"], detail), (row["pretrained_on"], "")


def _how(row: dict[str, Any], several: bool = False) -> str:
    """Prompts, or share of the labels and protocol, of a figure; and its metric, if a kind has several."""
    share = percent(row["fraction"]) if row["fraction"] else ""
    how = (row["how"] or "").removeprefix(HONEST).removeprefix(", ")
    return ", ".join(filter(None, (share, how, metric_name(row["metric"]) if several else "")))


def _seeds(rows: Any) -> Text:
    """Cell for the number of seeds that the figures of a line have, and the planned number."""
    counts = sorted({len(row["seeds"]) for row in rows})
    planned = max(len(row["planned_seeds"]) for row in rows)
    if planned == 0:
        return "–", ""
    count = "–".join(map(str, counts[:1] + counts[-1:] if len(counts) > 1 else counts))
    return count, "" if counts == [planned] else f"of {planned}"


def _cell(row: dict[str, Any] | None, metric: str) -> Text:
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
    """Formats a figure with its interval, and its p value if there is one."""
    detail = f"[{_short(interval['low'])}, {_short(interval['high'])}]"
    return _short(mean), detail if p is None else f"{detail} p {'< 0.001' if p < 0.001 else f'= {p:.3f}'}"


def _short(value: float | None) -> str:
    """Formats a value with three decimals; ranks, which are above 1, with one."""
    return "–" if value is None else f"{value:.{3 if abs(value) <= 1 else 1}f}"


def _csv(figures: dict[str, Any]) -> str:
    """Formats the tidy table, with a line for each value.

    Each seed has a line with its interval over patients; of several seeds there is a line `mean` too. Differences have
    the encoder `difference` and both runs in `run`. Their p values are separate metrics (`macro_auroc_p_patients`). So
    is `classes_fitted`, if classes lack an outcome in the fitted labels.
    """
    text = io.StringIO()
    writer = csv.DictWriter(text, CSV, restval="", lineterminator="\n")
    writer.writeheader()
    study = {"study": Path(figures["study"]).stem}
    for row in figures["rows"]:
        about = study | {key: row[key] for key in ("run", "encoder", "task", "kind", "fraction")} | _choice(row)
        about |= {"revision": figures["revision"]} if row["status"] == "measured" else {}
        for metric, figure in row["values"].items():
            writer.writerows(about | {"metric": metric} | line for line in _lines(figure, row["seeds"]))
        if row["classes_fitted"] is not None and row["classes_fitted"] < row["classes"]:
            writer.writerow(about | {"seed": "mean", "metric": "classes_fitted", "value": row["classes_fitted"]})
    for each in figures["comparisons"]:
        about = study | {key: each[key] for key in ("task", "kind", "fraction", "metric")} | _choice(each)
        about |= {"run": " - ".join(each["pair"]), "encoder": "difference", "revision": figures["revision"]}
        writer.writerows(about | line for line in _lines(each, each["common_seeds"]))
        for over, p in each["p"].items():
            if p is not None:
                writer.writerow(about | {"seed": "mean", "metric": f"{each['metric']}_p_{over}", "value": p})
    return text.getvalue()


def _choice(row: dict[str, Any]) -> dict[str, Any]:
    """Values of the columns `protocol` and `prompts`; a published figure has a protocol of its own."""
    if row.get("status") == "published":
        return {}
    choice = KINDS[row["kind"]].options.choice
    if row["how"] and not choice:  # options of a kind that has one protocol
        return {"protocol": f"{HONEST}, {row['how']}"}
    return {"protocol": HONEST} | ({choice: row["how"]} if row["how"] else {})


def _lines(figure: dict[str, Any], seeds: Sequence[int]) -> list[dict[str, Any]]:
    """Lines of a figure: one for each seed and, if there are several, their mean; published figures have no seed."""
    mean = {"seed": "mean" if seeds else "", "value": figure["mean"], **(figure["patients"] or {})}
    values = zip(seeds, figure["by_seed"], figure["patients_by_seed"], strict=True)
    each = [{"seed": seed, "value": value, **ends} for seed, value, ends in values]
    return each if len(seeds) == 1 else [*each, mean]


def _about(figures: dict[str, Any]) -> str:
    shards = figures["shards"]
    others = "".join(
        f"; split {other['split']} of {other['name']} (shards {other['fingerprint'][:12]})"
        for other in figures["other_shards"]
    )
    return (
        f"Study {figures['study']}: split {figures['split']} of {shards['name']}, {shards['fs']} Hz (shards "
        f"{shards['fingerprint'][:12]}){others}; {figures['checkpoint']} checkpoints; intervals from "
        f"{figures['bootstrap']}; etp-jax {__version__}. {LEGEND}"
    )


def _markdown(figures: dict[str, Any], grids: Sequence[Grid]) -> str:
    def line(cells: Sequence[str]) -> str:
        return "| " + " | ".join(markdown_cell(cell) for cell in cells) + " |"

    parts = [f"# {figures['title']}", _about(figures)]
    for grid in grids:
        rows = [line([" ".join(filter(None, cell)) for cell in row]) for row in grid.rows]
        parts += [f"## {grid.title}", grid.note, "\n".join([line(grid.heads), "|---" * len(grid.heads) + "|", *rows])]
    return plain("\n\n".join(parts)) + "\n"


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
