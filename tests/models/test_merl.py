"""MERL's attention pooling against NumPy, and its tower in training."""

from __future__ import annotations

from pathlib import Path

import jax
import numpy as np
import pytest
from scipy.special import softmax

from etp_jax.cli import main
from etp_jax.config import MerlConfig
from etp_jax.errors import EtpError
from etp_jax.models.merl import ClassTokenPool
from etp_jax.training.checkpoint import restore_params
from tests.helpers.tiny_run import SAMPLES, write_shards
from tests.helpers.weights import draw_variables

WIDTH, HEADS = 12, 3


def test_the_class_token_attends_to_all_steps() -> None:
    x_BTC = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    module = ClassTokenPool(WIDTH, HEADS)
    variables = draw_variables(module, x_BTC)
    params = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
    steps = x_BTC @ params["down"]["kernel"] + params["down"]["bias"]
    token = np.broadcast_to(params["class_token"] + params["position"][0], (2, 1, WIDTH))
    x_BSF = np.concatenate([token, steps], axis=1) + params["position"]
    heads = {
        name: np.einsum("bsf,fhd->bhsd", x_BSF, params["attention"][name]["kernel"])
        + params["attention"][name]["bias"][:, None]
        for name in ("query", "key", "value")
    }
    scores = np.einsum("bhd,bhsd->bhs", heads["query"][:, :, 0], heads["key"]) / np.sqrt(WIDTH / HEADS)
    pooled = np.einsum("bhs,bhsd->bhd", softmax(scores, axis=-1), heads["value"])
    out = params["attention"]["out"]
    expected = np.einsum("bhd,hdf->bf", pooled, out["kernel"]) + out["bias"]
    with jax.default_matmul_precision("highest"):
        np.testing.assert_allclose(np.asarray(module.apply(variables, x_BTC)), expected, atol=1e-5)


def test_the_tower_and_the_text_projection_are_trained(tmp_path: Path) -> None:
    run = tmp_path / "run"
    argv = ["train", "--config", "quickstart", "--data.shards", str(write_shards(tmp_path / "shards"))]
    argv += ["--workdir", str(run), "--data.batch-size", "8", "--max-steps", "1", "--model.text.layers", "1"]
    argv += ["--model.text.hidden", "8", "--model.ecg.kind", "merl", "--model.ecg.blocks", "1", "1"]
    argv += ["--model.ecg.width", "4", "--model.ecg.attention-width", "8", "--model.ecg.scale", "min-max"]
    argv += ["--augment.time-shift-s", "0.1", "--model.text-projection", "pooler-mlp"]
    main.main(argv)
    params = restore_params(run)[0]
    assert params["ecg_tower"]["pooling"]["position"].shape == (SAMPLES // 4 + 1, 8)
    assert set(params["text_projection"]) == {"pooler", "hidden", "linear"}
    assert set(params["ecg_projection"]) == {"linear"}


def test_sizes_that_do_not_fit() -> None:
    with pytest.raises(EtpError, match=r"model.ecg.attention_width 10 is not a multiple of 4 heads"):
        MerlConfig(attention_width=10)
