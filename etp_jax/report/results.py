"""The part of `report.html` that shows `RUN/evaluation/`: figures by task and by class, and ROC curves."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etp_jax.encoder.card import choices
from etp_jax.evaluation.figures import Figure, percent
from etp_jax.evaluation.kinds import KINDS, kind_title
from etp_jax.evaluation.results import Result
from etp_jax.plain import escape
from etp_jax.report.charts import bar, legend, roc_chart, roc_curve
from etp_jax.report.html import missing, table
from etp_jax.tasks import get_task, task_names

ENCODERS = {"trained": "trained encoder", "random": "random encoder"}
"""Encoders shown side by side: {name in the JSON and class in the style sheet: name on the page}."""


@dataclass(frozen=True)
class Evaluation:
    """One file of `RUN/evaluation/`."""

    name: str
    """File name without its suffix; unique on the page."""
    result: Result
    """Content of the file."""

    @property
    def title(self) -> str:
        """Heading, such as "Zero-shot, ptbxl-super, prompts contrast, validation split of ptbxl"."""
        result, how = self.result, [*choices(self.result.protocol)]
        how += [f"{which} checkpoint"] if (which := result.checkpoint.get("which", "best")) != "best" else []
        where = " of ".join(filter(None, [f"{result.split} split", result.shards.get("name")]))
        return ", ".join(filter(None, [kind_title(result.kind), result.task, *how, where]))

    @property
    def metric(self) -> str:
        """Name of the main figure."""
        kind = KINDS.get(self.result.kind)
        return kind.compared[0] if kind else next(iter(self.result.rows[0].values))


def read_evaluations(folder: Path) -> list[Evaluation]:
    """Reads all evaluations of a run, sorted by task and kind; raises EtpError for a file of another content."""
    found = [Evaluation(path.stem, Result.load(path)) for path in sorted(folder.glob("*.json"))]
    return sorted(found, key=lambda e: (_place(e.result.task, task_names()), _place(e.result.kind, KINDS)))


def _place(name: str | None, order: Iterable[str]) -> tuple[int, str]:
    """Sort key: names in the order of `order`, unknown names last."""
    names = list(order)
    return (names.index(name) if name in names else len(names)), name or ""


def results_section(evaluations: Sequence[Evaluation]) -> str:
    """Formats an overview of all evaluations, then each evaluation with its classes."""
    if not evaluations:
        return missing(f"No evaluation yet; run `etp evaluate KIND`; KIND is one of {', '.join(KINDS)}.")
    return _overview(evaluations) + "".join(map(_section, evaluations))


def _overview(evaluations: Sequence[Evaluation]) -> str:
    """Formats the main figure of each evaluation, for the trained and the random encoder."""
    rows = []
    for evaluation in evaluations:
        title = f'<a href="#{escape(evaluation.name)}">{escape(evaluation.title)}</a>'
        figures = [evaluation.result.main(encoder, evaluation.metric) for encoder in ENCODERS]
        cells = [_with_interval(figure) if figure else "–" for figure in figures]
        rows.append([title, escape(metric_name(evaluation.metric)), *cells, str(evaluation.result.records)])
    encoders = [(name, "number") for name in ENCODERS.values()]
    heads = [("evaluation", ""), ("figure", ""), *encoders, ("records", "number")]
    return table(heads, rows, "The main figure of each evaluation, with its 95 % interval")


def _section(evaluation: Evaluation) -> str:
    result, trained = evaluation.result, evaluation.result.first_row("trained")
    about = [
        f"{result.records} records",
        f"checkpoint of step {result.step}",
        f"pre-trained on {result.pretrained_on}",
        f"thresholds of F1 from {result.thresholds_from}" if result.thresholds_from else "",
        result.protocol.get("lacks", ""),
    ]
    parts = _parts(evaluation) + _reliability(evaluation)
    classes = _classes(evaluation) + _rocs(evaluation) if trained and trained.per_class else ""
    return (
        f'<section id="{escape(evaluation.name)}"><h3>{escape(evaluation.title)}</h3>'
        f'<p class="quiet">{escape("; ".join(filter(None, about)))}.</p>{_summary(result)}{parts}{classes}</section>'
    )


def _summary(result: Result) -> str:
    """Formats every metric, by encoder and share of the labels."""
    rows = [
        [escape(encoder), percent(fraction), *map(_with_interval, metrics.values())]
        for encoder, fractions in result.summary.items()
        for fraction, metrics in fractions.items()
    ]
    metrics = [(metric_name(name), "number") for name in result.rows[0].values]
    return table([("encoder", ""), ("labels used", "number"), *metrics], rows)


def _parts(evaluation: Evaluation) -> str:
    """Draws a bar for each group or condition, with its figure and its difference beside it."""
    trained, protocol = evaluation.result.first_row("trained"), evaluation.result.protocol
    if trained is None or not trained.parts:
        return ""
    start = _start(part.auroc_low for part in trained.parts.values())
    rows = []
    for name, part in trained.parts.items():
        about = f'<span class="quiet">{part.records} records, {part.classes} classes</span>'
        drawn = _bar("trained", part.interval, start)
        figures = _with_interval(part.interval), _with_interval(part.paired, signed=True)
        rows.append([f"{escape(name)}<br>{about}", drawn, *figures, escape(part.note)])
    heads = [(protocol.get("parts", "part"), ""), ("", "bars"), ("macro AUROC", "number"), ("difference", "number")]
    caption = f"Trained encoder, 95 % intervals over patients; difference {protocol.get('difference', '')}"
    return table([*heads, ("note", "")], rows, caption, style="wide")


def _reliability(evaluation: Evaluation) -> str:
    """Draws a reliability chart for each class, over bins of equal mass."""
    trained, names = evaluation.result.first_row("trained"), _class_names(evaluation.result)
    if trained is None or not trained.reliability:
        return ""
    figures = []
    for code, each in trained.reliability.items():
        _, mean, share = np.array(each.equal_mass, np.float64).reshape(-1, 3).T
        name = escape(names.get(code, code))
        title = f"{name}, ECE {each.ece_equal_mass:.3f} (equal width {each.ece_equal_width:.3f})"
        chart = roc_chart(f"Reliability, {names.get(code, code)}", [("trained", mean, share)])
        figures.append(f"<figure><figcaption>{title}</figcaption>{chart}</figure>")
    return (
        '<p class="quiet">Reliability: share of records with the class (upwards) over the mean probability of a bin; '
        f'dotted: perfect calibration. Bins of equal mass.</p><div class="rocs">{"".join(figures)}</div>'
    )


def _start(lows: Iterable[float | None]) -> float:
    """The left end of an axis of AUROC that holds all lower ends of intervals."""
    return min(0.4, math.floor(10 * min((low for low in lows if low is not None), default=0.4)) / 10)


def _classes(evaluation: Evaluation) -> str:
    """Draws a bar for each class and encoder, with its figure beside it."""
    by_encoder = {name: row.per_class for name in ENCODERS if (row := evaluation.result.first_row(name))}
    start = _start(values.auroc_low for classes in by_encoder.values() for values in classes.values())
    rows = []
    for code, name in _class_names(evaluation.result).items():
        figures = {encoder: classes[code] for encoder, classes in by_encoder.items()}
        about = f'<span class="quiet">{escape(code)}, {figures["trained"].positives} positive</span>'
        texts = (_with_interval(values.interval) for values in figures.values())
        bars = "".join(_bar(encoder, values.interval, start) for encoder, values in figures.items())
        rows.append([f"{escape(name)}<br>{about}", bars, "<br>".join(texts)])
    caption = (
        "AUROC by class with 95 % intervals over patients: trained encoder above, random encoder (first draw) below. "
        f"Bars start at 0.5, which is chance; the axis runs from {start:g} to 1."
    )
    names = [(encoder, ENCODERS[encoder]) for encoder in by_encoder]
    heads = [("class", ""), ("", "bars"), ("AUROC", "number")]
    return legend(names, swatch=True) + table(heads, rows, caption, style="wide")


def _bar(encoder: str, auroc: Figure, start: float) -> str:
    if auroc.mean is None:
        return ""
    low, high = (math.nan if end is None else end for end in (auroc.low, auroc.high))
    return bar(encoder, auroc.mean, low, high, start)


def _rocs(evaluation: Evaluation) -> str:
    """Draws a small ROC chart for each class that has both outcomes."""
    scores, names = evaluation.result.arrays, _class_names(evaluation.result)
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


def _class_names(result: Result) -> dict[str, str]:
    """Names of classes in plain English, by code; for tasks unknown to this version, the codes."""
    names = {c.code: c.name for c in get_task(result.task).classes} if result.task in task_names() else {}
    row = result.first_row("trained")
    return {code: names.get(code, code) for code in (row.per_class if row else ())}


def metric_name(name: str) -> str:
    """Formats the name of a metric, such as "macro AUROC" or "ECG to report, recall@10"."""
    for key, words in (
        ("ecg_to_text_", "ECG to report, "),
        ("text_to_ecg_", "report to ECG, "),
        ("recall_", "recall@"),
        ("auroc", "AUROC"),
        ("auprc", "AUPRC"),
        ("f1", "F1"),
        ("ece", "ECE"),
        ("mae", "MAE (years)"),
    ):
        name = name.replace(key, words)
    return name.replace("_", " ")


def _with_interval(figure: Figure, signed: bool = False) -> str:
    """Formats a figure; a signed one is a difference, whose interval may have negative ends."""
    mean, low, high = figure.mean, figure.low, figure.high
    if mean is None:
        return "–"
    form = "+.3f" if signed else ".3f" if mean <= 1 else ".1f"  # ranks and years are above 1, other metrics are shares
    interval = "" if low is None or high is None else f"{low:{form}}{' to ' if signed else '–'}{high:{form}}"
    return f'{mean:{form}} <span class="interval-text">{interval}</span>'
