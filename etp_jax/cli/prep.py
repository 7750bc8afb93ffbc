"""`etp prep`: conversion of raw archives to shard folders."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from etp_jax.cli.command import Command, show
from etp_jax.data_prep.archives.table_columns import TableColumns
from etp_jax.ecg.leads import LEADS, Filters, Layout
from etp_jax.errors import EtpError

if TYPE_CHECKING:
    from etp_jax.data_prep.archives.archive import Archive


@dataclass(frozen=True, kw_only=True)
class Prep:
    """Options that all archives have in common."""

    out: Path
    """Shard folder to write. A finished one is left unchanged, an unfinished one is completed."""
    workers: int | None = None
    """Number of worker processes; without it, one per CPU core."""
    dask: str = ""
    """Write the shards on a Dask cluster: `local`, tcp://HOST:PORT, or the JSON file of a scheduler. Source and output
    must be on storage that all workers share. Needs the extra `dask`."""
    part: str = "1/1"
    """i/n: write only part i of n, on one of n machines. `etp shards merge` joins the parts."""
    pseudonymise: Path | None = None
    """File with a secret salt, as made by `openssl rand -hex 32 > salt`. Ids of patients and records are replaced by
    keyed hashes; splits remain as they are. Reports are not changed."""
    keep_leads: tuple[str, ...] = LEADS
    """Leads to store, such as `I II V1`, for encoders that read some of them; they are stored in the usual order."""
    filters: Annotated[Filters, tyro.conf.arg(name="")] = field(default_factory=Filters)

    def __post_init__(self) -> None:
        """Checks the options before the archive is opened, which may take a minute."""
        from etp_jax.data_prep.parts import WHOLE, parse_part
        from etp_jax.data_prep.pseudonyms import Salt
        from etp_jax.shards.dask_engine import LOCAL, check_scheduler

        part = parse_part(self.part)
        if self.pseudonymise is not None:
            Salt.read(self.pseudonymise)
        unknown = sorted(set(self.keep_leads) - set(LEADS))
        if unknown or not self.keep_leads:
            raise EtpError(f"--keep-leads {' '.join(self.keep_leads)}: name some of {' '.join(LEADS)}")
        if self.workers is not None and self.workers < 1:
            raise EtpError(f"--workers {self.workers}: must be at least 1")
        if self.dask and part != WHOLE:
            raise EtpError("--dask and --part: choose one; a Dask cluster divides the work by itself")
        if self.dask and check_scheduler(self.dask) != LOCAL and self.workers is not None:
            raise EtpError(f"--workers with --dask {self.dask}: the cluster has its own workers; leave --workers out")


@dataclass(frozen=True, kw_only=True)
class PrepPtbxl(Prep):
    """Reads PTB-XL, in the layout of version 1.0.3.

    The folder contains ptbxl_database.csv, scp_statements.csv, and WFDB records in records100/ or records500/.
    """

    source: Path
    """Folder that contains ptbxl_database.csv."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the files to read and of the shards, in Hz."""


@dataclass(frozen=True, kw_only=True)
class PrepMimicIvEcg(Prep):
    """Reads MIMIC-IV-ECG, in the layout of version 1.0.

    The folder contains record_list.csv, machine_measurements.csv and WFDB records of 500 Hz.
    """

    source: Path
    """Folder that contains record_list.csv and machine_measurements.csv."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the shards, in Hz. The archive's signals have 500 Hz."""


@dataclass(frozen=True, kw_only=True)
class PrepCinc2020(Prep):
    """Reads the training sets of the PhysioNet/CinC Challenges 2020 and 2021.

    They are WFDB records with labels in their headers, in any tree of folders.
    """

    source: Path
    """Folder that contains the records, at any depth."""
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a record in the shards, in seconds. Longer records are cropped, shorter ones padded with zeros."""
    dataset: tuple[str, ...] = ()
    """Data sets to read, or none for all: cpsc_2018, cpsc_2018_extra, georgia, ptb, ptb-xl, chapman_shaoxing_ningbo."""
    ptbxl_database: Path | None = None
    """PTB-XL's ptbxl_database.csv, which holds the folds of the copies of PTB-XL's records."""


@dataclass(frozen=True, kw_only=True)
class PrepMitdb(Prep):
    """Reads the MIT-BIH Arrhythmia Database, cut into windows.

    Its WFDB records have two leads and last half an hour. A window is labelled with the beat types in it.
    """

    source: Path
    """Folder that contains the .hea, .dat and .atr files of each record."""
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a window, in seconds."""


