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
from etp_jax.models.layers import AXIS
from etp_jax.shards.reader import Shards
from etp_jax.training import optim, report_table
from etp_jax.training import resident as resident_module
from etp_jax.training.batches import Batches
from etp_jax.training.feed import DeviceFeed, dispatches
from etp_jax.training.parallel import SPLIT, Parallel
from etp_jax.training.progress import Progress
from etp_jax.training.report_table import DeviceReports
from etp_jax.training.resident import exchange, free_bytes, residency
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
    state = parallel.replicate(init_state({"params": params, "batch_stats": {}}, optimizer, config))
    feed = DeviceFeed(config, batches, parallel, DeviceReports(texts, "float32", parallel))
    dispatch = feed.wrap(make_train_step(model, optimizer, schedule, config, 100, "cpu"))  # pyright: ignore[reportArgumentType]
    rows = []
    for steps, batch in feed.batches(dispatches(0, STEPS, feed.per_dispatch, *INTERVALS)):
        state, metrics = jax.block_until_ready(dispatch(state, batch, feed.tables))
        rows.append(np.stack([np.atleast_1d(metrics[name])[: len(steps)] for name in sorted(metrics)]))
    return [*map(np.asarray, jax.tree.leaves(state)), np.concatenate(rows, axis=1)]


def measure(most: bool = False) -> dict[str, Any]:
    """Digests of float32 runs; with `most`, of all kinds, and float64 runs' deviation from the host path's."""
    resident_module.PIECE = 3 * 2 * SAMPLES * len(LEADS)  # the records take several pieces, not all of them whole
    resident_module.WIDEST = SAMPLES * len(LEADS) // 4  # so that a record takes several rows
    with tempfile.TemporaryDirectory() as folder:
        shards = Shards(write_shards(Path(folder) / "shards", restored=True))
        batches = Batches(shards.split("train"), shards.both_reports("train"), 2 * BATCH, 0, devices=8, share=0.9)
        base = change(tiny_config(shards.folder), data={"restored_share": 0.5})

        def run(
            mode: str, resident: str, steps: int, dtype: str, micro_batches: int = 1, table: bool = True
        ) -> list[np.ndarray]:
            config = change(base, data={"resident": resident}, optim={"micro_batches": micro_batches})
            options = {"parallel": mode, "steps_per_dispatch": steps}
            report_table.table_is_resident = lambda *_: table
            return trained(change(config, run=options), batches, dtype)

        kinds = ("never", "always", "sharded")
        outcome: dict[str, Any] = {"records": len(batches.paired)}
        if not most:
            return outcome | {"bits": [digest(run("shard_map", resident, 1, "float32")) for resident in kinds]}
        reference = run("shard_map", "never", 1, "float64")
        several = {resident: run("shard_map", resident, 4, "float64") for resident in kinds}
        return outcome | {
            "types": sorted({str(x.dtype) for x in reference}),
            "bits": [digest(run(mode, resident, 1, "float32")) for mode in ("shard_map", "pmap") for resident in kinds],
            "micro-batches": [digest(run("pmap", resident, 1, "float32", 2)) for resident in ("never", "sharded")],
            "rows of reports": [
                digest(run("shard_map", "never", 1, "float32", table=False)),
                digest(run("pmap", "always", 1, "float32", table=False)),
                digest(run("pmap", "sharded", 1, "float32", table=False)),
            ],
            "several, rows of reports": digest(run("pmap", "sharded", 4, "float64", table=False)),
            "several": [digest(run(mode, "sharded", 4, "float64")) for mode in ("shard_map", "pmap")],
            "deviation": {
                resident: max(float(np.abs(x - y).max()) for x, y in zip(arrays, reference, strict=True))
                for resident, arrays in several.items()
            },
        }


def measure_most() -> dict[str, Any]:
    return measure(most=True)


def digest(arrays: list[np.ndarray]) -> str:
    return hashlib.sha256(b"".join(x.tobytes() for x in arrays)).hexdigest()


def test_resident_records_give_the_same_bits() -> None:
    outcome = run_on(8, measure)
    assert BATCH < outcome["records"] < 41  # of a share of the patients
    assert outcome["records"] % 8  # so that the devices' parts are not of one size
    assert len(outcome["bits"]) == 3 and len(set(outcome["bits"])) == 1


@pytest.mark.slow
def test_so_do_both_modes_micro_batches_rows_of_reports_and_several_steps_a_dispatch() -> None:
    """Several steps are one program, which rounds in another way."""
    outcome = run_on(8, measure_most, x64=True)
    assert len(outcome["bits"]) == 6 and len(set(outcome["bits"])) == 1
    assert len(set(outcome["micro-batches"])) == 1
    assert {*outcome["rows of reports"]} == {*outcome["bits"]}
    assert len({*outcome["several"], outcome["several, rows of reports"]}) == 1
    assert outcome["types"] == ["float64", "int32"]
    assert max(outcome["deviation"].values()) < 1e-10


