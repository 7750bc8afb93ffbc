"""Dropout by one key an example."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from etp_jax.models.layers import Dropout


class TwoSites(nn.Module):
    whole: bool = False

    @nn.compact
    def __call__(self, x: jax.Array, keys: jax.Array | None) -> Any:
        return Dropout(0.25, self.whole, name="first")(x, keys), Dropout(0.25, self.whole, name="second")(x, keys)


def drop(x: jax.Array, keys: jax.Array | None, whole: bool = False) -> Any:
    return TwoSites(whole).apply({}, x, keys)


def test_no_keys_is_evaluation() -> None:
    x = jnp.arange(6.0).reshape(2, 3)
    first, second = drop(x, None)
    assert (first == x).all() and (second == x).all()


def test_share_scale_and_sites() -> None:
    x = jnp.ones((64, 30, 20))
    first, second = drop(x, jax.random.split(jax.random.key(0), 64))
    assert set(np.unique(first).round(6)) == {0.0, np.float32(4 / 3).round(6)}
    np.testing.assert_allclose((first == 0).mean(), 0.25, atol=0.01)
    np.testing.assert_allclose(((first == 0) & (second == 0)).mean(), 0.25**2, atol=0.01)


def test_mask_belongs_to_the_key() -> None:
    """Any order, any split over devices: the same example is masked the same."""
    keys = jax.random.split(jax.random.key(0), 8)
    x = jnp.ones((8, 50))
    whole, _ = drop(x, keys)
    order = np.array([3, 1, 7, 0, 2, 6, 5, 4])
    np.testing.assert_array_equal(drop(x, keys[order])[0], whole[order])
    np.testing.assert_array_equal(np.concatenate([drop(x[:2], keys[i : i + 2])[0] for i in range(0, 8, 2)]), whole)
    per_device = jax.vmap(lambda x, keys: drop(x, keys)[0])(x.reshape(4, 2, 50), keys.reshape(4, 2))
    np.testing.assert_array_equal(per_device.reshape(8, 50), whole)


def test_whole_drops_all_or_nothing() -> None:
    first, _ = drop(jnp.ones((400, 5, 4)), jax.random.split(jax.random.key(0), 400), whole=True)
    per_example = np.asarray(first).reshape(400, -1)
    assert (per_example == per_example[:, :1]).all()
    np.testing.assert_allclose((per_example[:, 0] == 0).mean(), 0.25, atol=0.07)
