"""What of a study is there already, what is left to do, and how long that will take."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import jax

from etp_jax import config as config_module
from etp_jax.bench import steps
from etp_jax.config import DataConfig, OptimConfig, RunConfig, TrainConfig
from etp_jax.encoder.folder import ENCODER_FILE, load_encoder
from etp_jax.encoder.folder import run_folder as folder_of
from etp_jax.errors import EtpError
from etp_jax.evaluation.evaluate import REVISION
from etp_jax.evaluation.request import Request
from etp_jax.evaluation.results import Result
from etp_jax.reproduce.study import Measurement, Run, Study
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.training import checkpoint, optim, resume, run_folder
from etp_jax.training.batches import Batches
from etp_jax.training.log import read_metrics

RUNS = "runs"
"""Subfolder of the study's folder that holds what it trains, as `<name>-<seed>`."""
LOG = "log.jsonl"
"""What was done, when, and how long it took."""
TRIAL_S = 5.0
"""Length of a timed trial."""


@dataclass(frozen=True)
class PlannedTraining:
    """A run with one seed."""

    run: Run
    seed: int
    folder: Path
    config: TrainConfig
    done: int
    """Step of the newest checkpoint."""
    total: int
    """Steps of the whole run; 0 if it cannot be trained."""
    problem: str = ""
    """Why it cannot be trained."""

    def __str__(self) -> str:
        """Such as `fine-0`."""
        return f"{self.run.name}-{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether nothing is left to train."""
        return 0 < self.total <= self.done


@dataclass(frozen=True)
class PlannedEvaluation:
    """One evaluation of one run and seed."""

    run: str
    seed: int
    folder: Path
    """Run folder."""
    measurement: Measurement

    @property
    def request(self) -> Request:
        """What `evaluate` takes."""
        return replace(self.measurement.request, run=self.folder)

    def __str__(self) -> str:
        """Such as `fine-0: zero-shot ptbxl-super, contrast`."""
        return f"{self.run}-{self.seed}: {self.measurement}"


def check_shards(study: Study) -> None:
    """Raises EtpError, before hours are spent, if the shards lack the split or labels that are to be measured on."""
    shards = Shards(study.shards)
    for measurement in dict.fromkeys(m for own in study.measurements.values() for m in own):
        try:
            records = measurement.request.records(shards)
            if records is None:
                shards.split(study.split)
            else:
                records.of(study.split)
        except EtpError as error:
            raise EtpError(f"{study.file}: {measurement}: {error}") from None


def trainings(study: Study, out: Path) -> list[PlannedTraining]:
    """All runs, those of the first seed first, each after the one that it starts from.

    Raises:
      EtpError: a run folder holds a run of other options, naming the first that differs; or one that the study takes as
        finished is not there, or of another seed.
    """
    seeds = sorted({seed for run in study.runs for seed in run.seeds})
    found: dict[tuple[str, int], PlannedTraining] = {}
    for seed in seeds:
        for run in study.runs:
            if seed in run.seeds:
                try:
                    base = found[run.start_from, seed].folder if run.start_from else None
                    found[run.name, seed] = _existing(run, seed) if run.folder else _training(run, seed, out, base)
                except EtpError as error:
                    raise EtpError(f"{study.file}: run {run.name}, seed {seed}: {error}") from None
    return list(found.values())


def evaluations(study: Study, training: PlannedTraining) -> list[PlannedEvaluation]:
    """All that the study measures of a run."""
    name, seed = training.run.name, training.seed
    return [
        PlannedEvaluation(name, seed, training.folder, measurement)
        for measurement, seeds in study.measurements[name].items()
        if seed in seeds
    ]


def measured(study: Study, training: PlannedTraining) -> dict[PlannedEvaluation, Result]:
    """A finished run's evaluations whose files are whole and of this checkpoint, these shards, prompts and draws."""
    if (_step(training.folder, "latest") or 0) < training.total:
        return {}
    step, fingerprint = _step(training.folder, study.checkpoint), Shards(study.shards).fingerprint
    found = {e: _read(e.request) for e in evaluations(study, training)} if step else {}
    return {e: result for e, result in found.items() if result and _fits(result, e.request, step, fingerprint)}


def _read(request: Request) -> Result | None:
    try:
        return Result.load(request.path)
    except EtpError:
        return None


def _fits(result: Result, request: Request, step: int | None, fingerprint: str) -> bool:
    replicates = {array.shape for row in result.rows for array in row.replicates.values()}
    return (
        result.revision == REVISION
        and result.step == step
        and result.shards["fingerprint"] == fingerprint
        and request.answered_by(result.protocol)
        and replicates == {(1 + request.bootstrap,)}
    )


def _step(folder: Path, which: Any) -> int | None:
    """Step of a checkpoint; None if there is none, also where training did not come to its first step."""
    if (folder / ENCODER_FILE).exists():
        return load_encoder(folder)[1]
    if not (folder / checkpoint.FOLDER).is_dir() or not (folder / run_folder.CONFIG_FILE).exists():
        return None
    best = config_module.load(folder / run_folder.CONFIG_FILE).run.best
    with checkpoint.Checkpoints(folder, best, read_only=True) as checkpoints:
        return checkpoints.find(which)


