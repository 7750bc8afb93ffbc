"""Tests of the run from the user's side: its folder, its metrics, and one line for each error."""

from __future__ import annotations

import fcntl
import json
import math
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from etp_jax import config as config_module
from etp_jax.config import LossConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.metrics.retrieval import retrieval, retrieval_ranks
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.shards.reader import Shards
from etp_jax.training import build, loop, resume
from etp_jax.training.checkpoint import Checkpoints
from etp_jax.training.log import MetricsLog, read_metrics
from etp_jax.training.loop import train
from etp_jax.training.parallel import Parallel
from etp_jax.training.progress import MOST_SKIPPED, Progress
from etp_jax.training.validation import Validation
from tests.helpers.tiny_run import change, final_state, tiny_config, write_shards
from tests.helpers.wandb_stand_in import StandIn


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> TrainConfig:
    folder = tmp_path_factory.mktemp("loop")
    return tiny_config(write_shards(folder / "shards"))


def wrap_steps(patch: pytest.MonkeyPatch, around: Callable[[Any, dict[str, Any]], dict[str, Any]]) -> None:
    """Has every training step's metrics pass through `around(state, metrics)`."""
    original = Parallel.wrap_train_step

    def wrap(self: Parallel, step: Any) -> Any:
        wrapped = original(self, step)

        def disturbed(*args: Any) -> Any:
            state, metrics = wrapped(*args)
            return state, around(state, metrics)

        disturbed.lower = wrapped.lower  # pyright: ignore[reportFunctionMemberAccess]
        return disturbed

    patch.setattr(Parallel, "wrap_train_step", wrap)


