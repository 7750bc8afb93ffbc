"""Tests of the training step. Run as a script on eight virtual devices, this file trains on several layouts."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from etp_jax.config import (
    AugmentConfig,
    DataConfig,
    LossConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    RunConfig,
    TextTowerConfig,
    TrainConfig,
)
from etp_jax.errors import EtpError
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.training import optim
from etp_jax.training.parallel import Parallel
from etp_jax.training.step import (
    TrainState,
    compute_dtype,
    device_texts,
    example_keys,
    init_state,
    make_eval_step,
    make_train_step,
    read_rows,
    semantic_mean,
    semantic_rows,
    text_rows,
)
from tests.helpers.devices import run_on

PAIRS, SAMPLES, LEADS, REPORTS, FS = 16, 64, 3, 10, 100
STEPS = 5
RNG = np.random.default_rng(0)
BATCHES = [
    {
        "ecg": RNG.integers(-2000, 2000, (PAIRS, SAMPLES, LEADS)).astype(np.int16),
        "lead_mask": RNG.random((PAIRS, LEADS)) < 0.9,
        "report": RNG.integers(0, REPORTS, PAIRS).astype(np.int32),
        "position": np.arange(PAIRS, dtype=np.int32),
    }
    for _ in range(STEPS)
]
PLAIN = {"plain": RNG.integers(0, REPORTS, PAIRS).astype(np.int32)}
TOKENS = {
    "input_ids": RNG.integers(0, 50, (REPORTS, 8)).astype(np.int32),
    "attention_mask": (np.arange(8) < RNG.integers(3, 9, (REPORTS, 1))).astype(np.int32),
    "semantic": RNG.normal(size=(REPORTS, 5)).astype(np.float32),
    "semantic_mean": RNG.normal(size=5).astype(np.float32),
}

EVERYTHING = TrainConfig(
    data=DataConfig(restored_share=0.5),
    augment=AugmentConfig(time_shift_s=0.1, lead_dropout=0.3, few_leads=0.4),
    model=ModelConfig(
        ecg=ResNetConfig(blocks=(1, 1), width=4, drop_path=0.2, pool="attention"),
        text=TextTowerConfig(dropout=0.1, trainable="encoder/.*"),
        embedding_dim=8,
        projection_dropout=0.1,
    ),
    loss=LossConfig(pairs="semantic", semantic_centre=True),
    optim=OptimConfig(weight_decay=0.1, warmup_epochs=1.0, clip_norm=1.0, ema=0.9, text_learning_rate=1e-4),
)
"""Every option that draws random numbers or reduces over the batch."""

LAYOUTS = [("pmap", 1), ("pmap", 8)]
ALL_LAYOUTS = [*LAYOUTS, ("pmap", 2), ("shard_map", 8)]


def train_on(mode: Any, devices: int, model: DualEncoder, variables: Any) -> tuple[TrainState, Any]:
    """State and metrics after some steps."""
    optimizer, schedule = optim.make_optimizer(EVERYTHING.optim, 4)
    parallel = Parallel(mode, jax.devices()[:devices])
    step = parallel.wrap_train_step(make_train_step(model, optimizer, schedule, EVERYTHING, FS, "cpu"))
    state, texts = parallel.replicate((init_state(variables, optimizer, EVERYTHING), device_texts(TOKENS)))
    metrics = None
    for batch in BATCHES:
        state, metrics = step(state, parallel.put_batch(batch | PLAIN), texts)
        jax.block_until_ready(state)
    return state, metrics


def measure(layouts: Any = LAYOUTS) -> dict[str, Any]:
    """The real model in float64 on each layout: deviation from one device, whether replicas agree, a digest."""
    model = DualEncoder(EVERYTHING.model, BertConfig(50, 8, 1, 2, 16, 16, dropout=0.1), 8, jnp.float64)
    variables = jax.tree.map(np.asarray, init_variables(model, jax.random.key(0), SAMPLES, LEADS))
    results, first = {}, None
    for mode, devices in layouts:
        out = train_on(mode, devices, model, variables)
        leaves = jax.tree.leaves(out)
        values = [np.asarray(leaf) for leaf in leaves]
        first = first or values
        results[f"{mode} {devices}"] = {
            "deviation": max(float(np.abs(a - b).max()) for a, b in zip(values, first, strict=True)),
            "replicas": sorted({len(leaf.addressable_shards) for leaf in leaves}),
            "agree": all(np.array_equal(shard.data, leaf) for leaf in leaves for shard in leaf.addressable_shards),
            "bits": hash(b"".join(value.tobytes() for value in values)),
            "types": sorted({str(leaf.dtype) for leaf in leaves}),
        }
    return results


def measure_all() -> dict[str, Any]:
    return measure(ALL_LAYOUTS)


@pytest.fixture(scope="module")
def layouts() -> dict[str, Any]:
    return run_on(8, measure, x64=True)


@pytest.fixture(scope="module")
def all_layouts() -> dict[str, Any]:
    return run_on(8, measure_all, x64=True)


BOTH = pytest.mark.parametrize("which", ["layouts", pytest.param("all_layouts", marks=pytest.mark.slow)])


@BOTH
def test_training_does_not_depend_on_the_number_of_devices(request, which):
    """Parameters, statistics, moments, average and metrics, with augmentation, dropout and batch normalisation."""
    found = request.getfixturevalue(which)
    assert {name: row["deviation"] for name, row in found.items() if row["deviation"] > 1e-10} == {}
    assert found["pmap 1"]["types"] == ["float64", "int32"]


@BOTH
def test_all_replicas_agree_bit_for_bit(request, which):
    for name, row in request.getfixturevalue(which).items():
        assert row["replicas"] == [int(name.split()[1])]
        assert row["agree"]


@pytest.mark.slow
def test_pmap_and_shard_map_give_the_same_bits(all_layouts):
    assert all_layouts["pmap 8"]["bits"] == all_layouts["shard_map 8"]["bits"]


class Tiny(nn.Module):
    """A dual encoder in the model's interface that compiles at once."""

    dtype: Any = jnp.float32
    scale: float = 10.0

    def setup(self) -> None:
        self.ecg_tower = nn.Dense(8, dtype=self.dtype)
        self.text_tower = nn.Dense(8, dtype=self.dtype)
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(math.log(self.scale)), ())

    def encode_ecg(self, ecg_BTL, lead_mask_BL, train=False, keys=None):
        x = jnp.where(lead_mask_BL[:, None], ecg_BTL / 1000, 0).reshape(len(ecg_BTL), -1)
        return x, unit(self.ecg_tower(x))

    def encode_text(self, text, keys=None):
        return unit(self.text_tower(text))

    def __call__(self, ecg_BTL, lead_mask_BL, text):
        return self.encode_ecg(ecg_BTL, lead_mask_BL), self.encode_text(text)


