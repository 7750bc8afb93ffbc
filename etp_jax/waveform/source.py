"""What a source of waveform features is: it takes statements and answers with the features likely for each."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from etp_jax.waveform.features import Feature


@dataclass(frozen=True)
class Answers:
    """What a source proposes."""

    features: dict[str, tuple[Feature, ...]]
    """Statement → features likely for it."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Kind of flaw → proposed features that were not taken for it."""


class Source(Protocol):
    """Proposes features."""

    origin: dict[str, Any]
    """What identifies it; goes into `features.json`."""

    def propose(self, statements: list[str]) -> Answers:
        """Features of each of the statements."""
        ...
