"""Zero-shot classification: scores by the similarity of an ECG to the sentences that describe a class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, Self

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError
from etp_jax.evaluation.outcome import Outcome, classification_row
from etp_jax.evaluation.request import PublishedRequest
from etp_jax.evaluation.results import Result
from etp_jax.metrics.bootstrap import bootstrap_weights
from etp_jax.metrics.classification import best_thresholds, nearest, nearest_metrics, score
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL, VALIDATION
from etp_jax.tasks import Task, check_prompts
from etp_jax.tasks.prompt_source import DEFAULT, PromptSource

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder


@dataclass(frozen=True, kw_only=True)
class ZeroShot(PublishedRequest):
    """Scores each class by the similarity of ECG and prompts; learns nothing from labels. Takes `--split all`."""

    kind: ClassVar[str] = "zero-shot"
    choice: ClassVar[Literal["", "prompts", "protocol"]] = "prompts"

    prompts: tuple[str, ...] = (DEFAULT,)
    """Prompt sets, or .json files {class code: text or list of texts}. If there are several, a table compares them."""

    @property
    def reads_text(self) -> bool:
        """Whether the evaluation needs an encoder that reads sentences."""
        return True

    def check(self) -> None:
        """Raises EtpError for unknown or unreadable prompts, or for options that contradict each other."""
        if not self.prompts:
            raise EtpError("--prompts is empty; name a prompt set or a .json file")
        if len(self.prompts) > 1 and self.json is not None:
            raise EtpError("--json names one file; omit it if there are several --prompts")
        super().check()
        for source in map(PromptSource.parse, self.prompts):
            check_prompts(source.task(self.task))

    def parts(self) -> Sequence[Self]:
        """Returns one request for each prompt set."""
        return [self.chosen(prompts) for prompts in self.prompts]

    def warnings(self) -> list[str]:
        """Findings of the linter in the prompt files, one line each."""
        return [flaw for source in map(PromptSource.parse, self.prompts) for flaw in source.flaws(self.task)]

    def definition(self) -> Task:
        """Returns the task with the first prompt set."""
        return PromptSource.parse(self.prompts[0]).task(self.task)

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result used this task and these prompts; versions and contents of files may have changed."""
        return super().answered_by(result) and result.prompts == self.definition().prompt_set

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; the prompts come after the split."""
        task, kind, split, *published = super().file_name()
        return [task, kind, split, *PromptSource.parse(self.prompts[0]).suffixes, *published]


def evaluate(request: ZeroShot, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Scores each encoder on the task's records of a split.

    Thresholds for F1 come from the validation split. If the scored records include that split, each half of the
    patients takes its thresholds from the other half. A balanced task has one class per record and needs no thresholds:
    the class with the highest score is predicted, and the row also has the metrics of these predictions.

    Args:
      request: names the task, its prompts and the split, which may be `all`.
      encoders: each with its name in the result.
      shards: shard folder with that split and `validation`.
    """
    from etp_jax.encoder.scores import class_directions, class_scores  # these load jax

    records, split = request.records(shards), request.split
    task, target = records.task, records.of(split)
    chooser = target if task.max_per_class is not None or split in (VALIDATION, ALL) else records.of(VALIDATION)
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        split,
        target,
        _thresholds_from(task, split),
        score="cosine of the ECG's and the class's embedding (mean of its prompts), less the contrast",
        prompts=task.prompt_set,
        contrast=f"less {task.against_weight:g} x the cosine of {', '.join(task.against)}" if task.against else "",
    )
    class_directions(encoders[0][1], task)  # refuses unreadable prompts before the ECGs are encoded
    for name, encoder in encoders:
        scores_nC = class_scores(target.encode(encoder)[1], encoder, task)
        decisions = {}
        if task.max_per_class is not None:
            called_nC = nearest(scores_nC)
            decisions = nearest_metrics(called_nC, target.y_nC, weights_nR)
        elif chooser is target:
            called_nC = called_by_halves(scores_nC, target.y_nC, target.patients)
        else:
            chooser_scores = class_scores(chooser.encode(encoder)[1], encoder, task)
            called_nC = scores_nC >= best_thresholds(chooser_scores, chooser.y_nC)
        scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
        outcome.rows.append(classification_row(scored, task, name, 0.0, encoder.train_seed, also=decisions))
        outcome.arrays.setdefault(name, scores_nC)
    return outcome


def _thresholds_from(task: Task, split: str) -> str | None:
    if task.max_per_class is not None:
        return None
    return f"{split}, the other half of its patients" if split in (VALIDATION, ALL) else VALIDATION


def called_by_halves(
    scores_NC: NDArray, y_NC: NDArray[np.bool_], patients: NDArray[np.str_], seed: int = 0
) -> NDArray[np.bool_]:
    """Positive predictions [N, C]; each half of the patients takes its thresholds from the other half."""
    distinct, patient_N = np.unique(patients, return_inverse=True)
    first_N = np.random.default_rng(seed).permutation(np.arange(len(distinct)) % 2 == 0)[patient_N]
    called_NC = np.zeros(y_NC.shape, bool)
    for half_N in (first_N, ~first_N):
        called_NC[half_N] = scores_NC[half_N] >= best_thresholds(scores_NC[~half_N], y_NC[~half_N])
    return called_NC