def unit(x: jax.Array) -> jax.Array:
    return x.astype(jnp.float32) / jnp.linalg.norm(x.astype(jnp.float32), axis=-1, keepdims=True)


TEXTS = {"embeddings": RNG.normal(size=(REPORTS, 6)).astype(np.float32)}


def tiny_params(model: Any) -> Any:
    batch = BATCHES[0]
    args = batch["ecg"], batch["lead_mask"], TEXTS["embeddings"][batch["report"]]
    return jax.tree.map(np.asarray, jax.jit(model.init)(jax.random.key(1), *args)["params"])


def run_tiny(config: TrainConfig, steps: int, model: Any = None) -> tuple[TrainState, list[TrainState], Any]:
    """Start, state after each step on the same batch, and metrics after each step."""
    model = model or Tiny(scale=1 / config.loss.temperature)
    batch = BATCHES[0]
    variables = {"params": tiny_params(model), "batch_stats": {}}
    optimizer, schedule = optim.make_optimizer(config.optim, 10)
    parallel = Parallel("shard_map", jax.devices()[:1])
    step = parallel.wrap_train_step(make_train_step(model, optimizer, schedule, config, FS, "cpu"))
    start = init_state(variables, optimizer, config)
    state, texts = parallel.replicate((start, TEXTS))
    states, rows = [], []
    for _ in range(steps):
        state, metrics = step(state, parallel.put_batch(batch), texts)
        states.append(jax.tree.map(np.asarray, state))
        rows.append({name: float(value) for name, value in metrics.items()})
    return start, states, rows


