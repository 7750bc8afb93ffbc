"""Archive → shard folder: parallel, idempotent, resumable.

Every shard is one task whose records are fixed by the archive alone, and appears whole, under its final name, with a
note of what it holds in `.parts/`. So a build that was killed at any moment goes on where it stopped, and ends with
the same bytes. `build.json` comes last.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import multiprocessing
import os
import shutil
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from importlib import resources
from io import StringIO
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tqdm import tqdm

from data_prep.archives.study import Archive, Reject, Study
from data_prep.report import clean_report, coverage
from etp_jax import signal
from etp_jax.errors import EtpError
from etp_jax.files import write_text
from etp_jax.records import BUILD_FILE, FORMAT, Record, Shards
from etp_jax.shard_writer import shard_name, write_metadata, write_shard

PREPARATION = 1
"""Version of what is done to a record; raised with every change that changes bytes."""
SHARD_BYTES = 32 * 2**20
"""Size of a shard, roughly: many for parallel work, few enough to hold them all open."""
MAX_SHARDS = 256
"""Shards of a split; beyond it they grow."""
PARTS = ".parts"
REJECTS = "rejects.csv"
SPLITS = ("train", "validation", "test")


@dataclass(frozen=True)
class BuildSummary:
    """What a build made."""

    folder: Path
    build: dict[str, Any]
    """Content of `build.json`."""
    written: int = 0
    """Records looked at this time."""
    seconds: float = 0.0
    """0 if the folder was finished already."""

    def __str__(self) -> str:
        """The summary that `etp prep` prints."""
        splits = {name: split["records"] for name, split in self.build["splits"].items()}
        rejects = self.build["rejects"]
        lines = [f"records: {sum(splits.values())} ({', '.join(f'{name} {count}' for name, count in splits.items())})"]
        lines += [f"rejected: {sum(rejects.values())}" + (f" (listed in {self.folder / REJECTS})" if rejects else "")]
        lines += [f"  {reason}: {count}" for reason, count in rejects.items()]
        lines += [f"noticed, {verdict}: {count}" for verdict, count in self.build["verdicts"].items()]
        lines += [
            f"translated, {where}: {share['token_share']:.2%} of {share['tokens']} words, "
            f"{share['report_share']:.2%} of {share['reports']} distinct reports"
            for where, share in self.build["translation"].items()
        ]
        if self.seconds:
            lines.append(f"time: {self.seconds:.1f} s, {self.written / self.seconds:.0f} records/s")
        else:
            lines.append("time: none, the folder was finished already")
        return "\n".join([*lines, f"shards: {self.folder}"])


@dataclass(frozen=True)
class _Task:
    """One shard to write."""

    file: str
    split: str
    studies: tuple[Study, ...]


def build(archive: Archive, out: Path, workers: int = 1) -> BuildSummary:
    """Writes the shard folder of an archive.

    Raises:
      EtpError: `out` holds something else or cannot be written; a patient is in two splits; no record is usable.
    """
    started = time.perf_counter()
    recipe = _recipe(archive)
    try:
        if _finished(out, recipe):
            return BuildSummary(out, Shards(out).build)
        tasks = _plan(archive)
        _claim(out, recipe)
        todo = [task for task in tasks if not _is_written(out, task)]
        _run(archive, out, tasks, todo, workers)
        content = _finish(archive, out, recipe, [_note(out, task) for task in tasks])
    except OSError as error:
        where = error.filename or out
        raise EtpError(f"{where}: {error.strerror}; put it right and run the same command again to go on") from None
    return BuildSummary(out, content, sum(len(task.studies) for task in todo), time.perf_counter() - started)


def _recipe(archive: Archive) -> dict[str, Any]:
    """All that decides the bytes of the shards."""
    package = resources.files("data_prep")
    translation = b"".join((package / name).read_bytes() for name in ("report.py", "glossary.tsv"))
    return {
        "version": PREPARATION,
        "archive": archive.name,
        "splits": archive.recipe,
        "leads": list(archive.leads),
        "fs": archive.fs,
        "samples": archive.samples,
        "filters": asdict(archive.filters),
        "thresholds": {"flat_uv": signal.FLAT_UV, "max_missing": signal.MAX_MISSING},
        "translation_sha256": hashlib.sha256(translation).hexdigest(),
        "source": archive.source,
    }


def _finished(out: Path, recipe: dict[str, Any]) -> bool:
    """Whether `out` is the finished result of this very build; EtpError if of another one."""
    if not (out / BUILD_FILE).exists():
        return False
    if Shards(out).build["preparation"] != recipe:
        raise EtpError(f"{out}: holds shards of another source or preparation; choose another folder or delete it")
    shutil.rmtree(out / PARTS, ignore_errors=True)  # left there if the build was killed at its very end
    return True


def _claim(out: Path, recipe: dict[str, Any]) -> None:
    """Makes `out` ours: new, empty, or begun by the same build."""
    parts, content = out / PARTS, json.dumps(recipe, indent=1)
    claim = parts / "recipe.json"
    if claim.exists():
        if claim.read_text(encoding="utf-8") != content:
            raise EtpError(f"{out}: holds an unfinished build of another source or preparation; delete it")
        return
    if out.exists() and any(path.name != PARTS for path in out.iterdir()):
        raise EtpError(f"{out}: is not empty and was not begun by `etp prep`; choose another folder")
    parts.mkdir(parents=True, exist_ok=True)
    write_text(claim, content)


def _plan(archive: Archive) -> list[_Task]:
    """Cuts every split into shards of about equal size."""
    home: dict[str, str] = {}
    counts = Counter(study.record_id for study in archive.studies)
    for study in archive.studies:
        if counts[study.record_id] > 1:
            raise EtpError(f"{archive.name}: record {study.record_id} appears twice; fix the source's table")
        if home.setdefault(study.patient_id, study.split) != study.split:
            raise EtpError(f"{archive.name}: patient {study.patient_id} is in two splits; fix the source's table")
    tasks = []
    for split in SPLITS:
        studies = [study for study in archive.studies if study.split == split]
        size = len(studies) * archive.samples * len(archive.leads) * 2
        count = min(MAX_SHARDS, math.ceil(size / SHARD_BYTES))
        for number in range(count):
            chosen = studies[number * len(studies) // count : (number + 1) * len(studies) // count]
            tasks.append(_Task(shard_name(archive.name, split, number, count), split, tuple(chosen)))
    return tasks


def _run(archive: Archive, out: Path, tasks: Sequence[_Task], todo: Sequence[_Task], workers: int) -> None:
    """Writes the shards that are still to do, of all there are."""
    total, left = (sum(len(task.studies) for task in chosen) for chosen in (tasks, todo))
    with tqdm(total=total, initial=total - left, unit="record", desc=f"prep {archive.name}") as progress:
        for task in _in_processes(archive, out, todo, workers) if workers > 1 else _here(archive, out, todo):
            progress.update(len(task.studies))


def _is_written(out: Path, task: _Task) -> bool:
    """Whether the shard lies there whole, with the note on it."""
    shard = out / task.file
    there = _note_path(out, task).exists() and shard.exists()
    return there and shard.stat().st_size == _note(out, task)["shard"]["bytes"]


def _note(out: Path, task: _Task) -> dict[str, Any]:
    """What a shard holds, as `_write` noted it."""
    return json.loads(_note_path(out, task).read_text(encoding="utf-8"))


def _note_path(out: Path, task: _Task) -> Path:
    return out / PARTS / f"{task.file}.json"


def _here(archive: Archive, out: Path, todo: Sequence[_Task]) -> Iterator[_Task]:
    for task in todo:
        _write(archive, out, task)
        yield task


def _in_processes(archive: Archive, out: Path, todo: Sequence[_Task], workers: int) -> Iterator[_Task]:
    bare = replace(archive, studies=(), rejects=())  # a task brings its own studies
    # Fresh processes rather than forks: progress bars and numerical libraries hold threads that do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(workers, context, initializer=_die_with_parent) as pool:
        tasks = {pool.submit(_write, bare, out, task): task for task in todo}
        try:
            for future in as_completed(tasks):
                future.result()
                yield tasks[future]
        except BrokenProcessPool:
            raise EtpError(f"{out}: a worker process was killed (out of memory?); run it again to go on") from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _die_with_parent() -> None:
    """Lets a worker end when the main process is killed, instead of waiting for work for ever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        connection.wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _write(archive: Archive, out: Path, task: _Task) -> None:
    """Writes one shard and the note on it."""
    rejects: list[Reject] = []
    verdicts: Counter[str] = Counter()

    def records() -> Iterator[Record]:
        for study in task.studies:
            try:
                yield _record(archive, study, verdicts)
            except EtpError as error:
                rejects.append(Reject(study.record_id, study.split, str(error)))

    shard = write_shard(out / task.file, records())
    note = {"split": task.split, "shard": shard, "rejects": [asdict(r) for r in rejects], "verdicts": verdicts}
    write_text(_note_path(out, task), json.dumps(note))


