"""`etp train`: trains a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from etp_jax.cli.command import Command
from etp_jax.cli.recipe import named_recipe
from etp_jax.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Trains a recipe, or goes on with the run that WORKDIR holds."""

    workdir: Path
    """Run folder: checkpoints, metrics, evaluation."""
    config: str = "ptbxl"
    """A shipped recipe's name, or a .py file that defines `config`."""
    stage: str | None = None
    """Stage of a recipe that has several: FG-CLEP's `coarse` or `fine`."""
    extend: bool = False
    """Go on with a finished run to a greater --optim.epochs."""
    distributed: bool = False
    """Several hosts: take coordinator, process count and process id from the environment (JAX's own detection of
    SLURM, GKE and TPU pods, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID). If a process is lost,
    the others stop within 10 seconds with status 75; the same command, on as many hosts or other ones, goes on."""
    recipe: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def default(argv: list[str]) -> Train:
    """The options with the recipe that the arguments name."""
    return Train(workdir=tyro.MISSING, **named_recipe(argv, Train.config))


def train(args: Train) -> None:
    """Runs `etp train`."""
    from etp_jax.training import distributed, loop

    if args.distributed:
        distributed.initialise()
    with distributed.ProcessWatch():
        loop.train(args.recipe, args.workdir, extend=args.extend)


COMMANDS = {
    "train": Command(Train, train, default),
}
