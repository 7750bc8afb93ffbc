"""Tests of features by stage, of shifted views, and of the probe's choice among them."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.config import ViTConfig
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.stages import features_of, shifted, shifts
from etp_jax.errors import EtpError
from etp_jax.evaluation import evaluate
from etp_jax.evaluation.probe import Probe
from etp_jax.shards.reader import Shards
from tests.helpers.small_run import small_config, write_run, write_shards


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("stages")
    shards = write_shards(folder / "shards")
    return write_run(folder / "run", small_config(shards)), shards


def test_features_by_stage(run: tuple[Path, Path]) -> None:
    """The tower pools by the mean, so its output is a third of the last stage's features."""
    encoder, split = Encoder.from_run(run[0]), Shards(run[1]).split("test")
    pooled, last, every = (features_of(encoder, split, name, 1) for name in ("pooled", "stage4", "stages"))
    np.testing.assert_array_equal(pooled, encoder.ecg(split)[0])
    assert (last.shape, every.shape) == ((50, 3 * 8), (50, 3 * 4 + 3 * 8))  # two stages, of width 4 and 8
    np.testing.assert_allclose(last[:, :8], pooled, atol=1e-5)
    assert (last[:, 8:16] >= last[:, :8]).all() and (last[:, 16:] >= 0).all()
    np.testing.assert_array_equal(every[:, 12:], last)
    np.testing.assert_array_equal(features_of(encoder, split, "stages34", 1), every)


def test_views_are_averaged(run: tuple[Path, Path]) -> None:
    encoder, shards = Encoder.from_run(run[0]), Shards(run[1])
    assert shifts(1, 100) == [0] and shifts(3, 100) == [-50, 0, 50]
    ecg_NTL, lead_mask_NL = shards.split("test").ecg(np.arange(50)), shards.split("test").columns.lead_mask[:50]
    moved = shifted(ecg_NTL, 50)
    np.testing.assert_array_equal(moved[:, 50:], ecg_NTL[:, :14])
    assert not moved[:, :50].any()
    np.testing.assert_array_equal(shifted(ecg_NTL, -50)[:, :14], ecg_NTL[:, 50:])
    views = [encoder.signals(shifted(ecg_NTL, by), lead_mask_NL)[0] for by in (-50, 0, 50)]
    np.testing.assert_allclose(
        features_of(encoder, shards.split("test"), "pooled", 3), np.mean(views, axis=0), atol=1e-5
    )


def test_the_probe_names_what_it_chose(run: tuple[Path, Path]) -> None:
    common: Any = {"run": run[0], "shards": run[1], "fractions": (1.0,), "bootstrap": 5}
    result = evaluate(Probe(**common, features=("pooled", "stages"), views=(1, 3)))
    offered = ("pooled", "pooled x 3 views", "stages", "stages x 3 views")
    chosen = {row.encoder: row.details["features"] for row in result.rows}
    assert set(chosen.values()) <= set(offered)
    assert (
        result.protocol["features"] == f"{chosen['trained']} (chosen for 100% of the records from {', '.join(offered)})"
    )
    assert (run[0] / "evaluation/ptbxl-super-probe-validation-pooled+stages-1-3.json").exists()
    plain = evaluate(Probe(**common))
    assert "features" not in plain.protocol and "features" not in plain.rows[0].details
    assert "features" not in json.loads(plain_path(run[0]).read_text())["protocol"]


def plain_path(run: Path) -> Path:
    return run / "evaluation/ptbxl-super-probe-validation.json"


def test_a_tower_without_stages_is_refused_before_it_encodes(
    run: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(run[1])
    tower = ViTConfig(patch=8, width=8, layers=1, heads=2)
    encoder = Encoder.from_run(write_run(tmp_path / "vit", replace(config, model=replace(config.model, ecg=tower))))
    monkeypatch.setattr(Encoder, "kept", None)
    with pytest.raises(EtpError, match="'vit' has no stages; the only feature set is pooled"):
        features_of(encoder, Shards(run[1]).split("test"), "stages", 1)


def test_impossible_requests_are_refused(run: tuple[Path, Path]) -> None:
    common: Any = {"run": run[0], "shards": run[1]}
    with pytest.raises(EtpError, match="views from 1 on"):
        Probe(**common, views=(0,)).check()
    with pytest.raises(EtpError, match="has its own features; omit --features, --views, --head and"):
        Probe(**common, protocol="merl-as-published", features=("stages",)).check()
