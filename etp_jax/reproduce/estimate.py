"""Estimates of the time and the memory of a study's trainings. Steps are compiled for their memory, never run."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import jax

from etp_jax.bench import flops
from etp_jax.config import DataConfig, LossConfig, OptimConfig, RunConfig, TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError, one_line
from etp_jax.files import read_json
from etp_jax.reproduce.plan import PlannedTraining, batches
from etp_jax.shards.reader import Shards
from etp_jax.training import run_folder
from etp_jax.training.log import read_metrics
from etp_jax.training.parallel import Parallel
from etp_jax.training.program import Sizes, program, text_tower
from etp_jax.training.room import check_fits

BENCH = "bench.json"
"""File of the study's folder that holds a benchmark of this machine, the JSON of `etp bench`."""
QUICK = {"cpu": {"xla_backend_optimization_level": 0}}
"""Compiler options by platform that shorten a compilation and leave the memory as it is."""


@dataclass(frozen=True)
class Time:
    """Estimated time of some work."""

    seconds: float
    source: str
    """Basis of the estimate, in words."""


@dataclass(frozen=True)
class Benchmark:
    """Speed of the training step of a recipe on this machine."""

    file: Path
    recipe: str
    flops_per_s: float
    """FLOPs per second of all devices."""


def read_benchmark(out: Path) -> Benchmark | None:
    """Reads `bench.json` of the study's folder; None if there is no such file.

    Raises:
      EtpError: the file is damaged, or comes from another kind or number of devices.
    """
    file = out / BENCH
    if not file.exists():
        return None
    advice = f"measure again with {bench_command(out)}"
    report, here = read_json(file, advice), jax.devices()[0].device_kind
    try:
        steps = [row for row in report["rows"] if row.get("what") == "train step" and row["framework"] == "etp-jax"]
        steps = [row for row in steps if row["devices"] == jax.device_count()]
        rates = [float(row["flops"]) / statistics.median(row["step_s"]) for row in steps]
        if report["device"] != here or not rates:
            raise EtpError(f"{file}: not measured on {jax.device_count()} x {here}; {advice}")
        return Benchmark(file, str(report["recipe"]), max(rates))
    except (LookupError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        raise EtpError(f"{file}: not the JSON of `etp bench` ({one_line(error)}); {advice}") from None


def bench_command(out: Path) -> str:
    """Returns the command that measures this machine for `read_benchmark`."""
    return f"`etp bench --config mets --json {out / BENCH}`"


def training_time(
    training: PlannedTraining, others: Sequence[PlannedTraining], benchmark: Benchmark | None
) -> Time | None:
    """Estimates the time of the remaining steps, from a logged run of the same step, or from FLOPs and a benchmark.

    Args:
      training: run to be trained.
      others: all runs of the study.
      benchmark: speed of this machine.

    Returns:
      The estimate; None if there is nothing to base one on.
    """
    steps, shape = training.total - training.done, _shape(training.config)
    samples = Shards(training.config.data.shards).samples
    for other in others:
        rate = _logged_rate(other.folder)
        there = run_folder.read_about(other.folder / run_folder.SHARDS_FILE)["samples"] if rate else None
        if rate and there == samples and _shape(other.config) == shape:
            return Time(steps * shape.data.batch_size / rate, f"{rate:.0f} ECG/s, as logged by {other}")
    if benchmark is None:
        return None
    source = f"{benchmark.flops_per_s / 1e9:.0f} GFLOP/s, as {benchmark.file.name} has for {benchmark.recipe}"
    return Time(steps * _work(training.config).flops / benchmark.flops_per_s, source)


def training_memory(training: PlannedTraining) -> int | None:
    """Counts the bytes that a step needs on each device, by XLA; None where the platform does not report them.

    Raises:
      EtpError: the step does not fit, and what would; or an option is impossible.
    """
    config = training.config
    return _memory(_shape(config), _sizes(config))


@cache
def _memory(config: TrainConfig, sizes: Sizes) -> int | None:
    parallel = Parallel(config.run.parallel)
    built = program(config, sizes, parallel, bert=text_tower(config))
    return check_fits(built.dispatch, built.args, config, parallel, built.resident, QUICK.get(parallel.platform))


@cache
def _work(config: TrainConfig) -> flops.Step:
    """Counts the work of a step on all devices."""
    sizes, parallel, bert = _sizes(config), Parallel(config.run.parallel), text_tower(config)
    built = program(config, sizes, parallel, bert=bert)
    text = None if config.model.text.frozen else (bert, sizes.tokens)
    return flops.train_step(
        config, sizes.samples, len(LEADS), built.params, text, bert.hidden_size, built.dtype, parallel.devices
    )


def _sizes(config: TrainConfig) -> Sizes:
    """Returns the sizes of a run's data; a report counts as long as the recipe allows."""
    found = batches(config.data.shards, config.data.batch_size, config.data.train_share)
    return Sizes(
        samples=found.split.shards.samples,
        records=len(found.paired),
        reports=len(found.reports.reports),
        tokens=config.model.text.max_tokens,
    )


def _shape(config: TrainConfig) -> TrainConfig:
    """Returns the options that determine time and memory of a step, others at their defaults."""
    data, optim, run = config.data, config.optim, config.run
    return TrainConfig(
        data=DataConfig(batch_size=data.batch_size, resident=data.resident),
        model=config.model,
        loss=LossConfig(block=config.loss.block, ring=config.loss.ring),
        optim=OptimConfig(micro_batches=optim.micro_batches, ema=optim.ema),
        run=RunConfig(parallel=run.parallel, precision=run.precision, steps_per_dispatch=run.steps_per_dispatch),
    )


def _logged_rate(folder: Path) -> float | None:
    """Median training speed in a run's log, in ECG/s; None if there is none."""
    rates: list[Any] = [line["ecg_per_s"] for line in read_metrics(folder) if line.get("ecg_per_s")]
    return statistics.median(rates) if rates else None
