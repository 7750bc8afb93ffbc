"""`etp restore`: shards → shards whose reports also say the waveform features that are confirmed for each record.

A proposed feature is kept if the signal shows it, and dropped if the signal contradicts it. What cannot be measured, or
lies within the error of the measurement, is left to the encoder: kept if it sees the feature in this ECG. The work goes
on where it was stopped and ends with the same bytes, as `etp prep`'s does.
"""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from etp_jax.errors import EtpError
from etp_jax.files import disk_errors, sha256
from etp_jax.progress import Bar
from etp_jax.shards.folder import REJECTS, BuildSummary, claim, finish, finished, is_noted, read_note, write_note
from etp_jax.shards.pool import run_all
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record
from etp_jax.shards.writer import write_shard
from etp_jax.waveform.features import QUANTITIES, Feature, Proposals, Similarities, load_proposals, load_similarities
from etp_jax.waveform.judge import judge
from etp_jax.waveform.measure import measure

VERSION = 2
"""Version of what is done to a record; raised with every change that changes bytes."""
Filter = Literal["both", "model", "measurement", "none"]
COUNTS = ("proposed", "confirmed by measurement", "confirmed by model", "rejected", "contradicted")


@dataclass(frozen=True)
class Verdict:
    """What became of one proposed feature of one record."""

    feature: Feature
    outcome: str
    """One of `COUNTS`; `proposed`: kept without being asked."""
    evidence: str


class Restorer:
    """Decides which features a record has."""

    def __init__(self, proposals: Path, similarities: Path | None, which: Filter, fs: int, leads: tuple[str, ...]):
        """Reads the files; raises EtpError if one is damaged or they do not fit together."""
        self.proposals: Proposals = load_proposals(proposals)
        self.which, self.fs, self.leads = which, fs, leads
        self.similarities: Similarities | None = None
        if which in ("both", "model"):
            if similarities is None:
                raise EtpError(f"--filter {which} needs --similarities, which `etp similarities` writes")
            self.similarities = load_similarities(similarities)
            unknown = set(self.proposals.sentences) - set(self._sentences)
            if unknown:
                raise EtpError(
                    f"{similarities}: has no {min(unknown)!r} of {proposals}; run `etp similarities` with it"
                )

    @cached_property
    def _sentences(self) -> dict[str, int]:
        assert self.similarities is not None
        return {sentence: place for place, sentence in enumerate(self.similarities.sentences)}

    @cached_property
    def _rows(self) -> dict[str, int]:
        assert self.similarities is not None
        return {record_id: row for row, record_id in enumerate(self.similarities.record_ids)}

    def verdicts(self, record: Record) -> list[Verdict]:
        """What becomes of each feature that the record's statements make likely.

        Raises:
          EtpError: the similarities do not know the record.
        """
        features = [self.proposals.features[place] for place in self.proposals.of(record.statements)]
        if self.which == "none":
            return [Verdict(feature, "proposed", "proposed") for feature in features]
        by_signal = self.which != "model" and any(feature.check for feature in features)
        measures = measure(record, self.fs, self.leads) if by_signal else {}
        return [self._verdict(record, feature, measures) for feature in features]

    def _verdict(self, record: Record, feature: Feature, measures: Any) -> Verdict:
        found = judge(feature.check, measures, self.leads)
        if found.verdict == "agrees":
            return Verdict(feature, "confirmed by measurement", f"measured {found.evidence}")
        if found.verdict == "contradicts":
            return Verdict(feature, "contradicted", f"measured {found.evidence}")
        if self.similarities is None:
            return Verdict(feature, "rejected", "not measured")
        cosine, threshold = self._cosine(record, feature)
        outcome = "confirmed by model" if cosine >= threshold else "rejected"
        return Verdict(feature, outcome, f"model {cosine:.3f}, from {threshold:.3f} on")

    def _cosine(self, record: Record, feature: Feature) -> tuple[float, float]:
        assert self.similarities is not None
        row, place = self._rows.get(record.record_id), self._sentences[feature.sentence]
        if row is None:
            raise EtpError(f"record {record.record_id}: has no similarities; run `etp similarities` with these shards")
        return float(self.similarities.ecg[row] @ self.similarities.text[place]), float(
            self.similarities.thresholds[place]
        )


class Summary(BuildSummary):
    """What `etp restore` made."""

    def __str__(self) -> str:
        """The summary that the command prints."""
        counts = self.build["verdicts"]
        proposed = max(counts.get("features proposed", 0), 1)
        records = sum(split["records"] for split in self.build["splits"].values())
        lines = [f"features proposed: {counts.get('features proposed', 0)}"]
        lines += [
            f"  {name}: {n} ({n / proposed:.1%})" for name in COUNTS[1:] if (n := counts.get(f"features {name}", 0))
        ]
        lines.append(f"records with restored features: {counts.get('records with features', 0)} of {records}")
        return "\n".join([*lines, *self.ending()])


@dataclass(frozen=True)
class _Job:
    """What every worker needs to know."""

    source: Path
    out: Path
    proposals: Path
    similarities: Path | None
    which: Filter


