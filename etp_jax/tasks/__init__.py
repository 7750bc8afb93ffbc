"""Downstream tasks: classes with their label codes, records and prompts; each task is a JSON file. No jax."""

from etp_jax.tasks.catalog import get_task, load_task_file, prompt_sets, task_names, vocabulary
from etp_jax.tasks.task import Task, TaskClass, check_prompts, check_vocabulary, labels

__all__ = [
    "Task",
    "TaskClass",
    "check_prompts",
    "check_vocabulary",
    "get_task",
    "labels",
    "load_task_file",
    "prompt_sets",
    "task_names",
    "vocabulary",
]
