"""Tests of the counted FLOPs against XLA's count, and of utilisation against peaks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.bench import flops
from etp_jax.bench.peaks import SHEETS, Peak, against_peak, peak
from etp_jax.config import EcgConfig, MerlConfig, ResNetConfig, TrainConfig, ViTConfig
from etp_jax.configs import load_recipe
from etp_jax.models.bert import Bert, BertConfig
from etp_jax.models.dual_encoder import DualEncoder, init_variables

BATCH, SAMPLES, LEADS = 2, 1000, 12
FLOAT32 = np.dtype("float32")
SMALL_BERT = BertConfig(50, 64, 3, 4, 256)


def xla_flops(function: Any, *args: Any) -> float:
    """What XLA counts in the compiled program, elementwise work included."""
    cost: Any = jax.jit(function).lower(*args).compile().cost_analysis()
    return (cost[0] if isinstance(cost, list) else cost)["flops"]


def shapes(model: DualEncoder, samples: int = SAMPLES) -> Any:
    return jax.eval_shape(lambda: init_variables(model, jax.random.key(0), samples, LEADS))


@pytest.mark.parametrize(
    ("tower", "tolerance"),
    [
        (ResNetConfig(), 0.01),
        (ResNetConfig(depth=50, stem="conv-pool", kernel=5), 0.02),
        (ViTConfig(layers=2), 0.08),  # XLA counts softmax and GELU too
        (MerlConfig(), 0.01),
    ],
    ids=["resnet18", "resnet50", "vit", "merl"],
)
def test_encoder(tower: EcgConfig, tolerance: float) -> None:
    config = recipe("mets", model=replace(load_recipe("mets").model, ecg=tower, projection="mlp"))
    model = DualEncoder(config.model, None, 384)
    variables = shapes(model)
    counted = flops.encoder(config, SAMPLES, LEADS, variables["params"], FLOAT32, 1).flops
    ecg = jax.ShapeDtypeStruct((BATCH, SAMPLES, LEADS), jnp.int16)
    mask = jax.ShapeDtypeStruct((BATCH, LEADS), bool)
    theirs = xla_flops(lambda v, e, m: model.apply(v, e, m, method="encode_ecg"), variables, ecg, mask)
    assert counted == pytest.approx(theirs, rel=tolerance)


def test_bert() -> None:
    """BERT-base's layers, of which two tell as much as twelve."""
    config = BertConfig(100, 768, 2, 12, 3072)
    bert, tokens = Bert(config), jax.ShapeDtypeStruct((BATCH, 64), jnp.int32)
    params = jax.eval_shape(lambda x: bert.init(jax.random.key(0), x, x), tokens)
    theirs = xla_flops(lambda p, x: bert.apply(p, x, x), params, tokens)
    assert BATCH * flops.bert(config, 64).flops == pytest.approx(theirs, rel=0.03)


def test_train_step_passes() -> None:
    """Three times forwards; frozen layers once, those above a trained one twice; the loss beside it."""
    frozen = recipe("mets")
    encoder = flops.encoder(frozen, SAMPLES, LEADS, params_of(frozen), FLOAT32, 1)
    text = 3 * BATCH * 2 * 64 * 128
    loss = 3 * 2 * BATCH * BATCH * 128
    assert step_of(frozen).flops == 3 * encoder.flops + text + loss

    layer = BATCH * flops.bert(replace(SMALL_BERT, num_hidden_layers=1), 8).flops
    for pattern, passes in ((".*", 9), ("encoder/layer/2/.*", 5), ("encoder/layer/0/.*", 7), ("embeddings/.*", 6)):
        config = recipe("etp", text=pattern)
        assert step_of(config).flops - step_of(frozen).flops == passes * layer, pattern
    semantic = recipe("mets", loss=replace(frozen.loss, pairs="semantic"))
    assert step_of(semantic).flops - step_of(frozen).flops == 2 * BATCH * BATCH * 64


def test_bytes() -> None:
    """Halved by bfloat16 but for state and batch; optimiser state on every device; the moving average counts."""
    config = recipe("mets")
    size = sum(leaf.size for leaf in jax.tree.leaves(params_of(config)))
    batch = BATCH * (2 * SAMPLES * LEADS + 4 * 64)
    one, two = step_of(config), step_of(config, devices=2)
    assert two.bytes - one.bytes == 4 * 8 * size
    activations = one.bytes - 4 * 8 * size - batch
    narrow = step_of(config, dtype=jnp.dtype("bfloat16"))
    assert narrow.bytes == one.bytes - activations // 2
    averaged = recipe("mets", optim=replace(config.optim, ema=0.9))
    assert step_of(averaged).bytes - one.bytes == 2 * 4 * size
    # Stem, four convolutions of the first stage and the last one's, by hand: steps x channels.
    stage = [500 * 64 * 5, 250 * 128 * 5, 125 * 256 * 5, 63 * 512 * 5]
    assert activations == BATCH * 4 * (13 * sum(stage) + 5 * (128 + 128))


def test_peaks() -> None:
    assert peak("NVIDIA H200", "bfloat16") == Peak(989.4e12, 4.8e12, SHEETS["NVIDIA H200"].source)
    assert peak("TPU v5 lite", "float32").flops == 197e12
    assert peak("NVIDIA H200", "float64").flops is None
    assert peak("cpu", "float32") == Peak(None, None, None)
    assert peak("cpu", "float32", tflops=0.2, gb_per_s=20) == Peak(0.2e12, 20e9, "given")
    work = flops.Step(flops=4 * 10**12, bytes=10**12)
    assert against_peak(work, 2.0, 2, Peak(1e12, None, None)) == {"mfu": 1.0, "limit": None, "of_roof": None}
    assert against_peak(work, 10.0, 2, Peak(1e12, 1e11, None)) == {"mfu": 0.2, "limit": "memory", "of_roof": 0.5}
    assert against_peak(work, 10.0, 2, Peak(1e12, 1e12, None))["limit"] == "compute"
    assert against_peak(work, 2.0, 2, Peak(None, None, None))["mfu"] is None


def recipe(name: str, text: str = ".*", **parts: Any) -> TrainConfig:
    config = replace(load_recipe(name), **parts)
    model = replace(config.model, text=replace(config.model.text, trainable=text))
    return replace(config, model=model, data=replace(config.data, batch_size=BATCH))


def params_of(config: TrainConfig) -> Any:
    bert = None if config.model.text.frozen else SMALL_BERT
    return shapes(DualEncoder(config.model, bert, 64, loss=config.loss))["params"]


def step_of(config: TrainConfig, dtype: Any = FLOAT32, devices: int = 1) -> flops.Step:
    tower = None if config.model.text.frozen else (SMALL_BERT, 8)
    return flops.train_step(config, SAMPLES, LEADS, params_of(config), tower, 64, dtype, devices)