def test_a_run_leaves_its_folder_and_says_what_it_did(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "deep" / "run"
    config = change(config, run={"log_every": 5, "tensorboard": True, "wandb": "ecg"})
    wandb = StandIn()
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    train(config, run)
    said = capsys.readouterr().out
    assert "41 records (1 without a report left out), 5 distinct reports; 19 records validate" in said
    assert "15 steps: 3 epochs of 5, batch 8 on 1 x cpu of 1 host(s), float32, pmap" in said
    assert "ecg_projection 40 of 40" in said and "finished at step 15" in said
    assert re.search(
        r"\n  reports are read by WordPiece, \d+ pieces, lower-cased; .*% of \d distinct texts are cut at 16 tokens",
        said,
    )

    assert config_module.load(run / "config.json") == config
    assert json.loads((run / "shards.json").read_text())["fingerprint"] == Shards(config.data.shards).fingerprint
    text = json.loads((run / "text.json").read_text())
    assert (text["source"], text["frozen"], text["dim"]) == ("", False, 8)
    assert Tokenizer.from_file(run / "tokenizer.json").size == text["bert"]["vocab_size"]
    assert build.load_text(run, config).bert_config.hidden_size == 8
    assert list((run / "tensorboard").iterdir())

    lines = read_metrics(run)
    assert wandb.finished == 1 and wandb.logged == [
        {"step": line["step"]} | {f"{line['kind']}/{k}": v for k, v in line.items() if k not in ("kind", "step")}
        for line in lines
    ]
    trained = [line for line in lines if line["kind"] == "train"]
    assert [line["step"] for line in trained] == [5, 10, 15]
    assert [line["epoch"] for line in trained] == [1.0, 2.0, 3.0]
    names = {"loss", "ecg_to_text_recall_1", "text_to_ecg_recall_1", "logit_scale", "grad_norm", "learning_rate"}
    assert all(names | {"ecg_per_s", "wait_share"} <= line.keys() for line in trained)
    validated = [line for line in lines if line["kind"] == "validation"]
    assert [line["step"] for line in validated] == [5, 10, 15]
    with Checkpoints(run, "loss", read_only=True) as checkpoints:
        assert checkpoints.find("best") == min(validated, key=lambda line: line["loss"])["step"]


@pytest.mark.parametrize("name", ["loss", "grad_norm"])
def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    def spoil(state: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        return {**metrics, name: jnp.where(state.step == 6, jnp.nan, metrics[name])}

    wrap_steps(monkeypatch, spoil)
    with pytest.raises(EtpError, match=rf"{name} is nan at step 6; try --run.skip-nonfinite, a lower"):
        train(config, tmp_path)
    assert final_state(tmp_path)["['step']"] == 5
    assert max(line["step"] for line in read_metrics(tmp_path)) == 5


@pytest.mark.slow
def test_steps_that_are_not_finite_are_skipped_by_option(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def spoil(state: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        return {**metrics, "grad_norm": jnp.where(state.step == 6, jnp.inf, metrics["grad_norm"])}

    wrap_steps(monkeypatch, spoil)
    train(change(config, run={"skip_nonfinite": True}), tmp_path)
    assert "  warning: grad_norm is inf at step 6; the step is skipped" in capsys.readouterr().out
    lines = read_metrics(tmp_path)
    assert [line for line in lines if line["kind"] == "skipped"] == [{"kind": "skipped", "step": 6, "epoch": 1.2}]
    assert [line["step"] for line in lines if line["kind"] == "train"] == [*range(1, 6), *range(7, 16)]


def test_a_run_whose_steps_are_never_finite_stops(tmp_path: Path) -> None:
    config = change(TrainConfig(), run={"skip_nonfinite": True})
    metrics: Any = {"loss": np.array([math.nan]), "grad_norm": np.array([1.0])}
    with Progress(config, tmp_path, 0, 20, 5) as progress:
        for step in range(MOST_SKIPPED):
            progress.step(range(step, step + 1), metrics)
        progress.flush()
        progress.step(range(MOST_SKIPPED, MOST_SKIPPED + 1), metrics)
        with pytest.raises(EtpError, match=r"loss is nan at step 11; try a lower --optim.learning-rate"):
            progress.flush()


def test_a_loss_of_nothing_is_shown_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics: Any = {"loss": np.array([0.0]), "grad_norm": np.array([0.0])}
    with Progress(TrainConfig(), tmp_path, 0, 20, 5) as progress:
        for step in range(3):
            progress.step(range(step, step + 1), metrics)
        progress.flush()
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if "warning" in line]
    assert warning.startswith("  warning: the loss is 0 at step 1, so there is nothing to learn")


@pytest.mark.parametrize(
    ("numbers", "held_out", "expected"),
    [
        ([0, 0, 0], 11, ["all training records have the same report"]),
        ([0, 1, 0], 1, ["1 records validate, so recall@10 is always 1"]),
        ([0, 1, 0], 11, []),
    ],
)
def test_data_that_teach_or_measure_nothing(numbers: list[int], held_out: int, expected: list[str]) -> None:
    batches = SimpleNamespace(reports=SimpleNamespace(number=np.array(numbers)), paired=np.arange(3))
    data: Any = SimpleNamespace(batches=batches, held_out_reports=SimpleNamespace(paired=range(held_out)))
    warnings = loop._warnings(data)
    assert len(warnings) == len(expected) and all(map(str.startswith, warnings, expected))


def test_an_error_in_a_step_keeps_the_save_under_way(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(state: Any, metrics: dict[str, Any]) -> dict[str, Any]:
        if state.step == 4:
            raise RuntimeError("a device fails")
        return metrics

    wrap_steps(monkeypatch, fail)
    with pytest.raises(RuntimeError, match="a device fails"):
        train(config, tmp_path)
    assert final_state(tmp_path)["['step']"] == 3


def test_one_line_for_a_folder_that_cannot_be_written(config: TrainConfig, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(EtpError, match=r"file.*: Not a directory; name a --workdir that can be written"):
        train(config, tmp_path / "file" / "run")


def test_a_second_run_keeps_out_of_the_folder(config: TrainConfig, tmp_path: Path) -> None:
    with (tmp_path / ".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        with pytest.raises(EtpError, match="another process trains in this run folder"):
            train(config, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".lock"]


def test_advice_on_the_run_folder_is_for_what_lies_in_it(tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"none: No such file or directory$"), loop._user_errors(tmp_path / "run"):
        (tmp_path / "none").read_bytes()


def test_one_line_for_a_run_without_shards(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"data.shards: name a shard folder"):
        train(change(config, data={"shards": ""}), tmp_path)


@pytest.mark.parametrize("name", ["log_every", "validate_every", "checkpoint_every", "keep"])
def test_one_line_for_an_interval_of_nothing(config: TrainConfig, tmp_path: Path, name: str) -> None:
    with pytest.raises(EtpError, match=rf"run.{name} is 0; it must be more than 0"):
        train(change(config, run={name: 0}), tmp_path)


@pytest.mark.parametrize(
    ("ecg", "said"),
    [
        ({"width": 0}, "model.ecg.width is 0; it must be at least 1"),
        ({"drop_path": 1.0}, "model.ecg.drop_path is 1.0; it must be at least 0 and below 1"),
    ],
)
def test_one_line_for_a_model_that_cannot_be(config: TrainConfig, tmp_path: Path, ecg: Any, said: str) -> None:
    with pytest.raises(EtpError, match=said):
        train(replace(config, model=replace(config.model, ecg=replace(config.model.ecg, **ecg))), tmp_path)


def test_a_run_goes_on_with_its_own_tokenizer_only(tmp_path: Path) -> None:
    config = config_module.to_dict(TrainConfig())
    one, other = ({"config": config, "fingerprint": "", "text_sha256": "", "tokenizer_sha256": n} for n in "12")
    with pytest.raises(EtpError, match="the tokenizer of the text tower was 1 in this run, 2 is asked for"):
        resume.check_same(tmp_path, one, other, extend=False)
    older = {key: value for key, value in one.items() if key != "tokenizer_sha256"}
    resume.check_same(tmp_path, older, other, extend=False)


def test_nobody_reads_what_a_run_says(config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(_: str) -> None:
        raise BrokenPipeError

    monkeypatch.setattr(loop, "_say", closed)
    with pytest.raises(BrokenPipeError):
        train(config, tmp_path)


@pytest.mark.parametrize(("option", "package"), [({"tensorboard": True}, "tensorboardX"), ({"wandb": "ecg"}, "wandb")])
def test_one_line_for_a_missing_board(
    config: TrainConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, option: dict[str, Any], package: str
) -> None:
    """Before the shards are read."""
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EtpError, match=rf"{package} is missing; `pip install 'etp-jax\[{next(iter(option))}\]'`"):
        train(change(config, data={"shards": "nowhere"}, run=option), tmp_path)


def test_one_line_for_semantic_pairs_from_scratch(config: TrainConfig, tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"loss.semantic_from = tower needs one with weights"):
        train(change(config, loss={"pairs": "semantic"}), tmp_path)


def test_foreign_metrics_are_not_overwritten(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("loss,step\n1,2\n")
    with pytest.raises(EtpError, match=r"metrics.jsonl: not written by `etp train`"):
        MetricsLog(tmp_path, 0)
    assert (tmp_path / "metrics.jsonl").read_text() == "loss,step\n1,2\n"


def test_retrieval_equals_sorting_by_hand() -> None:
    rng = np.random.default_rng(0)
    count = 30
    ecg, text = rng.standard_normal((2, count, 4))
    report = rng.integers(0, 12, count)
    text = text[report]  # equal reports have equal embeddings
    ranks: dict[str, list[int]] = {"ecg_to_text": [], "text_to_ecg": []}
    for name, queries, keys in (("ecg_to_text", ecg, text), ("text_to_ecg", text, ecg)):
        for i in range(count):
            order = sorted(range(count), key=lambda j: (-float(queries[i] @ keys[j]), report[j] != report[i]))
            ranks[name].append(1 + next(place for place, j in enumerate(order) if report[j] == report[i]))
    result, ours = retrieval(ecg, text, report), retrieval_ranks(ecg, text, report, block=7)
    for name, values in ranks.items():
        np.testing.assert_array_equal(ours[name], values)
        assert result[f"{name}_median_rank"] == np.median(values)
        for k in (1, 5, 10):
            assert result[f"{name}_recall_{k}"] == pytest.approx(np.mean(np.array(values) <= k), abs=1e-15)
    assert result["recall"] == (result["ecg_to_text_recall_10"] + result["text_to_ecg_recall_10"]) / 2


def test_collapsed_embeddings_gain_nothing() -> None:
    same = np.ones((40, 3))
    result = retrieval(same, same, np.arange(40))
    assert result["ecg_to_text_recall_10"] == 0 and result["ecg_to_text_median_rank"] == 1 + 39 / 2


GUESS = {"loss": math.log(8) * 1.005, "ecg_mean_cosine": 0.5, "text_mean_cosine": 0.5}


@pytest.mark.parametrize(
    ("scores", "expected"),
    [
        ({"loss": 1.0}, ""),
        ({}, "the validation loss is 2.090, that of a guess (ln 8); lower"),
        ({"loss": math.log(8) * 0.8}, ""),
        ({"ecg_mean_cosine": 0.995}, "different ECGs have nearly equal embeddings"),
        ({"text_mean_cosine": 0.995}, "different reports have nearly equal embeddings"),
    ],
    ids=["learns", "guesses", "better", "ecg", "text"],
)
def test_what_shows_that_nothing_is_learned(scores: dict[str, float], expected: str) -> None:
    validation: Any = SimpleNamespace(_batch=8, _records=range(20), _loss=LossConfig())
    warning = Validation.warning(validation, GUESS | scores)
    assert expected in warning and bool(warning) == bool(expected)


@pytest.mark.slow
def test_a_run_that_learns_nothing_is_shown_once(
    config: TrainConfig, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Validation.__call__

    def scored(self: Validation, state: Any) -> dict[str, float]:
        found = original(self, state)
        assert -1 <= found["ecg_mean_cosine"] <= 1 and -1 <= found["text_mean_cosine"] <= 1
        return found | GUESS

    monkeypatch.setattr(Validation, "__call__", scored)
    train(config, tmp_path)
    (warning,) = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  warning: ")]
    assert "that of a guess" in warning
