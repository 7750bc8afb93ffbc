"""Fixtures: a small BERT in a Hugging Face folder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy


@pytest.fixture(scope="session")
def golden() -> Any:
    """What make_golden.py wrote: config, weights by PyTorch name, inputs and outputs."""
    return dict(np.load(Path(__file__).parent / "golden_bert.npz"))


@pytest.fixture(scope="session")
def golden_tensors(golden: Any) -> dict[str, np.ndarray]:
    return {name.removeprefix("weights/"): value for name, value in golden.items() if name.startswith("weights/")}


@pytest.fixture
def golden_folder(golden: Any, golden_tensors: dict[str, np.ndarray], tmp_path: Path) -> Path:
    """`config.json` and `model.safetensors`."""
    (tmp_path / "config.json").write_text(str(golden["config"]), encoding="utf-8")
    safetensors.numpy.save_file(golden_tensors, tmp_path / "model.safetensors")
    return tmp_path
