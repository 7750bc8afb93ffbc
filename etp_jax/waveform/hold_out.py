"""A hold-out of sentences: waveform features that no report gets, so that prompts with them are new language.

`etp waveform restore --hold-out-share` draws the sentences and records them in `build.json`. `etp waveform prompts`
writes two prompt files of a task: with the sentences that were restored, and with those that were held out.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.files import has_fields, keep_other_kinds, write_text
from etp_jax.json_text import check_types
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN
from etp_jax.tasks import Task, check_prompts, get_task
from etp_jax.tasks.catalog import features_of_prompt

PARTS = ("trained", "held-out")


@dataclass(frozen=True)
class HoldOut:
    """Which of the proposed sentences no report gets: a random share."""

    share: float = 0.0
    """Share of the sentences, at least 0 and below 1."""
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises EtpError for an impossible share or seed."""
        if not 0 <= self.share < 1:
            raise EtpError(f"--hold-out-share is {self.share}; it must be at least 0 and below 1")
        if self.seed < 0:
            raise EtpError(f"--seed is {self.seed}; it must not be negative")


NO_HOLD_OUT = HoldOut()


def draw(sentences: Iterable[str], share: float, seed: int) -> tuple[str, ...]:
    """Draws a share of some sentences; the draw depends on the set of sentences and on the seed only."""
    ordered = sorted(set(sentences))
    chosen = np.random.default_rng(seed).permutation(len(ordered))[: round(share * len(ordered))]
    return tuple(ordered[place] for place in sorted(chosen))


@dataclass(frozen=True)
class PromptFile:
    """A prompt file that was written."""

    path: Path
    bare: tuple[str, ...]
    """Codes of the classes without a sentence of this part, which keep their default prompts."""

    def __str__(self) -> str:
        """Returns the line that the command prints."""
        bare = f"; no sentence of this part for {', '.join(self.bare)}: default prompts" if self.bare else ""
        return f"wrote {self.path}{bare}"


def write_prompts(shards: Shards, name: str, out: Path) -> list[PromptFile]:
    """Writes a prompt file for each of `PARTS`, for `etp evaluate zero-shot --prompts`.

    A prompt is one of the task's default prompts with its waveform features, as in the set `waveform`, but only those
    of the part: the sentences that training reports of the shards have, or those that were held out. Default prompts
    without such a feature are left out, unless their class has no other prompt.

    Args:
      shards: folder written by `etp waveform restore` with a hold-out.
      name: task.
      out: folder of the files, NAME-trained.json and NAME-held-out.json.

    Raises:
      EtpError: the shards have no hold-out, the task has no prompt with a feature of a part, or a file of another kind
        would be replaced.
    """
    preparation = shards.build.get("preparation", {})
    try:
        check_types(preparation, {"restored": {"held_out": {"sentences": [str]}}})
    except ValueError:
        raise EtpError(
            f"{shards.folder}: no sentence was held out; write it by `etp waveform restore --hold-out-share`"
        ) from None
    held_out = set(preparation["restored"]["held_out"]["sentences"])
    task = get_task(name)
    check_prompts(task)
    trained = {sentence for some in shards.split(TRAIN).columns.features for sentence in some}
    content: list[tuple[PromptFile, dict[str, list[str]]]] = []
    for part, sentences in zip(PARTS, (trained, held_out), strict=True):
        enriched = _prompts(task, sentences)
        if not any(enriched.values()):
            raise EtpError(f"{task.name}: no default prompt has a waveform feature that {shards.folder} has as {part}")
        prompts = {c.code: enriched[c.code] or list(c.prompts) for c in task.classes}
        bare = tuple(code for code, texts in enriched.items() if not texts)
        content.append((PromptFile(out / f"{task.name}-{part}.json", bare), prompts))
    for file, prompts in content:
        keep_other_kinds(file.path, "prompts of this task", has_fields(*prompts))
    out.mkdir(parents=True, exist_ok=True)
    for file, prompts in content:
        write_text(file.path, json.dumps(prompts, indent=1, ensure_ascii=False) + "\n")
    return [file for file, _ in content]


def _prompts(task: Task, sentences: Collection[str]) -> dict[str, list[str]]:
    """The default prompts of each class that have features among some sentences, followed by these."""
    prompts: dict[str, list[str]] = {c.code: [] for c in task.classes}
    for c in task.classes:
        for prompt in c.prompts:
            if features := [feature for feature in features_of_prompt(prompt) if feature in sentences]:
                prompts[c.code].append(". ".join((prompt, *features)))
    return prompts
