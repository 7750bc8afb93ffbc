"""What a downstream task is: its classes, the label codes that make each, its records, its prompts. No jax.

Facts and prompts are data: a file a data set (`ptbxl.json`) says which codes make a class, `prompts.json` how each
class is put into words (`waveform.json`: what its ECG looks like), `vocabularies.json` which codes a data set uses.
Codes are matched by exact name. A code counts at any likelihood, 0 included (in PTB-XL: present, likelihood unknown),
and a task's records are those with at least one of its codes, unless it draws a balanced set.
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
from etp_jax.shards.record import SplitColumns

FILES = ("ptbxl.json", "cpsc2018.json", "csn.json", "georgia.json", "mitbih.json")
"""The tasks of each data set."""
WAVEFORM = "waveform"
"""Prompt set: the default prompts, each followed by the waveform features that textbooks name for it."""


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
    """A multi-label classification task, or one with a single label where `most` is set."""

    name: str
    classes: tuple[TaskClass, ...]
    prompt_set: str
    """Name and version of the prompts."""
    whole_prompts: bool
    """The prompts are what the text tower reads; otherwise they stand for reports, in the recipe's template."""
    against: tuple[str, ...] = ()
    """Sentences whose score is taken off every class's, times `against_weight`."""
    against_weight: float = 0.0
    dataset: str = ""
    """The data set that its codes are of."""
    archive: str | None = None
    """If given, only records that have this as their `dataset` count: the codes are common to several."""
    most: int | None = None
    """A balanced set of records with a single label: as many of each class as the rarest has, at most these."""
    unscored: tuple[TaskClass, ...] = ()
    """Classes that are not scored; beside one of them a label is not single."""
    all_splits: bool = False
    """Its records come from all splits of the shards."""
    known: frozenset[str] | None = None
    """If given, records with a code that is not among these are left out."""
    overlapping: bool = False
    """One code may make a record positive for several classes."""

    @property
    def codes(self) -> frozenset[str]:
        """All label codes of the task."""
        return frozenset().union(*(c.codes for c in self.classes))

    @property
    def rule(self) -> str:
        """Which records it has, in words."""
        if self.most is None:
            return "any label" if self.known is None else "any label, all codes known"
        source = "all splits" if self.all_splits else "the split"
        return f"single label, n = min({self.most}, rarest class) a class, from {source}"


def task_names() -> tuple[str, ...]:
    """The tasks there are."""
    return tuple(name for file in FILES for part in ("tasks", "derived") for name in _data(file).get(part, ()))


def prompt_sets() -> tuple[str, ...]:
    """The prompt sets there are."""
    prompts = _data("prompts.json")
    return (*prompts["sets"], WAVEFORM, *prompts["contrasts"], *prompts["templates"])


def get_task(name: str, prompts: str = "default") -> Task:
    """The task `name` with the prompts of one set; raises EtpError, naming those there are, for an unknown one."""
    if name not in task_names():
        raise EtpError(f"no task {name!r}; there are {', '.join(task_names())}")
    if prompts not in prompt_sets():
        raise EtpError(f"no prompt set {prompts!r}; there are {', '.join(prompt_sets())}")

    file = next(data for data in map(_data, FILES) if name in data["tasks"] or name in data.get("derived", ()))
    derived = file.get("derived", {}).get(name, {})
    base = derived.get("of", name)
    sentences = _data("prompts.json")
    contrast = sentences["contrasts"].get(prompts, {})
    wording = contrast.get("set", prompts)

    def prompts_of(code: str, class_name: str) -> tuple[str, ...]:
        if wording in sentences["templates"]:
            return (sentences["templates"][wording][base].format(name=class_name),)
        plain = sentences["sets"]["default" if wording == WAVEFORM else wording].get(base, {}).get(code, ())
        return tuple(map(_with_features, plain)) if wording == WAVEFORM else tuple(plain)

    classes = [
        TaskClass(
            code,
            facts["name"],
            frozenset(derived.get("codes", {}).get(code, facts["codes"])),
            prompts_of(code, facts["name"]),
        )
        for code, facts in file["tasks"][base].items()
    ]
    scored = derived.get("classes", [c.code for c in classes])
    return Task(
        name,
        tuple(c for c in classes if c.code in scored),
        prompt_set=f"{prompts}, version {sentences['version']}",
        whole_prompts=wording in sentences["templates"],
        against=tuple(contrast.get("against", ())),
        against_weight=contrast.get("weight", 0.0),
        dataset=file["dataset"],
        archive=file.get("archive"),
        most=derived.get("most"),
        unscored=tuple(c for c in classes if c.code not in scored),
        all_splits=derived.get("all_splits", False),
        known=frozenset(file["acronyms"].values()) if derived.get("known") else None,
        overlapping="codes" in derived,
    )


def shared_prompts() -> frozenset[str]:
    """Prompts that classes of one task may share."""
    shared = _data("prompts.json")["shared"]["prompts"]
    return frozenset((*shared, *map(_with_features, shared)))


def _with_features(prompt: str) -> str:
    """A prompt in the form of a report with restored features."""
    return ". ".join((prompt, *_data("waveform.json")["features"].get(prompt, ())))


def vocabulary(dataset: str) -> dict[str, str]:
    """The label codes that a data set uses, with their meaning."""
    return _data("vocabularies.json")["vocabularies"][dataset]


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
    if task.most is not None:
        keep_N &= has.sum(axis=1) == 1
    if task.known is not None:
        keep_N &= np.array([codes <= task.known for codes in sets], bool)
    if task.archive is not None:
        keep_N &= np.array([dataset == task.archive for dataset in columns.dataset], bool)
    return np.asarray(keep_N), y_NC


def check_vocabulary(task: Task, vocabulary: Iterable[str], where: str) -> None:
    """Raises EtpError when none of the task's codes is in a label vocabulary, as in shards of another data set."""
    known = frozenset(vocabulary)
    if task.codes.isdisjoint(known):
        some = ", ".join(sorted(known)[:5]) or "none"
        raise EtpError(f"{where}: has none of the label codes of {task.name}; its labels are {some} ...")


@cache
def _data(file: str) -> dict[str, Any]:
    return json.loads(resources.files("etp_jax.tasks").joinpath("data", file).read_text(encoding="utf-8"))
