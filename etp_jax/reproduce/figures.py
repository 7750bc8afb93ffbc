"""The figures of a study: means over seeds with both intervals, and comparisons of pairs of runs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.config import ModelConfig
from etp_jax.evaluation.evaluate import REVISION, versions
from etp_jax.evaluation.request import BOOTSTRAP
from etp_jax.evaluation.results import Result, number
from etp_jax.reproduce import plan
from etp_jax.reproduce.intervals import Floats, over_patients, over_seeds, patients_p, seeds_p
from etp_jax.reproduce.plan import PlannedEvaluation, PlannedTraining
from etp_jax.reproduce.study import Measurement, Study
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.training import run_folder

Failures = dict[str, str]
"""Error message by name of a failed training or evaluation."""
FROM_NOTHING = ("random", "supervised")
"""Encoders that were not trained on reports."""


@dataclass(frozen=True)
class Cell:
    """An encoder's figures for one measurement and share of the labels."""

    records: int
    """Number of records scored."""
    replicates: dict[str, dict[int, Floats]]
    """Values [1 + R] by metric and training seed (random encoder: seed of its weights); means over subset seeds."""
    classes: int | None
    """Number of classes; None if no classifier was fitted."""
    classes_fitted: float | None
    """Mean number of classes with both outcomes in the fitted records; None if no classifier was fitted."""


Cells = dict[tuple[str, Measurement, float], Cell]
"""Cells of trained encoders, by run, measurement and fraction of the labels."""


def figures(study: Study, trainings: Sequence[PlannedTraining], failures: Failures) -> dict[str, Any]:
    """Computes the content of `table.json`: `rows`, `comparisons`, and a description of the data and versions."""
    found: dict[PlannedEvaluation, Result] = {}
    for training in trainings:
        found |= plan.measured(study, training)
    rows, cells = _run_rows(study, trainings, found, failures)
    shards = Shards(study.shards)
    others = {(m.request.shards, m.request.split): None for own in study.measurements.values() for m in own}
    others.pop((study.shards, study.split), None)
    return {
        "title": study.title,
        "study": study.file.name,
        "split": study.split,
        "checkpoint": study.checkpoint,
        "shards": {"name": shards.name, "fs": shards.fs, "fingerprint": shards.fingerprint},
        "other_shards": [
            {"name": Shards(folder).name, "split": split, "fingerprint": Shards(folder).fingerprint}
            for folder, split in others
        ],
        "bootstrap": f"{BOOTSTRAP} draws of patients, the same ones for all rows of a task",
        "revision": REVISION,
        "versions": versions(),
        "rows": [*rows, *_random_rows(trainings, found), *_published_rows(study)],
        "comparisons": [c for pair in study.pairs for c in _compare(pair, study, cells)],
        "failed": failures,
    }


def _run_rows(
    study: Study, trainings: Sequence[PlannedTraining], found: dict[PlannedEvaluation, Result], failures: Failures
) -> tuple[list[dict[str, Any]], Cells]:
    """Creates the rows of all encoders except the random ones, and the cells of the trained encoders."""
    rows, cells = [], Cells()
    for run in study.runs:
        own = [training for training in trainings if training.run is run]
        label = run.pretrained_on or _pretrained_on(own[0])
        for measurement, seeds in study.measurements[run.name].items():
            wanted = [PlannedEvaluation(run.name, t.seed, t.folder, measurement) for t in own if t.seed in seeds]
            measured = [found[evaluation] for evaluation in wanted if evaluation in found]
            names = [row.encoder for result in measured for row in result.rows]
            for encoder in dict.fromkeys(["trained", *names]):
                for fraction in measurement.request.label_fractions():
                    if encoder == "random":
                        continue
                    cell = _cell(measured, encoder, fraction)
                    on = "nothing" if encoder in FROM_NOTHING else label
                    status = "measured" if cell else _status(wanted, failures)
                    columns = measurement.columns()
                    rows.append(_row(run.name, encoder, on, columns, fraction, cell, seeds, status))
                    if cell and encoder == "trained":
                        cells[run.name, measurement, fraction] = cell
    return rows, cells


def _random_rows(trainings: Sequence[PlannedTraining], found: dict[PlannedEvaluation, Result]) -> list[dict[str, Any]]:
    """Creates the rows of the random encoders: one per model, from the first of its runs that was evaluated."""
    models: dict[ModelConfig, tuple[str, dict[tuple[Measurement, float], Cell]]] = {}
    for evaluation, result in found.items():
        training = next(t for t in trainings if t.folder == evaluation.folder)
        _, drawn = models.setdefault(training.config.model, (evaluation.run, {}))
        for fraction in evaluation.measurement.request.label_fractions():
            if cell := _cell([result], "random", fraction):
                drawn.setdefault((evaluation.measurement, fraction), cell)
    rows = []
    for run, drawn in models.values():
        name = "random encoder" if len(models) == 1 else f"random encoder, model of {run}"
        for (measurement, fraction), cell in drawn.items():
            seeds = tuple(next(iter(cell.replicates.values())))
            rows.append(_row(name, "random", "nothing", measurement.columns(), fraction, cell, seeds, "measured"))
    return rows


