"""Carries out a study: says what is to be done, trains and evaluates what is missing, and writes the table."""

from __future__ import annotations

import contextlib
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from etp_jax import evaluation
from etp_jax.errors import EtpError
from etp_jax.files import alone_in
from etp_jax.reproduce import plan, tables
from etp_jax.reproduce.figures import Failures, figures
from etp_jax.reproduce.plan import Measurement, Training
from etp_jax.reproduce.study import Study, read
from etp_jax.training import build, loop


def reproduce(file: Path, out: Path, shards: Path | None = None, train: bool = True, dry_run: bool = False) -> None:
    """Carries out a study; stopped at any point, the same call goes on, and finished work is never repeated.

    Args:
      file: the study; `study.py` describes it.
      out: folder for `runs/`, `log.jsonl` and the table.
      shards: in place of the study's.
      train: also train; otherwise runs that are not finished stay out of the table.
      dry_run: only say what would be done.

    Raises:
      EtpError: a mistake in the study; a run folder that holds something else; another process at work in `out`; or,
        when all else is done, a run or an evaluation failed.
      SystemExit: training was stopped by a signal.
    """
    study = read(file, shards)
    plan.check_shards(study)
    if train and any(run.config and run.config.run.deterministic for run in study.runs):
        build.make_deterministic()  # before the first timed trial starts the devices
    _Work(study, out, plan.trainings(study, out)).do(train, dry_run)


@dataclass
class _Work:
    """A study that is being carried out."""

    study: Study
    out: Path
    trainings: list[Training]
    failures: Failures = field(default_factory=dict)

    def do(self, train: bool, dry_run: bool) -> None:
        """The whole."""
        missing = {str(training): self._missing(training) for training in self.trainings}
        self._announce(missing, train)
        if dry_run:
            return
        with contextlib.ExitStack() as stack:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                taken = f"{self.out}: another process carries out a study here; name another --out"
                stack.enter_context(alone_in(self.out, taken))
            except OSError as error:
                raise EtpError(f"{self.out}: {error.strerror}; name an --out that can be written") from None
            self._carry_out(missing, train)

    def _carry_out(self, missing: dict[str, list[Measurement]], train: bool) -> None:
        self._write()
        for number, training in enumerate(self.trainings, 1):
            if training.finished and not missing[str(training)]:
                continue
            print(f"[{number}/{len(self.trainings)}] {training}", flush=True)
            if not training.finished and not (train and self._train(training)):
                continue
            for measurement in self._missing(training):
                self._evaluate(measurement)
            self._write()
        written = self._write()
        print(f"wrote {', '.join(map(str, written))}")
        if self.failures:
            first = next(iter(self.failures))
            raise EtpError(
                f"{self.study.file}: failed: {len(self.failures)}; the first, {first}: {self.failures[first]}"
            )

    def _missing(self, training: Training) -> list[Measurement]:
        found = plan.measured(self.study, training)
        return [m for m in plan.measurements(self.study, training) if m not in found]

    def _announce(self, missing: dict[str, list[Measurement]], train: bool) -> None:
        """Prints the plan, with the time that each part will take and where that is known from."""
        study, times = self.study, plan.evaluation_times(self.out)
        finished = sum(training.finished for training in self.trainings)
        print(f"{study.file}: {len(study.runs)} runs, {len(self.trainings)} with their seeds; {finished} are finished")
        total = 0.0
        for training in self.trainings:
            if training.finished or not train:
                continue
            if training.problem:
                print(f"  {training}: cannot be trained: {training.problem}")
                continue
            try:
                needed = plan.training_time(training, self.trainings)
            except EtpError as problem:  # the training will fail of it too, by itself
                print(f"  {training}: cannot be trained: {problem}")
                continue
            total += needed.seconds
            going_on = f"go on at step {training.done} of" if training.done else "train"
            print(f"  {training}: {going_on} {training.total} steps: {_hours(needed.seconds)} ({needed.source})")
        todo = [m for t in self.trainings if t.finished or (train and not t.problem) for m in missing[str(t)]]
        known = [times[m.place.kind] for m in todo if m.place.kind in times]
        total += sum(known)
        unknown = f"; the time of {len(todo) - len(known)} is not known before one of them was made"
        every = sum(len(plan.measurements(study, training)) for training in self.trainings)
        print(
            f"  {len(todo)} of {every} evaluations to make: {_hours(sum(known))} (median of those before)"
            f"{unknown if len(known) < len(todo) else ''}\n"
            f"  estimated: {_hours(total)} in all, beside compiling and encoding reports",
            flush=True,
        )

    def _train(self, training: Training) -> bool:
        """Whether the run is finished now."""
        base = training.run.start_from
        if base is not None and f"{base}-{training.seed}" in self.failures:
            self.failures[str(training)] = f"{base}-{training.seed}, from which it starts, failed"
            return False
        if training.problem:
            self.failures[str(training)] = training.problem
            return False
        about = {"what": "train", "run": training.run.name, "seed": training.seed}
        return self._attempt(str(training), about, lambda: loop.train(training.config, training.folder))

    def _evaluate(self, measurement: Measurement) -> None:
        def measure() -> None:
            with contextlib.redirect_stdout(io.StringIO()):  # the table has it all
                evaluation.run(
                    measurement.place.kind,
                    measurement.folder,
                    self.study.shards,
                    split=self.study.split,
                    checkpoint=self.study.checkpoint,
                    **measurement.options(),
                )

        about = {"what": "evaluate", "run": measurement.run, "seed": measurement.seed, **vars(measurement.place)}
        if self._attempt(str(measurement), about, measure):
            print(f"  measured {measurement}", flush=True)

    def _attempt(self, name: str, about: dict[str, object], work: Callable[[], None]) -> bool:
        """Does something, keeps what went wrong, and logs both."""
        started, error = time.time(), None
        try:
            work()
        except (EtpError, jax.errors.JaxRuntimeError) as problem:
            error = self.failures[name] = str(problem).splitlines()[0]
            print(f"  {name} failed: {error}", flush=True)
        seconds = round(time.time() - started, 1)
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about, "seconds": seconds, "error": error}
        with (self.out / plan.LOG).open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        return error is None

    def _write(self) -> list[Path]:
        return tables.write(figures(self.study, self.trainings, self.failures), self.out)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds / 60:.0f} min"
