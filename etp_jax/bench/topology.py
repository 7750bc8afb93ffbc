"""Devices that need not be there, by the name of their topology, and the compilers for them.

A name is a TPU slice as libtpu names it (`v5e:16x16`), `h200:PxHxG` for NVIDIA GPUs (parts of the cluster, hosts of a
part, GPUs of a host), or `cpu:N` for virtual devices of this machine's CPU.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

from etp_jax.errors import EtpError, one_line


class Compiler(NamedTuple):
    """The compiler of a platform."""

    module: str
    """Python module that is imported only if the compiler is installed."""
    package: str
    """Package whose version is the compiler's."""
    advice: str
    """How to install it."""
    environment: dict[str, str]
    """Environment variables of the process that compiles."""


COMMON = {"JAX_PLATFORMS": "cpu", "JAX_ENABLE_COMPILATION_CACHE": "0"}
"""Without the cache, because the compile time could otherwise be that of reading a file."""
TPU = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_STDERR_LOG_LEVEL": "3",
    "TPU_MIN_LOG_LEVEL": "3",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
COMPILERS = {
    "tpu": Compiler("libtpu", "libtpu", "pip install 'jax[tpu]'", TPU),
    "cuda": Compiler(
        "jax_plugins.xla_cuda12", "jax-cuda12-pjrt", "pip install 'jax[cuda12]'", {"TF_CPP_MIN_LOG_LEVEL": "3"}
    ),
    "cpu": Compiler("jaxlib", "jaxlib", "", {}),
}
WITHOUT_TIMING = "--xla_gpu_autotune_level=0"
"""XLA flag for a machine without a GPU, where kernels cannot be chosen by timing them."""
JAX_SHARE = 0.75
"""Share of a GPU's memory that JAX takes for itself by default (`XLA_PYTHON_CLIENT_MEM_FRACTION`)."""
H200_BYTES = 151_397_597_184
H200 = f"""
gpu_device_info {{
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 shared_memory_per_core: 233472
  threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128 block_dim_limit_x: 2147483647
  block_dim_limit_y: 65535 block_dim_limit_z: 65535 memory_bandwidth: 4800000000000 l2_cache_size: 52428800
  clock_rate_ghz: 1.98 device_memory_size: {H200_BYTES} shared_memory_per_block_optin: 232448
  cuda_compute_capability {{ major: 9 minor: 0 }} registers_per_core_limit: 65536 registers_per_block_limit: 65536
}}
platform_name: "CUDA"
dnn_version_info {{ major: 9 minor: 10 patch: 0 }}
runtime_version {{ major: 12 minor: 9 patch: 0 }}
device_description_str: "NVIDIA H200"
"""
"""Description of an H200 for XLA, as a text protocol buffer."""


def platform(topology: str) -> str:
    """Returns `tpu`, `cuda` or `cpu`; raises EtpError for another kind of name."""
    if re.fullmatch(r"h200:\d+x\d+x\d+", topology):
        return "cuda"
    if re.fullmatch(r"cpu:[1-9]\d*", topology):
        return "cpu"
    if re.match(r"v\d|tpu", topology):
        return "tpu"
    raise EtpError(
        f"--topology {topology}: name a TPU slice such as v5e:16x16, NVIDIA GPUs such as h200:1x4x8, or virtual CPU "
        "devices such as cpu:8"
    )


def compiler(topology: str) -> Compiler:
    """Returns the compiler for a topology; raises EtpError if it is not installed."""
    needed = COMPILERS[platform(topology)]
    try:
        found = importlib.util.find_spec(needed.module)
    except ModuleNotFoundError:  # the package above it
        found = None
    if found is None:
        raise EtpError(
            f"etp plan compiles with {needed.package}, which is not installed; `{needed.advice}` in this environment "
            "(the devices need not be there)"
        )
    return needed


def environment(topology: str) -> dict[str, str]:
    """Returns the environment variables of a process that compiles for a topology."""
    own, kind, flags = compiler(topology).environment, platform(topology), os.environ.get("XLA_FLAGS", "")
    if kind == "cuda":
        flags = f"{flags} {WITHOUT_TIMING}"
    elif kind == "cpu":
        flags = f"{flags} --xla_force_host_platform_device_count={topology.partition(':')[2]}"
    return {**os.environ, **COMMON, **own, "XLA_FLAGS": flags.strip()}


def devices(topology: str, slices: int) -> list[Any]:
    """Returns the devices; the process must have the `environment` of the topology.

    Raises:
      EtpError: the compiler knows no such topology.
    """
    import jax
    from jax.experimental import topologies

    from etp_jax.training.jax_private import make_cuda_known

    kind = platform(topology)
    if kind == "cpu":
        return jax.devices()
    options: dict[str, Any] = {"num_slices": slices} if slices > 1 else {}
    name = topology
    if kind == "cuda":
        make_cuda_known()
        name, _, options["topology"] = topology.partition(":")
        options["target_config"] = H200
    elif topology.startswith("v4:"):
        options["chip_config_name"] = "megacore"  # otherwise a device would be half a chip
    try:
        return list(topologies.get_topology_desc(platform=kind, topology_name=name, **options).devices)
    except (RuntimeError, ValueError) as error:
        raise EtpError(
            f"--topology {topology}: {COMPILERS[kind].package} has no such devices ({one_line(error)}); name some like "
            "v5e:16x16, v6e:8x8, v5p:4x4x4 or h200:1x4x8"
        ) from None


def device_bytes(device: Any) -> int | None:
    """Returns the memory of a device that a program may use; None: not known."""
    if device.platform in ("cuda", "gpu"):
        return int(JAX_SHARE * H200_BYTES)
    return _tpu_bytes(device) if device.platform == "tpu" else None


def _tpu_bytes(device: Any) -> int | None:
    """Returns the usable memory of a TPU: the compiler names it when it refuses a program of 2 TiB."""
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
