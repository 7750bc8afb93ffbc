"""`etp bench`: speed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from etp_jax.cli.command import Command
from etp_jax.cli.recipe import named_recipe
from etp_jax.config import TrainConfig


@dataclass(frozen=True)
class Bench:
    """Measures ECG/s, utilisation and memory of the training step and the encoder, and the reader's records/s."""

    config: str = "mets"
    """A shipped recipe's name, or a .py file that defines `config`."""
    samples: int = 1000
    """Length of the made-up ECGs: 1000 is 10 s at 100 Hz, 5000 at 500 Hz."""
    repeats: int = 5
    """Rounds; figures are their medians."""
    batch_sizes: tuple[int, ...] = ()
    """Measure several batch sizes (over all devices) instead of --data.batch-size."""
    device_counts: tuple[int, ...] = ()
    """Measure on so many of this machine's devices, one number after the other; by default on all."""
    scaling: Literal["weak", "strong"] = "weak"
    """With several device counts. weak: each device keeps its batch, the given sizes are those on the most devices;
    strong: the whole batch stays the same."""
    compare: Literal["torch"] | None = None
    """Runs the same layers, batch and precision in PyTorch too, in turns; torch must be installed."""
    peak_tflops: float | None = None
    """What a device computes at best, in 10^12 FLOPs a second, where its data sheet is not known or not meant."""
    peak_gb_per_s: float | None = None
    """Its memory bandwidth, in 10^9 bytes a second."""
    trace: Path | None = None
    """Folder for a profile of three training steps; TensorBoard (XProf) and Perfetto open it."""
    plot: Path | None = None
    """SVG file for ECG/s over batch sizes or device counts."""
    json: Path | None = None
    """Where the figures go; their form is described in etp_jax/bench.py."""
    recipe: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def default(argv: list[str]) -> Bench:
    """The options with the recipe that the arguments name."""
    return Bench(**named_recipe(argv, Bench.config))


def bench(args: Bench) -> None:
    """Runs `etp bench`."""
    from etp_jax.bench.run import run

    run(
        args.recipe,
        recipe=args.config,
        samples=args.samples,
        repeats=args.repeats,
        batch_sizes=args.batch_sizes,
        device_counts=args.device_counts,
        scaling=args.scaling,
        compare=args.compare,
        peak_tflops=args.peak_tflops,
        peak_gb_per_s=args.peak_gb_per_s,
        trace=args.trace,
        plot=args.plot,
        json_path=args.json,
    )


COMMANDS = {
    "bench": Command(Bench, bench, default),
}
