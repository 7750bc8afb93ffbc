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
from etp_jax.evaluation.results import Result
from etp_jax.metrics.bootstrap import Weights, bootstrap_weights, weighted_mean
from etp_jax.metrics.classification import has_both, ranking
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

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result measured sex and age apart, each on all records where it is known."""
        return super().answered_by(result) and {"sex", "age"} <= set(result.protocol)


@dataclass(frozen=True)
class Parts:
    """The records whose sex, or whose age, is known."""

    fitted: Labelled
    chooser: Labelled
    target: Labelled

    def __str__(self) -> str:
        """Numbers of records."""
        fitted, chooser, target = map(len, (self.fitted, self.chooser, self.target))
        return f"fitted on {fitted} records of train, chosen over {chooser} records, scored on {target}"

    def encode(self, encoder: Encoder) -> list[NDArray[np.float32]]:
        """Computes the pooled features [n, F] of each."""
        return [records.encode(encoder)[0] for records in (self.fitted, self.chooser, self.target)]


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

    def measured_on(self, split: str) -> Parts | None:
        """Returns the records when `split` is scored; None if one part of them lacks what the quantity needs."""
        fitted, chooser = fitting_records(self, split)
        parts = Parts(fitted, chooser, self.of(split))
        every = parts.fitted, parts.chooser, parts.target
        if self.quantity == "sex":
            return parts if all(has_both(records.y_nC).all() for records in every) else None
        return parts if all(map(len, every)) and len(np.unique(ages(fitted))) > 1 else None


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
            f"{shards.folder}: has {_known(shards, request.split)}; train, validation and that split need both sexes "
            "each, or ages that differ; add them to the source and prepare the shards again"
        )
    about = {"records": _known(shards, request.split)}
    missing = "not measured: unknown, or the same in all records, of a part that it needs"
    about |= {quantity: str(parts or missing) for quantity, parts in {"sex": sex, "age": age}.items()}
    if age is not None:
        median = f"{np.median(ages(age.fitted)):g} years"
        about["age_mae_of_median"] = f"error of the training records' median, {median}, which needs no ECG"
    scored = np.unique(np.concatenate([parts.target.rows for parts in (sex, age) if parts]))
    outcome = Outcome(len(scored), None, about)
    for name, encoder in encoders:
        replicates = {metric: np.full(1 + request.bootstrap, np.nan) for metric in METRICS}
        details: dict[str, Any] = {}
        for parts, read in ((sex, read_sex), (age, read_age)):
            if parts is not None:
                figures, settings = read(parts, encoder, bootstrap_weights(parts.target.patients, request.bootstrap))
                replicates, details = replicates | figures, details | settings
        outcome.rows.append(make_row(name, 1.0, encoder.train_seed, None, replicates, details))
    return outcome


def read_sex(
    parts: Parts, encoder: Encoder, weights_nR: Weights
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the AUROC [1 + R] of a logistic probe by name, and its strength."""
    from etp_jax.evaluation import logistic  # loads jax

    fitted_nF, chooser_nF, target_nF = parts.encode(encoder)
    probes = logistic.fit(fitted_nF, parts.fitted.y_nC)
    best = best_setting(probes.logits(chooser_nF), parts.chooser.y_nC)
    auroc_R, _ = ranking(probes.logits(target_nF)[best][:, 0], parts.target.y_nC[:, 0], weights_nR)
    return {"sex_auroc": auroc_R}, {"l2_sex": logistic.L2[best], "train_records_sex": len(parts.fitted)}


def read_age(
    parts: Parts, encoder: Encoder, weights_nR: Weights
) -> tuple[dict[str, NDArray[np.float64]], dict[str, Any]]:
    """Returns the mean absolute errors [1 + R] of a ridge regression and of the median by name, and the strength."""
    from etp_jax.evaluation import logistic, ridge  # logistic loads jax

    fitted_nF, chooser_nF, target_nF = parts.encode(encoder)
    regressions = ridge.fit(fitted_nF, ages(parts.fitted), logistic.L2)
    best = int(np.abs(regressions.predict(chooser_nF) - ages(parts.chooser)[:, None]).mean(axis=0).argmin())
    errors = {
        "age_mae": np.abs(regressions.predict(target_nF)[:, best] - ages(parts.target)),
        "age_mae_of_median": np.abs(np.median(ages(parts.fitted)) - ages(parts.target)),
    }
    means = {name: weighted_mean(error_n, weights_nR) for name, error_n in errors.items()}
    return means, {"l2_age": logistic.L2[best], "train_records_age": len(parts.fitted)}


def _known(shards: Shards, split: str) -> str:
    """Counts the records of a split whose sex and age are known."""
    columns = shards.split(split).columns
    sexes = np.array(columns.sex)
    women, men, aged = (sexes == "female").sum(), (sexes == "male").sum(), (~np.isnan(columns.age)).sum()
    return f"{women} women, {men} men and {aged} known ages among the {len(sexes)} records of split {split!r}"
