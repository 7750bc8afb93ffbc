"""`etp tasks`: lists and checks the downstream tasks, and drafts one of your own."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import tyro

from etp_jax.cli.command import Command, show
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class TasksList:
    """Lists the downstream tasks with their classes, data set, records and prompt sets."""


@dataclass(frozen=True)
class TasksLint:
    """Checks the codes and prompts of all tasks, a task of your own, or prompts of your own."""

    file: tyro.conf.Positional[Path | None] = None
    """Task file of your own (.json); by default all shipped tasks are checked."""
    shards: Path | None = None
    """Shard folder whose label vocabulary the codes of your task are checked against."""
    prompts: Path | None = None
    """File of prompts to check instead of a task: JSON, {class code: text or list of texts}."""
    task: str | None = None
    """Task of the classes in --prompts, by name or file; by default any shipped task."""


@dataclass(frozen=True, kw_only=True)
class TasksNew:
    """Drafts a task of your own from the labels of a shard folder."""

    shards: Path
    """Shard folder made by `etp prep`, with labels."""
    out: Path
    """Task file to write (.json); an existing file is never overwritten."""
    name: str | None = None
    """Name of the task in tables and results; by default the name of the file."""


def tasks_list(args: TasksList) -> None:
    """Runs `etp tasks list`."""
    from etp_jax.tasks.lint import overview

    show(overview())


def tasks_lint(args: TasksLint) -> None:
    """Runs `etp tasks lint`; raises EtpError if there are flaws."""
    from etp_jax.shards.reader import Shards
    from etp_jax.tasks import lint

    if args.prompts and (args.file or args.shards):
        raise EtpError("--prompts checks prompts for --task; omit the task file and --shards")
    if args.task and not args.prompts:
        raise EtpError(f"--task belongs to --prompts; to check a task of your own: etp tasks lint {args.task}")
    if args.shards and not args.file:
        raise EtpError("--shards belongs to a task file of your own; name it: etp tasks lint my.json --shards ...")
    if args.prompts:
        flaws = lint.lint_file(args.prompts, args.task)
    elif args.file:
        flaws = lint.lint_task(str(args.file), Shards(args.shards).label_vocabulary if args.shards else None)
    else:
        flaws = lint.lint_tasks()
    show("\n".join(flaws) or "no flaws")
    if flaws:
        raise EtpError(f"{args.prompts or args.file or 'the shipped tasks'}: flaws: {len(flaws)}")


def tasks_new(args: TasksNew) -> None:
    """Runs `etp tasks new`."""
    from etp_jax.shards.reader import Shards
    from etp_jax.tasks.draft import draft_task, write_draft

    draft = draft_task(Shards(args.shards), args.name or args.out.stem)
    write_draft(draft, args.out)
    show(draft.summary())
    show(f"wrote {args.out}; edit its names and prompts, then check it: etp tasks lint {args.out}")


COMMANDS = {
    "tasks list": Command(TasksList, tasks_list),
    "tasks lint": Command(TasksLint, tasks_lint),
    "tasks new": Command(TasksNew, tasks_new),
}
