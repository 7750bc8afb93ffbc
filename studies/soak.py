"""Trains with validation and checkpoints for a while, and samples memory, open files, threads and disk.

    python studies/soak.py --minutes 120    # writes results/soak.csv and results/soak.svg

The run is tiny and has no end: it validates every 5 steps and saves every 20. It is stopped by SIGTERM.
"""

from __future__ import annotations

import argparse
import contextlib
import csv
import os
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
from faults import ROOT, Case

from etp_jax import config as config_module
from tests.helpers.tiny_run import change, tiny_config, write_shards

EVERY_S = 5
COLUMNS: tuple[str, ...] = ("seconds", "rss_mib", "open_files", "threads", "folder_mib", "metrics_mib", "steps")
WARM_UP = 0.25
"""Share of the samples, from the start, that the slopes leave out."""
MIB = 2**20


def prepare() -> None:
    """Makes shards and a recipe of a run without end."""
    write_shards(Path("shards"))
    run = {"log_every": 20, "checkpoint_every": 20}
    config_module.save(change(tiny_config(Path("shards")), optim={"epochs": 1e6}, run=run), Path("recipe.json"))


def walk(folder: Path) -> list[Path]:
    """All files of a folder, whose subfolders may vanish meanwhile."""
    return [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]


def size(path: Path) -> int:
    """Size of a file; 0 for one that has been replaced meanwhile, as checkpoints are."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def sample(process: int, run: Path, started: float) -> dict[str, float]:
    """The row of this moment."""
    lines = (line.split(":") for line in Path(f"/proc/{process}/status").read_text().splitlines())
    status = {name: value.split()[0] for name, value in lines if value.strip()}
    metrics = run / "metrics.jsonl"
    return {
        "seconds": round(time.monotonic() - started, 1),
        "rss_mib": round(int(status["VmRSS"]) / 1024, 2),
        "open_files": len(list(Path(f"/proc/{process}/fd").iterdir())),
        "threads": int(status["Threads"]),
        "folder_mib": round(sum(map(size, walk(run))) / MIB, 3),
        "metrics_mib": round(size(metrics) / MIB, 3),
        "steps": 20 * metrics.read_bytes().count(b'"kind": "train"') if metrics.exists() else 0,
    }


def slopes(table: Path) -> dict[str, float]:
    """Rise of each column an hour after the warm-up, by least squares."""
    rows = np.genfromtxt(table, delimiter=",", names=True)
    rows = rows[int(WARM_UP * len(rows)) :]
    hours = rows["seconds"] / 3600
    return {name: round(float(np.polyfit(hours, rows[name], 1)[0]), 3) for name in COLUMNS[1:]}


def plot(table: Path) -> None:
    """Draws the columns over time, to an SVG file beside the table."""
    import matplotlib.pyplot as plt

    rows = np.genfromtxt(table, delimiter=",", names=True)
    figure, axes = plt.subplots(4, 1, sharex=True, figsize=(7, 8))
    for axis, name in zip(axes, COLUMNS[1:5], strict=True):
        axis.plot(rows["seconds"] / 60, rows[name])
        axis.set_ylabel(name)
        axis.set_ylim(bottom=0)
    axes[-1].set_xlabel("minutes")
    figure.tight_layout()
    figure.savefig(table.with_suffix(".svg"))


def main() -> None:
    """Runs the soak and prints the slopes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=120)
    parser.add_argument("--csv", type=Path, default=ROOT / "results/soak.csv")
    args = parser.parse_args()
    case = Case("soak", "train --config recipe.json --workdir run", prepare)
    with tempfile.TemporaryDirectory() as work, args.csv.open("w", newline="", encoding="utf-8") as file:
        folder, log = Path(work, "trial"), Path(work, "log.txt")
        folder.mkdir()
        with contextlib.chdir(folder):
            prepare()
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        started = time.monotonic()
        (process,) = case.start(folder, log)
        try:
            while time.monotonic() - started < 60 * args.minutes and process.poll() is None:
                writer.writerow(sample(process.pid, folder / "run", started))
                file.flush()
                time.sleep(EVERY_S)
        finally:
            process.terminate()
            process.wait()
        if process.returncode != 128 + signal.SIGTERM:
            raise SystemExit(log.read_text())
    print(slopes(args.csv))
    plot(args.csv)


if __name__ == "__main__":
    main()
