"""Tests of the device layouts; test_step.py and test_multihost.py check that training gives the same on all of them.

Run as a script on four virtual devices, this file prints the results of both modes for a batch.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from etp_jax.models.layers import AXIS
from etp_jax.training.parallel import Parallel
from tests.helpers.devices import run_on

MODES: Any = ("pmap", "shard_map")
BATCH = {"x": np.arange(24, dtype=np.int16).reshape(8, 3), "row": np.arange(8)}


def train_step(state: Any, batch: Any, scale: Any) -> tuple[Any, Any]:
    total = jax.lax.psum((scale * batch["x"]).sum(), AXIS)
    return {"sum": state["sum"] + total}, {"rows": jax.lax.pmean(1.0 * batch["row"].size, AXIS)}


def eval_step(params: Any, _: Any, batch: Any, texts: Any) -> Any:
    return {
        "row": batch["row"],
        "device": jnp.full(batch["row"].shape, jax.lax.axis_index(AXIS)),
        "x": batch["x"] * params,
    }


def measure(mode: Any, devices: int) -> dict[str, Any]:
    parallel = Parallel(mode, jax.devices()[:devices])
    step, encode = parallel.wrap_train_step(train_step), parallel.wrap_eval_step(eval_step)
    state, scale = parallel.replicate(({"sum": np.zeros((), np.int32)}, np.array(2, np.int32)))
    batch = parallel.put_batch(BATCH)
    for _ in range(2):
        state, metrics = step(state, batch, scale)
        jax.block_until_ready(state)
    rows = encode(scale, {}, batch, None)
    saved = parallel.to_global(state)
    back = parallel.replicate(saved)
    return {
        "devices": parallel.devices,
        "shape": batch["x"].shape,
        "placed": len(batch["x"].addressable_shards),
        "sum": int(state["sum"]),
        "rows a device": float(metrics["rows"]),
        "order": np.asarray(rows["row"]).tolist(),
        "device": np.asarray(rows["device"]).tolist(),
        "x": np.asarray(rows["x"]).tolist(),
        "replicated": [str(x["sum"].sharding.spec) for x in (state, saved, back)],
        "back": int(back["sum"]),
    }


def measure_all() -> dict[str, Any]:
    return {f"{mode} {devices}": measure(mode, devices) for mode in MODES for devices in (1, 2, 4)}


@pytest.fixture(scope="module")
def layouts() -> dict[str, Any]:
    return run_on(4, measure_all)


@pytest.mark.parametrize("devices", [1, 2, 4])
@pytest.mark.parametrize("mode", MODES)
def test_both_modes_share_the_rows_out_in_order(layouts, mode, devices):
    row = layouts[f"{mode} {devices}"]
    share = 8 // devices
    assert row["devices"] == row["placed"] == devices
    assert row["shape"] == ([devices, share, 3] if mode == "pmap" else [8, 3])
    assert row["rows a device"] == share
    assert row["sum"] == 2 * 2 * BATCH["x"].sum()
    assert row["order"] == list(range(8))
    assert row["device"] == [i // share for i in range(8)]
    assert row["x"] == (2 * BATCH["x"]).tolist()


@pytest.mark.parametrize("mode", MODES)
def test_state_is_replicated_before_after_and_when_saved(layouts, mode):
    row = layouts[f"{mode} 4"]
    assert set(row["replicated"]) == {str(PartitionSpec())}
    assert row["back"] == row["sum"]


@pytest.mark.parametrize("mode", MODES)
def test_the_second_step_is_not_compiled_again(mode):
    traced = []

    def counting(state: Any, batch: Any, scale: Any) -> tuple[Any, Any]:
        traced.append(1)
        return train_step(state, batch, scale)

    parallel = Parallel(mode, jax.devices()[:1])
    step = parallel.wrap_train_step(counting)
    state, scale = parallel.replicate(({"sum": np.zeros((), np.int32)}, np.array(2, np.int32)))
    for _ in range(3):
        state, _ = step(state, parallel.put_batch(BATCH), scale)
    assert len(traced) == 1
