"""Set-up that all tests share."""

from __future__ import annotations

import os
from pathlib import Path

# The same small programs are compiled in many test processes; jax reads these when it is imported.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parent.parent / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
