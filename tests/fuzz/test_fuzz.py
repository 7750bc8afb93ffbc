"""Fuzzing for a minute; `make fuzz` does it for an hour."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.targets import TARGETS

SECONDS = 60.0


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_damaged_file_does_harm(target: str, tmp_path: Path) -> None:
    _, failures = fuzz(target, SECONDS / len(TARGETS), seed=1, kept=tmp_path)
    assert not failures, "\n".join(map(str, failures))
