"""A run that begins with the parameters of another one: the stages of a recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import TextTower
from etp_jax.shards.reader import Shards
from etp_jax.training import checkpoint, resume
from etp_jax.training.run_folder import CONFIG_FILE, SHARDS_FILE, TEXT_FILE, read_about, same_tokenizer

FREE_IN_STAGES = ("projection_dropout", "ecg.drop_path")
"""Of `model`, besides the options of the text tower: what a run that starts from another may choose anew."""


def start_from(variables: dict[str, Any], config: TrainConfig, text: TextTower, shards: Shards) -> dict[str, Any]:
    """Parameters and batch statistics of the best checkpoint of `config.start_from`, in place of the initial ones.

    Raises:
      EtpError: no such run, another text tower, model, sampling rate or leads than this run's, or a text tower from
        scratch, whose vocabulary comes from the reports it was trained with.
    """
    run_dir = Path(config.start_from)
    theirs = config_module.load(run_dir / CONFIG_FILE)
    about = read_about(run_dir / TEXT_FILE)
    if text.params is None or about["sha256"] != text.sha256 or not same_tokenizer(about, text):
        raise EtpError(f"start_from: {run_dir} has another text tower, or one from scratch; name a run of the same one")
    # Parameters of equal shapes mean something else in these.
    there, here = (resume.flatten(config_module.to_dict(each.model)) for each in (theirs, config))
    named = {name for name in here if not name.startswith("text.")} - set(FREE_IN_STAGES) | {"text.pool", "text.unit"}
    there, here = ({f"model.{name}": each.get(name) for name in sorted(named)} for each in (there, here))
    there |= {name: read_about(run_dir / SHARDS_FILE)[name] for name in ("fs", "leads")}
    here |= {"fs": shards.fs, "leads": list(shards.leads)}
    for name, value in here.items():
        if there[name] != value:
            raise EtpError(
                f"start_from: {name} is {value}, {run_dir} was trained with {there[name]}; start_from needs the same "
                "model and signals"
            )
    params, batch_stats, step = checkpoint.restore_params(run_dir, "best", theirs.run.best)
    found = {"params": params, "batch_stats": batch_stats}
    expected = checkpoint.shapes(variables)
    checkpoint.check_shapes(
        run_dir, checkpoint.shapes(found), expected, f"start_from needs the same model (step {step})"
    )
    return jax.tree.map(lambda initial, x: jnp.asarray(x, initial.dtype), variables, found)
