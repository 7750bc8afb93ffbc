"""`etp evaluate ...`: evaluates an encoder, with one command for each kind of evaluation."""

from __future__ import annotations

import sys

from etp_jax.cli.command import Command, show
from etp_jax.evaluation.kinds import KINDS
from etp_jax.evaluation.request import Request


def evaluate(request: Request) -> None:
    """Runs `etp evaluate KIND`."""
    from etp_jax.evaluation import evaluate as measure
    from etp_jax.evaluation.results import sensitivity

    request.check()
    for warning in request.warnings():
        show(warning, file=sys.stderr)
    results = {}
    for part in request.parts():
        result = results[part.how] = measure(part)
        show(f"{result.table()}\n\nwrote {part.path}")
    if len(results) > 1:
        show(f"\n{sensitivity(results, KINDS[request.kind].compared[0])}")


COMMANDS = {f"evaluate {kind.name}": Command(kind.options, evaluate) for kind in KINDS.values()}
