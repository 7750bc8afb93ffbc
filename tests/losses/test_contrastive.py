"""Tests of the contrastive loss. Run as a script on eight virtual devices, this file prints it for every layout."""

import math
from dataclasses import replace
from functools import partial
from itertools import product
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import LossConfig
from etp_jax.losses import scores
from etp_jax.losses.contrastive import Best, Embeddings, best, contrastive_loss, recall_1
from etp_jax.losses.pairs import PAIR_RULES, PairRule, Rows, needs_tower
from etp_jax.losses.scores import Pairs, Part, Score
from etp_jax.models.layers import AXIS
from etp_jax.training.parallel import Parallel
from tests.helpers.devices import run_on

PAIRS = ("own", "equal-masked", "equal-positive", "semantic")
SCORES = ("softmax", "sigmoid")
QUICK: Any = [
    # mode, devices, block (0 is dense), ring: one of each kind
    ("pmap", 8, 0, False),
    ("pmap", 1, 5, False),  # of 16 columns: the last block is a single one
    ("shard_map", 2, 4, True),  # of 8
]
OTHERS: Any = [
    ("pmap", 1, 0, False),
    ("pmap", 2, 0, False),
    ("shard_map", 8, 0, False),
    ("pmap", 4, 18, False),  # less than a block
    ("shard_map", 8, 1, False),
    ("pmap", 4, 9, True),  # of 4: less than a block
    ("shard_map", 8, 1, True),  # of 2
]
CONFIGS = {
    f"{pairs} {score}": LossConfig(pairs=pairs, score=score, semantic_weight=0.3, semantic_temperature=0.2)
    for pairs, score in product(PAIRS, SCORES)
}
CONFIGS |= {
    "batch softmax": LossConfig(pairs="semantic", semantic_from="batch", semantic_weight=0.3),
    "batch sigmoid without bias": LossConfig(pairs="semantic", semantic_from="batch", score="sigmoid", bias=None),
    "batch softmax, centred": LossConfig(pairs="semantic", semantic_from="batch", semantic_centre=True),
    "semantic sigmoid, margin": LossConfig(pairs="semantic", score="sigmoid", semantic_margin=0.3),
    "batch sigmoid, centred, margin": LossConfig(
        pairs="semantic", score="sigmoid", semantic_from="batch", semantic_centre=True, semantic_margin=0.1
    ),
    "fnm, rows": LossConfig(fnm_weight=0.7),
    "fnm, pairs": LossConfig(score="sigmoid", fnm_weight=0.7, fnm_mean="pairs", semantic_from="batch"),
    "fnm, centred": LossConfig(score="sigmoid", fnm_weight=0.7, semantic_from="batch", semantic_centre=True),
}
FEW = (
    "own softmax",
    "equal-masked sigmoid",
    "equal-positive softmax",
    "semantic sigmoid",
    "batch softmax, centred",
    "batch sigmoid, centred, margin",
    "fnm, pairs",
)
"""Each rule, score and option once: what the quick layouts are tried with outside the slow tests."""
CASES = [
    pytest.param(*layout, name, marks=[pytest.mark.slow] if layout in OTHERS or name not in FEW else [])
    for layout, name in product([*QUICK, *OTHERS], CONFIGS)
]
RNG = np.random.default_rng(0)
BATCH = {
    "ecg": RNG.normal(size=(16, 6)),
    "text": RNG.normal(size=(16, 7)),
    # Equal reports on one device and across devices, some three times.
    "report": np.array([0, 0, 1, 2, 3, 0, 1, 4, 5, 6, 5, 7, 8, 9, 1, 10], np.int32),
    "semantic": RNG.normal(size=(11, 4))[[0, 0, 1, 2, 3, 0, 1, 4, 5, 6, 5, 7, 8, 9, 1, 10]],
}
PARAMS = {
    "ecg": RNG.normal(size=(6, 5)),
    "text": RNG.normal(size=(7, 5)),
    "logit_scale": np.array(math.log(9.0)),
    "logit_bias": np.array(-1.5),
}


