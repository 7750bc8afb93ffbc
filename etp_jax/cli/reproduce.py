"""`etp reproduce`: a study of several runs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tyro

from etp_jax.cli.command import Command


@dataclass(frozen=True)
class Reproduce:
    """Trains and evaluates what a study names and is not there yet, and writes one table."""

    file: tyro.conf.Positional[Path]
    """The study, TOML; `studies/` has some, etp_jax/reproduce/study.py describes the form."""
    out: Path
    """Folder for the runs and for table.json, .csv, .md and .html."""
    shards: Path | None = None
    """Shard folder in place of the study's."""
    train: bool = True
    """--no-train: train nothing; evaluate the runs that are finished and write the table of these."""
    dry_run: bool = False
    """Only print what would be done and how long it would take."""


def reproduce(args: Reproduce) -> None:
    """Runs `etp reproduce`; raises EtpError when a run or an evaluation failed."""
    from etp_jax.reproduce import reproduce as carry_out

    carry_out(args.file, args.out, args.shards, args.train, args.dry_run, progress=partial(print, flush=True))


COMMANDS = {
    "reproduce": Command(Reproduce, reproduce),
}
