"""`etp bench`: ECG/s of the training step, the encoder and the reader on the devices at hand, beside PyTorch if wanted.

What is timed takes turns: in every round each contender runs a block of steps, so that whatever else the machine does
falls on all alike. Ratios are paired by round.
"""

from __future__ import annotations

import json
import os
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.files import write_text
from etp_jax.input import Batch, Batches
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.records import LEADS, Shards, Split
from etp_jax.training import optim, setup
from etp_jax.training.parallel import Parallel
from etp_jax.training.step import init_state, make_train_step

BLOCK_S = 1.0
"""A block takes about so long."""
REPORTS = 1000
"""Distinct reports of the made-up data."""
BERT_BASE = BertConfig(28_996, 768, 12, 12, 3072)
"""Stands in for the text tower that a recipe names (28,996 words: cased)."""
TOKENS = 64
"""Length of a made-up report, where the text tower is trained."""


@dataclass(frozen=True)
class Contender:
    """Something to be timed."""

    what: Literal["train step", "encoder"]
    framework: str
    steps: Callable[[int], None]
    """Runs so many steps and returns when the last is done."""


def run(
    config: TrainConfig, samples: int, repeats: int, compare: Literal["torch"] | None, json_path: Path | None
) -> dict[str, Any]:
    """Measures a recipe on made-up ECGs and, if it names shards, the reader on these; prints a table.

    Args:
      config: the recipe; a frozen text tower is taken as cached, as in training.
      samples: length of a made-up ECG.
      repeats: rounds.
      compare: also runs the same layers, batch and precision in PyTorch.
      json_path: where the figures go.

    Returns:
      What the JSON holds.

    Raises:
      EtpError: a batch that the devices do not divide; `compare` without torch, or for a recipe it cannot follow.
    """
    contenders = _ours(config, samples)
    if compare == "torch":
        from etp_jax import bench_torch

        contenders += bench_torch.contenders(config, made_up(config, samples), _bert(config).hidden_size)
    rows = _time(contenders, repeats, config.data.batch_size)
    result = {
        "device": jax.devices()[0].device_kind,
        "devices": jax.device_count(),
        "precision": setup.set_precision(config.run.precision).name,
        "parallel": config.run.parallel,
        "batch_size": config.data.batch_size,
        "samples": samples,
        "rows": rows,
        "input": [] if not config.data.shards else _read(config, repeats),
        "versions": {"jax": jax.__version__, "numpy": np.__version__},
    }
    print(table(result))
    if json_path is not None:
        write_text(json_path, json.dumps(result, indent=1) + "\n")
        print(f"\nwrote {json_path}")
    return result


def made_up(config: TrainConfig, samples: int) -> Batch:
    """A global batch like those of `input.Batches`, of noise."""
    rng, size = np.random.default_rng(0), config.data.batch_size
    return {
        "ecg": rng.integers(-1000, 1000, (size, samples, len(LEADS)), np.int16),
        "lead_mask": np.ones((size, len(LEADS)), bool),
        "report": rng.integers(0, REPORTS, size, np.int32),
        "position": np.arange(size, dtype=np.int32),
    }


def _bert(config: TrainConfig) -> BertConfig:
    text = config.model.text
    if text.pretrained is not None:
        return BERT_BASE
    return BertConfig(text.vocabulary, text.hidden, text.layers, text.heads, 4 * text.hidden)


