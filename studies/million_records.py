"""Makes two parts of a shard folder of very many records with short signals, and measures what is done with them.

    python studies/million_records.py make FOLDER
    python studies/million_records.py measure FOLDER --csv results/million_records.csv

`make` writes FOLDER/part-1 and FOLDER/part-2. `measure` merges them to FOLDER/shards, then opens, checks and prepares a
run, each in a process of its own. Seconds are wall time; MiB are the private memory of the process (`smaps_rollup`).
"""

from __future__ import annotations

import argparse
import csv
import os
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.data_prep.parts import Part, finish_part
from etp_jax.data_prep.synthetic.scp import STATEMENTS
from etp_jax.ecg.leads import LEADS
from etp_jax.shards.folder import claim, read_note, write_note
from etp_jax.shards.pool import Processes
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_shard

RECORDS = 768_000
REPORTS = 700_000
"""Number of distinct reports of the training split; the other records repeat them."""
VALIDATION = 2_000
SHARDS = 256
SAMPLES = 16
RECIPE: dict[str, Any] = {"archive": "million", "version": 1}
HEAD = {"format": FORMAT, "name": "million", "fs": 100, "leads": list(LEADS), "samples": SAMPLES}
VOCABULARY = sorted(statement.code for statement in STATEMENTS)

STEPS = {
    "import": "import numpy, pyarrow.compute, tokenizers; from etp_jax.training.batches import Batches, epoch_order",
    "open": "from etp_jax.shards.reader import Shards; shards = Shards(folder); split = shards.split('train'); "
    "split.columns; table = shards.reports('train'); batches = Batches(split, table, 512, 0)",
    "first batch": "batches.at(0)",
    "order of an epoch": "epoch_order(len(split), 0, 1)",
}
TOKENS = {
    "import": STEPS["import"],
    "open": STEPS["open"],
    "prepare": "import json; from pathlib import Path; from etp_jax.config import TextTowerConfig; "
    "from etp_jax.models.text_tower import apply_template; from etp_jax.models.tokenizer import Tokenizer; "
    "from etp_jax.models.tokens import tokenize; tokenizer = Tokenizer.train_wordpiece(table.reports[:5000], 5000)",
    "token table": "tokenize(tokenizer, apply_template('{report}', table.reports), 64, Path(folder) / '.index')",
}
"""Code that is run, and what it is called; every dictionary is one process."""

PROBE = """
import sys, time
folder, steps = sys.argv[1], eval(sys.argv[2])
def memory():
    lines = dict(line.split(":") for line in open("/proc/self/smaps_rollup").read().splitlines()[1:])
    kib = {name: int(lines[name].split()[0]) for name in ("Private_Clean", "Private_Dirty", "Pss")}
    uss = kib["Private_Clean"] + kib["Private_Dirty"]
    return uss / 1024, kib["Private_Dirty"] / 1024, kib["Pss"] / 1024
for name, code in steps.items():
    before = memory()
    started, cpu = time.perf_counter(), time.process_time()
    exec(code)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    after = memory()
    peak = next(int(line.split()[1]) / 1024 for line in open("/proc/self/status") if line.startswith("VmHWM"))
    print(name, seconds, cpu, *(b - a for a, b in zip(before, after)), peak, sep="\t", flush=True)
"""
"""Prints every step's seconds, CPU seconds, rise of USS, dirty private pages and PSS in MiB, and peak of memory."""
FIGURES = ("seconds", "cpu_seconds", "uss_mib", "private_dirty_mib", "pss_mib", "peak_rss_mib")


@dataclass(frozen=True)
class Task:
    """One shard to write."""

    file: str
    split: str
    numbers: range


