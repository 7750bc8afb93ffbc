"""`etp bench` on a small recipe: what it measures, what it writes, and that PyTorch's model has the same layers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import jax
import pytest
from shard_samples import sample_splits, write_folder

from etp_jax import bench, cli
from etp_jax.cli import load_recipe
from etp_jax.models.dual_encoder import DualEncoder, init_variables

SMALL = ["--data.batch-size", "4", "--model.ecg.width", "8", "--samples", "200", "--repeats", "2"]


def test_figures(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "BLOCK_S", 0.05)
    shards = write_folder(tmp_path / "shards", sample_splits())
    cli.main(["bench", *SMALL, "--data.shards", str(shards), "--json", str(tmp_path / "bench.json")])
    result = json.loads((tmp_path / "bench.json").read_text())
    assert result["batch_size"] == 4 and result["samples"] == 200 and result["devices"] == jax.device_count()
    assert [(row["what"], row["framework"]) for row in result["rows"]] == [
        ("train step", "etp-jax"),
        ("encoder", "etp-jax"),
    ]
    for row in result["rows"]:
        assert len(row["step_s"]) == 2 and row["time_of_ours"] == 1
        low, high = 4 / max(row["step_s"]), 4 / min(row["step_s"])
        assert 0.9 * low <= row["ecg_per_s"] <= 1.1 * high
    assert [row["cache"] for row in result["input"]] == ["cold", "warm"]
    assert all(row["records_per_s"] > 0 for row in result["input"])
    assert "records/s" in capsys.readouterr().out


def test_torch_has_the_same_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many parameters; and its rows stand beside ours."""
    pytest.importorskip("torch")
    from etp_jax import bench_torch

    monkeypatch.setattr(bench, "BLOCK_S", 0.05)
    monkeypatch.setattr(bench_torch.shutil, "which", lambda _: None)
    cli.main(["bench", *SMALL, "--compare", "torch", "--json", str(tmp_path / "bench.json")])
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["framework"] for row in rows] == ["etp-jax", "etp-jax", "torch eager", "torch eager"]
    for recipe in (load_recipe("mets"), load_recipe("ptbxl")):
        config = replace(recipe, model=replace(recipe.model, projection="linear"))
        theirs = sum(p.numel() for p in bench_torch.DualEncoder(config, 12, 384).parameters())
        model = DualEncoder(config.model, None, 384, loss=config.loss)
        ours = init_variables(model, jax.random.key(0), 200, 12)["params"]
        assert theirs == sum(leaf.size for leaf in jax.tree.leaves(ours))


def test_recipes_that_torch_cannot_follow(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SystemExit) as stop:
        cli.main(["bench", *SMALL, "--compare", "torch", "--augment.noise-uv", "5"])
    assert stop.value.code == 2 and "--config mets" in capsys.readouterr().err
