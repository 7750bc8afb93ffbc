"""Ridge regression of one quantity on frozen features, for several strengths at once. No jax."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


class Ridge(NamedTuple):
    """Linear regressions fitted with L strengths."""

    mean_F: Floats
    scale_F: Floats
    """Scale [F] of the standardisation; like `mean_F`, computed from the fitted records."""
    weights_FL: Floats
    bias: float

    def predict(self, features_NF: NDArray[np.float32]) -> Floats:
        """Predicts the quantity, [N, L] for all strengths."""
        return (features_NF - self.mean_F) / self.scale_F @ self.weights_FL + self.bias


def fit(features_NF: NDArray[np.float32], target_N: Floats, l2: tuple[float, ...]) -> Ridge:
    """Minimises, for every strength l, mean_n (target_n - x_n w - b)² + l |w|² (b is free).

    Args:
      features_NF: features [N, F]; they are standardised here.
      target_N: the quantity [N].
      l2: L strengths, all greater than 0; l corresponds to scikit-learn's alpha = l N.
    """
    x_NF = features_NF.astype(np.float64)
    mean_F, std_F = x_NF.mean(axis=0), x_NF.std(axis=0)
    scale_F = np.where(std_F > 0, std_F, 1)
    x_NF = (x_NF - mean_F) / scale_F
    bias = float(target_N.mean())
    spectrum_F, basis_FF = np.linalg.eigh(x_NF.T @ x_NF / len(x_NF))
    along_F = basis_FF.T @ (x_NF.T @ (target_N - bias)) / len(x_NF)
    weights_FL = basis_FF @ (along_F[:, None] / (np.maximum(spectrum_F, 0)[:, None] + np.array(l2)))
    return Ridge(mean_F, scale_F, weights_FL, bias)
