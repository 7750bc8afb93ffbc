"""The arguments of `etp prep ...`, and what each does: open the archive, build its shards, print what was made."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from etp_jax.config import Filters

if TYPE_CHECKING:
    from data_prep.archives.study import Archive


@dataclass(frozen=True, kw_only=True)
class Prep:
    """What all of them take."""

    out: Path
    """Shard folder to make; a finished one is left as it is, an unfinished one is completed."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""
    filters: Annotated[Filters, tyro.conf.arg(name="")] = field(default_factory=Filters)


@dataclass(frozen=True, kw_only=True)
class PrepPtbxl(Prep):
    """PTB-XL (1.0.3 layout) to shards."""

    source: Path
    """Folder that holds ptbxl_database.csv."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the files to read, in Hz."""


@dataclass(frozen=True, kw_only=True)
class PrepSynthetic(Prep):
    """A synthetic archive in PTB-XL's layout, and its shards."""

    records: int = 2000
    seed: int = 0
    rate: Literal[100, 500] = 100
    """Sampling rate, in Hz."""


def prep_ptbxl(args: PrepPtbxl) -> None:
    """Runs `etp prep ptbxl`."""
    from data_prep.archives.ptbxl import open_archive

    _build(open_archive(args.source, args.rate), args)


def prep_synthetic(args: PrepSynthetic) -> None:
    """Runs `etp prep synthetic`; the archive is written beside the shards, as OUT-archive."""
    from data_prep.archives.ptbxl import open_archive
    from data_prep.archives.synthetic import ensure_archive

    archive = args.out.with_name(args.out.name + "-archive")
    ensure_archive(archive, records=args.records, seed=args.seed, rate=args.rate)
    _build(open_archive(archive, args.rate, "synthetic"), args)


def _build(archive: Archive, args: Prep) -> None:
    from data_prep.build import build

    print(build(replace(archive, filters=args.filters), args.out, args.workers))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "prep ptbxl": (PrepPtbxl, prep_ptbxl),
    "prep synthetic": (PrepSynthetic, prep_synthetic),
}
