"""Where the prompts of a zero-shot evaluation come from: a shipped set, or a user's file. No jax."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etp_jax.files import sha256
from etp_jax.tasks.catalog import get_task
from etp_jax.tasks.lint import lint_file
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.task import Task

DEFAULT = "default"
"""The prompt set where none is named."""


@dataclass(frozen=True)
class PromptSource:
    """A prompt set by its name, or a JSON file of one's own prompts."""

    name: str
    """As the user wrote it."""
    file: Path | None
    """None for a shipped set."""

    @classmethod
    def parse(cls, text: str) -> PromptSource:
        """A text that ends in `.json` is a file; any other is the name of a set."""
        return cls(text, Path(text) if text.endswith(".json") else None)

    def task(self, name: str) -> Task:
        """The task `name` with these prompts; raises EtpError if there is no such task, set or readable file."""
        return get_task(name, self.name) if self.file is None else with_prompts(name, self.file)

    def flaws(self, task: str) -> list[str]:
        """What the linter finds in the prompts of a file, a line each; nothing for a shipped set."""
        return [] if self.file is None else [f"{self.name}: {flaw}" for flaw in lint_file(self.file, task)]

    @property
    def suffixes(self) -> list[str]:
        """What these prompts add to the name of a result file; files of one name differ by their digest."""
        if self.file is not None:
            return [f"{self.file.stem}-{sha256(self.file)[:8]}"]
        return [] if self.name == DEFAULT else [self.name]
