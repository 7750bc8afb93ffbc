"""Tests of checkpoints: which are kept, what is restored, and the errors for damaged or incompatible ones."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from etp_jax.errors import EtpError
from etp_jax.training import digest
from etp_jax.training.checkpoint import Checkpoints, damaged, restore_params, set_aside_damaged
from etp_jax.training.step import TrainState


def make_state(value: float, ema: bool = False) -> TrainState:
    """A state whose parameters are all `value`, its moving average 10 more."""
    params: Any = {"ecg_tower": {"kernel": jnp.full((64, 128), value)}, "logit_scale": jnp.float32(value)}
    return TrainState(
        step=jnp.int32(value),
        params=params,
        batch_stats={"ecg_tower": {"mean": jnp.full(3, value)}},
        opt_state=optax.adam(1e-3).init(cast(Any, {**params, "fixed": None})),
        ema=jax.tree.map(lambda x: x + 10, params) if ema else None,
    )


def save_all(run_dir: Path, losses: dict[int, float | None], best: Any = "loss", keep: int = 1) -> Checkpoints:
    checkpoints = Checkpoints(run_dir, best, keep)
    for step, loss in losses.items():
        metrics = None if loss is None else {"loss": loss, "recall": 1 - loss}
        checkpoints.save(step, make_state(step), {"step": step}, metrics)
    checkpoints.wait()
    return checkpoints


@pytest.mark.parametrize("best", ["loss", "recall"])
def test_the_newest_and_the_best_are_kept(tmp_path: Path, best: Any) -> None:
    save_all(tmp_path, {1: 0.5, 2: 0.2, 3: 0.4, 4: None, 5: 0.3, 6: None}, best)
    checkpoints = Checkpoints(tmp_path, best)
    assert checkpoints.steps() == [2, 6]
    assert (checkpoints.find("best"), checkpoints.find("latest"), checkpoints.find(6), checkpoints.find(5)) == (
        2,
        6,
        6,
        None,
    )
    assert restore_params(tmp_path, "best", best)[2] == 2


def test_the_newest_three_are_kept_by_default(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, "loss") as checkpoints:
        for step in range(1, 7):
            checkpoints.save(step, make_state(step), {}, {"loss": float(step), "recall": 0.5})
    assert checkpoints.steps() == [1, 4, 5, 6]


def test_falling_quality_does_not_delete_the_newest(tmp_path: Path) -> None:
    assert save_all(tmp_path, {1: 0.1, 2: 0.2, 3: 0.3}).steps() == [1, 3]


def test_the_newest_stands_in_for_the_best_before_any_validation(tmp_path: Path) -> None:
    assert save_all(tmp_path, {1: None, 2: None}).find("best") == 2


def test_a_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    checkpoints = save_all(tmp_path, {3: 0.5})
    restored = checkpoints.restore(3, make_state(0))
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(3))
    assert jax.tree.structure(restored) == jax.tree.structure(make_state(3))
    assert checkpoints.meta(3) == {"step": 3}


def test_a_state_may_be_donated_while_it_is_saved(tmp_path: Path) -> None:
    step = jax.jit(lambda tree: jax.tree.map(lambda x: x + 1, tree), donate_argnums=0)
    checkpoints, state = Checkpoints(tmp_path, "loss"), make_state(5)
    jax.block_until_ready(state)
    checkpoints.save(5, state, {})
    for _ in range(20):
        state = jax.block_until_ready(step(state))
    checkpoints.wait()
    restored = checkpoints.restore(5, state)
    jax.tree.map(np.testing.assert_array_equal, restored, make_state(5))


def test_evaluation_gets_the_moving_average(tmp_path: Path) -> None:
    with Checkpoints(tmp_path, "loss") as checkpoints:
        checkpoints.save(1, make_state(1, ema=True), {})
    params, batch_stats, step = restore_params(tmp_path)
    assert isinstance(params["logit_scale"], np.ndarray) and params["logit_scale"] == 11
    assert batch_stats["ecg_tower"]["mean"].tolist() == [1, 1, 1] and step == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ecg_tower": {"kernel": jnp.ones((64, 2))}}, r"ecg_tower/kernel has shape \(64, 128\).*\(64, 2\)"),
        ({"more": jnp.ones(2)}, r"more has shape none, this run needs \(2,\)"),
    ],
)
def test_a_checkpoint_of_another_shape_is_named(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    checkpoints, like = save_all(tmp_path, {3: None}), cast(Any, make_state(0))
    with pytest.raises(EtpError, match=message):
        checkpoints.restore(3, like.replace(params={**like.params, **change}))


@pytest.mark.parametrize("lost", ["state/d", "state/manifest.ocdbt", "state/_METADATA", "state"])
def test_a_damaged_checkpoint_is_named(tmp_path: Path, lost: str) -> None:
    save_all(tmp_path, {3: None})
    path = tmp_path / "checkpoints/3" / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(EtpError, match=r"checkpoints/3: the checkpoint cannot be read .*damaged"):
        Checkpoints(tmp_path, "loss").restore(3, make_state(0))
    with pytest.raises(EtpError, match=rf"checkpoints/3: the checkpoint is damaged \({lost}.* is missing"):
        restore_params(tmp_path)


def test_a_cut_array_of_an_earlier_version_is_noticed(tmp_path: Path) -> None:
    save_all(tmp_path, {3: None})
    (tmp_path / "checkpoints/3" / digest.FILE).unlink()
    for path in (tmp_path / "checkpoints/3/state").rglob("d/*"):
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(EtpError, match="cannot be read"):
        Checkpoints(tmp_path, "loss").restore(3, make_state(0))


def files_of(checkpoint: Path) -> list[Path]:
    return [path for path in checkpoint.rglob("*") if path.is_file() and path.name not in digest.STAMPS]


def test_every_flipped_bit_cut_and_lost_file_is_found(tmp_path: Path) -> None:
    save_all(tmp_path, {3: 0.5})
    folder = tmp_path / "checkpoints"
    assert damaged(folder) == {}
    for path in files_of(folder / "3"):
        content = path.read_bytes()
        for place in {0, len(content) // 2, len(content) - 1}:
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            assert damaged(folder).keys() == {3}, path
        path.write_bytes(content[:-1])
        assert damaged(folder).keys() == {3}, path
        path.write_bytes(content)
    array = max(files_of(folder / "3" / "state"), key=lambda path: path.stat().st_size)
    array.unlink()
    assert damaged(folder) == {3: f"{array.relative_to(folder / '3')} is missing"}


def test_what_the_digest_leaves_out_changes_nothing(tmp_path: Path) -> None:
    save_all(tmp_path, {3: 0.5})
    params, batch_stats, _ = restore_params(tmp_path)
    for name in digest.STAMPS:
        (tmp_path / "checkpoints/3" / name).write_bytes(b"\xff")
    again = restore_params(tmp_path)
    jax.tree.map(np.testing.assert_array_equal, (params, batch_stats), again[:2])


def test_a_number_that_orbax_cannot_convert_is_one_line(tmp_path: Path) -> None:
    save_all(tmp_path, {1: 0.5}).__exit__()
    file = tmp_path / "checkpoints/1/_CHECKPOINT_METADATA"
    text = file.read_text()
    content = json.loads(text)
    file.write_text(text.replace(str(content["commit_timestamp_nsecs"]), "9" * 400))
    with pytest.raises(EtpError, match=r"cannot be opened \(int too large.*_CHECKPOINT_METADATA in it can be deleted$"):
        restore_params(tmp_path)
    file.unlink()
    assert restore_params(tmp_path)[2] == 1


def test_evaluation_refuses_a_damaged_checkpoint_and_names_sound_ones(tmp_path: Path) -> None:
    save_all(tmp_path, {1: 0.5, 2: 0.1, 3: 0.4}, keep=3)
    folder = tmp_path / "checkpoints"
    (folder / "2/state/manifest.ocdbt").write_bytes(b"")
    message = r"checkpoints/2: .*\(state/manifest.ocdbt was changed\); name a sound one with --checkpoint \(1, 3\)"
    for which in ("best", 2):
        with pytest.raises(EtpError, match=message):
            restore_params(tmp_path, which)
    assert restore_params(tmp_path, "latest")[2] == 3
    metrics = folder / "1/metrics/metrics"  # another loss would make another checkpoint the best
    metrics.write_text(metrics.read_text().replace("0.5", "0.0"))
    with pytest.raises(EtpError, match=r"checkpoints/1: .*\(metrics/metrics was changed\)"):
        restore_params(tmp_path, "best")
    metrics.write_text(metrics.read_text().replace("loss", "lost"))
    (folder / "1/digest.json").unlink()  # as an earlier version wrote it
    message = r"checkpoints: the checkpoint cannot be read \(lacks 'loss'\)"
    with Checkpoints(folder.parent, "loss", read_only=True) as checkpoints, pytest.raises(EtpError, match=message):
        checkpoints.find("best")


def test_damaged_checkpoints_are_set_aside_but_not_all(tmp_path: Path) -> None:
    save_all(tmp_path, {1: 0.5, 2: 0.1, 3: 0.4}, keep=3)
    folder = tmp_path / "checkpoints"
    assert set_aside_damaged(tmp_path) == []
    (folder / "3/meta/metadata").unlink()
    (folder / "2" / digest.FILE).unlink()  # killed before it was complete, as an older one has a digest
    lines = set_aside_damaged(tmp_path)
    assert [line.split(": ")[1] for line in lines] == [
        "the checkpoint is damaged (digest.json is missing); it is renamed to 2.damaged",
        "the checkpoint is damaged (meta/metadata is missing); it is renamed to 3.damaged",
    ]
    with Checkpoints(tmp_path, "loss") as checkpoints:
        assert checkpoints.steps() == [1] and checkpoints.find("best") == 1
        checkpoints.save(2, make_state(2), {}, None)
    (folder / "1/meta/metadata").unlink()
    (folder / "2" / digest.FILE).write_text("{}")
    with pytest.raises(EtpError, match=r"checkpoints/2: .*and there is no other; delete .*checkpoints to train from"):
        set_aside_damaged(tmp_path)
    assert {"1", "2", "2.damaged", "3.damaged"} == {path.name for path in folder.iterdir()}


def test_what_is_not_there_is_named_with_what_is(tmp_path: Path) -> None:
    with pytest.raises(EtpError, match="no run folder with checkpoints"):
        restore_params(tmp_path)
    save_all(tmp_path, {3: None})
    with pytest.raises(EtpError, match="no checkpoint 4; there are: 3"):
        restore_params(tmp_path, 4)


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    checkpoints = save_all(tmp_path, {1: None})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))  # the kernel refuses to write more into any one file
    try:
        with pytest.raises(EtpError, match=r"checkpoint.* of 98,\d\d\d bytes,? could not be saved") as error:
            checkpoints.save(2, make_state(2), {}, {"loss": 0.1, "recall": 0.5})
            checkpoints.wait()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert "\n" not in str(error.value) and "Traceback" not in capsys.readouterr().err
    reopened = Checkpoints(tmp_path, "loss", keep=1)
    assert reopened.steps() == [1]
    reopened.save(2, make_state(2), {})
    reopened.wait()
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["2"]  # the rest of the failed save is gone


FULL = """
import gc, resource, sys
from pathlib import Path
import jax.numpy as jnp
from etp_jax.errors import EtpError
from etp_jax.training.checkpoint import Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]), "loss")
state = {f"array {n}": jnp.full(1000, n) for n in range(100)}
resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    checkpoints.save(1, state, {})
    checkpoints.wait()
except EtpError as error:
    print(error)
gc.collect()
"""


def test_a_full_disk_is_told_once_though_a_hundred_arrays_fail(tmp_path: Path) -> None:
    """In a process of its own, since pytest takes what threads report."""
    env = {**os.environ, "JAX_ENABLE_COMPILATION_CACHE": "false"}  # which could not be written either
    done = subprocess.run([sys.executable, "-c", FULL, tmp_path], capture_output=True, text=True, check=True, env=env)
    assert done.stderr == "" and done.stdout.count("\n") == 1 and "400,000 bytes" in done.stdout
