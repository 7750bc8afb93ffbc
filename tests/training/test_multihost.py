"""Two processes give the result of one: same order, same augmentation, same parameters to rounding in float64."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tiny_run import change, final_state, learned_lines, quick_compiling, start, tiny_config, write_shards

from etp_jax.config import TrainConfig

DEVICES = "--xla_force_host_platform_device_count="


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TrainConfig]:
    folder = tmp_path_factory.mktemp("multihost")
    with quick_compiling(tmp_path_factory.getbasetemp() / "jax-cache"):
        yield change(tiny_config(write_shards(folder / "shards")), optim={"epochs": 2.0}, run={"precision": "float64"})


def test_two_processes_give_the_result_of_one(config: TrainConfig, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        address = f"localhost:{free.getsockname()[1]}"
    pair = {"XLA_FLAGS": DEVICES + "2", "JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": "2"}
    processes = [start(config, tmp_path, "both-modes", "3", JAX_PROCESS_ID=str(number), **pair) for number in range(2)]
    processes.append(start(config, tmp_path / "one", XLA_FLAGS=DEVICES + "4"))
    first, second, alone = (process.communicate()[0] for process in processes)
    print(first, second, alone)

    reference = tmp_path / "one"
    assert final_state(reference)["['params']['logit_scale']"].dtype == np.float64
    assert "batch 8 on 4 x cpu of 1 host(s), float64, pmap" in alone
    assert "training" not in second  # only the first process speaks
    for mode in ("pmap", "shard_map"):
        assert f"batch 8 on 4 x cpu of 2 host(s), float64, {mode}" in first
        assert_close(tmp_path / mode, reference)

    # The pair's third run: SIGTERM to one process stops both after the same step, which is saved; one process goes on.
    assert [process.returncode for process in processes] == [143, 143, 0]
    stopped = tmp_path / "stopped"
    step = int(final_state(stopped)["['step']"])
    assert 3 < step < 10 and f"stopped by SIGTERM at step {step}" in first
    print(start(config, stopped, XLA_FLAGS=DEVICES + "4").communicate()[0])
    assert_close(stopped, reference)


def assert_close(run: Path, reference: Path) -> None:
    ours, theirs = final_state(run), final_state(reference)
    assert ours.keys() == theirs.keys() and ours["['step']"] == 10
    for name, value in theirs.items():
        np.testing.assert_allclose(ours[name], value, rtol=0, atol=1e-10, err_msg=f"{run} {name}")
    for line, other in zip(learned_lines(run), learned_lines(reference), strict=True):
        assert line.keys() == other.keys() and (line["kind"], line["step"]) == (other["kind"], other["step"])
        assert line["loss"] == pytest.approx(other["loss"], abs=1e-10)
