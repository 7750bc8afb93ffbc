"""`etp export`: the encoder of a run in a small folder, ready for prediction without training data or text tower."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from etp_jax import config as config_module
from etp_jax.encoder.calibration import calibrate, save_calibration
from etp_jax.encoder.card import write_card
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import CALIBRATION_FILE, ONNX_FILE, check_free, save_encoder, save_prompts
from etp_jax.encoder.onnx import save_onnx
from etp_jax.errors import EtpError
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task, prompt_sets, task_names
from etp_jax.training import run_folder

PROMPTS = "contrast"
"""Prompt set of the probabilities: the one that was chosen on fold 9."""


def export(
    run: Path,
    out: Path,
    checkpoint: Literal["best", "latest"] | int = "best",
    dtype: Literal["bfloat16", "float32"] = "bfloat16",
    shards: Path | None = None,
    prompts: str = PROMPTS,
    onnx: bool = False,
) -> str:
    """Writes the folder that `encoder_file` describes; returns the summary.

    Args:
      run: run folder.
      out: where to; an earlier export there is replaced.
      checkpoint: which one; a number is its step.
      dtype: of the weights.
      shards: if given, probabilities are calibrated on their validation split.
      prompts: the prompt set that is calibrated.
      onnx: also write the ECG encoder, with the same weights, as `encoder.onnx`.

    Raises:
      EtpError: no run, `out` is it or holds something else, shards that do not fit the encoder, or see `save_onnx`.
    """
    if out.resolve() == run.resolve():
        raise EtpError(f"{out}: is what would be exported; name another folder as --out")
    encoder = Encoder.from_run(run, checkpoint)
    check_free(out)
    out.mkdir(parents=True, exist_ok=True)
    for name in (CALIBRATION_FILE, ONNX_FILE):
        (out / name).unlink(missing_ok=True)
    for name in (run_folder.TEXT_FILE, run_folder.SHARDS_FILE):
        shutil.copyfile(run / name, out / name)
    # Folders of the machine that trained it mean nothing elsewhere.
    bare = replace(encoder.config, data=replace(encoder.config.data, shards=""), start_from="")
    config_module.save(bare, out / run_folder.CONFIG_FILE)
    save_encoder(out, encoder.variables, encoder.step, dtype)
    texts = all_prompts()
    embeddings_PE = np.concatenate(
        [encoder.text([text for text, whole in texts if whole is kind], kind) for kind in (False, True)]
    )
    save_prompts(out, texts, embeddings_PE)
    write_card(out, encoder)
    if onnx:
        save_onnx(out, Encoder.from_run(out))
    size = sum(file.stat().st_size for file in out.iterdir())
    told = "no probabilities: name --shards to calibrate them"
    if shards is not None:
        calibration = calibrate(Encoder.from_run(out), Shards(shards), prompts)
        save_calibration(out, calibration)
        told = f"probabilities of {sum(map(len, calibration.tasks.values()))} classes, {calibration.fitted_on}"
    return f"encoder of {run} (step {encoder.step}) as {dtype}, {size / 1e6:.1f} MB; {told}\nwrote {out}"


def all_prompts() -> list[tuple[str, bool]]:
    """Every prompt of every task and set, once, and whether it is all that the text tower reads; these come last."""
    tasks = [get_task(name, prompts) for name in task_names() for prompts in prompt_sets()]
    pairs = {(text, t.whole_prompts) for t in tasks for c in t.classes for text in (*c.prompts, *t.against)}
    return sorted(pairs, key=lambda pair: (pair[1], pair[0]))
