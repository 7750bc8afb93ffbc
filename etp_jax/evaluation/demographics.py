"""Demographics: how well sex and age can be read from frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.probe import best_setting, fitted_and_chooser
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import Request, check_scored
from etp_jax.metrics.classification import bootstrap_weights, has_both, ranking
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

COMPARED = ("sex_auroc", "age_mae")
NOTE = "AUROC of sex, and mean absolute error of age in years."


@dataclass(frozen=True, kw_only=True)
class Demographics(Request):
    """Reads sex (logistic probe) and age (ridge regression) from frozen features."""

    kind: ClassVar[str] = "demographics"

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_scored(self)
        super().check()

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training records for which the result has rows."""
        return (1.0,)


@dataclass(frozen=True)
class People:
    """The records whose sex and age are known; their only class is `female`."""

    shards: Shards

    def of(self, split: str) -> Labelled:
        """Selects the records of a split; raises EtpError if not both sexes are among them."""
        opened = self.shards.split(split)
        columns = opened.columns
        sex_N = np.array(columns.sex)
        rows = np.flatnonzero((sex_N != "") & ~np.isnan(columns.age))
        record_ids, patients = np.array(columns.record_id)[rows], np.array(columns.patient_id)[rows]
        female_n1 = (sex_N[rows] == "female")[:, None]
        if not has_both(female_n1).all():
            raise EtpError(f"{self.shards.folder}: split {split!r} has no two sexes among its records of known age")
        return Labelled((opened,), rows, record_ids, patients, female_n1)


def ages(records: Labelled) -> NDArray[np.float64]:
    """Ages [n] of records of one split, in years."""
    return records.splits[0].columns.age[records.rows].astype(np.float64)


def evaluate(request: Demographics, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits both on the training records, chooses the strengths as the linear probe does, and scores a split once."""
    from etp_jax.evaluation import logistic, ridge  # logistic loads jax

    people = People(shards)
    target = people.of(request.split)
    fitted, chooser = fitted_and_chooser(people, request.split)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    age_n, median = ages(target), float(np.median(ages(fitted)))
    outcome = Outcome(
        len(target),
        None,
        {
            "records": f"sex and age known: {len(target)} of the {shards.splits[request.split]} records",
            "fitted_on": f"{len(fitted)} records of train",
            "chosen_by": f"AUROC of sex and error of age over {len(chooser)} records",
            "age_mae_of_median": f"error of the training records' median, {median:g} years, which needs no ECG",
        },
    )
    for name, encoder in encoders:
        fitted_nF, chooser_nF, target_nF = (records.encode(encoder)[0] for records in (fitted, chooser, target))
        probes = logistic.fit(fitted_nF, fitted.y_nC)
        best = best_setting(probes.logits(chooser_nF), chooser.y_nC)
        regressions = ridge.fit(fitted_nF, ages(fitted), logistic.L2)
        best_age = int(np.abs(regressions.predict(chooser_nF) - ages(chooser)[:, None]).mean(axis=0).argmin())
        error_n = np.abs(regressions.predict(target_nF)[:, best_age] - age_n)
        replicates = {
            "sex_auroc": ranking(probes.logits(target_nF)[best][:, 0], target.y_nC[:, 0], weights_nR)[0],
            "age_mae": error_n @ weights_nR / weights_nR.sum(axis=0),
            "age_mae_of_median": np.abs(age_n - median) @ weights_nR / weights_nR.sum(axis=0),
        }
        details = {"l2_sex": logistic.L2[best], "l2_age": logistic.L2[best_age], "train_records": len(fitted)}
        outcome.rows.append(make_row(name, 1.0, encoder.train_seed, None, replicates, details))
    return outcome
