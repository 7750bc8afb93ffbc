"""etp-jax: learns ECG representations from ECGs and their reports, in JAX.

`etp_jax.load()` returns the shipped encoder, `etp_jax.load(run)` that of a run, both as an `EcgModel`:

    model = etp_jax.load()
    model.zero_shot(signal, ["sinus rhythm", "atrial fibrillation"], fs=500)

Both names are imported on first use: `import etp_jax` alone does not load jax.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from etp_jax.api import EcgModel, load

__all__ = ["EcgModel", "load"]
__version__ = "0.2.0"


def __getattr__(name: str) -> Any:
    if name in __all__:
        from etp_jax import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
