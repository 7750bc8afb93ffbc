"""Tests that resident records and dispatches of several steps give the result of the host path with single steps.

Run as a script on eight virtual devices, this file trains on several layouts and prints the outcome. test_resume.py
tests whole runs, stopped and resumed; test_multihost.py tests several hosts.
"""

from __future__ import annotations

import hashlib
import io
import json
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from etp_jax.config import TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.shards.reader import Shards
from etp_jax.training import feed as feed_module
from etp_jax.training import optim
from etp_jax.training.batches import Batches
from etp_jax.training.feed import DeviceFeed, dispatches, has_room
from etp_jax.training.parallel import Parallel
from etp_jax.training.progress import Progress
from etp_jax.training.step import init_state, make_train_step
from tests.helpers.devices import run_on
from tests.helpers.tiny_run import BATCH, SAMPLES, change, tiny_config, write_shards

STEPS = 20
INTERVALS = (7, 10)


class Towers(nn.Module):
    """A dual encoder in the model's interface that compiles at once."""

    def setup(self) -> None:
        self.ecg_tower, self.text_tower = nn.Dense(4), nn.Dense(4)

    def encode_ecg(self, ecg_BTL, lead_mask_BL, train=False, keys=None):
        x = jnp.where(lead_mask_BL[:, None], ecg_BTL / 1000, 0).reshape(len(ecg_BTL), -1)
        return x, self.unit(self.ecg_tower(nn.gelu(x - x.mean(axis=1, keepdims=True))))

    def encode_text(self, text, keys=None):
        return self.unit(self.text_tower(text))

    def unit(self, x: jax.Array) -> jax.Array:
        return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


def trained(config: TrainConfig, batches: Batches, dtype: str) -> list[np.ndarray]:
    """Every array of the last state, and every step's metrics, in order."""
    rng, parallel, model = np.random.default_rng(0), Parallel(config.run.parallel), Towers()
    sizes = {"ecg_tower": SAMPLES * len(LEADS), "text_tower": 6}
    params: Any = {
        name: {"kernel": rng.normal(size=(n, 4), scale=0.1).astype(dtype), "bias": np.zeros(4, dtype)}
        for name, n in sizes.items()
    }
    params["logit_scale"] = np.array(2, dtype)
    texts = {"embeddings": rng.normal(size=(len(batches.reports.reports), 6)).astype(dtype)}
    optimizer, schedule = optim.make_optimizer(config.optim, batches.steps_per_epoch)
    state, texts = parallel.replicate((init_state({"params": params, "batch_stats": {}}, optimizer, config), texts))
    feed = DeviceFeed(config, batches, parallel)
    dispatch = parallel.wrap_train_step(feed.wrap(make_train_step(model, optimizer, schedule, config, 100, "cpu")))  # pyright: ignore[reportArgumentType]
    rows = []
    for steps, batch in feed.batches(dispatches(0, STEPS, feed.per_dispatch, *INTERVALS)):
        state, metrics = dispatch(state, batch, feed.tables(texts))
        rows.append(np.stack([np.atleast_1d(metrics[name])[: len(steps)] for name in sorted(metrics)]))
    return [*map(np.asarray, jax.tree.leaves(state)), np.concatenate(rows, axis=1)]


def measure() -> dict[str, Any]:
    """Digests of float32 runs both ways; float64 runs' deviation from the host's path, a step at a time."""
    feed_module.PIECE = 7 * 2 * SAMPLES * len(LEADS)  # so that the records take several pieces, not all of them whole
    feed_module.WIDEST = SAMPLES * len(LEADS) // 4  # so that a record takes several rows
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(write_shards(Path(folder) / "shards", restored=True))
        batches = Batches(shards.split("train"), shards.both_reports("train"), BATCH, 0, devices=8, share=0.9)
        base = change(tiny_config(shards.folder), data={"restored_share": 0.5})

        def run(mode: str, resident: str, steps: int, dtype: str) -> list[np.ndarray]:
            options = {"parallel": mode, "steps_per_dispatch": steps}
            return trained(change(base, data={"resident": resident}, run=options), batches, dtype)

        reference = run("shard_map", "never", 1, "float64")
        several = {resident: run("shard_map", resident, 4, "float64") for resident in ("never", "always")}
        return {
            "records": len(batches.paired),
            "types": sorted({str(x.dtype) for x in reference}),
            "bits": [
                digest(run(mode, resident, 1, "float32"))
                for mode, resident in (("shard_map", "never"), ("shard_map", "always"), ("pmap", "always"))
            ],
            "deviation": {
                resident: max(float(np.abs(x - y).max()) for x, y in zip(arrays, reference, strict=True))
                for resident, arrays in several.items()
            },
        }


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()


@pytest.fixture(scope="module")
def outcome() -> dict[str, Any]:
    return run_on(8, measure, x64=True)


def test_resident_records_give_the_same_bits(outcome: dict[str, Any]) -> None:
    assert BATCH < outcome["records"] < 41  # of a share of the patients
    assert len(outcome["bits"]) == 3 and len(set(outcome["bits"])) == 1


