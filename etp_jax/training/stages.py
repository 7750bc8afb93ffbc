"""Stages of a recipe: runs that start with the parameters of another run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.ecg.leads import applied
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import TextTower
from etp_jax.shards.reader import Shards
from etp_jax.training import checkpoint, resume
from etp_jax.training.run_folder import SHARDS_FILE, TEXT_FILE, load_config, read_about, same_tokenizer

FREE_IN_STAGES = ("projection_dropout", "ecg.drop_path")
"""Options of `model` in which a run may differ from the one it starts from, besides most options of the text tower."""


def start_from(variables: dict[str, Any], config: TrainConfig, text: TextTower, shards: Shards) -> dict[str, Any]:
    """Replaces the initial parameters and batch statistics by those of the best checkpoint of `config.start_from`.

    Raises:
      EtpError: there is no such run; its text tower, model, sampling rate or leads differ from this run's; or its text
        tower is from scratch, with a vocabulary that depends on the reports it was trained with.
    """
    run_dir = Path(config.start_from)
    theirs = load_config(run_dir)
    about = read_about(run_dir / TEXT_FILE)
    if text.params is None or about["sha256"] != text.sha256 or not same_tokenizer(about, text):
        raise EtpError(f"start_from: {run_dir} has another text tower, or one from scratch; name a run of the same one")
    # The check of shapes is not enough: with a difference in these options, equal shapes have different meanings.
    there, here = (resume.flatten(config_module.to_dict(each.model)) for each in (theirs, config))
    named = {name for name in here if not name.startswith("text.")} - set(FREE_IN_STAGES) | {"text.pool", "text.unit"}
    there, here = ({f"model.{name}": each.get(name) for name in sorted(named)} for each in (there, here))
    signals = read_about(run_dir / SHARDS_FILE)
    there |= {name: signals[name] for name in ("fs", "leads")}
    here |= {"fs": shards.fs, "leads": list(shards.leads)}
    if "filters" in signals:
        there |= {"filters": applied(signals["filters"])}
        here |= {"filters": applied(shards.filters)}
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
