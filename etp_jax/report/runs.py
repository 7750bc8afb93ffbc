"""`etp runs`: compares runs by the options in which they differ and by their results."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.configs import recipe_of
from etp_jax.encoder.card import Figure, read_figures
from etp_jax.encoder.folder import ENCODER_FILE, is_of, load_encoder
from etp_jax.errors import EtpError
from etp_jax.training import checkpoint
from etp_jax.training.log import FILE, read_metrics
from etp_jax.training.resume import flatten
from etp_jax.training.run_folder import SHARDS_FILE, TEXT_FILE, load_config

Cell = str | float | int | bool | None


@dataclass(frozen=True)
class RunSummary:
    """Summary of one run folder or exported encoder."""

    folder: Path
    config: TrainConfig | None
    """Options of the run; None if they cannot be read."""
    train_loss: float | None = None
    """Last logged training loss."""
    validation_loss: float | None = None
    """Last logged validation loss."""
    best_step: int | None = None
    """Step of the best checkpoint, by the run's own criterion."""
    ecg_per_s: float | None = None
    """Median training speed, in ECGs per second."""
    figures: dict[str, list[Figure]] = field(default_factory=dict)
    """Main figures of each evaluation of the run's checkpoints, by file name without suffix."""
    trouble: str = ""
    """Reason why the run is incomplete or cannot be read; empty if it is valid and finished."""


def compare(folders: Sequence[Path]) -> list[dict[str, Cell]]:
    """Compares all runs in some folders, at any depth.

    Args:
      folders: folders to search, at any depth.

    Returns:
      One row per run, all with the same keys: run, recipe, each option in which the runs differ (by its dotted name),
      train loss, validation loss, best step, ECG/s, the main figures of each evaluation (by its name), and trouble. A
      value is None if the run does not have it.

    Raises:
      EtpError: a folder does not exist, or none of them contains a run.
    """
    runs = [summarise(folder) for folder in find_runs(folders)]
    if not runs:
        raise EtpError(f"{', '.join(map(str, folders))}: no run folder there or below; `etp train` makes one")
    options = [flatten(config_module.to_dict(run.config)) if run.config else {} for run in runs]
    read = [values for values in options if values]
    names = dict.fromkeys(name for values in read for name in values)
    differing = [name for name in names if any(values.get(name) != read[0].get(name) for values in read)]
    found = _columns([[(name, f) for name, each in run.figures.items() for f in each] for run in runs])
    columns = sorted({column for figures in found for column in figures})

    return [
        {
            "run": str(run.folder),
            "recipe": recipe_of(run.config) if run.config else None,
            **{name: values.get(name) for name in differing},
            "train loss": run.train_loss,
            "validation loss": run.validation_loss,
            "best step": run.best_step,
            "ECG/s": run.ecg_per_s,
            **{column: figures.get(column) for column in columns},
            "trouble": run.trouble,
        }
        for run, values, figures in zip(runs, options, found, strict=True)
    ]


def _columns(found: Sequence[Sequence[tuple[str, Figure]]]) -> list[dict[str, float | None]]:
    """Names the figures of each run, given with the names of their files.

    A name has the metric, the share of the labels if it is not all, and the data if runs were evaluated on several.
    """
    data: dict[tuple[str, str, str], set[str]] = {}
    for name, figure in (pair for each in found for pair in each):
        data.setdefault((name, figure.metric, figure.share), set()).add(figure.data)

    def column(name: str, figure: Figure) -> str:
        several = len(data[name, figure.metric, figure.share]) > 1
        of = f"of {figure.data or 'unknown data'}" if several else ""
        return " ".join(filter(None, [name, figure.metric, of, figure.share]))

    return [{column(name, figure): figure.mean for name, figure in each} for each in found]


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Finds run folders and exported encoders in some folders, at any depth; raises EtpError if a folder is missing."""
    found: dict[Path, Path] = {}
    for folder in folders:
        if not folder.is_dir():
            raise EtpError(f"{folder}: no such folder")
        for run in _below(folder):
            found.setdefault(run.resolve(), run)
    return sorted(found.values())


def _below(folder: Path) -> Iterator[Path]:
    for path, inner, files in os.walk(folder):
        if FILE in files or checkpoint.FOLDER in inner or {TEXT_FILE, SHARDS_FILE} <= set(files):
            inner.clear()  # nothing inside a run folder is a run
            yield Path(path)
        inner[:] = sorted(name for name in inner if not name.startswith("."))


def summarise(folder: Path) -> RunSummary:
    """Summarises a run from its files; `trouble` names the files that cannot be read."""
    troubles: list[str] = []

    def attempt(read: Any, *args: Any) -> Any:
        """Returns None and records the error if a file is damaged."""
        try:
            return read(*args)
        except EtpError as error:
            troubles.append(str(error))
            return None

    config: TrainConfig | None = attempt(load_config, folder)
    lines: list[dict[str, Any]] = attempt(read_metrics, folder) or []
    steps: dict[str, int | None] = (attempt(_steps, folder, config) if config else None) or {}
    step = steps.get("best")
    figures = {path.stem: attempt(read_figures, path) for path in sorted((folder / "evaluation").glob("*.json"))}
    figures = {name: found for name, found in figures.items() if found}
    old = [name for name, (first, *_) in figures.items() if steps and not _is_of(first, folder, steps)]
    if config and not troubles and not (folder / ENCODER_FILE).exists():
        troubles += filter(None, [_unfinished(config, lines, step)])
    if old:
        troubles.append(f"{', '.join(old)}: of an earlier checkpoint; evaluate again")
    speeds = [line["ecg_per_s"] for line in lines if line.get("ecg_per_s")]
    return RunSummary(
        folder,
        config,
        _last(lines, "train", "loss"),
        _last(lines, "validation", "loss"),
        step,
        median(speeds) if speeds else None,
        {name: found for name, found in figures.items() if name not in old},
        "; ".join(troubles),
    )


def _steps(folder: Path, config: TrainConfig) -> dict[str, int | None]:
    """Steps of the checkpoints `best` and `latest`; empty if there is none."""
    if (folder / ENCODER_FILE).exists():
        return {"best": load_encoder(folder)[1]}
    if not (folder / checkpoint.FOLDER).is_dir():
        return {}
    with checkpoint.Checkpoints(folder, config.run.best, read_only=True) as checkpoints:
        return {"best": checkpoints.find("best"), "latest": checkpoints.find("latest")}


def _is_of(figure: Figure, folder: Path, steps: dict[str, int | None]) -> bool:
    return is_of(figure.checkpoint, folder, steps.get(figure.checkpoint.get("which", "best")))


def _unfinished(config: TrainConfig, lines: Sequence[dict[str, Any]], step: int | None) -> str:
    """Describes the progress of an unfinished run; a finished run has validated at its last step."""
    if step is None:
        return "no checkpoint yet"
    epoch = _last(lines, "validation", "epoch") or 0.0
    # The number of steps is rounded, and so is the last epoch.
    return "" if epoch > config.optim.epochs - 0.05 else f"validated up to epoch {epoch:.3g} of {config.optim.epochs:g}"


def _last(lines: Sequence[dict[str, Any]], kind: str, key: str) -> float | None:
    return next((line[key] for line in reversed(lines) if line.get("kind") == kind and key in line), None)
