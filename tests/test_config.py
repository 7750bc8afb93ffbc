"""Configs in JSON: of this version, of version 0.1, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import etp_jax
from etp_jax import config as c
from etp_jax.configs import load_recipe
from etp_jax.errors import EtpError
from etp_jax.old_options import check_trainable

OLD_TOWER = {
    "kind": "resnet",
    "depth": 18,
    "width": 64,
    "stem": "conv-pool",
    "kernel": 3,
    "norm": "group",
    "pool": "mean",
    "patch": 100,
    "vit_width": 192,
    "vit_layers": 12,
    "vit_heads": 3,
    "scale": "lead",
    "drop_path": 0.1,
}
"""`model.ecg` of version 0.1, which held the options of both towers."""
OLD_DATA = {"train_split": "train", "validation_split": "validation", "prefetch": 5, "resident_share": 0.25}


def old(**ecg: Any) -> dict[str, Any]:
    return {"data": {"batch_size": 7, **OLD_DATA}, "model": {"ecg": {**OLD_TOWER, **ecg}}}


@pytest.mark.parametrize("ecg", [c.ResNetConfig(blocks=(1, 2), width=3), c.ViTConfig(width=24, heads=2)])
def test_a_config_survives_json(ecg: c.EcgConfig, tmp_path: Path) -> None:
    config = c.TrainConfig(model=c.ModelConfig(ecg=ecg), loss=c.LossConfig(bias=None))
    c.save(config, tmp_path / "config.json")
    assert c.load(tmp_path / "config.json") == config
    assert json.loads((tmp_path / "config.json").read_text())["model"]["ecg"]["kind"] == ecg.kind


def test_towers_of_version_0_1() -> None:
    """Options of the other tower had no effect, whatever they were; neither had those of reading ahead."""
    resnet = c.from_dict(old(patch=7, vit_layers=2))
    assert resnet.data == c.DataConfig(batch_size=7)
    assert resnet.model.ecg == c.ResNetConfig(stem="conv-pool", norm="group", scale="lead", drop_path=0.1)
    vit = c.from_dict(old(kind="vit", width=5, patch=50, vit_width=24, vit_heads=2))
    assert vit.model.ecg == c.ViTConfig(patch=50, width=24, layers=12, heads=2, scale="lead", drop_path=0.1)
    assert c.from_dict({"model": {"ecg": {"depth": 34}}}).model.ecg == c.ResNetConfig(depth=34)


def test_towers_in_recipes_of_version_0_1(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    towers = "EcgTowerConfig(width=2, stem='conv-pool', patch=7)", "EcgTowerConfig(kind='vit', width=9, vit_layers=2)"
    for tower, expected in zip(towers, (c.ResNetConfig(width=2, stem="conv-pool"), c.ViTConfig(layers=2)), strict=True):
        recipe.write_text(f"from etp_jax.config import *\nconfig = TrainConfig(model=ModelConfig(ecg={tower}))")
        assert load_recipe(str(recipe)).model.ecg == expected
    recipe.write_text("from etp_jax.config import *\nconfig = TrainConfig(data=DataConfig(prefetch=2))")
    with pytest.raises(EtpError, match=r"mine\.py: is no recipe of this version .*'prefetch'"):
        load_recipe(str(recipe))


def test_the_shipped_encoder_s_config() -> None:
    config = c.load(Path(etp_jax.__file__).parent / "pretrained/config.json")
    assert config.model.ecg == c.ResNetConfig(stem="conv-pool", pool="mean-max")
    assert config.augment == c.AugmentConfig(time_shift_s=1.0, lead_dropout=0.05)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": {"ecg": {"kind": "lstm"}}}, r"run\.model\.ecg: no ECG tower 'lstm'; there are resnet, vit"),
        ({"model": {"ecg": {"kind": "vit", "stem": "conv"}}}, r"run\.model\.ecg: unknown option 'stem'"),
        ({"model": {"ecg": {"kernel": 4}}}, r"model\.ecg\.kernel is 4; residual branches only line up"),
        ({"model": {"ecg": {"width": 0}}}, r"model\.ecg\.width is 0; it must be at least 1"),
        ({"model": {"embedding_dim": 0}}, r"model\.embedding_dim is 0; it must be at least 1"),
        ({"model": {"text": {"dropout": 1.0}}}, r"model\.text\.dropout is 1\.0; it must be at least 0 and below 1"),
        ({"loss": {"block": -1}}, r"run\.loss: loss\.block is -1; it must not be negative"),
    ],
)
def test_what_is_refused_takes_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(EtpError, match=message):
        c.from_dict(options, where="run")


@pytest.mark.parametrize(
    ("options", "name"),
    [({"augment": {"noise_uv": 5.0}}, "augment.noise_uv"), ({"data": {"validation_split": "dev"}}, "validation_split")],
)
def test_a_run_with_a_removed_option_is_evaluated_and_not_trained(options: dict[str, Any], name: str) -> None:
    assert c.from_dict(options) == c.TrainConfig()
    with pytest.raises(EtpError, match=rf"run: .*{name} is (5.0|dev), an option that version 0\.2 no longer has"):
        check_trainable(options, "run")


def test_another_tower_keeps_what_all_towers_have() -> None:
    config = c.TrainConfig(model=c.ModelConfig(ecg=c.ResNetConfig(scale="record", width=8)))
    assert c.with_tower(config, "resnet") == config
    assert c.with_tower(config, "vit").model.ecg == c.ViTConfig(scale="record")


@pytest.mark.parametrize("shards", ["/caf\udce9", "a\0b"])
def test_a_name_with_which_a_run_could_not_be_read_again_is_refused(shards: str) -> None:
    with pytest.raises(EtpError, match=r"data.shards is .*; it must be UTF-8"):
        c.TrainConfig(data=c.DataConfig(shards=shards))
