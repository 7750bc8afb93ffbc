"""Tests of `etp plan`: estimates from a known answer of the compiler, its text and JSON, and mistakes of users.

The compiler itself is in test_compiled.py.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from etp_jax.bench import plan, plan_compile, topology
from etp_jax.bench.plan_options import PlanOptions
from etp_jax.bench.run import FORMAT, Report
from etp_jax.cli import main
from etp_jax.config import TrainConfig
from tests.helpers.tiny_run import change

GIB = 2**30
CHIPS, BATCH, RECORDS = 8, 2048, 800_000
PROGRAM: dict[str, Any] = {"cycles": 60_000_000, "collectives": {}, "copies": [], "loops": {}}
ABOUT = {
    "versions": {"jax": "1.2", "libtpu": "3.4"},
    "chips": CHIPS,
    "hosts": 2,
    "device": "TPU v5 lite",
    "device_bytes": 16 * GIB,
    "precision": "bfloat16",
    "resident": "never",
    "texts_resident": True,
    "per_dispatch": 1,
}
FITS = {
    **ABOUT,
    "fits": True,
    "lower_s": 2.0,
    "compile_s": 60.0,
    "memory": {"argument": GIB, "output": GIB, "alias": GIB, "temp": 2 * GIB, "code": 2**20, "peak": 3 * GIB},
    "xla_flops": 1e12,
    "xla_bytes": 8.19e9,
    "flops": 8 * 1.97e12 // 2,
    "bytes": 10**9,
    "program": PROGRAM,
}
REFUSED = {**ABOUT, "fits": False, "needed_bytes": 40 * GIB, "message": "RESOURCE_EXHAUSTED: too much"}


def answer(monkeypatch: pytest.MonkeyPatch, *answers: dict[str, Any]) -> list[dict[str, Any]]:
    """Replaces the compiler; returns the requests that it will have had."""
    requests, rest = [], list(answers)

    def compiled(request: dict[str, Any]) -> dict[str, Any]:
        requests.append(request)
        return dict(rest.pop(0))

    monkeypatch.setattr(plan, "compiled", compiled)
    return requests


def options(**values: Any) -> PlanOptions:
    config = change(TrainConfig(), data={"batch_size": BATCH})
    return PlanOptions(**{"topology": "v5e:2x4", "config": config, **values})


def test_estimates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A step of 5 ms by FLOPs and 10 ms by bytes at peak, and of 40 ms by cycles."""
    answer(monkeypatch, FITS)
    made = plan.make_plan(options(others=False, price=3.6, validation=20_000))
    estimate: Any = made.estimate
    step = estimate["step_s"]
    assert (step["low"], step["high"]) == (pytest.approx(0.01), pytest.approx(0.04))
    assert "bytes" in step["low_from"] and "1.5 GHz, assumed" in step["high_from"]
    assert estimate["ecg_per_s"] == [pytest.approx(BATCH / 0.04), pytest.approx(BATCH / 0.01)]
    assert estimate["ecg_per_s_per_chip"][1] == pytest.approx(BATCH / 0.01 / CHIPS)
    assert estimate["steps_per_epoch"] == RECORDS // BATCH == 390
    assert estimate["epoch_s"] == [pytest.approx(3.9), pytest.approx(15.6)]
    assert estimate["cost"] == [pytest.approx(3.9 * CHIPS / 1000), pytest.approx(15.6 * CHIPS / 1000)]
    per_host = BATCH / 0.01 / 2
    assert estimate["records_per_s_per_host"][1] == pytest.approx(per_host)
    assert estimate["gb_per_s_per_host"][1] == pytest.approx(per_host * (5000 * 12 * 2 + 16) / 1e9)
    assert made.warnings == []


def test_bytes_that_take_longer_than_the_cycles(monkeypatch: pytest.MonkeyPatch) -> None:
    answer(monkeypatch, {**FITS, "xla_bytes": 10 * FITS["xla_bytes"]})
    made = plan.make_plan(options(others=False))
    assert made.estimate is not None
    step = made.estimate["step_s"]
    assert (step["low"], step["high"]) == (pytest.approx(0.04), pytest.approx(0.1))
    assert "1.5 GHz, assumed" in step["low_from"] and "bytes" in step["high_from"]


def test_a_quick_plan_has_no_upper_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = answer(monkeypatch, FITS)
    made = plan.make_plan(options(others=False, quick=True))
    assert requests[0]["quick"] and made.estimate is not None
    assert made.estimate["step_s"]["high"] is None and made.estimate["epoch_s"] == [pytest.approx(3.9), None]


def test_the_next_batches_are_compiled_for_their_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = answer(monkeypatch, FITS, REFUSED, FITS)
    made = plan.make_plan(options())
    assert [request["quick"] for request in requests] == [False, True, True]
    assert [request["config"]["data"]["batch_size"] for request in requests] == [2048, 4096, 1024]
    assert made.others == [
        {"change": "--data.batch-size 4096", "fits": False, "bytes": 40 * GIB},
        {"change": "--data.batch-size 1024", "fits": True, "bytes": 3 * GIB},
    ]


