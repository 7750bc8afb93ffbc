"""Refusal of a run whose step does not fit in the memory of its devices, before the first step is made."""

from __future__ import annotations

import math
import os
import re
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError, one_line
from etp_jax.training.parallel import Parallel

GIB = 2**30
UNITS = {"B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
CONTAINER_LIMITS = Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")
"""Files with the memory limit of a container, of control groups 2 and 1."""
BLOCK = 512
"""`loss.block` that is proposed where the score matrix is computed as a whole."""


def check_fits(
    dispatch: Any,
    args: tuple[Any, Any, Any],
    config: TrainConfig,
    parallel: Parallel,
    resident: bool,
    options: dict[str, Any] | None = None,
) -> int | None:
    """Compiles a dispatch and compares the memory that XLA counts with that of a device.

    The program stays in JAX's cache, so the first call of `dispatch` with such arguments does not compile again.

    Args:
        dispatch: function wrapped by `parallel`.
        args: state, batch and tables, or their shapes.
        config: config of the run.
        parallel: devices of the run.
        resident: whether every device holds all records.
        options: options of the compiler; a program compiled with some is not kept.

    Returns:
        Bytes that the program needs on each device; None where the platform does not report them.

    Raises:
        EtpError: the program does not fit; the message names options with which it may.
    """
    limit = device_bytes(parallel)
    try:
        analysis = dispatch.lower(*args).compile(options).memory_analysis()
    except jax.errors.JaxRuntimeError as error:  # TPU compilers refuse such a program themselves
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        ratio = (refused_bytes(str(error)) or 0) / (limit or math.inf)
        advice = _advice(config, parallel, ratio, resident)
        raise EtpError(f"a step does not fit: {one_line(error)}; {advice}") from error
    if analysis is None:
        return None
    fixed = analysis.argument_size_in_bytes + analysis.output_size_in_bytes - analysis.alias_size_in_bytes
    needed = fixed + analysis.temp_size_in_bytes
    if limit is not None and needed > limit:
        ratio = analysis.temp_size_in_bytes / max(limit - fixed, 1)
        advice = _advice(config, parallel, ratio, resident)
        raise EtpError(
            f"a step needs {needed / GIB:.2f} GiB on each device, {analysis.temp_size_in_bytes / GIB:.2f} of them for "
            f"temporaries (XLA's count), and a device has {limit / GIB:.2f}; {advice}"
        )
    return needed


def device_bytes(parallel: Parallel) -> int | None:
    """Returns the memory of the smallest device of this host; CPU devices share the host's. None: not reported."""
    devices = list(parallel.mesh.local_mesh.devices.flat)
    if parallel.platform == "cpu":
        return _host_bytes() // len(devices)
    limits = [(device.memory_stats() or {}).get("bytes_limit") for device in devices]
    return min((limit for limit in limits if limit), default=None)


def _host_bytes() -> int:
    """Returns the memory of this host, or of the container that the process is in."""
    sizes = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for file in CONTAINER_LIMITS:
        with suppress(OSError, ValueError):  # not such a container, or "max"
            sizes.append(int(file.read_text()))
    return min(sizes)


def refused_bytes(message: str) -> int | None:
    """Reads the bytes that a program needs from a TPU compiler's refusal; None where it does not name them."""
    found = re.search(r"[Uu]sed ([\d.]+)([BKMGT]) of", message) or re.search(r"\(([\d.]+)([BKMGT])\) exceeds", message)
    return int(float(found[1]) * UNITS[found[2]]) if found else None


def parts_for(ratio: float) -> int:
    """Returns the power of two, at least 2, into which what is `ratio` times too large must be divided."""
    return 1 << max(1, math.ceil(math.log2(max(ratio, 1))))


def smaller(config: TrainConfig, devices: int, parts: int) -> dict[str, TrainConfig]:
    """Lists options that divide the memory of the activations by about `parts`, each with its config."""
    rows, changes = config.data.batch_size // devices, {}
    if rows >= parts:
        size = (1 << (rows // parts).bit_length() - 1) * devices
        changes[f"--data.batch-size {size}"] = replace(config, data=replace(config.data, batch_size=size))
    count = config.optim.micro_batches * parts
    if rows % count == 0:
        changes[f"--optim.micro-batches {count}"] = replace(config, optim=replace(config.optim, micro_batches=count))
    if not config.loss.block and config.data.batch_size > BLOCK:
        changes[f"--loss.block {BLOCK}"] = replace(config, loss=replace(config.loss, block=BLOCK))
    return changes


def _advice(config: TrainConfig, parallel: Parallel, ratio: float, resident: bool) -> str:
    options = [*smaller(config, parallel.devices, parts_for(ratio)), *(["--data.resident never"] if resident else [])]
    if not options:
        return "it needs devices with more memory"
    return f"it may fit with {' or '.join(options)} (an estimate)"
