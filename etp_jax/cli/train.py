"""Command `etp train`, which trains a recipe."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated

import tyro

from etp_jax.cli.command import Command
from etp_jax.cli.option_help import own_options, pointer, recipe_options
from etp_jax.cli.recipe import named_recipe
from etp_jax.config import TrainConfig


@dataclass(frozen=True)
class Train:
    """Trains a recipe, or resumes the run in WORKDIR."""

    workdir: Path
    """Run folder: checkpoints, metrics, evaluation."""
    recipe: Annotated[str, tyro.conf.arg(name="config")] = "ptbxl"
    """Name of a shipped recipe, or a .py file that defines `config`."""
    stage: str | None = None
    """Stage of a recipe that has several: FG-CLEP's `coarse` or `fine`."""
    max_steps: int = 0
    """Maximum number of steps, for a short run; the whole schedule shrinks to this length. 0: all epochs."""
    extend: bool = False
    """Continue a finished run to more --optim.epochs or --max-steps."""
    compiled: Path | None = None
    """Step compiled before by `etp plan --save`, for these devices, versions, options and sizes of the data; it is a
    pickle, so load only files that you made."""
    distributed: bool = False
    """Train on several hosts. Coordinator, process count and process id come from the environment: JAX's own detection
    of SLURM, GKE and TPU pods, or JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES and JAX_PROCESS_ID. If a process is lost,
    the others stop within 10 seconds with status 75; the same command, on the same or other hosts, resumes the run."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def default(argv: list[str]) -> Train:
    """Returns the default options, with the recipe that the arguments name."""
    return Train(workdir=tyro.MISSING, **named_recipe(argv, Train.recipe))


def brief(argv: list[str]) -> str:
    """Formats the short help: the options of `etp train` and the commonly used options of the recipe."""
    options = default(argv)
    own, recipe = own_options(Train, options), recipe_options(options.config)
    return "\n".join(["usage: etp train --workdir RUN [options]", "", *own, *recipe, "", *pointer("train")])


def train(args: Train) -> None:
    """Runs `etp train`."""
    from etp_jax.training import distributed, loop

    config = args.config
    if args.max_steps:
        config = replace(config, optim=replace(config.optim, max_steps=args.max_steps))
    if args.distributed:
        distributed.initialise()
    with distributed.ProcessWatch():
        loop.train(config, args.workdir, extend=args.extend, compiled=args.compiled)


COMMANDS = {
    "train": Command(Train, train, default, brief),
}
