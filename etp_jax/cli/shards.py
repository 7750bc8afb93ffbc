"""`etp shards`: checks a shard folder; merges the parts that several machines wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from etp_jax.cli.command import Command


@dataclass(frozen=True)
class Check:
    """Reads a shard folder whole: every CRC, schema, counts, patients in two splits."""

    shards: tyro.conf.Positional[Path]


@dataclass(frozen=True, kw_only=True)
class Merge:
    """Joins the parts that several machines wrote with --part into one shard folder."""

    parts: tuple[Path, ...]
    """Folders of all parts, in any order."""
    out: Path
    """Shard folder to make; takes hard links of the parts' files where it can."""


def check(args: Check) -> None:
    """Runs `etp shards check`."""
    from etp_jax.shards.check import check_shards

    print(check_shards(args.shards))


def merge(args: Merge) -> None:
    """Runs `etp shards merge`."""
    from etp_jax.data_prep.parts import merge as join

    print(join(args.parts, args.out))


COMMANDS = {
    "shards check": Command(Check, check),
    "shards merge": Command(Merge, merge),
}
