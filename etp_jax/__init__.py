"""etp-jax: ECG representations from ECGs and their reports, in JAX.

`etp_jax.load(run)` gives the model of a run; it is resolved when it is first used: `import etp_jax` alone loads no jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etp_jax.api import load

__all__ = ["load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name == "load":
        from etp_jax.api import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
