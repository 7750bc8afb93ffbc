"""Tests that a killed, stopped or extended run ends like an uninterrupted one, and that other options are refused."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest

from etp_jax import config as config_module
from etp_jax.config import TrainConfig, ViTConfig
from etp_jax.errors import EtpError
from etp_jax.training.checkpoint import Checkpoints
from etp_jax.training.log import FILE
from etp_jax.training.loop import train
from etp_jax.training.progress import Progress
from etp_jax.training.resume import check_same
from tests.helpers.tiny_run import change, final_state, learned_lines, start, tiny_config, write_shards

STEPS = 15


class Reference(NamedTuple):
    config: TrainConfig
    folder: Path
    run: Path


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Reference:
    """A finished run that nothing disturbed."""
    folder = tmp_path_factory.mktemp("resume")
    config = change(tiny_config(write_shards(folder / "shards", restored=True)), data={"restored_share": 0.5})
    train(config, folder / "reference")
    return Reference(config, folder, folder / "reference")


def assert_same_run(run: Path, reference: Path) -> None:
    ours, theirs = final_state(run), final_state(reference)
    assert ours.keys() == theirs.keys() and ours["['step']"] == STEPS
    for name, value in theirs.items():
        np.testing.assert_array_equal(ours[name], value, err_msg=name)
    assert learned_lines(run) == learned_lines(reference)


@pytest.mark.slow
def test_killed_runs_end_with_the_same_bits(reference: Reference) -> None:
    in_save, anywhere = reference.folder / "killed-in-save", reference.folder / "killed-anywhere"
    processes = [start(reference.config, in_save, 2), start(reference.config, anywhere)]
    while not (anywhere / FILE).exists() and processes[1].poll() is None:
        time.sleep(0.05)
    time.sleep(random.random() * 2)
    processes[1].kill()
    for process in processes:
        process.communicate()
    assert processes[0].returncode == -signal.SIGKILL
    steps = [path.name for path in (in_save / "checkpoints").iterdir()]
    assert ("3" in steps and any("5.orbax-checkpoint-tmp" in name for name in steps)) or "5" in steps

    for run in (in_save, anywhere):
        train(reference.config, run)
        assert_same_run(run, reference.run)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(
    reference: Reference, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run, step = reference.folder / "stopped", Progress.step

    def disturbed(self: Progress, steps: range, metrics: Any) -> None:
        step(self, steps, metrics)
        if steps.stop == 7:
            signal.raise_signal(signal.SIGTERM)
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", disturbed)
        with pytest.raises(SystemExit) as stopped:
            train(reference.config, run)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    output = capsys.readouterr()
    assert "SIGTERM: this step is finished and saved first" in output.err and "SIGTERM: already stopping" in output.err
    assert "stopped by SIGTERM at step 7" in output.out
    assert final_state(run)["['step']"] == 7

    with (run / FILE).open("a") as file:  # what a run killed after its last checkpoint leaves
        file.write(json.dumps({"kind": "train", "step": 8, "loss": 0.0}) + '\n{"kind": "tr')
    train(reference.config, run)
    assert_same_run(run, reference.run)


@pytest.mark.slow
def test_resident_records_and_dispatches_of_several_steps(
    reference: Reference, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Resident, a run has the same bits; several steps a dispatch, those of a run that was stopped and went on so."""
    resident = change(reference.config, data={"resident": "always"})
    train(resident, reference.folder / "resident")
    assert "resident, 41 records (0.1 MiB) a device; 1 step(s) a dispatch" in capsys.readouterr().out
    assert_same_run(reference.folder / "resident", reference.run)
    train(change(reference.config, data={"resident": "sharded"}), reference.folder / "sharded")
    assert "resident, 41 records sharded over 1 devices (0.1 MiB a device); 1 step(s)" in capsys.readouterr().out
    assert_same_run(reference.folder / "sharded", reference.run)

    several = change(resident, run={"steps_per_dispatch": 2})
    train(several, reference.folder / "several")
    dispatched, step = [], Progress.step

    def disturbed(self: Progress, steps: range, metrics: Any) -> None:
        step(self, steps, metrics)
        dispatched.append(steps)
        if steps.stop == 8:
            signal.raise_signal(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(Progress, "step", disturbed)
        with pytest.raises(SystemExit):
            train(several, reference.folder / "several-stopped")
        assert final_state(reference.folder / "several-stopped")["['step']"] == 8
        train(several, reference.folder / "several-stopped")
    # Validated after 5, 10 and 15 updates, saved after 3, 6, 9 and 12 too.
    ends = [2, 3, 5, 6, 8, 9, 10, 12, 14, 15]
    assert [steps.stop for steps in dispatched] == ends
    assert_same_run(reference.folder / "several-stopped", reference.folder / "several")


def test_a_finished_run_is_left_alone(reference: Reference, capsys: pytest.CaptureFixture[str]) -> None:
    def contents() -> dict[Path, bytes]:
        return {path: path.read_bytes() for path in reference.run.rglob("*") if path.is_file()}

    before = contents()
    train(reference.config, reference.run)
    assert "this run is finished (15 steps)" in capsys.readouterr().out
    assert contents() == before


@pytest.mark.slow
def test_extend_goes_on_with_a_longer_schedule(reference: Reference) -> None:
    run = reference.folder / "extended"
    shutil.copytree(reference.run, run)
    longer = change(reference.config, optim={"epochs": 4})
    with pytest.raises(EtpError, match=r"--optim.epochs was 3 in this run, 4 is asked for; add --extend"):
        train(longer, run)
    train(longer, run, extend=True)
    lines = learned_lines(run)
    assert lines[: len(learned_lines(reference.run))] == learned_lines(reference.run)
    rates = [line["learning_rate"] for line in lines if line["kind"] == "train"]
    assert len(rates) == 20 and rates[15] > rates[14] and final_state(run)["['step']"] == 20
    with pytest.raises(EtpError, match=r"--optim.epochs was 4.* in this run, 3 is asked for"):
        train(reference.config, run)


def test_a_damaged_newest_checkpoint_is_replaced_from_the_one_before(
    reference: Reference, capsys: pytest.CaptureFixture[str]
) -> None:
    run = reference.folder / "damaged"
    shutil.copytree(reference.run, run)
    array = max((run / "checkpoints/15/state").rglob("d/*"), key=lambda path: path.stat().st_size)
    array.write_bytes(array.read_bytes()[:-7])
    log = (run / FILE).read_text().splitlines(keepends=True)
    (run / FILE).write_text("".join(log[2:]))
    train(reference.config, run)
    output = capsys.readouterr()
    (line,) = [line for line in output.out.splitlines() if "is damaged (" in line]
    assert "checkpoints/15: the checkpoint is damaged (state/" in line and "renamed to 15.damaged" in line
    assert "resuming at step 12" in output.out and "Traceback" not in output.err
    assert "metrics.jsonl: lacks 2 of the 14 lines up to step 12; its curves have a gap" in output.out
    (run / FILE).write_text("".join(log[:2]) + (run / FILE).read_text())
    assert_same_run(run, reference.run)


@pytest.mark.parametrize(
    "saved",
    [
        {},
        [],
        {"config": {}, "fingerprint": 1},
    ],
)
def test_metadata_of_another_form_are_refused(tmp_path: Path, saved: Any) -> None:
    current = {"config": config_module.to_dict(tiny_config(tmp_path)), "fingerprint": "", "text_sha256": ""}
    with pytest.raises(EtpError, match=r"metadata have no '(config|fingerprint)'.*name another --workdir"):
        check_same(tmp_path, saved, current, extend=False)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optim": {"epochs": "x"}}, "optim: epochs is 'x'; it has another type"),
        ({"model": 3}, "is not a training config"),
    ],
)
def test_a_config_of_another_form_is_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    config = change(tiny_config(tmp_path), optim={"epochs": 3.0})
    current = {"config": config_module.to_dict(config), "fingerprint": "", "text_sha256": ""}
    changed = {
        name: {**current["config"][name], **value} if isinstance(value, dict) else value
        for name, value in options.items()
    }
    saved = {**current, "config": {**current["config"], **changed}}
    with pytest.raises(EtpError, match=message):
        check_same(tmp_path, saved, current, extend=False)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"data": {"batch_size": 16}}, "--data.batch-size was 8 in this run, 16 is asked for"),
        ({"data": {"restored_share": 1.0}}, "--data.restored-share was 0.5 in this run, 1.0 is asked for"),
        ({"seed": 1}, "--seed was 0 in this run, 1 is asked for"),
        ({"augment": {"few_leads": 0.0}}, "--augment.few-leads was 0.2 in this run, 0.0"),
        ({"loss": {"pairs": "equal-masked"}}, "--loss.pairs was own in this run, equal-masked"),
        ({"optim": {"learning_rate": 1.0}}, "--optim.learning-rate was 0.001 in this run, 1.0"),
        ({"optim": {"epochs": 2.0}}, "--optim.epochs was 3 in this run, 2.0 is asked for; use the same"),
        ({"model": {"embedding_dim": 4}}, "--model.embedding-dim was 8 in this run, 4"),
    ],
)
def test_other_options_are_refused(reference: Reference, asked: dict[str, Any], message: str) -> None:
    before = (reference.run / "config.json").read_bytes()
    with pytest.raises(EtpError, match=message):
        train(change(reference.config, **asked), reference.run, extend=True)
    assert (reference.run / "config.json").read_bytes() == before


