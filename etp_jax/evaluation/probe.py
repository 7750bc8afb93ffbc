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

L2 = tuple(float(x) for x in np.logspace(-4, 1, 11).round(8))
"""Strengths among which validation chooses: the weight of half the squared norm beside the mean loss."""
STEPS = 3000
"""Most iterations of a fit."""
TOLERANCE = 1e-5
"""A fit has converged when its gradient, measured in the metric of the curvature bound, is below this."""


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
    jobs = [
        (name, encoder, fraction, seed)
        for name, encoder in encoders
        for fraction in fractions
        for seed in (seeds if fraction < 1 else [None])
    ]
    for name, encoder, fraction, seed in tqdm(jobs, desc=f"probing {task.name}", unit="fit"):
        subset = fitted if seed is None else fitted.where(draw(len(fitted), fraction, seed))
        train_nF, choose_nF, target_nF = (encoder.ecg(some.split)[0][some.rows] for some in (subset, chooser, target))
        probe = fit(train_nF, subset.y_nC)
        choices_LnC = probe.logits(choose_nF)
        best = int(np.argmax([macro_auroc(scores_nC, chooser.y_nC) for scores_nC in choices_LnC]))
        scores_nC = probe.logits(target_nF)[best]
        called_nC = scores_nC >= best_thresholds(choices_LnC[best], chooser.y_nC)
        details = {
            "train_records": len(subset),
            "train_classes": int((subset.y_nC.any(axis=0) & ~subset.y_nC.all(axis=0)).sum()),
            "l2": L2[best],
            "converged": probe.steps < STEPS,
        }
        scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
        outcome.rows.append(classification_row(scored, task, name, fraction, encoder.train_seed, seed, **details))
        if fraction == max(fractions):
            outcome.scores.setdefault(name, scores_nC)
    return outcome


def draw(records: int, fraction: float, seed: int) -> NDArray[np.int64]:
    """Numbers of a random share of some records, at least one."""
    return np.random.default_rng(seed).permutation(records)[: max(1, round(fraction * records))]


def macro_auroc(scores_nC: NDArray, y_nC: NDArray[np.bool_]) -> float:
    """Mean AUROC over the classes with both outcomes."""
    ones_n1 = np.ones((len(y_nC), 1))
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
    mean_F, std_F = features_NF.mean(axis=0), features_NF.std(axis=0)
    scale_F = np.where(std_F > 0, std_F, 1).astype(np.float32)
    x_NF = (features_NF - mean_F) / scale_F
    both_C = y_NC.any(axis=0) & ~y_NC.all(axis=0)
    with jax.default_matmul_precision("highest"):
        weights_FLC, bias_LC, steps = _minimise(x_NF, y_NC, jnp.asarray(both_C), jnp.asarray(l2, jnp.float32))
    return Probe(mean_F, scale_F, np.asarray(weights_FLC), np.asarray(bias_LC), int(steps))


@jax.jit
def _minimise(x_NF: jax.Array, y_NC: jax.Array, both_C: jax.Array, l2_L: jax.Array):
    records, classes, strengths = x_NF.shape[0], y_NC.shape[1], len(l2_L)
    # In the eigenbasis of X'X / N the bound is diagonal. X is centred, so the bias is a direction of its own.
    spectrum_F, basis_FF = jnp.linalg.eigh(x_NF.T @ x_NF / records)
    z_NG = jnp.concatenate([x_NF @ basis_FF, jnp.ones((records, 1), x_NF.dtype)], axis=1)
    ridge_GL = jnp.concatenate([jnp.broadcast_to(l2_L, (len(spectrum_F), strengths)), jnp.zeros((1, strengths))])
    bound_GL = jnp.append(jnp.maximum(spectrum_F, 0), 1)[:, None] / 4 + ridge_GL
    y_N1C = y_NC[:, None].astype(x_NF.dtype)

    def gradient(w_GLC: jax.Array) -> jax.Array:
        logits_NLC = (z_NG @ w_GLC.reshape(len(w_GLC), -1)).reshape(records, strengths, classes)
        error_NLC = jax.nn.sigmoid(logits_NLC) - y_N1C
        slope_GLC = (z_NG.T @ error_NLC.reshape(records, -1)).reshape(w_GLC.shape) / records
        return jnp.where(both_C, slope_GLC + ridge_GL[:, :, None] * w_GLC, 0)

    def step(state):
        count, w_GLC, ahead_GLC, t_LC, _ = state
        g_GLC = gradient(ahead_GLC)
        next_GLC = ahead_GLC - g_GLC / bound_GL[:, :, None]
        uphill_LC = jnp.sum(g_GLC * (next_GLC - w_GLC), axis=0) > 0
        t_LC = jnp.where(uphill_LC, 1.0, t_LC)
        t_next_LC = (1 + jnp.sqrt(1 + 4 * t_LC**2)) / 2
        momentum_LC = jnp.where(uphill_LC, 0.0, (t_LC - 1) / t_next_LC)
        size_LC = jnp.sqrt(jnp.sum(g_GLC**2 / bound_GL[:, :, None], axis=0))
        return count + 1, next_GLC, next_GLC + momentum_LC * (next_GLC - w_GLC), t_next_LC, jnp.max(size_LC)

    def going(state):
        return (state[0] < STEPS) & (state[-1] > TOLERANCE)

    # The bias starts at the logit of the prevalence.
    share_C = jnp.clip(y_NC.mean(axis=0), 0.5 / records, 1 - 0.5 / records)
    start_GLC = jnp.zeros((z_NG.shape[1], strengths, classes), x_NF.dtype)
    start_GLC = start_GLC.at[-1].set(jnp.log(share_C / (1 - share_C)))
    ones_LC = jnp.ones((strengths, classes), x_NF.dtype)
    count, w_GLC, *_ = jax.lax.while_loop(going, step, (0, start_GLC, start_GLC, ones_LC, jnp.inf))
    weights_FLC = jnp.einsum("fg,glc->flc", basis_FF, w_GLC[:-1])
    return weights_FLC, w_GLC[-1], count
