"""`report.html`: training, evaluations and examples of a run, on one page that opens from disk without a network.

The page is self-contained: style sheet, charts and ECGs are inline, and there is no script. A note replaces each part
that a run does not have yet, such as an evaluation or a checkpoint.
"""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from etp_jax import __version__
from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import ENCODER_FILE
from etp_jax.errors import EtpError
from etp_jax.files import holds_all, keep_other_kinds, write_text
from etp_jax.metrics.retrieval import RECALL_AT
from etp_jax.plain import escape
from etp_jax.report.charts import Series, legend, line_chart
from etp_jax.report.ecg_svg import draw_ecg
from etp_jax.report.html import GENERATED, missing, page, table
from etp_jax.report.results import read_evaluations, results_section
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import VALIDATION, Record
from etp_jax.training import checkpoint, run_folder
from etp_jax.training.log import read_metrics
from etp_jax.training.resume import flatten

FILE = "report.html"
EXAMPLES = 6
NEAREST = 5
"""Number of reports listed under each example."""


def write_page(run: Path, shards: Path, other_shards: bool = False, text_tower: str | None = None) -> Path:
    """Writes `report.html` into a run folder.

    Args:
      run: Run folder made by `etp train`; evaluations and checkpoints are shown if they exist.
      shards: Shard folder; the examples are from its validation split. Sampling rate and leads must be as in training.
      other_shards: Accept shards that the run was not trained on; the examples' heading then names them.
      text_tower: Present source of a frozen text tower, see `Encoder.from_run`.

    Returns:
      The page's path.

    Raises:
      EtpError: `run` is not a run folder or is an exported encoder; `shards` is not a shard folder; a file in one of
        them is damaged; the encoder cannot read the shards; or the run was trained on others, without `other_shards`.
    """
    config = run_folder.load_config(run)
    if (run / ENCODER_FILE).exists():
        raise EtpError(f"{run}: an exported encoder has no training to report; name its run")
    path = run / FILE
    keep_other_kinds(path, "a page of etp-jax", holds_all(GENERATED))
    data = Shards(shards)
    others = _others(run, data)
    if others and not other_shards:
        raise EtpError(f"{shards}: {others}; name the run's own, or add --other-shards")
    encoder = Encoder.from_run(run, text_tower=text_tower) if _has_checkpoint(run, config) else None
    sections = {
        "Results": results_section(read_evaluations(run / "evaluation")),
        "Training": _training(read_metrics(run), config),
        "Examples": _examples(encoder, data, config) if encoder else missing("The run has no checkpoint yet."),
        "The run": _facts(run, config, encoder, data),
    }
    if others:
        sections = {
            f"{title} – shards {data.name}, not the run's own" if title == "Examples" else title: text
            for title, text in sections.items()
        }
    write_text(path, page(run.resolve().name, _summary(run, config, data), sections))
    return path


def _has_checkpoint(run: Path, config: TrainConfig) -> bool:
    if not (run / checkpoint.FOLDER).is_dir():
        return False
    with checkpoint.Checkpoints(run, config.run.best, read_only=True) as checkpoints:
        return bool(checkpoints.steps())


def _summary(run: Path, config: TrainConfig, data: Shards) -> str:
    text, own = config.model.text, _own(run, data)
    tower = text.pretrained or "a text tower trained from scratch"
    return (
        f"An ECG encoder ({config.model.ecg.title}) trained to match ECGs with their reports, as read by "
        f"{'the frozen ' if text.frozen else ''}{escape(tower)}. Data: {escape(own['name'])}, {own['fs']} Hz, "
        f"{len(own['leads'])} leads, {own['samples'] / own['fs']:g} s."
    )