def embed(params: Any, batch: Any, tower: str) -> jax.Array:
    x = batch[tower] @ params[tower]
    return x / jnp.linalg.norm(x, axis=1, keepdims=True)


loss_of = jax.jit(contrastive_loss, static_argnums=1)
"""A program at once, for every operation by itself is one too and compiled."""


def spread_loss(params: Any, batch: Any, config: LossConfig, axis_name: str | None) -> tuple[jax.Array, Any]:
    return contrastive_loss(
        Embeddings(embed(params, batch, "ecg"), embed(params, batch, "text"), batch["report"]),
        config,
        jnp.exp(params["logit_scale"]),
        params["logit_bias"] if config.score == "sigmoid" and config.bias is not None else None,
        batch["semantic"] if needs_tower(config) else None,
        axis_name,
    )


@partial(jax.jit, static_argnums=2)
def dense_loss(params: Any, batch: Any, config: LossConfig) -> jax.Array:
    """The same on one device, whole matrices, as the formulas are written; shares no code with the package."""
    size = len(batch["report"])
    equal, own = batch["report"][:, None] == batch["report"], jnp.eye(size)
    unit = batch["semantic"] / jnp.linalg.norm(batch["semantic"], axis=1, keepdims=True)
    if config.semantic_from == "batch":
        unit = jax.lax.stop_gradient(embed(params, batch, "text"))
        if config.semantic_centre:
            unit = unit - unit.sum(axis=0) / size
            unit = unit / jnp.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    score = jnp.exp(params["logit_scale"]) * embed(params, batch, "ecg") @ embed(params, batch, "text").T
    distance = jnp.abs(embed(params, batch, "ecg") @ embed(params, batch, "text").T - cosine)
    if config.score == "sigmoid" and config.bias is not None:
        score = score + params["logit_bias"]
    counted = own + ~equal if config.pairs == "equal-masked" else jnp.ones((size, size))
    target = own
    if config.pairs == "equal-positive":
        target = equal / equal.sum(axis=1, keepdims=True) if config.score == "softmax" else 1.0 * equal
    if config.pairs == "semantic" and config.score == "sigmoid":
        target, m = (1 + cosine) / 2, config.semantic_margin
        if m is not None:
            target = jnp.where(equal, 1.0, jnp.where(cosine > m, (cosine - m) / (1 - m), 0.0))
    if config.pairs == "semantic" and config.score == "softmax":
        alike, w = jnp.exp(cosine / config.semantic_temperature), config.semantic_weight
        blended = (1 - w) * equal / equal.sum(axis=1, keepdims=True)
        target = blended + w * alike / alike.sum(axis=1, keepdims=True)
    total = config.fnm_weight * distance.sum() / (size if config.fnm_mean == "pairs" else 1)
    if config.score == "sigmoid":
        p = 1 / (1 + jnp.exp(-score))
        total -= (counted * (target * jnp.log(p) + (1 - target) * jnp.log(1 - p))).sum()
    else:
        for rows in (score, score.T):
            share = jnp.exp(rows) / (counted * jnp.exp(rows)).sum(axis=1, keepdims=True)
            total -= (counted * target * jnp.log(share)).sum() / 2
    return total / size


