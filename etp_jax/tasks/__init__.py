"""What a downstream task is: its classes, the label codes that make each, its records, its prompts. No jax."""

from etp_jax.tasks.task import (
    Task,
    TaskClass,
    check_vocabulary,
    get_task,
    labels,
    prompt_sets,
    shared_prompts,
    task_names,
    vocabulary,
)

__all__ = [
    "Task",
    "TaskClass",
    "check_vocabulary",
    "get_task",
    "labels",
    "prompt_sets",
    "shared_prompts",
    "task_names",
    "vocabulary",
]
