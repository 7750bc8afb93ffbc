"""The arguments of `etp prep ...`, `etp propose`, `restore` and `measure`, and what each does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from etp_jax.data_prep.archives.table import TableColumns
from etp_jax.ecg.leads import Filters, Layout
from etp_jax.errors import EtpError

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


@dataclass(frozen=True, kw_only=True)
class PrepMerge:
    """Joins the parts that several machines wrote with --part into one shard folder."""

    parts: tuple[Path, ...]
    """Folders of all parts, in any order."""
    out: Path
    """Shard folder to make; takes hard links of the parts' files where it can."""


@dataclass(frozen=True, kw_only=True)
class Propose:
    """Waveform features that are likely for each statement of a shard folder, from textbook criteria or a model."""

    shards: Path
    out: Path
    """File to write, as features.json."""
    source: Literal["criteria", "llm"] = "criteria"
    """`llm`: any OpenAI-compatible server is asked; OPENAI_API_KEY is sent where it is set."""
    base_url: str = "http://localhost:8000/v1"
    """Of the server."""
    model: str | None = None
    """Name of the model, as the server knows it."""
    concurrency: int = 4
    """Questions under way at a time."""
    timeout_s: float = 120.0
    """Longest wait for an answer."""
    cache: Path | None = None
    """Folder that keeps all answers; by default OUT.cache."""
    dry_run: bool = False
    """Only say how many questions and tokens it would take."""


@dataclass(frozen=True, kw_only=True)
class Restore:
    """Adds to each report of a shard folder the proposed features that its signal or an encoder confirms."""

    shards: Path
    features: Path
    """File of `etp propose`."""
    out: Path
    """Shard folder to make; a finished one is left as it is, an unfinished one is completed."""
    similarities: Path | None = None
    """File of `etp similarities`; for --filter both and model."""
    filter: Literal["both", "model", "measurement", "none"] = "both"
    """Who confirms. `both`: the signal where it can be measured, else the model; `none` keeps all that is proposed."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measures all ECGs of a split (intervals, axis, amplitudes) and compares them with PTB-XL's labels."""

    shards: Path
    split: str = "validation"
    out: Path | None = None
    """CSV to write: a row a record."""
    workers: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Processes."""


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


def prep_merge(args: PrepMerge) -> None:
    """Runs `etp prep merge`."""
    from etp_jax.data_prep.parts import merge

    print(merge(args.parts, args.out))


def propose(args: Propose) -> None:
    """Runs `etp propose`."""
    from etp_jax.shards.reader import Shards
    from etp_jax.waveform import criteria, llm
    from etp_jax.waveform.propose import distinct_statements
    from etp_jax.waveform.propose import propose as write_proposals

    shards = Shards(args.shards)
    if args.source == "criteria":
        if args.dry_run:
            raise EtpError("--dry-run counts the questions to a language model; the criteria ask none")
        print(write_proposals(shards, criteria.Criteria(), args.out))
        return
    if args.model is None:
        raise EtpError("--source llm needs --model, the name that the server knows")
    if args.concurrency < 1:
        raise EtpError(f"--concurrency is {args.concurrency}; it must be at least 1")
    server = llm.Server(args.base_url, args.model, args.timeout_s, args.concurrency)
    model = llm.LanguageModel(server, args.cache or args.out.with_name(args.out.name + ".cache"))
    print(model.plan(distinct_statements(shards)) if args.dry_run else write_proposals(shards, model, args.out))


def restore(args: Restore) -> None:
    """Runs `etp restore`."""
    from etp_jax.waveform.restore import restore as write_shards

    print(write_shards(args.shards, args.features, args.out, args.similarities, args.filter, args.workers))


def measure(args: Measure) -> None:
    """Runs `etp measure`."""
    from etp_jax.waveform.agreement import measure_split

    print(measure_split(args.shards, args.split, args.out, args.workers))


def _build(archive: Archive, args: Prep) -> None:
    from etp_jax.data_prep.build import build, build_part
    from etp_jax.data_prep.parts import WHOLE, parse_part

    archive, part = replace(archive, filters=args.filters), parse_part(args.part)
    if part == WHOLE:
        print(build(archive, args.out, args.workers))
    else:
        print(build_part(archive, args.out, part, args.workers))


COMMANDS: dict[str, tuple[type, Callable[[Any], None]]] = {
    "prep ptbxl": (PrepPtbxl, prep_ptbxl),
    "prep mimic-iv-ecg": (PrepMimicIvEcg, prep_mimic_iv_ecg),
    "prep cinc2020": (PrepCinc2020, prep_cinc2020),
    "prep mitdb": (PrepMitdb, prep_mitdb),
    "prep table": (PrepTable, prep_table),
    "prep synthetic": (PrepSynthetic, prep_synthetic),
    "prep merge": (PrepMerge, prep_merge),
    "propose": (Propose, propose),
    "restore": (Restore, restore),
    "measure": (Measure, measure),
}
