"""Process that reads damaged files; it is started by `run.py`, and may be killed by an input or by its parent.

The input that is read is on the disk before it is read, under the name that `progress` holds.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

from etp_jax.ecg import bounded
from etp_jax.errors import EtpError
from tests.fuzz import child, guard
from tests.fuzz.mutate import mutant
from tests.fuzz.targets import TARGETS, Reader


class Inputs:
    """The files of a target, which are damaged and restored one by one."""

    def __init__(self, name: str, folder: Path):
        """Writes the valid files, and reads them: each must be readable."""
        self.folder = folder
        self.readers = TARGETS[name](folder)
        self.seeds = {file: (folder / file).read_bytes() for file in self.readers}
        self.kept = set(folder.rglob("*"))
        for file, read in self.readers.items():
            if flaw := outcome(read, valid=True):
                raise RuntimeError(f"{name}: the valid {file} is not read: {flaw}")
            self.restore(file)

    def read(self, file: str, content: bytes) -> str:
        """Reads one input; returns what is wrong with the outcome, or an empty text."""
        (self.folder / file).write_bytes(content)
        flaw = outcome(self.readers[file])
        self.restore(file)
        return flaw

    def restore(self, file: str) -> None:
        """Brings back the valid file, and deletes what the reader has written."""
        (self.folder / file).write_bytes(self.seeds[file])
        for path in set(self.folder.rglob("*")) - self.kept:
            shutil.rmtree(path, ignore_errors=True) if path.is_dir() else path.unlink(missing_ok=True)


def outcome(read: Reader, valid: bool = False) -> str:
    """Calls a reader; returns what is wrong with the outcome, or an empty text.

    Args:
      read: the reader. A value and an `EtpError` of one line are allowed.
      valid: whether the file is valid: an `EtpError` is wrong, and libraries may have to be loaded first.
    """
    guard.violations.clear()
    random.seed(0)
    signal.setitimer(signal.ITIMER_PROF, 12 * guard.TIME_S if valid else guard.TIME_S)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            read()
        flaw = ""
    except EtpError as error:
        flaw = _flaw_of(error) or (f"refused: {error}" if valid else "")
    except (guard.HangError, guard.ForbiddenError) as error:
        flaw = f"{type(error).__name__}: {error}"
    except BaseException as error:  # noqa: BLE001 - anything else is what is looked for
        last = traceback.extract_tb(error.__traceback__)[-1]
        own = [frame for frame in traceback.extract_tb(error.__traceback__) if "etp_jax" in frame.filename]
        where = f"{Path(own[-1].filename).name}:{own[-1].lineno}" if own else ""
        flaw = f"{type(error).__name__} in {where} ({Path(last.filename).name}): {str(error)[:200]}"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    return "; ".join(filter(None, (flaw, *guard.violations)))


def _flaw_of(error: EtpError) -> str:
    """Finds what an error hides. Memory that ran out was asked for without need: its size had not been compared."""
    if str(error).endswith(f"it ends its reader ({child.FORBIDDEN})"):
        return f"the reader in the child process did what it must not: {error}"
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, MemoryError):
            return f"memory is taken before sizes are checked: {error}"
        cause = cause.__context__
    return f"message of {len(str(error))} characters" if len(str(error)) > 5000 else ""


def main(name: str, seed: int, first: int, seconds: float, folder: Path) -> None:
    """Reads input after input, from number `first` on, and writes a line for each failure and one at the end."""
    out = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # a library that reads tokenizers prints what it does not know
    files = folder / "files"
    files.mkdir()
    os.environ["TMPDIR"] = str(folder)
    signal.signal(signal.SIGPROF, guard._alarm)
    bounded.bounded_child.__file__ = child.__file__
    inputs = Inputs(name, files)
    names = sorted(inputs.seeds)
    guard.install(folder)
    signal.setitimer(signal.ITIMER_PROF, 0)
    taken, number, end = guard.address_space(), first, time.monotonic() + seconds
    while time.monotonic() < end:
        rng = np.random.default_rng((seed, number))
        file = names[rng.integers(len(names))]
        content = mutant(inputs.seeds[file], inputs.seeds[names[rng.integers(len(names))]], rng)
        (folder / "input").write_bytes(content)
        (folder / "next").write_text(f"{number} {time.time()} {file}", encoding="utf-8")
        (folder / "next").replace(folder / "progress")  # at once: the parent reads it at any moment
        guard.limit_memory(len(content), taken)
        if flaw := inputs.read(file, content):
            shutil.copyfile(folder / "input", folder / f"failed-{number}")
            print(json.dumps({"number": number, "file": file, "flaw": flaw}), file=out, flush=True)
        number += 1
    print(json.dumps({"number": number, "file": "", "flaw": ""}), file=out, flush=True)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]), Path(sys.argv[5]))
