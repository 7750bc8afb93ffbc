"""Tests that a run whose step does not fit is refused before its first step, and that nothing is compiled twice."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.training import room
from etp_jax.training.loop import train
from etp_jax.training.parallel import Parallel
from tests.helpers.tiny_run import change, tiny_config, write_shards

# What libtpu 0.0.42 and 0.0.52 write.
REFUSALS = {
    "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
    "temporaries (2.00T) exceeds available HBM (15.75G). HLO module: jit__lambda.": 2 * 2**40,
    "RESOURCE_EXHAUSTED: Ran out of memory in memory space hbm. Used 22.91G of 15.75G hbm. Exceeded by 7.16G.": int(
        22.91 * 2**30
    ),
    "RESOURCE_EXHAUSTED: something else": None,
}


def test_a_run_that_does_not_fit_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = tiny_config(write_shards(tmp_path / "shards"))
    monkeypatch.setattr(room, "device_bytes", lambda _: 2**10)
    with pytest.raises(EtpError, match=r"^a step needs 0.00 GiB on each device, .* it needs devices with more memory$"):
        train(config, tmp_path / "run")
    assert not (tmp_path / "run" / "metrics.jsonl").read_text()


def test_a_refusal_names_what_may_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 20 GiB, 16 are temporaries; on a device of 10 GiB they must be a third, so a quarter."""
    sizes = {"argument": 3, "output": 2, "alias": 1, "temp": 16}
    analysis = SimpleNamespace(**{f"{name}_size_in_bytes": size * 2**30 for name, size in sizes.items()})
    program = SimpleNamespace(memory_analysis=lambda: analysis)
    dispatch = SimpleNamespace(lower=lambda *_: SimpleNamespace(compile=lambda _: program))
    config, parallel = change(TrainConfig(), data={"batch_size": 64}), Parallel("pmap", jax.devices()[:1])
    for limit, resident, end in ((10, True, " or --data.resident never"), (10, False, ""), (20, True, None)):
        monkeypatch.setattr(room, "device_bytes", lambda _, limit=limit: limit * 2**30)
        if end is None:
            room.check_fits(dispatch, (1, 2, 3), config, parallel, resident)
            continue
        with pytest.raises(EtpError) as error:
            room.check_fits(dispatch, (1, 2, 3), config, parallel, resident)
        assert str(error.value) == (
            "a step needs 20.00 GiB on each device, 16.00 of them for temporaries (XLA's count), and a device has "
            f"10.00; it may fit with --data.batch-size 16 or --optim.micro-batches 4{end} (an estimate)"
        )


@pytest.mark.parametrize("mode", ["pmap", "shard_map"])
def test_a_checked_step_is_compiled_once(mode: Any) -> None:
    compiled = Counter()

    def count(event: str, duration_secs: float, **kwargs: str | int) -> None:
        compiled[event] += event.endswith("backend_compile_duration")

    parallel = Parallel(mode, jax.devices()[:1])
    step = parallel.wrap_train_step(
        lambda s, b, t: (s + jax.lax.pmean((b["x"] * t).sum(), "batch"), {"sum": b["x"].sum()})
    )
    state, table = parallel.replicate((jnp.zeros(()), jnp.ones(3)))
    batch = parallel.put_batch({"x": np.ones((8, 3), np.float32)})
    jax.monitoring.register_event_duration_secs_listener(count)
    try:
        room.check_fits(step, (state, batch, table), TrainConfig(), parallel, False)
        assert compiled.total() == 1
        for _ in range(2):
            state, _ = step(state, batch, table)
        assert compiled.total() == 1
        assert float(state) == 48
    finally:
        jax.monitoring.clear_event_listeners()


def test_the_memory_of_a_device() -> None:
    def parallel(platform: str, *stats: Any) -> Any:
        devices = np.array([SimpleNamespace(memory_stats=lambda s=s: s) for s in stats], object)
        return SimpleNamespace(platform=platform, mesh=SimpleNamespace(local_mesh=SimpleNamespace(devices=devices)))

    assert room.device_bytes(parallel("gpu", {"bytes_limit": 9}, {"bytes_limit": 8})) == 8
    assert room.device_bytes(parallel("gpu", None)) is None
    one, two = (room.device_bytes(parallel("cpu", *[None] * count)) for count in (1, 2))
    assert one and two and one // 2 == two > 2**28


def test_the_memory_of_a_container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parallel = Parallel("pmap", jax.devices()[:1])
    monkeypatch.setattr(room, "CONTAINER_LIMITS", ())
    host = room.device_bytes(parallel)
    assert host
    for text, expected in (("max\n", host), ("1048576\n", 2**20), ("9223372036854771712\n", host)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(room, "CONTAINER_LIMITS", (tmp_path / "memory.max", tmp_path / "missing"))
        assert room.device_bytes(parallel) == expected


@pytest.mark.parametrize("message", REFUSALS)
def test_what_a_refusal_names(message: str) -> None:
    assert room.refused_bytes(message) == REFUSALS[message]


def test_what_is_proposed() -> None:
    config = change(TrainConfig(), data={"batch_size": 4096})
    assert room.parts_for(1.01) == room.parts_for(0) == 2 and room.parts_for(2.1) == 4
    assert list(room.smaller(config, 8, 4)) == [
        "--data.batch-size 1024",
        "--optim.micro-batches 4",
        "--loss.block 512",
    ]
    halved = room.smaller(config, 8, 4)["--optim.micro-batches 4"]
    assert (halved.data.batch_size, halved.optim.micro_batches) == (4096, 4)
    odd = change(config, data={"batch_size": 8 * 7}, loss={"block": 4})
    assert list(room.smaller(odd, 8, 2)) == ["--data.batch-size 16"]
    assert not room.smaller(change(odd, data={"batch_size": 8}), 8, 2)
