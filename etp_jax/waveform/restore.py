"""`etp waveform restore`: writes shards that also hold each report with the confirmed waveform features.

A proposed feature is kept if the measurements agree with it, and dropped if they contradict it. The encoder decides if
the feature cannot be measured, or if the value is within the measurement error. It keeps the feature if the cosine with
the ECG reaches the threshold. As with `etp prep`, an interrupted run continues where it stopped and ends with the same
bytes.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property, lru_cache, partial
from pathlib import Path
from typing import Any, Literal

from etp_jax.errors import EtpError
from etp_jax.files import disk_errors, read_csv, sha256
from etp_jax.progress import Bar
from etp_jax.shards.folder import REJECTS, BuildSummary, claim, finish, finished, is_noted, read_note, write_note
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import BUILD_FILE, RESTORED_FORMAT, Record
from etp_jax.shards.writer import check_digest, write_shard
from etp_jax.waveform.features import QUANTITIES, Feature, Proposals, Similarities, load_proposals, load_similarities
from etp_jax.waveform.hold_out import NO_HOLD_OUT, HoldOut, draw
from etp_jax.waveform.judge import judge
from etp_jax.waveform.measure import measure

VERSION = 3
"""Version of the processing of a record; increase it with every change that changes the written bytes."""
Filter = Literal["both", "model", "measurement", "none"]
COUNTS = ("proposed", "confirmed by measurement", "confirmed by model", "rejected", "contradicted")


@dataclass(frozen=True)
class Verdict:
    """Decision on one proposed feature of one record."""

    feature: Feature
    outcome: str
    """One of `COUNTS`; `proposed` means kept without confirmation (--filter none)."""
    evidence: str


class Restorer:
    """Decides which of the proposed features each record has."""

    def __init__(
        self,
        proposals: Path,
        similarities: Path | None,
        which: Filter,
        fs: int,
        leads: tuple[str, ...],
        hold_out: HoldOut = NO_HOLD_OUT,
    ):
        """Reads the files; raises EtpError if one is damaged or they do not fit together."""
        self.proposals: Proposals = load_proposals(proposals)
        self.held_out = frozenset(draw(self.proposals.sentences, hold_out.share, hold_out.seed))
        self.which, self.fs, self.leads = which, fs, leads
        self.similarities: Similarities | None = None
        if which in ("both", "model"):
            if similarities is None:
                raise EtpError(f"--filter {which} needs --similarities, which `etp waveform score` writes")
            self.similarities = load_similarities(similarities)
            unknown = set(self.proposals.sentences) - set(self._sentences)
            if unknown:
                raise EtpError(
                    f"{similarities}: has no {min(unknown)!r} of {proposals}; run `etp waveform score` with it"
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
        """Decides on each feature that is proposed for the record's statements and not held out.

        Raises:
          EtpError: the similarities do not contain the record.
        """
        proposed = [self.proposals.features[place] for place in self.proposals.of(record.statements)]
        features = [feature for feature in proposed if feature.sentence not in self.held_out]
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
            raise EtpError(
                f"record {record.record_id}: has no similarities; run `etp waveform score` with these shards"
            )
        return float(self.similarities.ecg[row] @ self.similarities.text[place]), float(
            self.similarities.thresholds[place]
        )


class Summary(BuildSummary):
    """Result of `etp waveform restore`."""

    def __str__(self) -> str:
        """Returns the summary that the command prints."""
        counts = self.build.get("verdicts", {})
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
    """Arguments that all tasks of a worker process share."""

    source: Path
    out: Path
    proposals: Path
    similarities: Path | None
    which: Filter
    hold_out: HoldOut


@dataclass(frozen=True)
class _Task:
    """One shard to write, from the records `start` to `stop` (exclusive) of a split."""

    file: str
    split: str
    start: int
    stop: int


def restore(
    source: Path,
    proposals: Path,
    out: Path,
    similarities: Path | None = None,
    which: Filter = "both",
    workers: int = 1,
    hold_out: HoldOut = NO_HOLD_OUT,
) -> Summary:
    """Writes a shard folder with plain and enriched reports; it has the same splits and shards as `source`.

    `report_restored` is the statements followed by the sentences of the confirmed features. `report` and `statements`
    are unchanged, so one folder serves the coarse and the fine stage. `features` holds the confirmed sentences, and
    `feature_evidence` holds the evidence for each of them.

    Args:
      source: finished shard folder.
      proposals: file written by `etp waveform propose`.
      out: shard folder to write; a finished one is left unchanged, an unfinished one is completed.
      similarities: file written by `etp waveform score`; required by the filters `both` and `model`.
      which: what must confirm a feature; `none` keeps all proposed features.
      workers: number of worker processes.
      hold_out: share of the sentences that no report gets; `build.json` lists them.

    Raises:
      EtpError: a file is missing, damaged or belongs to other shards; or `out` holds something else or cannot be
        written.
    """
    started = time.perf_counter()
    shards = Shards(source)
    restorer = Restorer(proposals, similarities, which, shards.fs, shards.leads, hold_out)
    _check_fit(shards, restorer, proposals)
    recipe = _recipe(shards, proposals, similarities if restorer.similarities else None, which)
    if hold_out.share:
        recipe["restored"]["held_out"] = {**asdict(hold_out), "sentences": sorted(restorer.held_out)}
    tasks, rejects = list(_plan(shards)), _rejects(shards)
    with disk_errors(out):
        if finished(out, recipe):
            return Summary(out, Shards(out).build)
        claim(out, recipe, "1/1")
        todo = [task for task in tasks if not is_noted(out, task.file)]
        total, left = (sum(task.stop - task.start for task in some) for some in (tasks, todo))
        job = _Job(source, out, proposals, similarities, which, hold_out)
        with Bar(total=total, initial=total - left, unit="record", desc=f"restore {shards.name}") as progress:
            for task, _ in Processes(workers)(partial(_write, job), todo, out):
                progress.update(task.stop - task.start)
        head = {**shards.build, "format": RESTORED_FORMAT, "preparation": recipe, "rejects": rejects}
        content = finish(out, head, [read_note(out, task.file) for task in tasks])
    return Summary(out, content, left, time.perf_counter() - started)


def _check_fit(shards: Shards, restorer: Restorer, proposals: Path) -> None:
    """Raises EtpError if the files do not go together, before an hour of work is spent."""
    if "preparation" not in shards.build:
        raise EtpError(f"{shards.folder / BUILD_FILE}: lacks `preparation`; name the shards that `etp prep` wrote")
    if "restored" in shards.build["preparation"] and not shards.restored:
        raise EtpError(
            f"{shards.folder}: an earlier version restored these reports and kept no plain ones; name the shards that "
            "`etp prep` wrote"
        )
    present = {text for name in shards.splits for some in shards.split(name).columns.statements for text in some}
    if present.isdisjoint(restorer.proposals.statements):
        raise EtpError(
            f"{proposals}: contains no statement of {shards.folder}; run `etp waveform propose` with these shards"
        )
    if restorer.similarities:
        if restorer.similarities.origin.get("shards") != shards.fingerprint:
            raise EtpError(
                f"{shards.folder}: the similarities are of other shards; run `etp waveform score` with these shards"
            )
        known = set(restorer.similarities.record_ids)
        for name in shards.splits:
            if missing := next((r for r in shards.split(name).columns.record_id if r not in known), None):
                raise EtpError(f"record {missing}: has no similarities; run `etp waveform score` with these shards")


def _recipe(shards: Shards, proposals: Path, similarities: Path | None, which: Filter) -> dict[str, Any]:
    """Everything that determines the bytes of the shards."""
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


def _rejects(shards: Shards) -> list[dict[str, str]]:
    """Reads the records that a shard folder left out; raises EtpError if their list is damaged."""
    path = shards.folder / REJECTS
    check_digest(shards.folder, shards.build, REJECTS)
    if not path.exists():
        return []
    advice = "copy or prepare the shards again"
    columns, rows = read_csv(path, advice)
    if missing := {"record_id", "split", "reason"} - set(columns):
        raise EtpError(f"{path}: has no column {min(missing)}; {advice}")
    return rows


@lru_cache(maxsize=1)
def _open(job: _Job) -> tuple[Shards, Restorer]:
    """Opens the inputs of a job, once per worker process."""
    shards = Shards(job.source)
    return shards, Restorer(job.proposals, job.similarities, job.which, shards.fs, shards.leads, job.hold_out)


def _write(job: _Job, task: _Task) -> None:
    """Writes one shard, then the note that marks it as written."""
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
                report_restored=". ".join((*record.statements, *sentences)),
                features=sentences,
                feature_evidence=tuple(verdict.evidence for verdict in kept),
            )

    shard = write_shard(job.out / task.file, records())
    write_note(job.out, task.file, {"split": task.split, "shard": shard, "rejects": [], "verdicts": counts})
