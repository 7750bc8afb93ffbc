"""The training step and the encoder of a recipe on synthetic ECGs, compiled and ready for timing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import jax
import numpy as np

from etp_jax.bench import flops
from etp_jax.config import TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.dual_encoder import init_variables
from etp_jax.training import build, optim
from etp_jax.training.batches import Batch
from etp_jax.training.parallel import Parallel
from etp_jax.training.program import text_tower
from etp_jax.training.step import init_state, make_train_step

REPORTS = 1000
"""Number of distinct reports in the synthetic data."""
TOKENS = 64
"""Length of a synthetic report, in tokens, where the text tower is trained."""


@dataclass(frozen=True)
class Contender:
    """A function to time."""

    what: Literal["train step", "encoder"]
    framework: str
    steps: Callable[[int], None]
    """Function that runs a number of steps (updates, however many one dispatch does) and waits for the last one."""
    lower_s: float | None = None
    """Duration of tracing and lowering, in seconds; None where the framework does both in the first step."""
    compile_s: float | None = None
    """Duration of XLA's compilation, in seconds; None where the framework compiles in the first step."""
    memory: dict[str, int] | None = None
    """XLA's count of bytes per device: arguments, outputs, temporary buffers, and outputs that reuse arguments."""


@dataclass(frozen=True)
class Compiled:
    """A step compiled by XLA, with the times of lowering and compilation and the memory it needs."""

    run: Callable[..., Any]
    cost: dict[str, Any]

    @classmethod
    def of(cls, wrapped: Any, *args: Any) -> Compiled:
        """Compiles a step for these arguments."""
        started = time.perf_counter()
        lowered = wrapped.lower(*args)
        lowered_at = time.perf_counter()
        compiled = lowered.compile()
        times = {"lower_s": lowered_at - started, "compile_s": time.perf_counter() - lowered_at}
        return cls(compiled, {**times, "memory": memory(compiled)})


def memory(compiled: Any) -> dict[str, int] | None:
    """Returns `Contender.memory` of a compiled program; None where the platform does not report it."""
    analysis = compiled.memory_analysis()
    if analysis is None:
        return None
    return {name: int(getattr(analysis, f"{name}_size_in_bytes")) for name in ("argument", "output", "temp", "alias")}


def made_up(config: TrainConfig, samples: int) -> Batch:
    """Makes a global batch of noise, in the form of those of `batches.Batches`."""
    rng, size = np.random.default_rng(0), config.data.batch_size
    return {
        "ecg": rng.integers(-1000, 1000, (size, samples, len(LEADS)), np.int16),
        "lead_mask": np.ones((size, len(LEADS)), bool),
        "report": rng.integers(0, REPORTS, size, np.int32),
        "position": np.arange(size, dtype=np.int32),
    }


def ours(config: TrainConfig, samples: int, devices: Sequence[Any]) -> tuple[list[Contender], dict[str, flops.Step]]:
    """Builds our training step and encoder on these devices, and counts the work of each, by name.

    Raises:
      EtpError: the batch is not a multiple of the number of devices, or the model is impossible.
    """
    parallel = Parallel(config.run.parallel, devices)
    dtype = build.set_precision(config.run.precision, parallel.platform)
    if config.data.batch_size % parallel.devices:
        raise EtpError(f"data.batch_size {config.data.batch_size} is not a multiple of the {parallel.devices} devices")
    rng, frozen, bert = np.random.default_rng(1), config.model.text.frozen, text_tower(config)
    outputs = rng.normal(size=(REPORTS, bert.hidden_size)).astype(np.float32)
    if frozen:
        texts: dict[str, Any] = {"embeddings": outputs}
    else:
        tokens = rng.integers(0, bert.vocab_size, (REPORTS, TOKENS), np.int32)
        texts = {"input_ids": tokens, "attention_mask": np.ones_like(tokens)}
    if needs_tower(config.loss):
        texts["semantic"] = outputs
    model = build.build_model(config, bert, dtype, parallel.platform)
    variables = init_variables(model, jax.random.key(0), samples, len(LEADS))
    shape = samples, len(LEADS), variables["params"]
    work = {
        "train step": flops.train_step(
            config, *shape, None if frozen else (bert, TOKENS), bert.hidden_size, dtype, parallel.devices
        ),
        "encoder": flops.encoder(config, *shape, dtype, parallel.devices),
    }
    kept = parallel.replicate(jax.device_get(variables))  # a copy, because the state is donated to its steps
    optimizer, schedule = optim.make_optimizer(config.optim, 1000)
    batch, texts = parallel.put_batch(made_up(config, samples)), parallel.replicate(texts)
    state = parallel.replicate(init_state(variables, optimizer, config))
    step = make_train_step(model, optimizer, schedule, config, samples // 10, parallel.platform)
    train_step = Compiled.of(parallel.wrap_train_step(step), state, batch, texts)

    def encode_step(params: Any, batch_stats: Any, batch: Any, _: Any) -> jax.Array:
        variables = {"params": params, "batch_stats": batch_stats}
        encoded: Any = model.apply(variables, batch["ecg"], batch["lead_mask"], method="encode_ecg")
        return encoded[1]

    encoded_from = kept["params"], kept["batch_stats"], batch, texts
    encoder = Compiled.of(parallel.wrap_eval_step(encode_step), *encoded_from)

    # Both wait for the previous step, as training does: this keeps devices busy and avoids a deadlock of virtual CPU
    # devices.
    def train(count: int) -> None:
        nonlocal state
        before = None
        for _ in range(count):
            state, metrics = train_step.run(state, batch, texts)
            jax.block_until_ready(before)
            before = metrics
        jax.block_until_ready(before)

    def encode(count: int) -> None:
        before = None
        for _ in range(count):
            embeddings = encoder.run(*encoded_from)
            jax.block_until_ready(before)
            before = embeddings
        jax.block_until_ready(before)

    contenders = [
        Contender("train step", "etp-jax", train, **train_step.cost),
        Contender("encoder", "etp-jax", encode, **encoder.cost),
    ]
    return contenders, work