def _training(lines: list[dict[str, Any]], config: TrainConfig) -> str:
    """Draws the loss, and retrieval in both directions, over epochs."""
    if not lines:
        return missing("No metrics yet: metrics.jsonl is missing or empty.")
    batch = config.data.batch_size
    whole = f"among all of the {VALIDATION} split"
    charts = [
        _chart(lines, "Loss", "loss", [("train", "loss", "training"), ("validation", "loss", "validation")]),
        _chart(lines, f"Finding the report of an ECG {whole}", "recall", _recalls("ecg_to_text")),
        _chart(lines, f"Finding an ECG of a report {whole}", "recall", _recalls("text_to_ecg")),
        _chart(
            lines,
            f"Finding the counterpart in a training batch of {batch}",
            "recall@1",
            [
                ("train", "ecg_to_text_recall_1", "report of an ECG"),
                ("train", "text_to_ecg_recall_1", "ECG of a report"),
            ],
        ),
    ]
    return f'<div class="charts">{"".join(charts)}</div>' + _gaps(lines)


def _recalls(direction: str) -> list[tuple[str, str, str]]:
    return [("validation", f"{direction}_recall_{k}", f"recall@{k}") for k in RECALL_AT]


def _chart(lines: list[dict[str, Any]], title: str, y_name: str, curves: list[tuple[str, str, str]]) -> str:
    """Draws up to three curves, each given as (kind, key in metrics.jsonl, name in the legend)."""
    series = []
    for style, (kind, key, name) in zip(("first", "second", "third"), curves, strict=False):
        rows = [line for line in lines if line["kind"] == kind and {"epoch", key} <= line.keys()]
        x, y = (np.array([row[field] for row in rows], np.float64) for field in ("epoch", key))
        if np.isfinite(y).any():
            series.append(Series(name, style, x, y))
    if series:
        drawn = line_chart(title, series, "epoch", y_name, from_zero=y_name != "loss")
        drawn += legend([(curve.style, curve.name) for curve in series])
    else:
        drawn = missing("Nothing recorded yet.")
    return f"<figure><figcaption>{escape(title)}</figcaption>{drawn}</figure>"


def _gaps(lines: list[dict[str, Any]]) -> str:
    """Notes how many lines of the log contain NaN or infinity, if any do."""
    count = sum(any(isinstance(v, float) and not math.isfinite(v) for v in line.values()) for line in lines)
    if not count:
        return ""
    return f"<p>{count} of {len(lines)} lines hold a value that is not finite; the curves have gaps there.</p>"


def _examples(encoder: Encoder, data: Shards, config: TrainConfig) -> str:
    """Draws ECGs of the validation split, each with the reports whose embeddings are nearest."""
    split, table = data.split(VALIDATION), data.reports(VALIDATION)
    if len(table.paired) == 0:
        return missing(f"The {VALIDATION} split has no reports.")
    reports = [report for report in table.reports if report]
    _, ecg_NE = encoder.ecg(split)
    text_RE = encoder.text(reports)
    drawn = np.random.default_rng(0).permutation(len(reports))[:EXAMPLES]
    parts = [
        f"<p>{len(drawn)} ECGs of the {VALIDATION} split, which the encoder was not trained on, drawn at random: "
        f"each of its {len(reports)} distinct reports was equally likely. Under each, the {min(NEAREST, len(reports))} "
        "reports whose embeddings are nearest to the ECG's; the ECG's own report is marked.</p>"
    ]
    for own in drawn.tolist():
        position = split.columns.report.index(reports[own])
        cosine_R = text_RE @ ecg_NE[position]
        parts.append(_example(split[position], data, reports, own, cosine_R))
    return "".join(parts)


def _example(record: Record, data: Shards, reports: list[str], own: int, cosine_R: NDArray[np.float32]) -> str:
    """Draws one ECG and its nearest reports; its own report comes last if it is not among them."""
    order = np.argsort(-cosine_R, kind="stable").tolist()
    ranks = {number: rank for rank, number in enumerate(order, 1)}
    rows = []
    for number in dict.fromkeys([*order[:NEAREST], own]):
        mark = ' <span class="tag">own report</span>' if number == own else ""
        rows.append([str(ranks[number]), f"{cosine_R[number]:.3f}", escape(reports[number]) + mark])
    title = f"Record {record.record_id}"
    age = "" if math.isnan(record.age) else f"{record.age:.0f} years"
    person = ", ".join(filter(None, [record.sex, age])) or "age and sex unknown"
    ecg = draw_ecg(record.ecg, record.lead_mask, data.leads, data.fs, f"12-lead ECG, {title}: {record.report}")
    caption = f"Nearest of {len(reports)} reports; the ECG's own report has rank {ranks[own]}"
    return (
        f'<article class="example"><h3>{escape(title)}</h3>'
        f'<p class="quiet">{escape(person)}; labels {escape(", ".join(record.labels) or "none")}</p>'
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(title)}, ECG">{ecg}</div>'
        f"{table([('rank', 'number'), ('cosine', 'number'), ('report', '')], rows, caption)}</article>"
    )


