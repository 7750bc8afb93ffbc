"""Progress line and metrics of a running training, and a check that losses are finite."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import jax
import numpy as np

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.progress import Bar
from etp_jax.training.log import MetricsLog, boards

MOST_SKIPPED = 10
"""Number of steps in a row that may be skipped because they are not finite; a run with more of them is broken."""
NO_LOSS = 1e-6
"""Loss of the first step that counts as 0."""


class Progress:
    """Progress line and metrics log; speeds are of training alone, without validation, saving and compilation."""

    def __init__(self, config: TrainConfig, run_dir: Path, start: int, total: int, steps_per_epoch: int):
        """Starts at update `start` of `total`. Only process 0 shows and logs; all processes check their losses."""
        chief = jax.process_index() == 0
        self._run_dir, self._log_every = run_dir, config.run.log_every
        self._steps_per_epoch, self._batch_size = steps_per_epoch, config.data.batch_size
        self._log = MetricsLog(run_dir, start, boards(config, run_dir, start)) if chief else None
        self._bar = Bar(total=total, initial=start, unit="step", disable=not chief, mininterval=1)
        self._pending: tuple[range, dict[str, jax.Array]] | None = None
        self._started: float | None = None
        self._steps, self._waited = 0, 0.0
        self._warned = not chief
        self._skip, self._skipped = config.run.skip_nonfinite, 0

    def __enter__(self) -> Progress:
        """Returns the progress; it is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes the progress line and the log."""
        self._bar.close()
        if self._log:
            self._log.close()

    @property
    def logged(self) -> int:
        """Number of lines of the log; 0 on all processes but the first."""
        return self._log.lines if self._log else 0

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Counts the time of its block as waiting for input."""
        start = time.perf_counter()
        yield
        self._waited += time.perf_counter() - start

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leaves the time of its block out of the training time."""
        start = time.perf_counter()
        yield
        if self._started is not None:
            self._started += time.perf_counter() - start

    def step(self, steps: range, metrics: dict[str, jax.Array]) -> None:
        """Stores the metrics of the steps just dispatched, and reads and reports those of the previous dispatch.

        Args:
          steps: step numbers, from 0; the log counts updates made, from 1.
          metrics: scalars for one step, or arrays [n] for several, where n is at least the number of steps.
        """
        self.flush()
        self._pending = steps, metrics

    def flush(self) -> None:
        """Reads and reports the pending metrics; raises EtpError when loss or gradient norm is not finite."""
        if self._pending is None:
            return
        steps, metrics = self._pending[0], {name: np.atleast_1d(values) for name, values in self._pending[1].items()}
        self._pending = None
        compiled = self._started is None  # the first dispatch of a process includes compilation
        if compiled:
            self._started, self._waited = time.perf_counter(), 0.0
        else:
            self._steps += len(steps)
        speed = None
        for row, done in enumerate(range(steps.start + 1, steps.stop + 1)):
            values = {name: float(column[row]) for name, column in metrics.items()}
            if self._is_skipped(values, done):
                continue
            if done == 1 and values["loss"] < NO_LOSS:
                self._say(
                    f"  warning: the loss is {values['loss']:g} at step 1, so there is nothing to learn; all reports "
                    "of a batch are equal, or the batch is too small"
                )
            if done % self._log_every == 0 and self._log:
                speed = speed or self._speed()
                self._log.write("train", done, {"epoch": done / self._steps_per_epoch, **values, **speed})
                self._bar.set_postfix_str(f"loss {values['loss']:.4f}, {speed['ecg_per_s']:.0f} ECG/s", refresh=False)
        if compiled:
            self._bar.skip(len(steps))
        else:
            self._bar.update(len(steps))

    def _speed(self) -> dict[str, float]:
        """Returns the speed since the previous call, over all steps read since then."""
        assert self._started is not None
        now = time.perf_counter()
        seconds = now - self._started
        rate = self._steps * self._batch_size / seconds if self._steps else 0.0
        wait_share = self._waited / seconds if self._steps else 0.0
        self._started, self._steps, self._waited = now, 0, 0.0
        return {"ecg_per_s": rate, "wait_share": wait_share}

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """Reports a validation; raises EtpError when its loss is not finite."""
        self._check_finite("validation loss", scores["loss"], step)
        if self._log:
            epoch = step / self._steps_per_epoch
            self._log.write("validation", step, {"epoch": epoch, **scores})
            self._say(
                f"  step {step}, epoch {epoch:.2f}: validation loss {scores['loss']:.4f}, recall@10 "
                f"{scores['recall']:.3f}, median rank {scores['ecg_to_text_median_rank']:g}"
            )

    def warn(self, warning: str) -> None:
        """Shows a warning, unless it is empty or one has been shown before."""
        if warning and not self._warned:
            self._warned = True
            self._say(f"  warning: {warning}")

    def _say(self, text: str) -> None:
        if self._log:
            self._bar.write(text, file=sys.stdout)

    def _is_skipped(self, values: dict[str, float], step: int) -> bool:
        """Whether the step changed nothing because it was not finite; raises EtpError if such steps are not allowed."""
        name = next((name for name in ("loss", "grad_norm") if not math.isfinite(values[name])), None)
        self._skipped = 0 if name is None else self._skipped + 1
        if name is None:
            return False
        if not self._skip or self._skipped > MOST_SKIPPED:
            self._check_finite(name, values[name], step, "" if self._skip else "--run.skip-nonfinite, ")
        self._say(f"  warning: {name} is {values[name]} at step {step}; the step is skipped")
        if self._log:
            self._log.write("skipped", step, {"epoch": step / self._steps_per_epoch})
        return True

    def _check_finite(self, name: str, value: float, step: int, advice: str = "") -> None:
        if not math.isfinite(value):
            raise EtpError(
                f"{self._run_dir}: {name} is {value} at step {step}; try {advice}a lower --optim.learning-rate, "
                "--optim.clip-norm 1, or --run.precision float32 (the checkpoints kept are from before)"
            )
