"""Tests that every recipe's step lowers for TPUs and NVIDIA GPUs, and that a plan compiles what a run dispatches."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax._src.cudnn import fused_attention_stablehlo  # its questions about the hardware have no public door

from etp_jax.config import ResNetConfig, TrainConfig, ViTConfig
from etp_jax.configs import load_recipe, recipe_names
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from etp_jax.training import program as program_module
from etp_jax.training.batches import Batches
from etp_jax.training.feed import DeviceFeed
from etp_jax.training.parallel import Parallel
from etp_jax.training.program import Sizes, program, text_tower
from etp_jax.training.report_table import DeviceReports
from etp_jax.training.step import MEAN
from tests.helpers.tiny_run import BATCH, SAMPLES, change, tiny_config, write_shards

SIZES = Sizes(samples=1000, records=5000, reports=500, tokens=64)
PLATFORMS = {"gpu": "cuda", "tpu": "tpu"}
"""JAX's names of the platforms in lowering."""


def lowered(config: TrainConfig, platform: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """The text of a recipe's dispatch, lowered for a platform that this machine need not have.

    A residual network has two stages of one block, and a pretrained text tower two layers instead of twelve that
    lower alike, unless `trainable` names some of them.
    """
    monkeypatch.setattr(Parallel, "platform", platform)
    bert = program_module.text_tower(config)
    if config.model.text.trainable == ".*":
        bert = replace(bert, num_hidden_layers=min(2, bert.num_hidden_layers))
    monkeypatch.setattr(program_module, "text_tower", lambda _: bert)
    if isinstance(config.model.ecg, ResNetConfig):
        config = change(config, model={"ecg": replace(config.model.ecg, blocks=(1, 1))})
    config = change(config, data={"batch_size": 64}, run={"parallel": "shard_map"})
    built = program(config, SIZES, Parallel("shard_map", jax.devices()[:1]))
    return built.dispatch.trace(*built.args).lower(lowering_platforms=(PLATFORMS[platform],)).as_text()


@pytest.mark.parametrize("platform", PLATFORMS)
@pytest.mark.parametrize("recipe", recipe_names())
def test_every_recipe_lowers(recipe: str, platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In bfloat16, which the platform decides and not this machine."""
    text = lowered(load_recipe(recipe), platform, monkeypatch)
    assert "xbf16>" in text and "all_reduce" in text and "xf64>" not in text


@pytest.mark.parametrize(
    "changes",
    [
        {"data": {"resident": "always"}, "optim": {"micro_batches": 4}},
        {"data": {"resident": "sharded"}, "optim": {"micro_batches": 4}},
        {"loss": {"block": 16}},
        {"loss": {"fnm_weight": 1.0, "pairs": "semantic"}},
    ],
    ids=["resident, micro-batches", "sharded, micro-batches", "blocked loss", "semantic pairs"],
)
def test_options_lower(changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    assert "xbf16>" in lowered(change(load_recipe("mets"), **changes), "tpu", monkeypatch)


def test_a_vit_lowers(monkeypatch: pytest.MonkeyPatch) -> None:
    config = change(load_recipe("mets"), model={"ecg": ViTConfig(layers=2)})
    assert "xbf16>" in lowered(config, "tpu", monkeypatch)


@pytest.mark.parametrize("platform", PLATFORMS)
def test_the_attention_kernel_is_that_of_the_platform(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """CuDNN's own checks run, with only the questions about the hardware answered for it."""
    monkeypatch.setattr(fused_attention_stablehlo, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(fused_attention_stablehlo, "check_compute_capability", lambda _: True)
    monkeypatch.setattr(fused_attention_stablehlo, "is_cuda_compute_capability_equal", lambda _: False)
    text = {"dropout": 0.0, "fused_attention": True, "pretrained": None, "layers": 1}
    config = load_recipe("quickstart")
    config = change(config, model={"text": change(config.model.text, **text)})
    assert ("cudnn" in lowered(config, platform, monkeypatch)) == (platform == "gpu")


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
@pytest.mark.parametrize(
    ("resident", "per_dispatch"), [("never", 1), ("always", 1), ("always", 3), ("sharded", 1), ("sharded", 3)]
)
def test_a_plan_has_the_arguments_of_a_run(tmp_path: Path, mode: Any, resident: Any, per_dispatch: int) -> None:
    shards = Shards(write_shards(tmp_path / "shards"))
    batches = Batches(shards.split("train"), shards.reports("train"), BATCH, 0)
    run = {"parallel": mode, "steps_per_dispatch": per_dispatch}
    config = change(tiny_config(shards.folder), data={"resident": resident}, run=run)
    parallel = Parallel(mode, jax.devices()[:1])
    reports = {name: np.zeros((5, 16), np.int32) for name in ("input_ids", "attention_mask")}
    feed = DeviceFeed(config, batches, parallel, DeviceReports(reports, "float32", parallel))
    batch = next(iter(feed.batches([range(per_dispatch)])))[1]

    built = program(config, Sizes(SAMPLES, len(batches.paired), 5, 16), parallel)
    assert (built.resident, built.per_dispatch) == (resident, per_dispatch)
    assert shapes(built.args[1:]) == shapes((batch, feed.tables))


def test_a_plan_has_the_sizes_of_a_tower_that_is_here(tmp_path: Path) -> None:
    """So a step that `etp plan` saves is that of the run, also where the tower is no BERT-base."""
    sizes = {"vocab_size": 70, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
    (tmp_path / "config.json").write_text(json.dumps(sizes | {"intermediate_size": 20, "model_type": "bert"}))
    config = tiny_config(tmp_path)
    config = change(config, model={"text": change(config.model.text, pretrained=str(tmp_path), dropout=0.25)})
    found = text_tower(config)
    assert {name: getattr(found, name) for name in sizes} == sizes and found.dropout == 0.25
    config = change(config, model={"text": change(config.model.text, pretrained="someone/clinical-bert")})
    assert text_tower(config).hidden_size == 768


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_plan_has_the_report_table_of_a_run(tmp_path: Path, precision: Any) -> None:
    """A frozen tower's outputs are rounded to `precision`, their mean, which centres them, is not."""
    config = tiny_config(tmp_path)
    text = change(config.model.text, frozen=True, precision=precision)
    loss = {"pairs": "semantic", "semantic_centre": True}
    config = change(config, model={"text": text}, loss=loss, data={"resident": "always"})
    parallel = Parallel("pmap", jax.devices()[:1])
    table = {"embeddings": np.zeros((5, text.hidden), np.float32), MEAN: np.zeros(text.hidden, np.float32)}
    built = program(config, Sizes(SAMPLES, 2 * BATCH, 5, 16), parallel)
    assert built.texts_resident
    assert shapes(built.args[2][0]) == shapes(DeviceReports(table, precision, parallel).table)


def shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: (x.shape, x.dtype.name), tree)


def test_what_automatic_residency_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    config = change(load_recipe("mets"), data={"batch_size": 64})
    table = SIZES.records * SIZES.record_bytes
    assert SIZES.record_bytes == 2 * SIZES.samples * len(LEADS) + len(LEADS) + 4
    parallel = Parallel("pmap", jax.devices()[:1])
    assert program(config, SIZES, parallel, 10 * table).resident == "never"
    monkeypatch.setattr(Parallel, "platform", "tpu")
    large, small = (program(config, SIZES, parallel, size) for size in (10 * table, 2 * table))
    assert (large.resident, large.per_dispatch) == ("always", 10)
    assert (small.resident, small.per_dispatch) == ("never", 1)
    several = program(config, SIZES, Parallel("pmap", jax.devices() * 8), 2 * table)
    assert (several.resident, several.per_dispatch) == ("sharded", 10)


@pytest.mark.parametrize(
    ("size", "message"),
    [(9, "not a multiple of the 8 devices; 8 is"), (8000, "data.batch_size 8000 is more than --records 5000")],
)
def test_impossible_batches(size: int, message: str) -> None:
    config, parallel = change(load_recipe("mets"), data={"batch_size": size}), Parallel("pmap", jax.devices() * 8)
    with pytest.raises(EtpError, match=message):
        program(config, SIZES, parallel)
