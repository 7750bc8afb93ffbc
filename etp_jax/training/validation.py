"""Pre-training validation: contrastive loss and retrieval on the validation split. No downstream label is read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from etp_jax.config import RunConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.losses.contrastive import Embeddings, contrastive_loss
from etp_jax.losses.pairs import needs_tower
from etp_jax.metrics.retrieval import recalls
from etp_jax.metrics.vectors import mean_cosine
from etp_jax.models.dual_encoder import DualEncoder
from etp_jax.shards.reader import ReportTable, Split
from etp_jax.training.batches import epoch_order
from etp_jax.training.parallel import Parallel
from etp_jax.training.ranks import LARGEST_SCORES, SMALL, Ranks
from etp_jax.training.report_table import DeviceReports
from etp_jax.training.step import TrainState, make_eval_step, semantic_rows, text_rows

COLLAPSED = 0.99
"""Mean cosine of different ECGs or reports above which their embeddings have collapsed."""
NEAR = 0.01
"""Relative distance from the loss of a guess, the logarithm of the batch size, that counts as equal to it."""
ADVICE = "lower --optim.learning-rate or --optim.text-learning-rate, or warm up longer"


def sample_size(config: RunConfig, paired: int, between: int) -> int:
    """Returns how many of `paired` records are read, given the number trained on `between` two validations.

    Reading a record takes a third of the work of training on it, so a tenth of the records takes less of the time.
    """
    return min(paired, config.validation_records or max(SMALL, between // 10))


class Validation:
    """Evaluates a state on the records of the validation split that have a report, or on a fixed sample of them."""

    def __init__(
        self,
        config: TrainConfig,
        model: DualEncoder,
        split: Split,
        reports: ReportTable,
        texts: dict[str, NDArray],
        parallel: Parallel,
        between: int,
    ):
        """Sets up the batches.

        Args:
          config: the recipe.
          model: both towers.
          split: validation split.
          reports: report table of the split.
          texts: `build.text_inputs` of its reports, with the training reports' "semantic_mean" for centred pairs.
          parallel: devices.
          between: number of records trained on between two validations; it bounds the sample.

        Raises:
          EtpError: no record has a report.
        """
        self._split, self._parallel, self._loss = split, parallel, config.loss
        self._batch = config.data.batch_size
        # Shuffled once, because neighbours in the file are often of one patient; all validations use the same batches.
        size = sample_size(config.run, len(reports.paired), between)
        self._records = reports.paired[epoch_order(len(reports.paired), 0, 0)][:size]
        if len(self._records) == 0:
            raise EtpError(f"{split.shards.folder}: split {split.name!r} has no record with a report to validate on")
        self._report = reports.number
        self._texts = DeviceReports(texts, config.model.text.precision, parallel)
        rows = {"report": self._report[self._records]}
        self._semantic_ND = semantic_rows(text_rows(texts, rows)) if needs_tower(config.loss) else None
        self._encode = parallel.wrap_eval_step(make_eval_step(model))
        self._loss_of = jax.jit(self._batch_loss)
        self._ranks = Ranks(parallel)

    def __len__(self) -> int:
        """Returns the number of records."""
        return len(self._records)

    def __call__(self, state: TrainState) -> dict[str, float]:
        """Computes loss and `metrics.retrieval` of the parameters, or of their moving average if there is one."""
        params = state.params if state.ema is None else state.ema
        ecg_NE, text_NE = self._embed(params, state.batch_stats)
        report_N = self._report[self._records]
        score = {name: np.asarray(params[name]) for name in ("logit_scale", "logit_bias") if name in params}
        size = min(self._batch, len(report_N))
        losses = []
        for start in range(0, len(report_N) - size + 1, size):  # whole batches only: the loss depends on their size
            rows = slice(start, start + size)
            semantic = None if self._semantic_ND is None else self._semantic_ND[rows]
            losses.append(self._loss_of(score, ecg_NE[rows], text_NE[rows], report_N[rows], semantic))
        _, first = np.unique(report_N, return_index=True)
        cosines = {"ecg_mean_cosine": mean_cosine(ecg_NE), "text_mean_cosine": mean_cosine(text_NE[first])}
        return {"loss": float(np.mean(losses)), **recalls(self._ranks(ecg_NE, text_NE, report_N)), **cosines}

    def warning(self, scores: dict[str, float]) -> str:
        """Describes what shows that nothing has been learned: equal embeddings, or the loss of a guess; "" if nothing.

        Args:
          scores: scores of a state that has been trained for an epoch.
        """
        chance = math.log(min(self._batch, len(self._records)))
        for name, meaning in (("ecg", "ECGs"), ("text", "reports")):
            if scores[f"{name}_mean_cosine"] > COLLAPSED:
                return f"different {meaning} have nearly equal embeddings (mean cosine over {COLLAPSED}); {ADVICE}"
        if self._loss.score == "softmax" and abs(scores["loss"] - chance) < NEAR * chance:
            return f"the validation loss is {scores['loss']:.3f}, that of a guess (ln {math.exp(chance):.0f}); {ADVICE}"
        return ""

    def _embed(self, params: Any, batch_stats: Any) -> tuple[NDArray, NDArray]:
        """Computes unit embeddings of the ECGs and of their reports, [N, E] each, on every host."""
        share = self._batch // jax.process_count()
        mine = slice(jax.process_index() * share, (jax.process_index() + 1) * share)
        ecg, text = [], []
        for start in range(0, len(self._records), self._batch):
            rows = np.resize(self._records[start : start + self._batch], self._batch)[mine]  # the last one repeats
            batch = {
                "ecg": self._split.ecg(rows),
                "lead_mask": self._split.columns.lead_mask[rows],
                "report": self._report[rows],
            }
            batch = self._parallel.put_batch(self._texts.with_rows(batch, batch["report"]))
            encoded = self._encode(params, batch_stats, batch, self._texts.table)
            ecg.append(np.asarray(encoded["ecg"]))
            text.append(np.asarray(encoded["text"]))
        count = len(self._records)
        return np.concatenate(ecg)[:count], np.concatenate(text)[:count]

    def _batch_loss(
        self, score: dict[str, jax.Array], ecg_bE: jax.Array, text_bE: jax.Array, report_b: jax.Array, semantic_bD: Any
    ) -> jax.Array:
        scale = jnp.exp(score["logit_scale"])
        bias = score.get("logit_bias")
        block = LARGEST_SCORES // len(report_b)
        config = self._loss if len(report_b) <= block else replace(self._loss, block=block)
        return contrastive_loss(Embeddings(ecg_bE, text_bE, report_b), config, scale, bias, semantic_bD)[0]
