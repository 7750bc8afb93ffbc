"""Linear probe: L2-regularised logistic regression on frozen features, all classes and all strengths at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from etp_jax.errors import EtpError
from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.labelled import TRAIN, VALIDATION, Labelled
from etp_jax.evaluation.metrics import best_thresholds, bootstrap_weights, ranking, score
from etp_jax.evaluation.results import Outcome, classification_row
from etp_jax.records import Shards
from etp_jax.tasks import Task

L2 = (1e-5, 1e-4, 1e-3, 1e-2, 0.1, 1.0, 10.0)
"""Strengths among which validation chooses: the weight of half the squared norm beside the mean loss."""
STEPS = 10_000
"""Most iterations of a fit."""
TOLERANCE = 2e-5
"""A fit has converged when its gradient, measured in the metric of the curvature bound and divided by the loss's
flatness, is below this: about the error of a logit at the typical record."""
LEAST_FLATNESS = 0.05
"""float32 resolves no flatter a loss."""


def evaluate(
    encoders: Sequence[tuple[str, Encoder]],
    task: Task,
    shards: Shards,
    split: str,
    bootstrap: int,
    seeds: Sequence[int],
    fractions: Sequence[float],
) -> Outcome:
    """Fits probes on fractions of the training records, chooses their strength elsewhere, scores a split once.

    Strength (by macro AUROC) and thresholds are chosen on the validation split. If that is what is scored, they are
    chosen on a tenth of the training patients, and the probes are fitted on the others.

    Args:
      encoders: each under its name in the result.
      task: its labels.
      shards: with the splits `train` and `validation`.
      split: whose records are scored.
      bootstrap: replicates of the intervals.
      seeds: of the subsets; the whole is fitted once.
      fractions: sizes of the subsets; each is a part of the next greater one of the same seed.

    Raises:
      EtpError: the training split is to be scored.
    """
    if split == TRAIN:
        raise EtpError(f"a probe is fitted on split {TRAIN!r}; score another one")
    fitted, target = Labelled.of(shards.split(TRAIN), task), Labelled.of(shards.split(split), task)
    if split == VALIDATION:
        tenth_n = fitted.tenth()
        fitted, chooser = fitted.where(~tenth_n), fitted.where(tenth_n)
    else:
        chooser = Labelled.of(shards.split(VALIDATION), task)
    if not has_both(chooser.y_nC).any():
        raise EtpError(f"{shards.folder}: too few records to choose a probe's strength by: no class has both outcomes")
    weights_nR = bootstrap_weights(target.patients, bootstrap)
    outcome = Outcome(
        records=len(target),
        thresholds_from="a tenth of the training patients, not fitted" if split == VALIDATION else "validation",
        protocol={
            "probe": "L2-regularised logistic regression on frozen pooled features, standardised on the fitted records",
            "fitted_on": f"{len(fitted)} records of train",
            "l2_from": f"macro AUROC over {len(chooser)} records, among " + ", ".join(f"{l2:g}" for l2 in L2),
        },
    )
    draws = [(fraction, seed) for fraction in fractions for seed in (seeds if fraction < 1 else [None])]
    for name, encoder in encoders:
        fitted_nF, chooser_nF, target_nF = (encoder.ecg(some.split)[0][some.rows] for some in (fitted, chooser, target))
        for fraction, seed in tqdm(draws, desc=f"{name} encoder, probes", unit="fit"):
            subset = np.arange(len(fitted)) if seed is None else draw(len(fitted), fraction, seed)
            y_sC = fitted.y_nC[subset]
            probe = fit(fitted_nF[subset], y_sC)
            choices_LnC = probe.logits(chooser_nF)
            best = int(np.argmax([macro_auroc(scores_nC, chooser.y_nC) for scores_nC in choices_LnC]))
            scores_nC = probe.logits(target_nF)[best]
            called_nC = scores_nC >= best_thresholds(choices_LnC[best], chooser.y_nC)
            details = {
                "train_records": len(subset),
                "train_classes": int(has_both(y_sC).sum()),
                "l2": L2[best],
                "converged": probe.steps < STEPS,
            }
            scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
            outcome.rows.append(classification_row(scored, task, name, fraction, encoder.train_seed, seed, **details))
            if fraction == max(fractions):
                outcome.scores.setdefault(name, scores_nC)
    return outcome


def has_both(y_NC: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """[C] the classes with both outcomes."""
    return np.logical_and(y_NC.any(axis=0), ~y_NC.all(axis=0))


def draw(records: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Numbers of a random share of some records, at least one."""
    return np.random.default_rng(seed).permutation(records)[: max(1, round(fraction * records))]


def macro_auroc(scores_nC: NDArray, y_nC: NDArray[np.bool_]) -> float:
    """Mean AUROC over the classes with both outcomes."""
    ones_n1 = np.ones((len(y_nC), 1), np.int32)
    aurocs = [ranking(scores_nC[:, c], y_nC[:, c], ones_n1)[0][0] for c in range(y_nC.shape[1])]
    return float(np.nanmean(aurocs))


