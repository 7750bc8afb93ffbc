"""Compiles a recipe's dispatch for a TPU slice, in a process of its own (`compiled`).

The process runs JAX on the CPU, with the environment that libtpu needs without a TPU. So nothing is set in the caller,
and a compiler that aborts ends the child only. The request and the result are JSON, on stdin and stdout.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
import time
from dataclasses import asdict
from typing import Any

from etp_jax.errors import EtpError, one_line

ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_ENABLE_COMPILATION_CACHE": "0",  # otherwise the compile time could be that of reading a file
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
QUICK = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1"}
COPIES_FROM = 2**20
"""Bytes from which copies are listed."""


def compiled(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles in a child process.

    Args:
      request: topology, slices, quick; config, the recipe as a dictionary; sizes, the fields of `program.Sizes`.

    Returns:
      versions (of jax and libtpu), chips, hosts, device (its kind), device_bytes (usable memory of a chip), precision,
      fits, and:
      if it fits: resident, texts_resident, per_dispatch, lower_s, compile_s, memory, xla_flops, xla_bytes, flops, bytes
      (of a step on all devices, from the shapes), program (the fields of `hlo.Summary`);
      otherwise: needed_bytes (None where the compiler does not report it) and message.

    Raises:
      EtpError: libtpu is not installed or does not know the topology, an option is impossible, or the compiler failed.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise EtpError(
            "etp plan compiles with libtpu, which is not installed; `pip install 'jax[tpu]'` in this environment "
            "(no TPU is needed)"
        )
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        env={**os.environ, **ENVIRONMENT, **(QUICK if request["quick"] else {})},
        capture_output=True,
        text=True,
    )
    answer = next((line for line in child.stdout.splitlines() if line.startswith('{"plan"')), None)
    if answer is None:
        last = next((line for line in reversed(child.stderr.splitlines()) if line.strip()), "it printed nothing")
        raise EtpError(f"the compiler's process ended with status {child.returncode}: {last[:300]}")
    result = json.loads(answer)["plan"]
    if "error" in result:
        raise EtpError(result["error"])
    return result


def _answer(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles in this process; the result is that of `compiled`, or `error`."""
    import jax

    from etp_jax.bench.program import Sizes, program
    from etp_jax.config import from_dict
    from etp_jax.training.parallel import Parallel
    from etp_jax.training.room import refused_bytes

    config, sizes = from_dict(request["config"]), Sizes(**request["sizes"])
    devices = _devices(request["topology"], request["slices"])
    about = {
        "versions": {name: importlib.metadata.version(name) for name in ("jax", "libtpu")},
        "chips": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "device": devices[0].device_kind,
        "device_bytes": _device_bytes(devices[0]),
    }
    parallel = Parallel(config.run.parallel, devices)
    built = program(config, sizes, parallel, about["device_bytes"] or 0)
    about |= {"precision": built.dtype.name, "per_dispatch": built.per_dispatch}
    about |= {"resident": built.resident, "texts_resident": built.texts_resident}
    started = time.perf_counter()
    lowered = built.dispatch.lower(*built.args)
    lowered_at = time.perf_counter()
    try:
        done = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        needed = refused_bytes(str(error))
        return about | {"fits": False, "needed_bytes": needed, "message": one_line(error)[:300]}
    times = {"lower_s": lowered_at - started, "compile_s": time.perf_counter() - lowered_at}
    return about | {"fits": True, **times, **_described(done, built, request, len(devices))}


def _devices(topology: str, slices: int) -> list[Any]:
    """Returns the devices of a slice that need not be there."""
    from jax.experimental import topologies

    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    if topology.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # otherwise a device would be half a chip
    try:
        return list(topologies.get_topology_desc(platform="tpu", topology_name=topology, **options).devices)
    except (RuntimeError, ValueError) as error:
        raise EtpError(
            f"--topology {topology}: libtpu has no such slice ({one_line(error)}); name one like v5e:16x16, v6e:8x8 "
            "or v5p:4x4x4"
        ) from None


def _device_bytes(device: Any) -> int | None:
    """Returns the usable memory of a device: the compiler names it when it refuses a program of 2 TiB."""
    import jax
    import jax.numpy as jnp

    from etp_jax.training.room import UNITS

    shape = jax.ShapeDtypeStruct((2**40,), jnp.int8, sharding=jax.sharding.SingleDeviceSharding(device))
    try:
        jax.jit(lambda x: x + 1).lower(shape).compile()
    except jax.errors.JaxRuntimeError as error:
        limit = re.search(r"available HBM \(([\d.]+)([BKMGT])\)", str(error))
        return int(float(limit[1]) * UNITS[limit[2]]) if limit else None
    return None


def _described(done: Any, built: Any, request: dict[str, Any], chips: int) -> dict[str, Any]:
    """Describes a compiled program."""
    from etp_jax.bench import flops, hlo
    from etp_jax.bench.steps import text_tower
    from etp_jax.config import from_dict
    from etp_jax.ecg.leads import LEADS

    config, sizes = from_dict(request["config"]), request["sizes"]
    bert = text_tower(config)
    trained = None if config.model.text.frozen else (bert, sizes["tokens"])
    work = flops.train_step(
        config, sizes["samples"], len(LEADS), built.params, trained, bert.hidden_size, built.dtype, chips
    )
    analysis, cost = done.memory_analysis(), done.cost_analysis() or {}
    names = {name: f"{name}_size_in_bytes" for name in ("argument", "output", "temp", "alias")}
    names |= {"code": "generated_code_size_in_bytes", "peak": "peak_memory_in_bytes"}
    return {
        "memory": {name: int(getattr(analysis, field)) for name, field in names.items()},
        "xla_flops": cost.get("flops"),
        "xla_bytes": cost.get("bytes accessed"),
        "flops": work.flops,
        "bytes": work.bytes,
        "program": asdict(hlo.summary(done.as_text(), COPIES_FROM)),
    }


if __name__ == "__main__":
    try:
        result = _answer(json.load(sys.stdin))
    except EtpError as error:
        result = {"error": str(error)}
    print(json.dumps({"plan": result}), flush=True)
