"""Tests that several processes give the result of one; if one is lost, the others stop and fewer can resume.

Order and augmentation are the same, and parameters are the same up to rounding in float64. Run as a script, this file
runs `etp train --distributed` with injected faults.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from etp_jax import config as config_module
from etp_jax.cli import main
from etp_jax.config import TrainConfig
from etp_jax.training.distributed import STOPPED
from etp_jax.training.progress import Progress
from tests.helpers.devices import QUICK_COMPILING, ROOT
from tests.helpers.tiny_run import (
    change,
    disturb,
    final_state,
    learned_lines,
    start,
    tiny_config,
    write_shards,
)

pytestmark = pytest.mark.slow

DEVICES = f"{QUICK_COMPILING} --xla_force_host_platform_device_count="


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("multihost")
    return change(tiny_config(write_shards(folder / "shards")), optim={"epochs": 2.0}, run={"precision": "float64"})


@pytest.fixture(scope="module")
def reference(config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run of one process with four devices."""
    run = tmp_path_factory.mktemp("one")
    said = start(config, run, XLA_FLAGS=DEVICES + "4").communicate()[0]
    assert "batch 8 on 4 x cpu of 1 host(s), float64, pmap" in said
    assert final_state(run)["['params']['logit_scale']"].dtype == np.float64
    return run


def test_two_processes_give_the_result_of_one(config: TrainConfig, reference: Path, tmp_path: Path) -> None:
    """SIGTERM to one process stops both after the same step, which is saved; one process goes on, by pmap."""
    run = tmp_path / "run"
    recipe = resident(config, tmp_path / "recipe.json", "always")
    address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "2"}
    processes = [
        etp_train(recipe, run, 2, *(1, signal.SIGTERM) * number, JAX_PROCESS_ID=str(number), **address)
        for number in range(2)
    ]
    first, second = (process.communicate()[0] for process in processes)
    assert "batch 8 on 4 x cpu of 2 host(s), float64, shard_map" in first
    assert "training" not in second  # only the first process speaks
    assert [process.returncode for process in processes] == [143, 143]
    step = int(final_state(run)["['step']"])
    assert 2 < step < 10 and f"stopped by SIGTERM at step {step}" in first
    print(start(config, run, XLA_FLAGS=DEVICES + "4").communicate()[0])
    assert_close(run, reference)


def test_when_one_is_lost_the_others_stop_and_fewer_go_on(config: TrainConfig, reference: Path, tmp_path: Path) -> None:
    """Checkpoints are made after 3, 5, 6, 9 and 10 steps, each in the background and before the next begins."""
    run, recipe = tmp_path / "run", tmp_path / "recipe.json"
    config_module.save(config, recipe)
    address = {"JAX_COORDINATOR_ADDRESS": f"localhost:{free_port()}", "JAX_NUM_PROCESSES": "4"}
    processes = [
        etp_train(recipe, run, 1, *(7, signal.SIGKILL) * (number == 2), JAX_PROCESS_ID=str(number), **address)
        for number in range(4)
    ]
    assert processes[2].wait() == -signal.SIGKILL
    assert_all_stop(processes, lost=2)
    assert final_state(run)["['step']"] in (5, 6)

    # By SLURM's variables; and the process lost does not even close its connections.
    recipe = resident(config, recipe, "sharded")
    job = {"SLURM_JOB_ID": str(free_port(61440) - 61440), "SLURM_STEP_NODELIST": "localhost", "SLURM_NTASKS": "2"}
    processes = [
        etp_train(
            recipe, run, 2, *(2, signal.SIGSTOP) * number, SLURM_PROCID=str(number), SLURM_LOCALID=str(number), **job
        )
        for number in range(2)
    ]
    stopped = Path(f"/proc/{processes[1].pid}/stat")
    while processes[1].poll() is None and stopped.read_text().rpartition(")")[2].split()[0] != "T":
        time.sleep(0.1)
    assert_all_stop(processes, lost=1)
    processes[1].kill()
    assert processes[1].wait() == -signal.SIGKILL
    assert 5 <= final_state(run)["['step']"] < 10

    print(start(config, run, XLA_FLAGS=DEVICES + "4").communicate()[0])
    assert_close(run, reference)


def resident(config: TrainConfig, recipe: Path, kept: str) -> Path:
    """Writes the recipe by another way to the same result: shard_map, resident records, two steps a dispatch."""
    run = {"parallel": "shard_map", "steps_per_dispatch": 2}
    config_module.save(change(config, data={"resident": kept}, run=run), recipe)
    return recipe


def etp_train(recipe: Path, run: Path, devices: int, *disturbance: int, **env: str) -> subprocess.Popen[str]:
    """Starts `etp train --distributed`; `disturbance` may be a dispatch and the signal that the process then gets."""
    command = [sys.executable, "-m", __name__, str(recipe), str(run), *map(str, disturbance)]
    env = {**os.environ, "XLA_FLAGS": f"{DEVICES}{devices}", **env}
    return subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def assert_all_stop(processes: list[subprocess.Popen[str]], lost: int) -> None:
    """All but the lost one end within ten seconds; they write one line, process 0 below its progress."""
    start = time.monotonic()
    line = (
        f"etp: process {lost} of {len(processes)} was lost (numbered from 0); the same command resumes from the last "
        "checkpoint"
    )
    for number, process in enumerate(processes):
        if number != lost:
            errors = process.communicate(timeout=60)[1].splitlines()
            print(f"process {number}: {time.monotonic() - start:.1f} s", *errors, sep="\n")
            assert time.monotonic() - start < 10
            assert process.returncode == STOPPED
            assert errors[-1] == line if number == 0 else errors == [line]
            assert not any("Traceback" in error for error in errors)


def assert_close(run: Path, reference: Path) -> None:
    ours, theirs = final_state(run), final_state(reference)
    assert ours.keys() == theirs.keys() and ours["['step']"] == 10
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-10, err_msg=f"{run} {name}")
    for line, other in zip(learned_lines(run), learned_lines(reference), strict=True):
        assert line.keys() == other.keys() and (line["kind"], line["step"]) == (other["kind"], other["step"])
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-10)


def free_port(lowest: int = 0) -> int:
    """A port that nobody listens on, from `lowest` upwards; 0: any."""
    with socket.socket() as free:
        while True:
            try:
                free.bind(("localhost", lowest))
            except OSError:
                lowest += 1
            else:
                return free.getsockname()[1]


if __name__ == "__main__":
    recipe, workdir, *after = sys.argv[1:]
    if after:
        disturb(Progress, "step", *map(int, after))
    main.main(["train", "--distributed", "--config", recipe, "--workdir", workdir])
