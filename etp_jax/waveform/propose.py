"""`etp waveform propose`: proposes waveform features for each distinct statement of a shard folder.

Statements come from the reports only. Labels are not used: encoders are evaluated on them, and features derived from
them would leak them into the pre-training.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from etp_jax.errors import EtpError
from etp_jax.files import disk_errors, has_fields, keep_other_kinds
from etp_jax.shards.reader import Shards
from etp_jax.waveform.features import Proposals, collect
from etp_jax.waveform.source import Source


@dataclass(frozen=True)
class Summary:
    """Result of `etp waveform propose`."""

    out: Path
    proposals: Proposals
    rejected: Counter[str]
    said: Counter[str]
    """Number of occurrences of each statement in the training split, or in the first split if there is none."""

    @property
    def coverage(self) -> tuple[float, float]:
        """Share of the statements that have a feature: of all occurrences, and of the distinct statements."""
        known = {text: count for text, count in self.said.items() if self.proposals.statements[text]}
        return sum(known.values()) / max(self.said.total(), 1), len(known) / max(len(self.said), 1)

    def __str__(self) -> str:
        """Returns the summary that the command prints."""
        features, (share, distinct) = self.proposals.features, self.coverage
        lines = [
            f"features: {len(features)}, of which {sum(f.check is not None for f in features)} can be measured",
            f"statements with a feature: {share:.2%} of {self.said.total()}, "
            f"{distinct:.2%} of {len(self.said)} distinct ones",
            *(f"  rejected, {kind}: {count}" for kind, count in sorted(self.rejected.items())),
        ]
        return "\n".join([*lines, f"proposals: {self.out}"])


def distinct_statements(shards: Shards) -> list[str]:
    """Returns the distinct statements of all splits, sorted."""
    return sorted({text for name in shards.splits for some in shards.split(name).columns.statements for text in some})


def propose(shards: Shards, source: Source, out: Path) -> Summary:
    """Asks the source about every distinct statement and writes the proposals to `out`.

    Raises:
      EtpError: the shards contain no statements, the source fails, or `out` cannot be written.
    """
    statements = distinct_statements(shards)
    if not statements:
        raise EtpError(f"{shards.folder}: no record has a report; nothing can be proposed")
    with disk_errors(out):
        keep_other_kinds(out, "proposals", has_fields("origin", "features", "statements"))
        out.parent.mkdir(parents=True, exist_ok=True)
        answers = source.propose(statements)
        proposals = collect(answers.features, source.origin)
        proposals.save(out)
    split = "train" if "train" in shards.splits else next(iter(shards.splits))
    said = Counter(text for some in shards.split(split).columns.statements for text in some)
    return Summary(out, proposals, answers.rejected, said)
