"""The request for an evaluation: the options that all kinds share. No jax.

Each kind has a subclass with its own options. tyro parses it for `etp evaluate`, and `evaluate` takes the same object.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar, Literal, Self

from etp_jax.errors import EtpError
from etp_jax.evaluation.records import PUBLISHED, TaskRecords
from etp_jax.evaluation.results import REPLICATES, Result
from etp_jax.files import has_fields, holds_all, keep_other_kinds
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL, TRAIN, VALIDATION
from etp_jax.tasks import Task, get_task
from etp_jax.tasks.published import labels_digest, read_published

HONEST, MERL, FIELD = "honest", "merl-as-published", "ecg-fm-benchmark"
MERL_SEED = 42
"""Seed of the one subset of each share that MERL's protocol draws."""
PROTOCOLS = (HONEST, MERL, FIELD)
BOOTSTRAP = 1000
"""Default number of bootstrap replicates for intervals."""
FOLDER = "evaluation"
"""Subfolder of a run folder that holds its results."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """One evaluation of one run."""

    kind: ClassVar[str]
    """Name of the kind in commands, file names and JSON."""
    choice: ClassVar[Literal["", "prompts", "protocol"]] = ""
    """Option that distinguishes measurements of this kind within a study; empty if there is none."""

    run: Path
    """Run folder made by `etp train`, folder made by `etp export`, or the word `shipped`: the package's own encoder."""
    shards: Path
    """Shard folder to evaluate on."""
    split: str = VALIDATION
    """Split whose records are scored; use `test` for final tables only."""
    checkpoint: Literal["best", "latest"] = "best"
    text_tower: str | None = None
    """Folder or name of the run's frozen text tower, where it has moved; its weights must be the same."""
    bootstrap: int = BOOTSTRAP
    """Number of bootstrap draws of patients for the 95 % intervals."""
    json: Path | None = None
    """File for the result; by default one in RUN/evaluation/, or ./evaluation/ for the shipped encoder."""

    def check(self) -> None:
        """Raises EtpError for options that contradict each other; reads neither run nor shards."""
        if self.bootstrap < 1:
            raise EtpError(f"--bootstrap is {self.bootstrap}; it must be at least 1")
        if self.json is not None:
            keep_other_kinds(self.json, "a result", has_fields("kind", "split", "summary"))
            keep_other_kinds(self.json.with_suffix(".npz"), "the arrays of a result", holds_all(REPLICATES.encode()))

    def parts(self) -> Sequence[Self]:
        """Splits the request into those that `evaluate` takes one by one, if it names several prompts."""
        return (self,)

    def chosen(self, value: str) -> Self:
        """Returns the same request with another value of the option `choice`."""
        current = getattr(self, self.choice)
        return replace(self, **{self.choice: (value,) if isinstance(current, tuple) else value})

    def warnings(self) -> list[str]:
        """Warnings to show before the evaluation, one line each."""
        return []

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels for which the result has rows; 0 for kinds that do not train on labels."""
        return (0.0,)

    def records(self, shards: Shards) -> TaskRecords | None:
        """The task's records; None for a kind without tasks."""
        return None

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result at `path` was computed with the options of this request."""
        return True

    @property
    def reads_text(self) -> bool:
        """Whether the evaluation needs an encoder that reads sentences."""
        return False

    @property
    def how(self) -> str | None:
        """Value of the option `choice`; None for a kind without that option."""
        value = getattr(self, self.choice) if self.choice else None
        return value[0] if isinstance(value, tuple) else value

    @property
    def task_name(self) -> str | None:
        """Name of the task; None for a kind without tasks."""
        return None

    @property
    def task_digest(self) -> str:
        """Identifies the content of a user's own task file; empty for a shipped task or a kind without tasks."""
        return ""

    @property
    def folder(self) -> Path:
        """Run folder, with the word `shipped` resolved."""
        from etp_jax.encoder.folder import run_folder  # loads jax

        return run_folder(self.run)

    @property
    def path(self) -> Path:
        """Path of the result file."""
        from etp_jax.encoder.folder import is_shipped  # loads jax

        if self.json is not None:
            return self.json
        folder = Path() if is_shipped(self.folder) else self.folder
        return folder / FOLDER / f"{'-'.join(self.file_name())}.json"

    def file_name(self) -> list[str]:
        """Parts of the result file's default name, in order; the last is the checkpoint, if it is not `best`."""
        return [self.kind, self.split] + [self.checkpoint] * (self.checkpoint != "best")


@dataclass(frozen=True, kw_only=True)
class TaskRequest(Request):
    """An evaluation on the records and classes of a downstream task."""

    task: str = "ptbxl-super"
    """Downstream task: a name that `etp tasks list` shows, or the .json file of your own task."""

    def check(self) -> None:
        """Raises EtpError for an unknown task, or for options that contradict each other."""
        super().check()
        task = self.definition()
        if task.all_splits and self.split != ALL:
            raise EtpError(f"{task.name} draws its records from all splits; add --split {ALL}")

    def definition(self) -> Task:
        """Returns the task with the request's prompts; raises EtpError for an unknown task."""
        return get_task(self.task)

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result used the same task; the content of a user's own task file may have changed."""
        return result.protocol.get("task", "") == self.task_digest

    def records(self, shards: Shards) -> TaskRecords:
        """The task's records in the shards."""
        return TaskRecords(shards, self.definition())

    @property
    def task_name(self) -> str:
        """Name of the task."""
        return self.definition().name

    @property
    def task_digest(self) -> str:
        """Identifies the content of a user's own task file; empty for a shipped task."""
        return self.definition().digest

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; the task comes first."""
        return [self.task_name, *super().file_name()]


@dataclass(frozen=True, kw_only=True)
class PublishedRequest(TaskRequest):
    """An evaluation that can use published records and labels."""

    published: Path | None = None
    """Folder of published CSV files whose records, labels and splits replace those of the shards."""

    def check(self) -> None:
        """Raises EtpError for options that contradict each other."""
        super().check()
        if self.published is not None and self.definition().max_per_class is not None:
            raise EtpError(f"{self.task_name} draws its own records; it cannot use published ones")

    def records(self, shards: Shards) -> TaskRecords:
        """The task's records, with the shards' labels or the published ones."""
        task = self.definition()
        return TaskRecords(shards, task, read_published(self.published, task) if self.published else None)

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result used the same task, and the same published labels if there are any."""
        if not super().answered_by(result):
            return False
        published = labels_digest(read_published(self.published, self.definition())) if self.published else None
        return result.protocol.get(PUBLISHED) == published

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; published labels come last."""
        return super().file_name() + ["published"] * (self.published is not None)


def check_fitted(request: TaskRequest) -> None:
    """Raises EtpError if no classifier can be fitted on the training split of the request's task."""
    if request.definition().max_per_class is not None:
        raise EtpError(f"{request.task_name} is too small to fit probes on; probe a ptbxl task")
    check_scored(request)


def check_scored(request: Request) -> None:
    """Raises EtpError if the scored split has the records that the request's kind is fitted on."""
    if request.split in (TRAIN, ALL):
        raise EtpError(f"{request.kind} is fitted on split 'train'; score another split")


def check_protocol(kind: str, protocol: str, known: Sequence[str] = PROTOCOLS) -> None:
    """Raises EtpError for a protocol that is unknown to a kind."""
    if protocol not in known:
        raise EtpError(f"{kind} has no protocol {protocol!r}; there is {', '.join(known)}")
