"""Check whether a run may resume from a checkpoint: every option that affects the result must be the same."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.text_tower import TextTower
from etp_jax.old_options import check_trainable
from etp_jax.shards.reader import Shards

MAY_DIFFER = (
    "data.shards",  # compared by fingerprint, wherever the folder is
    "data.stage_dir",
    "data.resident",  # decides where the records are kept, not which records
    "data.check_every",
    "model.text.pretrained",  # compared by the checksum of the weights
    "model.text.remat",  # changes no more than rounding
    "model.text.fused_attention",  # likewise
    "loss.block",  # likewise, and so does the next one
    "loss.ring",
    "optim.epochs",  # has its own rule, and so has the next one
    "optim.max_steps",
    "run.",  # how the run is carried out: devices, precision, logging, intervals, which checkpoint counts as best
)
"""Options, or prefixes of options, that may differ on resume; all others must be the same."""


def compatibility(config: TrainConfig, shards: Shards, text: TextTower) -> dict[str, Any]:
    """Metadata saved with each checkpoint; on resume it decides whether the run may continue."""
    return {
        "config": config_module.to_dict(config),
        "fingerprint": shards.fingerprint,
        "text_sha256": text.sha256,
        "tokenizer_sha256": text.tokenizer.sha256,
    }


def check_same(run_dir: Path, saved: dict[str, Any], current: dict[str, Any], extend: bool) -> None:
    """Raises EtpError that names the first option that differs, with both values.

    Args:
      run_dir: run folder, for the message.
      saved: `compatibility` of the checkpoint.
      current: `compatibility` of the requested run.
      extend: allow more epochs, or a larger maximum of steps.
    """
    _check_form(run_dir, saved)
    before, now = (flatten(config_module.to_dict(_complete(data["config"], run_dir))) for data in (saved, current))
    for name in now:
        if not name.startswith(MAY_DIFFER) and before.get(name) != now[name]:  # get: another tower has other options
            raise EtpError(_differs(run_dir, f"--{name.replace('_', '-')}", before.get(name), now[name]))
    if saved["fingerprint"] != current["fingerprint"]:
        shards = f"the fingerprint of --data.shards {now['data.shards']}"
        raise EtpError(_differs(run_dir, shards, saved["fingerprint"][:12], current["fingerprint"][:12]))
    if saved["text_sha256"] != current["text_sha256"]:
        tower = f"the SHA-256 of --model.text.pretrained {now['model.text.pretrained']}"
        raise EtpError(_differs(run_dir, tower, saved["text_sha256"][:12], current["text_sha256"][:12]))
    # Checkpoints of earlier versions have no checksum of the tokenizer.
    pieces = [data.get("tokenizer_sha256", current.get("tokenizer_sha256", "")) for data in (saved, current)]
    if pieces[0] != pieces[1]:
        raise EtpError(_differs(run_dir, "the tokenizer of the text tower", pieces[0][:12], pieces[1][:12]))
    for name, flag in (("optim.epochs", "--optim.epochs"), ("optim.max_steps", "--max-steps")):
        if not isinstance(before[name], int | float):
            raise EtpError(_differs(run_dir, flag, before[name], now[name]))
        # No maximum (0) is the largest one.
        was, asked = (values[name] or math.inf for values in (before, now))
        if asked < was:
            raise EtpError(_differs(run_dir, flag, before[name], now[name]))
        if asked > was and not extend:
            raise EtpError(
                f"{run_dir}: {flag} was {before[name]:g} in this run, {now[name]:g} is asked for; add --extend for a "
                "longer schedule"
            )


def flatten(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flattens nested options to a dictionary by dotted name."""
    flat: dict[str, Any] = {}
    for name, value in tree.items():
        flat |= flatten(value, f"{prefix}{name}.") if isinstance(value, dict) else {prefix + name: value}
    return flat


def _check_form(run_dir: Path, saved: Any) -> None:
    """Raises EtpError unless the metadata of a checkpoint have the form of `compatibility`."""
    types = {"config": dict, "fingerprint": str, "text_sha256": str}
    for name, kind in types.items():
        if not isinstance(saved, dict) or not isinstance(saved.get(name), kind):
            raise EtpError(
                f"{run_dir}: the checkpoint's metadata have no {name!r}, so `etp train` did not write them; name "
                "another --workdir"
            )


def _complete(config: dict[str, Any], run_dir: Path) -> TrainConfig:
    """Reads a config that any version saved; options that it lacks take their defaults."""
    where = f"{run_dir}: the checkpoint's config"
    try:
        check_trainable(config, where)
        return config_module.from_dict(config, where)
    except (TypeError, AttributeError) as error:
        raise EtpError(f"{where} is not a training config ({error}); name another --workdir") from None


def _differs(run_dir: Path, name: str, before: Any, now: Any) -> str:
    return f"{run_dir}: {name} was {before} in this run, {now} is asked for; use the same, or name another --workdir"