def measure(layouts: Any, names: Any) -> dict[str, dict[str, Any]]:
    """Greatest relative deviation of loss and gradients from the dense reference, by layout and kind of loss."""
    configs = {name: CONFIGS[name] for name in names}
    dense = jax.value_and_grad(dense_loss)
    # One program: most of the time goes into compiling.
    expected = jax.jit(lambda *args: {name: dense(*args, config) for name, config in configs.items()})(PARAMS, BATCH)

    def step(params: Any, batch: Any, _: Any, block: int, ring: bool) -> tuple[Any, Any]:
        results, before = {}, jnp.zeros(())
        for name, config in configs.items():
            config = replace(config, block=block, ring=ring)
            # One kind after the other: virtual devices that choose different rings to begin with wait for ever.
            params = jax.tree.map(lambda x, before=before: x + 0 * before, params)
            grad = jax.value_and_grad(lambda p, config=config: spread_loss(p, batch, config, AXIS), has_aux=True)
            (loss, metrics), grads = grad(params)
            loss, grads, metrics = jax.lax.pmean((loss, grads, metrics), AXIS)
            results[name], before = ((loss, grads), metrics), loss
        return params, results

    deviations: dict[str, dict[str, Any]] = {}
    for mode, devices, block, ring in layouts:
        parallel = Parallel(mode, jax.devices()[:devices])
        wrapped = parallel.wrap_train_step(partial(step, block=block, ring=ring))
        _, results = wrapped(parallel.replicate(PARAMS), parallel.put_batch(BATCH), None)
        jax.block_until_ready(results)
        for name, (result, metrics) in results.items():
            errors = [
                np.abs(np.asarray(a) - b).max() / max(np.abs(b).max(), 1.0)
                for a, b in zip(jax.tree.leaves(result), jax.tree.leaves(expected[name]), strict=True)
            ]
            recalls = float(metrics["ecg_to_text_recall_1"]), float(metrics["text_to_ecg_recall_1"])
            deviations[f"{mode} {devices} {block} {ring} {name}"] = {"error": float(max(errors)), "recalls": recalls}
    return deviations


def measure_few() -> dict[str, dict[str, Any]]:
    return measure(QUICK, FEW)


def measure_others() -> dict[str, dict[str, Any]]:
    rest = [name for name in CONFIGS if name not in FEW]
    return measure(QUICK, rest) | measure(OTHERS, CONFIGS)


@pytest.fixture(scope="module")
def deviations() -> dict[str, dict[str, Any]]:
    return run_on(8, measure_few, x64=True)


@pytest.fixture(scope="module")
def other_deviations() -> dict[str, dict[str, Any]]:
    return run_on(8, measure_others, x64=True)


@pytest.mark.parametrize(("mode", "devices", "block", "ring", "name"), CASES)
def test_loss_and_gradients_equal_the_dense_reference_on_any_layout(request, mode, devices, block, ring, name):
    quick = (mode, devices, block, ring) in QUICK and name in FEW
    deviations = request.getfixturevalue("deviations" if quick else "other_deviations")
    assert deviations[f"{mode} {devices} {block} {ring} {name}"]["error"] < 1e-13


@pytest.mark.parametrize("which", ["deviations", pytest.param("other_deviations", marks=pytest.mark.slow)])
def test_recall_does_not_depend_on_the_layout_and_counts_equal_reports(request, which):
    deviations = request.getfixturevalue(which)
    score = np.asarray(embed(PARAMS, BATCH, "ecg") @ embed(PARAMS, BATCH, "text").T)
    report = BATCH["report"]
    expected = [float((report[s.argmax(1)] == report).mean()) for s in (score, score.T)]
    for row in deviations.values():
        assert row["recalls"] == pytest.approx(expected, abs=1e-12)


def test_a_single_device_needs_no_axis():
    config = CONFIGS["equal-positive softmax"]
    loss, _ = jax.jit(spread_loss, static_argnums=(2, 3))(PARAMS, BATCH, config, None)
    assert float(loss) == pytest.approx(float(dense_loss(PARAMS, BATCH, config)), rel=1e-5)