def _existing(run: Run, seed: int) -> PlannedTraining:
    assert run.folder is not None
    folder = folder_of(run.folder.replace("{seed}", str(seed)))
    config, step = config_module.load(folder / run_folder.CONFIG_FILE), _step(folder, "latest")
    if step is None:
        raise EtpError(f"{folder}: has no checkpoint")
    if config.seed != seed:
        raise EtpError(f"{folder}: was trained with seed {config.seed}")
    return PlannedTraining(run, seed, folder, config, step, step)


def _training(run: Run, seed: int, out: Path, base: Path | None) -> PlannedTraining:
    assert run.config is not None
    folder = out / RUNS / f"{run.name}-{seed}"
    config = replace(run.config, seed=seed, start_from=str(base or ""))
    done = _step(folder, "latest") or 0
    try:
        shards = Shards(config.data.shards)
        total = optim.total_steps(config.optim, _steps_per_epoch(config))
    except EtpError as error:  # such as shards that are still to be made; the other runs need not wait for them
        return PlannedTraining(run, seed, folder, config, done, 0, str(error))
    if done:
        config = _same_as(folder, config, shards)
    return PlannedTraining(run, seed, folder, config, done, total)


def _same_as(folder: Path, config: TrainConfig, shards: Shards) -> TrainConfig:
    """The config with which the run in a folder goes on; raises EtpError naming the first option that differs."""
    there = config_module.load(folder / run_folder.CONFIG_FILE)
    if Path(there.start_from).name == Path(config.start_from).name:  # runs of a study may be moved together
        config = replace(config, start_from=there.start_from)
    saved, data = config_module.to_dict(there), run_folder.read_about(folder / run_folder.SHARDS_FILE)
    text = run_folder.read_about(folder / run_folder.TEXT_FILE)["sha256"]
    resume.check_same(
        folder,
        {"config": saved, "fingerprint": data["fingerprint"], "text_sha256": text},
        {"config": config_module.to_dict(config), "fingerprint": shards.fingerprint, "text_sha256": text},
        extend=False,
    )
    return config


def _steps_per_epoch(config: TrainConfig) -> int:
    data = config.data
    return _steps(data.shards, data.batch_size, data.train_share)


@cache
def _steps(shards: str, batch_size: int, share: float) -> int:
    opened = Shards(shards)
    return Batches(opened.split(TRAIN), opened.reports(TRAIN), batch_size, 0, share=share).steps_per_epoch


@dataclass(frozen=True)
class Estimate:
    """How long something will take."""

    seconds: float
    source: str


def training_time(training: PlannedTraining, others: list[PlannedTraining]) -> Estimate:
    """Time of the steps that are left: by runs of the same model and batch where there are any, else by a trial."""
    ecgs = (training.total - training.done) * training.config.data.batch_size
    shape = _shape(training.config, Shards(training.config.data.shards).samples)
    for other in others:
        about, rate = other.folder / run_folder.SHARDS_FILE, _logged_rate(other.folder)
        if rate and _shape(other.config, run_folder.read_about(about)["samples"]) == shape:
            return Estimate(ecgs / rate, f"{rate:.0f} ECG/s, as logged by {other}")
    rate = _trial_rate(*shape)
    return Estimate(ecgs / rate, f"{rate:.0f} ECG/s in a trial of {TRIAL_S:g} s")


def evaluation_times(out: Path) -> dict[str, float]:
    """Median seconds of the evaluations so far, by kind."""
    seconds: dict[str, list[float]] = {}
    for line in read_log(out):
        if line["what"] == "evaluate" and not line["error"]:
            seconds.setdefault(line["kind"], []).append(line["seconds"])
    return {key: statistics.median(values) for key, values in seconds.items()}


def read_log(out: Path) -> list[dict[str, Any]]:
    """The lines of the study's log; one that was cut short is left out."""
    path = out / LOG
    lines = path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []
    return [json.loads(line) for line in lines]


def _shape(config: TrainConfig, samples: int) -> tuple[TrainConfig, int]:
    """What decides the time of a step, as a recipe with all else at its default, and the samples of an ECG."""
    shape = TrainConfig(
        data=DataConfig(batch_size=config.data.batch_size),
        model=config.model,
        optim=OptimConfig(micro_batches=config.optim.micro_batches),
        run=RunConfig(parallel=config.run.parallel, precision=config.run.precision),
    )
    return shape, samples


def _logged_rate(folder: Path) -> float | None:
    """Median ECG/s of a run's log."""
    rates = [line["ecg_per_s"] for line in read_metrics(folder) if line.get("ecg_per_s")]
    return statistics.median(rates) if rates else None


@cache
def _trial_rate(config: TrainConfig, samples: int) -> float:
    """ECG/s of the training step on made-up ECGs."""
    step = steps.ours(config, samples, jax.devices())[0][0].steps
    step(1)
    started, made = time.perf_counter(), 0
    while time.perf_counter() - started < TRIAL_S:
        step(1)
        made += 1
    return made * config.data.batch_size / (time.perf_counter() - started)
