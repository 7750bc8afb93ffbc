from pathlib import Path

import pytest
from small_run import small_config, write_run, write_shards


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def run_dir(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> Path:
    """An untrained run with a text tower from scratch."""
    return write_run(tmp_path_factory.mktemp("runs") / "run", small_config(shards))
