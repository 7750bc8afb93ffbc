"""The plan of a study: finished work and remaining work."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.encoder.folder import ENCODER_FILE, is_of, load_encoder
from etp_jax.encoder.folder import run_folder as folder_of
from etp_jax.errors import EtpError
from etp_jax.evaluation.evaluate import REVISION
from etp_jax.evaluation.request import Request
from etp_jax.evaluation.results import Result
from etp_jax.files import write_text
from etp_jax.json_text import parse_json
from etp_jax.paths import read_file
from etp_jax.reproduce.study import Measurement, Run, Study
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.training import checkpoint, optim, resume, run_folder
from etp_jax.training.batches import Batches

RUNS = "runs"
"""Subfolder of the study's folder for its run folders `<name>-<seed>`."""
LOG = "log.jsonl"
"""Log file of trainings and evaluations, with times and durations."""
LOG_TYPES = {"what": str, "error": (str, type(None)), "kind?": str, "seconds": float}
"""Types of the fields of its lines that are read."""


@dataclass(frozen=True)
class PlannedTraining:
    """A run with one seed."""

    run: Run
    seed: int
    folder: Path
    config: TrainConfig
    done: int
    """Step of the latest checkpoint; 0 if there is none."""
    total: int
    """Number of steps of the whole run; 0 if it cannot be trained."""
    problem: str = ""
    """Reason why the run cannot be trained; empty if it can."""

    def __str__(self) -> str:
        """Name and seed, such as `fine-0`."""
        return f"{self.run.name}-{self.seed}"

    @property
    def finished(self) -> bool:
        """Whether the run is completely trained."""
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
        """Request for `evaluate`, with the run folder filled in."""
        return replace(self.measurement.request, run=self.folder)

    def __str__(self) -> str:
        """Run, seed and measurement, such as `fine-0: zero-shot ptbxl-super, contrast`."""
        return f"{self.run}-{self.seed}: {self.measurement}"


def check_shards(study: Study) -> None:
    """Raises EtpError, before any long work, if the shards lack the split or the labels of an evaluation."""
    for measurement in dict.fromkeys(m for own in study.measurements.values() for m in own):
        request = measurement.request
        try:
            records = request.records(Shards(request.shards))
            if records is None:
                Shards(request.shards).split(request.split)
            else:
                records.of(request.split)
        except EtpError as error:
            raise EtpError(f"{study.file}: {measurement}: {error}") from None


def trainings(study: Study, out: Path) -> list[PlannedTraining]:
    """Lists all runs by seed; each run comes after the one that it starts from.

    Raises:
      EtpError: a run folder holds a run with other options (the message names the first that differs); or an existing
        run of the study is missing or has another seed.
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
    """Lists all evaluations of a run that the study defines."""
    name, seed = training.run.name, training.seed
    return [
        PlannedEvaluation(name, seed, training.folder, measurement)
        for measurement, seeds in study.measurements[name].items()
        if seed in seeds
    ]


def measured(study: Study, training: PlannedTraining) -> dict[PlannedEvaluation, Result]:
    """Returns the valid results of a finished run: same checkpoint, shards, prompts and number of draws."""
    if (_step(training.folder, "latest") or 0) < training.total:
        return {}
    step = _step(training.folder, study.checkpoint)
    found = {e: _read(e.request) for e in evaluations(study, training)} if step else {}
    prints = {folder: Shards(folder).fingerprint for folder in {e.request.shards for e in found}}
    return {e: result for e, result in found.items() if result and _fits(result, e.request, step, prints)}


def _read(request: Request) -> Result | None:
    """Reads the result of a request; one of the latest checkpoint had the name of the best one's before."""
    for path in dict.fromkeys((request.path, replace(request, checkpoint="best").path)):
        try:
            result = Result.load(path)
        except EtpError:
            continue
        if result.checkpoint.get("which", request.checkpoint) == request.checkpoint:
            return result
    return None


def _fits(result: Result, request: Request, step: int | None, fingerprints: Mapping[Path, str]) -> bool:
    replicates = {array.shape for row in result.rows for array in row.replicates.values()}
    return (
        result.revision == REVISION
        and is_of(result.checkpoint, request.folder, step)
        and result.shards["fingerprint"] == fingerprints[request.shards]
        and request.answered_by(result)
        and replicates == {(1 + request.bootstrap,)}
    )


def _step(folder: Path, which: Any) -> int | None:
    """Step of a checkpoint; None if there is none, or if training stopped before its first step."""
    if (folder / ENCODER_FILE).exists():
        return load_encoder(folder)[1]
    if not (folder / checkpoint.FOLDER).is_dir() or not (folder / run_folder.CONFIG_FILE).exists():
        return None
    best = run_folder.load_config(folder).run.best
    with checkpoint.Checkpoints(folder, best, read_only=True) as checkpoints:
        return checkpoints.find(which)


def _existing(run: Run, seed: int) -> PlannedTraining:
    assert run.folder is not None
    folder = folder_of(run.folder.replace("{seed}", str(seed)))
    config, step = run_folder.load_config(folder), _step(folder, "latest")
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
        steps_per_epoch = batches(config.data.shards, config.data.batch_size, config.data.train_share).steps_per_epoch
        total = optim.total_steps(config.optim, steps_per_epoch)
    except EtpError as error:  # for example shards that do not exist yet; the other runs can proceed
        return PlannedTraining(run, seed, folder, config, done, 0, str(error))
    if done:
        config = _same_as(folder, config, shards)
    return PlannedTraining(run, seed, folder, config, done, total)


def _same_as(folder: Path, config: TrainConfig, shards: Shards) -> TrainConfig:
    """Returns the config to resume a run with; raises EtpError that names the first option that differs."""
    there = run_folder.load_config(folder)
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


@cache
def batches(shards: str, batch_size: int, share: float) -> Batches:
    """Returns the batches of runs on these shards."""
    opened = Shards(shards)
    return Batches(opened.split(TRAIN), opened.reports(TRAIN), batch_size, 0, share=share)


def evaluation_times(out: Path) -> dict[str, float]:
    """Median time of the logged evaluations in seconds, by kind."""
    seconds: dict[str, list[float]] = {}
    for line in read_log(out):
        if line["what"] == "evaluate" and "kind" in line and not line["error"]:
            seconds.setdefault(line["kind"], []).append(line["seconds"])
    return {key: statistics.median(values) for key, values in seconds.items()}


def repair_log(out: Path) -> None:
    """Drops a truncated last line of the study's log, so that the next line is not appended to it."""
    path = out / LOG
    content = read_file(path) if path.exists() else b""
    if content and not content.endswith(b"\n"):
        write_text(path, content[: content.rfind(b"\n") + 1].decode())


def read_log(out: Path) -> list[dict[str, Any]]:
    """Reads the lines of the study's log; a truncated last line is skipped."""
    path = out / LOG
    lines = read_file(path).split(b"\n")[:-1] if path.exists() else []
    try:
        return [parse_json(line, LOG_TYPES) for line in lines]
    except ValueError as error:
        raise EtpError(f"{path}: not written by `etp reproduce` ({error}); move it away") from None
