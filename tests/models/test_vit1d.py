"""Tests of the transformer over patches of single leads."""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import ModelConfig, ViTConfig
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.models.vit1d import Vit1D
from tests.helpers.weights import draw_variables

SMALL = ViTConfig(patch=20, width=24, layers=2, heads=3)
ECG = np.random.default_rng(0).normal(size=(3, 100, 4)).astype(np.float32)
MASK = np.ones((3, 4), bool)


def init(config: ViTConfig, ecg: np.ndarray = ECG) -> Any:
    return draw_variables(Vit1D(config), ecg, np.ones((len(ecg), ecg.shape[2]), bool))


compiled = jax.jit(lambda config, *args: Vit1D(config).apply(*args), static_argnums=(0, 4))


def encode(variables: Any, ecg: Any, mask: Any, config: ViTConfig = SMALL, keys: Any = None) -> np.ndarray:
    return np.asarray(compiled(config, variables, ecg, mask, False, keys))


def reference(params: Any, ecg_BTL: np.ndarray, mask_BL: np.ndarray) -> np.ndarray:
    """The same in numpy, float64, an example and a head at a time, absent leads left out altogether."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def linear(x: np.ndarray, p: Any) -> np.ndarray:
        return x @ p["kernel"] + p["bias"]

    def norm(x: np.ndarray, p: Any) -> np.ndarray:
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6) * p["scale"] + p["bias"]

    def gelu(x: np.ndarray) -> np.ndarray:
        return x * 0.5 * (1 + np.vectorize(math.erf)(x / np.sqrt(2)))

    width, half = SMALL.width, SMALL.width // 2
    rows = []
    for ecg_TL, mask_L in zip(ecg_BTL.astype(np.float64), mask_BL, strict=True):
        tokens = []
        for lead in np.flatnonzero(mask_L):
            for place in range(len(ecg_TL) // SMALL.patch):
                patch = ecg_TL[place * SMALL.patch : (place + 1) * SMALL.patch, lead]
                angle = place / 10_000.0 ** (np.arange(half) / half)
                code = np.concatenate([np.sin(angle), np.cos(angle)])
                tokens.append(linear(patch, params["patch"]) + code + params["lead"][lead])
        x = np.stack(tokens)
        for block in (params[f"block{i + 1}"] for i in range(SMALL.layers)):
            query, key, value = np.split(linear(norm(x, block["norm1"]), block["qkv"]), 3, axis=-1)
            mixed = []
            for head in np.split(np.arange(width), SMALL.heads):
                scores = query[:, head] @ key[:, head].T / np.sqrt(len(head))
                weights = np.exp(scores - scores.max(axis=1, keepdims=True))
                mixed.append(weights / weights.sum(axis=1, keepdims=True) @ value[:, head])
            x = x + linear(np.concatenate(mixed, axis=1), block["attention"])
            x = x + linear(gelu(linear(norm(x, block["norm2"]), block["mlp1"])), block["mlp2"])
        rows.append(norm(x, params["norm"]).mean(axis=0))
    return np.stack(rows)


def test_against_numpy_with_absent_leads() -> None:
    """An absent lead is as if it were not there, whatever its samples hold."""
    variables = init(SMALL)
    mask = np.array([[1, 1, 1, 1], [1, 0, 0, 1], [0, 0, 1, 0]], bool)
    expected = reference(variables["params"], ECG, mask)
    np.testing.assert_allclose(encode(variables, ECG, mask), expected, atol=2e-5)
    noise = np.where(mask[:, None], ECG, 100.0).astype(np.float32)
    np.testing.assert_allclose(encode(variables, noise, mask), expected, atol=2e-5)


def test_focal_s_sizes() -> None:
    """192 wide, 12 deep, one-second patches of 500 Hz: 5.5 million parameters, as a ViT-tiny has."""
    config = ViTConfig(patch=500)
    shapes = jax.eval_shape(Vit1D(config).init, jax.random.key(0), jnp.zeros((1, 5000, 12)), jnp.ones((1, 12), bool))
    layer = 4 * 192 + (192 + 1) * 3 * 192 + (192 + 1) * 192 + (192 + 1) * 768 + (768 + 1) * 192
    assert sum(x.size for x in jax.tree.leaves(shapes)) == 12 * layer + 501 * 192 + 12 * 192 + 2 * 192


def test_any_length_and_a_mask_of_nothing_else() -> None:
    variables = init(SMALL)
    longer = np.concatenate([ECG, ECG], axis=1)
    assert encode(variables, longer, MASK).shape == (3, 24)
    assert np.isfinite(encode(variables, longer, MASK)).all()


def test_drop_path_belongs_to_the_key() -> None:
    config = ViTConfig(patch=20, width=24, layers=2, heads=3, drop_path=0.5)
    variables, keys = init(config), jax.random.split(jax.random.key(3), 3)
    one = encode(variables, ECG, MASK, config, keys)
    order = np.array([2, 0, 1])
    np.testing.assert_allclose(encode(variables, ECG[order], MASK, config, keys[order]), one[order], atol=1e-6)
    other = encode(variables, ECG, MASK, config, jax.random.split(jax.random.key(4), 3))
    assert not np.allclose(one, other)


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(EtpError, match=r"model\.ecg\.patch is 30, which does not divide records of 100"):
        init(ViTConfig(patch=30, width=24, heads=3))
    with pytest.raises(EtpError, match="not a multiple of 2 x heads"):
        init(ViTConfig(patch=20, width=20, heads=3))


def test_inside_the_dual_encoder() -> None:
    """It takes the place of the ResNet; no statistics; every parameter gets a gradient."""
    model = DualEncoder(ModelConfig(ecg=SMALL), None, 8)
    variables = init_variables(model, jax.random.key(0), 100, 4)
    assert variables["batch_stats"] == {}
    text = np.random.default_rng(2).normal(size=(3, 8)).astype(np.float32)

    def loss(params: Any) -> jax.Array:
        encoded: Any = model.apply({"params": params}, 1000 * ECG, MASK, True, None, method="encode_ecg")
        return (encoded[1] * model.apply({"params": params}, text, method="encode_text")).sum()

    grads = jax.jit(jax.grad(loss))(variables["params"])["ecg_tower"]
    assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(grads))
