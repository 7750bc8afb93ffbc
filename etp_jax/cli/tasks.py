"""`etp tasks`: the downstream tasks, and what is wrong with one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from etp_jax.cli.command import Command
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class TasksList:
    """Lists the downstream tasks: classes, data set, which records, prompt sets."""


@dataclass(frozen=True)
class TasksLint:
    """Checks the codes and prompts of all tasks, or prompts of your own."""

    prompts: Path | None = None
    """Your prompts instead: JSON, {class code: text or list of texts}."""
    task: str | None = None
    """Whose classes your prompts are for; by default any task's."""


def tasks_list(args: TasksList) -> None:
    """Runs `etp tasks list`."""
    from etp_jax.tasks.lint import overview

    print(overview())


def tasks_lint(args: TasksLint) -> None:
    """Runs `etp tasks lint`; raises EtpError when something is wrong."""
    from etp_jax.tasks import lint

    flaws = lint.lint_file(args.prompts, args.task) if args.prompts else lint.lint_tasks()
    print("\n".join(flaws) or "nothing is wrong")
    if flaws:
        raise EtpError(f"{args.prompts or 'the shipped tasks'}: flaws: {len(flaws)}")


COMMANDS = {
    "tasks list": Command(TasksList, tasks_list),
    "tasks lint": Command(TasksLint, tasks_lint),
}
