"""Robustness: a linear probe fitted on whole ECGs, scored on ECGs with fewer leads, a lower rate or added noise."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import LEADS
from etp_jax.ecg.prepare import fit, resample
from etp_jax.evaluation.figures import PartFigures
from etp_jax.evaluation.outcome import Outcome, make_row
from etp_jax.evaluation.probe import best_setting, fitted_and_chooser
from etp_jax.evaluation.records import Labelled
from etp_jax.evaluation.request import TaskRequest, check_fitted
from etp_jax.evaluation.results import number
from etp_jax.metrics.classification import Floats, bootstrap_weights, has_both, interval, macro_auroc_replicates
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

CLEAN = "clean"
LEAD_SETS = {
    "6 limb leads": LEADS[:6],
    "leads I and II": ("I", "II"),
    "lead I": ("I",),
    "lead II": ("II",),
}
"""Leads that stay, by the name of the condition; the others are masked as unrecorded leads are."""
COARSE_HZ = 100
"""Sampling rate to which faster records are reduced; records at this rate or below are reduced to half their rate."""
WHITE_SNR_DB = (20, 10)
WANDER_HZ, WANDER_MV = 0.3, 0.5
MAINS_HZ, MAINS_MV = 50.0, 0.1
RECORDER_HZ = 500
"""Rate at which mains are drawn before they are resampled: at 100 Hz, 50 Hz is the limit of what can be sampled."""
RECORDS = 256
"""Number of records that are changed and encoded at a time."""

Change = Callable[[Floats, NDArray[np.bool_], np.random.Generator], tuple[Floats, NDArray[np.bool_]]]
"""Function of signals [b, T, leads] in µV, lead masks [b, leads] and a source of draws; returns both, changed."""


@dataclass(frozen=True, kw_only=True)
class Robustness(TaskRequest):
    """Fits the linear probe on whole ECGs, and scores it with leads masked, a lower sampling rate and added noise."""

    kind: ClassVar[str] = "robustness"

    def check(self) -> None:
        """Raises EtpError for options that do not go together."""
        check_fitted(self)
        super().check()

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels for which the result has rows."""
        return (1.0,)


