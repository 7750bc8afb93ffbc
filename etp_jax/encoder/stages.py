"""Features of an encoder by stage of its ECG tower, averaged over shifted views, for classifiers on frozen features."""

from __future__ import annotations

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from etp_jax.encoder.encoder import BATCH, Encoder
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import DualEncoder
from etp_jax.models.resnet1d import STAGES, TOKENS
from etp_jax.progress import Bar
from etp_jax.shards.reader import Split

POOLED = "pooled"
FEATURE_SETS = {POOLED: 0, "stage4": 1, "stages34": 2, "stages": 4}
"""Feature sets by name, with the number of last stages that they join; `pooled` is the tower's own output."""
GREATEST_SHIFT_S = 0.5


def features_of(encoder: Encoder, split: Split, feature_set: str, views: int) -> NDArray[np.float32]:
    """Computes a feature set for all records of a split, cached: [N, F].

    Args:
      encoder: the encoder.
      split: records with the sampling rate, leads and length of the training data.
      feature_set: one of `FEATURE_SETS`. A stage gives the mean, maximum and standard deviation of its channels.
      views: number of time shifts over which the features are averaged, evenly from -0.5 to 0.5 s; 1: no shift.

    Raises:
      EtpError: the tower has no stages.
    """
    if feature_set == POOLED and views == 1:
        return encoder.ecg(split)[0]
    encoder.check_signals(split.shards)
    if feature_set != POOLED:
        first = split.ecg(np.arange(1)), split.columns.lead_mask[:1]
        if set(jax.eval_shape(partial(_stages, encoder.model), encoder.variables, *first)) == {POOLED}:
            raise _no_stages(encoder)
    about = [split.shards.fingerprint, split.name, dataclasses.asdict(encoder.config.model.ecg), views]
    found = encoder.kept("stages", about, encoder.variables, lambda: _encode(encoder, split, views))
    if feature_set == POOLED:
        return found[POOLED]
    names = sorted(set(found) - {POOLED})[-FEATURE_SETS[feature_set] :]
    return np.concatenate([found[name] for name in names], axis=1)


def tokens(encoder: Encoder, ecg_BTL: NDArray[np.int16], lead_mask_BL: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Computes the output of the last stage, [B, T, F].

    Raises:
      EtpError: the tower has no stages.
    """
    found = jax.tree.leaves(_tokens(encoder.model, encoder.variables, ecg_BTL, lead_mask_BL))
    if not found:
        raise _no_stages(encoder)
    return np.asarray(found[0])


def shifts(views: int, fs: int) -> list[int]:
    """Returns the shift of each view, in samples."""
    return [0] if views == 1 else [round(by * fs) for by in np.linspace(-GREATEST_SHIFT_S, GREATEST_SHIFT_S, views)]


def shifted(ecg_BTL: NDArray[np.int16], by: int) -> NDArray[np.int16]:
    """Shifts records to later times by a number of samples; zeros fill the gap, as in training."""
    out_BTL = np.zeros_like(ecg_BTL)
    length = ecg_BTL.shape[1] - abs(by)
    out_BTL[:, max(by, 0) : max(by, 0) + length] = ecg_BTL[:, max(-by, 0) : max(-by, 0) + length]
    return out_BTL


def _encode(encoder: Encoder, split: Split, views: int) -> dict[str, NDArray[np.float32]]:
    """Computes the tower's output and the summary of each stage, each averaged over the views: [N, F] by name."""
    parts: list[dict[str, Any]] = []
    for start in Bar(range(0, len(split), BATCH), desc=f"stages, {split.name}", unit="batch"):
        rows = np.arange(start, start + BATCH) % len(split)  # the last batch wraps: one shape serves all
        ecg_BTL, lead_mask_BL = split.ecg(rows), split.columns.lead_mask[rows]
        some = [
            jax.device_get(_stages(encoder.model, encoder.variables, shifted(ecg_BTL, by), lead_mask_BL))
            for by in shifts(views, split.shards.fs)
        ]
        parts.append({name: np.mean([view[name] for view in some], axis=0) for name in some[0]})
    return {name: np.concatenate([part[name] for part in parts])[: len(split)] for name in parts[0]}


def _no_stages(encoder: Encoder) -> EtpError:
    kind = encoder.config.model.ecg.kind
    return EtpError(f"{encoder.run_dir}: the tower {kind!r} has no stages; the only feature set is {POOLED}")


@partial(jax.jit, static_argnums=0)
def _tokens(model: DualEncoder, variables: dict[str, Any], ecg_BTL: Any, lead_mask_BL: Any) -> Any:
    with jax.default_matmul_precision("highest"):
        applied: Any = model.apply(
            variables, jnp.asarray(ecg_BTL), jnp.asarray(lead_mask_BL), method="encode_ecg", mutable=[TOKENS]
        )
    return applied[1]


@partial(jax.jit, static_argnums=0)
def _stages(model: DualEncoder, variables: dict[str, Any], ecg_BTL: Any, lead_mask_BL: Any) -> dict[str, jax.Array]:
    with jax.default_matmul_precision("highest"):
        applied: Any = model.apply(
            variables, jnp.asarray(ecg_BTL), jnp.asarray(lead_mask_BL), method="encode_ecg", mutable=[STAGES]
        )
    (features_BF, _), kept = applied
    stages: Any = kept.get(STAGES, {}).get("ecg_tower", {})
    return {POOLED: features_BF, **{name: value for name, (value,) in stages.items()}}
