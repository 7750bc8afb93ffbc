"""Full fine-tuning: trains the ECG tower and a linear layer on labels, from a run's weights or from scratch.

One network learns all label codes of the shards at once: for PTB-XL the 71 SCP statements, each by its exact name,
present or not. So one training serves every task. The score of a class is the probability that any of its codes is
present, as if they were independent: 1 - prod(1 - p). The supervised baseline is the same network on the same schedule,
with random weights instead of the run's; it shows what labels alone achieve.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from etp_jax.errors import EtpError
from etp_jax.evaluation import ecg_fm_benchmark
from etp_jax.evaluation.outcome import Outcome, classification_row
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.request import HONEST, MERL, TaskRequest, check_fitted, check_protocol
from etp_jax.evaluation.results import Result
from etp_jax.evaluation.zero_shot import called_by_halves
from etp_jax.metrics.bootstrap import bootstrap_weights
from etp_jax.metrics.classification import best_thresholds, score
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN, VALIDATION
from etp_jax.tasks import Task

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finetune(TaskRequest):
    """Trains the whole ECG tower on all training labels, from the run's weights and from scratch."""

    kind: ClassVar[str] = "finetune"
    choice: ClassVar[Literal["", "prompts", "protocol"]] = "protocol"

    protocol: Literal["honest", "merl-as-published", "ecg-fm-benchmark"] = HONEST
    """`ecg-fm-benchmark` scores every record, as the ECG-FM benchmark does (etp_jax/evaluation/ecg_fm_benchmark.py).
    `merl-as-published` repeats what MERL's documented command does, on 1 % of the labels
    (etp_jax/evaluation/merl.py)."""
    views: int = 1
    """Number of time shifts (evenly from -0.5 to 0.5 s) over which the features of a scored record are averaged. 1
    means no shift."""

    def check(self) -> None:
        """Raises EtpError for options that contradict each other."""
        check_protocol(self.kind, self.protocol)
        if self.views < 1:
            raise EtpError(f"--views is {self.views}; it must be at least 1")
        if self.protocol == MERL and self.views > 1:
            raise EtpError(f"--protocol {self.protocol} scores each record as it is; omit --views")
        check_fitted(self)
        super().check()

    def definition(self) -> Task:
        """Returns the task with the records of the protocol; raises EtpError for an unknown task."""
        return ecg_fm_benchmark.with_protocol(super().definition(), self.protocol)

    def records(self, shards: Shards) -> TaskRecords:
        """The task's records, with the classes that the protocol takes."""
        return ecg_fm_benchmark.with_enough_records(super().records(shards))

    def answered_by(self, result: Result) -> bool:
        """Whether a stored result is of the same task, and of the protocol as it is now."""
        return super().answered_by(result) and ecg_fm_benchmark.is_described(result)

    def label_fractions(self) -> tuple[float, ...]:
        """Shares of the training labels; as published only the smallest, because a CPU can train its 100 epochs."""
        return (0.01,) if self.protocol == MERL else (1.0,)

    def file_name(self) -> list[str]:
        """Parts of the result file's default name; a protocol other than `honest` and several views come last."""
        views = [f"{self.views}-views"] * (self.views > 1)
        return super().file_name() + [self.protocol] * (self.protocol != HONEST) + views


def evaluate(request: Finetune, encoders: Sequence[tuple[str, Encoder]], shards: Shards) -> Outcome:
    """Fine-tunes the encoders, and a random one, on all training records; scores the task's records of a split.

    Only the thresholds of F1 are chosen: on the validation split. If that split is scored, each half of its patients
    takes its thresholds from the other half.

    Args:
      request: names the task and the split.
      encoders: each with its name in the result; the first is the trained one.
      shards: shard folder with that split, `train` and `validation`.
    """
    from etp_jax.evaluation import merl, tuning  # both load jax

    trained = encoders[0][1]
    encoders = [*encoders, ("supervised", trained.random(trained.train_seed))]
    if request.protocol == MERL:
        return merl.evaluate(request, encoders, shards, request.label_fractions(), tuning.fit_as_published)
    records, split = request.records(shards), request.split
    task, target = records.task, records.of(split)
    chooser = None if split == VALIDATION else records.of(VALIDATION)  # before the training, for its mistakes
    weights_nR = bootstrap_weights(target.patients, request.bootstrap)
    outcome = Outcome.of_task(
        records,
        split,
        target,
        f"{split}, the other half of its patients" if split == VALIDATION else VALIDATION,
        trained_on=f"{shards.splits[TRAIN]} records of train, their {len(shards.label_vocabulary)} label codes",
        schedule=json.dumps(dataclasses.asdict(tuning.OPTIM)),
        score="log-odds that any of the class's codes is present, taken as independent",
        **({"features": f"{request.views} views"} if request.views > 1 else {}),
        **ecg_fm_benchmark.described(request.protocol, "network"),
    )
    for name, encoder in encoders:
        tuned = tuning.Tuned.of(encoder, shards, tuning.OPTIM)
        scores_nC = tuned.scores(target, task, request.views)
        if chooser is None:
            called_nC = called_by_halves(scores_nC, target.y_nC, target.patients)
        else:
            called_nC = scores_nC >= best_thresholds(tuned.scores(chooser, task, request.views), chooser.y_nC)
        scored = score(scores_nC, called_nC, target.y_nC, weights_nR)
        also, about = ecg_fm_benchmark.frequent(task, scored)
        outcome.rows.append(classification_row(scored, task, name, 1.0, encoder.train_seed, also=also, **about))
        outcome.arrays[name] = scores_nC
    return outcome
