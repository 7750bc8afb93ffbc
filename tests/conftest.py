"""Set-up that all tests share."""

from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from tests.helpers.devices import QUICK_COMPILING

# The same small programs are compiled in many test processes; jax reads these when it is imported.
os.environ.setdefault("XLA_FLAGS", QUICK_COMPILING)
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

# Tracing makes many objects that live on; searching them for cycles took a twentieth of the tests' time.
gc.set_threshold(100_000, 50, 100)

LONGEST = (
    "test_contrastive.py",
    "test_multihost.py",
    "test_resume.py",
    "test_version_0_1.py",
    "test_grad_cache.py",
    "test_saved_step.py",
    "test_feed.py",
    "test_distributed.py",
    "test_own_task.py",
    "test_program.py",
    "test_step.py",
    "test_loop.py",
    "test_torch_import.py",
    "test_bad_records.py",
    "test_layouts.py",
    "test_encoder.py",
    "test_bert.py",
)
"""The files that take longest, with their slow tests; the longest first."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Has the longest files run first, so that no worker begins one when the others are nearly done."""
    place = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> None:
    """The user's cache may hold the same small encoders, computed by another compiler."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small labelled shard folder; read only."""
    from tests.helpers.small_run import write_shards  # imports jax, which reads what is set above

    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """An untrained run on these shards, with a text tower from scratch."""
    from tests.helpers.small_run import small_config, write_run

    return write_run(tmp_path_factory.mktemp("runs") / "run", small_config(shards))
