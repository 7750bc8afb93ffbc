"""Every script in `examples/` runs by itself on small inputs and prints its result line."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from etp_jax.cli import main
from etp_jax.data_prep.synthetic.archive import write_archive

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"


def run(*command: str | Path, cwd: Path | None = None) -> str:
    """The last line of what a script prints; `python` is the interpreter of the tests."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(list(map(str, command)), cwd=cwd, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.splitlines()[-1]


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("examples") / "shards"
    main.main(["prep", "synthetic", "--records", "120", "--workers", "1", "--out", str(folder), "--quiet"])
    return folder


def test_every_example_is_run_here_and_listed():
    scripts = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    here, listed = Path(__file__).read_text(encoding="utf-8"), (EXAMPLES / "README.md").read_text(encoding="utf-8")
    assert scripts
    assert all(f'"{name}"' in here for name in scripts)
    assert all(f"`{name}" in listed for name in scripts)
    assert all(len((EXAMPLES / name).read_text(encoding="utf-8").splitlines()) <= 60 for name in scripts)


def test_a_folder_is_embedded(tmp_path: Path):
    write_archive(tmp_path / "archive", 3)
    np.save(tmp_path / "archive" / "flat.npy", np.zeros((1000, 12)))
    line = run(sys.executable, EXAMPLES / "embed_folder.py", tmp_path / "archive", tmp_path / "out.npz", "--fs", "100")
    assert line.startswith("3 ECGs: ")
    with np.load(tmp_path / "out.npz") as arrays:
        assert [Path(file).suffix for file in arrays["files"]] == [".hea"] * 3
        assert arrays["features"].shape == (3, 1024)
        np.testing.assert_allclose(np.linalg.norm(arrays["embeddings"], axis=1), 1, rtol=1e-5)


@pytest.mark.slow
def test_the_encoder_is_trained_further(shards: Path):
    line = run(sys.executable, EXAMPLES / "finetune_flax.py", shards, "--steps", "2")
    assert line.startswith("NORM: AUROC ")
    assert line.endswith("after 2 steps")


@pytest.mark.slow
def test_the_encoder_runs_without_jax():
    pytest.importorskip("onnx", reason="onnx is not installed (extra `onnx`)")
    pytest.importorskip("onnxruntime", reason="onnxruntime is not installed (extra `onnx`)")
    assert run(sys.executable, EXAMPLES / "from_pytorch.py").endswith("embeddings (4, 128), length 1.000")


@pytest.mark.slow
def test_shards_are_streamed(shards: Path):
    pytest.importorskip("tensorflow", reason="tensorflow-cpu is not installed (extra `test`)")
    line = run(sys.executable, EXAMPLES / "read_shards.py", shards)
    assert "tf.data (32, 1000, 12) float32, random access (1000, 12)" in line


@pytest.mark.slow
def test_a_task_of_ones_own(tmp_path: Path):
    line = run(EXAMPLES / "own_task.sh", tmp_path / "own")
    assert line.startswith("own task: figures in ")
    kinds = {path.name for path in (tmp_path / "own" / "evaluation").glob("*.json")}
    assert len(kinds) == 2
    assert (tmp_path / "own" / "predicted" / "ecg0001.html").exists()
