"""Tests of the order in which columns are visited, and of the memory saved; test_contrastive.py checks the losses.

Run as a script on eight virtual devices, this file prints the order of visits and XLA's memory figures.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import LossConfig
from etp_jax.losses.blockwise import over_columns
from etp_jax.losses.contrastive import Embeddings, contrastive_loss
from etp_jax.models.layers import AXIS
from etp_jax.training.parallel import Parallel
from tests.helpers.devices import run_on

BATCH, WIDTH = 65_536, 512
DEVICES = 8


def firsts(_: Any, batch: Any, __: Any) -> tuple[Any, Any]:
    """The first number of each block, as every device sees them: gathered, and round the ring."""
    columns = {"x": batch["row"]}
    forms = (jax.lax.all_gather(columns, AXIS, tiled=True), None), (columns, AXIS)
    seen = [over_columns(lambda columns: columns["x"][0], rows, 2, ring_axis) for rows, ring_axis in forms]
    return None, jax.lax.all_gather(seen, AXIS)


def memory(config: LossConfig) -> float:
    """GiB that loss and gradients take on each device, their arguments included; nothing is run."""

    def step(params: Any, batch: Any, _: Any) -> tuple[Any, Any]:
        def loss(params: Any, ecg: Any, text: Any) -> Any:
            scale, bias = jnp.exp(params["scale"]), params["bias"] if config.score == "sigmoid" else None
            semantic = batch["text"] if config.pairs == "semantic" else None
            return contrastive_loss(Embeddings(ecg, text, batch["report"]), config, scale, bias, semantic, AXIS)

        _, (grads, *rows) = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(params, batch["ecg"], batch["text"])
        return jax.lax.pmean(grads, AXIS), [row.sum() for row in rows]

    number, scalar = jax.ShapeDtypeStruct((BATCH,), jnp.int32), jax.ShapeDtypeStruct((), jnp.float32)
    row = jax.ShapeDtypeStruct((BATCH, WIDTH), jnp.float32)
    args = {"scale": scalar, "bias": scalar}, {"ecg": row, "text": row, "report": number}, None
    compiled = Parallel("shard_map").wrap_train_step(step).lower(*args).compile()  # pyright: ignore
    figures = compiled.memory_analysis()
    return (figures.temp_size_in_bytes + figures.argument_size_in_bytes) / 2**30


def measure() -> dict[str, Any]:
    parallel = Parallel("pmap")
    batch = parallel.put_batch({"row": np.arange(3 * DEVICES)})
    seen = parallel.wrap_train_step(firsts)(None, batch, None)[1]
    return {
        "firsts": [np.asarray(form).tolist() for form in seen],
        "dense": memory(LossConfig()),
        "softmax": memory(LossConfig(pairs="semantic", block=512)),
        "sigmoid": memory(LossConfig(score="sigmoid", block=512)),
        "ring, softmax": memory(LossConfig(pairs="semantic", block=512, ring=True)),
        "ring, sigmoid": memory(LossConfig(score="sigmoid", block=512, ring=True)),
    }


@pytest.fixture(scope="module")
def measured() -> dict[str, Any]:
    return run_on(DEVICES, measure)


def test_every_device_gets_the_blocks_in_the_order_of_the_global_batch(measured):
    gathered = list(range(0, 3 * DEVICES, 2))
    ring = [row for device in range(DEVICES) for row in (3 * device, 3 * device + 2)]
    assert measured["firsts"] == [DEVICES * [gathered], DEVICES * [ring]]


def test_a_batch_of_65536_fits_into_2_gib_a_device_in_blocks(measured):
    assert measured["softmax"] < 1 and measured["sigmoid"] < 1
    assert measured["ring, softmax"] < 1 and measured["ring, sigmoid"] < 1
    assert measured["dense"] > 8
