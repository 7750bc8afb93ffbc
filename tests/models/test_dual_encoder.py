"""Tests of scaling, projections, embeddings and the parameter tree."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from etp_jax.config import LossConfig, ModelConfig, ResNetConfig, TextTowerConfig
from etp_jax.models.bert import Bert, BertConfig
from etp_jax.models.dual_encoder import DualEncoder, Projection, init_variables, normalize, scale_ecg

RNG = np.random.default_rng(0)
ECG = (RNG.standard_normal((3, 64, 4)) * 300 + 500).astype(np.int16)
MASK = np.array([[True] * 4, [True, True, False, True], [False] * 4])
TINY = ModelConfig(ecg=ResNetConfig(width=4), text=TextTowerConfig(pool="mean"), embedding_dim=8)
BERT = BertConfig(30, 8, 1, 2, 16, max_position_embeddings=16)


# --- scaling ------------------------------------------------------------------------------------------------------


def test_millivolt() -> None:
    expected = np.where(MASK[:, None], ECG / 1000, 0)
    np.testing.assert_allclose(scale_ecg(jnp.asarray(ECG), jnp.asarray(MASK), "millivolt"), expected, atol=1e-6)


@pytest.mark.parametrize("scale", ["record", "lead"])
def test_zero_mean_and_unit_deviation_over_what_was_recorded(scale: str) -> None:
    """What stands in an unrecorded lead changes nothing; a record without any lead is all zero."""
    spoiled = np.where(MASK[:, None], ECG, 32767).astype(np.int16)
    for ecg in (ECG, spoiled):
        x = np.asarray(scale_ecg(jnp.asarray(ecg), jnp.asarray(MASK), scale))
        assert (x[1, :, 2] == 0).all() and (x[2] == 0).all()
        live = x[1][:, [0, 1, 3]]
        axis = None if scale == "record" else 0
        np.testing.assert_allclose(live.mean(axis), 0, atol=1e-5)
        np.testing.assert_allclose(live.std(axis), 1, atol=1e-4)


def test_from_zero_to_one_over_what_was_recorded() -> None:
    spoiled = jnp.asarray(np.where(MASK[:, None], ECG, 32767).astype(np.int16))
    x = np.asarray(scale_ecg(spoiled, jnp.asarray(MASK), "min-max"))
    assert (x[1, :, 2] == 0).all() and (x[2] == 0).all()
    live = ECG[1][:, [0, 1, 3]].astype(float)
    expected = (live - live.min()) / (live.max() - live.min())
    np.testing.assert_allclose(x[1][:, [0, 1, 3]], expected, atol=1e-6)


@pytest.mark.parametrize("scale", ["record", "lead", "min-max"])
def test_flat_leads_become_zero(scale: str) -> None:
    x = scale_ecg(jnp.full((1, 64, 4), 1234, jnp.int16), jnp.ones((1, 4), bool), scale)
    np.testing.assert_allclose(x, 0, atol=1e-3)


def test_augmented_float_is_read_as_microvolt() -> None:
    x = scale_ecg(jnp.asarray(ECG, jnp.float32), jnp.asarray(MASK), "millivolt")
    np.testing.assert_array_equal(x, scale_ecg(jnp.asarray(ECG), jnp.asarray(MASK), "millivolt"))


# --- the joint space ----------------------------------------------------------------------------------------------


def test_normalize() -> None:
    x = normalize(jnp.asarray([[3.0, 4.0], [0.0, 0.0]]))
    np.testing.assert_allclose(x, [[0.6, 0.8], [0.0, 0.0]], atol=1e-7)
    gradient = jax.grad(lambda x: normalize(x).sum())(jnp.zeros((1, 2)))
    assert np.isfinite(gradient).all()


def test_projections() -> None:
    x = RNG.standard_normal((2, 6)).astype(np.float32)
    linear = Projection(TINY, jnp.float32)
    params = jax.jit(linear.init)(jax.random.key(0), x, None)
    weights = {"/".join(k): np.asarray(v) for k, v in traverse_util.flatten_dict(params["params"]).items()}
    y = x @ weights["linear/kernel"] + weights["linear/bias"]
    unit: Any = jax.jit(linear.apply)(params, x, None)
    np.testing.assert_allclose(unit, y / np.linalg.norm(y, axis=1, keepdims=True), atol=1e-6)
    mlp = Projection(replace(TINY, projection="mlp"), jnp.float32)
    assert set(jax.eval_shape(mlp.init, jax.random.key(0), x, None)["params"]) == {"hidden", "linear"}


@pytest.fixture(scope="module")
def model() -> DualEncoder:
    return DualEncoder(TINY, BERT, 8, loss=LossConfig(temperature=0.07, score="sigmoid"))


@pytest.fixture(scope="module")
def pretrained() -> Any:
    """Weights of the text tower."""
    ids = jnp.zeros((1, 8), jnp.int32)
    shapes = jax.eval_shape(Bert(BERT).init, jax.random.key(0), ids, ids)["params"]
    return jax.tree.map(lambda leaf: RNG.normal(0.3, 0.3, leaf.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def variables(model: DualEncoder, pretrained: Any) -> Any:
    return init_variables(model, jax.random.key(0), samples=64, leads=4, text_params=pretrained)


def test_parameter_tree() -> None:
    def shapes(bert: BertConfig | None, loss: LossConfig) -> Any:
        model = DualEncoder(TINY, bert, 8, loss=loss)
        return jax.eval_shape(lambda: init_variables(model, jax.random.key(0), samples=64, leads=4))

    frozen = shapes(None, LossConfig())
    both = {"ecg_tower", "ecg_projection", "text_projection", "logit_scale"}
    assert set(frozen["params"]) == both and set(frozen["batch_stats"]) == {"ecg_tower"}
    trained = shapes(BERT, LossConfig(score="sigmoid"))
    assert set(trained["params"]) == {*both, "text_tower", "logit_bias"}
    paths = {"/".join(path) for path in traverse_util.flatten_dict(trained["params"]["text_tower"])}
    assert "encoder/layer/0/attention/self/query/kernel" in paths


def test_score_parameters(variables: Any) -> None:
    np.testing.assert_allclose(variables["params"]["logit_scale"], math.log(1 / 0.07), rtol=1e-6)
    assert variables["params"]["logit_bias"] == -10.0


def test_embeddings_are_unit_float32(model: DualEncoder, variables: Any) -> None:
    features, embedding = jax.jit(lambda *x: model.apply(variables, *x, method="encode_ecg"))(ECG[:2], MASK[:2])
    vectors = RNG.standard_normal((5, 8)).astype(np.float32)
    text: Any = jax.jit(lambda x: model.apply(variables, x, method="encode_text"))(vectors)
    assert features.shape == (2, 32) and embedding.shape == (2, 8) and text.shape == (5, 8)
    assert features.dtype == embedding.dtype == text.dtype == jnp.float32
    for rows in (embedding, text):
        np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, atol=1e-5)


def test_text_ignores_padding(model: DualEncoder, variables: Any) -> None:
    ids = RNG.integers(0, 30, (2, 6))
    mask = np.array([[1] * 6, [1, 1, 1, 0, 0, 0]])
    encode = jax.jit(lambda text: model.apply(variables, text, method="encode_text"))
    text = encode({"input_ids": ids, "attention_mask": mask})
    spoiled = encode({"input_ids": np.where(mask, ids, 7), "attention_mask": mask})
    np.testing.assert_allclose(text, spoiled, atol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(text, axis=1), 1, atol=1e-5)


def test_pretrained_text_takes_its_place(model: DualEncoder, variables: Any, pretrained: Any) -> None:
    drawn = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), 64, 4))
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), drawn) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), variables
    )
    given = variables["params"]["text_tower"]
    assert all(map(np.array_equal, jax.tree.leaves(given), jax.tree.leaves(pretrained)))


def test_bfloat16_towers_keep_float32_parameters_and_embeddings(model: DualEncoder, variables: Any) -> None:
    half = model.clone(dtype=jnp.bfloat16)
    shapes = jax.eval_shape(lambda: init_variables(half, jax.random.key(0), 64, 4))
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    text = {"input_ids": jnp.ones((2, 8), int), "attention_mask": jnp.ones((2, 8), int)}
    coarse = jax.jit(half.apply)(variables, ECG[:2], MASK[:2], text)
    exact = jax.jit(model.apply)(variables, ECG[:2], MASK[:2], text)
    for a, b in zip(coarse, exact, strict=True):
        assert a.dtype == jnp.float32
        np.testing.assert_allclose(a, b, atol=0.05)
