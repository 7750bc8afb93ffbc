"""`etp tasks new`: drafts a task from the labels of a shard folder. No jax."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etp_jax.errors import EtpError
from etp_jax.files import check_can_write, write_text
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN, VALIDATION
from etp_jax.tasks.catalog import DEFAULT, load_task_file, task_names
from etp_jax.tasks.task_file import FORMAT, read_task_file, table, task_text

OWN_WORDS = "the code's own words"


@dataclass(frozen=True)
class Wording:
    """Name and prompts of a label."""

    name: str
    """Name of the label in plain English."""
    prompts: tuple[str, ...]
    """Sentences for zero-shot classification."""
    source: str
    """Source of name and prompts."""


@dataclass(frozen=True)
class Draft:
    """A task made from the labels of a shard folder."""

    content: dict[str, Any]
    """Content of the task file, a JSON object."""
    counts: dict[str, Counter[str]]
    """Number of records with each label, by split."""
    sources: dict[str, str]
    """Source of each label's name and prompts."""

    @property
    def left_out(self) -> list[str]:
        """Labels that are not scored, because the training or the validation split has no record with them."""
        return [c["code"] for c in self.content["classes"] if c["code"] not in self.content["scored"]]

    def summary(self) -> str:
        """Formats a table of the labels: counts by split, and the source of their names and prompts."""
        lines = [("label", *self.counts, "words from")]
        lines += [(label, *(str(n[label]) for n in self.counts.values()), s) for label, s in self.sources.items()]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        rows = ["  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip() for line in lines]
        total, scored = len(self.content["classes"]), len(self.content["scored"])
        rows += ["", f"{scored} of {total} labels are scored"]
        if self.left_out:
            reason = "the training or the validation split has no record with them"
            rows[-1] += f"; not {', '.join(self.left_out)}: {reason}"
        return "\n".join(rows)


def draft_task(shards: Shards, name: str) -> Draft:
    """Drafts a task with one class for each label of a shard folder.

    Classes are scored if both the training and the validation split have a record with the label.

    Raises:
      EtpError: the shards have no labels, or no label that is in both splits.
    """
    if not shards.label_vocabulary:
        raise EtpError(f"{shards.folder}: its records have no labels; name the label column when you prepare them")
    counts = {
        split: Counter(label for labels in shards.split(split).columns.labels for label in set(labels))
        for split in shards.splits
    }
    in_both = set(counts.get(TRAIN, ())) & set(counts.get(VALIDATION, ()))
    scored = [label for label in shards.label_vocabulary if label in in_both]
    if not scored:
        raise EtpError(f"{shards.folder}: no label has records in both splits {TRAIN!r} and {VALIDATION!r}")
    wordings = word_labels(shards.label_vocabulary)
    content = {
        "format": FORMAT,
        "name": name,
        "title": f"Labels of {shards.name}",
        "dataset": shards.name,
        "scored": scored,
        "classes": [
            {"code": label, "name": w.name, "labels": [label], "prompts": {DEFAULT: list(w.prompts)}}
            for label, w in wordings.items()
        ],
    }
    return Draft(content, counts, {label: w.source for label, w in wordings.items()})


def write_draft(draft: Draft, out: Path) -> None:
    """Writes the task file; raises EtpError if the file exists, or the task's name is not allowed."""
    if out.suffix != ".json":
        raise EtpError(f"{out}: the file of a task ends in .json")
    if out.exists():
        raise EtpError(f"{out}: exists already; name another file, or delete it first")
    check_can_write(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, task_text(draft.content))
    try:
        read_task_file(out)
    except EtpError:
        out.unlink()
        raise


def word_labels(labels: Iterable[str]) -> dict[str, Wording]:
    """Chooses name and prompts for each label.

    They come from a shipped task that has a class with only this label, else from a shipped vocabulary, else from the
    label itself. A label matches by its code, or by its words if they are the name of a class. If several labels share
    a prompt, the first keeps it, unless another label would have no prompt left.
    """
    known = _known()
    found: dict[str, Wording] = {}
    taken: set[str] = set()
    for label in labels:
        words = re.sub(r"[\s_]+", " ", label).strip() or label
        wording = known.get(label) or known.get(words.casefold()) or Wording(words, (words,), OWN_WORDS)
        own = tuple(prompt for prompt in wording.prompts if prompt not in taken) or wording.prompts
        taken |= set(own)
        found[label] = Wording(wording.name, own, wording.source)
    return found


def _known() -> dict[str, Wording]:
    """Names and prompts that ship, by label code and by class name in lower case."""
    known: dict[str, Wording] = {}
    for task in task_names():
        for c in load_task_file(task).classes:
            if not (prompts := c.prompts.get(DEFAULT, ())):
                continue
            wording = Wording(c.name, prompts, f"task {task}")
            if len(c.labels) == 1:
                known.setdefault(c.labels[0], wording)
            known.setdefault(c.name.casefold(), wording)
    for dataset, vocabulary in table("vocabularies.json")["vocabularies"].items():
        for code, meaning in vocabulary.items():
            words = " ".join(meaning.split())
            known.setdefault(code, Wording(words, (words,), f"vocabulary of {dataset}"))
    return known