@dataclass(frozen=True)
class _Task:
    """One shard: the records `start` to `stop` of a split."""

    file: str
    split: str
    start: int
    stop: int


def restore(
    source: Path, proposals: Path, out: Path, similarities: Path | None = None, which: Filter = "both", workers: int = 1
) -> Summary:
    """Writes the shard folder with the enriched reports; all splits, shard by shard as in `source`.

    `report` is the statements, then the sentences of the confirmed features; `statements` stay as they are; `features`
    are the confirmed sentences and `feature_evidence`, parallel, what confirmed each.

    Args:
      source: finished shards.
      proposals: file that `etp propose` wrote.
      out: shard folder to make; a finished one is left as it is, an unfinished one is completed.
      similarities: file that `etp similarities` wrote; needed by the filters `both` and `model`.
      which: what has to confirm a feature; `none` keeps all that is proposed.
      workers: processes.

    Raises:
      EtpError: a file is missing, damaged or of other shards; `out` holds something else or cannot be written.
    """
    started = time.perf_counter()
    shards = Shards(source)
    restorer = Restorer(proposals, similarities, which, shards.fs, shards.leads)
    _check_fit(shards, restorer, proposals)
    recipe = _recipe(shards, proposals, similarities if restorer.similarities else None, which)
    tasks = list(_plan(shards))
    with disk_errors(out):
        if finished(out, recipe):
            return Summary(out, Shards(out).build)
        claim(out, recipe, "1/1")
        todo = [task for task in tasks if not is_noted(out, task.file)]
        total, left = (sum(task.stop - task.start for task in some) for some in (tasks, todo))
        job = _Job(source, out, proposals, similarities, which)
        with Bar(total=total, initial=total - left, unit="record", desc=f"restore {shards.name}") as progress:
            for task in run_all(partial(_write, job), todo, workers, out):
                progress.update(task.stop - task.start)
        head = {**shards.build, "preparation": recipe, "rejects": _rejects(source)}
        content = finish(out, head, [read_note(out, task.file) for task in tasks])
    return Summary(out, content, left, time.perf_counter() - started)


def _check_fit(shards: Shards, restorer: Restorer, proposals: Path) -> None:
    """Raises EtpError where features or similarities are of other shards, before an hour is spent."""
    said = {text for name in shards.splits for some in shards.split(name).columns.statements for text in some}
    if said.isdisjoint(restorer.proposals.statements):
        raise EtpError(f"{proposals}: knows no statement of {shards.folder}; run `etp propose` with these shards")
    if restorer.similarities:
        if restorer.similarities.origin.get("shards") != shards.fingerprint:
            raise EtpError(f"{shards.folder}: the similarities are of other shards; run `etp similarities` with these")
        known = set(restorer.similarities.record_ids)
        for name in shards.splits:
            if missing := next((r for r in shards.split(name).columns.record_id if r not in known), None):
                raise EtpError(f"record {missing}: has no similarities; run `etp similarities` with these shards")


def _recipe(shards: Shards, proposals: Path, similarities: Path | None, which: Filter) -> dict[str, Any]:
    """All that decides the bytes of the shards."""
    return {
        **shards.build["preparation"],
        "restored": {
            "version": VERSION,
            "shards": shards.fingerprint,
            "features": sha256(proposals),
            "similarities": sha256(similarities) if similarities else None,
            "filter": which,
            "margins": {name: quantity.margin for name, quantity in QUANTITIES.items()},
        },
    }


def _plan(shards: Shards) -> Iterator[_Task]:
    for split in shards.splits:
        start = 0
        for shard in shards.shard_files(split):
            yield _Task(shard["file"], split, start, start + shard["records"])
            start += shard["records"]


def _rejects(source: Path) -> list[dict[str, str]]:
    """The records that `source` left out."""
    path = source / REJECTS
    if not path.exists():
        return []
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@lru_cache(maxsize=1)
def _open(job: _Job) -> tuple[Shards, Restorer]:
    """Once a process."""
    shards = Shards(job.source)
    return shards, Restorer(job.proposals, job.similarities, job.which, shards.fs, shards.leads)


def _write(job: _Job, task: _Task) -> None:
    """Writes one shard and the note on it."""
    shards, restorer = _open(job)
    split = shards.split(task.split)
    counts: Counter[str] = Counter()

    def records() -> Iterator[Record]:
        for place in range(task.start, task.stop):
            record = split[place]
            verdicts = restorer.verdicts(record)
            kept = [verdict for verdict in verdicts if verdict.outcome not in ("rejected", "contradicted")]
            counts["features proposed"] += len(verdicts)
            counts.update(f"features {v.outcome}" for v in verdicts if v.outcome != "proposed")
            counts["records with features"] += bool(kept)
            sentences = tuple(verdict.feature.sentence for verdict in kept)
            yield replace(
                record,
                report=". ".join((*record.statements, *sentences)),
                features=sentences,
                feature_evidence=tuple(verdict.evidence for verdict in kept),
            )

    shard = write_shard(job.out / task.file, records())
    write_note(job.out, task.file, {"split": task.split, "shard": shard, "rejects": [], "verdicts": counts})
