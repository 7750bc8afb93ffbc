"""`etp reproduce`: executes a study of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from etp_jax.cli.command import Command, show


@dataclass(frozen=True)
class Reproduce:
    """Trains and evaluates the missing runs of a study, and writes one table."""

    file: tyro.conf.Positional[Path]
    """Study file, TOML; `studies/` has examples, etp_jax/reproduce/study.py describes the format."""
    out: Path
    """Folder for the runs and for table.json, .csv, .md and .html."""
    shards: Path | None = None
    """Shard folder that replaces the study's."""
    train: bool = True
    """--no-train: do not train; evaluate the finished runs and write their table."""
    dry_run: bool = False
    """Only print the plan, with time and memory; no step is run. Times come from logged runs, or from FLOPs and
    bench.json in --out (`etp bench --json`)."""


def reproduce(args: Reproduce) -> None:
    """Runs `etp reproduce`; raises EtpError when a run or an evaluation failed."""
    from etp_jax.reproduce import reproduce as carry_out

    carry_out(args.file, args.out, args.shards, args.train, args.dry_run, progress=show)


COMMANDS = {
    "reproduce": Command(Reproduce, reproduce),
}
