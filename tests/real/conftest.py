"""Fixtures of real records that several test files read."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import pytest

from etp_jax.data_prep.archives.ptbxl import open_archive
from etp_jax.data_prep.build import build
from etp_jax.shards.pool import Processes

# What tests/conftest.py sets to compile quickly: these tests compute for longer than they compile.
os.environ.pop("XLA_FLAGS", None)


@pytest.fixture(scope="session")
def fold_9(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards of PTB-XL's validation fold at 100 Hz."""
    folder = tmp_path_factory.mktemp("fold_9") / "shards"
    archive = open_archive(Path(os.environ["ETP_DATA_ROOT"]) / "ptbxl")
    studies = tuple(study for study in archive.studies if study.split == "validation")
    build(replace(archive, studies=studies), folder, Processes(2))
    return folder
