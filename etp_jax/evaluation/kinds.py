"""The kinds of evaluation. To add one, add a file in this folder and a line in `KINDS`. No jax.

A kind's file defines its options, a subclass of `Request`, and a function `evaluate`. The command line imports all
these files to build `etp evaluate ...`, so modules that need jax are imported inside the function.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from etp_jax.evaluation import demographics, finetune, knn, probe, retrieval, robustness, subgroups, zero_shot
from etp_jax.evaluation.outcome import Outcome
from etp_jax.evaluation.request import Request
from etp_jax.shards.reader import Shards

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder


@dataclass(frozen=True)
class Kind:
    """One way to measure an encoder."""

    title: str
    """Heading in reports and tables."""
    options: type[Request]
    """Request class of the kind: its options, its name, and the rules for combining options."""
    evaluate: Callable[[Any, Sequence[tuple[str, Encoder]], Shards], Outcome]
    """Scores the encoders, each given with its name in the result; the first is the trained one."""
    random_encoders: int = 1
    """Number of random encoders evaluated as a baseline. Without training, scores vary much with the random weights."""
    compared: tuple[str, ...] = ("macro_auroc",)
    """Metrics for comparing runs; the first is the main figure."""
    note: str = "Macro-AUROC."
    """Note above the kind's table in a study."""

    @property
    def name(self) -> str:
        """Name in commands, file names and JSON."""
        return self.options.kind


KINDS = {
    kind.name: kind
    for kind in (
        Kind("Zero-shot", zero_shot.ZeroShot, zero_shot.evaluate, random_encoders=3),
        Kind("Linear probe", probe.Probe, probe.evaluate),
        Kind("Nearest neighbours", knn.Knn, knn.evaluate),
        Kind("Full fine-tuning", finetune.Finetune, finetune.evaluate, random_encoders=0),
        Kind("Subgroups and calibration", subgroups.Subgroups, subgroups.evaluate),
        Kind("Robustness", robustness.Robustness, robustness.evaluate, random_encoders=0),
        Kind(
            "Sex and age", demographics.Demographics, demographics.evaluate, 1, demographics.COMPARED, demographics.NOTE
        ),
        Kind("Retrieval", retrieval.Retrieval, retrieval.evaluate, 3, retrieval.COMPARED, retrieval.NOTE),
    )
}
"""All kinds by name, in the order of tables and reports."""


def kind_title(name: str) -> str:
    """Returns the heading of a kind, or its name if this version does not know it."""
    return KINDS[name].title if name in KINDS else name
