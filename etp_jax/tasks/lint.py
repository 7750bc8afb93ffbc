"""`etp tasks`: lists the tasks; finds what is wrong with their codes and prompts, or with a user's own. No jax."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from etp_jax.tasks.prompt_file import read_prompts, spellings
from etp_jax.tasks.task import Task, get_task, prompt_sets, shared_prompts, task_names, vocabulary

LEFTOVERS = {
    "talks to somebody": r"let me know|hope this|here (is|are)\b|please|feel free|certainly|as an ai\b|requirements",
    "has layout marks": r"[*#`_|\n\t]|^- ",
    "has marks that no statement has": r"[!?;{}<>\[\]]|\.\.|\.$",
    "is not plain English text": r"[^\x20-\x7E\n\t]",
    "has a stray space or comma": r"^[\s,]|[\s,]$|\s{2}|\s,|,\s*,|,\.",
    "begins within a sentence": r"(^|, ?)(in|of|and|or) ",
    "is empty": r"^$",
}
"""What does not belong into a prompt, ignoring case."""

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
"""A class whose name has one of two must not be described by a statement that has only the other."""

NORMAL = r"^(normal ECG|sinus rhythm|normal beat)$"
FINDING = (
    r"tachycardi|bradycardi|infarct|isch?em|\bblock|fibrillation|flutter|hypertroph|premature|ectopic|prolong|elevat"
    r"|depress|inver(sion|ted)|abnormal|deviation"
)
"""No statement of a class that is normal has one of these."""


def overview() -> str:
    """All tasks as an aligned table, and the prompt sets."""
    tasks = [get_task(name) for name in task_names()]
    lines = [("task", "classes", "data set", "records")]
    lines += [(task.name, str(len(task.classes)), task.dataset, task.rule) for task in tasks]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    rows = ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
    return "\n".join([*rows, "", f"prompt sets of every task: {', '.join(prompt_sets())}"])


def lint_tasks() -> list[str]:
    """What is wrong with the shipped tasks and prompt sets, a line each."""
    flaws: list[str] = []
    for name in task_names():
        flaws += code_flaws(get_task(name), vocabulary(get_task(name).dataset))
        for prompts in prompt_sets():
            task = get_task(name, prompts)
            texts = [(c.code, (c.name,), c.prompts) for c in task.classes]
            flaws += [f"{name}, prompts {prompts}, {flaw}" for flaw in prompt_flaws(texts, shared_prompts())]
    return flaws


def lint_file(path: Path, task: str | None = None) -> list[str]:
    """What is wrong with a user's own prompts, a line each.

    Args:
      path: JSON, {class code: text or list of texts}. PTB-XL's codes may lack their underscores (`NST` for `NST_`).
      task: whose classes they are; by default a code means what any shipped task means by it, if there is one.

    Raises:
      EtpError: the file cannot be read as such, or there is no such task.
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
    """Codes that the data set does not have, and codes in two classes where these are apart.

    Args:
      task: whose codes.
      known: the data set's.
    """
    flaws: list[str] = []
    owner: dict[str, str] = {}
    for c in task.classes:
        for code in sorted(c.codes):
            if code not in known:
                flaws.append(f"{task.name}, class {c.code}: {task.dataset} has no code {code}")
            if code in owner and not task.overlapping:
                flaws.append(f"{task.name}, class {c.code}: code {code} makes class {owner[code]} too")
            owner[code] = c.code
    return flaws


def prompt_flaws(
    texts: Iterable[tuple[str, Iterable[str], Iterable[str]]], shared: frozenset[str] = frozenset()
) -> list[str]:
    """What is wrong with the prompts of some classes.

    Args:
      texts: code, names and prompts of each class. Of several names one must fit; without any, none is contradicted.
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
    """Of each statement between commas that fits none of the names."""
    for statement in map(str.strip, prompt.removesuffix(".").split(",")):
        if names and all(_contradicts(name, statement) for name in names):
            yield f"{statement!r} contradicts {' and '.join(map(repr, names))}"


def _contradicts(name: str, statement: str) -> bool:
    def says(pattern: str, text: str) -> bool:
        return re.search(pattern, text, re.IGNORECASE) is not None

    return (says(NORMAL, name) and says(FINDING, statement)) or any(
        says(one, name) and not says(other, name) and says(other, statement) and not says(one, statement)
        for pair in OPPOSITES
        for one, other in (pair, pair[::-1])
    )
