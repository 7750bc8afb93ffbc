"""Tests of `etp bench` on a small recipe: its measurements, its files, and the layers of the PyTorch model."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import jax
import pytest

from etp_jax.bench import run
from etp_jax.cli import main
from etp_jax.configs import load_recipe
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.shards.reader import READERS
from tests.helpers.devices import QUICK_COMPILING
from tests.helpers.shard_samples import sample_splits, write_folder

SMALL = ["--model.ecg.width", "8", "--samples", "200", "--repeats", "2"]


@pytest.mark.slow
def test_figures(tmp_path: Path) -> None:
    """Two virtual devices, weak scaling; everything that it writes."""
    shards = write_folder(tmp_path / "shards", sample_splits())
    json_path, plot, trace = tmp_path / "bench.json", tmp_path / "bench.svg", tmp_path / "trace"
    files = ["--json", str(json_path), "--plot", str(plot), "--trace", str(trace), "--data.shards", str(shards)]
    peaks = ["--peak-tflops", "0.1", "--peak-gb-per-s", "10"]
    argv = ["bench", *SMALL, "--data.batch-size", "4", "--device-counts", "1", "2", *peaks, *files]
    flags = f"{QUICK_COMPILING} --xla_force_host_platform_device_count=2"
    program = f"from etp_jax.bench import run; from etp_jax.cli import main; run.BLOCK_S = 0.05; main.main({argv})"
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": flags},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "weak scaling" in done.stdout and "records/s" in done.stdout

    result = json.loads(json_path.read_text())
    assert (result["format"], result["recipe"], result["samples"], result["scaling"]) == (1, "mets", 200, "weak")
    assert result["devices_at_hand"] == 2 and result["peak"] == {"tflops": 0.1, "gb_per_s": 10, "source": "given"}
    assert [(row["what"], row["batch_size"], row["devices"]) for row in result["rows"]] == [
        ("train step", 2, 1),
        ("encoder", 2, 1),
        ("train step", 4, 2),
        ("encoder", 4, 2),
    ]
    for row in result["rows"]:
        assert row["framework"] == "etp-jax" and len(row["step_s"]) == 2 and row["time_of_ours"] == 1
        median = statistics.median(row["step_s"])
        assert row["ecg_per_s"] == pytest.approx(row["batch_size"] / median, rel=0.01)
        assert row["ecg_per_s_per_device"] == pytest.approx(row["ecg_per_s"] / row["devices"], abs=0.1)
        assert row["mfu"] == pytest.approx(row["flops"] / median / row["devices"] / 1e11, rel=0.05)
        assert row["of_roof"] >= row["mfu"] > 0 and row["limit"] in ("compute", "memory")
        assert row["lower_s"] > 0 and row["compile_s"] > 0 and row["first_step_s"] > 0
        assert row["memory"]["argument"] > 2 * 200 * 12 * 2 and row["peak_bytes"] is None
    assert result["rows"][0]["memory"]["alias"] > 0, "the state is donated"
    cold, *warm = result["input"]
    assert cold["cache"] == "cold" and cold["plain"] is None
    assert {row["cache"] for row in warm} == {"warm"} and [row["threads"] for row in warm] == sorted({1, READERS})
    assert all(row["records_per_s"] > 0 and row["samples"] == 50 for row in result["input"])
    assert all(row["plain"]["records_per_s"] > 0 and row["plain"]["ratio"] > 0 for row in warm)

    drawn = ElementTree.fromstring(plot.read_text())
    titles = [title.text for title in drawn.iter("{http://www.w3.org/2000/svg}title")]
    assert titles == ["etp-jax, batch 2 a device"] * 2
    assert list(trace.rglob("*.xplane.pb")) and list(trace.rglob("*.trace.json.gz"))


def test_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """A batch that is too large is a row; the others are measured all the same."""

    def ours(config: Any, *_: Any) -> Any:
        if config.data.batch_size > 4:
            raise jax.errors.JaxRuntimeError("RESOURCE_EXHAUSTED: out of memory")
        work = run.Step(flops=10**9, bytes=10**6)
        return [run.Contender("encoder", "etp-jax", lambda count: time.sleep(count / 1000))], {"encoder": work}

    monkeypatch.setattr(run, "ours", ours)
    plot = tmp_path / "plot.svg"
    monkeypatch.setattr(run, "BLOCK_S", 0.002)
    main.main(["bench", *SMALL, "--batch-sizes", "4", "8", "--plot", str(plot), "--json", str(tmp_path / "j")])
    small, large = json.loads((tmp_path / "j").read_text())["rows"]
    assert large == {"batch_size": 8, "devices": 1, "out_of_memory": True}
    assert small["batch_size"] == 4 and small["mfu"] is None and small["memory"] is None
    assert "out of memory" in capsys.readouterr().out and "encoder" in plot.read_text()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        (["--repeats", "0"], "--repeats is 0"),
        (["--data.shards", "nowhere"], "nowhere: no such folder"),
        (["--json", f"{__file__}/bench.json"], "bench.json: cannot be written"),
    ],
)
def test_a_slip_is_told_before_anything_is_measured(
    option: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "_measure", None)
    with pytest.raises(SystemExit) as stop:
        main.main(["bench", *SMALL, *option])
    assert stop.value.code == 2 and said in capsys.readouterr().err


def test_grid() -> None:
    assert run.grid((32, 64), (1,), "weak") == [(32, 1), (64, 1)]
    with pytest.raises(EtpError, match="--device-counts"):
        run.grid((32,), (jax.device_count() + 1,), "weak")


@pytest.mark.parametrize("scaling", ["weak", "strong"])
def test_grid_of_devices(scaling: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    points = run.grid((8,), (1, 2, 4), scaling)
    assert points == [(2 if scaling == "weak" else 8, 1), (4 if scaling == "weak" else 8, 2), (8, 4)]
    with pytest.raises(EtpError, match="multiple of the 4 devices"):
        run.grid((6,), (1, 4), scaling)


@pytest.mark.slow
def test_torch_has_the_same_layers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many parameters; and its rows stand beside ours, in bfloat16 too."""
    pytest.importorskip("torch")
    from etp_jax.bench import torch_reference

    monkeypatch.setattr(run, "BLOCK_S", 0.05)
    monkeypatch.setattr(torch_reference.shutil, "which", lambda _: None)
    argv = ["bench", *SMALL, "--data.batch-size", "4", "--run.precision", "bfloat16", "--compare", "torch"]
    main.main([*argv, "--json", str(tmp_path / "bench.json")])
    rows = json.loads((tmp_path / "bench.json").read_text())["rows"]
    assert [row["framework"] for row in rows] == ["etp-jax", "etp-jax", "torch eager", "torch eager"]
    assert rows[2]["compile_s"] is None and rows[2]["flops"] == rows[0]["flops"]
    for recipe in (load_recipe("mets"), load_recipe("ptbxl")):
        config = replace(recipe, model=replace(recipe.model, projection="linear"))
        theirs = sum(p.numel() for p in torch_reference.DualEncoder(config, 12, 384).parameters())
        model = DualEncoder(config.model, None, 384, loss=config.loss)
        ours = init_variables(model, jax.random.key(0), 200, 12)["params"]
        assert theirs == sum(leaf.size for leaf in jax.tree.leaves(ours))


@pytest.mark.parametrize(
    "option", [["--augment.lead-dropout", "0.1"], ["--model.ecg.kind=vit", "--model.ecg.width=12"]]
)
def test_recipes_that_torch_cannot_follow(option: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    with pytest.raises(SystemExit) as stop:
        main.main(["bench", *SMALL, "--compare", "torch", *option])
    assert stop.value.code == 2 and "--config mets" in capsys.readouterr().err
