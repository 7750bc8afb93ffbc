"""L2-regularised logistic regression on frozen features, for several strengths and all classes at once."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from etp_jax.metrics.classification import has_both

L2 = (1e-3, 1e-2, 0.1, 1.0, 10.0, 100.0)
"""Candidate regularisation strengths: the factor of half the squared norm, added to the mean loss."""
STEPS = 50
"""Maximum number of Newton steps of a fit."""
INNER_STEPS = 100
"""Maximum number of products with the Hessian for one Newton step."""
INNER_REDUCTION = 0.1
"""Relative residual, to the gradient, at which the solution of a Newton step stops."""
TOLERANCE = 2e-5
"""Convergence threshold of a fit: its gradient, measured in the metric of the curvature bound and divided by the loss's
flatness, must be below this. It is about the error of a logit at the typical record."""
LEAST_FLATNESS = 0.05
"""Lower bound of the flatness; float32 does not resolve a flatter loss."""
LEAST_STEP = 1e-3
"""Smallest share of a Newton step that the line search tries."""


class Probes(NamedTuple):
    """Probes fitted with L strengths."""

    mean_F: NDArray[np.float32]
    scale_F: NDArray[np.float32]
    """Scale [F] of the standardisation, times the root of the penalty; like `mean_F`, from the fitted records."""
    weights_LFC: NDArray[np.float32]
    bias_LC: NDArray[np.float32]
    steps_L: NDArray[np.int32]
    """Number of Newton steps by strength; `STEPS` if a class did not converge."""

    def logits(self, features_NF: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits [L, N, C] for all strengths."""
        x_NF = (features_NF - self.mean_F) / self.scale_F
        return (x_NF @ self.weights_LFC + self.bias_LC[:, None]).astype(np.float32, copy=False)

    def details(self, number: int) -> dict[str, Any]:
        """Regularisation strength of a setting, and whether the fit converged."""
        return {"l2": L2[number], "converged": bool(self.steps_L[number] < STEPS)}


def fit(
    features_NF: NDArray[np.float32],
    y_NC: NDArray[np.bool_],
    l2: tuple[float, ...] = L2,
    penalty_F: NDArray[np.float64] | None = None,
) -> Probes:
    """Minimises, for each class c and strength l, mean_n logloss(y_nc, x_n w + b) + l / 2 sum_f p_f w_f² (b is free).

    Newton's method, each step solved by conjugate gradients, for all classes at once, so they share each product
    with X. The Hessian never exceeds X'X / 4N + l (Böhning, Ann. Inst. Stat. Math. 44, 1992), which is the same for all
    classes, so one eigendecomposition preconditions every problem. Each strength starts from the solution of the
    next greater one. l corresponds to scikit-learn's C = 1 / (l N).

    Args:
      features_NF: features [N, F]; they are standardised here.
      y_NC: classes, bool [N, C]. A class with only one outcome gets zero weights: all its scores are equal.
      l2: L strengths, all greater than 0, in ascending order.
      penalty_F: penalty p_f of each standardised feature, greater than 0; None: all 1.
    """
    x_NF = features_NF.astype(np.float64)
    mean_F, std_F = x_NF.mean(axis=0), x_NF.std(axis=0)
    scale_F = np.where(std_F > 0, std_F, 1)
    if penalty_F is not None:
        scale_F *= np.sqrt(penalty_F)  # the weight of x_f / sqrt(p_f) is sqrt(p_f) w_f, whose square is p_f w_f²
    x_NF = (x_NF - mean_F) / scale_F
    # The bound is diagonal in the eigenbasis of X'X / N. It is computed in double precision: an underestimated
    # eigenvalue would make steps too long. Directions without data, which exist if there are fewer records than
    # features, keep zero weights and are left out. X is centred, so the bias, a last column of ones, is a separate
    # direction.
    if len(x_NF) < x_NF.shape[1]:  # the right singular vectors are the same basis, at a fraction of the cost
        _, singular, transposed = np.linalg.svd(x_NF, full_matrices=False)
        spectrum, basis = singular**2 / len(x_NF), transposed.T
    else:
        spectrum, basis = np.linalg.eigh(x_NF.T @ x_NF / len(x_NF))
    basis_FD, spectrum_D = (array[..., spectrum > 1e-12 * spectrum.max()] for array in (basis, spectrum))
    z_NG = np.concatenate([x_NF @ basis_FD, np.ones((len(x_NF), 1))], axis=1)
    spectrum_G, penalised_G = np.append(spectrum_D, 1), np.append(np.ones_like(spectrum_D), 0)
    with jax.default_matmul_precision("highest"):
        arrays = (z_NG, z_NG.T, y_NC, has_both(y_NC), spectrum_G, penalised_G, l2)
        w_LGC, steps_L = map(np.asarray, _minimise(*(jnp.array(array, jnp.float32) for array in arrays)))
    weights_LFC = (basis_FD @ w_LGC[:, :-1]).astype(np.float32)
    return Probes(mean_F.astype(np.float32), scale_F.astype(np.float32), weights_LFC, w_LGC[:, -1], steps_L)


class _Point(NamedTuple):
    """State of the minimisation for all classes."""

    w_GC: jax.Array
    logits_NC: jax.Array
    gradient_GC: jax.Array
    curvature_NC: jax.Array
    """Second derivative of each record's loss with respect to its logit."""
    error_C: jax.Array