def test_two_by_two_by_hand():
    """Cosines are 1 on the diagonal and 0 off it."""
    rows = Embeddings(jnp.eye(2), jnp.eye(2), jnp.array([0, 1]))
    softmax, _ = loss_of(rows, LossConfig(), jnp.array(2.0))
    assert float(softmax) == pytest.approx(math.log(1 + math.exp(-2)), rel=1e-6)
    config = LossConfig(score="sigmoid")
    sigmoid, _ = loss_of(rows, config, jnp.array(2.0), jnp.array(-1.0))
    assert float(sigmoid) == pytest.approx(math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-1)), rel=1e-6)


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_batch_of_one_report_has_no_negatives_when_equal_ones_are_masked(block: int):
    """In blocks, most columns are in a block of which none counts."""
    x = jnp.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    same = jnp.zeros(3, int)
    config = LossConfig(pairs="equal-masked", block=block)
    loss, grads = jax.jit(
        jax.value_and_grad(lambda e: contrastive_loss(Embeddings(e, x, same), config, jnp.array(5.0))[0])
    )(x[::-1])
    assert float(loss) == 0.0
    np.testing.assert_array_equal(np.asarray(grads), 0)


def test_bfloat16_embeddings_are_scored_in_float32():
    x = jax.random.normal(jax.random.key(0), (8, 16))
    x = (x / jnp.linalg.norm(x, axis=1, keepdims=True)).astype(jnp.bfloat16)
    wide_x, args = x.astype(jnp.float32), (LossConfig(), jnp.array(14.3))
    loss, metrics = loss_of(Embeddings(x, x, jnp.arange(8)), *args)
    wide, _ = loss_of(Embeddings(wide_x, wide_x, jnp.arange(8)), *args)
    assert loss.dtype == jnp.float32 and float(loss) == float(wide)
    assert all(metric.dtype == jnp.float32 for metric in metrics.values())


def test_recall_1():
    logits = jnp.array([[0.1, 0.9, 0.0], [0.0, 0.2, 0.8], [0.7, 0.0, 0.1]])
    report = jnp.array([5, 5, 6])
    parts = best(logits[:, :2], report[:2]), best(logits[:, 2:], report[2:])
    assert float(recall_1(Best(*map(jnp.stack, zip(*parts, strict=True))), report)) == pytest.approx(1 / 3)


def margin(text_logits_bC: jax.Array, ecg_logits_bC: jax.Array, pairs: Pairs) -> tuple[Part, ...]:
    """A toy score: how far each pair is from a margin of 1, in both directions."""

    def direction(logits_bC: jax.Array) -> Part:
        sign_bC = 2 * pairs.target_bC - 1
        return Part(None, jnp.sum(jax.nn.relu(1 - sign_bC * logits_bC) * pairs.counts_bC, axis=1))

    return direction(text_logits_bC), direction(ecg_logits_bC)


def next_too(rows: Rows, columns: Rows, *_: Any) -> tuple[jax.Array, None]:
    """A toy rule: the record's own report and the next record's are positive."""
    ahead_bC = columns.number_b - rows.number_b[:, None]
    return (ahead_bC == 0) | (ahead_bC == 1), None


@pytest.mark.parametrize("block", [0, 3])
def test_a_score_and_a_rule_are_a_function_and_a_line_each(block: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(scores.SCORES, "margin", Score(margin, shares=False))
    monkeypatch.setitem(PAIR_RULES, "next-too", PairRule(next_too))
    config = LossConfig(pairs="next-too", score="margin", block=block)
    rows = Embeddings(embed(PARAMS, BATCH, "ecg"), embed(PARAMS, BATCH, "text"), jnp.asarray(BATCH["report"]))
    loss, grads = jax.value_and_grad(lambda scale: contrastive_loss(rows, config, scale)[0])(jnp.array(2.0))
    expected = []
    for logits in (2 * rows.ecg_bE @ rows.text_bE.T, 2 * rows.text_bE @ rows.ecg_bE.T):
        for i, j in product(range(16), range(16)):
            expected.append(max(0.0, 1 - (1 if j - i in (0, 1) else -1) * float(logits[i, j])))
    assert float(loss) == pytest.approx(sum(expected) / 32, rel=1e-5)
    assert float(grads) != 0
