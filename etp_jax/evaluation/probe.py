"""Classifiers on frozen features, such as the linear probe; their setting is chosen on other records."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation import ecg_fm_benchmark
from etp_jax.evaluation.figures import percent
from etp_jax.evaluation.outcome import Outcome, classification_row
from etp_jax.evaluation.records import Labelled, TaskRecords
from etp_jax.evaluation.request import (
    FIELD,
    HONEST,
    MERL,
    MERL_SEED,
    PublishedRequest,
    check_fitted,
    check_protocol,
)
from etp_jax.evaluation.results import Result
from etp_jax.metrics.bootstrap import bootstrap_weights
from etp_jax.metrics.classification import best_thresholds, has_both, macro_auroc, score
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN, VALIDATION
from etp_jax.tasks import Task, check_prompts

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder


PLAIN = ("pooled", 1)
"""Feature set and number of views of an encoder's output as it is."""
TOKENS = ("tokens", 1)
"""The last stage over time, which only the attention head reads."""
LINEAR = "linear"
PRIOR_PENALTY = 0.1
"""Penalty of the columns of `Probe.text_prior`, as a factor of the L2 of the features. Chosen among 1, 0.1, 0.01 and
0.001 on the tenth of the training patients, four tasks at 1 and 10 % (results/text-prior.md)."""


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

    def subset_seeds(self) -> set[int]:
        """Seeds of the subsets of training records that a result has rows of."""
        return set(self.seeds)

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result has these shares of the labels, and these subsets of them if it drew any."""
        drawn = {row.subset_seed for row in result.rows if row.fraction in self.fractions} - {None}
        has_shares = {row.fraction for row in result.rows}.issuperset(self.fractions)
        same = has_shares and drawn in (set(), self.subset_seeds()) and ecg_fm_benchmark.is_described(result)
        return super().answered_by(result) and same


@dataclass(frozen=True, kw_only=True)
class Probe(FrozenFeatures):
    """Fits a linear probe, L2-regularised logistic regression, on 1, 10 and 100 % of the training records."""

    kind: ClassVar[str] = "probe"
    choice: ClassVar[Literal["", "prompts", "protocol"]] = "protocol"

    protocol: Literal["honest", "merl-as-published", "ecg-fm-benchmark"] = HONEST
    """`ecg-fm-benchmark` scores every record, as the ECG-FM benchmark does (etp_jax/evaluation/ecg_fm_benchmark.py).
    `merl-as-published` repeats what MERL's code does; among other things it chooses the epoch on the scored split
    (etp_jax/evaluation/merl.py lists all differences)."""
    head: Literal["linear", "attention"] = "linear"
    """Classifier on the frozen encoder: `linear` on its features, or `attention` over the time steps of a ResNet's last
    stage, trained by gradient descent; the epoch is chosen in place of the L2."""
    features: tuple[Literal["pooled", "stage4", "stages34", "stages"], ...] = ("pooled",)
    """Feature sets among which the probe chooses, together with its strength, on records that are not scored. `pooled`:
    the encoder's output; `stage4`, `stages34`, `stages`: mean, maximum and standard deviation over time of the channels
    of the last, the last two and all stages of a ResNet."""
    views: tuple[int, ...] = (1,)
    """Numbers of time shifts (evenly from -0.5 to 0.5 s) over which features are averaged; several: the probe chooses
    among them too. 1 means no shift."""
    text_prior: bool = False
    """Whether the zero-shot scores of the task's default prompts are added to the features, for few labels. Their
    weights are penalised less than those of the features."""

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_protocol(self.kind, self.protocol)
        if not self.features or not self.views or min(self.views) < 1:
            raise EtpError(
                f"--features {self.features} --views {self.views}; name at least one set, and views from 1 on"
            )
        if len(set(self.candidates())) < len(self.candidates()):
            raise EtpError(f"--features {self.features} --views {self.views}; name each once")
        if self.protocol == FIELD and self.published is not None:
            raise EtpError(f"--protocol {self.protocol} scores every record of a split; omit --published")
        if self.protocol == MERL and (self.candidates() != (PLAIN,) or self.head != LINEAR or self.text_prior):
            omitted = "omit --features, --views, --head and --text-prior"
            raise EtpError(f"--protocol {self.protocol} has its own features; {omitted}")
        if self.head != LINEAR and (self.candidates() != (PLAIN,) or self.text_prior):
            raise EtpError(
                f"--head {self.head} reads the last stage over time; omit --features, --views and --text-prior"
            )
        super().check()
        if self.text_prior:
            check_prompts(self.definition())

    @property
    def reads_text(self) -> bool:
        """Whether the evaluation needs an encoder that reads sentences."""
        return self.text_prior

    def definition(self) -> Task:
        """Returns the task with the records of the protocol; raises EtpError for an unknown task."""
        return ecg_fm_benchmark.with_protocol(super().definition(), self.protocol)

    def records(self, shards: Shards) -> TaskRecords:
        """The task's records, with the classes that the protocol takes."""
        return ecg_fm_benchmark.with_enough_records(super().records(shards))

    def subset_seeds(self) -> set[int]:
        """Seeds of the subsets of training records; MERL's protocol draws one of its own."""
        return {MERL_SEED} if self.protocol == MERL else super().subset_seeds()

    def candidates(self) -> tuple[tuple[str, int], ...]:
        """Feature sets with numbers of views, among which the probe chooses."""
        return tuple(product(self.features, self.views))

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; a protocol other than `honest` comes after the split."""
        task, kind, split, *published = super().file_name()
        candidates = [] if self.candidates() == (PLAIN,) else ["+".join(self.features), *map(str, self.views)]
        prior = ["text-prior"] if self.text_prior else []
        protocol = [self.protocol] * (self.protocol != HONEST)
        head = [self.head] * (self.head != LINEAR)
        return [task, kind, split, *protocol, *head, *candidates, *prior, *published]


def evaluate(request: Probe, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits linear probes by the request's protocol, see `fit_and_score` and `merl.evaluate`."""
    from etp_jax.evaluation import attention, logistic, merl  # these load jax

    if request.protocol == MERL:
        return merl.evaluate(request, encoders, shards, request.fractions, merl.fit_linear)
    about = ecg_fm_benchmark.described(request.protocol, request.head)
    if request.head != LINEAR:
        about["head"] = request.head
        return fit_and_score(request, encoders, shards, attention.fit, (TOKENS,), about=about)
    if not request.text_prior:
        return fit_and_score(request, encoders, shards, logistic.fit, request.candidates(), about=about)

    def fit(features_NF: NDArray[np.float32], y_NC: NDArray[np.bool_]) -> Classifier:
        return logistic.fit(features_NF, y_NC, penalty_F=prior_penalties(features_NF.shape[1], y_NC.shape[1]))

    prompts = request.definition().prompt_set
    about["text_prior"] = f"zero-shot scores of prompts {prompts}; their penalty is {PRIOR_PENALTY:g} x the L2"
    return fit_and_score(request, encoders, shards, fit, request.candidates(), text_prior=True, about=about)