def test_it_learns_a_batch():
    config = TrainConfig(optim=OptimConfig(learning_rate=0.03, epochs=6), loss=LossConfig(pairs="equal-positive"))
    _, _, rows = run_tiny(config, 60)
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]
    assert rows[-1]["ecg_to_text_recall_1"] == rows[-1]["text_to_ecg_recall_1"] == 1.0


def test_metrics_describe_the_step_that_was_made():
    config = TrainConfig(optim=OptimConfig(learning_rate=0.01, warmup_epochs=0.5, epochs=2))
    start, states, rows = run_tiny(config, 2)
    assert set(rows[0]) == {
        "loss",
        "ecg_to_text_recall_1",
        "text_to_ecg_recall_1",
        "logit_scale",
        "grad_norm",
        "learning_rate",
    }
    assert rows[0]["logit_scale"] == pytest.approx(math.exp(start.params["logit_scale"]))
    assert rows[1]["logit_scale"] == pytest.approx(math.exp(states[0].params["logit_scale"]))
    assert [row["learning_rate"] for row in rows] == pytest.approx([0.002, 0.004])
    assert states[1].step == 2


def test_a_step_that_is_not_finite_changes_nothing_but_the_number_of_steps():
    config = TrainConfig(optim=OptimConfig(ema=0.9), run=RunConfig(skip_nonfinite=True))
    start, [one, two], rows = run_tiny(config, 2, Tiny(scale=math.nan))
    assert math.isnan(rows[0]["loss"]) and (one.step, two.step) == (1, 2)
    jax.tree.map(np.testing.assert_array_equal, (one.params, one.ema), (start.params, start.params))
    assert not any(np.any(leaf) for leaf in jax.tree.leaves(one.opt_state))  # as it began
    ours, theirs = run_tiny(config, 2)[1], run_tiny(TrainConfig(optim=OptimConfig(ema=0.9)), 2)[1]
    jax.tree.map(np.testing.assert_array_equal, ours, theirs)


def test_gradient_norm_is_that_before_clipping():
    free = run_tiny(TrainConfig(optim=OptimConfig()), 1)[2][0]
    clipped = run_tiny(TrainConfig(optim=OptimConfig(clip_norm=1e-3)), 1)[2][0]
    assert free["grad_norm"] == clipped["grad_norm"] > 1e-3


def test_logit_scale_grows_to_its_bound_and_no_further():
    config = TrainConfig(
        loss=LossConfig(pairs="equal-positive", temperature=0.5, max_logit_scale=2.6),
        optim=OptimConfig(learning_rate=0.03),
    )
    _, states, _ = run_tiny(config, 20)
    scales = [math.exp(state.params["logit_scale"]) for state in states]
    assert scales[0] < 2.1
    assert scales[-1] == max(scales) == pytest.approx(2.6, rel=1e-6)


def test_logit_scale_can_leave_its_bound():
    _, states, rows = run_tiny(TrainConfig(loss=LossConfig(temperature=0.01, max_logit_scale=100)), 1)
    assert rows[0]["logit_scale"] == pytest.approx(100)
    assert states[0].params["logit_scale"] < math.log(100) - 5e-4  # untrained embeddings ask for a softer score


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        ({"temperature": 0.001}, r"loss.temperature 0.001 .* 1000, beyond loss.max_logit_scale 100"),
        ({"temperature": 0.0}, "loss.temperature is 0.0; it must be positive"),
        ({"semantic_temperature": -1.0}, "loss.semantic_temperature is -1.0"),
        ({"semantic_weight": 1.5}, "loss.semantic_weight is 1.5"),
        ({"semantic_margin": 1.0, "pairs": "semantic", "score": "sigmoid"}, "loss.semantic_margin is 1.0; it must lie"),
        ({"semantic_margin": 0.3, "pairs": "semantic"}, "it must go with loss.pairs semantic and loss.score sigmoid"),
    ],
)
def test_impossible_losses_are_refused(loss: dict[str, Any], message: str):
    with pytest.raises(EtpError, match=message):
        LossConfig(**loss)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(("loss", "known"), [({"pairs": "x"}, "equal-masked"), ({"score": "x"}, "sigmoid")])