def _ours(config: TrainConfig, samples: int) -> list[Contender]:
    dtype, parallel = setup.set_precision(config.run.precision), Parallel(config.run.parallel)
    if config.data.batch_size % parallel.devices:
        raise EtpError(f"data.batch_size {config.data.batch_size} is not a multiple of the {parallel.devices} devices")
    rng, text, bert = np.random.default_rng(1), config.model.text, _bert(config)
    outputs = rng.normal(size=(REPORTS, bert.hidden_size)).astype(np.float32)
    if text.frozen:
        texts: dict[str, Any] = {"embeddings": outputs}
    else:
        tokens = rng.integers(0, bert.vocab_size, (REPORTS, TOKENS), np.int32)
        texts = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    if needs_tower(config.loss):
        texts["semantic"] = outputs
    model = DualEncoder(config.model, None if text.frozen else bert, bert.hidden_size, dtype, config.loss)
    variables = init_variables(model, jax.random.key(0), samples, len(LEADS))
    kept = jax.device_get(variables)  # the state is donated to its steps, and these arrays with it
    optimizer, schedule = optim.make_optimizer(config.optim, 1000)
    train_step = parallel.wrap_train_step(make_train_step(model, optimizer, schedule, config, samples // 10))
    batch, texts = parallel.put_batch(made_up(config, samples)), parallel.replicate(texts)
    state = parallel.replicate(init_state(variables, optimizer, config))

    def train(count: int) -> None:
        nonlocal state
        for _ in range(count):
            state, metrics = train_step(state, batch, texts)
            jax.block_until_ready(metrics)  # virtual CPU devices deadlock if the loop runs ahead

    def encode_step(params: Any, batch_stats: Any, batch: Any, _: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        encoded: Any = model.apply(variables, batch["ecg"], batch["lead_mask"], method="encode_ecg")
        return encoded[1]

    frozen = parallel.replicate(kept)
    encoder = parallel.wrap_eval_step(encode_step)

    def encode(count: int) -> None:
        for _ in range(count):
            jax.block_until_ready(encoder(frozen["params"], frozen["batch_stats"], batch, texts))

    return [Contender("train step", "etp-jax", train), Contender("encoder", "etp-jax", encode)]


def _time(contenders: Sequence[Contender], repeats: int, batch_size: int) -> list[dict[str, Any]]:
    """Rows of the result; a block's length comes from a contender's third step."""
    first_s, counts = [], []
    for contender in contenders:
        first_s.append(_seconds(contender, 1))
        contender.steps(1)
        counts.append(max(1, round(BLOCK_S / _seconds(contender, 1))))
    rounds = [
        [_seconds(contender, count) / count for contender, count in zip(contenders, counts, strict=True)]
        for _ in range(repeats)
    ]
    rows = []
    for number, contender in enumerate(contenders):
        step_s = [times[number] for times in rounds]
        ours = next(i for i, c in enumerate(contenders) if c.what == contender.what)
        rows.append(
            {
                "what": contender.what,
                "framework": contender.framework,
                "first_step_s": round(first_s[number], 3),
                "step_s": [round(s, 5) for s in step_s],
                "ecg_per_s": round(batch_size / statistics.median(step_s), 1),
                "ecg_per_s_per_device": round(batch_size / statistics.median(step_s) / jax.device_count(), 1),
                "time_of_ours": round(statistics.median(times[ours] / times[number] for times in rounds), 3),
            }
        )
    return rows


def _seconds(contender: Contender, count: int) -> float:
    started = time.perf_counter()
    contender.steps(count)
    return time.perf_counter() - started


def _read(config: TrainConfig, repeats: int) -> list[dict[str, Any]]:
    """Records a second from shards into batches of random order: from the disk, and when memory holds the files."""
    shards = Shards(config.data.shards)
    split, reports = shards.split(config.data.train_split), shards.reports(config.data.train_split)
    batches = Batches(split, reports, config.data.batch_size, config.seed)

    def rate(epoch: int) -> float:
        started = time.perf_counter()
        for step in range(batches.steps_per_epoch):
            batches.at(epoch * batches.steps_per_epoch + step)
        return batches.steps_per_epoch * batches.batch_size / (time.perf_counter() - started)

    batches.at(0)  # the index of the records is read once, not per epoch
    _forget(split)
    cold, warm = rate(0), [rate(epoch) for epoch in range(1, repeats + 1)]
    about = {"records": len(batches.paired), "samples": shards.samples}
    return [
        {"cache": "cold", **about, "records_per_s": round(cold)},
        {"cache": "warm", **about, "records_per_s": round(statistics.median(warm))},
    ]


def _forget(split: Split) -> None:
    """Asks the system to drop a split's files from its memory."""
    for shard in split.shards.build["splits"][split.name]["shards"]:
        file = os.open(split.shards.folder / shard["file"], os.O_RDONLY)
        try:
            os.posix_fadvise(file, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(file)


def table(result: dict[str, Any]) -> str:
    """The result as aligned text."""
    lines = [
        f"{result['devices']} x {result['device']}, {result['precision']}, {result['parallel']}; "
        f"batch {result['batch_size']} x {len(LEADS)} x {result['samples']}",
        "",
        f"{'what':<12}{'framework':<18}{'ECG/s':>10}{'/device':>10}{'s/step':>10}{'first':>8}{'ours takes':>12}",
    ]
    for row in result["rows"]:
        lines.append(
            f"{row['what']:<12}{row['framework']:<18}{row['ecg_per_s']:>10.1f}{row['ecg_per_s_per_device']:>10.1f}"
            f"{statistics.median(row['step_s']):>10.4f}{row['first_step_s']:>8.1f}{row['time_of_ours']:>11.2f}x"
        )
    for row in result["input"]:
        lines.append(f"reader, {row['cache']} cache: {row['records_per_s']:,} records/s ({row['samples']} samples)")
    return "\n".join(lines)
