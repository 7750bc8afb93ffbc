"""Weights of modules, drawn by NumPy: compiling Flax's own initialisation takes longer than what is tested."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from flax import linen as nn


def draw_variables(module: nn.Module, *args: Any) -> Any:
    """Variables of a module that is called with these arguments; no bias is zero and no scale is one."""
    rng = np.random.default_rng(0)

    def leaf(path: Any, shape: Any) -> np.ndarray:
        name, noise = path[-1].key, rng.standard_normal(shape.shape)
        values = {"kernel": noise / np.prod(shape.shape[:-1]) ** 0.5, "scale": 1 + 0.1 * noise}
        return values.get(name, 0.1 * noise).astype(shape.dtype)

    return jax.tree.map_with_path(leaf, jax.eval_shape(module.init, jax.random.key(0), *args))
