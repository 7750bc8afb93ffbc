"""Vectors of unit length."""

from __future__ import annotations

from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

Float = TypeVar("Float", bound=np.floating)


def unit(x_NE: NDArray[Float]) -> NDArray[Float]:
    """Vectors [..., E] scaled to length 1; one of zeros stays as it is."""
    return x_NE / np.maximum(np.linalg.norm(x_NE, axis=-1, keepdims=True), 1e-12)
