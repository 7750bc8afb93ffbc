"""An evaluation in one call, for tests that look at the JSON."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from etp_jax.evaluation import KINDS, evaluate


def measure(kind: str, run: Path, shards: Path, task: str | None = None, **options: Any) -> dict[str, Any]:
    """Evaluates a run and returns what the JSON holds; `prompts` may be one text."""
    if isinstance(options.get("prompts"), str):
        options["prompts"] = (options["prompts"],)
    options |= {"task": task} if task else {}
    return evaluate(KINDS[kind].options(run=run, shards=shards, **options)).to_dict()