class Probe(NamedTuple):
    """Fitted probes."""

    mean_F: NDArray[np.float32]
    scale_F: NDArray[np.float32]
    """Standardisation, from the fitted records."""
    weights_FLC: NDArray[np.float32]
    bias_LC: NDArray[np.float32]
    steps: int
    """Iterations taken; `STEPS` if not all problems converged."""

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [L, N, C] of all strengths."""
        x_NF = (features_NF - self.mean_F) / self.scale_F
        return np.einsum("nf,flc->lnc", x_NF, self.weights_FLC, optimize=True) + self.bias_LC[:, None]


def fit(features_NF: NDArray[np.float32], y_NC: NDArray[np.bool_], l2: tuple[float, ...] = L2) -> Probe:
    """Minimises, for every class c and strength l, mean_n logloss(y_nc, x_n w + b) + l / 2 |w|² (b is free).

    Accelerated gradient steps in the metric of Böhning's bound (Ann. Inst. Stat. Math. 44, 1992): the Hessian never
    exceeds X'X / 4N + l, which is the same for all classes, so one eigendecomposition preconditions every problem, no
    step needs a search, and one product with X serves all. Momentum restarts where it points uphill (O'Donoghue and
    Candès, Found. Comput. Math. 15, 2015). This equals scikit-learn's C = 1 / (l N).

    Args:
      features_NF: [N, F]; standardised here.
      y_NC: bool [N, C]. A class with one outcome only gets zero weights: all its scores are equal.
      l2: L strengths, all greater than 0.
    """
    x_NF = features_NF.astype(np.float64)
    mean_F, std_F = x_NF.mean(axis=0), x_NF.std(axis=0)
    scale_F = np.where(std_F > 0, std_F, 1)
    x_NF = (x_NF - mean_F) / scale_F
    # The bound is diagonal in the eigenbasis of X'X / N. In double precision: an eigenvalue that comes out too small
    # would make steps too long. X is centred, so the bias, a last column of ones, is a direction of its own. Directions
    # without data, as there are with fewer records than features, keep zero weights and are left out.
    spectrum, basis = np.linalg.eigh(x_NF.T @ x_NF / len(x_NF))
    basis_FD, spectrum_D = (array[..., spectrum > 1e-12 * spectrum[-1]] for array in (basis, spectrum))
    z_NG = np.concatenate([x_NF @ basis_FD, np.ones((len(x_NF), 1))], axis=1)
    ridge_GL = np.concatenate([np.tile(l2, (len(spectrum_D), 1)), np.zeros((1, len(l2)))])
    bound_GL = np.append(spectrum_D, 1)[:, None] / 4 + ridge_GL
    with jax.default_matmul_precision("highest"):
        arrays = (jnp.asarray(array, jnp.float32) for array in (z_NG, y_NC, has_both(y_NC), ridge_GL, bound_GL))
        w_GLC, steps = _minimise(*arrays)
    weights_FLC = np.einsum("fd,dlc->flc", basis_FD, w_GLC[:-1]).astype(np.float32)
    return Probe(mean_F.astype(np.float32), scale_F.astype(np.float32), weights_FLC, np.asarray(w_GLC[-1]), int(steps))


@jax.jit
def _minimise(
    z_NG: jax.Array, y_NC: jax.Array, both_C: jax.Array, ridge_GL: jax.Array, bound_GL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Weights [G, L, C], the bias last, and the number of steps."""
    (records, columns), classes, strengths = z_NG.shape, y_NC.shape[1], ridge_GL.shape[1]
    ridge_GL1, bound_GL1 = ridge_GL[:, :, None], bound_GL[:, :, None]

    def step(state):
        count, w_GLC, ahead_GLC, t_LC, _ = state
        logits_NLC = (z_NG @ ahead_GLC.reshape(columns, -1)).reshape(records, strengths, classes)
        p_NLC = jax.nn.sigmoid(logits_NLC)
        slope_GLC = (z_NG.T @ (p_NLC - y_NC[:, None]).reshape(records, -1)).reshape(w_GLC.shape) / records
        g_GLC = both_C * (slope_GLC + ridge_GL1 * ahead_GLC)
        next_GLC = ahead_GLC - g_GLC / bound_GL1
        uphill_LC = jnp.sum(g_GLC * (next_GLC - w_GLC), axis=0) > 0
        t_LC = jnp.where(uphill_LC, 1, t_LC)
        t_next_LC = (1 + jnp.sqrt(1 + 4 * t_LC**2)) / 2
        momentum_LC = jnp.where(uphill_LC, 0, (t_LC - 1) / t_next_LC)
        # Where most records are certain, the loss is flatter than the bound and the same gradient further from its end.
        flatness_LC = jnp.maximum(4 * jnp.mean(p_NLC * (1 - p_NLC), axis=0), LEAST_FLATNESS)
        error_LC = jnp.sqrt(jnp.sum(g_GLC**2 / bound_GL1, axis=0)) / flatness_LC
        ahead_GLC = next_GLC + momentum_LC * (next_GLC - w_GLC)
        return count + 1, next_GLC, ahead_GLC, t_next_LC, jnp.max(error_LC)

    def going(state):
        return (state[0] < STEPS) & (state[-1] > TOLERANCE)

    # The bias starts at the logit of the class's share.
    share_C = jnp.clip(y_NC.mean(axis=0), 0.5 / records, 1 - 0.5 / records)
    start_GLC = jnp.zeros((columns, strengths, classes)).at[-1].set(jnp.log(share_C / (1 - share_C)))
    state = (jnp.int32(0), start_GLC, start_GLC, jnp.ones((strengths, classes)), jnp.inf)
    count, w_GLC, *_ = jax.lax.while_loop(going, step, state)
    return w_GLC, count