def test_unknown_losses_are_refused(loss: dict[str, str], known: str):
    optimizer, schedule = optim.make_optimizer(OptimConfig(), 10)
    config = TrainConfig(loss=LossConfig(**loss))  # pyright: ignore[reportArgumentType]
    with pytest.raises(EtpError, match=rf"loss\.{next(iter(loss))} is 'x'; there are .*{known}"):
        make_train_step(Tiny(), optimizer, schedule, config, FS, "cpu")  # pyright: ignore[reportArgumentType]


def test_fixed_parameters_do_not_move_and_have_no_moments():
    config = TrainConfig(
        model=ModelConfig(text=TextTowerConfig(trainable="bias")),
        loss=LossConfig(learn_temperature=False),
        optim=OptimConfig(weight_decay=0.1, ema=0.5),
    )
    start, states, _ = run_tiny(config, 3)
    end = states[-1]
    assert end.params["logit_scale"] == start.params["logit_scale"]
    for tree in (end.params, end.ema):
        np.testing.assert_array_equal(tree["text_tower"]["kernel"], start.params["text_tower"]["kernel"])
    assert not np.array_equal(end.params["text_tower"]["bias"], start.params["text_tower"]["bias"])
    assert not np.array_equal(end.params["ecg_tower"]["kernel"], start.params["ecg_tower"]["kernel"])
    moments = [leaf.shape for leaf in jax.tree.leaves(start.opt_state) if leaf.ndim > 0]
    assert sorted(moments) == sorted(2 * [(SAMPLES * LEADS, 8), (8,), (8,)])


def test_moving_average_follows_its_formula():
    start, states, _ = run_tiny(TrainConfig(optim=OptimConfig(ema=0.15)), 3)
    average = np.asarray(start.params["ecg_tower"]["kernel"])
    for step, state in enumerate(states):
        decay = min(0.15, (1 + step) / (10 + step))
        average = decay * average + (1 - decay) * state.params["ecg_tower"]["kernel"]
        np.testing.assert_allclose(state.ema["ecg_tower"]["kernel"], average, rtol=1e-5, atol=1e-7)
    assert run_tiny(TrainConfig(), 1)[1][0].ema is None


def test_bfloat16_keeps_parameters_and_metrics_in_float32():
    _, states, rows = run_tiny(TrainConfig(), 1, Tiny(jnp.bfloat16))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(states[0])} == {"float32", "int32"}
    wide = run_tiny(TrainConfig(), 1, Tiny())[2][0]
    assert rows[0]["loss"] == pytest.approx(wide["loss"], rel=0.02)
    assert rows[0]["loss"] != wide["loss"]


def test_auto_precision_is_float32_on_the_cpu():
    on_cpu = [compute_dtype(p, "cpu").name for p in ("auto", "bfloat16", "float64")]
    assert on_cpu == ["float32", "bfloat16", "float64"]
    assert [compute_dtype(p, "tpu").name for p in ("auto", "float32")] == ["bfloat16", "float32"]


