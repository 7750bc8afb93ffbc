"""Command `etp quickstart`, which runs the whole pipeline once on a synthetic archive."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from etp_jax.cli.command import Command
from etp_jax.cli.evaluate import evaluate
from etp_jax.cli.prep import PrepSynthetic, prep_synthetic
from etp_jax.cli.report import Report, report
from etp_jax.cli.train import Train, train
from etp_jax.configs import load_recipe
from etp_jax.evaluation.probe import Probe
from etp_jax.evaluation.zero_shot import ZeroShot


@dataclass(frozen=True)
class Quickstart:
    """Runs everything in a few minutes: synthetic archive, shards, training, zero-shot, probe, report.html."""

    out: Path = Path("runs/quickstart")
    """Folder for all output files."""
    records: int = 2000
    """Number of synthetic ECGs."""


def quickstart(options: Quickstart) -> None:
    """Runs `etp quickstart`."""
    shards, run = options.out / "shards", options.out / "run"
    recipe = load_recipe("quickstart")
    prep_synthetic(PrepSynthetic(out=shards, records=options.records))
    train(Train(workdir=run, config=replace(recipe, data=replace(recipe.data, shards=str(shards)))))
    evaluate(ZeroShot(run=run, shards=shards, split="test", prompts=("contrast",)))
    evaluate(Probe(run=run, shards=shards, split="test"))
    report(Report(run=run, shards=shards))


COMMANDS = {"quickstart": Command(Quickstart, quickstart)}