def measure_exchange() -> list[bool]:
    """Whether every device gets the records of its rows, in orders that are more and less balanced."""
    parallel, rng, rows = Parallel("shard_map"), np.random.default_rng(0), 2
    records = rng.integers(-9, 9, (61, rows, 8), np.int16)
    padded = np.concatenate([records, np.zeros((3, rows, 8), np.int16)])
    table = np.concatenate([padded[device::8] for device in range(8)]).reshape(-1, 8)

    def dispatch(state: Any, batch: Any, table: Any) -> Any:
        got = exchange(batch["record"], table, rows)
        return state, {"ecg": jax.lax.all_gather(got, AXIS, tiled=True)}

    wrapped = parallel.wrap_train_step(dispatch, SPLIT)
    orders = [rng.permutation(61)[:40], rng.permutation(61)[:56], np.full(40, 60), np.arange(40) // 5, np.zeros(8, int)]
    orders.append(np.repeat(np.arange(8), 7))  # each device sends to one other, or to itself, only
    table, right = parallel.put_batch(table), []
    for order in orders:
        got = wrapped({}, parallel.put_batch({"record": order.astype(np.int32)}), table)[1]["ecg"]
        right.append(np.array_equal(np.asarray(got).reshape(-1, rows, 8), records[order]))
    return right


def test_the_exchange_is_right_for_every_order() -> None:
    assert run_on(8, measure_exchange) == [True] * 6


@pytest.mark.parametrize(
    ("samples", "shape"), [(1000, (1, 12_032)), (5000, (5, 12_032)), (1003, (2, 6144)), (7, (1, 128))]
)
def test_rows_of_the_resident_table_are_whole_tiles_that_hold_a_record(samples: int, shape: tuple[int, int]) -> None:
    assert resident_module.row_shape(12 * samples) == shape
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
    def free(*memories: Any) -> int:
        devices = np.array([SimpleNamespace(memory_stats=lambda m=memory: m) for memory in memories], object)
        parallel: Any = SimpleNamespace(mesh=SimpleNamespace(local_mesh=SimpleNamespace(devices=devices)))
        return free_bytes(parallel) // 2**20

    empty, full = ({"bytes_limit": 1000 * 2**20, "bytes_in_use": used * 2**20} for used in (200, 600))
    assert (free(empty), free(empty, full), free(empty, None)) == (800, 400, 0)

    def chosen(whole: int, part: int, free: int) -> str:
        return residency("auto", {"always": whole, "sharded": part, "never": 0}, free)

    assert [chosen(whole, 50, 800) for whole in (400, 401)] == ["always", "sharded"]
    assert [chosen(800, part, 800) for part in (400, 401)] == ["sharded", "never"]
    assert chosen(1, 1, 0) == "never"


@pytest.fixture
def batches(tmp_path: Path) -> Batches:
    shards = Shards(write_shards(tmp_path / "shards"))
    return Batches(shards.split("train"), shards.reports("train"), BATCH, 0)


@pytest.fixture
def reports() -> DeviceReports:
    return DeviceReports({"embeddings": np.zeros((5, 6), np.float32)}, "float32", Parallel("pmap", jax.devices()[:1]))


def test_what_auto_chooses(batches: Batches, reports: DeviceReports, monkeypatch: pytest.MonkeyPatch) -> None:
    config, parallel = tiny_config(batches.split.shards.folder), Parallel("pmap", jax.devices()[:1])
    on_cpu = DeviceFeed(config, batches, parallel, reports)
    assert (on_cpu.resident_bytes, on_cpu.per_dispatch) == (0, 1)
    assert str(on_cpu) == "  data: read as needed, 2 batches ahead; 1 step(s) a dispatch"

    padded, GIB = -(-SAMPLES * 12 // 128) * 128, 2**30
    monkeypatch.setattr("etp_jax.training.feed.free_bytes", lambda _: GIB)
    every = DeviceFeed(config, batches, parallel, reports)
    assert (every.residency, every.resident_bytes) == ("always", 41 * (2 * padded + 12 + 4))
    assert str(every).splitlines()[1] == (
        "  --data.resident auto: all records take 0.1 MiB a device, sharded 0.1; at most 512.0 "
        "(50% of the free memory) are used"
    )
    assert DeviceFeed(change(config, data={"resident": "never"}), batches, parallel, reports).resident_bytes == 0
    monkeypatch.setattr(Parallel, "platform", "gpu")
    for log_every, steps in ((20, 10), (4, 4)):
        assert (
            DeviceFeed(change(config, run={"log_every": log_every}), batches, parallel, reports).per_dispatch == steps
        )
    assert DeviceFeed(change(config, data={"resident": "never"}), batches, parallel, reports).per_dispatch == 1


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