def test_the_state_is_donated():
    model, config = Tiny(), TrainConfig()
    optimizer, schedule = optim.make_optimizer(config.optim, 10)
    parallel = Parallel("pmap", jax.devices()[:1])
    step = parallel.wrap_train_step(make_train_step(model, optimizer, schedule, config, FS, "cpu"))  # pyright: ignore[reportArgumentType]
    state, texts = parallel.replicate(
        (init_state({"params": tiny_params(model), "batch_stats": {}}, optimizer, config), TEXTS)
    )
    batch = parallel.put_batch(BATCHES[0])
    step(state, batch, texts)
    assert all(leaf.is_deleted() for leaf in jax.tree.leaves(state.params))
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves((batch, texts)))


def test_example_keys_depend_on_seed_step_and_position_only():
    keys = jax.jit(example_keys)

    def bits(seed: int, step: int, position: list[int]) -> np.ndarray:
        return np.stack([jax.random.key_data(k) for k in keys(seed, np.array(step), np.array(position))])

    whole = bits(3, 7, list(range(8)))
    np.testing.assert_array_equal(bits(3, 7, [5, 2]), whole[:, [5, 2]])
    others = np.concatenate([whole, bits(4, 7, list(range(8))), bits(3, 8, list(range(8)))], axis=1).reshape(-1, 2)
    assert len({tuple(key) for key in others.tolist()}) == len(others)


TABLES_OF = {"texts": "report", "plain_texts": "plain"}
"""The rows that are sent with a batch, by the number that they are of."""


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_coin_of_the_asked_share_decides_which_report_is_read(share: float):
    """The draws are those of seed, step and row, so a part of the batch has the same as the whole."""
    position = jnp.arange(4000)
    batch = {"report": jnp.full(4000, 1), "plain": jnp.full(4000, 2)}
    texts = {"embeddings": jnp.array([[0.0], [10.0], [20.0]])}
    sent = {name: {"embeddings": texts["embeddings"][batch[of]]} for name, of in TABLES_OF.items()}

    def read(batch: Any, keys: jax.Array, texts: Any = texts) -> np.ndarray:
        return np.asarray(read_rows(texts, batch, keys, share)["embeddings"][:, 0])

    keys, _ = example_keys(0, jnp.array(3), position)
    chosen = read(batch, keys)
    assert set(chosen) == {10, 20} and np.mean(chosen == 10) == pytest.approx(share, abs=0.03)
    part = read({name: x[1000:1010] for name, x in batch.items()}, keys[1000:1010])
    np.testing.assert_array_equal(part, chosen[1000:1010])
    np.testing.assert_array_equal(read({**batch, **sent}, keys, {}), chosen)  # rows that are sent with the batch
    others, _ = example_keys(0, jnp.array(4), position)
    assert (read(batch, others) != chosen).any()
    np.testing.assert_array_equal(read({"report": batch["report"]}, keys), 10)


def test_the_mean_counts_each_distinct_report_once():
    texts: Any = {"embeddings": np.array([[9.0, 9.0], [1.0, 0.0], [0.0, 3.0]])}
    mean = semantic_mean(texts, np.array([1, 1, 1, 2]))
    np.testing.assert_array_equal(mean["semantic_mean"], [0.5, 1.5])
    np.testing.assert_array_equal(semantic_rows(text_rows(texts | mean, {"report": np.array([2])})), [[-0.5, 1.5]])


def test_evaluation_returns_the_rows_of_the_whole_batch():
    model = Tiny()
    args = BATCHES[0]["ecg"], BATCHES[0]["lead_mask"], TEXTS["embeddings"][BATCHES[0]["report"]]
    params = tiny_params(model)
    parallel = Parallel("pmap", jax.devices()[:1])
    encode = parallel.wrap_eval_step(make_eval_step(model))  # pyright: ignore[reportArgumentType]
    out = encode(*parallel.replicate((params, {})), parallel.put_batch(BATCHES[0]), parallel.replicate(TEXTS))
    expected: Any = jax.jit(model.apply)({"params": params}, *args)
    # Unit vectors, so an absolute tolerance: a few roundings of float32.
    np.testing.assert_allclose(out["ecg"], expected[0][1], rtol=0, atol=5e-7)
    np.testing.assert_allclose(out["text"], expected[1], rtol=0, atol=5e-7)
