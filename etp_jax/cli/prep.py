"""`etp prep`: raw archives to shard folders."""

from __future__ import annotations

import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from etp_jax.cli.command import Command
from etp_jax.data_prep.archives.table import TableColumns
from etp_jax.ecg.leads import Filters, Layout

if TYPE_CHECKING:
    from etp_jax.data_prep.archives.archive import Archive


@dataclass(frozen=True, kw_only=True)
class Prep:
    """What all of them take."""

    out: Path
    """Shard folder to make; a finished one is left as it is, an unfinished one is completed."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""
    part: str = "1/1"
    """i/n: write only the i-th of n parts of the shards, on one of n machines; `etp prep merge` joins them."""
    filters: Annotated[Filters, tyro.conf.arg(name="")] = field(default_factory=Filters)

    def __post_init__(self) -> None:
        """Notices a wrong part before an archive is opened, which may take a minute."""
        from etp_jax.data_prep.parts import parse_part

        parse_part(self.part)


@dataclass(frozen=True, kw_only=True)
class PrepPtbxl(Prep):
    """PTB-XL (1.0.3 layout) to shards."""

    source: Path
    """Folder that holds ptbxl_database.csv."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the files to read, in Hz."""


@dataclass(frozen=True, kw_only=True)
class PrepMimicIvEcg(Prep):
    """MIMIC-IV-ECG (1.0 layout) to shards."""

    source: Path
    """Folder that holds record_list.csv and machine_measurements.csv."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the shards, in Hz; the signals come at 500 Hz."""


@dataclass(frozen=True, kw_only=True)
class PrepCinc2020(Prep):
    """The PhysioNet/CinC Challenges' 2020 and 2021 training sets (WFDB in any tree of folders) to shards."""

    source: Path
    """Folder that holds the records, at any depth."""
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a record in the shards; the first seconds are kept, zeros added at the end."""
    dataset: tuple[str, ...] = ()
    """Take only these: cpsc_2018, cpsc_2018_extra, georgia, ptb, ptb-xl, chapman_shaoxing_ningbo."""
    ptbxl_database: Path | None = None
    """PTB-XL's ptbxl_database.csv, for the folds of its records' copies."""


@dataclass(frozen=True, kw_only=True)
class PrepMitdb(Prep):
    """MIT-BIH Arrhythmia Database (two leads, half an hour) to shards of windows."""

    source: Path
    """Folder with .hea, .dat and .atr of each record."""
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a window."""


@dataclass(frozen=True, kw_only=True)
class PrepTable(Prep):
    """Your own ECGs (a CSV table that names WFDB, EDF, .mat, .npy or .csv files and holds the reports) to shards."""

    csv: Path
    """The table, UTF-8."""
    columns: Annotated[TableColumns, tyro.conf.arg(name="")]
    layout: Annotated[Layout, tyro.conf.arg(name="")] = field(default_factory=Layout)
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a record in the shards; the first seconds are kept, zeros added at the end."""
    translate: bool = False
    """The reports are German or Swedish, in the words of PTB-XL's; else they are English and stay as they are."""
    name: str = "table"
    """Name of the data set; shard files begin with it."""


@dataclass(frozen=True, kw_only=True)
class PrepSynthetic(Prep):
    """A synthetic archive in PTB-XL's layout, and its shards."""

    records: int = 2000
    seed: int = 0
    rate: Literal[100, 500] = 100
    """Sampling rate, in Hz."""


def prep_ptbxl(args: PrepPtbxl) -> None:
    """Runs `etp prep ptbxl`."""
    from etp_jax.data_prep.archives.ptbxl import open_archive

    _build(open_archive(args.source, args.rate), args)


def prep_mimic_iv_ecg(args: PrepMimicIvEcg) -> None:
    """Runs `etp prep mimic-iv-ecg`."""
    from etp_jax.data_prep.archives.mimic_iv_ecg import open_archive

    _build(open_archive(args.source, args.rate), args)


def prep_cinc2020(args: PrepCinc2020) -> None:
    """Runs `etp prep cinc2020`."""
    from etp_jax.data_prep.archives.cinc2020 import open_archive

    _build(open_archive(args.source, args.rate, args.seconds, args.dataset, args.ptbxl_database), args)


def prep_mitdb(args: PrepMitdb) -> None:
    """Runs `etp prep mitdb`."""
    from etp_jax.data_prep.archives.mitdb import open_archive

    _build(open_archive(args.source, args.rate, args.seconds), args)


def prep_table(args: PrepTable) -> None:
    """Runs `etp prep table`."""
    from etp_jax.data_prep.archives.table import open_archive

    opened = open_archive(args.csv, args.columns, args.layout, args.rate, args.seconds, args.translate, args.name)
    _build(opened, args)


def prep_synthetic(args: PrepSynthetic) -> None:
    """Runs `etp prep synthetic`; the archive is written beside the shards, as OUT-archive."""
    from etp_jax.data_prep.archives.ptbxl import open_archive
    from etp_jax.data_prep.synthetic.archive import ensure_archive

    archive = args.out.with_name(args.out.name + "-archive")
    ensure_archive(archive, records=args.records, seed=args.seed, rate=args.rate)
    _build(open_archive(archive, args.rate, "synthetic"), args)


def _build(archive: Archive, args: Prep) -> None:
    from etp_jax.data_prep.build import build, build_part
    from etp_jax.data_prep.parts import WHOLE, parse_part

    archive, part = replace(archive, filters=args.filters), parse_part(args.part)
    if part == WHOLE:
        print(build(archive, args.out, args.workers))
    else:
        print(build_part(archive, args.out, part, args.workers))


COMMANDS = {
    "prep ptbxl": Command(PrepPtbxl, prep_ptbxl),
    "prep mimic-iv-ecg": Command(PrepMimicIvEcg, prep_mimic_iv_ecg),
    "prep cinc2020": Command(PrepCinc2020, prep_cinc2020),
    "prep mitdb": Command(PrepMitdb, prep_mitdb),
    "prep table": Command(PrepTable, prep_table),
    "prep synthetic": Command(PrepSynthetic, prep_synthetic),
}
