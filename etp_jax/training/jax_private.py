"""The only place that imports private names of jax, for what has no public equivalent.

`backends_are_initialized`: whether jax has started its devices, after which XLA flags and `jax.distributed` come too
late. `global_state`: the client of the key-value store that all processes of a run share.
"""

from __future__ import annotations

from etp_jax.errors import EtpError

SEEN_WITH = ("0.10", "0.11", "0.12")
"""Releases of jax with which tests/training/test_jax_private.py passed."""

try:
    from jax._src.distributed import global_state
    from jax._src.xla_bridge import backends_are_initialized
except ImportError as error:
    raise EtpError(
        f"this version of jax has moved a private name ({error}); install one of {', '.join(SEEN_WITH)}"
    ) from None

__all__ = ["SEEN_WITH", "backends_are_initialized", "global_state"]
