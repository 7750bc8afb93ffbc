"""Kills commands at random moments, runs them again, and compares the result with that of an undisturbed run.

    python studies/survival.py --command prep train --moments 20 --seed 0   # appends to results/survival.csv
    python studies/survival.py --moments 0                                  # only makes the table again

SIGKILL goes to all processes of a command (to one of them, if it is run by several); SIGTERM goes to the main process;
SIGSTOP stops them for ten seconds. The moments are uniform over the duration of the undisturbed run. A trial disturbs
the command up to four times in a row, and then lets it end.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import random
import shutil
import signal
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from faults import CASES, ROOT, Case, wait

SIGNALS = ("SIGKILL", "SIGTERM", "SIGSTOP")
STOPPED_S = 10
"""Duration of a stop by SIGSTOP."""
IN_A_ROW = 4
"""Number of times that the signal is sent in one trial, each time to the restarted command."""
RESTARTS = 3
"""Number of undisturbed restarts after which a command counts as failed."""
COUNTS = ("moments", "restarts", "lost", "tracebacks", "leftovers")
COLUMNS = ("command", "signal", "seed", "undisturbed_s", *COUNTS, "moments_s")
RESULTS = ROOT / "results"
START, END = "<!-- table -->", "<!-- end of the table -->"
Row = dict[str, Any]


class Trials:
    """The trials of one command, each in a copy of the same inputs, under the same path."""

    def __init__(self, case: Case, work: Path) -> None:
        """Makes the inputs and measures the undisturbed run, after one that fills the compile cache."""
        self.case, self.inputs, self.folder, self.log = case, work / "inputs", work / "trial", work / "log.txt"
        self.inputs.mkdir(parents=True)
        with contextlib.chdir(self.inputs):
            case.prepare()
        for _ in range(1 if case.compiles else 2):
            self.begin()
            started = time.monotonic()
            codes = case.run(self.folder, self.log)
            self.seconds = time.monotonic() - started
            if any(codes):
                raise SystemExit(f"{case.name}: the undisturbed run failed:\n{self.log.read_text()}")
        self.expected = case.content(self.folder, self.log)

    def begin(self) -> None:
        """Puts a new copy of the inputs in place."""
        shutil.rmtree(self.folder, ignore_errors=True)
        shutil.copytree(self.inputs, self.folder)
        self.log.write_bytes(b"")

    def disturbed(self, name: str, rng: random.Random) -> tuple[Row, list[str]]:
        """Disturbs the command up to `IN_A_ROW` times, then lets it end; returns a row, and a line for each defect."""
        self.begin()
        moments: list[str] = []
        codes, restarts, tracebacks = [-1], -1, list[str]()
        while any(codes) and restarts < IN_A_ROW + RESTARTS:
            restarts += 1
            self.log.write_bytes(b"")
            processes = self.case.start(self.folder, self.log)
            moment = rng.uniform(0, self.seconds)
            if len(moments) < IN_A_ROW and disturb(processes, name, moment, rng):
                moments.append(f"{moment:.2f}")
            codes = wait(processes)
            tracebacks += self.tracebacks()
        lost, leftovers = self.compare(codes)
        row = {"moments": len(moments), "restarts": restarts, "lost": len(lost)}
        row |= {"tracebacks": len(tracebacks), "leftovers": len(leftovers), "moments_s": " ".join(moments)}
        return row, [f"lost: {key}" for key in lost] + [f"left over: {key}" for key in leftovers] + tracebacks

    def compare(self, codes: list[int]) -> tuple[list[str], list[str]]:
        """Returns the names of what differs from the undisturbed run, and of what that run does not leave."""
        found = {} if any(codes) else self.case.content(self.folder, self.log)
        lost = [key for key in self.expected if key not in found or found[key] != self.expected[key]]
        return lost, [key for key in found if key not in self.expected]

    def tracebacks(self) -> list[str]:
        """The output of the last start, if it holds a traceback."""
        said = self.log.read_text(errors="replace")
        return [said] if "Traceback (most recent call last)" in said else []


def disturb(processes: list[subprocess.Popen[bytes]], name: str, moment: float, rng: random.Random) -> bool:
    """Sends the signal after `moment` seconds; False if the command ended before."""
    victim = rng.choice(processes)
    with contextlib.suppress(subprocess.TimeoutExpired):
        victim.wait(moment)
        return False
    if name == "SIGTERM":
        victim.terminate()
    else:
        os.killpg(victim.pid, signal.Signals[name])
    if name == "SIGSTOP":
        time.sleep(STOPPED_S)
        os.killpg(victim.pid, signal.SIGCONT)
    return True


def main() -> None:
    """Runs the trials and makes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", nargs="+", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--signal", nargs="+", choices=SIGNALS, default=SIGNALS[:2])
    parser.add_argument("--moments", type=int, default=200, help="a command and signal")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=RESULTS / "survival.csv")
    args = parser.parse_args()
    chosen = [case for case in CASES if args.moments and case.name in (args.command or [c.name for c in CASES])]
    for case in chosen:
        with tempfile.TemporaryDirectory() as work:
            trials = Trials(case, Path(work))
            print(f"{case.name}: {trials.seconds:.1f} s undisturbed", flush=True)
            for name in args.signal:
                run(trials, name, args)
    write_table(args.csv)


def run(trials: Trials, name: str, args: argparse.Namespace) -> None:
    """Runs trials of a signal until it was sent often enough; appends a row for each."""
    rng = random.Random(f"{args.seed} {trials.case.name} {name}")
    sent = 0
    while sent < args.moments:
        row, defects = trials.disturbed(name, rng)
        sent += row["moments"]
        about = {"command": trials.case.name, "signal": name, "seed": args.seed}
        append(args.csv, {**about, "undisturbed_s": round(trials.seconds, 2), **row})
        print(f"{trials.case.name} {name}: {row}", *defects, sep="\n  ", flush=True)


def append(path: Path, row: Row, columns: Sequence[str] = COLUMNS) -> None:
    """Adds a row to a CSV."""
    new = not path.exists()
    with path.open("a", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        if new:
            writer.writeheader()
        writer.writerow(row)


def write_table(path: Path) -> None:
    """Puts the table of all rows into the Markdown page beside the CSV, if there is one."""
    with path.open(newline="", encoding="utf-8") as file:
        groups: dict[tuple[str, str], list[Row]] = defaultdict(list)
        for row in csv.DictReader(file):
            groups[row["command"], row["signal"]].append(row)
    heads = ["command", "signal", "trials", *COUNTS]
    lines = [heads, ["---"] * 2 + ["--:"] * (len(heads) - 2)]
    for (command, name), rows in groups.items():
        sums = [str(sum(int(row[column]) for row in rows)) for column in COUNTS]
        lines.append([command, name, str(len(rows)), *sums])
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    print(table)
    page = path.with_suffix(".md")
    if page.exists():
        before, _, rest = page.read_text(encoding="utf-8").partition(START)
        page.write_text(f"{before}{START}\n{table}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


if __name__ == "__main__":
    main()
