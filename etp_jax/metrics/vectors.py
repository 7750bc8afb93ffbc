"""Vectors of unit length."""

from __future__ import annotations

from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def unit(x_NE: NDArray[Float]) -> NDArray[Float]:
    """Vectors [..., E] scaled to length 1; one of zeros stays as it is."""
    length_N1: Any = np.linalg.norm(x_NE, axis=-1, keepdims=True)  # of x_NE's type
    return x_NE / np.maximum(length_N1, 1e-12)


def mean_cosine(unit_NE: NDArray[Float]) -> float:
    """Mean cosine of the pairs of different rows of N unit vectors; 0 for fewer than two."""
    count = len(unit_NE)
    if count < 2:
        return 0.0
    total_E = unit_NE.sum(axis=0, dtype=np.float64)
    return float((total_E @ total_E - count) / (count * (count - 1)))
