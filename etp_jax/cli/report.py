"""`etp report`: writes the page of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etp_jax.cli.command import Command, show


@dataclass(frozen=True)
class Report:
    """Writes RUN/report.html with training curves, figures by class and example ECGs."""

    run: Path
    """Run folder made by `etp train`."""
    shards: Path
    """Shard folder that the run was trained on."""
    other_shards: bool = False
    """Accept shards that the run was not trained on; the headings then name them."""
    text_tower: str | None = None
    """Folder or name of the run's frozen text tower, where it has moved; its weights must be the same."""


def report(args: Report) -> None:
    """Runs `etp report`."""
    from etp_jax.report.run import write_page

    show(f"wrote {write_page(args.run, args.shards, args.other_shards, args.text_tower)}")


COMMANDS = {
    "report": Command(Report, report),
}
