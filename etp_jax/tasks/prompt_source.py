"""Source of the prompts of a zero-shot evaluation: a shipped set, or a user's file. No jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etp_jax.files import sha256
from etp_jax.tasks.catalog import get_task
from etp_jax.tasks.lint import lint_file
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.task import Task

DEFAULT = "default"
"""Name of the prompt set that is used by default."""


@dataclass(frozen=True)
class PromptSource:
    """A prompt set by its name, or a JSON file of a user's own prompts."""

    name: str
    """Name of the set or path of the file, as given by the user."""
    file: Path | None
    """Path of the user's file; None for a shipped set."""

    @classmethod
    def parse(cls, text: str) -> PromptSource:
        """Interprets a text: a file if it ends in `.json`, otherwise the name of a set."""
        return cls(text, Path(text) if text.endswith(".json") else None)

    def task(self, name: str) -> Task:
        """Loads the task `name` with these prompts; raises EtpError if there is no such task, set or readable file."""
        return get_task(name, self.name) if self.file is None else with_prompts(name, self.file)

    def flaws(self, task: str) -> list[str]:
        """Findings of the linter in the prompts of a file, one line each; empty for a shipped set."""
        return [] if self.file is None else [f"{self.name}: {flaw}" for flaw in lint_file(self.file, task)]

    @property
    def suffixes(self) -> list[str]:
        """Suffixes of a result file's name for these prompts; files of the same name differ by their digest."""
        if self.file is not None:
            return [f"{self.file.stem}-{sha256(self.file)[:8]}"]
        return [] if self.name == DEFAULT else [self.name]
