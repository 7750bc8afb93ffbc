"""Compares the ONNX graph, run by onnxruntime, with Flax."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import onnxruntime
import pytest

from etp_jax.config import ModelConfig, ResNetConfig, TrainConfig, ViTConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.onnx import ONNX_FILE, save_onnx
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import DualEncoder

BATCH, SAMPLES = 3, 64


def run_onnx(folder: Path, ecg_mv: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    session = onnxruntime.InferenceSession(folder / ONNX_FILE, providers=["CPUExecutionProvider"])
    outputs = session.run(["features", "embedding"], {"ecg": ecg_mv.astype(np.float32), "lead_mask": mask})
    return [np.asarray(output) for output in outputs]


def made_up(tower: ResNetConfig, projection: Any) -> Encoder:
    """An encoder with random parameters and statistics, so that none is 0 or 1."""
    config = ModelConfig(ecg=tower, embedding_dim=8, projection=projection)
    model = DualEncoder(config, None, 8)
    shapes = jax.eval_shape(
        lambda key: model.init(key, np.zeros((1, SAMPLES, 12)), np.ones((1, 12), bool), np.zeros((1, 8))),
        jax.random.key(0),
    )
    rng = np.random.default_rng(0)

    def draw(path: Any, leaf: Any) -> np.ndarray:
        values = rng.normal(0, 1 / np.sqrt(max(np.prod(leaf.shape[:-1]), 1)), leaf.shape)
        if path[-1].key in ("scale", "var"):
            values = rng.uniform(0.5, 1.5, leaf.shape)
        return values.astype(np.float32)

    variables = {"batch_stats": {}, **jax.tree_util.tree_map_with_path(draw, shapes)}
    about = {"leads": list(LEADS), "fs": 100, "samples": SAMPLES}
    return Encoder(Path("made-up"), TrainConfig(model=config), about, model, variables, {}, 1, 0)


@pytest.mark.parametrize(
    ("tower", "projection"),
    [
        (ResNetConfig(width=4, stem="conv", pool="mean", kernel=5), "linear"),
        (ResNetConfig(width=4, stem="conv-pool", pool="mean-max", scale="record", norm="group"), "mlp"),
        (ResNetConfig(width=4, stem="conv", pool="stages"), "linear"),
        (ResNetConfig(width=4, stem="conv", pool="attention", scale="lead", depth=50), "linear"),
        (ResNetConfig(width=4, stem="conv", pool="max", scale="min-max", blocks=(1, 1)), "linear"),
    ],
    ids=lambda value: f"{value.stem}-{value.pool}" if isinstance(value, ResNetConfig) else value,
)
def test_equals_flax(tower: ResNetConfig, projection: str, tmp_path: Path):
    encoder = made_up(tower, projection)
    save_onnx(tmp_path, encoder)
    rng = np.random.default_rng(1)
    ecg_uv = rng.integers(-1500, 1500, (BATCH, SAMPLES, 12)).astype(np.int16)
    mask = rng.random((BATCH, 12)) < 0.7
    mask[0], mask[1] = True, np.arange(12) == 6
    with jax.default_matmul_precision("highest"):
        expected = jax.jit(
            lambda *batch: encoder.model.apply(encoder.variables, *batch, method="encode_ecg"),
            compiler_options={"xla_backend_optimization_level": 0},  # half the time to compile
        )(ecg_uv, mask)
    found = run_onnx(tmp_path, ecg_uv / 1000, mask)
    for ours, theirs in zip(found, map(np.asarray, expected), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-4 * np.abs(theirs).max())
    np.testing.assert_allclose(found[1], np.asarray(expected[1]), atol=1e-4)

    lone = run_onnx(tmp_path, ecg_uv[:1, : SAMPLES // 2] / 1000, mask[:1])
    assert lone[1].shape == (1, 8) and np.isfinite(lone[1]).all()


def test_what_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    encoder = made_up(ResNetConfig(width=4), "linear")
    vit = replace(encoder.config, model=ModelConfig(ecg=ViTConfig()))
    with pytest.raises(EtpError, match="made-up: its ECG tower is a vit"):
        save_onnx(tmp_path, replace(encoder, config=vit))
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(EtpError, match="needs the package onnx"):
        save_onnx(tmp_path, encoder)
    assert not any(tmp_path.iterdir())
