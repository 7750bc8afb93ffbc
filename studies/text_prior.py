"""Makes results/text-prior.csv and the tables of its page: does a text prior help the linear probe?

    python studies/text_prior.py choose SHARDS
    python studies/text_prior.py measure SHARDS

`choose` fits probes of the shipped encoder on nine tenths of the training patients and scores the other tenth, for each
penalty of the prior's columns. `measure` compares `etp evaluate probe` on fold 9 with and without --text-prior; it
leaves out the random encoder.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import SHIPPED, run_folder
from etp_jax.encoder.scores import class_directions
from etp_jax.evaluation import logistic, probe
from etp_jax.evaluation.evaluate import REVISION
from etp_jax.evaluation.outcome import make_row, summarise
from etp_jax.evaluation.probe import Probe, best_setting, draw, encode, fitted_and_chooser, prior_penalties
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.results import Row
from etp_jax.metrics.classification import macro_auroc
from etp_jax.reproduce.intervals import patients_p
from etp_jax.reproduce.tables import CSV
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import VALIDATION
from etp_jax.tasks import get_task

RESULTS = Path(__file__).parents[1] / "results"
STUDY = "text-prior"
TASKS = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")
RUN = "shipped"
FORMS = (".4f", ".4f", "+.4f")
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


def measure(folder: Path) -> None:
    """Writes the CSV and the table of the macro-AUROC on fold 9, without and with the prior, task by task."""
    encoder, shards = Encoder.from_run(run_folder(Path(SHIPPED))), Shards(folder)
    lines: list[list[Any]] = []
    table = ["| task | labels | without | with | difference | p |", "|---" * 6 + "|"]
    for task in TASKS:
        rows: dict[str, list[Row]] = {}
        for name, text_prior in ((RUN, False), (f"{RUN} + text prior", True)):
            request = Probe(run=Path(SHIPPED), shards=folder, task=task, text_prior=text_prior)
            rows[name] = probe.evaluate(request, [("trained", encoder)], shards).rows
        (without, plain), (with_prior, prior) = rows.items()
        rows[f"{with_prior} - {without}"] = [minus(a, b) for a, b in zip(prior, plain, strict=True)]
        summaries = {name: summarise(some)["trained"] for name, some in rows.items()}
        for name, summary in summaries.items():
            kind = "difference" if name not in (without, with_prior) else "trained"
            for fraction, figures in summary.items():
                about = [STUDY, name, 0, kind, task, "probe", "honest", "", fraction]
                lines += [[*about, metric, f.mean, f.low, f.high, REVISION] for metric, f in figures.items()]
        for fraction in summaries[without]:
            cells = [
                _cell(summaries[name][fraction]["macro_auroc"], form) for name, form in zip(rows, FORMS, strict=True)
            ]
            differences_SR = [row.replicates["macro_auroc"] for row in [*rows.values()][2] if row.fraction == fraction]
            p = patients_p(np.mean(differences_SR, axis=0)[1:])
            about = [STUDY, [*rows][2], 0, "difference", task, "probe", "honest", "", fraction]
            lines.append([*about, "macro_auroc_p_patients", round(p, 6), "", "", REVISION])
            table.append(f"| {task} | {fraction:.0%} | {' | '.join(cells)} | {p:.3f} |")
            print(table[-1], flush=True)
        with (RESULTS / f"{STUDY}.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([CSV, *lines])
        write_between("tables", table)


def minus(a: Row, b: Row) -> Row:
    """The paired difference of two rows: both have the same draws of patients."""
    replicates = {name: a.replicates[name] - b.replicates[name] for name in a.replicates}
    return make_row(a.encoder, a.fraction, a.train_seed, a.subset_seed, replicates)


def _cell(figure: Any, form: str) -> str:
    return f"{figure.mean:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def write_between(what: str, lines: list[str]) -> None:
    """Replaces the lines of the page between two marks."""
    page = RESULTS / f"{STUDY}.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(f"<!-- {what} -->")
    after = rest.partition(f"<!-- end of {what} -->")[2]
    text = "\n".join(lines)
    page.write_text(f"{before}<!-- {what} -->\n\n{text}\n\n<!-- end of {what} -->{after}", encoding="utf-8")


if __name__ == "__main__":
    {"choose": choose, "measure": measure}[sys.argv[1]](Path(sys.argv[2]))
