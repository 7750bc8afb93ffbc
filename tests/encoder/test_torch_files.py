"""Reads PyTorch files for `etp import`: what training scripts save, and every torn, hostile or odd file."""

from __future__ import annotations

import json
import os
import pickle
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.torch_import import import_run
from etp_jax.errors import EtpError
from tests.helpers.merl_model import ABOUT, draw, etp_import, refusal, resnet_shapes, save


@pytest.fixture
def about(tmp_path: Path) -> Path:
    file = tmp_path / "about.json"
    file.write_text(json.dumps(ABOUT))
    return file


def test_a_pytorch_file_needs_torch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not by the command line, whose library looks for torch on its first use too."""
    monkeypatch.setitem(sys.modules, "torch", None)
    (tmp_path / "merl.pth").write_bytes(b"PK")
    with pytest.raises(EtpError, match=r"merl.pth: PyTorch weights; install torch, or convert them"):
        import_run(tmp_path / "merl.pth", tmp_path / "run", "merl")


@pytest.mark.optional
def test_a_pickle_that_runs_code_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("torch")
    (tmp_path / "evil.pth").write_bytes(pickle.dumps({"a": Evil(str(tmp_path / "ran"))}, protocol=2))
    line = refusal(capsys, tmp_path / "evil.pth", "--from", "merl", "--out", tmp_path / "run")
    assert "not a whole file of plain tensors" in line and not (tmp_path / "ran").exists()


@pytest.mark.optional
@pytest.mark.parametrize("kept", [5, 100, 5000, 20000, -100])
@pytest.mark.parametrize("zipped", [True, False])
def test_a_torn_pytorch_file_is_refused_in_one_line(
    kept: int, zipped: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = torch_save(tmp_path / "w.pth", draw(resnet_shapes()), _use_new_zipfile_serialization=zipped)
    file.write_bytes(file.read_bytes()[:kept])
    line = refusal(capsys, file, "--from", "merl", "--out", tmp_path / "run")
    assert line.startswith(f"etp: {file}: not a whole file of plain tensors"), line


@pytest.mark.optional
@pytest.mark.parametrize("content", [b"\x80\x02.", b"\x80\x02}q\x00.", b"", b"tensors", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_pytorch_file_is_refused_in_one_line(
    content: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("torch")
    (tmp_path / "w.pth").write_bytes(content)
    line = refusal(capsys, tmp_path / "w.pth", "--from", "merl", "--out", tmp_path / "run")
    assert line.startswith(f"etp: {tmp_path / 'w.pth'}: not a "), line


def test_what_is_no_file_is_not_waited_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    os.mkfifo(tmp_path / "pipe.pth")
    line = refusal(capsys, tmp_path / "pipe.pth", "--from", "merl", "--out", tmp_path / "run")
    assert "pipe.pth: is a pipe, a socket or a device" in line


@pytest.mark.optional
def test_tensors_are_found_in_what_training_scripts_save(
    tmp_path: Path, about: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Under any one name, at any depth; a safetensors file is known by its content."""
    tensors = draw(resnet_shapes())
    contents = (lambda t: {"net": t, "epoch": 3}, lambda t: {"state_dict": {"model": t}, "optimizer": t})
    for number, content in enumerate(contents):
        file, out = torch_save(tmp_path / "w.pth", tensors, wrap=content), tmp_path / f"run{number}"
        etp_import(file, "--from", "torch-state", "--about", about, "--out", out)
        kernel = Encoder.from_run(out).variables["params"]["ecg_tower"]["stem_conv"]["kernel"]
        np.testing.assert_array_equal(kernel, tensors["conv1.weight"].T)
    etp_import(save(tmp_path / "s.pth", tensors), "--from", "torch-state", "--about", about, "--out", tmp_path / "s")
    for content, words in {
        (lambda t: {"net": t, "ema": t}): r"it has net \(dict\), ema \(dict\); save the state_dict",
        (lambda t: t | {"epoch": 3}): r"it has epoch \(int\) beside 122 tensors",
        (lambda t: [t]): "it is a list",
        (lambda _: {}): "it is empty",
        (lambda t: {1: t}): r"it has 1 \(dict\)",
        (lambda _: itself()): r"it has net \(dict\)",
    }.items():
        file = torch_save(tmp_path / "w.pth", tensors, wrap=content)
        line = refusal(capsys, file, "--from", "torch-state", "--about", about, "--out", tmp_path / "none")
        assert re.search(f"w.pth: not a dictionary of tensors: {words}", line), line


@pytest.mark.optional
def test_tensors_without_plain_values_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch = pytest.importorskip("torch")
    tensors, name = draw(resnet_shapes()), "layer1.0.conv1.weight"
    for change, words in {
        torch.Tensor.to_sparse: "is sparse, nested or without values",
        (lambda tensor: tensor.to("meta")): "is sparse, nested or without values",
        (lambda tensor: tensor.to(torch.float8_e4m3fn)): "is float8_e4m3fn; only float16",
        (lambda tensor: tensor.to(torch.complex64)): "is complex64; only float16",
        (lambda tensor: torch.zeros(1, dtype=torch.bfloat16).expand(1 << 22, 1 << 22)): "has with other shapes",
        (lambda tensor: torch.zeros(1).expand(1 << 20, 1 << 20)): r"has with other shapes \S+ \[1048576, 1048576\]",
    }.items():
        file = torch_save(tmp_path / "w.pth", tensors, wrap=lambda t, change=change: t | {name: change(t[name])})
        line = refusal(capsys, file, "--from", "merl", "--out", tmp_path / "run")
        assert re.search(words, line) and name in line, line


def itself() -> dict[str, Any]:
    """A dictionary that contains itself."""
    content: dict[str, Any] = {}
    content["net"] = content
    return content


def torch_save(
    file: Path, tensors: dict[str, np.ndarray], wrap: Callable[[dict[str, Any]], Any] = dict, **options: Any
) -> Path:
    """Saves tensors as a PyTorch file, in the object that `wrap` makes of them."""
    torch = pytest.importorskip("torch")
    torch.save(wrap({name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}), file, **options)
    return file


class Evil:
    """Creates a file when it is unpickled."""

    def __init__(self, file: str) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Any, tuple[str, str]]:
        return open, (self.file, "w")
