"""`EcgModel.module`: the ECG encoder in one's own `jit` and `grad`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import etp_jax
from etp_jax import EcgModel
from etp_jax.shards.reader import Shards
from tests.helpers.small_run import small_config, write_run


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory, shards: Path) -> EcgModel:
    """Of two blocks."""
    return etp_jax.load(write_run(tmp_path_factory.mktemp("module") / "run", small_config(shards)))


def test_the_module_is_the_encoder_in_evaluation_mode(shards: Path, model: EcgModel) -> None:
    split = Shards(shards).split("test")
    batch = split.ecg(range(4)), split.columns.lead_mask[:4]
    features, embeddings = jax.jit(model.module.apply)(model.variables, *batch)
    np.testing.assert_allclose(embeddings, model.encode_ecg(batch[0] / 1000, fs=100), atol=1e-5)
    np.testing.assert_allclose(features, model.features(batch[0] / 1000, fs=100), rtol=1e-4, atol=1e-5)
    assert set(model.variables["params"]) == {"ecg_tower", "ecg_projection"}
    shapes, drawn = jax.eval_shape(lambda: (model.variables, model.module.init(jax.random.key(0), *batch)))
    assert shapes["params"] == drawn["params"] and shapes["batch_stats"] == drawn["batch_stats"]


def test_the_module_is_fine_tuned_in_ones_own_jit(shards: Path, model: EcgModel) -> None:
    """No axis is bound: batch statistics are those of the batch, as Flax's own layer has them in `jit`."""
    split, module, optimizer = Shards(shards).split("train"), model.module, optax.adam(1e-2)
    ecg, mask = split.ecg(range(32)), split.columns.lead_mask[:32]
    y = jnp.asarray(ecg.mean((1, 2)) > 0, jnp.float32)

    @jax.jit
    def step(params: Any, batch_stats: Any, opt_state: Any) -> Any:
        def loss(params: Any) -> Any:
            variables = {"params": params["encoder"], "batch_stats": batch_stats}
            (features, _), updated = module.apply(variables, ecg, mask, train=True, mutable=["batch_stats"])
            return optax.sigmoid_binary_cross_entropy(features @ params["head"], y).mean(), updated["batch_stats"]

        (value, batch_stats_), grads = jax.value_and_grad(loss, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state)
        return optax.apply_updates(params, updates), batch_stats_, opt_state, value

    params = {"encoder": model.variables["params"], "head": jnp.zeros(model.features(ecg[0] / 1000, fs=100).size)}
    batch_stats, opt_state = model.variables["batch_stats"], optimizer.init(params)
    losses = []
    for _ in range(40):
        params, batch_stats, opt_state, value = step(params, batch_stats, opt_state)
        losses.append(float(value))
    assert losses[0] == pytest.approx(np.log(2)) and losses[-1] < 0.5 * losses[0]
    moved = jax.tree.map(lambda a, b: float(abs(a - b).max()), batch_stats, model.variables["batch_stats"])
    assert min(jax.tree.leaves(moved)) > 0
