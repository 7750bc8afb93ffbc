"""Tests that a step in micro-batches equals the undivided step.

Run as a script on four virtual devices, this file trains two steps in each layout and prints the deviations.
"""

import math
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from etp_jax.config import AugmentConfig, LossConfig, OptimConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import normalize
from etp_jax.models.layers import AXIS, BatchNorm, Dropout
from etp_jax.training import optim
from etp_jax.training.parallel import Parallel
from etp_jax.training.step import init_state, make_train_step
from tests.helpers.devices import run_on

pytestmark = pytest.mark.slow

PAIRS, SAMPLES, LEADS, REPORTS, FS = 16, 20, 3, 10, 100
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "ecg": RNG.integers(-2000, 2000, (PAIRS, SAMPLES, LEADS)).astype(np.int16),
        "lead_mask": RNG.random((PAIRS, LEADS)) < 0.9,
        "report": RNG.integers(0, REPORTS, PAIRS).astype(np.int32),
        "position": np.arange(PAIRS, dtype=np.int32),
    }
    for _ in range(2)
]
TEXTS = {
    "trained": {
        "input_ids": RNG.integers(0, 50, (REPORTS, 8)).astype(np.int32),
        "attention_mask": np.ones((REPORTS, 8), np.int32),
    },
    "frozen": {"embeddings": RNG.normal(size=(REPORTS, 8))},
}
CONFIG = TrainConfig(
    augment=AugmentConfig(time_shift_s=0.1, lead_dropout=0.3, few_leads=0.2),
    loss=LossConfig(pairs="equal-positive"),
    optim=OptimConfig(learning_rate=0.01),
)


class Small(nn.Module):
    """A dual encoder in the model's interface that compiles at once, with dropout and a normalisation of ECGs."""

    norm: str
    trained: bool
    width: int = 8
    dtype: Any = jnp.float64

    def setup(self) -> None:
        self.ecg_tower = [nn.Dense(self.width, param_dtype=self.dtype, dtype=self.dtype) for _ in range(4)]
        self.group = nn.GroupNorm(2, param_dtype=self.dtype, dtype=self.dtype)
        self.batch = BatchNorm(True, AXIS, self.dtype)
        self.dropout = Dropout(0.2)
        if self.trained:
            self.text_tower = nn.Embed(50, 8, param_dtype=self.dtype)
        self.text_projection = nn.Dense(self.width, param_dtype=self.dtype, dtype=self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(10)), (), self.dtype)

    def encode_ecg(self, ecg_BTL, lead_mask_BL, train=False, keys=None):
        x = jnp.where(lead_mask_BL[:, None], ecg_BTL / 1000, 0).astype(self.dtype)
        x = self.ecg_tower[0](x)
        x = self.dropout({"group": self.group, "batch": self.batch}[self.norm](x), keys)
        for layer in self.ecg_tower[1:]:
            x = jnp.tanh(layer(x))
        return x, normalize(x.mean(axis=1))

    def encode_text(self, text, keys=None):
        x = self.text_tower(text["input_ids"]).mean(axis=1) if self.trained else text
        return normalize(self.text_projection(self.dropout(x, keys)))

    def variables(self) -> Any:
        """Initial ones; they are drawn under the device axis that batch normalisation wants."""

        def start(model: "Small", ecg_BTL: Any, lead_mask_BL: Any, text: Any) -> Any:
            return model.encode_ecg(ecg_BTL, lead_mask_BL), model.encode_text(text)

        text = TEXTS["trained" if self.trained else "frozen"]
        text = {name: x[:1] for name, x in text.items()} if self.trained else text["embeddings"][:1]
        init = jax.vmap(
            lambda key: self.init(key, BATCHES[0]["ecg"][:1], np.ones((1, LEADS), bool), text, method=start),
            axis_name=AXIS,
        )
        return jax.tree.map(lambda x: np.asarray(x[0]), {"batch_stats": {}, **init(jax.random.key(0)[None])})


def divided(count: int, block: int = 0) -> TrainConfig:
    return replace(CONFIG, optim=replace(CONFIG.optim, micro_batches=count), loss=replace(CONFIG.loss, block=block))


def train(
    model: Small, config: TrainConfig, mode: Any = "pmap", devices: int = 1, steps: int = 2, platform: str = "cpu"
) -> tuple[Any, list[Any]]:
    """State after the steps, and metrics of each."""
    optimizer, schedule = optim.make_optimizer(config.optim, 4)
    parallel = Parallel(mode, jax.devices()[:devices])
    step = make_train_step(model, optimizer, schedule, config, FS, platform)  # pyright: ignore[reportArgumentType]
    step = parallel.wrap_train_step(step)
    state = init_state(model.variables(), optimizer, config)
    state, texts = parallel.replicate((state, TEXTS["trained" if model.trained else "frozen"]))
    rows = []
    for batch in BATCHES[:steps]:
        state, metrics = step(state, parallel.put_batch(batch), texts)
        rows.append(jax.tree.map(np.asarray, metrics))
    return jax.tree.map(np.asarray, state), rows


