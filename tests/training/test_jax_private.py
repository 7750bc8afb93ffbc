"""Tests of the private names of jax that the project uses, and of the releases of jax they are known to work with."""

from __future__ import annotations

import os
import subprocess
import sys

import jax

from etp_jax.training import jax_private


def test_the_installed_jax_is_one_of_those_seen() -> None:
    """On a new release: run this file, and add the release to `SEEN_WITH` if everything else passes."""
    assert ".".join(jax.__version__.split(".")[:2]) in jax_private.SEEN_WITH


def test_whether_devices_were_started() -> None:
    code = (
        "import jax; from etp_jax.training.jax_private import backends_are_initialized as started\n"
        "print(started()); jax.devices(); print(started())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


def test_the_store_of_a_run() -> None:
    """One process that is its own coordinator; what is set can be read, and counted by folder."""
    code = (
        "import jax, socket; from etp_jax.training.jax_private import global_state as state\n"
        "assert state.client is None\n"
        "with socket.socket() as free: free.bind(('localhost', 0)); port = free.getsockname()[1]\n"
        "jax.distributed.initialize(f'localhost:{port}', 1, 0)\n"
        "state.client.key_value_set('etp/test/0', 'here', allow_overwrite=True)\n"
        "print(state.process_id, state.num_processes, state.client.key_value_dir_get('etp/test/'))"
    )
    env = {**os.environ, "JAX_PLATFORMS": "cpu"}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "0 1 [('etp/test/0', 'here')]", done.stderr


def test_a_machine_without_gpus_knows_cuda() -> None:
    code = (
        "from etp_jax.training.jax_private import make_cuda_known; make_cuda_known()\n"
        "from jax._src.xla_bridge import canonicalize_platform as known\n"
        "print(known('gpu'), known('cuda'), known('cpu'), known('tpu'))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["cuda", "cuda", "cpu", "tpu"]
