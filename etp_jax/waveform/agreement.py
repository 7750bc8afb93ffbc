"""`etp waveform measure`: measurements of all ECGs of a split, and their agreement with the labels of PTB-XL."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from io import StringIO
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from etp_jax.files import begins, disk_errors, keep_other_kinds, write_text
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.waveform.features import QUANTITIES
from etp_jax.waveform.measure import Measures, measure

CHUNK = 256
"""Number of records in one task of a worker process."""


@dataclass(frozen=True)
class Criterion:
    """A label, and the measurement that textbooks associate with it."""

    label: str
    quantity: str
    threshold: float
    above: bool = True
    """Whether values at or above the threshold indicate the label; otherwise values at or below it do."""
    lead: str = ""


CRITERIA = (
    Criterion("SBRAD", "rate_bpm", 60, above=False),
    Criterion("STACH", "rate_bpm", 100),
    Criterion("AFIB", "rr_irregularity", 0.08),
    Criterion("AFIB", "p_likeness", 0.45, above=False),
    Criterion("PVC", "aberrant_beats", 1),
    Criterion("1AVB", "pr_ms", 200),
    Criterion("CLBBB", "qrs_ms", 120),
    Criterion("CRBBB", "qrs_ms", 120),
    Criterion("CRBBB", "terminal_uv", 40, lead="V1"),
    Criterion("LAFB", "axis_deg", -30, above=False),
    Criterion("LNGQT", "qtc_ms", 450),
    Criterion("LVH", "sokolow_uv", 3500),
    Criterion("LVH", "cornell_uv", 2800),
    Criterion("RVH", "sokolow_right_uv", 1050),
    Criterion("IMI", "q_ms", 30, lead="aVF"),
    Criterion("ASMI", "r_uv", 300, above=False, lead="V3"),
)


@dataclass(frozen=True)
class Agreement:
    """Agreement of a measurement with a label, over the records in which the quantity could be measured."""

    criterion: Criterion
    positives: int
    measured: float
    """Share of all records in which the quantity could be measured."""
    sensitivity: float
    specificity: float
    auroc: float


@dataclass(frozen=True)
class Summary:
    """Result of `etp waveform measure`."""

    split: str
    records: int
    seconds: float
    agreements: tuple[Agreement, ...]
    out: Path | None

    def __str__(self) -> str:
        """Returns the table that the command prints."""
        titles = f"{'positives':>9} {'measured':>9} {'sensitivity':>11} {'specificity':>11} AUROC"
        head = f"{'label':6} {'criterion':28} {titles}"
        rows = [
            f"{a.criterion.label:6} {_name(a.criterion):28} {a.positives:9} {a.measured:9.1%} {a.sensitivity:11.3f} "
            f"{a.specificity:11.3f} {a.auroc:.3f}"
            for a in self.agreements
        ]
        rate = f"{self.records / self.seconds:.0f} records/s"
        end = [f"measurements: {self.out}"] if self.out else []
        return "\n".join([head, *rows, f"{self.split}: {self.records} records, {self.seconds:.0f} s, {rate}", *end])


def _name(criterion: Criterion) -> str:
    lead = f" {criterion.lead}" if criterion.lead else ""
    return f"{criterion.quantity}{lead} {'≥' if criterion.above else '≤'} {criterion.threshold:g}"


def measure_split(folder: Path, split: str, out: Path | None = None, workers: int = 1) -> Summary:
    """Measures all records of a split, and writes the measurements to `out` if it is given.

    Raises:
      EtpError: the split does not exist, or the file cannot be written.
    """
    started = time.perf_counter()
    if out:
        keep_other_kinds(out, "measurements", begins(b"record_id,"))
        out.parent.mkdir(parents=True, exist_ok=True)
    shards = Shards(folder)
    columns = shards.split(split).columns
    measured = list(_measure_all(folder, split, len(columns.record_id), workers))
    if out:
        with disk_errors(out):
            write_text(out, _table(columns.record_id, measured, shards.leads))
    labels = [set(codes) for codes in columns.labels]
    agreements = [_agreement(criterion, measured, labels, shards.leads) for criterion in CRITERIA]
    found = tuple(agreement for agreement in agreements if agreement.positives)
    return Summary(split, len(measured), time.perf_counter() - started, found, out)


def _measure_all(folder: Path, split: str, records: int, workers: int) -> Iterator[Measures]:
    parts = [range(start, min(start + CHUNK, records)) for start in range(0, records, CHUNK)]
    pool = ProcessPoolExecutor(max(1, workers), get_context("spawn"))
    with pool, Bar(total=records, unit="record") as progress:
        for part in pool.map(partial(_measure_some, folder, split), parts):
            progress.update(len(part))
            yield from part


def _measure_some(folder: Path, split: str, places: range) -> list[Measures]:
    shards = Shards(folder)
    records = shards.split(split)
    return [measure(records[place], shards.fs, shards.leads) for place in places]


def _table(record_ids: Sequence[str], measured: Sequence[Measures], leads: tuple[str, ...]) -> str:
    """Formats the measurements as CSV, one row per record; quantities of single leads have columns like `st_uv V1`."""
    columns = [
        (name, place, f"{name} {lead}" if lead else name)
        for name, quantity in QUANTITIES.items()
        for place, lead in enumerate(leads if quantity.per_lead else [""])
    ]
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(["record_id", *(title for *_, title in columns)])
    for record_id, measures in zip(record_ids, measured, strict=True):
        values = (
            float(np.atleast_1d(measures.get(name, math.nan))[place if name in measures else 0])
            for name, place, _ in columns
        )
        writer.writerow([record_id, *("" if math.isnan(value) else f"{value:.5g}" for value in values)])
    return table.getvalue()


def _agreement(
    criterion: Criterion, measured: Sequence[Measures], labels: Sequence[set[str]], leads: tuple[str, ...]
) -> Agreement:
    place = leads.index(criterion.lead) if criterion.lead in leads else 0
    values = np.array(
        [np.atleast_1d(m[criterion.quantity])[place] if criterion.quantity in m else np.nan for m in measured]
    )
    there = ~np.isnan(values)
    has = np.array([criterion.label in codes for codes in labels])[there]
    score = values[there] if criterion.above else -values[there]
    found = score >= (criterion.threshold if criterion.above else -criterion.threshold)
    return Agreement(
        criterion,
        positives=int(has.sum()),
        measured=float(there.mean()) if len(there) else math.nan,
        sensitivity=float(found[has].mean()) if has.any() else math.nan,
        specificity=float((~found[~has]).mean()) if (~has).any() else math.nan,
        auroc=_auroc(has, score),
    )


def _auroc(has: NDArray[np.bool_], score: NDArray[np.float64]) -> float:
    """Computes AUROC: the share of positive-negative pairs that the score ranks correctly (Mann-Whitney)."""
    positives, negatives = int(has.sum()), int((~has).sum())
    if not positives or not negatives:
        return math.nan
    return float((rankdata(score)[has].sum() - positives * (positives + 1) / 2) / (positives * negatives))
