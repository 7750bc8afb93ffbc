"""Metrics logging of a run to `metrics.jsonl` and, optionally, TensorBoard and Weights & Biases."""

from __future__ import annotations

import importlib.util
import json
import re
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TextIO

import google_crc32c

from etp_jax import config as config_module
from etp_jax.config import RunConfig, TrainConfig
from etp_jax.errors import EtpError, one_line
from etp_jax.files import write_text
from etp_jax.json_text import parse_json
from etp_jax.paths import read_file

FILE = "metrics.jsonl"
MOST_LOG = 2**30
"""Largest log that is read, in bytes: some 3,000,000 lines, more than a long run writes."""
_CHECKSUM = re.compile(rb', "crc32c": "([0-9a-f]{8})"}$')
WANDB_FILE = "wandb.json"
"""File in the run folder with the id of the run on Weights & Biases."""


class Board(Protocol):
    """A service that shows metrics, besides `metrics.jsonl`."""

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Sends the values of a line to the service."""
        ...

    def close(self) -> None:
        """Closes the board; all values are written when this returns."""
        ...


class MetricsLog:
    """Writes the metrics of a run as lines of JSON, and to the boards.

    A line holds `kind` (`train`, `validation` or `skipped`), `step` (updates made), numbers and its own checksum.
    """

    def __init__(self, run_dir: Path, step: int, boards: Sequence[Board] = ()):
        """Opens the log of a run that continues at `step`; drops lines of later steps and an incomplete last line."""
        path = run_dir / FILE
        kept = _up_to(step, run_dir)
        write_text(path, "".join(map(_line, kept)))
        self.lines = len(kept)
        """Number of lines, which checkpoints hold so that `gap` finds a log that was cut."""
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._boards = boards

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Appends a line, which is passed to the operating system when this returns."""
        self._file.write(_line({"kind": kind, "step": step, **values}))
        self._file.flush()
        self.lines += 1
        for board in self._boards:
            board.write(kind, step, values)

    def close(self) -> None:
        """Closes the file and the boards."""
        self._file.close()
        for board in self._boards:
            board.close()


def _line(values: Mapping[str, Any]) -> str:
    """Formats a line of the log; its last member is the CRC-32C of the line without that member."""
    text = json.dumps(values)
    return f'{text[:-1]}, "crc32c": "{google_crc32c.value(text.encode()):08x}"}}\n'


def gap(run_dir: Path, step: int, lines: Any) -> str:
    """Describes the lines that were lost from the log of a run; returns an empty text if there are none.

    Args:
      run_dir: run folder.
      step: step of a checkpoint.
      lines: number of lines that the log had when the checkpoint was saved; None if an earlier version saved it.
    """
    there = len(_up_to(step, run_dir))
    if not isinstance(lines, int) or there >= lines:
        return ""
    return f"{run_dir / FILE}: lacks {lines - there} of the {lines} lines up to step {step}; its curves have a gap"


def _up_to(step: int, run_dir: Path) -> list[dict[str, Any]]:
    return [values for values in read_metrics(run_dir) if values["step"] <= step]


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Reads a run's `metrics.jsonl`; without a file the list is empty. An incomplete last line is left out.

    Lines without a checksum, which earlier versions wrote, are read too.

    Raises:
      EtpError: a line is not one of `etp train`, or was changed since.
    """
    path = run_dir / FILE
    if not path.exists():
        return []
    lines = read_file(path, MOST_LOG).split(b"\n")[:-1]  # text after the last newline is an incomplete line
    for number, line in enumerate(lines, 1):
        if checksum := _CHECKSUM.search(line):
            lines[number - 1] = line = line[: checksum.start()] + b"}"
            if google_crc32c.value(line) != int(checksum[1], 16):
                raise EtpError(f"{path}: line {number} was changed since it was written; move the file away")
    try:
        types = {"kind": str, "step": int, str: (int, float, str, type(None))}
        metrics = [parse_json(line, types, constants=True) for line in lines]
    except ValueError as error:
        raise EtpError(f"{path}: not written by `etp train` ({error}); move it away") from None
    for line in metrics:
        if any(isinstance(value, str) for name, value in line.items() if name != "kind"):
            raise EtpError(
                f"{path}: not written by `etp train` (a value of step {line['step']} is no number); move it away"
            )
    return metrics


def check_boards(config: RunConfig) -> None:
    """Raises EtpError if the package of a requested board is missing."""
    for option, package in (("tensorboard", "tensorboardX"), ("wandb", "wandb")):
        if getattr(config, option) and importlib.util.find_spec(package) is None:
            raise EtpError(f"run.{option}: {package} is missing; `pip install 'etp-jax[{option}]'`")


def boards(config: TrainConfig, run_dir: Path, step: int) -> list[Board]:
    """Opens the boards that the config requests, to continue at `step`; call `check_boards` first."""
    opened: list[Board] = []
    if config.run.tensorboard:
        opened.append(TensorBoard(run_dir / "tensorboard", step))
    if config.run.wandb:
        opened.append(WeightsAndBiases(config, run_dir))
    return opened


class TensorBoard:
    """Board that writes event files for TensorBoard."""

    def __init__(self, folder: Path, step: int) -> None:
        """Opens the files; TensorBoard hides steps after `step` that an earlier process wrote."""
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
    """Board that logs to a run on Weights & Biases; resumed training continues the same run."""

    def __init__(self, config: TrainConfig, run_dir: Path) -> None:
        """Starts a run, or resumes the one whose id is in the run folder.

        Raises:
          EtpError: the user is not logged in, or the service refuses the run.
        """
        import wandb  # pyright: ignore[reportMissingImports]

        # Resumed training repeats the steps since its last checkpoint. W&B drops repeated values of its own step
        # counter, so our step is a metric, and the axis of all other metrics.
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
        """Waits until all values are sent or, offline, written."""
        self._run.finish()


def _wandb_id(run_dir: Path) -> str:
    """Reads the run id from the run folder, or creates and saves a new one."""
    path = run_dir / WANDB_FILE
    try:
        return parse_json(read_file(path), {"id": str})["id"]
    except FileNotFoundError:
        number = secrets.token_hex(8)
        write_text(path, json.dumps({"id": number}) + "\n")
        return number
    except ValueError as error:
        raise EtpError(f"{path}: not written by `etp train` ({one_line(error)}); delete it") from None
