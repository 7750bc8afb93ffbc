"""Classifiers on frozen features, such as the linear probe; their setting is chosen on other records."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.outcome import Outcome, classification_row
from etp_jax.evaluation.records import Labelled, TaskRecords
from etp_jax.evaluation.request import HONEST, PublishedRequest, check_fitted, check_protocol
from etp_jax.metrics.classification import best_thresholds, bootstrap_weights, has_both, macro_auroc, score
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN, VALIDATION

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class FrozenFeatures(PublishedRequest):
    """An evaluation that fits classifiers on frozen features."""

    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    """Seeds of the subsets of training records; the whole set is fitted once."""
    fractions: tuple[float, ...] = (0.01, 0.1, 1.0)
    """Shares of the training records to fit on, each greater than 0 and at most 1."""

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_fitted(self)
        super().check()
        if not self.fractions or not all(0 < fraction <= 1 for fraction in self.fractions):
            raise EtpError(f"--fractions is {self.fractions}; name shares above 0 and at most 1")
        if not self.seeds or min(self.seeds) < 0:
            raise EtpError(f"--seeds is {self.seeds}; name numbers that are not negative")

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels for which the result has rows."""
        return self.fractions


@dataclass(frozen=True, kw_only=True)
class Probe(FrozenFeatures):
    """Fits a linear probe, L2-regularised logistic regression, on 1, 10 and 100 % of the training records."""

    kind: ClassVar[str] = "probe"
    choice: ClassVar[Literal["", "prompts", "protocol"]] = "protocol"

    protocol: Literal["honest", "merl-as-published"] = HONEST
    """`merl-as-published` repeats what MERL's code does; among other things it chooses the epoch on the scored split.
    etp_jax/evaluation/merl.py lists all differences."""

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_protocol(self.kind, self.protocol)
        super().check()

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; a protocol other than `honest` comes after the split."""
        task, kind, split, *published = super().file_name()
        return [task, kind, split, *[self.protocol] * (self.protocol != HONEST), *published]


def evaluate(request: Probe, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits linear probes by the request's protocol, see `fit_and_score` and `merl.evaluate`."""
    from etp_jax.evaluation import logistic, merl  # both load jax

    if request.protocol != HONEST:
        return merl.evaluate(request, encoders, shards, request.fractions, merl.fit_linear)
    return fit_and_score(request, encoders, shards, logistic.fit)


class Classifier(Protocol):
    """A classifier fitted with L settings; the best setting is chosen on other records."""

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Scores [L, N, C] of some records, for each setting."""
        ...

    def details(self, number: int) -> dict[str, Any]:
        """Description of a setting, for the result's rows."""
        ...


def fit_and_score(
    request: FrozenFeatures,
    encoders: Sequence[tuple[str, Encoder]],
    shards: Shards,
    fit: Callable[[NDArray[np.float32], NDArray[np.bool_]], Classifier],
) -> Outcome:
    """Fits classifiers on fractions of the training records, chooses their setting on others, and scores a split once.

    Setting (by macro AUROC) and thresholds are chosen on the validation split. If that split is scored, they are chosen
    on a part of the training patients (`Labelled.calibration_patients`); the classifiers are fitted on the other part.

    Args:
      request: names the task, the split and the subsets. Subsets are stratified (`draw`); each is contained in the next
        larger one of the same seed.
      encoders: each with its name in the result.
      shards: shard folder with that split, `train` and `validation`.
      fit: function of features [N, F] and classes [N, C] that returns a classifier.

    Raises:
      EtpError: there are too few records to choose a setting on.
    """
    records, split, fractions = request.records(shards), request.split, request.fractions
    task, target = records.task, records.of(split)
    fitted, chooser = fitted_and_chooser(records, split)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        split,
        target,
        "training patients who were not fitted" if split == VALIDATION else "validation",
        fitted_on=f"{len(fitted)} records of train, shares stratified by the rarest class of a record",
        chosen_by=f"macro AUROC over {len(chooser)} records",
    )
    draws = [(fraction, seed) for fraction in fractions for seed in (request.seeds if fraction < 1 else [None])]
    for name, encoder in encoders:
        fitted_nF, chooser_nF, target_nF = (some.encode(encoder)[0] for some in (fitted, chooser, target))
        for fraction, seed in Bar(draws, desc=f"{name} encoder", unit="fit"):
            subset = np.arange(len(fitted)) if seed is None else draw(fitted.y_nC, fraction, seed)
            y_sC = fitted.y_nC[subset]
            classifier = fit(fitted_nF[subset], y_sC)
            choices_LnC = classifier.logits(chooser_nF)
            best = int(np.argmax([macro_auroc(scores_nC, chooser.y_nC) for scores_nC in choices_LnC]))
            scores_nC = classifier.logits(target_nF)[best]
            called_nC = scores_nC >= best_thresholds(choices_LnC[best], chooser.y_nC)
            covered = {"train_records": len(subset), "train_classes": int(has_both(y_sC).sum())}
            scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
            about = (fraction, encoder.train_seed, seed)
            outcome.rows.append(classification_row(scored, task, name, *about, **covered, **classifier.details(best)))
            if fraction == max(fractions):
                outcome.arrays.setdefault(name, scores_nC)
    return outcome


def fitted_and_chooser(records: TaskRecords, split: str) -> tuple[Labelled, Labelled]:
    """Returns the records to fit on and those to choose a setting on, when `split` is scored.

    Raises:
      EtpError: there are too few records to choose a setting on.
    """
    fitted = records.of(TRAIN)
    if split == VALIDATION:
        tenth_n = fitted.calibration_patients()
        fitted, chooser = fitted.where(~tenth_n), fitted.where(tenth_n)
    else:
        chooser = records.of(VALIDATION)
    if not has_both(chooser.y_nC).any():
        folder = records.shards.folder
        raise EtpError(f"{folder}: too few records to choose a probe's strength on: no class has both outcomes")
    return fitted, chooser


def draw(y_NC: NDArray[np.bool_], fraction: float, seed: int) -> NDArray[np.int64]:
    """Draws a random share of some records, at least one, stratified by the rarest class of each record.

    Every stratum is shuffled and spread evenly over the whole order, from a random start; the share is the beginning of
    that order. So each stratum contributes its share to within one record, and smaller shares are nested in larger
    ones. Very rare classes may still have no record. Returns the numbers of the drawn records.
    """
    rng = np.random.default_rng(seed)
    counts_C = y_NC.sum(axis=0)
    rarest_N = np.where(y_NC, counts_C, len(y_NC) + 1).argmin(axis=1)
    rarest_N[~y_NC.any(axis=1)] = -1
    place_N = np.empty(len(y_NC))
    for stratum in np.unique(rarest_N):
        members = rng.permutation(np.flatnonzero(rarest_N == stratum))
        place_N[members] = (np.arange(len(members)) + rng.random()) / len(members)
    return np.argsort(place_N, kind="stable")[: max(1, round(fraction * len(y_NC)))]
