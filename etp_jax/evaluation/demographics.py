"""Demographics: how well sex and age can be read from frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.probe import best_setting, fitting_records
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import Request, check_scored
from etp_jax.metrics.classification import Weights, bootstrap_weights, has_both, ranking
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

METRICS = ("sex_auroc", "age_mae", "age_mae_of_median")
COMPARED = METRICS[:2]
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
class Known:
    """The records whose sex, or whose age, is known; their only class is `female`."""

    shards: Shards
    quantity: Literal["sex", "age"]

    def of(self, split: str) -> Labelled:
        """Selects the records of a split."""
        opened = self.shards.split(split)
        columns, sex_N = opened.columns, np.array(opened.columns.sex)
        rows = np.flatnonzero(sex_N != "" if self.quantity == "sex" else ~np.isnan(columns.age))
        record_ids, patients = np.array(columns.record_id)[rows], np.array(columns.patient_id)[rows]
        return Labelled((opened,), rows, record_ids, patients, (sex_N[rows] == "female")[:, None])

    def measured_on(self, split: str) -> tuple[Labelled, Labelled, Labelled] | None:
        """Returns the records to fit on, to choose a strength on and to score; None if the quantity hardly varies."""
        found = *fitting_records(self, split), self.of(split)
        if self.quantity == "sex":
            return found if all(has_both(records.y_nC).all() for records in found) else None
        return found if all(map(len, found)) and len(np.unique(ages(found[0]))) > 1 else None


def ages(records: Labelled) -> NDArray[np.float64]:
    """Ages [n] of records of one split, in years."""
    return records.splits[0].columns.age[records.rows].astype(np.float64)


def evaluate(request: Demographics, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits both on the training records, chooses the strengths as the linear probe does, and scores a split once.

    Raises:
      EtpError: neither sex nor age is known of enough records.
    """
    sex, age = (Known(shards, quantity).measured_on(request.split) for quantity in ("sex", "age"))
    if sex is None and age is None:
        raise EtpError(
            f"{shards.folder}: has {_known(shards, request.split)}; neither both sexes nor ages that differ are among "
            "the records to fit on, to choose a strength on and to score"
        )
    about = {"records": _known(shards, request.split)}
    for quantity, found in {"sex": sex, "age": age}.items():
        about[quantity] = "not measured: it hardly varies among the records" if found is None else _described(found)
    if age is not None:
        median = f"{np.median(ages(age[0])):g} years"
        about["age_mae_of_median"] = f"error of the training records' median, {median}, which needs no ECG"
    outcome = Outcome(max(len(found[2]) for found in (sex, age) if found), None, about)
    for name, encoder in encoders:
        replicates = {metric: np.full(1 + request.bootstrap, np.nan) for metric in METRICS}
        details: dict[str, Any] = {"train_records": max(len(found[0]) for found in (sex, age) if found)}
        for found, read in ((sex, read_sex), (age, read_age)):
            if found is not None:
                weights_nR = bootstrap_weights(found[2].patients, request.bootstrap)
                figures, settings = read(encoder, *found, weights_nR)
                replicates, details = replicates | figures, details | settings
        outcome.rows.append(make_row(name, 1.0, encoder.train_seed, None, replicates, details))
    return outcome


def read_sex(
    encoder: Encoder, fitted: Labelled, chooser: Labelled, target: Labelled, weights_nR: Weights
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the AUROC [1 + R] of a logistic probe, and its strength."""
    from etp_jax.evaluation import logistic  # loads jax

    fitted_nF, chooser_nF, target_nF = (records.encode(encoder)[0] for records in (fitted, chooser, target))
    probes = logistic.fit(fitted_nF, fitted.y_nC)
    best = best_setting(probes.logits(chooser_nF), chooser.y_nC)
    auroc_R, _ = ranking(probes.logits(target_nF)[best][:, 0], target.y_nC[:, 0], weights_nR)
    return {"sex_auroc": auroc_R}, {"l2_sex": logistic.L2[best]}


def read_age(
    encoder: Encoder, fitted: Labelled, chooser: Labelled, target: Labelled, weights_nR: Weights
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the mean absolute errors [1 + R] of a ridge regression and of the median, and the strength."""
    from etp_jax.evaluation import logistic, ridge  # loads jax

    fitted_nF, chooser_nF, target_nF = (records.encode(encoder)[0] for records in (fitted, chooser, target))
    regressions = ridge.fit(fitted_nF, ages(fitted), logistic.L2)
    best = int(np.abs(regressions.predict(chooser_nF) - ages(chooser)[:, None]).mean(axis=0).argmin())
    errors = {
        "age_mae": np.abs(regressions.predict(target_nF)[:, best] - ages(target)),
        "age_mae_of_median": np.abs(np.median(ages(fitted)) - ages(target)),
    }
    means = {name: error_n @ weights_nR / weights_nR.sum(axis=0) for name, error_n in errors.items()}
    return means, {"l2_age": logistic.L2[best]}


def _known(shards: Shards, split: str) -> str:
    """Counts the records of a split whose sex and age are known."""
    columns = shards.split(split).columns
    sexes = np.array(columns.sex)
    women, men, aged = (sexes == "female").sum(), (sexes == "male").sum(), (~np.isnan(columns.age)).sum()
    return f"{women} women, {men} men and {aged} known ages among the {len(sexes)} records of split {split!r}"


def _described(found: tuple[Labelled, Labelled, Labelled]) -> str:
    fitted, chooser, target = map(len, found)
    return f"fitted on {fitted} records of train, chosen over {chooser} records, scored on {target}"
