"""The metrics of a run: `metrics.jsonl`, and the same on TensorBoard and Weights & Biases if asked for."""

from __future__ import annotations

import importlib.util
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

from etp_jax import config as config_module
from etp_jax.config import RunConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.files import write_text

FILE = "metrics.jsonl"
WANDB_FILE = "wandb.json"
"""Keeps the id of the run on Weights & Biases."""


class Board(Protocol):
    """Where metrics are shown beside `metrics.jsonl`."""

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Shows the values of a line."""
        ...

    def close(self) -> None:
        """Ends it; all is written when this returns."""
        ...


class MetricsLog:
    """Writes a run's metrics, a JSON line each, and to the boards.

    A line holds `kind` (`train` or `validation`), `step` (updates made) and numbers.
    """

    def __init__(self, run_dir: Path, step: int, boards: Sequence[Board] = ()):
        """Opens the log of a run that goes on at `step`: lines of later steps, and one cut short, are removed."""
        path = run_dir / FILE
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_metrics(run_dir) if line["step"] <= step))
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._boards = boards

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a line, which is on disk when this returns."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        for board in self._boards:
            board.write(kind, step, values)

    def close(self) -> None:
        """Closes the file and the boards."""
        self._file.close()
        for board in self._boards:
            board.close()


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """The lines of a run's `metrics.jsonl`, none if there is no file; one that a killed run cut short is left out."""
    path = run_dir / FILE
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").split("\n")[:-1]  # what follows the last newline is cut short
    try:
        return [json.loads(line) for line in lines]
    except json.JSONDecodeError as error:
        raise EtpError(f"{path}: not written by `etp train` ({error}); move it away") from None


def check_boards(config: RunConfig) -> None:
    """Raises EtpError if the package of a board that is asked for is missing."""
    for option, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        if getattr(config, option) and importlib.util.find_spec(package) is None:
            raise EtpError(f"run.{option}: {package} is missing; `pip install 'etp-jax[{option}]'`")


def boards(config: TrainConfig, run_dir: Path, step: int) -> list[Board]:
    """Opens the boards that a run asks for, to go on at `step`; see `check_boards`."""
    opened: list[Board] = []
    if config.run.tensorboard:
        opened.append(TensorBoard(run_dir / "tensorboard", step))
    if config.run.wandb:
        opened.append(WeightsAndBiases(config, run_dir))
    return opened


class TensorBoard:
    """Event files for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Opens the files; later steps of an earlier process are hidden."""
        import tensorboardX

        self._writer = tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a point to the curve of each value."""
        for name, value in values.items():
            self._writer.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._writer.close()


class WeightsAndBiases:
    """A run on Weights & Biases, which goes on as the same run when training does."""

    def __init__(self, config: TrainConfig, run_dir: Path) -> None:
        """Starts the run, or goes on with the one whose id the run folder keeps.

        Raises:
          EtpError: nobody is logged in, or the service refuses.
        """
        import wandb  # pyright: ignore[reportMissingImports]

        # A resumed run repeats the steps since its last checkpoint, and W&B drops steps that are not greater than the
        # last one. So the number of updates is a metric of its own, and the axis of all others.
        try:
            self._run = wandb.init(
                project=config.run.wandb,
                id=_wandb_id(run_dir),
                name=run_dir.resolve().name,
                dir=str(run_dir),
                resume="allow",
                config=config_module.to_dict(config),
            )
        except wandb.Error as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise EtpError(f"run.wandb: {reason}; run `wandb login`, or set WANDB_MODE=offline") from None
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a point to the curve of each value."""
        self._run.log({"step": step, **{f"{kind}/{name}": value for name, value in values.items()}})

    def close(self) -> None:
        """Waits until all is sent, or written if offline."""
        self._run.finish()


def _wandb_id(run_dir: Path) -> str:
    """The id that the run folder keeps; a new one if it keeps none."""
    path = run_dir / WANDB_FILE
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["id"])
    except FileNotFoundError:
        number = secrets.token_hex(8)
        write_text(path, json.dumps({"id": number}) + "\n")
        return number
    except (ValueError, KeyError, TypeError) as error:
        raise EtpError(f"{path}: not written by `etp train` ({error!r}); delete it") from None
