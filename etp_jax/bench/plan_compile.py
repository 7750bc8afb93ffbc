"""Compiles a recipe's dispatch for devices that need not be there, in a process of its own (`compiled`).

The process runs JAX on the CPU, with the environment that the compiler needs. So nothing is set in the caller, and a
compiler that aborts ends the child only. The request and the result are JSON, on stdin and stdout.
"""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from etp_jax.bench import topology
from etp_jax.errors import EtpError, one_line

QUICK = {"JAX_EXEC_TIME_OPTIMIZATION_EFFORT": "-1"}
COPIES_FROM = 2**20
"""Bytes from which copies are listed."""


def compiled(request: dict[str, Any]) -> dict[str, Any]:
    """Compiles in a child process.

    Args:
      request: topology, slices, quick; config, the recipe as a dictionary; sizes, the fields of `program.Sizes`; save,
        the file for the compiled step, or None.

    Returns:
      versions (of jax and the compiler), chips, hosts, device (its kind), device_bytes (usable memory of a chip),
      precision, fits, and:
      if it fits: resident, texts_resident, per_dispatch, lower_s, compile_s, memory, xla_flops, xla_bytes (of a
      step; each loop counted once), flops, bytes (of a step on all devices, from the shapes), program (the fields of
      `hlo.Summary`);
      otherwise: needed_bytes (None where the compiler does not report it) and message.

    Raises:
      EtpError: the compiler is not installed or does not know the topology, an option is impossible, or the compiler
        failed.
    """
    child = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(request),
        env={**topology.environment(request["topology"]), **(QUICK if request["quick"] else {})},
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

    from etp_jax.config import from_dict
    from etp_jax.training import build, saved_step
    from etp_jax.training.parallel import Parallel
    from etp_jax.training.program import Sizes, program
    from etp_jax.training.room import refused_bytes

    config, sizes = from_dict(request["config"]), Sizes(**request["sizes"])
    if config.run.deterministic:
        build.make_deterministic()
    devices = topology.devices(request["topology"], request["slices"])
    compiler = topology.compiler(request["topology"]).package
    about = {
        "versions": {name: importlib.metadata.version(name) for name in ("jax", compiler)},
        "chips": len(devices),
        "hosts": len({device.process_index for device in devices}),
        "device": devices[0].device_kind,
        "device_bytes": topology.device_bytes(devices[0]),
    }
    parallel = Parallel(config.run.parallel, devices)
    # A saved step has the report table on every device, whatever their memory (`saved_step`).
    built = program(config, sizes, parallel, 0 if request["save"] else about["device_bytes"] or 0)
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
    described = _described(done, built, request, len(devices))
    peak, limit = described["memory"]["peak"], about["device_bytes"]
    if limit and peak > limit:  # unlike a TPU's compiler, those of GPUs and CPUs do not refuse such a program
        return about | {
            "fits": False,
            "needed_bytes": peak,
            "message": "more than JAX takes of a device",
        }
    if request["save"]:
        saved_step.save(Path(request["save"]), config, sizes, parallel, built, done)
    return about | {"fits": True, **times, **described}


def _described(done: Any, built: Any, request: dict[str, Any], chips: int) -> dict[str, Any]:
    """Describes a compiled program."""
    from etp_jax.bench import flops, hlo
    from etp_jax.config import from_dict
    from etp_jax.ecg.leads import LEADS

    config, sizes, bert = from_dict(request["config"]), request["sizes"], built.bert
    trained = None if config.model.text.frozen else (bert, sizes["tokens"])
    work = flops.train_step(
        config, sizes["samples"], len(LEADS), built.params, trained, bert.hidden_size, built.dtype, chips
    )
    analysis, cost = done.memory_analysis(), done.cost_analysis() or {}
    names = {name: f"{name}_size_in_bytes" for name in ("argument", "output", "temp", "alias")}
    names |= {"code": "generated_code_size_in_bytes", "peak": "peak_memory_in_bytes"}
    memory = {name: int(getattr(analysis, field, 0)) for name, field in names.items()}
    if not memory["peak"]:  # the compiler for GPUs does not report it; nothing is known to be free before the end
        memory["peak"] = memory["argument"] + memory["output"] - memory["alias"] + memory["temp"] + memory["code"]
    text = done.as_text()
    program = hlo.summary(text, COPIES_FROM, built.per_dispatch)
    moved = cost.get("bytes accessed") or hlo.moved_bytes(text)
    return {
        "memory": memory,
        "xla_flops": cost.get("flops"),
        "xla_bytes": round(moved * program.step_share) or None,
        "flops": work.flops,
        "bytes": work.bytes,
        "program": asdict(program),
    }


if __name__ == "__main__":
    try:
        result = _answer(json.load(sys.stdin))
    except EtpError as error:
        result = {"error": str(error)}
    print(json.dumps({"plan": result}), flush=True)
