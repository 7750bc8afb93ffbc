"""The part of `report.html` that shows `RUN/evaluation/`: figures by task and by class, and ROC curves."""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.report.charts import bar, legend, roc_chart, roc_curve
from etp_jax.report.html import missing, table
from etp_jax.tasks import get_task, task_names

KINDS = {
    "zero-shot": "Zero-shot",
    "probe": "Linear probe",
    "knn": "Nearest neighbours",
    "finetune": "Full fine-tuning",
    "retrieval": "Retrieval",
}
ENCODERS = {"trained": "trained encoder", "random": "random encoder"}
"""What is drawn side by side: {name in the JSON and class in the style sheet: name on the page}."""

KEYS = ("kind", "task", "protocol", "split", "records", "pretrained_on", "checkpoint", "thresholds_from", "rows")
KEYS += ("summary",)


@dataclass(frozen=True)
class Evaluation:
    """One file of `RUN/evaluation/`, as `evaluate.run` writes it."""

    name: str
    """The file's name without its ending; distinct on the page."""
    result: dict[str, Any]
    scores: dict[str, NDArray]
    """`classes` [C], `y` [N, C] and an [N, C] of scores an encoder; empty where there is no such file."""

    @property
    def title(self) -> str:
        """Such as "Zero-shot, ptbxl-super, prompts contrast, validation split"."""
        kind, task, protocol = self.result["kind"], self.result["task"], self.result["protocol"]
        how = [f"prompts {protocol['prompts']}"] if kind == "zero-shot" else []
        how += [protocol["name"]] if protocol["name"] != "honest" else []
        how += ["published labels"] if self.name.endswith("-published") else []
        return ", ".join(filter(None, [KINDS.get(kind, kind), task, *how, f"{self.result['split']} split"]))

    def row(self, encoder: str) -> dict[str, Any] | None:
        """The first row of an encoder at its greatest fraction: the one whose scores are kept."""
        rows = [row for row in self.result["rows"] if row["encoder"] == encoder]
        return max(rows, key=lambda row: row["fraction"]) if rows else None