LAYOUTS: Any = [
    # text tower, mode, devices, micro-batches, block of the loss, platform
    ("trained", "pmap", 1, 2, 0, "cpu"),
    ("trained", "shard_map", 4, 2, 3, "gpu"),
    ("frozen", "pmap", 2, 8, 0, "gpu"),
    ("frozen", "shard_map", 2, 2, 0, "cpu"),
]


def averages() -> int:
    """How many numbers and arrays the devices of a blockwise step average, beside the parameters' gradients."""
    model, config = Small("group", False), divided(2, 3)
    optimizer, schedule = optim.make_optimizer(config.optim, 4)
    step = make_train_step(model, optimizer, schedule, config, FS, "cpu")  # pyright: ignore[reportArgumentType]
    state = init_state(model.variables(), optimizer, config)
    wrapped: Any = Parallel("shard_map", jax.devices()).wrap_train_step(step)
    program = str(jax.make_jaxpr(wrapped)(state, BATCHES[0], TEXTS["frozen"]))
    return program.count(" psum[") - len(jax.tree.leaves(state.params))


def measure() -> dict[str, Any]:
    models = {text: Small("group", text == "trained") for text in TEXTS}
    whole = {text: jax.tree.leaves(train(model, CONFIG)) for text, model in models.items()}
    deviations = []
    for text, mode, devices, count, block, platform in LAYOUTS:
        out = jax.tree.leaves(train(models[text], divided(count, block), mode, devices, platform=platform))
        deviations.append(max(float(np.abs(a - b).max()) for a, b in zip(out, whole[text], strict=True)))
    batch_norm = {}
    for count in (1, 4):
        state, rows = train(Small("batch", False), divided(count), steps=1)
        stats = {name: x.tolist() for name, x in state.batch_stats["batch"].items()}
        batch_norm[count] = {**stats, "loss": float(rows[0]["loss"])}
    return {"deviations": deviations, "batch_norm": batch_norm, "averages": averages()}


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return run_on(4, measure, x64=True)


@pytest.mark.parametrize("layout", range(len(LAYOUTS)), ids=[" ".join(map(str, row)) for row in LAYOUTS])
def test_parameters_moments_and_metrics_are_those_of_the_undivided_step(measured, layout):
    """With dropout and augmentation, which both encodings of a micro-batch must draw alike."""
    assert measured["deviations"][layout] < 1e-10


def test_nothing_is_averaged_but_at_the_end(measured):
    """Loss, two recalls, gradients. One that waits for nothing may meet the ring, and each wait for the other."""
    assert measured["averages"] == 3


def test_batch_norm_takes_each_micro_batch_for_itself_and_moves_its_statistics_once_a_step(measured):
    """The mean of means is the mean; the mean of variances lacks the variance of the means."""
    whole, parts = measured["batch_norm"].values()
    np.testing.assert_allclose(parts["mean"], whole["mean"], rtol=0, atol=1e-12)
    np.testing.assert_array_less(parts["var"], whole["var"])
    np.testing.assert_allclose(parts["var"], whole["var"], rtol=0.05)
    assert parts["loss"] != whole["loss"]


def step_memory(micro_batches: int, platform: str) -> float:
    """MiB of temporaries of a step on one device, by XLA's figures; nothing is run."""
    model, config, pairs = Small("group", False, 128, jnp.float32), divided(micro_batches), 512
    optimizer, schedule = optim.make_optimizer(config.optim, 4)
    state = init_state(model.variables(), optimizer, config)
    batch = {name: jax.ShapeDtypeStruct((pairs, *x.shape[1:]), x.dtype) for name, x in BATCHES[0].items()}
    step = make_train_step(model, optimizer, schedule, config, FS, platform)  # pyright: ignore[reportArgumentType]
    wrapped: Any = Parallel("shard_map", jax.devices()[:1]).wrap_train_step(step)
    return wrapped.lower(state, batch, TEXTS["frozen"]).compile().memory_analysis().temp_size_in_bytes / 2**20


@pytest.mark.parametrize("platform", ["cpu", "gpu"])
def test_micro_batches_take_a_fraction_of_the_memory(platform: str):
    assert step_memory(4, platform) < step_memory(1, platform) / 1.5


def test_a_batch_that_does_not_split_is_refused():
    model = Small("group", False, dtype=jnp.float32)
    with pytest.raises(EtpError, match=r"batch_size 16 is not a multiple of optim.micro_batches 3 x 1 devices"):
        train(model, divided(3))
    with pytest.raises(EtpError, match=r"optim.micro_batches is 0"):
        train(model, divided(0))
