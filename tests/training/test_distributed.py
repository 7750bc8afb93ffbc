"""Tests of processes that wait for others which never join; test_multihost.py has the runs of several processes."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from etp_jax.training import distributed
from tests.helpers.devices import ROOT
from tests.training.test_multihost import free_port

LIMIT_S = 3.0


def join(address: str, number: int) -> subprocess.Popen[str]:
    """Starts one process of a run of three, with a shorter limit."""
    code = f"""if True:
        from etp_jax.training import distributed
        distributed.JOIN_S = {LIMIT_S}
        distributed.initialise({address!r}, 3, {number})
    """
    command = [sys.executable, "-c", code]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, env=os.environ, stdout=pipe, stderr=pipe, text=True)


@pytest.mark.slow
@pytest.mark.parametrize("started", [(0, 1), (1, 2)], ids=["without one", "without the coordinator"])
def test_a_process_that_never_joins(started: tuple[int, ...]) -> None:
    """The others end with one line each, whichever of them is the first to go."""
    address, begun = f"localhost:{free_port()}", time.monotonic()
    processes = [join(address, number) for number in started]
    for number, process in zip(started, processes, strict=True):
        said, errors = process.communicate(timeout=120)
        print(f"process {number}: {time.monotonic() - begun:.1f} s", said, errors)
        assert process.returncode == distributed.STOPPED and not said
        assert errors == (
            f"etp: process {number}: not all processes of this run joined at {address} within 3 s; check that every "
            "one of them was started, and reaches that address\n"
        )