def _published_rows(study: Study) -> list[dict[str, Any]]:
    """Creates the rows of published figures, as the study quotes them."""
    rows = []
    for entry in study.published:
        for task, value in entry["macro_auroc"].items():
            columns = {"kind": entry["kind"], "how": None, "task": task}
            on, fraction = entry["pretrained_on"], entry.get("labels", 0.0)
            row = _row(entry["name"], "published", on, columns, fraction, None, (), "published")
            figure = {"mean": value, "patients": None, "seeds": None, "by_seed": [], "patients_by_seed": []}
            rows.append(row | {"values": {"macro_auroc": figure}, "source": entry["source"]})
    return rows


def _pretrained_on(training: PlannedTraining) -> str:
    """Describes the training data, such as "ptbxl train (33 % of the patients), after coarse"."""
    about, data, base = training.folder / run_folder.SHARDS_FILE, training.config.data, training.run.start_from
    share = "" if data.train_share == 1 else f" ({_per_cent(data.train_share)} % of the patients)"
    if not about.exists():
        name = Path(data.shards).name if training.problem else Shards(data.shards).name
        return f"{name} {TRAIN}{share}{f', after {base}' if base else ''}"
    seen = run_folder.read_about(about)
    if "imported" in seen:
        return seen["name"]
    if base:  # a run of the study, which has a row of its own
        return f"{seen['name']} {TRAIN}{share}, after {base}"
    return ", then ".join(f"{each['name']} {TRAIN}" for each in (*seen.get("earlier", []), seen)) + share


def _per_cent(share: float) -> str:
    """Formats a share in whole per cent, or more exactly where that would be 0 or 100."""
    whole = f"{100 * share:.0f}"
    return f"{100 * share:.3g}" if whole in ("0", "100") else whole


def _cell(results: Sequence[Result], encoder: str, fraction: float) -> Cell | None:
    """Collects the figures of an encoder from evaluations of one run; None if there are none."""
    found: dict[str, dict[int, list[Floats]]] = {}
    classes, fitted = None, []
    for row in (row for result in results for row in result.rows):
        if row.encoder == encoder and row.fraction == fraction:
            if "train_classes" in row.details:
                classes = len(row.per_class)
                fitted.append(row.details["train_classes"])
            for metric, replicates_R in row.replicates.items():
                found.setdefault(metric, {}).setdefault(row.train_seed, []).append(replicates_R)
    means = {
        metric: {seed: np.mean(values, axis=0) for seed, values in sorted(by_seed.items())}
        for metric, by_seed in found.items()
    }
    if not means:
        return None
    return Cell(results[0].records, means, classes, float(np.mean(fitted)) if fitted else None)


def _status(wanted: Sequence[PlannedEvaluation], failures: Failures) -> str:
    """Status of an evaluation without a result: `failed` or `not run`."""
    names = {name for evaluation in wanted for name in (str(evaluation), f"{evaluation.run}-{evaluation.seed}")}
    return "failed" if names & failures.keys() else "not run"


def _row(
    run: str,
    encoder: str,
    pretrained_on: str,
    columns: Mapping[str, str | None],
    fraction: float,
    cell: Cell | None,
    planned_seeds: Sequence[int],
    status: str,
) -> dict[str, Any]:
    """Creates a row of the JSON."""
    replicates = cell.replicates if cell else {}
    return {
        "run": run,
        "encoder": encoder,
        "pretrained_on": pretrained_on,
        **columns,
        "fraction": fraction,
        "status": status,
        "records": cell.records if cell else None,
        "classes": cell.classes if cell else None,
        "classes_fitted": cell.classes_fitted if cell else None,
        "seeds": list(next(iter(replicates.values()), ())),
        "planned_seeds": list(planned_seeds),
        "values": {metric: _figure(np.stack(list(by_seed.values()))) for metric, by_seed in replicates.items()},
    }


def _figure(values_SR: Floats) -> dict[str, Any]:
    """Computes the mean over seeds with both intervals, and the value of each seed with its interval over patients."""
    sample_S, replicates_SR = values_SR[:, 0], values_SR[:, 1:]
    figure = {"mean": sample_S.mean(), "patients": over_patients(replicates_SR), "seeds": over_seeds(sample_S)}
    patients_by_seed = [over_patients(replicates_1R) for replicates_1R in replicates_SR[:, None]]
    return _rounded(figure | {"by_seed": sample_S.tolist(), "patients_by_seed": patients_by_seed})


def _compare(pair: tuple[str, str], study: Study, cells: Cells) -> Iterator[dict[str, Any]]:
    """Yields the first run minus the second, wherever both have figures with a common seed."""
    first, second = pair
    for measurement in study.measurements[first]:
        for fraction in measurement.request.label_fractions():
            if not ((first, measurement, fraction) in cells and (second, measurement, fraction) in cells):
                continue
            ours, theirs = (cells[run, measurement, fraction].replicates for run in pair)
            for metric in measurement.kind.compared:
                seeds = sorted(ours[metric].keys() & theirs[metric].keys())
                if not seeds:
                    continue
                differences_SR = np.stack([ours[metric][seed] - theirs[metric][seed] for seed in seeds])
                p = {"patients": patients_p(differences_SR[:, 1:].mean(axis=0)), "seeds": seeds_p(differences_SR[:, 0])}
                about = {"pair": list(pair), **measurement.columns(), "fraction": fraction, "metric": metric}
                yield about | {"common_seeds": seeds, **_figure(differences_SR), "p": _rounded(p)}


def _rounded(value: Any) -> Any:
    """Rounds the numbers of a tree to six decimals; NaN becomes None."""
    if isinstance(value, dict):
        return {key: _rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_rounded(each) for each in value]
    return value if value is None else number(value)