def prior_penalties(columns: int, classes: int, penalty: float = PRIOR_PENALTY) -> NDArray[np.float64]:
    """Penalties [F] of columns whose last ones are the scores of C classes: 1 for features, `penalty` for scores."""
    penalty_F = np.ones(columns)
    penalty_F[-classes:] = penalty
    return penalty_F


class Classifier(Protocol):
    """A classifier fitted with L settings; the best setting is chosen on other records."""

    def logits(self, features_NF: NDArray[Any], /) -> NDArray[np.float32]:
        """Scores [L, N, C] of some records, for each setting."""
        ...

    def details(self, number: int) -> dict[str, Any]:
        """Description of a setting, for the result's rows."""
        ...


def fit_and_score(
    request: FrozenFeatures,
    encoders: Sequence[tuple[str, Encoder]],
    shards: Shards,
    fit: Callable[[NDArray[Any], NDArray[np.bool_]], Classifier],
    candidates: Sequence[tuple[str, int]] = (PLAIN,),
    text_prior: bool = False,
    about: Mapping[str, str] = MappingProxyType({}),
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
      candidates: feature sets with numbers of views (`encoder.stages.features_of`), chosen together with the setting.
      text_prior: whether the zero-shot scores of the C classes follow the features, as the last columns.
      about: further topics of the result's protocol.

    Raises:
      EtpError: there are too few records to choose a setting on.
    """
    from etp_jax.encoder.scores import class_directions  # loads jax

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
        **about,
    )
    draws = [(fraction, seed) for fraction in fractions for seed in (request.seeds if fraction < 1 else [None])]
    for name, encoder in encoders:
        directions_CE = class_directions(encoder, task) if text_prior else None  # refuses unreadable prompts early
        sets = {
            candidate: [encode(some, encoder, candidate, directions_CE) for some in (fitted, chooser, target)]
            for candidate in candidates
        }
        for fraction, seed in Bar(draws, desc=f"{name} encoder", unit="fit"):
            subset = np.arange(len(fitted)) if seed is None else draw(fitted.y_nC, fraction, seed)
            y_sC = fitted.y_nC[subset]
            classifiers = {candidate: fit(fitted_nF[subset], y_sC) for candidate, (fitted_nF, _, _) in sets.items()}
            choices = {candidate: classifiers[candidate].logits(sets[candidate][1]) for candidate in sets}
            chosen, best = max(
                ((candidate, number) for candidate in sets for number in range(len(choices[candidate]))),
                key=lambda each: macro_auroc(choices[each[0]][each[1]], chooser.y_nC),
            )
            classifier, choices_LnC = classifiers[chosen], choices[chosen]
            scores_nC = classifier.logits(sets[chosen][2])[best]
            called_nC = scores_nC >= best_thresholds(choices_LnC[best], chooser.y_nC)
            covered: dict[str, Any] = {"train_records": len(subset), "train_classes": int(has_both(y_sC).sum())}
            if len(sets) > 1:
                covered["features"] = described(chosen)
            scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
            also, frequent = ecg_fm_benchmark.frequent(task, scored)
            covered |= frequent | classifier.details(best)
            row = classification_row(scored, task, name, fraction, encoder.train_seed, seed, also, **covered)
            outcome.rows.append(row)
            if fraction == max(fractions) and name not in outcome.arrays:
                outcome.arrays[name] = scores_nC
                if tuple(candidates) not in ((PLAIN,), (TOKENS,)):
                    outcome.protocol.setdefault(
                        "features",
                        f"{described(chosen)} (chosen for {percent(fraction)} of the records from "
                        f"{', '.join(map(described, candidates))})",
                    )
    return outcome


def encode(
    records: Labelled, encoder: Encoder, candidate: tuple[str, int], directions_CE: NDArray[np.float32] | None = None
) -> NDArray[Any]:
    """Computes a feature set of records: [n, F], or `TOKENS` [n, T, F].

    With directions, the scores of the unshifted ECGs follow the features: [n, F + C].
    """
    from etp_jax.encoder.stages import features_of  # these load jax
    from etp_jax.evaluation import attention

    if candidate == TOKENS:
        return attention.encode(records, encoder)
    features_nF = records.gather(lambda split: (features_of(encoder, split, *candidate),))[0]
    if directions_CE is None:
        return features_nF
    return np.concatenate([features_nF, records.encode(encoder)[1] @ directions_CE.T], axis=1)


def described(candidate: tuple[str, int]) -> str:
    """Names a feature set and its views."""
    name, views = candidate
    return name if views == 1 else f"{name} x {views} views"


def best_setting(logits_LnC: NDArray[np.float32], y_nC: NDArray[np.bool_]) -> int:
    """Returns the number of the setting with the greatest macro AUROC."""
    return max(range(len(logits_LnC)), key=lambda number: macro_auroc(logits_LnC[number], y_nC))


class Source(Protocol):
    """Source of records with classes, by split."""

    @property
    def shards(self) -> Shards:
        """Shard folder of the records."""
        ...

    def of(self, split: str) -> Labelled:
        """Selects the records of a split."""
        ...


def fitted_and_chooser(records: Source, split: str) -> tuple[Labelled, Labelled]:
    """Returns the records to fit on and those to choose a setting on, when `split` is scored.

    Raises:
      EtpError: there are too few records to choose a setting on.
    """
    fitted, chooser = fitting_records(records, split)
    if not has_both(chooser.y_nC).any():
        folder = records.shards.folder
        raise EtpError(f"{folder}: too few records to choose a probe's strength on: no class has both outcomes")
    return fitted, chooser


def fitting_records(records: Source, split: str) -> tuple[Labelled, Labelled]:
    """Returns the same two without looking at their classes: train and validation, or two parts of train."""
    fitted = records.of(TRAIN)
    if split != VALIDATION:
        return fitted, records.of(VALIDATION)
    tenth_n = fitted.calibration_patients()
    return fitted.where(~tenth_n), fitted.where(tenth_n)


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
