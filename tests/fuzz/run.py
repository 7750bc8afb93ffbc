"""Fuzzing of every reader: `python -m tests.fuzz.run --seconds 3600`, or `make fuzz`.

Each target is read in a process of its own; if an input ends or stops that process, the input is named and the next
process continues behind it. The failed inputs are kept in a folder.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from tests.fuzz.targets import TARGETS

HANG_S = 60.0
"""Longest time for one input, in seconds, whatever it waits for."""
START_S = 600.0
"""Longest time in which a worker must have read its first input, in seconds: jax may have to be loaded."""


@dataclass(frozen=True)
class Failure:
    """An input that a reader did not survive."""

    target: str
    file: str
    number: int
    flaw: str

    def __str__(self) -> str:
        """Returns the failure in one line."""
        return f"{self.target} {self.number} {self.file}: {self.flaw}"


def fuzz(target: str, seconds: float, seed: int, kept: Path | None = None) -> tuple[int, list[Failure]]:
    """Fuzzes one target.

    Args:
      target: name of the target.
      seconds: time after the start of the process.
      seed: seed of all inputs.
      kept: folder for the inputs that failed.

    Returns:
      The number of inputs, and the failures.
    """
    number, failures, left = 0, [], seconds
    while left > 0:
        with tempfile.TemporaryDirectory(prefix="etp-fuzz-") as name:
            folder = Path(name)
            started = time.monotonic()
            lines, died = _work(target, seed, number, left, folder)
            failures += [Failure(target, **line) for line in lines if line["flaw"]]
            if died:
                where = folder / "progress"
                if not where.exists():
                    raise RuntimeError(f"{target}: the worker did not start: {died}")
                number, _, file = where.read_text(encoding="utf-8").split(" ", 2)
                number = int(number)
                failures.append(Failure(target, file, number, died))
                shutil.copyfile(folder / "input", folder / f"failed-{number}")
            if kept is not None:
                for path in folder.glob("failed-*"):
                    kept.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(path, kept / f"{target}-{path.name.removeprefix('failed-')}")
            if not died:
                return lines[-1]["number"], failures
            number, left = number + 1, left - (time.monotonic() - started)
    return number, failures


def _work(target: str, seed: int, first: int, seconds: float, folder: Path) -> tuple[list[dict], str]:
    """Runs a worker; returns its lines, and how it died, if it did."""
    command = [sys.executable, "-m", "tests.fuzz.worker", target, str(seed), str(first), str(seconds), str(folder)]
    environment = {**os.environ, "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "out").open("w+") as out, (folder / "err").open("w+") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment)
        started, died = time.time(), ""
        while process.poll() is None:
            time.sleep(0.1)
            progress = folder / "progress"
            text = progress.read_text(encoding="utf-8").split(" ") if progress.exists() else []
            if time.time() - float(text[1]) > HANG_S if len(text) > 1 else time.time() - started > START_S:
                process.kill()
                died = f"is not read within {HANG_S:g} s"
        process.wait()
        out.seek(0)
        err.seek(0)
        lines, errors = [json.loads(line) for line in out if line.endswith("}\n")], err.read()
    if process.returncode and not died:
        died = f"ends the process ({process.returncode}): {errors[-2000:]}"
    return lines, died


def main() -> None:
    """Fuzzes the targets in turn, and exits with status 1 if an input failed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=3600.0, help="time for all targets together")
    parser.add_argument("--seed", type=int, default=int(time.time()), help="seed of all inputs")
    parser.add_argument("--target", action="append", choices=sorted(TARGETS), help="only these targets")
    parser.add_argument("--keep", type=Path, default=Path("fuzz-failures"), help="folder for the inputs that failed")
    options = parser.parse_args()
    targets, total, failed = options.target or list(TARGETS), 0, 0
    for target in targets:
        count, failures = fuzz(target, options.seconds / len(targets), options.seed, options.keep)
        total, failed = total + count, failed + len(failures)
        print(f"{target}: {count} inputs, {len(failures)} failures", flush=True)
        for failure in failures:
            print(f"  {failure}", flush=True)
    print(f"{total} inputs, {failed} failures (--seed {options.seed})")
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
