"""Downstream tasks: classes, the label codes of each, records and prompts; each task is a JSON file. No jax."""

from etp_jax.tasks.catalog import get_task, prompt_sets, task_file, task_names, vocabulary
from etp_jax.tasks.task import Task, TaskClass, check_prompts, check_vocabulary, labels

__all__ = [
    "Task",
    "TaskClass",
    "check_prompts",
    "check_vocabulary",
    "get_task",
    "labels",
    "prompt_sets",
    "task_file",
    "task_names",
    "vocabulary",
]
