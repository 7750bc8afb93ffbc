"""Private names of jax that have no public equivalent. No other module imports private names of jax.

`backends_are_initialized` returns whether jax has initialised its devices; XLA flags and `jax.distributed` have no
effect after that. `global_state` holds the client of the key-value store that all processes of a run share.
`make_cuda_known` lets jax compile for NVIDIA GPUs on a machine without one.
"""

from __future__ import annotations

from etp_jax.errors import EtpError

SEEN_WITH = ("0.10", "0.11", "0.12")
"""Releases of jax that passed tests/training/test_jax_private.py."""

try:
    from jax._src import xla_bridge
    from jax._src.distributed import global_state
    from jax._src.xla_bridge import backends_are_initialized
except ImportError as error:
    raise EtpError(
        f"this version of jax has moved a private name ({error}); install one of {', '.join(SEEN_WITH)}"
    ) from None

__all__ = ["SEEN_WITH", "backends_are_initialized", "global_state", "make_cuda_known"]


def make_cuda_known() -> None:
    """Makes jax resolve `gpu` and `cuda` in a process that has neither; no public option does (jax issue 23971)."""
    known = xla_bridge.canonicalize_platform

    def with_cuda(platform: str) -> str:
        return "cuda" if platform in ("gpu", "cuda") else known(platform)

    xla_bridge.canonicalize_platform = with_cuda
