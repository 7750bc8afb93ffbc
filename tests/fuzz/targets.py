"""What is fuzzed: a function for each target writes valid files, and names what reads each of them."""

from __future__ import annotations

from tests.fuzz import project_targets, signal_targets
from tests.fuzz.target import Reader, Target

TARGETS: dict[str, Target] = {**signal_targets.TARGETS, **project_targets.TARGETS}
"""Every target by name."""

__all__ = ["TARGETS", "Reader"]