def _record(archive: Archive, study: Study, verdicts: Counter[str]) -> Record:
    """A study as a record; raises EtpError if its signal cannot be used."""
    prepared = signal.prepare(study.read(), archive.fs, archive.samples, archive.leads, archive.filters)
    statements = _clean(study.report).statements if study.statements is None else study.statements
    verdicts.update(verdict.rsplit(" ", 1)[0] for verdict in prepared.verdicts)
    verdicts["empty report"] += not statements
    return Record(
        ecg=prepared.ecg,
        lead_mask=prepared.lead_mask,
        record_id=study.record_id,
        patient_id=study.patient_id,
        report=". ".join(statements),
        report_original=study.report,
        statements=statements,
        labels=study.labels,
        likelihoods=study.likelihoods,
        age=study.age,
        sex=study.sex,
        dataset=archive.name,
    )


_clean = lru_cache(maxsize=None)(clean_report)


def _finish(archive: Archive, out: Path, recipe: dict[str, Any], parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Writes rejects and metadata and removes what the build needed for itself."""
    rejects = [asdict(reject) for reject in archive.rejects]
    rejects += [reject for part in parts for reject in part["rejects"]]
    verdicts: Counter[str] = Counter()
    splits: dict[str, Any] = {}
    for part in parts:
        verdicts.update(part["verdicts"])
        split = splits.setdefault(part["split"], {"records": 0, "shards": []})
        split["records"] += part["shard"]["records"]
        split["shards"].append(part["shard"])
    for name in [name for name, split in splits.items() if split["records"] == 0]:
        for shard in splits.pop(name)["shards"]:
            (out / shard["file"]).unlink()
    if not splits:
        raise EtpError(f"{archive.name}: no usable record; {rejects[0]['reason'] if rejects else 'the table is empty'}")
    table = StringIO()
    writer = csv.writer(table, lineterminator="\n")
    writer.writerow(("record_id", "split", "reason"))
    writer.writerows((reject["record_id"], reject["split"], reject["reason"]) for reject in rejects)
    write_text(out / REJECTS, table.getvalue())
    for leftover in out.glob(".*.tmp"):
        leftover.unlink()
    content = {
        "format": FORMAT,
        "name": archive.name,
        "fs": archive.fs,
        "leads": list(archive.leads),
        "samples": archive.samples,
        "label_vocabulary": list(archive.label_vocabulary),
        "splits": splits,
        "preparation": recipe,
        "rejects": dict(sorted(Counter(reject["reason"].split(":")[0] for reject in rejects).items())),
        "verdicts": dict(sorted((+verdicts).items())),
        "translation": _translation(archive),
    }
    write_metadata(out, content)
    shutil.rmtree(out / PARTS)
    return content


def _translation(archive: Archive) -> dict[str, Any]:
    """How much of the reports the glossary knows, where they had to be translated."""
    studies = [study for study in archive.studies if study.statements is None]
    chosen = {"all splits": studies, "test": [study for study in studies if study.split == "test"]}
    return {where: asdict(coverage([study.report for study in some])) for where, some in chosen.items() if studies}
