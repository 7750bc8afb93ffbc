"""Makes results/text-prior.csv and the tables of its page: does a text prior help the linear probe?

    python studies/text_prior.py choose SHARDS
    python studies/text_prior.py tables WITHOUT.json WITH.json ...

`choose` fits probes of the shipped encoder on nine tenths of the training patients and scores the other tenth, for each
penalty of the prior's columns. `tables` compares pairs of results of `etp evaluate probe` that differ in --text-prior.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import SHIPPED, run_folder
from etp_jax.encoder.scores import class_directions
from etp_jax.evaluation import Result, logistic
from etp_jax.evaluation.outcome import make_row, summarise
from etp_jax.evaluation.probe import best_setting, draw, encode, fitted_and_chooser, prior_penalties
from etp_jax.evaluation.records import TaskRecords
from etp_jax.metrics.classification import macro_auroc
from etp_jax.reproduce.intervals import patients_p
from etp_jax.reproduce.tables import CSV
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import VALIDATION
from etp_jax.tasks import get_task

RESULTS = Path(__file__).parents[1] / "results"
STUDY = "text-prior"
TASKS = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")
FRACTIONS, SEEDS = (0.01, 0.1), range(2)
PENALTIES = (1.0, 0.1, 0.01, 0.001)
COLUMNS = ("without", *(f"penalty {penalty:g}" for penalty in PENALTIES))


def choose(folder: Path) -> None:
    """Writes the table of the macro-AUROC on the tenth, by task, share of labels and penalty."""
    encoder, shards = Encoder.from_run(run_folder(Path(SHIPPED))), Shards(folder)
    lines = [f"| task | labels | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 2) + "|"]
    every: list[list[float]] = []
    for name in TASKS:
        task = get_task(name)
        directions_CE = class_directions(encoder, task)
        fitted, tenth = fitted_and_chooser(TaskRecords(shards, task), VALIDATION)
        some, others = (encode(records, encoder, ("pooled", 1), directions_CE) for records in (fitted, tenth))
        for fraction in FRACTIONS:
            scores: list[list[float]] = []
            for seed in SEEDS:
                subset = draw(fitted.y_nC, fraction, seed)
                x_nF, y_nC, classes = some[subset], fitted.y_nC[subset], len(task.classes)
                fits = [(logistic.fit(x_nF[:, :-classes], y_nC), others[:, :-classes])]
                for penalty in PENALTIES:
                    penalty_F = prior_penalties(x_nF.shape[1], classes, penalty)
                    fits.append((logistic.fit(x_nF, y_nC, penalty_F=penalty_F), others))
                logits = [(logits := probes.logits(x))[best_setting(logits, tenth.y_nC)] for probes, x in fits]
                scores.append([macro_auroc(each, tenth.y_nC) for each in logits])
            every += scores
            lines.append(f"| {name} | {fraction:.0%} | {' | '.join(f'{x:.4f}' for x in np.mean(scores, axis=0))} |")
            print(lines[-1], flush=True)
    lines.append(f"| mean | | {' | '.join(f'{x:.4f}' for x in np.mean(every, axis=0))} |")
    write_between("choice", lines)


def lines_of(name: str, result: Result) -> Iterator[list[Any]]:
    """The lines of the CSV for one result."""
    for encoder, by_fraction in result.summary.items():
        for fraction, figures in by_fraction.items():
            for metric, figure in figures.items():
                about = [STUDY, name, 0, encoder, result.task, result.kind, "honest", "", fraction, metric]
                yield [*about, figure.mean, figure.low, figure.high, result.revision]


def differences(without: Result, with_prior: Result) -> Iterator[tuple[float, Any, float]]:
    """Paired differences of the trained encoder's macro-AUROC: fraction, figure, and p value over patients."""
    rows = [
        make_row(
            a.encoder,
            a.fraction,
            a.train_seed,
            a.subset_seed,
            {"difference": b.replicates["macro_auroc"] - a.replicates["macro_auroc"]},
        )
        for a, b in zip(without.rows, with_prior.rows, strict=True)
        if a.encoder == "trained"
    ]
    for fraction, figures in summarise(rows)["trained"].items():
        draws_SR = np.stack([row.replicates["difference"][1:] for row in rows if row.fraction == fraction])
        yield fraction, figures["difference"], patients_p(draws_SR.mean(axis=0))


def tables(pairs: list[tuple[Result, Result]]) -> None:
    """Writes the CSV and the page's table of results without and with the prior."""
    lines = ["| task | features | labels | without | with | difference |", "|---" * 6 + "|"]
    with (RESULTS / f"{STUDY}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV)
        for without, with_prior in pairs:
            features = "stages" if "features" in without.protocol else "pooled"
            names = f"shipped, {features}", f"shipped, {features} + text prior"
            writer.writerows([*lines_of(names[0], without), *lines_of(names[1], with_prior)])
            for fraction, figure, p in differences(without, with_prior):
                about = [
                    STUDY,
                    f"{names[1]} - {names[0]}",
                    0,
                    "difference",
                    without.task,
                    "probe",
                    "honest",
                    "",
                    fraction,
                ]
                writer.writerow([*about, "macro_auroc", figure.mean, figure.low, figure.high, without.revision])
                writer.writerow([*about, "macro_auroc_p_patients", round(p, 6), "", "", without.revision])
                both: list[Any] = [each.summary["trained"][fraction]["macro_auroc"] for each in (without, with_prior)]
                cells = [f"{each.mean:.4f} [{each.low:.4f}, {each.high:.4f}]" for each in both]
                cells.append(f"{figure.mean:+.4f} [{figure.low:+.4f}, {figure.high:+.4f}]")
                lines.append(f"| {without.task} | {features} | {fraction:.0%} | {' | '.join(cells)} |")
    write_between("tables", lines)


def write_between(what: str, lines: list[str]) -> None:
    """Replaces the lines of the page between two marks."""
    page = RESULTS / f"{STUDY}.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(f"<!-- {what} -->")
    after = rest.partition(f"<!-- end of {what} -->")[2]
    text = "\n".join(lines)
    page.write_text(f"{before}<!-- {what} -->\n\n{text}\n\n<!-- end of {what} -->{after}", encoding="utf-8")


if __name__ == "__main__":
    if sys.argv[1] == "choose":
        choose(Path(sys.argv[2]))
    else:
        given = [Result.load(Path(name)) for name in sys.argv[2:]]
        tables(list(zip(given[::2], given[1::2], strict=True)))
