"""`etp export`: writes the encoder of a run to a small folder; prediction needs no training data or text tower."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from etp_jax import config as config_module
from etp_jax.encoder.calibration import calibrate, save_calibration, why_none
from etp_jax.encoder.card import write_card
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import (
    CALIBRATION_FILE,
    ONNX_FILE,
    PROMPTS_FILE,
    REFERENCE_FILE,
    check_free,
    save_encoder,
    save_prompts,
    save_reference,
    seal,
)
from etp_jax.encoder.onnx import check_onnx, save_onnx
from etp_jax.errors import EtpError
from etp_jax.files import write_text
from etp_jax.paths import real
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import VALIDATION
from etp_jax.tasks import Task, check_prompts, check_vocabulary, get_task, load_task_file, prompt_sets, task_names
from etp_jax.tasks.task_file import task_text
from etp_jax.training import digest, run_folder

PROMPTS = "contrast"
"""Prompt set used for calibrated probabilities; it was chosen on fold 9."""
REFERENCES = 1000
"""Maximum number of ECGs whose embeddings are exported, to rank a similarity among; 0.26 MB for 128 dimensions."""
TASKS_FOLDER = "tasks"
"""Subfolder of an exported encoder that holds the user's own tasks."""


def export(
    run: Path,
    out: Path,
    checkpoint: Literal["best", "latest"] | int = "best",
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    shards: Path | None = None,
    prompts: str = PROMPTS,
    onnx: bool = False,
    tasks: Sequence[str] = (),
    text_tower: str | None = None,
) -> str:
    """Exports an encoder to the folder format of `etp_jax.encoder.folder`; returns a summary.

    Args:
      run: run folder.
      out: folder to write; an earlier export there is replaced.
      checkpoint: checkpoint to export; a number is its step.
      dtype: data type of the weights.
      shards: if given, probabilities are calibrated on their validation split.
      prompts: prompt set whose scores are calibrated.
      onnx: also write the ECG encoder, with the same weights, as `encoder.onnx`.
      tasks: paths of a user's own task files. Their prompts are embedded and calibrated too; the files are copied.
      text_tower: see `Encoder.from_run`.

    Raises:
      EtpError: there is no run; `out` is the run folder or holds something else; the shards do not fit the encoder or
        have no label of a user's task; a task is invalid or has no prompts; or see `check_onnx`.
    """
    if real(out) == real(run):
        raise EtpError(f"{out}: is the folder to be exported; name another folder as --out")
    own = _own_tasks(tasks, prompts, None if shards is None else Shards(shards))
    encoder = Encoder.from_run(run, checkpoint, text_tower)
    if own or shards is not None:
        encoder.check_reads_text()
    if shards is not None:  # before an earlier export is replaced
        encoder.check_signals(Shards(shards))
        Shards(shards).split(VALIDATION)
    if onnx:
        check_onnx(encoder)
    check_free(out)
    texts, embeddings_PE = _prompts(encoder, [task.file for task in own])
    out.mkdir(parents=True, exist_ok=True)
    digest.forget(out)
    for name in (PROMPTS_FILE, CALIBRATION_FILE, REFERENCE_FILE, ONNX_FILE):
        (out / name).unlink(missing_ok=True)
    shutil.rmtree(out / TASKS_FOLDER, ignore_errors=True)
    for name in (run_folder.TEXT_FILE, run_folder.SHARDS_FILE):
        shutil.copyfile(run / name, out / name)
    # Paths of the training machine are not valid on another one.
    bare = replace(encoder.config, data=replace(encoder.config.data, shards=""), start_from="")
    config_module.save(bare, out / run_folder.CONFIG_FILE)
    save_encoder(out, encoder.variables, encoder.step, dtype)
    for task in own:
        (out / TASKS_FOLDER).mkdir(exist_ok=True)
        write_text(out / TASKS_FOLDER / f"{task.name}.json", task_text(load_task_file(task.file).content))
    if texts:
        save_prompts(out, texts, embeddings_PE)
    write_card(out, encoder)
    if onnx:
        save_onnx(out, Encoder.from_run(out))
    size = sum(file.stat().st_size for file in out.iterdir())
    probabilities = "no probabilities: name --shards to calibrate them"
    if shards is not None:
        exported = Encoder.from_run(out)
        calibration = calibrate(exported, Shards(shards), prompts, [task.file for task in own])
        save_calibration(out, calibration)
        save_reference(out, reference(exported, Shards(shards)))
        count = sum(map(len, calibration.tasks.values()))
        probabilities = f"probabilities of {count} classes, {calibration.fitted_on}"
        for task in (task for task in own if task.name not in calibration.tasks):
            probabilities += f"; none of {task.name}: {why_none(task)}"
    seal(out)
    return f"encoder of {run} (step {encoder.step}) as {dtype}, {size / 1e6:.1f} MB; {probabilities}\nwrote {out}"


def reference(encoder: Encoder, shards: Shards) -> NDArray[np.float32]:
    """Computes unit embeddings [R, E] of `REFERENCES` records of the validation split, or all, in random order."""
    embeddings_NE = encoder.ecg(shards.split(VALIDATION))[1]
    return embeddings_NE[np.random.default_rng(0).permutation(len(embeddings_NE))[:REFERENCES]]


def _prompts(encoder: Encoder, own: Sequence[str]) -> tuple[list[tuple[str, bool]], NDArray[np.float32]]:
    """Returns the prompts and their unit embeddings [P, E]; none for an encoder without a text tower."""
    texts = all_prompts(own) if encoder.reads_text else []
    parts = [encoder.text([text for text, whole in texts if whole is kind], kind) for kind in (False, True) if texts]
    return texts, np.concatenate(parts) if parts else np.empty((0, 0), np.float32)


def all_prompts(own: Sequence[str] = ()) -> list[tuple[str, bool]]:
    """Lists the prompts to embed, each once, with a flag: the text tower reads it as is. These come last.

    Args:
      own: paths of a user's own tasks, in addition to the shipped ones.
    """
    tasks = [get_task(name, prompts) for name in (*task_names(), *own) for prompts in prompt_sets(name)]
    pairs = {(text, t.whole_prompts) for t in tasks for c in t.classes for text in (*c.prompts, *t.against)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))


def own_tasks(folder: Path) -> list[str]:
    """Names of the user's own tasks that were exported with an encoder."""
    return sorted(file.stem for file in (folder / TASKS_FOLDER).glob("*.json"))


def exported_task(folder: Path, name: str) -> str:
    """Returns the path of a user's own task that was exported with an encoder; other names are returned unchanged."""
    file = folder / TASKS_FOLDER / f"{name}.json"
    return str(file) if file.exists() else name


def _own_tasks(names: Sequence[str], prompts: str, shards: Shards | None) -> list[Task]:
    """Selects the user's own tasks from some names, and checks them."""
    own = [task for task in (get_task(name, prompts) for name in dict.fromkeys(names)) if task.file]
    for task in own:
        check_prompts(task)
        if shards is not None:
            check_vocabulary(task, shards.label_vocabulary, str(shards.folder))
    twice = next((a for a in own for b in own if a is not b and a.name == b.name), None)
    if twice is not None:
        raise EtpError(f"{twice.file}: two tasks are named {twice.name!r}; rename one")
    return own
