"""Several hosts in one run."""

from __future__ import annotations

import os

import jax

from etp_jax.errors import EtpError


def initialise(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Joins the processes of a run; to be called before anything else of jax.

    What is not given comes from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else from the cluster
    (SLURM, GKE, TPU pod, Open MPI), which jax recognises itself.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: number of processes.
      process_id: number of this one, from 0.

    Raises:
      EtpError: something is missing, or the others do not answer.
    """
    if num_processes is None and "JAX_NUM_PROCESSES" in os.environ:
        num_processes = int(os.environ["JAX_NUM_PROCESSES"])
    if process_id is None and "JAX_PROCESS_ID" in os.environ:
        process_id = int(os.environ["JAX_PROCESS_ID"])
    try:
        jax.distributed.initialize(coordinator, num_processes, process_id)
    except (ValueError, RuntimeError) as error:
        raise EtpError(
            f"the processes of this run could not be joined ({str(error).strip().splitlines()[0]}); set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID on each"
        ) from None
