"""Executes a study: reports the plan, trains and evaluates what is missing, and writes the table."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import jax

from etp_jax.errors import EtpError, one_line
from etp_jax.evaluation import evaluate
from etp_jax.files import alone_in, disk_errors, is_full
from etp_jax.reproduce import estimate, plan, tables
from etp_jax.reproduce.estimate import Benchmark
from etp_jax.reproduce.figures import Failures, figures
from etp_jax.reproduce.plan import PlannedEvaluation, PlannedTraining
from etp_jax.reproduce.study import Study, read
from etp_jax.training import build, loop
from etp_jax.training.room import GIB


def reproduce(
    file: Path,
    out: Path,
    shards: Path | None = None,
    train: bool = True,
    dry_run: bool = False,
    progress: Callable[[str], None] = lambda text: None,
) -> list[Path]:
    """Executes a study. After an interruption the same call resumes it; finished work is not repeated.

    Args:
      file: the study; `study.py` describes it.
      out: folder for `runs/`, `log.jsonl` and the table.
      shards: shard folder in place of the study's.
      train: also train; otherwise unfinished runs are left out of the table.
      dry_run: only report the plan, with the memory of each step; no step is run.
      progress: receives the plan, and then a line for each step.

    Returns:
      The files of the table; none for a dry run.

    Raises:
      EtpError: the study has a mistake; a run folder holds something else; another process uses `out`; or a run or an
        evaluation failed, which is raised after all other work.
      SystemExit: training was stopped by a signal.
    """
    study = read(file, shards)
    plan.check_shards(study)
    tables.check_free(out)
    if train and any(run.config and run.config.run.deterministic for run in study.runs):
        build.make_deterministic()  # must precede the benchmark's check, which initialises the devices
    execution = _Execution(study, out, plan.trainings(study, out), progress, estimate.read_benchmark(out))
    return execution.run(train, dry_run)


@dataclass
class _Execution:
    """Execution of a study."""

    study: Study
    out: Path
    trainings: list[PlannedTraining]
    progress: Callable[[str], None]
    benchmark: Benchmark | None
    failures: Failures = field(default_factory=dict)

    def run(self, train: bool, dry_run: bool) -> list[Path]:
        """Executes the whole study; returns the files of the table."""
        missing = {str(training): self._missing(training) for training in self.trainings}
        self._announce(missing, train, dry_run)
        if dry_run:
            return []
        with contextlib.ExitStack() as stack:
            try:
                self.out.mkdir(parents=True, exist_ok=True)
                taken = f"{self.out}: another process runs a study in this folder; name another --out"
                stack.enter_context(alone_in(self.out, taken))
            except OSError as error:
                raise EtpError(f"{self.out}: {error.strerror}; name an --out that can be written") from None
            return self._work(missing, train)

    def _work(self, missing: dict[str, list[PlannedEvaluation]], train: bool) -> list[Path]:
        plan.repair_log(self.out)
        self._write()
        for number, training in enumerate(self.trainings, 1):
            if training.finished and not missing[str(training)]:
                continue
            self.progress(f"[{number}/{len(self.trainings)}] {training}")
            if not training.finished and not (train and self._train(training)):
                continue
            for evaluation in self._missing(training):
                self._evaluate(evaluation)
            self._write()
        written = self._write()
        self.progress(f"wrote {', '.join(map(str, written))}")
        if self.failures:
            first = next(iter(self.failures))
            raise EtpError(
                f"{self.study.file}: failed: {len(self.failures)}; the first, {first}: {self.failures[first]}"
            )
        return written

    def _missing(self, training: PlannedTraining) -> list[PlannedEvaluation]:
        found = plan.measured(self.study, training)
        return [each for each in plan.evaluations(self.study, training) if each not in found]

    def _announce(self, missing: dict[str, list[PlannedEvaluation]], train: bool, dry_run: bool) -> None:
        """Reports the plan, with the estimated time of each part and the basis of the estimate."""
        study, times = self.study, plan.evaluation_times(self.out)
        finished = sum(training.finished for training in self.trainings)
        count = f"{len(study.runs)} runs, {len(self.trainings)} with their seeds"
        self.progress(f"{study.file}: {count}; {finished} are finished")
        todo = [training for training in self.trainings if train and not training.finished]
        known = [self._announce_training(training, dry_run) for training in todo]
        if None in known:
            self.progress(
                f"  time: unknown for {known.count(None)} of {len(known)} runs; {estimate.bench_command(self.out)} "
                "measures this machine for an estimate from FLOPs"
            )
        able = [training for training in self.trainings if training.finished or (train and not training.problem)]
        kinds = [each.measurement.kind.name for training in able for each in missing[str(training)]]
        seconds = [times[kind] for kind in kinds if kind in times]
        unknown = f"; the time of {len(kinds) - len(seconds)} is unknown until one of their kind has run"
        every = sum(len(plan.evaluations(study, training)) for training in self.trainings)
        total = sum(each or 0 for each in known) + sum(seconds)
        self.progress(
            f"  {len(kinds)} of {every} evaluations to run: {_hours(sum(seconds))} (median of earlier ones)"
            f"{unknown if len(seconds) < len(kinds) else ''}\n"
            f"  estimated: {_hours(total)} in all, without compiling, encoding reports and what is unknown"
        )

    def _announce_training(self, training: PlannedTraining, dry_run: bool) -> float | None:
        """Reports what is left of a training; returns its time in seconds, None if unknown, 0 if it cannot run."""
        try:
            if training.problem:
                raise EtpError(training.problem)
            needed = estimate.training_time(training, self.trainings, self.benchmark)
            memory = estimate.training_memory(training) if dry_run else None
        except EtpError as problem:  # the training itself will fail with the same error
            self.progress(f"  {training}: cannot be trained: {problem}")
            return 0
        going_on = f"resume at step {training.done} of" if training.done else "train"
        time_needed = f"{_hours(needed.seconds)} ({needed.source})" if needed else "time unknown"
        room = f"; a step needs {memory / GIB:.1f} GiB (XLA's count)" if memory else ""
        self.progress(f"  {training}: {going_on} {training.total} steps: {time_needed}{room}")
        return needed and needed.seconds

    def _train(self, training: PlannedTraining) -> bool:
        """Trains a run; returns whether it is finished now."""
        base = training.run.start_from
        if base is not None and f"{base}-{training.seed}" in self.failures:
            self.failures[str(training)] = f"{base}-{training.seed}, the run that it starts from, failed"
            return False
        if training.problem:
            self.failures[str(training)] = training.problem
            return False
        about = {"what": "train", "run": training.run.name, "seed": training.seed}
        return self._attempt(str(training), about, lambda: loop.train(training.config, training.folder))

    def _evaluate(self, evaluation: PlannedEvaluation) -> None:
        about = {"what": "evaluate", "run": evaluation.run, "seed": evaluation.seed, **evaluation.measurement.columns()}
        if self._attempt(str(evaluation), about, lambda: evaluate(evaluation.request)):
            self.progress(f"  measured {evaluation}")

    def _attempt(self, name: str, about: dict[str, object], work: Callable[[], object]) -> bool:
        """Executes some work; records a failure and writes a line to the log."""
        started, error = time.monotonic(), None
        try:
            work()
        except (EtpError, jax.errors.JaxRuntimeError) as problem:
            if is_full(problem):  # all other work would fail too
                raise
            error = self.failures[name] = one_line(problem)
            self.progress(f"  {name} failed: {error}")
        seconds = round(time.monotonic() - started, 1)
        line = {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), **about, "seconds": seconds, "error": error}
        path = self.out / plan.LOG
        with disk_errors(path), path.open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        return error is None

    def _write(self) -> list[Path]:
        return tables.write(figures(self.study, self.trainings, self.failures), self.out)


def _hours(seconds: float) -> str:
    return f"{seconds / 3600:.1f} h" if seconds >= 360 else f"{seconds / 60:.0f} min"
