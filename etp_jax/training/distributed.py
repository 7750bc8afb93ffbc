"""Runs on several hosts: initialisation, and stopping all processes when one is lost."""

from __future__ import annotations

import math
import os
import sys
import threading
import time
import traceback
from types import TracebackType
from typing import Any

import jax

from etp_jax.errors import EtpError, one_line
from etp_jax.plain import plain, plain_line
from etp_jax.training.jax_private import backends_are_initialized, global_state

STOPPED = 75
"""Exit status of a process that stops because another one did (`EX_TEMPFAIL`): all processes must be restarted."""
JOIN_S = 300.0
"""Time, in seconds, within which all processes must have joined, the first one that starts included."""
BEAT_S = 0.5
"""Interval between two heartbeats of a process, in seconds."""
SILENCE_S = 5.0
"""Time without a heartbeat, in seconds, after which a process counts as lost."""
LINGER_S = 2.0
"""Time that process 0 stays alive, in seconds, so that the others can read the reason from its store."""
_BEATS, _REASON = "etp/beats/", "etp/reason/"


def initialise(coordinator: str | None = None, num_processes: int | None = None, process_id: int | None = None) -> None:
    """Connects the processes of a run; call it before any other function of jax.

    Missing arguments are taken from JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID, or else from the
    cluster (SLURM, GKE, TPU pod, Open MPI), which jax detects.

    Args:
      coordinator: `host:port` of process 0.
      num_processes: number of processes.
      process_id: number of this process, from 0.

    If a process has not joined after `JOIN_S`, this one prints a line and exits with status `STOPPED`.

    Raises:
      EtpError: a value is missing or wrong.
    """
    # JAX's own limit aborts the process with the traces of its threads, so this one must be reached before it.
    limit = threading.Timer(JOIN_S, _leave_unjoined)
    limit.daemon = True
    limit.start()
    try:
        if num_processes is None and "JAX_NUM_PROCESSES" in os.environ:
            num_processes = int(os.environ["JAX_NUM_PROCESSES"])
        if process_id is None and "JAX_PROCESS_ID" in os.environ:
            process_id = int(os.environ["JAX_PROCESS_ID"])
        timeout = 2 * math.ceil(JOIN_S) + 60
        jax.distributed.initialize(coordinator, num_processes, process_id, initialization_timeout=timeout)
    except (ValueError, TypeError, LookupError, RuntimeError) as error:
        raise EtpError(
            f"the processes of this run could not be joined ({one_line(error)}); set "
            "JAX_COORDINATOR_ADDRESS=host:port, JAX_NUM_PROCESSES and JAX_PROCESS_ID on each"
        ) from None
    finally:
        limit.cancel()


def _leave_unjoined() -> None:
    """Ends a process that waits for others to join, with one line."""
    where = f" at {global_state.coordinator_address}" if global_state.coordinator_address else ""
    print(
        plain_line(
            f"etp: process {global_state.process_id}: not all processes of this run joined{where} within {JOIN_S:g} s; "
            "check that every one of them was started, and reaches that address"
        ),
        file=sys.stderr,
        flush=True,
    )
    os._exit(STOPPED)


class ProcessWatch:
    """Context manager that stops all processes of a run when one of them stops, with one line that gives the reason.

    Each process increments its own entry in the run's key-value store twice a second (its heartbeat). If an entry does
    not change for `SILENCE_S`, process 0 writes the reason to the store. A process that fails writes its error there.
    All others read the reason, print it and exit with status `STOPPED`. They do so even while they hang in a collective
    operation, and without waiting for each other: JAX's own check takes 100 s, its shutdown barrier 5 minutes. The
    watch begins when the devices are initialised. Process 0 is not watched: if it is lost, the store is lost too, and
    JAX aborts the others at once. In a run of one process the watch does nothing.
    """

    def __init__(self) -> None:
        """Prepares the watch, which starts with the `with` block."""
        self._client: Any = global_state.client
        self._me, self._count = global_state.process_id, global_state.num_processes
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="together", daemon=True)

    def __enter__(self) -> ProcessWatch:
        """Starts the watch."""
        if self._client:
            self._thread.start()
        return self

    def __exit__(self, _: type[BaseException] | None, error: BaseException | None, __: TracebackType | None) -> None:
        """Waits for the other processes after success; after an error, reports it and exits the process."""
        if not self._client:
            return
        if error is None or isinstance(error, SystemExit):  # a signal stops all processes after the same step
            self._client.wait_at_barrier("etp/end", timeout_in_ms=3_600_000)
            self._end_watch()
            return
        if not isinstance(error, EtpError | KeyboardInterrupt) or error.__cause__:
            # A failed collective operation often means that another process is lost. During this sleep the watch can
            # then end this process with that reason.
            time.sleep(SILENCE_S + 4)
        self._end_watch()
        match error:
            case EtpError():
                reason, status = str(error), 2
            case KeyboardInterrupt():
                reason, status = "interrupted", 130
            case _:
                print(plain("".join(traceback.format_exception(error))), file=sys.stderr)
                reason, status = f"failed ({type(error).__name__}); see its log", 1
        self._write_down(f"process {self._me} of {self._count}: {reason}")
        self._leave(reason, status)

    def _end_watch(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        beat, heard = 0, {}
        try:
            while not self._ended.wait(BEAT_S):
                if backends_are_initialized():  # initialisation may block Python, and so the heartbeat, for long
                    beat += 1
                    self._client.key_value_set(f"{_BEATS}{self._me}", str(beat), allow_overwrite=True)
                    if self._me == 0:
                        self._listen(beat, heard)
                for _, reason in self._client.key_value_dir_get(_REASON):
                    self._leave(reason, STOPPED)
        except jax.errors.JaxRuntimeError:
            self._leave(f"process 0 of {self._count} was lost; restart all processes", STOPPED)

    def _listen(self, now: int, heard: dict[str, tuple[str, int]]) -> None:
        """Records the last heartbeat of each process, and reports processes that have been silent for too long.

        Time is counted in beats of process 0, not by the clock, because process 0 may be delayed itself.
        """
        for key, beat in self._client.key_value_dir_get(_BEATS):
            number = key.rpartition("/")[2]
            if number not in heard or heard[number][0] != beat:
                heard[number] = beat, now
        lost = ", ".join(number for number, (_, last) in heard.items() if (now - last) * BEAT_S > SILENCE_S)
        if lost:
            self._write_down(
                f"process {lost} of {self._count} was lost (numbered from 0); the same command resumes from the last "
                "checkpoint"
            )

    def _write_down(self, reason: str) -> None:
        self._client.key_value_set(f"{_REASON}{self._me}", reason, allow_overwrite=True)

    def _leave(self, reason: str, status: int) -> None:
        if self._me == 0:
            time.sleep(LINGER_S)  # the store ends with this process, and the others must read it first
        if self._me == 0:
            print(file=sys.stderr)  # below the progress bar
        print(plain_line(f"etp: {reason}"), file=sys.stderr, flush=True)
        sys.stdout.flush()
        os._exit(status)
