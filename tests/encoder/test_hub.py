"""Tests upload to and download from the Hugging Face Hub; a local server provides its HTTP interface."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import etp_jax
from etp_jax.cli import main
from etp_jax.encoder import hub as hub_module
from etp_jax.encoder.folder import FILES, run_folder
from etp_jax.errors import EtpError
from tests.helpers.hub_server import Hub, local_hub, point_to
from tests.helpers.small_run import SAMPLES


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    with local_hub(monkeypatch, str(tmp_path / "hub")) as hub:
        yield hub


@pytest.fixture(scope="module")
def exported(run_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return etp_jax.load(run_dir).save(tmp_path_factory.mktemp("exported") / "out", dtype="float32")


def test_an_encoder_goes_there_and_comes_back(exported: Path, hub: Hub) -> None:
    model = etp_jax.load(exported)
    url = model.push_to_hub("lab/ecg")
    first = hub.repositories["lab/ecg"][-1][0]
    assert url.endswith(f"lab/ecg/commit/{first}") and hub.private == ["lab/ecg"]
    assert set(hub.repositories["lab/ecg"][-1][1]) == {path.name for path in exported.iterdir()}
    signal = np.random.default_rng(0).normal(size=(SAMPLES, 12))
    back = etp_jax.load("hf://lab/ecg")
    np.testing.assert_array_equal(back.encode_ecg(signal, fs=100), model.encode_ecg(signal, fs=100))
    assert repr(back).startswith("EcgModel('hf://lab/ecg', step=3")
    assert run_folder(Path("hf://lab/ecg")) == run_folder("hf://lab/ecg")  # Path() collapses the two slashes into one

    hub.tags["v1"] = first
    newer = dict(hub.repositories["lab/ecg"][-1][1]) | {"README.md": b"newer"}
    hub.commit("lab/ecg", newer)
    for name, newest in (("hf://lab/ecg", True), ("hf://lab/ecg@v1", False), (f"hf://lab/ecg@{first}", False)):
        assert ((run_folder(name) / "README.md").read_bytes() == b"newer") == newest


def test_only_known_files_are_fetched_and_sent(exported: Path, hub: Hub) -> None:
    files = {path.name: path.read_bytes() for path in exported.iterdir()}
    strange = {"setup.py": b"x", "model.pkl": b"x", ".cache/ecg.npz": b"x", "checkpoints/1/state": b"x"}
    hub.commit("lab/ecg", files | strange)
    folder = run_folder("hf://lab/ecg")
    assert {str(path.relative_to(folder)) for path in folder.rglob("*")} == set(files)
    assert not set(strange) & set(hub.fetched)
    # An upload replaces all files of the previous upload, and keeps the other files.
    stale = {"calibration.json": b"{}", "encoder.onnx": b"x", "notes.txt": b"of the owner"}
    hub.commit("lab/own", stale)
    hub_module.upload(exported, "lab/own", FILES, private=False)
    assert set(hub.repositories["lab/own"][-1][1]) == {*files, "notes.txt"} and hub.private == []


def test_export_pushes(run_dir: Path, hub: Hub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main.main(["export", "--run", str(run_dir), "--out", str(tmp_path / "out"), "--push", "lab/ecg"])
    assert "pushed to http://127.0.0.1" in capsys.readouterr().out and "lab/ecg" in hub.repositories


def test_mistakes_are_one_line(
    exported: Path, hub: Hub, run_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.commit("lab/other", {"README.md": b"x", "config.json": b"{}"})
    for name, message in {
        "hf://lab/none": "hf://lab/none: no such repository, or a private one; .* `hf auth login`",
        "hf://lab/other@v9": "hf://lab/other@v9: the repository has no such branch, tag or commit",
        "hf://lab/other": r"holds no encoder of `etp export` \(text.json is missing\)",
        "hf://lab": "hf://lab: is not a name on the Hugging Face Hub",
        "hf://../..": r"hf://../..: is not a name on the Hugging Face Hub",
    }.items():
        with pytest.raises(EtpError, match=message) as error:
            etp_jax.load(name)
        assert "\n" not in str(error.value)
    model = etp_jax.load(exported)
    with pytest.raises(EtpError, match="others/ecg: the hub refuses"):
        model.push_to_hub("others/ecg")
    with pytest.raises(EtpError, match="omit @v1"):
        model.push_to_hub("lab/ecg@v1")
    monkeypatch.setattr(hub_module, "get_token", lambda: None)
    with pytest.raises(EtpError, match="lab/ecg: not logged in to the Hugging Face Hub; run `hf auth login`"):
        model.push_to_hub("lab/ecg")
    with pytest.raises(SystemExit):
        main.main(["export", "--run", str(run_dir), "--out", str(tmp_path / "out"), "--push", "lab/ecg"])
    assert not (tmp_path / "out").exists()  # the error is raised before the export


def test_without_a_network_the_copy_serves(exported: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("lab/ecg", {path.name: path.read_bytes() for path in exported.iterdir()})
    folder = run_folder("hf://lab/ecg")
    point_to(monkeypatch, "http://127.0.0.1:9")
    assert run_folder("hf://lab/ecg") == folder
    with pytest.raises(EtpError, match="hf://lab/none: the hub cannot be reached, and no copy is on this machine"):
        etp_jax.load("hf://lab/none")
    with pytest.raises(EtpError, match="lab/ecg: the hub cannot be reached"):
        etp_jax.load(exported).push_to_hub("lab/ecg")
