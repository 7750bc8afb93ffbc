"""Runs commands on a small disk that fills up, then gives it more space, and compares the result.

    unshare -m python studies/full_disk.py --command prep train --sizes 5    # as root; appends to results/full_disk.csv

The command's folder and `TMPDIR` are on a tmpfs, whose size is uniform between what the inputs need and what the
undisturbed run needs. A command that ends for want of space must say so in one line, without a traceback.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import subprocess
import tempfile
from pathlib import Path

from faults import CASES, Case
from survival import RESULTS, Trials, append

ROOM = 256 * 2**20
"""Size of the disk when there is enough space."""
COLUMNS = ("command", "seed", "share", "full", "lines", "tracebacks", "lost", "leftovers")


class SmallDisk(Trials):
    """Trials whose folder is a disk of its own."""

    def begin(self) -> None:
        """Puts a new copy of the inputs on a new disk."""
        self.end()
        self.folder.mkdir(exist_ok=True)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={ROOM}", "tmpfs", self.folder], check=True)
        shutil.copytree(self.inputs, self.folder, dirs_exist_ok=True)
        self.log.write_bytes(b"")

    def end(self) -> None:
        """Removes the disk."""
        while self.folder.is_mount():
            subprocess.run(["umount", self.folder], check=True)

    def used(self) -> int:
        """Bytes in use."""
        disk = os.statvfs(self.folder)
        return (disk.f_blocks - disk.f_bfree) * disk.f_frsize

    def resize(self, size: int) -> None:
        """Changes the size of the disk, in bytes."""
        subprocess.run(["mount", "-o", f"remount,size={size}", self.folder], check=True)


def main() -> None:
    """Runs all trials; appends a row for each."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--command", nargs="+", choices=[case.name for case in CASES], help="default: all")
    parser.add_argument("--sizes", type=int, default=10, help="a command")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--csv", type=Path, default=RESULTS / "full_disk.csv")
    args = parser.parse_args()
    for case in CASES:
        if case.name in (args.command or [c.name for c in CASES]):
            with tempfile.TemporaryDirectory() as work:
                run(case, Path(work), args)


def run(case: Case, work: Path, args: argparse.Namespace) -> None:
    """Runs the trials of a command."""
    trials = SmallDisk(case, work)
    grown = trials.used()
    rng = random.Random(f"{args.seed} {case.name}")
    for _ in range(args.sizes):
        share = rng.random()
        trials.begin()
        inputs = trials.used()
        trials.resize(inputs + int(share * (grown - inputs)))
        full = any(case.run(trials.folder, trials.log))
        tracebacks, said = trials.tracebacks(), trials.log.read_text(errors="replace")
        trials.resize(ROOM)
        trials.log.write_bytes(b"")
        codes = case.run(trials.folder, trials.log) if full or not case.shows else [0]
        tracebacks += trials.tracebacks()
        lost, leftovers = ([], []) if case.shows and not full else trials.compare(codes)
        lines = sum(line.startswith("etp: ") for line in said.splitlines())
        row = {"command": case.name, "seed": args.seed, "share": round(share, 3), "full": int(full), "lines": lines}
        row |= {"tracebacks": len(tracebacks), "lost": len(lost), "leftovers": len(leftovers)}
        append(args.csv, row, COLUMNS)
        print(row, said, *lost, *leftovers, *tracebacks, sep="\n  ", flush=True)
    trials.end()


if __name__ == "__main__":
    main()