def evaluate(request: Robustness, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fits the probe of `etp evaluate probe` on all training records, then scores a split under each condition."""
    from etp_jax.evaluation import logistic  # loads jax

    records = request.records(shards)
    target = records.of(request.split)
    fitted, chooser = fitted_and_chooser(records, request.split)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        request.split,
        target,
        None,
        fitted_on=f"{len(fitted)} whole records of train",
        chosen_by=f"macro AUROC over {len(chooser)} whole records",
        parts="condition",
        difference=f"from {CLEAN}, by the same draws of patients",
        conditions=about(shards.fs),
    )
    for name, encoder in encoders:
        probes = logistic.fit(fitted.encode(encoder)[0], fitted.y_nC)
        best = best_setting(probes.logits(chooser.encode(encoder)[0]), chooser.y_nC)

        def replicates(features_nF: NDArray[np.float32], probes: logistic.Probes = probes, best: int = best) -> Floats:
            return macro_auroc_replicates(probes.logits(features_nF)[best], target.y_nC, weights_nR)

        clean_R = replicates(target.encode(encoder)[0])
        scored = int(has_both(target.y_nC).sum())
        parts = {CLEAN: PartFigures(len(target), scored, *map(number, (clean_R[0], *interval(clean_R[1:]))))}
        for condition, change in Bar(conditions(shards).items(), desc=f"{name} encoder", unit="condition"):
            if change is None:
                parts[condition] = PartFigures(0, 0, note="the shards do not have these leads")
                continue
            features_nF, live_n = encode_changed(encoder, target, change)
            changed_R = replicates(features_nF)
            figures = [
                figure
                for values_R in (changed_R, changed_R - clean_R)
                for figure in (values_R[0], *interval(values_R[1:]))
            ]
            silent = int((~live_n).sum())
            note = f"{silent} records have none of these leads and are scored as silent" if silent else ""
            parts[condition] = PartFigures(len(target), scored, *map(number, figures), note=note)
        details = {"train_records": len(fitted), **probes.details(best)}
        row = make_row(name, 1.0, encoder.train_seed, None, {"macro_auroc": clean_R}, details, parts=parts)
        outcome.rows.append(row)
    return outcome


def about(fs: int) -> dict[str, str]:
    """Describes the conditions, for the result's protocol."""
    return {
        "leads": "others are masked, as unrecorded leads are",
        "rate": f"resampled from {fs} Hz to {coarse(fs):g} Hz and back, with an anti-aliasing filter",
        "white noise": "Gaussian, the same ratio to the variance of each lead",
        "baseline wander": f"a sine of {WANDER_HZ:g} Hz and {WANDER_MV:g} mV (amplitude), a random phase for each lead",
        "mains": f"a sine of {MAINS_HZ:g} Hz and {MAINS_MV:g} mV (amplitude), a random phase for each lead, drawn at "
        f"{RECORDER_HZ} Hz and resampled as `etp prep` does",
    }


def coarse(fs: float) -> float:
    """Returns the rate to which records of `fs` Hz are reduced."""
    return COARSE_HZ if fs > COARSE_HZ else fs / 2


def conditions(shards: Shards) -> Mapping[str, Change | None]:
    """Returns the change of each condition by name; None where the shards do not have its leads."""
    fs, leads = shards.fs, np.array(shards.leads)
    changes: dict[str, Change | None] = {
        name: partial(keep_leads, np.isin(leads, chosen)) if set(chosen) <= set(shards.leads) else None
        for name, chosen in LEAD_SETS.items()
    }
    changes[f"{coarse(fs):g} Hz"] = partial(reduce_rate, fs)
    changes |= {f"white noise, {snr} dB": partial(add_white, snr) for snr in WHITE_SNR_DB}
    changes[f"baseline wander, {WANDER_MV:g} mV"] = partial(add_sine, WANDER_HZ, WANDER_MV, fs)
    changes[f"mains, {MAINS_MV:g} mV"] = partial(add_sine, MAINS_HZ, MAINS_MV, fs)
    return changes


def encode_changed(
    encoder: Encoder, records: Labelled, change: Change
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Computes features [n, F] of changed records, and [n] whether any lead of a record is left."""
    draws = np.random.default_rng(0)
    features, live = [], []
    for start in range(0, len(records), RECORDS):
        ecg_bTL, lead_mask_bL = records.read(np.arange(start, min(start + RECORDS, len(records))))
        changed_bTL, lead_mask_bL = change(ecg_bTL.astype(np.float64), lead_mask_bL, draws)
        microvolts_bTL = np.rint(np.clip(changed_bTL * lead_mask_bL[:, None], -32768, 32767)).astype(np.int16)
        features.append(encoder.signals(microvolts_bTL, lead_mask_bL)[0])
        live.append(lead_mask_bL.any(axis=1))
    return np.concatenate(features), np.concatenate(live)


def keep_leads(
    kept_L: NDArray[np.bool_], ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], _: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Masks all leads but some."""
    return ecg_bTL, lead_mask_bL & kept_L


def reduce_rate(
    fs: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], _: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Resamples to the coarse rate and back."""
    low = coarse(fs)
    back = [fit(resample(resample(ecg_TL, fs, low), low, fs), len(ecg_TL)) for ecg_TL in ecg_bTL]
    return np.stack(back), lead_mask_bL


def add_white(
    snr_db: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], draws: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Adds Gaussian noise to each lead, at a ratio of the lead's variance to that of the noise."""
    deviation_b1L = ecg_bTL.std(axis=1, keepdims=True) * 10 ** (-snr_db / 20)
    return ecg_bTL + draws.normal(size=ecg_bTL.shape) * deviation_b1L, lead_mask_bL


def add_sine(
    hz: float, mv: float, fs: float, ecg_bTL: Floats, lead_mask_bL: NDArray[np.bool_], draws: np.random.Generator
) -> tuple[Floats, NDArray[np.bool_]]:
    """Adds a sine to each lead, with a random phase; it is drawn at the rate of a recorder and then resampled."""
    samples = ecg_bTL.shape[1]
    turns_T = 2 * np.pi * hz * np.arange(-(-samples * RECORDER_HZ // fs)) / RECORDER_HZ
    # A sine of any phase is a sum of one sine and one cosine: only these two are resampled.
    waves_T2 = fit(resample(np.stack([np.sin(turns_T), np.cos(turns_T)], axis=1), RECORDER_HZ, fs), samples)
    phase_bL = draws.uniform(0, 2 * np.pi, lead_mask_bL.shape)
    share_b2L = np.stack([np.cos(phase_bL), np.sin(phase_bL)], axis=1)
    return ecg_bTL + 1000 * mv * (waves_T2 @ share_b2L), lead_mask_bL
