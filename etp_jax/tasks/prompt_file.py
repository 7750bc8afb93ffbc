"""Prompt files: JSON, {class code: text or list of texts}. No jax."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from etp_jax.errors import EtpError
from etp_jax.files import read_json, sha256
from etp_jax.tasks.catalog import get_task
from etp_jax.tasks.task import Task


def read_prompts(path: Path) -> dict[str, tuple[str, ...]]:
    """Reads the prompts of each class; raises EtpError if the file is not a prompt file."""
    prompts = {}
    for code, value in read_json(path, "it must be JSON, {class code: text}").items():
        texts = [value] if isinstance(value, str) else value
        if not (isinstance(texts, list) and all(isinstance(text, str) for text in texts)):
            raise EtpError(f"{path}: class {code!r} has neither a text nor a list of texts")
        prompts[code] = tuple(texts)
    return prompts


def spellings(code: str) -> tuple[str, str]:
    """Spellings of a class code that a file may use: PTB-XL's `NST_` may lack its underscore."""
    return code, code.strip("_")


def with_prompts(name: str, path: Path) -> Task:
    """Loads a task, by name or path, with the prompts of a file; each prompt is read like a report.

    Raises:
      EtpError: the file cannot be read or lacks prompts for a class of the task; or there is no such task.
    """
    task, prompts = get_task(name), read_prompts(path)
    found = {
        c.code: next((prompts[s] for s in spellings(c.code) if prompts.get(s)), ())
        for c in (*task.classes, *task.unscored)
    }
    missing = [c.code for c in task.classes if not found[c.code]]
    if missing:
        raise EtpError(f"{path}: has no prompt for class {', '.join(missing)} of {name}; add prompts for all classes")
    return replace(
        task,
        classes=tuple(replace(c, prompts=found[c.code]) for c in task.classes),
        prompt_set=f"{path.name}, SHA-256 {sha256(path)[:12]}",
        whole_prompts=False,
    )