def test_several_steps_a_dispatch_give_the_same_but_for_rounding(outcome: dict[str, Any]) -> None:
    assert outcome["types"] == ["float64", "int32"]
    assert max(outcome["deviation"].values()) < 1e-10


@pytest.mark.parametrize(
    ("samples", "shape"), [(1000, (1, 12_032)), (5000, (5, 12_032)), (1003, (2, 6144)), (7, (1, 128))]
)
def test_rows_of_the_resident_table_are_whole_tiles_that_hold_a_record(samples: int, shape: tuple[int, int]) -> None:
    assert feed_module.row_shape(12 * samples) == shape
    assert shape[1] % 128 == 0 and shape[0] * shape[1] >= 12 * samples


@pytest.mark.parametrize("most", [1, 3, 10])
def test_dispatches_share_the_steps_out(most: int) -> None:
    spans = list(dispatches(4, 33, most, *INTERVALS))
    assert [step for span in spans for step in span] == list(range(4, 33))
    assert max(map(len, spans)) == min(most, 7)
    ends = {span.stop for span in spans}
    assert {7, 10, 14, 20, 21, 28, 30, 33} <= ends
    for span in spans:  # a run that goes on from any of them makes the same ones
        assert list(dispatches(span.start, 33, most, *INTERVALS)) == spans[spans.index(span) :]


def test_room_is_a_share_of_the_fullest_devices_free_memory() -> None:
    def device(memory: Any) -> Any:
        return SimpleNamespace(memory_stats=lambda: memory)

    free, full = device({"bytes_limit": 1000, "bytes_in_use": 200}), device({"bytes_limit": 1000, "bytes_in_use": 600})
    assert has_room([free], 400, 0.5) and not has_room([free], 401, 0.5)
    assert has_room([free, full], 200, 0.5) and not has_room([free, full], 201, 0.5)
    assert not has_room([free, device(None)], 1, 1.0)


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    shards = Shards(write_shards(tmp_path / "shards"))
    return Batches(shards.split("train"), shards.reports("train"), BATCH, 0)


def test_what_auto_chooses(batches: Batches, monkeypatch: pytest.MonkeyPatch) -> None:
    config, parallel = tiny_config(batches.split.shards.folder), Parallel("pmap", jax.devices()[:1])
    on_cpu = DeviceFeed(config, batches, parallel)
    assert (on_cpu.resident_bytes, on_cpu.per_dispatch) == (0, 1)
    assert str(on_cpu) == "  data: read as needed, 2 batches ahead; 1 step(s) a dispatch"

    padded = -(-SAMPLES * 12 // 128) * 128
    monkeypatch.setattr(feed_module, "has_room", lambda devices, size, share: size == 41 * (2 * padded + 12 + 4))
    assert DeviceFeed(config, batches, parallel).resident_bytes == 41 * (2 * padded + 12 + 4)
    assert DeviceFeed(change(config, data={"resident": "never"}), batches, parallel).resident_bytes == 0
    monkeypatch.setattr(Parallel, "platform", "gpu")
    for log_every, steps in ((20, 10), (4, 4)):
        assert DeviceFeed(change(config, run={"log_every": log_every}), batches, parallel).per_dispatch == steps
    assert DeviceFeed(change(config, data={"resident": "never"}), batches, parallel).per_dispatch == 1


def test_time_left_leaves_compilation_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first dispatch takes 100 s, every other one 2 s: 2 steps each, of 12."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("tqdm.std.time", lambda: clock.now)
    monkeypatch.setattr("sys.stderr", io.StringIO())
    metrics: Any = {"loss": np.ones(2), "grad_norm": np.ones(2)}
    with Progress(tiny_config(tmp_path), tmp_path, 0, 12, 6) as progress:
        bar = progress._bar
        for start in range(0, 8, 2):
            progress.step(range(start, start + 2), metrics)
            clock.now += 2 if start else 100
        progress.flush()
        figures = bar.format_dict
        assert (figures["n"], figures["initial"], figures["elapsed"]) == (8, 2, 6)
        assert bar.format_meter(**{**figures, "rate": None, "bar_format": "{remaining}"}) == "00:04"


def test_speed_counts_steps_and_waiting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four steps a dispatch, two of them logged; a dispatch takes 2 s, of which 0.5 s are spent waiting for data."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr("etp_jax.training.progress.time.perf_counter", lambda: clock.now)
    config = change(tiny_config(tmp_path), run={"log_every": 2})
    metrics = {"loss": np.arange(4.0), "grad_norm": np.ones(4)}
    with Progress(config, tmp_path, 0, 15, 5) as progress:
        for steps in (range(0, 4), range(4, 8), range(8, 11)):
            with progress.waiting():
                clock.now += 0.5
            progress.step(steps, metrics)
            clock.now += 1.5
        progress.flush()
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["loss"]) for line in lines] == [(2, 1), (4, 3), (6, 1), (8, 3), (10, 1)]
    assert [line["ecg_per_s"] for line in lines] == [0, 0, 4 * BATCH / 2, 4 * BATCH / 2, 3 * BATCH / 1.5]
    assert [line["wait_share"] for line in lines] == [0, 0, 0.25, 0.25, 0]
