"""Dropout by one key an example; batch normalisation against Flax's own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from etp_jax.models.layers import BatchNorm, Dropout


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


@pytest.mark.parametrize(("devices", "axis_name"), [(1, "batch"), (4, "batch"), (4, None)])
def test_batch_norm_is_flax_s(devices: int, axis_name: str | None) -> None:
    """Values, gradients and running statistics, in float64, the batch whole, over an axis, or each part alone."""
    with jax.enable_x64(True):
        rng = np.random.default_rng(0)
        x, weight = rng.normal(3, 2, (devices, 6, 5, 7)), rng.normal(size=(devices, 6, 5, 7))
        ours = BatchNorm(True, axis_name, jnp.float64)
        reference = nn.BatchNorm(False, axis_name=axis_name, momentum=0.9, epsilon=1e-5, dtype=jnp.float64)
        variables = {
            "params": {"scale": jnp.asarray(rng.normal(size=7)), "bias": jnp.asarray(rng.normal(size=7))},
            "batch_stats": {"mean": jnp.asarray(rng.normal(size=7)), "var": jnp.asarray(rng.uniform(1, 2, 7))},
        }

        def outcome(layer: Any) -> Any:
            def device(x: Any, weight: Any) -> Any:
                def loss(params: Any, x: jax.Array) -> Any:
                    y, changed = layer.apply(variables | {"params": params}, x, mutable=["batch_stats"])
                    return (weight * jnp.tanh(y)).sum(), (y, changed["batch_stats"])

                return jax.grad(loss, (0, 1), has_aux=True)(variables["params"], x)

            return jax.vmap(device, axis_name="batch")(x, weight)

        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-11, atol=1e-12), outcome(ours), outcome(reference)
        )
        still: Any = BatchNorm(False, "batch", jnp.float64).apply(variables, x)
        expected: Any = nn.BatchNorm(True, epsilon=1e-5, dtype=jnp.float64).apply(variables, x)
        np.testing.assert_allclose(still, expected, rtol=1e-12)  # pyright: ignore[reportArgumentType]


def test_batch_norm_in_bfloat16_keeps_float32_statistics() -> None:
    """The mean of many equal values is exact although bfloat16 could not add them up."""
    x = jnp.full((1, 4, 1000, 2), 1.5, jnp.bfloat16)
    layer = BatchNorm(True, "batch", jnp.bfloat16)
    variables = {
        "params": {"scale": jnp.ones(2), "bias": jnp.zeros(2)},
        "batch_stats": {"mean": jnp.zeros(2), "var": jnp.ones(2)},
    }
    y, changed = jax.vmap(lambda x: layer.apply(variables, x, mutable=["batch_stats"]), axis_name="batch")(x)
    stats: Any = changed["batch_stats"]
    assert y.dtype == jnp.bfloat16 and stats["mean"].dtype == jnp.float32
    np.testing.assert_allclose(stats["mean"][0], 0.15, rtol=1e-6)
