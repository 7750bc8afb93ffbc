"""Tests of what compilers make of steps for eight v5e chips and for GPUs; no device is needed, only its compiler."""

from __future__ import annotations

import importlib.util
from dataclasses import asdict
from typing import Any

import pytest

from etp_jax.bench.plan import example_loops
from etp_jax.bench.plan_compile import compiled
from etp_jax.config import TrainConfig, to_dict
from etp_jax.configs import load_recipe
from etp_jax.errors import EtpError
from etp_jax.training.program import Sizes
from tests.helpers.tiny_run import change

pytestmark = pytest.mark.slow
needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu: `pip install 'jax[tpu]'`, for Linux on x86-64"
)


def has_cuda() -> bool:
    try:
        return importlib.util.find_spec("jax_plugins.xla_cuda12") is not None
    except ModuleNotFoundError:
        return False


ROWS, CHIPS = 64, 8
LARGEST_COPY = 64 * 2**20


@pytest.fixture(autouse=True)
def without_flags_of_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """XLA_FLAGS of the tests make programs for CPUs compile roughly; they must not change those for TPUs."""
    monkeypatch.delenv("XLA_FLAGS", raising=False)


def quickly(topology: str, config: TrainConfig, samples: int = 1000, records: int = 20_000) -> dict[str, Any]:
    config = change(config, data={"batch_size": ROWS * CHIPS})
    sizes = asdict(Sizes(samples, records, 5000, 64))
    rest = {"config": to_dict(config), "sizes": sizes}
    return compiled({"topology": topology, "slices": 1, "quick": True, "save": None, **rest})


CASES: dict[str, Any] = {
    "METS, resident": ("mets", {"data": {"resident": "always"}}, {"samples": 5000, "records": 2000}),
    "METS, sharded": ("mets", {"data": {"resident": "sharded"}}, {"samples": 5000, "records": 16_000}),
    "ptbxl, blocked loss": ("ptbxl", {"data": {"resident": "never"}, "loss": {"block": 64}}, {}),
    "ETP, scanned": ("etp", {"data": {"resident": "never"}, "model.text": {"scan": True, "remat": True}}, {}),
}


@needs_libtpu
@pytest.mark.parametrize("name", CASES)
def test_nothing_large_is_copied_and_no_loop_is_over_the_examples(name: str) -> None:
    recipe, changes, sizes = CASES[name]
    config = load_recipe(recipe)
    text = change(config.model.text, **changes.get("model.text", {}))
    ecg = change(config.model.ecg, blocks=(1, 1))  # most of the time goes into convolutions
    options = {part: values for part, values in changes.items() if part != "model.text"}
    config = change(config, model={"ecg": ecg, "text": text}, **options)
    found = quickly("v5e:2x4", config, **sizes)
    assert found["fits"] and (found["chips"], found["hosts"], found["device"]) == (CHIPS, 2, "TPU v5 lite")
    assert found["precision"] == "bfloat16" and found["resident"] == options["data"]["resident"]
    assert found["program"]["collectives"]["all-reduce"]["number"] > 0
    assert [copy for copy in found["program"]["copies"] if copy["bytes"] > LARGEST_COPY] == []
    assert example_loops(found, change(config, data={"batch_size": ROWS * CHIPS})) == {}


@needs_libtpu
def test_a_step_that_does_not_fit() -> None:
    """One chip has 15.75 GiB; the records alone have 112."""
    config = load_recipe("quickstart")
    config = change(config, model={"ecg": change(config.model.ecg, blocks=(1, 1))})
    config = change(config, data={"resident": "always"}, run={"steps_per_dispatch": 1})
    found = quickly("v5e:2x4", config, samples=5000, records=1_000_000)
    assert not found["fits"] and found["needed_bytes"] > 100 * 2**30
    assert abs(found["device_bytes"] - 15.75 * 2**30) < 2**25


@needs_libtpu
@pytest.mark.parametrize("topology", ["v9:2x2", "v5litepod-256", "v5e:3x5"])
def test_slices_that_there_are_not(topology: str) -> None:
    with pytest.raises(EtpError, match=rf"--topology {topology}: libtpu has no such devices .*v5e:16x16"):
        quickly(topology, load_recipe("mets"))


@pytest.mark.skipif(not has_cuda(), reason="needs JAX's CUDA plugin and nvcc's wheel: `pip install 'jax[cuda12]'`")
def test_gpus_of_two_hosts() -> None:
    config = load_recipe("mets")
    config = change(config, model={"ecg": change(config.model.ecg, blocks=(1, 1))})
    found = quickly("h200:1x2x4", config)
    assert found["fits"] and (found["chips"], found["hosts"], found["device"]) == (CHIPS, 2, "NVIDIA H200")
    assert found["precision"] == "bfloat16" and found["program"]["cycles"] == 0
    assert found["program"]["collectives"]["all-reduce"]["number"] > 0
    assert found["memory"]["peak"] > 2**20 and found["xla_bytes"] > found["bytes"] / CHIPS / 2


@needs_libtpu
def test_an_impossible_batch() -> None:
    with pytest.raises(EtpError, match=r"data.batch_size 512 is not a multiple of the 36 devices; 504 is"):
        quickly("v5e:6x6", load_recipe("mets"))