@jax.jit
def _minimise(
    z_NG: jax.Array,
    z_GN: jax.Array,
    y_NC: jax.Array,
    both_C: jax.Array,
    spectrum_G: jax.Array,
    penalised_G: jax.Array,
    l2_L: jax.Array,
) -> tuple[jax.Array, jax.Array]:
    """Computes weights [L, G, C], the bias last, and numbers of steps [L].

    z is also given transposed, the layout that thin products need.
    """
    records = len(z_NG)

    def solve(start: tuple[jax.Array, jax.Array], l2: jax.Array):
        ridge_G1, spectrum_G1 = (l2 * penalised_G)[:, None], spectrum_G[:, None]

        def loss_C(logits_NC: jax.Array, w_GC: jax.Array) -> jax.Array:
            data_C = jnp.mean(jax.nn.softplus(logits_NC) - y_NC * logits_NC, axis=0)
            return data_C + jnp.sum(ridge_G1 * w_GC**2, axis=0) / 2

        def flatness_C(curvature_NC: jax.Array) -> jax.Array:
            # Where most records have confident predictions, the loss is flatter than the bound: the same gradient is
            # then further from the minimum.
            return jnp.maximum(4 * jnp.mean(curvature_NC, axis=0), LEAST_FLATNESS)

        def point(w_GC: jax.Array, logits_NC: jax.Array) -> _Point:
            p_NC = jax.nn.sigmoid(logits_NC)
            gradient_GC = both_C * (z_GN @ (p_NC - y_NC) / records + ridge_G1 * w_GC)
            curvature_NC = p_NC * (1 - p_NC)
            length_C = jnp.sqrt(jnp.sum(gradient_GC**2 / (spectrum_G1 / 4 + ridge_G1), axis=0))
            return _Point(w_GC, logits_NC, gradient_GC, curvature_NC, length_C / flatness_C(curvature_NC))

        def direction(at: _Point) -> tuple[jax.Array, jax.Array]:
            """Solves Hessian · d = -gradient by preconditioned conjugate gradients; d [G, C] and its logits."""
            inverse_GC = 1 / (flatness_C(at.curvature_NC) / 4 * spectrum_G1 + ridge_G1)
            wanted_C = INNER_REDUCTION**2 * jnp.sum(inverse_GC * at.gradient_GC**2, axis=0)

            def step(state):
                count, d_GC, d_logits_NC, rest_GC, along_GC, size_C = state
                along_NC = z_NG @ along_GC
                bent_GC = z_GN @ (at.curvature_NC * along_NC) / records + ridge_G1 * along_GC
                length_C = _ratio(size_C, jnp.sum(along_GC * bent_GC, axis=0))
                rest_GC = rest_GC - length_C * bent_GC
                next_GC = inverse_GC * rest_GC
                next_size_C = jnp.sum(rest_GC * next_GC, axis=0)
                along_next_GC = next_GC + _ratio(next_size_C, size_C) * along_GC
                d_GC, d_logits_NC = d_GC + length_C * along_GC, d_logits_NC + length_C * along_NC
                return count + 1, d_GC, d_logits_NC, rest_GC, along_next_GC, next_size_C

            def going(state):
                return (state[0] < INNER_STEPS) & jnp.any(state[-1] > wanted_C)

            along_GC = -inverse_GC * at.gradient_GC
            size_C = -jnp.sum(at.gradient_GC * along_GC, axis=0)
            zeros = jnp.zeros_like(at.w_GC), jnp.zeros_like(at.logits_NC)
            state = (jnp.int32(0), *zeros, -at.gradient_GC, along_GC, size_C)
            return jax.lax.while_loop(going, step, state)[1:3]

        def newton_step(state: tuple[jax.Array, _Point]) -> tuple[jax.Array, _Point]:
            count, at = state
            d_GC, d_logits_NC = direction(at)
            now_C, slope_C = loss_C(at.logits_NC, at.w_GC), jnp.sum(at.gradient_GC * d_GC, axis=0)

            def too_far(share_C: jax.Array) -> jax.Array:
                loss = loss_C(at.logits_NC + share_C * d_logits_NC, at.w_GC + share_C * d_GC)
                rounding_C = 1e-6 * jnp.abs(now_C)
                return (loss > now_C + 1e-4 * share_C * slope_C + rounding_C) & (share_C > LEAST_STEP)

            share_C = jax.lax.while_loop(
                lambda share_C: jnp.any(too_far(share_C)),
                lambda share_C: jnp.where(too_far(share_C), share_C / 2, share_C),
                jnp.ones_like(now_C),
            )
            return count + 1, point(at.w_GC + share_C * d_GC, at.logits_NC + share_C * d_logits_NC)

        def going(state: tuple[jax.Array, _Point]) -> jax.Array:
            return (state[0] < STEPS) & jnp.any(state[1].error_C > TOLERANCE)

        count, at = jax.lax.while_loop(going, newton_step, (jnp.int32(0), point(*start)))
        return (at.w_GC, z_NG @ at.w_GC), (at.w_GC, count)

    # The bias starts at the logit of the class's prevalence.
    share_C = jnp.clip(y_NC.mean(axis=0), 0.5 / records, 1 - 0.5 / records)
    start_GC = jnp.zeros((z_NG.shape[1], y_NC.shape[1])).at[-1].set(jnp.log(share_C / (1 - share_C)))
    return jax.lax.scan(solve, (start_GC, z_NG @ start_GC), l2_L, reverse=True)[1]


def _ratio(a_C: jax.Array, b_C: jax.Array) -> jax.Array:
    """The quotient a / b; 0 where b is not positive, which occurs for classes that are solved exactly."""
    return jnp.where(b_C > 0, a_C / jnp.where(b_C > 0, b_C, 1), 0)
