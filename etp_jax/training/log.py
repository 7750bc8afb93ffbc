"""What a run reports: `metrics.jsonl`, TensorBoard, and retrieval over a whole split."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, TextIO

from etp_jax.errors import EtpError
from etp_jax.files import write_text

FILE = "metrics.jsonl"


class MetricsLog:
    """Writes a run's metrics, a JSON line each, and to TensorBoard if asked.

    A line holds `kind` (`train` or `validation`), `step` (updates made) and numbers.
    """

    def __init__(self, run_dir: Path, step: int, tensorboard: bool):
        """Opens the log of a run that goes on at `step`: lines of later steps, and one cut short, are removed."""
        path = run_dir / FILE
        write_text(path, "".join(json.dumps(line) + "\n" for line in read_metrics(run_dir) if line["step"] <= step))
        self._file: TextIO = path.open("a", encoding="utf-8")
        self._board = _tensorboard(run_dir / "tensorboard", step) if tensorboard else None

    def write(self, kind: str, step: int, values: dict[str, float]) -> None:
        """Adds a line, which is on disk when this returns."""
        self._file.write(json.dumps({"kind": kind, "step": step, **values}) + "\n")
        self._file.flush()
        if self._board:
            for name, value in values.items():
                self._board.add_scalar(f"{kind}/{name}", value, step)

    def close(self) -> None:
        """Closes the files."""
        self._file.close()
        if self._board:
            self._board.close()


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


def _tensorboard(folder: Path, step: int) -> Any:
    try:
        import tensorboardX
    except ImportError:
        raise EtpError("run.tensorboard: tensorboardX is missing; `pip install 'etp-jax[tensorboard]'`") from None
    return tensorboardX.SummaryWriter(str(folder), purge_step=step + 1)
