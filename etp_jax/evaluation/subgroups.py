"""Subgroups: the linear probe's macro-AUROC by sex, age and the archive's marks of noise, and its calibration."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from etp_jax.evaluation.figures import PartFigures, Reliability
from etp_jax.evaluation.outcome import Outcome
from etp_jax.evaluation.probe import Probe, fit_and_score
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import TaskRequest, check_fitted
from etp_jax.evaluation.results import number
from etp_jax.metrics import calibration
from etp_jax.metrics.bootstrap import Floats, Weights, bootstrap_weights, interval, of_some
from etp_jax.metrics.classification import has_both, macro_auroc_replicates
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

AGE_EDGES = (50, 65, 75)
"""First years of the second to the last age group. 65 and 75 are the limits of the CHA2DS2-VASc score; with 50, each
group has about a quarter of PTB-XL's records."""
SEXES = {"female": "women", "male": "men", "": "sex unknown"}
"""Names of groups by the values of `sex` in the shards."""
LEAST = 10
"""Minimum number of a group's records with a class, and without it, at which the class counts for the group's figure.
With fewer, one record moves the class's AUROC by several hundredths."""
LACKS_MARKS = "the shards carry no marks of noise; prepare them again if the archive has some (PTB-XL has)"


@dataclass(frozen=True, kw_only=True)
class Subgroups(TaskRequest):
    """Fits the linear probe, and scores it by sex, age group and noise; also measures its calibration."""

    kind: ClassVar[str] = "subgroups"

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_fitted(self)
        super().check()

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels for which the result has rows."""
        return (1.0,)


def evaluate(request: Subgroups, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits the probe of `etp evaluate probe` on all training records, then divides the scored records into groups."""
    from scipy.special import expit  # takes long to load

    from etp_jax.evaluation import logistic  # loads jax

    shared = {each.name: getattr(request, each.name) for each in fields(TaskRequest)}
    outcome = fit_and_score(Probe(**shared, fractions=(1.0,)), encoders, shards, logistic.fit)
    target = request.records(shards).of(request.split)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    groups = groups_of(target)
    codes = outcome.arrays["classes"].tolist()
    for place, row in enumerate(outcome.rows):
        logits_nC = outcome.arrays[row.encoder]
        parts = {
            name: group_figures(logits_nC, target.y_nC, inside_n, weights_nR, codes)
            for name, inside_n in groups.items()
        }
        replicates, reliability = calibrated(expit(logits_nC.astype(np.float64)), target.y_nC, weights_nR, codes)
        values = {name: number(values_R[0]) for name, values_R in replicates.items()}
        outcome.rows[place] = replace(
            row,
            values=row.values | values,
            replicates=row.replicates | replicates,
            parts=parts,
            reliability=reliability,
        )
    outcome.protocol.update(
        parts="group",
        difference="from all other scored records, over the group's classes, by the same draws of patients",
        classes=f"a group's figure averages the classes with {LEAST} or more of its records with and without them",
        calibration=f"sigmoid of the logits, {calibration.BINS} bins, mean over the classes with both outcomes; "
        "the bootstrap's bias is taken off its intervals",
    )
    if shards.marks is None:
        outcome.protocol["lacks"] = LACKS_MARKS
    return outcome


def groups_of(target: Labelled) -> dict[str, NDArray[np.bool_]]:
    """Returns a mask [n] of some records for each group by sex, age and mark of the archive, by name.

    Groups of unknown sex or age are left out if they have no record.
    """
    sex_n = np.array([sex for split in target.splits for sex in split.columns.sex])[target.rows]
    age_n = np.concatenate([split.columns.age for split in target.splits])[target.rows]
    groups = {name: sex_n == sex for sex, name in SEXES.items()}
    edges = (-np.inf, *AGE_EDGES, np.inf)
    names = [f"under {AGE_EDGES[0]}", *(f"{a} to {b - 1}" for a, b in pairwise(AGE_EDGES))]
    for name, low, high in zip([*names, f"{AGE_EDGES[-1]} and over"], edges[:-1], edges[1:], strict=True):
        groups[name] = (age_n >= low) & (age_n < high)
    groups["age unknown"] = np.isnan(age_n)
    groups = {name: inside_n for name, inside_n in groups.items() if inside_n.any() or "unknown" not in name}
    marks = target.splits[0].shards.marks or {}
    return groups | {name: np.isin(target.record_ids, record_ids) for name, record_ids in marks.items()}