def test_other_data_and_another_text_tower_are_refused(reference: Reference) -> None:
    other = write_shards(reference.folder / "other", seed=1, restored=True)
    with pytest.raises(EtpError, match=r"the fingerprint of --data.shards .*other was"):
        train(change(reference.config, data={"shards": str(other)}), reference.run)
    with Checkpoints(reference.run, "loss", read_only=True) as checkpoints:
        saved = checkpoints.meta(STEPS)
    with pytest.raises(EtpError, match=r"SHA-256 of --model.text.pretrained None was abc in this run,  is asked"):
        check_same(reference.run, {**saved, "text_sha256": "abc"}, saved, extend=False)


def test_what_does_not_change_the_result_may_differ(reference: Reference) -> None:
    run = {"parallel": "shard_map", "log_every": 7, "validate_every": 0.5, "checkpoint_every": 9, "best": "recall"}
    run["steps_per_dispatch"] = 2
    moved = reference.folder / "moved"
    shutil.copytree(reference.config.data.shards, moved)
    data = {"shards": str(moved), "resident": "always"}
    train(change(reference.config, run=run, data=data), reference.run)


@pytest.mark.parametrize(
    ("before", "now", "message"),
    [
        (4, 6, r"--max-steps was 4 in this run, 6 is asked for; add --extend"),
        (4, 0, r"--max-steps was 4 in this run, 0 is asked for; add --extend"),
        (4, 2, r"--max-steps was 4 in this run, 2 is asked for; use the same"),
        (0, 4, r"--max-steps was 0 in this run, 4 is asked for; use the same"),
    ],
)
def test_a_maximum_of_steps_only_grows_and_by_extend(before: int, now: int, message: str, tmp_path: Path) -> None:
    def run(max_steps: int) -> dict[str, Any]:
        config = config_module.to_dict(change(tiny_config(tmp_path), optim={"max_steps": max_steps}))
        return {"config": config, "fingerprint": "", "text_sha256": ""}

    with pytest.raises(EtpError, match=message):
        check_same(tmp_path, run(before), run(now), extend=False)
    if "--extend" in message:
        check_same(tmp_path, run(before), run(now), extend=True)
    check_same(tmp_path, run(before), run(before), extend=False)


def test_a_run_of_version_0_1_may_go_on(tmp_path: Path) -> None:
    config = tiny_config(tmp_path)
    current = {"config": config_module.to_dict(config), "fingerprint": "", "text_sha256": ""}
    older = json.loads(json.dumps(current))
    older["config"]["data"] |= {"train_split": "train", "prefetch": 2}
    older["config"]["model"]["ecg"] |= {"patch": 100, "vit_width": 192, "vit_layers": 12, "vit_heads": 3}
    del older["config"]["optim"]["max_steps"]
    check_same(tmp_path, older, current, extend=False)
    vit = change(config, model={"ecg": ViTConfig()})
    with pytest.raises(EtpError, match=r"--model.ecg.kind was resnet in this run, vit is asked for"):
        check_same(tmp_path, older, {**current, "config": config_module.to_dict(vit)}, extend=False)


def test_an_older_config_takes_the_defaults_of_new_options(reference: Reference) -> None:
    current = {"config": config_module.to_dict(reference.config), "fingerprint": "", "text_sha256": ""}
    older = {**current, "config": {**current["config"], "loss": {}}}
    check_same(reference.run, older, current, extend=False)
