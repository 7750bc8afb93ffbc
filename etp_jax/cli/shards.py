"""`etp shards`: verification of shard folders, and merging of parts that several machines wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from etp_jax.cli.command import Command, show


@dataclass(frozen=True)
class Check:
    """Verifies all bytes of a shard folder: CRCs, checksums, schema, counts, no patient in two splits."""

    shards: tyro.conf.Positional[Path]
    """Shard folder to verify."""


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Merges the parts that several machines wrote with --part into one shard folder."""

    parts: tuple[Path, ...]
    """Folders of all parts, in any order."""
    out: Path
    """Shard folder to write. It gets hard links to the parts' files, or copies if they are on another disk."""


def check(args: Check) -> None:
    """Runs `etp shards check`."""
    from etp_jax.shards.check import check_shards

    show(check_shards(args.shards))


def merge(args: Merge) -> None:
    """Runs `etp shards merge`."""
    from etp_jax.data_prep.parts import merge as join

    show(join(args.parts, args.out))


COMMANDS = {
    "shards check": Command(Check, check),
    "shards merge": Command(Merge, merge),
}