@dataclass(frozen=True, kw_only=True)
class PrepTable(Prep):
    """Reads your own ECGs: a CSV table and signal files of any kind that is read, as listed in docs/formats.md.

    The table has one row per record, with the path of the signal file, and labels and report where there are any.
    """

    csv: Path
    """CSV table, one row per record."""
    columns: Annotated[TableColumns, tyro.conf.arg(name="")]
    root: Path | None = None
    """Folder that the paths of the signal files are relative to and must be inside; without it, the table's folder."""
    layout: Annotated[Layout, tyro.conf.arg(name="")] = field(default_factory=Layout)
    rate: int = 100
    """Sampling rate of the shards, in Hz."""
    seconds: int = 10
    """Length of a record in the shards, in seconds. Longer records are cropped, shorter ones padded with zeros."""
    translate: bool = False
    """Translate the reports from German or Swedish, as worded in PTB-XL. Without it, they are English and unchanged."""
    name: str = "table"
    """Name of the data set, with which the names of the shard files begin: letters, digits and _."""


@dataclass(frozen=True, kw_only=True)
class PrepSynthetic(Prep):
    """Generates a synthetic archive in PTB-XL's layout, as OUT-archive, and reads it."""

    records: int = 2000
    """Number of records to generate."""
    seed: int = 0
    """Seed that determines the whole archive."""
    rate: Literal[100, 500] = 100
    """Sampling rate of the archive and of the shards, in Hz."""


def prep_ptbxl(args: PrepPtbxl) -> None:
    """Runs `etp prep ptbxl`."""
    from etp_jax.data_prep.archives.ptbxl import open_archive

    _build(args, open_archive, args.source, args.rate)


def prep_mimic_iv_ecg(args: PrepMimicIvEcg) -> None:
    """Runs `etp prep mimic-iv-ecg`."""
    from etp_jax.data_prep.archives.mimic_iv_ecg import open_archive

    _build(args, open_archive, args.source, args.rate)


def prep_cinc2020(args: PrepCinc2020) -> None:
    """Runs `etp prep cinc2020`."""
    from etp_jax.data_prep.archives.cinc2020 import open_archive

    _build(args, open_archive, args.source, args.rate, args.seconds, args.dataset, args.ptbxl_database)


def prep_mitdb(args: PrepMitdb) -> None:
    """Runs `etp prep mitdb`."""
    from etp_jax.data_prep.archives.mitdb import open_archive

    _build(args, open_archive, args.source, args.rate, args.seconds)


def prep_table(args: PrepTable) -> None:
    """Runs `etp prep table`."""
    from etp_jax.data_prep.archives.table import open_archive

    root = args.root.absolute() if args.root and args.dask else args.root
    options = (args.layout, args.rate, args.seconds, args.translate, args.name, root)
    _build(args, open_archive, args.csv, args.columns, *options)


def prep_synthetic(args: PrepSynthetic) -> None:
    """Runs `etp prep synthetic`; the archive is written next to the shards, as OUT-archive."""
    from etp_jax.data_prep.archives.ptbxl import open_archive
    from etp_jax.data_prep.synthetic.archive import ensure_archive

    archive = args.out.with_name(args.out.name + "-archive")
    ensure_archive(archive, records=args.records, seed=args.seed, rate=args.rate)
    _build(args, open_archive, archive, args.rate, "synthetic")


def _build(args: Prep, open_archive: Callable[..., Archive], source: Path, *options: Any) -> None:
    """Opens the archive when all workers are known to see it, and writes its shards."""
    from etp_jax.data_prep.build import build, build_part
    from etp_jax.data_prep.parts import WHOLE, parse_part
    from etp_jax.shards.dask_engine import dask_engine
    from etp_jax.shards.pool import Processes

    part, workers = parse_part(args.part), args.workers or os.cpu_count() or 1
    if args.dask:  # its workers have other working folders
        source, out = source.absolute(), args.out.absolute()
        with dask_engine(args.dask, workers, source) as engine:
            show(build(_opened(args, open_archive, source, *options), out, engine))
        return
    archive = _opened(args, open_archive, source, *options)
    if part == WHOLE:
        show(build(archive, args.out, Processes(workers)))
    else:
        show(build_part(archive, args.out, part, Processes(workers)))


def _opened(args: Prep, open_archive: Callable[..., Archive], source: Path, *options: Any) -> Archive:
    """Opens the archive, with the leads, filters and pseudonyms of the options."""
    from etp_jax.data_prep.pseudonyms import Salt, pseudonymise

    leads = tuple(lead for lead in LEADS if lead in args.keep_leads)
    archive = replace(open_archive(source, *options), filters=args.filters, leads=leads)
    return archive if args.pseudonymise is None else pseudonymise(archive, Salt.read(args.pseudonymise))


COMMANDS = {
    "prep ptbxl": Command(PrepPtbxl, prep_ptbxl),
    "prep mimic-iv-ecg": Command(PrepMimicIvEcg, prep_mimic_iv_ecg),
    "prep cinc2020": Command(PrepCinc2020, prep_cinc2020),
    "prep mitdb": Command(PrepMitdb, prep_mitdb),
    "prep table": Command(PrepTable, prep_table),
    "prep synthetic": Command(PrepSynthetic, prep_synthetic),
}
