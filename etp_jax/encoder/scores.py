"""Zero-shot scores: the similarity of an ECG to the sentences that describe each class."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from etp_jax.encoder.encoder import Encoder
from etp_jax.metrics.vectors import unit
from etp_jax.tasks import Task, check_prompts


def class_directions(encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Directions [C, E] along which an ECG's embedding scores for each class.

    The direction of a class is the mean of its prompts' unit embeddings, scaled to unit length again. A prompt set may
    contrast findings with other sentences ("normal ECG"): then `against_weight` times their direction is subtracted,
    because most reports share these sentences. Classes that have one of them as a prompt are not contrasted.

    Raises:
      EtpError: a class of the task has no prompt.
    """
    check_prompts(task)
    groups = [c.prompts for c in task.classes] + [task.against] * bool(task.against)
    prompts_PE = encoder.text([prompt for group in groups for prompt in group], task.whole_prompts)
    ends = np.cumsum([len(group) for group in groups])[:-1]
    means_GE = np.stack([group_PE.mean(axis=0) for group_PE in np.split(prompts_PE, ends)])
    units_GE = unit(means_GE)
    if not task.against:
        return units_GE
    contrasted_C = np.array([set(task.against).isdisjoint(c.prompts) for c in task.classes])
    return units_GE[:-1] - np.float32(task.against_weight) * contrasted_C[:, None] * units_GE[-1]


def class_scores(ecg_NE: NDArray[np.float32], encoder: Encoder, task: Task) -> NDArray[np.float32]:
    """Scores [N, C] of unit ECG embeddings: cosines, or differences of cosines for a contrast set."""
    return ecg_NE @ class_directions(encoder, task).T