@pytest.mark.parametrize(("rows", "sizes"), [(256, [512, 128]), (300, [512, 256]), (1, [2])])
def test_the_next_powers_of_two(rows: int, sizes: list[int]) -> None:
    config = change(TrainConfig(), data={"batch_size": rows * CHIPS})
    assert [c.data.batch_size // CHIPS for _, c in plan.larger_and_smaller(config, CHIPS, RECORDS)] == sizes
    assert not plan.larger_and_smaller(change(config, data={"batch_size": CHIPS}), CHIPS, CHIPS)


def test_what_is_tried_where_a_step_does_not_fit(monkeypatch: pytest.MonkeyPatch) -> None:
    """40 of 16 GiB: a quarter, or an eighth."""
    requests = answer(monkeypatch, REFUSED, FITS, FITS, REFUSED, FITS, FITS)
    made = plan.make_plan(options())
    assert made.estimate is None and made.warnings == []
    assert len(requests) == 6 and all(request["quick"] for request in requests[1:])
    assert [(other["change"], other["fits"]) for other in made.others] == [
        ("--data.batch-size 512", True),
        ("--optim.micro-batches 4", True),
        ("--loss.block 512", False),
        ("--data.batch-size 256", True),
        ("--optim.micro-batches 8", True),
    ]


def test_warnings(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training takes 3.9 ms between validations, one of seven batches 23 ms. Loops over layers are no fault."""
    program = PROGRAM | {
        "copies": [
            {"shape": "s16[9,9]", "bytes": 300 * 2**20, "times": 2},
            {"shape": "s16[1,1]", "bytes": 200 * 2**20, "times": 1},
        ],
        "loops": {"256": 3, "12": 2},
        "collectives": {"collective-permute": {"number": 512, "bytes": 2**29}},
    }
    answer(monkeypatch, FITS | {"program": program})
    config = change(options().config, run={"validate_every": 0.001, "validation_records": 7 * BATCH - 1})
    lines = plan.make_plan(options(others=False, config=config)).warnings
    assert lines[0] == "copy of s16[9,9], 300 MiB, 2 time(s) a dispatch"
    assert lines[1].startswith("3 loop(s) over the examples, one turn for each of 256 rows")
    assert lines[2].startswith("512 permutes one after another")
    assert lines[3].startswith("a validation of 14,335 records takes about 0.02 s, longer than the 0.00 s of training")
    assert len(lines) == 4


def test_text_and_json(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """What the compiler reports and what is estimated are in sections of their own."""
    collectives = {"all-reduce": {"number": 37, "bytes": 3 * 2**20}}
    answer(monkeypatch, FITS | {"program": PROGRAM | {"collectives": collectives}}, REFUSED, FITS)
    path = tmp_path / "plan.json"
    main.main(["plan", "--topology", "v5e:2x4", "--data.batch-size", "2048", "--json", str(path)])
    text = capsys.readouterr().out
    reported, estimated = text.split("estimated from it")
    assert "jax 1.2, libtpu 3.4); nothing was run" in reported and "reported by the compiler (etp-jax " in reported
    assert "fits, 3.00 of 16.00 GiB a chip" in reported and "temporaries" in reported
    assert "all-reduce: 37 a step, 3.00 MiB" in reported
    assert "with --data.batch-size 4096: does not fit, 40.00 of 16.00 GiB" in reported
    assert "step: 10.0 to 40.0 ms" in estimated and "ECG/s: 51,200 to 204,800 in all" in estimated
    assert "each host's reader: 25,600 to 102,400 records/s" in estimated
    content = json.loads(path.read_text())
    assert (content["format"], content["recipe"], content["device"]) == (FORMAT, "mets", "TPU v5 lite")
    row = content["rows"][0]
    assert (row["batch_size"], row["devices"], row["memory"]["temp"], row["step_s"]) == (2048, 8, 2 * GIB, [])
    assert content["plan"]["estimate"]["step_s"]["low"] == pytest.approx(0.01)
    assert {field.name for field in fields(Report)} <= content.keys()


def test_the_text_of_a_refusal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    answer(monkeypatch, REFUSED, *[FITS] * 5)
    main.main(["plan", "--topology", "v5e:2x4", "--data.batch-size", "2048"])
    text = capsys.readouterr().out
    assert "does not fit, 40.00 of 16.00 GiB a chip" in text and "RESOURCE_EXHAUSTED: too much" in text
    assert "with --optim.micro-batches 4: fits, 3.00 of 16.00 GiB" in text and "estimated" not in text


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (
            ["--topology", "b200:1x1x8"],
            "--topology b200:1x1x8: name a TPU slice such as v5e:16x16, NVIDIA GPUs such as",
        ),
        (["--topology", "cpu:2", "--save", "step"], "a compiled step needs --run.parallel shard_map"),
        (["--topology", "cpu:2", "--save", "nowhere/step"], "nowhere/step: the folder nowhere does not exist"),
        (["--topology", "v5e:2x4", "--records", "0"], "--records is 0; it must be at least 1"),
        (["--topology", "v5e:2x4", "--price", "-1"], "--price and --clock-ghz must not be negative"),
        (["--topology", "v5e:2x4", "--loss.pairs", "x"], "loss.pairs is 'x'"),
    ],
)
def test_mistakes(argv: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert message in refusal(argv, capsys)


def refusal(argv: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The line with which the command ends."""
    with pytest.raises(SystemExit) as stop:
        main.main(["plan", *argv])
    error = capsys.readouterr().err
    assert stop.value.code == 2 and error.count("\n") == 1
    return error


def test_a_missing_compiler(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: None)
    assert "libtpu, which is not installed; `pip install 'jax[tpu]'`" in refusal(["--topology", "v5e:2x4"], capsys)


def test_a_compiler_that_aborts(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    done = subprocess.CompletedProcess([], -6, "noise\n", "first\nCheck failed: x\n\n")
    monkeypatch.setattr(topology.importlib.util, "find_spec", lambda _: True)
    monkeypatch.setattr(plan_compile.subprocess, "run", lambda *_, **__: done)
    assert "the compiler's process ended with status -6: Check failed: x" in refusal(["--topology", "v5e:2x4"], capsys)