def group_figures(
    scores_nC: NDArray[np.float32],
    y_nC: NDArray[np.bool_],
    inside_n: NDArray[np.bool_],
    weights_nR: Weights,
    codes: Sequence[str],
) -> PartFigures:
    """Computes the macro-AUROC of a group and its difference from all other records.

    Args:
      scores_nC: [n, C] scores of all records.
      y_nC: [n, C] bool, classes.
      inside_n: [n] bool, the records of the group.
      weights_nR: [n, 1 + R] weights, from `bootstrap_weights` over all records.
      codes: code of each class.
    """
    records, positives_C = int(inside_n.sum()), y_nC[inside_n].sum(axis=0)
    enough_C = np.minimum(positives_C, records - positives_C) >= LEAST
    few = [f"{code} {positives_C[c]}" for c, code in enumerate(codes) if not enough_C[c]]
    if not records:
        return PartFigures(0, 0, note="no record")
    note = f"left out for too few records with or without: {', '.join(few)}" if few else ""
    if not enough_C.any():
        return PartFigures(records, 0, note=note)

    def replicates(some_n: NDArray[np.bool_]) -> Floats:
        some_nR = of_some(weights_nR, some_n)
        return macro_auroc_replicates(scores_nC[some_n][:, enough_C], y_nC[some_n][:, enough_C], some_nR)

    own_R = replicates(inside_n)
    figures = [own_R[0], *interval(own_R[1:])]
    if has_both(y_nC[~inside_n][:, enough_C]).all():
        difference_R = own_R - replicates(~inside_n)
        figures += [difference_R[0], *interval(difference_R[1:])]
    else:
        note = "; ".join(filter(None, [note, "no difference: the other records lack an outcome of a class"]))
    return PartFigures(records, int(enough_C.sum()), *map(number, figures), note=note)


def calibrated(
    p_nC: Floats, y_nC: NDArray[np.bool_], weights_nR: Weights, codes: Sequence[str]
) -> tuple[dict[str, Floats], dict[str, Reliability]]:
    """Measures the calibration of probabilities [n, C].

    Returns:
      Expected calibration error [1 + R] by kind of bins, the mean over the classes with both outcomes, NaN without such
      a class; and bins and errors of each of these classes by code.
    """
    errors: dict[str, list[Floats]] = {"ece_equal_mass": [], "ece_equal_width": []}
    reliability: dict[str, Reliability] = {}
    for c in np.flatnonzero(has_both(y_nC)).tolist():
        p_n, y_n = p_nC[:, c], y_nC[:, c]
        own: dict[str, Any] = {}
        for kind, divide in {"equal_mass": calibration.equal_mass, "equal_width": calibration.equal_width}.items():
            bin_n = divide(p_n)
            error_R = calibration.expected_calibration_error(p_n, y_n, bin_n, weights_nR)
            errors[f"ece_{kind}"].append(error_R)
            own[f"ece_{kind}"] = round(float(error_R[0]), 6)
            own[kind] = calibration.reliability(p_n, y_n, bin_n)
        reliability[codes[c]] = Reliability(**own)
    undefined_R = np.full(weights_nR.shape[1], np.nan)
    replicates = {name: np.mean(some, axis=0) if some else undefined_R for name, some in errors.items()}
    for values_R in replicates.values():
        # A resample has less varied records, which alone raises its error: the replicates are centred on the figure.
        values_R[1:] += values_R[0] - values_R[1:].mean()
    return replicates, reliability
