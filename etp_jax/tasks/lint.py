"""Lists the tasks, and finds flaws in the codes and prompts of shipped and user-defined tasks. No jax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from etp_jax.errors import EtpError
from etp_jax.tasks.catalog import DEFAULT, get_task, load_task_file, prompt_sets, task_names
from etp_jax.tasks.prompt_file import read_prompts, spellings
from etp_jax.tasks.task import Task
from etp_jax.tasks.task_file import SHIPPED, TaskFile

LEFTOVERS = {
    "talks to somebody": r"let me know|hope this|here (is|are)\b|please|feel free|certainly|as an ai\b|requirements",
    "has layout marks": r"[*#`_|\n\t]|^- ",
    "has marks that no statement has": r"[!?;{}<>\[\]]|\.\.|\.$",
    "is not plain English text": r"[^\x20-\x7E\n\t]",
    "has a stray space or comma": r"^[\s,]|[\s,]$|\s{2}|\s,|,\s*,|,\.",
    "begins within a sentence": r"(^|, ?)(in|of|and|or) ",
    "is empty": r"^$",
}
"""Patterns that must not occur in a prompt, ignoring case, by description of the flaw."""

OPPOSITES = (
    ("tachycardi", "bradycardi"),
    ("elevat|tilt up", "depress|drop down"),
    (r"(?<!-)\bclockwise", "counter-?clockwise"),
    (r"\bcomplete", "incomplete"),
    (r"\bleft|LBBB|LAFB", r"\bright|RBBB"),
    ("fibrillation", "flutter"),
    ("escape", "premature"),
    (r"\blow", r"\bhigh|\btall"),
    ("prolong|extension|extended", "shorten"),
    ("first[- ]degree", "(second|third)[- ]degree"),
)
"""Pairs of opposites: if a class name contains one, no statement of its prompts may contain only the other."""

NORMAL = r"^(normal ECG|sinus rhythm|normal beat)$"
FINDING = (
    r"tachycardi|bradycardi|infarct|isch?em|\bblock|fibrillation|flutter|hypertroph|premature|ectopic|prolong|elevat"
    r"|depress|inver(sion|ted)|abnormal|deviation"
)
"""Pattern of findings; no statement of a normal class may contain one."""


def overview() -> str:
    """Formats all shipped tasks as an aligned table, with the prompt sets below."""
    tasks = [get_task(name) for name in task_names()]
    lines = [("task", "classes", "data set", "records")]
    lines += [(task.name, str(len(task.classes)), task.dataset, task.rule) for task in tasks]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, "", f"prompt sets of every task: {', '.join(prompt_sets())}"])


def lint_tasks() -> list[str]:
    """Returns the flaws of all shipped tasks and prompt sets, one line each."""
    try:
        names = task_names()
    except EtpError:  # one invalid file prevents listing the names of all
        return [flaw for path in sorted(SHIPPED.glob("*.json")) for flaw in lint_task(str(path))]
    return [flaw for name in names for flaw in lint_task(name)]


def lint_task(name: str, codes: Iterable[str] | None = None) -> list[str]:
    """Returns the flaws of one task, one line each.

    Args:
      name: name of a shipped task, or the path of a .json file.
      codes: label vocabulary of the shards to use the task with; by default that of the task's data set, if known.
    """
    try:
        file = load_task_file(name)
        # A user's own task needs only the prompt sets in its file.
        sets = prompt_sets() if file.shipped else _own_sets(file)
        tasks = {prompts: get_task(name, prompts) for prompts in sets}
    except EtpError as error:
        return [str(error)]
    known = set(file.label_vocabulary if codes is None else codes)
    flaws = code_flaws(tasks[DEFAULT], known) if known else []
    if file.shipped and not any(c.prompts for c in file.classes):
        return flaws  # a shipped task may be without sentences: it is for probe, knn and finetune
    for prompts, task in tasks.items():
        texts = [(c.code, (c.name,), c.prompts) for c in task.classes]
        flaws += [f"{file.name}, prompts {prompts}, {flaw}" for flaw in prompt_flaws(texts, task.shared_prompts)]
    return flaws


def _own_sets(file: TaskFile) -> tuple[str, ...]:
    """Prompt sets for which a file has sentences, and always the default set."""
    return tuple(dict.fromkeys((DEFAULT, *(s for c in file.classes for s in c.prompts), *file.templates)))


def lint_file(path: Path, task: str | None = None) -> list[str]:
    """Returns the flaws of a user's own prompts, one line each.

    Args:
      path: JSON, {class code: text or list of texts}. PTB-XL's codes may lack their underscores (`NST` for `NST_`).
      task: task of the classes, by name or path; by default a code may be that of any shipped task.

    Raises:
      EtpError: the file cannot be read as prompts, or there is no such task.
    """
    given = read_prompts(path)
    names: dict[str, set[str]] = {}
    for c in (c for name in ([task] if task else task_names()) for c in get_task(name).classes):
        for code in spellings(c.code):
            names.setdefault(code, set()).add(c.name)
    texts = [(code, sorted(names.get(code, ())), prompts) for code, prompts in given.items()]
    if task:
        missing = [c.code for c in get_task(task).classes if given.keys().isdisjoint(spellings(c.code))]
        texts += [(code, (), ()) for code in missing]
    return prompt_flaws(texts)


def code_flaws(task: Task, known: Iterable[str]) -> list[str]:
    """Returns codes that the data set lacks, and codes of two classes in a task without overlapping classes.

    Args:
      task: the task.
      known: label codes of the data set.
    """
    flaws: list[str] = []
    owner: dict[str, str] = {}
    for c in (*task.classes, *task.unscored):
        for code in sorted(c.codes):
            if code not in known:
                flaws.append(f"{task.name}, class {c.code}: {task.dataset or 'the data set'} has no code {code}")
            if code in owner and not task.overlapping:
                flaws.append(f"{task.name}, class {c.code}: code {code} makes class {owner[code]} too")
            owner[code] = c.code
    return flaws


def prompt_flaws(
    texts: Iterable[tuple[str, Iterable[str], Iterable[str]]], shared: frozenset[str] = frozenset()
) -> list[str]:
    """Returns the flaws of the prompts of some classes.

    Args:
      texts: code, names and prompts of each class. A prompt must fit at least one of the names, if there are any.
      shared: prompts that several classes may have.
    """
    flaws: list[str] = []
    owner: dict[str, str] = {}
    for code, names, prompts in texts:
        own = list(dict.fromkeys(prompts))
        if not own:
            flaws.append(f"class {code}: no prompt")
        for prompt in own:
            flaws += [f"class {code}: {flaw}" for flaw in (*_leftovers(prompt), *_contradictions(list(names), prompt))]
            if prompt in owner and prompt not in shared:
                flaws.append(f"class {code}: {prompt!r} is a prompt of class {owner[prompt]} too")
            owner[prompt] = code
    return flaws


def _leftovers(prompt: str) -> Iterator[str]:
    text = prompt.removesuffix(".")
    for what, pattern in LEFTOVERS.items():
        found = re.search(pattern, text, re.IGNORECASE)
        if found:
            yield f"{text[max(found.start() - 20, 0) : found.end() + 20]!r} {what}"


def _contradictions(names: list[str], prompt: str) -> Iterator[str]:
    """Yields each statement, between commas, that contradicts all of the names."""
    for statement in map(str.strip, prompt.removesuffix(".").split(",")):
        if names and all(_contradicts(name, statement) for name in names):
            yield f"{statement!r} contradicts {' and '.join(map(repr, names))}"


def _contradicts(name: str, statement: str) -> bool:
    def has(pattern: str, text: str) -> bool:
        return re.search(pattern, text, re.IGNORECASE) is not None

    return (has(NORMAL, name) and has(FINDING, statement)) or any(
        has(one, name) and not has(other, name) and has(other, statement) and not has(one, statement)
        for pair in OPPOSITES
        for one, other in (pair, pair[::-1])
    )