def _facts(run: Path, config: TrainConfig, encoder: Encoder | None, data: Shards) -> str:
    """Formats recipe, data, towers and versions as a table."""
    optim, loss, own = config.optim, config.loss, _own(run, data)
    records = ", ".join(f"{count} {name}" for name, count in data.splits.items())
    facts = {
        "Checkpoint": _checkpoint(config, encoder),
        "Parameters": _parameters(encoder) if encoder else "unknown until there is a checkpoint",
        "ECG tower": config.model.ecg.title,
        "Text tower": _text_tower(run, config),
        "Pairs and loss": f"{loss.pairs} reports, {loss.score}, temperature {loss.temperature:g}"
        + (" at the start" if loss.learn_temperature else ""),
        "Optimiser": f"{optim.name}, learning rate {optim.learning_rate:g}, {optim.schedule}, {optim.epochs:g} epochs, "
        f"batch {config.data.batch_size}, seed {config.seed}",
        "Data": f"{own['name']}, {own['fs']} Hz, {own['samples']} samples, leads {', '.join(own['leads'])}",
        **({"Shards": f"SHA-256 {own['fingerprint'][:16]}"} if own["fingerprint"] else {}),  # none if imported
        "Records": f"of the examples' shards {data.name}: {records}" if _others(run, data) else records,
        "Page written by": f"etp-jax {__version__}, JAX {jax.__version__}",
    }
    columns = [("", ""), ("", "")]
    options = flatten(config_module.to_dict(config))
    return (
        table(columns, [[escape(cell) for cell in fact] for fact in facts.items()], style="facts")
        + "<details><summary>Every option of the recipe</summary>"
        + table(columns, [[f"<code>{name}</code>", escape(str(value))] for name, value in options.items()])
        + "</details>"
    )


def _checkpoint(config: TrainConfig, encoder: Encoder | None) -> str:
    if encoder is None:
        return "none yet"
    chosen = {"loss": "lowest loss", "recall": "highest recall@10"}[config.run.best]
    return f"step {encoder.step}, the one with the {chosen} on the {VALIDATION} split"


def _parameters(encoder: Encoder) -> str:
    """Formats the number of parameters of each part of the model."""
    parts = dict(encoder.variables["params"])
    counts = {name.replace("_", " "): _count(tree) for name, tree in parts.items() if not name.startswith("logit")}
    if encoder.config.model.text.frozen:
        counts["text tower (frozen)"] = _count(encoder.tower.params)
    return ", ".join(f"{name} {count:,}" for name, count in sorted(counts.items()))


def _count(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))


def _text_tower(run: Path, config: TrainConfig) -> str:
    path = run / run_folder.TEXT_FILE
    if not path.exists():
        return config.model.text.pretrained or "from scratch"
    about = run_folder.read_about(path)
    sha256 = f", SHA-256 {about['sha256'][:16]}" if about["sha256"] else ""
    return f"{about['source']}, {'frozen' if about['frozen'] else 'trained'}, width {about['dim']}{sha256}"


def _own(run: Path, data: Shards) -> dict[str, Any]:
    """Describes the shards that a run was trained on; `data` if that is not known yet."""
    path = run / run_folder.SHARDS_FILE
    if path.exists():
        return run_folder.read_about(path)
    return {name: getattr(data, name) for name in ("name", "fs", "samples", "leads", "fingerprint")}


def _others(run: Path, data: Shards) -> str:
    """Names the shards that a run was trained on, if they are others; empty if they are the same or unknown."""
    own = _own(run, data)
    if own["fingerprint"] == data.fingerprint:
        return ""
    return f"not the shards {own['name']} ({own['fingerprint'][:16]}) that the run was trained on"