def record(number: int, split: str) -> Record:
    """A record whose report is one of `REPORTS` different ones."""
    report = number % REPORTS
    rng = np.random.default_rng(report)
    rate, axis, interval = 30 + report % 200, report // 200 % 361 - 180, 80 + report // (200 * 361)
    chosen = [STATEMENTS[place] for place in sorted(rng.choice(len(STATEMENTS), 3, replace=False))]
    statements = (
        *(statement.description.lower() for statement in chosen),
        f"heart rate {rate} bpm",
        f"qrs axis {axis} degrees",
        f"pr interval {interval} ms",
    )
    text = ". ".join(statements)
    labels = tuple(sorted(statement.code for statement in chosen))
    return Record(
        ecg=rng.integers(-2000, 2000, (SAMPLES, len(LEADS)), np.int16),
        lead_mask=np.ones(len(LEADS), bool),
        record_id=f"{split}-{number:07d}",
        patient_id=f"{split}-patient-{number // 5:06d}",
        report=text,
        report_original=text.upper(),
        statements=statements,
        labels=labels,
        likelihoods=(100.0,) * len(labels),
        age=float(18 + number % 70),
        sex=("male", "female")[number % 2],
        dataset="million",
    )


def make(folder: Path) -> None:
    """Writes both parts, with all cores."""
    counts = {"train": (RECORDS, SHARDS), "validation": (VALIDATION, 1)}
    plan = [
        Task(
            shard_name("million", split, number, shards),
            split,
            range(number * size // shards, (number + 1) * size // shards),
        )
        for split, (size, shards) in counts.items()
        for number in range(shards)
    ]
    for part in (Part(1, 2), Part(2, 2)):
        out = folder / f"part-{part.number}"
        tasks = plan[part.number - 1 :: part.of]
        claim(out, RECIPE, str(part))
        for done, _ in enumerate(Processes(os.cpu_count() or 1)(partial(_write, out), tasks, out), 1):
            print(f"\r{out}: {done} of {len(tasks)} shards", end="", flush=True)
        print()
        head = {**HEAD, "label_vocabulary": VOCABULARY, "preparation": RECIPE, "translation": {}, "rejects": []}
        finish_part(out, head, [task.file for task in plan], part, [read_note(out, task.file) for task in tasks])


def _write(out: Path, task: Task) -> None:
    shard = write_shard(out / task.file, (record(number, task.split) for number in task.numbers))
    empty = {"rejects": [], "verdicts": {}, "leads": {}, "notes": {}}
    write_note(out, task.file, {"split": task.split, "shard": shard, **empty})


def measure(folder: Path) -> list[dict[str, Any]]:
    """Measures every case in a process of its own; returns one line for each figure."""
    shards, rows = folder / "shards", []
    for run in ("first", "second"):
        if run == "first":
            shutil.rmtree(shards, ignore_errors=True)
            parts = [str(folder / f"part-{number}") for number in (1, 2)]
            rows += _command("etp shards merge", ["shards", "merge", "--parts", *parts, "--out", str(shards)])
        for steps in (STEPS, TOKENS):
            rows += _probe(run, shards, steps)
    return [*rows, *_command("etp shards check", ["shards", "check", str(shards)])]


def _probe(run: str, shards: Path, steps: dict[str, str]) -> list[dict[str, Any]]:
    """Runs steps in a new process."""
    command = [sys.executable, "-c", PROBE, str(shards), repr(steps)]
    lines = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
    cells = [line.split("\t") for line in lines]
    return [
        {"run": run, "what": what, "figure": figure, "value": round(float(value), 2)}
        for what, *values in cells
        for figure, value in zip(FIGURES, values, strict=True)
    ]


def _command(name: str, arguments: list[str]) -> list[dict[str, Any]]:
    """Runs `etp` in a new process: seconds, and the most memory that it had at once."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "etp_jax.cli.main", *arguments])
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{name} failed")
    seconds, peak = time.perf_counter() - started, usage.ru_maxrss / 1024
    figures = {"seconds": seconds, "cpu_seconds": usage.ru_utime + usage.ru_stime, "peak_rss_mib": peak}
    return [{"run": "", "what": name, "figure": figure, "value": round(value, 2)} for figure, value in figures.items()]


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser()
    parser.add_argument("command", choices=("make", "measure"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--csv", type=Path, help="file for the figures")
    args = parser.parse_args()
    if args.command == "make":
        make(args.folder)
        return
    rows = measure(args.folder)
    for row in rows:
        print(*row.values(), sep="\t")
    if args.csv:
        with args.csv.open("w", encoding="utf-8", newline="") as file:
            table = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            table.writeheader()
            table.writerows(rows)


if __name__ == "__main__":
    main()
