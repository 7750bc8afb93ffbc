"""Conversion of an archive to a shard folder: parallel, idempotent and resumable.

Every shard is one task, and the archive alone determines its records. A shard is written atomically under its final
name, with a note on its contents in `.parts/`. So a build that was killed at any moment continues where it stopped, and
ends with the same bytes. Several machines can each write a part (`parts.py`).
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import lru_cache, partial
from importlib import resources
from pathlib import Path
from typing import Any

from etp_jax.data_prep.archives.archive import Archive, ArchiveRecord, Reject, check_patients, kind_of, reason_of
from etp_jax.data_prep.parts import WHOLE, Part, PartSummary, finish_part, finished_part
from etp_jax.data_prep.reports import clean_report, coverage, split_english
from etp_jax.ecg import prepare
from etp_jax.errors import EtpError
from etp_jax.files import disk_errors
from etp_jax.progress import Bar
from etp_jax.shards.folder import BuildSummary, claim, finish, finished, is_noted, read_note, write_note
from etp_jax.shards.killed import REASON, killed_records, marking
from etp_jax.shards.pool import ONE_PROCESS, Engine
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_shard

PREPARATION = 2
"""Version of the preparation of a record; increase it with every change that changes the written bytes."""
TRANSLATION = 1
"""Version of the cleaning and translation of reports; increase it with every change of the rules that changes a report.
The phrases themselves are identified by the hash of `glossary.tsv`."""
SHARD_BYTES = 32 * 2**20
"""Approximate size of a shard: small enough for parallel work, large enough that all shards can be kept open."""
MAX_SHARDS = 256
"""Maximum number of shards per split; larger splits get larger shards."""
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class _Task:
    """One shard to write."""

    file: str
    split: str
    studies: tuple[ArchiveRecord, ...]


@dataclass
class _Seen:
    """What is counted while the records of a shard are prepared."""

    verdicts: Counter[str] = field(default_factory=Counter)
    """Number of records by quality verdict."""
    leads: Counter[str] = field(default_factory=Counter)
    """Number of records by verdict on one lead, such as `flat lead V5`."""
    notes: Counter[str] = field(default_factory=Counter)
    """Number of records by what was assumed or left out."""


def build(archive: Archive, out: Path, engine: Engine = ONE_PROCESS) -> BuildSummary:
    """Writes the shard folder of an archive.

    Raises:
      EtpError: `out` holds other files or cannot be written, a patient is in two splits, or no record is usable.
    """
    started = time.perf_counter()
    archive, recipe = without_repeats(archive), _recipe(archive)
    with disk_errors(out):
        if finished(out, recipe):
            return BuildSummary(out, Shards(out).build)
        tasks = _plan(archive)
        claim(out, recipe, str(WHOLE))
        notes, written = _run(archive, out, tasks, engine)
        content = finish(out, _head(archive, recipe), notes)
    return BuildSummary(out, content, written, time.perf_counter() - started)


def build_part(archive: Archive, out: Path, part: Part, engine: Engine = ONE_PROCESS) -> PartSummary:
    """Writes one of several parts of a shard folder; `parts.merge` joins them to the result of `build`.

    Raises:
      EtpError: for the same reasons as `build`, except that a part without usable records is accepted.
    """
    started = time.perf_counter()
    archive, recipe = without_repeats(archive), _recipe(archive)
    with disk_errors(out):
        if content := finished_part(out, recipe, part):
            return PartSummary(out, content)
        plan = _plan(archive)
        tasks = plan[part.number - 1 :: part.of]
        claim(out, recipe, str(part))
        notes, _ = _run(archive, out, tasks, engine)
        content = finish_part(out, _head(archive, recipe), [task.file for task in plan], part, notes)
    return PartSummary(out, content, time.perf_counter() - started)


def _recipe(archive: Archive) -> dict[str, Any]:
    """Everything that determines the bytes of the shards."""
    glossary = resources.files("etp_jax.data_prep").joinpath("glossary.tsv").read_bytes()
    return {
        "version": PREPARATION,
        "archive": archive.name,
        "splits": archive.recipe,
        "leads": list(archive.leads),
        "fs": archive.fs,
        "samples": archive.samples,
        "filters": asdict(archive.filters),
        "length": prepare.LENGTH_POLICY,
        "thresholds": prepare.THRESHOLDS,
        "translation": {"version": TRANSLATION, "glossary_sha256": hashlib.sha256(glossary).hexdigest()},
        "source": archive.source,
        **({"pseudonyms": dict(archive.pseudonyms)} if archive.pseudonyms else {}),
    }


def without_repeats(archive: Archive) -> Archive:
    """Rejects all studies that share a record id, or a signal with another patient: which is meant is unknown."""
    counts = Counter(study.record_id for study in archive.studies)
    patients: dict[str, str | None] = {}
    for study in archive.studies:
        file = _file(study.signal)
        if counts[study.record_id] == 1 and patients.setdefault(file, study.patient_id) != study.patient_id:
            patients[file] = None

    def fault(study: ArchiveRecord) -> str:
        if counts[study.record_id] > 1:
            return f"repeated record id: {counts[study.record_id]} records have it"
        if study.signal and patients[_file(study.signal)] is None:
            return f"repeated signal: {study.signal} is that of several patients; give each ECG one row or one patient"
        return ""

    faults = [(study, fault(study)) for study in archive.studies]
    repeats = tuple(Reject(study.record_id, study.split, reason) for study, reason in faults if reason)
    kept = tuple(study for study, reason in faults if not reason)
    return replace(archive, studies=kept, rejects=archive.rejects + repeats)


def _file(signal: str) -> str:
    """Returns one spelling of a path, without the suffixes of a WFDB record."""
    return re.sub(r"\.(?:hea|dat)$", "", os.path.normpath(signal), flags=re.IGNORECASE)


def _plan(archive: Archive) -> list[_Task]:
    """Divides every split into shards of about equal size."""
    check_patients(archive)
    tasks = []
    for split in SPLITS:
        studies = [study for study in archive.studies if study.split == split]
        size = len(studies) * archive.samples * len(archive.leads) * 2
        count = min(MAX_SHARDS, math.ceil(size / SHARD_BYTES))
        for number in range(count):
            chosen = studies[number * len(studies) // count : (number + 1) * len(studies) // count]
            tasks.append(_Task(shard_name(archive.name, split, number, count), split, tuple(chosen)))
    return tasks


def _run(archive: Archive, out: Path, tasks: Sequence[_Task], engine: Engine) -> tuple[list[dict[str, Any]], int]:
    """Writes the shards that are still missing; returns the note on each shard, and the number of records processed."""
    notes = {task.file: read_note(out, task.file) for task in tasks if is_noted(out, task.file)}
    todo = [task for task in tasks if task.file not in notes]
    total, left = (sum(len(task.studies) for task in chosen) for chosen in (tasks, todo))
    bare = replace(archive, studies=(), rejects=())  # each task carries its own studies
    with Bar(total=total, initial=total - left, unit="record", desc=f"prep {archive.name}") as progress:
        for task, note in engine(partial(_write, bare, out), todo, out):
            notes[task.file] = note  # not read back: a network file system may show a file of another machine later
            progress.update(len(task.studies))
    return [notes[task.file] for task in tasks], left


def _write(archive: Archive, out: Path, task: _Task) -> dict[str, Any]:
    """Writes one shard, then the note that marks it as written; returns the note."""
    rejects: list[Reject] = []
    seen = _Seen()

    def records() -> Iterator[Record]:
        for study in task.studies:
            mark(study.record_id)
            try:
                if study.record_id in killed:
                    raise EtpError(REASON)
                yield _record(archive, study, seen)
            # Too little memory for one signal is a fault of its file, unlike that for a row of a table.
            except Exception as error:  # noqa: BLE001 - one bad record never ends a build
                reason = reason_of(error)
                # Details may name a file or quote a cell, and with them the id that the pseudonym replaces.
                rejects.append(Reject(study.record_id, study.split, kind_of(reason) if archive.pseudonyms else reason))

    killed = killed_records(out)
    with marking(out, task.file) as mark:
        shard = write_shard(out / task.file, records())
    note = {"split": task.split, "shard": shard, "rejects": [asdict(reject) for reject in rejects], **vars(seen)}
    write_note(out, task.file, note)
    return note


def _record(archive: Archive, study: ArchiveRecord, seen: _Seen) -> Record:
    """Prepares a study as a record; raises EtpError if its signal cannot be used."""
    recording = study.read()
    prepared = prepare.prepare(recording, archive.fs, archive.samples, archive.leads, archive.filters)
    report, statements = study.report, study.statements
    if not report and recording.report:
        report, statements = recording.report, None if statements is None else split_english(recording.report)
        seen.notes["report of the signal file"] += 1
    statements = _clean(report).statements if statements is None else statements
    seen.verdicts.update(prepared.kinds)
    seen.verdicts["empty report"] += not statements
    seen.leads.update(verdict for verdict in prepared.verdicts if " lead " in verdict)
    seen.notes.update(prepared.notes)
    return Record(
        ecg=prepared.ecg,
        lead_mask=prepared.lead_mask,
        record_id=study.record_id,
        patient_id=study.patient_id,
        report=". ".join(statements),
        report_original=report,
        statements=statements,
        labels=study.labels,
        likelihoods=study.likelihoods,
        age=recording.age if math.isnan(study.age) else study.age,
        sex=study.sex or recording.sex,
        dataset=study.dataset or archive.name,
    )


_clean = lru_cache(maxsize=None)(clean_report)


def _head(archive: Archive, recipe: dict[str, Any]) -> dict[str, Any]:
    """Returns the first fields of `build.json`; rejects, notes and marks are those of the archive's tables."""
    return {
        "format": FORMAT,
        "name": archive.name,
        "fs": archive.fs,
        "leads": list(archive.leads),
        "samples": archive.samples,
        "label_vocabulary": list(archive.label_vocabulary),
        "preparation": recipe,
        "translation": _translation(archive),
        "rejects": [asdict(reject) for reject in archive.rejects],
        "notes": dict(archive.notes),
        "marks": {name: list(record_ids) for name, record_ids in archive.marks.items()},
    }


def _translation(archive: Archive) -> dict[str, Any]:
    """Measures the glossary's coverage of the reports that need translation."""
    studies = [study for study in archive.studies if study.statements is None]
    chosen = {"all splits": studies, "test": [study for study in studies if study.split == "test"]}
    return {where: asdict(coverage([study.report for study in some])) for where, some in chosen.items() if studies}
