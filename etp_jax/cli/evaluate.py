"""`etp evaluate`: measures what an encoder learned."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from etp_jax.cli.command import Command
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class Evaluate:
    """Measures a run: zero-shot, linear probe, nearest neighbours, fine-tuning, retrieval; beside a random encoder."""

    kind: tyro.conf.Positional[Literal["zero-shot", "probe", "knn", "finetune", "retrieval"]]
    run: Path
    """Run folder made by `etp train`."""
    shards: Path
    """Shard folder to evaluate on."""
    task: str = "ptbxl-super"
    """Downstream task: a name, or the .json file of your own; retrieval needs none."""
    split: str = "validation"
    """`test` is asked for by name, for final tables only; `all` (zero-shot) is every record of the shards."""
    checkpoint: Literal["best", "latest"] = "best"
    protocol: Literal["honest", "merl-as-published"] = "honest"
    """Of probe and finetune. `merl-as-published` repeats what MERL's code does, choosing the epoch on the scored split
    among other things (etp_jax/evaluation/as_published.py names them all)."""
    prompts: tuple[str, ...] = ("default",)
    """Prompt sets of a zero-shot evaluation, or .json files, {class code: text or list of texts}; of several, a table
    says how much they matter."""
    published: Path | None = None
    """Folder of published CSV files: their records, labels and splits count instead of the shards' own."""
    json: Path | None = None
    """Where the figures go; by default RUN/evaluation/."""


def evaluate(args: Evaluate) -> None:
    """Runs `etp evaluate`."""
    from etp_jax import evaluation

    if args.prompts != ("default",) and args.kind != "zero-shot":
        raise EtpError(f"--prompts is of zero-shot; a {args.kind} reads none")
    if len(args.prompts) > 1 and args.json:
        raise EtpError("--json names one file; leave it out where there are several --prompts")
    found = {
        prompts: evaluation.run(
            args.kind,
            args.run,
            args.shards,
            args.task,
            split=args.split,
            prompts=prompts,
            json_path=args.json,
            checkpoint=args.checkpoint,
            published=args.published,
            protocol=args.protocol,
        )
        for prompts in args.prompts
    }
    if len(found) > 1:
        print(f"\n{evaluation.sensitivity(found)}")


COMMANDS = {
    "evaluate": Command(Evaluate, evaluate),
}
