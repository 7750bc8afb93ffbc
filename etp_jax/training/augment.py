"""Random augmentation of ECGs, on the device, with one random key per example."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from etp_jax.config import AugmentConfig
from etp_jax.errors import EtpError


def check_augment(config: AugmentConfig, samples: int, fs: int) -> None:
    """Raises EtpError for options that no record of `samples` at `fs` Hz can satisfy."""
    if not 0 <= config.time_shift_s < samples / fs:
        raise EtpError(f"augment.time_shift_s is {config.time_shift_s}; the records last {samples / fs:g} s")
    for name in ("lead_dropout", "few_leads"):
        if not 0 <= getattr(config, name) <= 1:
            raise EtpError(f"augment.{name} is {getattr(config, name)}; it must lie between 0 and 1")


def augment(
    ecg_BTL: jax.Array, lead_mask_BL: jax.Array, keys_B: jax.Array, config: AugmentConfig, fs: int
) -> tuple[jax.Array, jax.Array]:
    """Augments each ECG with its own key; changes that are off are not computed.

    Args:
        ecg_BTL: int16 or float [B, T, leads], µV.
        lead_mask_BL: bool [B, leads], false where a lead was not recorded.
        keys_B: typed PRNG keys [B].
        config: strength of each change.
        fs: sampling rate, Hz.

    Returns:
        ECG [B, T, leads], µV, and lead mask, which is false for silenced leads too. The ECG is float32 or, with JAX in
        64 bits, float64; if everything is off, it is returned unchanged.

    Raises:
        EtpError: an option that no such record can satisfy.
    """
    if config == AugmentConfig():
        return ecg_BTL, lead_mask_BL
    check_augment(config, ecg_BTL.shape[1], fs)
    by_B, kept_BL = jax.vmap(lambda mask, key: draw(mask, key, config, fs))(lead_mask_BL, keys_B)
    x_BTL = ecg_BTL.astype(float)
    if config.time_shift_s > 0:
        x_BTL = shift(x_BTL, by_B, greatest_shift(config, fs))
    if config.lead_dropout > 0 or config.few_leads > 0:
        x_BTL = jnp.where(kept_BL[:, None], x_BTL, 0)
    return x_BTL, kept_BL


def greatest_shift(config: AugmentConfig, fs: int) -> int:
    """Returns the greatest time shift in samples."""
    return round(config.time_shift_s * fs)


def draw(lead_mask_L: jax.Array, key: jax.Array, config: AugmentConfig, fs: int) -> tuple[jax.Array, jax.Array]:
    """Draws one example's time shift in samples, and the mask of the leads that stay."""
    # Version 0.1 used keys 0, 1, 2 and 4 for other changes. The numbering stays, so its runs continue with equal draws.
    keys = jax.random.split(key, 6)
    shift_key, drop_key, few_key = keys[3], keys[5], jax.random.fold_in(key, 6)
    greatest = greatest_shift(config, fs)
    by = jax.random.randint(shift_key, (), -greatest, greatest + 1)
    if config.lead_dropout > 0:
        lead_mask_L = drop_leads(drop_key, lead_mask_L, config.lead_dropout)
    if config.few_leads > 0:
        lead_mask_L = keep_few_leads(few_key, lead_mask_L, config.few_leads)
    return by, lead_mask_L


def shift(x_BTL: jax.Array, by_B: jax.Array, greatest: int) -> jax.Array:
    """Shifts each record by its own number of samples, -`greatest` ... `greatest`; zeros fill the gap.

    The shift is composed of powers of two, each a choice between two fixed slices of the batch. A slice at a different
    place for each record would be a loop over the records on a TPU.
    """
    steps_B, bits = greatest - by_B, (2 * greatest).bit_length()
    x_BTL = jnp.pad(x_BTL, ((0, 0), (greatest, 2**bits - 1 - greatest), (0, 0)))
    for size in (2**bit for bit in reversed(range(bits))):
        chosen_B11 = (steps_B & size)[:, None, None] > 0
        x_BTL = jnp.where(chosen_B11, x_BTL[:, size:], x_BTL[:, :-size])
    return x_BTL


def drop_leads(key: jax.Array, lead_mask_L: jax.Array, probability: float) -> jax.Array:
    """Silences each recorded lead with `probability`; the lead with the highest draw always stays."""
    draw = jnp.where(lead_mask_L, jax.random.uniform(key, lead_mask_L.shape), -1.0)
    return lead_mask_L & ((draw >= probability) | (draw == draw.max()))


def keep_few_leads(key: jax.Array, lead_mask_L: jax.Array, probability: float) -> jax.Array:
    """Keeps, with `probability`, a random set of the recorded leads; every size from 1 to all is equally likely."""
    chance, size, order = jax.random.split(key, 3)
    count = jax.random.randint(size, (), 1, jnp.maximum(lead_mask_L.sum(), 1) + 1)
    draw_L = jnp.where(lead_mask_L, jax.random.uniform(order, lead_mask_L.shape), 2.0)
    rank_L = jnp.argsort(jnp.argsort(draw_L))
    chosen_L = lead_mask_L & (rank_L < count)
    return jnp.where(jax.random.bernoulli(chance, probability), chosen_L, lead_mask_L)
