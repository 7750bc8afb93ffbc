"""Functions of test modules in child processes that have several virtual CPU devices."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
# XLA ends the process for a flag that it does not know, and from jaxlib 0.12 on it does not know this one.
FORMER_FLAG = (
    "" if tuple(map(int, version("jaxlib").split(".")[:2])) >= (0, 12) else " --xla_cpu_use_fusion_emitters=false"
)
QUICK_COMPILING = (
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
    f" --xla_cpu_parallel_codegen_split_count=1{FORMER_FLAG}"
)
"""Compiles to slower programs in about a fifth of the time, which is most of what the tests take."""


def run_on(devices: int, function: Callable[[], Any], x64: bool = False) -> Any:
    """What a function without arguments returns in a child process, as JSON passes it on.

    Args:
      devices: virtual CPU devices of the child.
      function: defined at the top of a test module.
      x64: compute in double precision.
    """
    flags = f"{QUICK_COMPILING} --xla_force_host_platform_device_count={devices}"
    done = subprocess.run(
        [sys.executable, "-m", __name__, function.__module__, function.__name__],
        cwd=ROOT,
        env={**os.environ, "XLA_FLAGS": flags, "JAX_ENABLE_X64": str(int(x64))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


if __name__ == "__main__":
    print(json.dumps(getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()))
