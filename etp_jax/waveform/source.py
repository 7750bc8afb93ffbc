"""Interface of a source of waveform features, which returns the features that are likely for each statement."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Protocol

from etp_jax.waveform.features import Feature


@dataclass(frozen=True)
class Answers:
    """The features that a source proposes."""

    features: dict[str, tuple[Feature, ...]]
    """Features that are likely for each statement."""
    rejected: Counter[str] = field(default_factory=Counter)
    """Number of proposed features that were rejected, by kind of flaw."""


class Source(Protocol):
    """A source of waveform features."""

    origin: dict[str, Any]
    """Description that identifies the source, stored in `proposals.json`."""

    def propose(self, statements: list[str]) -> Answers:
        """Returns the features of each statement."""
        ...