def read_evaluations(folder: Path) -> list[Evaluation]:
    """All evaluations of a run, by task and kind; raises EtpError for a file that is none."""
    found = []
    for path in sorted(folder.glob("*.json")):
        try:
            evaluation = Evaluation(path.stem, json.loads(path.read_text(encoding="utf-8")), _read_scores(path))
            result = evaluation.result
            for key in KEYS:
                result[key]
        except (ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            reason = f"{type(error).__name__}: {error}"
            raise EtpError(f"{path}: not written by `etp evaluate` ({reason}); move it away") from None
        found.append(evaluation)
    return sorted(found, key=lambda e: (_place(e.result["task"], task_names()), _place(e.result["kind"], KINDS)))


def _place(name: str | None, order: Iterable[str]) -> tuple[int, str]:
    """Sorts names as in `order`, unknown ones behind."""
    names = list(order)
    return (names.index(name) if name in names else len(names)), name or ""


def _read_scores(path: Path) -> dict[str, NDArray]:
    scores = path.with_suffix(".npz")
    if not scores.exists():
        return {}
    with np.load(scores) as arrays:
        return dict(arrays)


def results_section(evaluations: Sequence[Evaluation]) -> str:
    """An overview of all evaluations, then each with its classes."""
    if not evaluations:
        return missing("No evaluation yet; `etp evaluate zero-shot` and `etp evaluate probe` make one.")
    return _overview(evaluations) + "".join(map(_section, evaluations))


def _overview(evaluations: Sequence[Evaluation]) -> str:
    """The main figure of each evaluation, trained beside random."""
    rows = []
    for evaluation in evaluations:
        metric = "macro_auroc" if evaluation.result["task"] else "ecg_to_text_recall_10"
        title = f'<a href="#{escape(evaluation.name)}">{escape(evaluation.title)}</a>'
        figures = [_main_figure(evaluation, encoder, metric) for encoder in ENCODERS]
        rows.append([title, metric_name(metric), *figures, str(evaluation.result["records"])])
    encoders = [(name, "number") for name in ENCODERS.values()]
    heads = [("evaluation", ""), ("figure", ""), *encoders, ("records", "number")]
    return table(heads, rows, "The main figure of each evaluation, with its 95 % interval")


def _main_figure(evaluation: Evaluation, encoder: str, metric: str) -> str:
    """At the encoder's greatest fraction."""
    fractions = evaluation.result["summary"].get(encoder)
    return _with_interval(fractions[max(fractions, key=float)][metric]) if fractions else "–"


def _section(evaluation: Evaluation) -> str:
    result, trained = evaluation.result, evaluation.row("trained")
    about = [
        f"{result['records']} records",
        f"checkpoint of step {result['checkpoint']['step']}",
        f"pre-trained on {result['pretrained_on']}",
        f"thresholds of F1 from {result['thresholds_from']}" if result["thresholds_from"] else "",
    ]
    classes = _classes(evaluation) + _rocs(evaluation) if trained and "per_class" in trained else ""
    return (
        f'<section id="{escape(evaluation.name)}"><h3>{escape(evaluation.title)}</h3>'
        f'<p class="quiet">{escape("; ".join(filter(None, about)))}.</p>{_summary(evaluation)}{classes}</section>'
    )


def _summary(evaluation: Evaluation) -> str:
    """Every metric by encoder and share of the labels."""
    lines = [
        (encoder, fraction, metrics)
        for encoder, fractions in evaluation.result["summary"].items()
        for fraction, metrics in fractions.items()
    ]
    rows = [
        [escape(encoder), f"{float(fraction):.0%}", *map(_with_interval, metrics.values())]
        for encoder, fraction, metrics in lines
    ]
    metrics = [(metric_name(name), "number") for name in lines[0][2]]
    return table([("encoder", ""), ("labels used", "number"), *metrics], rows)


def _classes(evaluation: Evaluation) -> str:
    """A bar a class and encoder, with its figure beside it."""
    by_encoder = {name: row["per_class"] for name in ENCODERS if (row := evaluation.row(name))}
    lows = [v["auroc_low"] for classes in by_encoder.values() for v in classes.values() if v["auroc_low"] is not None]
    start = min(0.4, math.floor(10 * min(lows, default=0.4)) / 10)
    rows = []
    for code, name in _class_names(evaluation).items():
        figures = {encoder: classes[code] for encoder, classes in by_encoder.items()}
        about = f'<span class="quiet">{escape(code)}, {figures["trained"]["positives"]} positive</span>'
        texts = (
            _with_interval({"mean": v["auroc"], "low": v["auroc_low"], "high": v["auroc_high"]})
            for v in figures.values()
        )
        bars = "".join(_bar(encoder, values, start) for encoder, values in figures.items())
        rows.append([f"{escape(name)}<br>{about}", bars, "<br>".join(texts)])
    caption = (
        "AUROC by class with 95 % intervals over patients: trained encoder above, random encoder (first draw) below. "
        f"Bars start at 0.5, which is chance; the axis runs from {start:g} to 1."
    )
    names = [(encoder, ENCODERS[encoder]) for encoder in by_encoder]
    heads = [("class", ""), ("", "bars"), ("AUROC", "number")]
    return legend(names, swatch=True) + table(heads, rows, caption, style="wide")


def _bar(encoder: str, values: dict[str, Any], start: float) -> str:
    if values["auroc"] is None:
        return ""
    low, high = values["auroc_low"], values["auroc_high"]
    return bar(encoder, values["auroc"], math.nan if low is None else low, math.nan if high is None else high, start)


def _rocs(evaluation: Evaluation) -> str:
    """A small ROC chart a class, for those with both outcomes."""
    scores, names = evaluation.scores, _class_names(evaluation)
    if not scores:
        return missing(f"No ROC curves: {evaluation.name}.npz, which `etp evaluate` writes, is missing.")
    drawn = [encoder for encoder in ENCODERS if encoder in scores]
    figures = []
    for c, code in enumerate(scores["classes"].tolist()):
        y_N = scores["y"][:, c]
        if y_N.any() and not y_N.all():
            curves = [(encoder, *roc_curve(y_N, scores[encoder][:, c])) for encoder in drawn]
            chart = roc_chart(f"ROC curve, {names[code]}", curves)
            figures.append(f"<figure><figcaption>{escape(names[code])}</figcaption>{chart}</figure>")
    return (
        '<p class="quiet">ROC curves: true positive rate (upwards) over false positive rate; dotted: chance.</p>'
        f'{legend([(encoder, ENCODERS[encoder]) for encoder in drawn])}<div class="rocs">{"".join(figures)}</div>'
    )


def _class_names(evaluation: Evaluation) -> dict[str, str]:
    """Plain English by code; the classes of a task that this version doesn't know keep their codes."""
    task: str = evaluation.result["task"]
    names = {c.code: c.name for c in get_task(task).classes} if task in task_names() else {}
    row = evaluation.row("trained")
    codes: list[str] = list(row["per_class"]) if row else []
    return {code: names.get(code, code) for code in codes}


def metric_name(name: str) -> str:
    """Such as "macro AUROC" or "ECG to report, recall@10"."""
    for key, words in (
        ("ecg_to_text_", "ECG to report, "),
        ("text_to_ecg_", "report to ECG, "),
        ("recall_", "recall@"),
        ("auroc", "AUROC"),
        ("auprc", "AUPRC"),
        ("f1", "F1"),
    ):
        name = name.replace(key, words)
    return name.replace("_", " ")


def _with_interval(value: dict[str, float | None]) -> str:
    mean, low, high = value["mean"], value["low"], value["high"]
    if mean is None:
        return "–"
    digits = 3 if mean <= 1 else 1  # ranks are above 1, all else is a share
    interval = "" if low is None or high is None else f"{low:.{digits}f}–{high:.{digits}f}"
    return f'{mean:.{digits}f} <span class="interval-text">{interval}</span>'
