"""A downstream task: classes with their label codes, records and prompts. No jax.

Codes are matched by exact name. A code counts at any likelihood, 0 included (in PTB-XL: present, likelihood unknown).
The records of a task are those with at least one of its codes, unless it draws a balanced set or takes every record.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.shards.record import SplitColumns


@dataclass(frozen=True)
class TaskClass:
    """One class of a task."""

    code: str
    """Short name of the class in tables and JSON, in the data set's spelling."""
    name: str
    """Name of the class in plain English."""
    codes: frozenset[str]
    """Label codes of the class; a record with any of them is positive."""
    prompts: tuple[str, ...]
    """Sentences for zero-shot classification; empty if the class has none in the prompt set."""


@dataclass(frozen=True)
class Task:
    """A multi-label classification task, or one with a single label where `max_per_class` is set."""

    name: str
    """Name of the task."""
    classes: tuple[TaskClass, ...]
    """Classes that are scored."""
    prompt_set: str
    """Name of the prompt set, a comma, and its version or the task file."""
    whole_prompts: bool
    """Whether prompts are complete texts for the text tower; otherwise the recipe's report template is applied."""
    against: tuple[str, ...] = ()
    """Sentences whose score, times `against_weight`, is subtracted from every class score."""
    against_weight: float = 0.0
    """Factor of the subtracted score."""
    group: str = ""
    """Heading above the task's classes in `etp predict`."""
    dataset: str = ""
    """Data set whose label codes the task uses."""
    archive: str | None = None
    """If given, only records with this `dataset` field are used; needed for codes shared by several data sets."""
    max_per_class: int | None = None
    """If given, records form a balanced single-label set; each class has the rarest class's number, at most this."""
    unscored: tuple[TaskClass, ...] = ()
    """Classes excluded from scoring. A record that carries one is not counted as single-label."""
    all_splits: bool = False
    """Whether records come from all splits of the shards."""
    known_codes: frozenset[str] | None = None
    """If given, records with any other code are left out."""
    every_record: bool = False
    """Whether records without a label of the task belong to it too; a protocol sets this."""
    overlapping: bool = False
    """Whether one code may make a record positive for several classes."""
    shared_prompts: frozenset[str] = frozenset()
    """Prompts that several classes may have; lint accepts them."""
    file: str = ""
    """Path of a user's own task file; empty for a shipped task."""
    digest: str = ""
    """Identifies the content of a user's own task file; empty for a shipped task."""

    @property
    def codes(self) -> frozenset[str]:
        """All label codes of the scored classes."""
        return frozenset().union(*(c.codes for c in self.classes))

    @property
    def rule(self) -> str:
        """Description of the rule that selects the records."""
        if self.max_per_class is None:
            which = "every record, with or without a label of the task" if self.every_record else "any label"
            return which if self.known_codes is None else f"{which}, all codes known"
        source = "all splits" if self.all_splits else "the split"
        return f"single label, n = min({self.max_per_class}, rarest class) a class, from {source}"


def labels(task: Task, columns: SplitColumns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Determines which records are eligible for a task, and their classes.

    Args:
      task: the task.
      columns: the records, `Split.columns`.

    Returns:
      keep: bool [N], true if the record is of the task's archive and has at least one of the task's codes, or if the
        task takes every record of the archive. For a balanced task, which draws among these records, it must have
        exactly one of the scored classes and none of the unscored.
      y: bool [N, C], the classes of all N records.
    """
    numbers: dict[tuple[str, ...], int] = {}  # records share few combinations of labels
    combination_N = np.array([numbers.setdefault(codes, len(numbers)) for codes in columns.labels], np.int64)
    sets = [frozenset(codes) for codes in numbers]
    classes = (*task.classes, *task.unscored)
    has = np.array([[not c.codes.isdisjoint(codes) for c in classes] for codes in sets], bool)
    has = has.reshape(len(sets), len(classes))[combination_N]
    y_NC = has[:, : len(task.classes)]
    keep_N = y_NC.any(axis=1) | task.every_record
    if task.max_per_class is not None:
        keep_N &= has.sum(axis=1) == 1
    if task.known_codes is not None:
        keep_N &= np.array([codes <= task.known_codes for codes in sets], bool)[combination_N]
    if task.archive is not None:
        keep_N &= np.array([dataset == task.archive for dataset in columns.dataset], bool)
    return np.asarray(keep_N), y_NC


def check_vocabulary(task: Task, vocabulary: Iterable[str], where: str) -> None:
    """Raises EtpError if a label vocabulary has none of the task's codes, as in shards of another data set."""
    known = frozenset(vocabulary)
    if task.codes.isdisjoint(known):
        some = ", ".join(sorted(known)[:5]) or "none"
        raise EtpError(f"{where}: has none of the label codes of {task.name}; its labels are {some} ...")


def check_prompts(task: Task) -> None:
    """Raises EtpError if a scored class has no prompt; zero-shot scores need one."""
    missing = [c.code for c in task.classes if not c.prompts]
    if missing:
        classes = f"class {missing[0]}" if len(missing) == 1 else f"classes {', '.join(missing)}"
        has = "has" if len(missing) == 1 else "have"
        raise EtpError(
            f"{task.file or task.name}: {classes} {has} no prompt of set {task.prompt_set.partition(',')[0]!r}; add "
            "prompts, or evaluate the task by probe (without --text-prior), knn or finetune"
        )
