"""What a downstream task is: its classes, the label codes that make each, its records, its prompts. No jax.

Facts and prompts are data: `ptbxl.json` says which codes make a class, `prompts.json` how each class is put into words.
Codes are matched by exact name. A code counts at any likelihood, 0 included (in PTB-XL: present, likelihood unknown),
and a task's records are those with at least one of its codes.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.records import Columns


@dataclass(frozen=True)
class TaskClass:
    """One class of a task."""

    code: str
    """Name of the class in tables and JSON, as the data set writes it."""
    name: str
    """The class in plain English."""
    codes: frozenset[str]
    """Label codes that make a record positive."""
    prompts: tuple[str, ...]
    """Sentences for zero-shot classification."""


@dataclass(frozen=True)
class Task:
    """A multi-label classification task."""

    name: str
    classes: tuple[TaskClass, ...]
    prompt_set: str
    """Name and version of the prompts."""
    whole_prompts: bool
    """The prompts are what the text tower reads; otherwise they stand for reports, in the recipe's template."""
    against: tuple[str, ...] = ()
    """Sentences whose score is taken off every class's, times `against_weight`."""
    against_weight: float = 0.0

    @property
    def codes(self) -> frozenset[str]:
        """All label codes of the task."""
        return frozenset().union(*(c.codes for c in self.classes))


def task_names() -> tuple[str, ...]:
    """The tasks there are."""
    return tuple(_data("ptbxl.json")["tasks"])


def prompt_sets() -> tuple[str, ...]:
    """The prompt sets there are."""
    prompts = _data("prompts.json")
    return (*prompts["sets"], *prompts["contrasts"], *prompts["templates"])


def get_task(name: str, prompts: str = "default") -> Task:
    """The task `name` with the prompts of one set; raises EtpError, naming those there are, for an unknown one."""
    tasks, sentences = _data("ptbxl.json")["tasks"], _data("prompts.json")
    if name not in tasks:
        raise EtpError(f"no task {name!r}; there are {', '.join(task_names())}")
    if prompts not in prompt_sets():
        raise EtpError(f"no prompt set {prompts!r}; there are {', '.join(prompt_sets())}")

    contrast = sentences["contrasts"].get(prompts, {})
    wording = contrast.get("set", prompts)

    def prompts_of(code: str, class_name: str) -> tuple[str, ...]:
        if wording in sentences["templates"]:
            return (sentences["templates"][wording][name].format(name=class_name),)
        return tuple(sentences["sets"][wording][name][code])

    classes = tuple(
        TaskClass(code, facts["name"], frozenset(facts["codes"]), prompts_of(code, facts["name"]))
        for code, facts in tasks[name].items()
    )
    return Task(
        name,
        classes,
        prompt_set=f"{prompts}, version {sentences['version']}",
        whole_prompts=wording in sentences["templates"],
        against=tuple(contrast.get("against", ())),
        against_weight=contrast.get("weight", 0.0),
    )


def labels(task: Task, columns: Columns) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Which records a task has, and their classes.

    Args:
      task: the task.
      columns: the records, `Split.columns`.

    Returns:
      keep: bool [N], the record has at least one of the task's codes.
      y: bool [N, C], for all N records.
    """
    sets = [frozenset(codes) for codes in columns.labels]
    y_NC = np.array([[not c.codes.isdisjoint(codes) for c in task.classes] for codes in sets], bool)
    y_NC = y_NC.reshape(len(sets), len(task.classes))
    return np.asarray(y_NC.any(axis=1)), y_NC


def check_vocabulary(task: Task, vocabulary: Iterable[str], where: str) -> None:
    """Raises EtpError when none of the task's codes is in a label vocabulary, as in shards of another data set."""
    known = frozenset(vocabulary)
    if task.codes.isdisjoint(known):
        some = ", ".join(sorted(known)[:5]) or "none"
        raise EtpError(f"{where}: has none of the label codes of {task.name}; its labels are {some} ...")


@cache
def _data(file: str) -> dict[str, Any]:
    return json.loads(resources.files(__name__).joinpath(file).read_text(encoding="utf-8"))
