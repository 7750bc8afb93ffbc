"""A downstream task: its classes, the label codes of each, its records and its prompts. No jax.

Codes are matched by exact name. A code counts at any likelihood, 0 included (in PTB-XL: present, likelihood unknown).
The records of a task are those with at least one of its codes, unless it draws a balanced set.
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
    """Short name of the class in tables and JSON, as the data set writes it."""
    name: str
    """Name of the class in plain English."""
    codes: frozenset[str]
    """Label codes that make a record positive."""
    prompts: tuple[str, ...]
    """Sentences for zero-shot classification; empty where the task has none of the prompt set."""


@dataclass(frozen=True)
class Task:
    """A multi-label classification task, or one with a single label where `max_per_class` is set."""

    name: str
    classes: tuple[TaskClass, ...]
    """Classes that are scored."""
    prompt_set: str
    """Name of the prompt set, then after a comma its version or the task file."""
    whole_prompts: bool
    """Prompts are complete texts for the text tower; otherwise they are read as reports, in the recipe's template."""
    against: tuple[str, ...] = ()
    """Sentences whose score is subtracted from every class score, times `against_weight`."""
    against_weight: float = 0.0
    dataset: str = ""
    """Data set whose label codes the task uses."""
    archive: str | None = None
    """If given, only records with this `dataset` field count, for codes that several data sets use."""
    max_per_class: int | None = None
    """If given, records form a balanced single-label set: per class the rarest class's number, at most this."""
    unscored: tuple[TaskClass, ...] = ()
    """Classes excluded from scoring. A record that carries one is not counted as single-label."""
    all_splits: bool = False
    """Records come from all splits of the shards."""
    known_codes: frozenset[str] | None = None
    """If given, records with a code that is not among these are left out."""
    overlapping: bool = False
    """One code may make a record positive for several classes."""
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
        """The rule that selects its records, in words."""
        if self.max_per_class is None:
            return "any label" if self.known_codes is None else "any label, all codes known"
        source = "all splits" if self.all_splits else "the split"
        return f"single label, n = min({self.max_per_class}, rarest class) a class, from {source}"


def labels(task: Task, columns: SplitColumns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which records may belong to a task, and their classes.

    Args:
      task: the task.
      columns: the records, `Split.columns`.

    Returns:
      keep: bool [N], the record has at least one of the task's codes; for a balanced task, which draws among these,
        exactly one of its classes and none of the unscored. It is of the task's archive.
      y: bool [N, C], for all N records.
    """
    sets = [frozenset(codes) for codes in columns.labels]
    classes = (*task.classes, *task.unscored)
    has = np.array([[not c.codes.isdisjoint(codes) for c in classes] for codes in sets], bool)
    has = has.reshape(len(sets), len(classes))
    y_NC = has[:, : len(task.classes)]
    keep_N = y_NC.any(axis=1)
    if task.max_per_class is not None:
        keep_N &= has.sum(axis=1) == 1
    if task.known_codes is not None:
        keep_N &= np.array([codes <= task.known_codes for codes in sets], bool)
    if task.archive is not None:
        keep_N &= np.array([dataset == task.archive for dataset in columns.dataset], bool)
    return np.asarray(keep_N), y_NC


def check_vocabulary(task: Task, vocabulary: Iterable[str], where: str) -> None:
    """Raises EtpError when none of the task's codes is in a label vocabulary, as in shards of another data set."""
    known = frozenset(vocabulary)
    if task.codes.isdisjoint(known):
        some = ", ".join(sorted(known)[:5]) or "none"
        raise EtpError(f"{where}: has none of the label codes of {task.name}; its labels are {some} ...")


def check_prompts(task: Task) -> None:
    """Raises EtpError when a scored class has no prompt, which zero-shot scores need."""
    missing = [c.code for c in task.classes if not c.prompts]
    if missing:
        classes = f"class {missing[0]}" if len(missing) == 1 else f"classes {', '.join(missing)}"
        has = "has" if len(missing) == 1 else "have"
        raise EtpError(
            f"{task.file or task.name}: {classes} {has} no prompt of set {task.prompt_set.partition(',')[0]!r}; add "
            "prompts, or evaluate the task by probe, knn or finetune"
        )
