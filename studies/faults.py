"""The commands that `survival.py` and `full_disk.py` disturb: their inputs, and what of their output must agree."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from etp_jax import config as config_module  # noqa: E402 - the path is set above
from tests.helpers import small_run, tiny_run  # noqa: E402
from tests.helpers.devices import QUICK_COMPILING  # noqa: E402
from tests.training.test_multihost import free_port  # noqa: E402

CACHE = "cache"
"""Folder of the persistent compile cache, inside the folder of a trial where a case is to compile."""
LIMIT_S = 600
"""Time after which a command counts as hanging."""
PREP = "prep ptbxl --source archive --workers 2"
STUDY = """
shards = "shards"
split = "test"
checkpoint = "latest"
tasks = ["ptbxl-super"]
recipe = "recipe.json"
seeds = [0]
options = "--data.batch-size 40 --optim.epochs 1 --run.log-every 2"

[[run]]
name = "first"

[[run]]
name = "second"
options = "--optim.learning-rate 1e-4"

[[evaluate]]
kind = "zero-shot"
prompts = ["default", "contrast"]

[[evaluate]]
kind = "knn"
"""


@dataclass(frozen=True)
class Case:
    """A command with its inputs, run in a folder of its own."""

    name: str
    command: str
    prepare: Callable[[], None]
    """Makes the inputs in the working directory."""
    processes: int = 1
    """Number of processes that run the command together."""
    compiles: bool = False
    """Start with an empty compile cache."""
    shows: bool = False
    """What the command prints is its result."""

    def start(self, folder: Path, log: Path) -> list[subprocess.Popen[bytes]]:
        """Starts the command's processes, each in a session of its own; they append to `log`."""
        shared = os.environ.get("JAX_COMPILATION_CACHE_DIR", folder.parent / CACHE)
        env = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "TMPDIR": str(folder / "tmp"),
            "XLA_FLAGS": QUICK_COMPILING,
            "JAX_COMPILATION_CACHE_DIR": str(folder / CACHE if self.compiles else shared),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        (folder / "tmp").mkdir(exist_ok=True)
        if self.processes > 1:
            env |= {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": str(self.processes)}
        started = []
        for number in range(self.processes):
            with log.open("ab") as file:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "-m", "etp_jax", *self.command.split()],
                        cwd=folder,
                        env={**env, "JAX_PROCESS_ID": str(number)} if self.processes > 1 else env,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return started

    def run(self, folder: Path, log: Path) -> list[int]:
        """Runs the command undisturbed; returns the exit codes."""
        return wait(self.start(folder, log))

    def content(self, folder: Path, log: Path) -> dict[str, Any]:
        """Everything in the folder that must agree: digests of files, and what is learned of runs."""
        found: dict[str, Any] = {"what was printed": log.read_bytes()} if self.shows else {}
        for path in sorted(folder.rglob("*")):
            name = path.relative_to(folder)
            if (path.is_dir() and path.name != "checkpoints") or {"checkpoints", CACHE} & set(name.parent.parts):
                continue
            found[str(name)] = _agreeing(path)
        return found


def wait(processes: list[subprocess.Popen[bytes]]) -> list[int]:
    """Waits until all have ended, also the workers that they started; returns the exit codes."""
    end = time.monotonic() + LIMIT_S
    while any([process.poll() is None or group_lives(process.pid) for process in processes]):
        if time.monotonic() > end:
            for process in filter(lambda each: group_lives(each.pid), processes):
                os.killpg(process.pid, signal.SIGKILL)
            raise SystemExit(f"{processes[0].args}: hangs")
        time.sleep(0.05)
    return [process.wait() for process in processes]


def group_lives(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def _agreeing(path: Path) -> Any:
    """The content of a file or of a run's newest checkpoint, without times.

    The steps of the older ones may differ, since SIGTERM saves a checkpoint at the step that was reached.
    """
    if path.name == "checkpoints":
        state = tiny_run.final_state(path.parent)
        return {name: (x.shape, x.tobytes()) for name, x in state.items()}
    if path.name == "metrics.jsonl":
        return tiny_run.learned_lines(path.parent)
    if path.name == "log.jsonl":  # of `etp reproduce`: its lines hold times
        return None
    return hashlib.sha256(path.read_bytes()).hexdigest()


def etp(command: str) -> None:
    """Runs a command to prepare inputs."""
    subprocess.run(
        [sys.executable, "-m", "etp_jax", *command.split()],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=True,
        stdout=subprocess.DEVNULL,
    )


def archive() -> None:
    """Makes a small archive."""
    from etp_jax.data_prep.synthetic.archive import write_archive

    write_archive(Path("archive"), records=24)


def shards() -> None:
    """Makes a shard folder of three shards."""
    archive()
    etp(f"{PREP} --out shards")


def proposals() -> None:
    """Makes shards and proposals for them."""
    shards()
    etp("waveform propose --shards shards --out proposals.json")


def parts() -> None:
    """Makes two parts of a shard folder."""
    archive()
    for number in (1, 2):
        etp(f"{PREP} --out part{number} --part {number}/2")


def recipe() -> None:
    """Makes shards and a recipe of a tiny run."""
    tiny_run.write_shards(Path("shards"))
    config_module.save(tiny_run.tiny_config(Path("shards")), Path("recipe.json"))


def trained() -> None:
    """Makes shards and an untrained run."""
    small_run.write_shards(Path("shards"))
    small_run.write_run(Path("run"), small_run.small_config(Path("shards")))


def study() -> None:
    """Makes shards, a recipe and a study of two runs."""
    small_run.write_shards(Path("shards"))
    config_module.save(small_run.small_config(Path("shards")), Path("recipe.json"))
    Path("study.toml").write_text(STUDY)


TRAIN = "train --config recipe.json --workdir run"
CASES = [
    Case("prep", f"{PREP} --out shards", archive),
    Case("merge", "shards merge --parts part1 part2 --out shards", parts),
    Case("check", "shards check shards", shards, shows=True),
    Case("index", "waveform propose --shards shards --out proposals.json", shards),
    Case(
        "restore",
        "waveform restore --shards shards --proposals proposals.json --filter measurement --workers 2 --out restored",
        proposals,
    ),
    Case("train", TRAIN, recipe),
    Case("train-compiling", TRAIN, recipe, compiles=True),
    Case("train-two", f"{TRAIN} --distributed", recipe, processes=2),
    Case(
        "evaluate",
        "evaluate zero-shot --run run --shards shards --task ptbxl-super --prompts default contrast",
        trained,
    ),
    Case("probe", "evaluate probe --run run --shards shards --task ptbxl-super", trained),
    Case("reproduce", "reproduce study.toml --out out", study),
]
