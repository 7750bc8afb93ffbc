"""Loads tasks by name or file, with the prompts of one set. No jax.

Shipped tasks are the files in `data/`. The prompt sets `waveform` and `contrast` are derived from each task's own
prompts with the tables in `tables/`.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

from etp_jax.errors import EtpError
from etp_jax.tasks.task import Task, TaskClass
from etp_jax.tasks.task_file import SHIPPED, ClassEntry, Contrast, TaskFile, read_task_file, table

DEFAULT = "default"
"""Name of the prompt set that every task with prompts has."""
WAVEFORM = "waveform"
"""Name of the prompt set of default prompts, each followed by its waveform features from textbooks."""


def task_names() -> tuple[str, ...]:
    """Names of the shipped tasks."""
    return tuple(_shipped(SHIPPED))


def prompt_sets(name: str | None = None) -> tuple[str, ...]:
    """Prompt sets of every shipped task; if a task is named, also those of its file."""
    sets = dict.fromkeys(table("prompt_sets.json")["written"])
    if name is not None:
        file = load_task_file(name)
        sets |= dict.fromkeys((*(s for c in file.classes for s in c.prompts), *file.contrasts, *file.templates))
    return tuple(sets)


def load_task_file(name: str) -> TaskFile:
    """Loads the file of a task.

    Args:
      name: name of a shipped task, or the path of a .json file.

    Raises:
      EtpError: there is no such task, or its file is invalid.
    """
    if name.endswith(".json"):
        return read_task_file(Path(name))
    if name not in task_names():
        raise EtpError(f"no task {name!r}; there are {', '.join(task_names())}, or the path of your own .json file")
    return _shipped(SHIPPED)[name]


def get_task(name: str, prompts: str = DEFAULT) -> Task:
    """Loads a task with the prompts of one set.

    Args:
      name: name of a shipped task, or the path of a .json file.
      prompts: name of a prompt set. Classes without such prompts have none; `check_prompts` reports them.

    Raises:
      EtpError: there is no such task or prompt set, or the file is invalid.
    """
    file = load_task_file(name)
    if prompts not in prompt_sets(name):
        raise EtpError(f"no prompt set {prompts!r}; there are {', '.join(prompt_sets(name))}")
    contrast = file.contrasts.get(prompts) or _contrasts().get(prompts)
    wording = contrast.of if contrast else prompts
    classes = [TaskClass(c.code, c.name, frozenset(c.labels), _prompts(file, c, wording)) for c in file.classes]
    scored = [c.code for c in classes] if file.scored is None else file.scored
    version = f"version {table('prompt_sets.json')['version']}" if file.shipped else f"{file.path.name} {file.digest}"
    return Task(
        file.name,
        tuple(c for c in classes if c.code in scored),
        prompt_set=f"{prompts}, {version}",
        whole_prompts=wording in file.templates,
        against=contrast.against if contrast else (),
        against_weight=contrast.weight if contrast else 0.0,
        group=file.group or file.title,
        dataset=file.dataset,
        archive=file.archive,
        max_per_class=file.max_per_class,
        unscored=tuple(c for c in classes if c.code not in scored),
        all_splits=file.all_splits,
        known_codes=None if file.known_codes is None else frozenset(file.known_codes),
        overlapping=file.overlapping,
        shared_prompts=frozenset((*file.shared_prompts, *map(_with_features, file.shared_prompts))),
        file="" if file.shipped else str(file.path),
        digest="" if file.shipped else file.digest,
    )


def vocabulary(dataset: str) -> dict[str, str]:
    """Label codes of a data set with their meaning, from the shipped table."""
    return table("vocabularies.json")["vocabularies"][dataset]


def _prompts(file: TaskFile, entry: ClassEntry, wording: str) -> tuple[str, ...]:
    if wording in file.templates:
        return (file.templates[wording].replace("{name}", entry.name),)
    if wording == WAVEFORM:
        return tuple(map(_with_features, entry.prompts.get(DEFAULT, ())))
    return entry.prompts.get(wording, ())


def _with_features(prompt: str) -> str:
    """Formats a prompt like a report with restored waveform features."""
    return ". ".join((prompt, *features_of_prompt(prompt)))


def features_of_prompt(prompt: str) -> tuple[str, ...]:
    """Waveform features that the textbook criteria name for a prompt of a set `default`."""
    return tuple(table("waveform.json")["features"].get(prompt, ()))


@cache
def _shipped(folder: Path) -> dict[str, TaskFile]:
    """Reads the tasks of a folder, by name."""
    files = [read_task_file(path) for path in folder.glob("*.json")]
    ranked = sorted(files, key=lambda file: (file.order is None, file.order or 0, file.name))
    return {file.name: file for file in ranked}


@cache
def _contrasts() -> dict[str, Contrast]:
    """Contrast sets that every task has, by name."""
    contrasts = table("prompt_sets.json")["contrasts"]
    return {name: Contrast(c["of"], tuple(c["against"]), c["weight"]) for name, c in contrasts.items()}
