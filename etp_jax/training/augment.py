"""Random changes of the ECG, on the device, each example by its own key."""

from __future__ import annotations

import jax
import jax.numpy as jnp

from etp_jax.config import AugmentConfig
from etp_jax.errors import EtpError

WANDER_HZ = (0.05, 0.5)
"""Frequencies of baseline wander."""


def check_augment(config: AugmentConfig, samples: int, fs: int) -> None:
    """Raises EtpError for options that no record of `samples` at `fs` Hz can satisfy."""
    for name in ("time_shift_s", "time_mask_s"):
        if not 0 <= getattr(config, name) < samples / fs:
            raise EtpError(f"augment.{name} is {getattr(config, name)}; the records last {samples / fs:g} s")
    for name in ("amplitude", "lead_dropout", "few_leads"):
        if not 0 <= getattr(config, name) <= 1:
            raise EtpError(f"augment.{name} is {getattr(config, name)}; it must lie between 0 and 1")
    for name in ("noise_uv", "wander_uv"):
        if getattr(config, name) < 0:
            raise EtpError(f"augment.{name} is {getattr(config, name)}; it must not be negative")


def augment(
    ecg_BTL: jax.Array, lead_mask_BL: jax.Array, keys_B: jax.Array, config: AugmentConfig, fs: int
) -> tuple[jax.Array, jax.Array]:
    """Changes each ECG by its own key; what is off is not computed.

    Args:
        ecg_BTL: int16 or float [B, T, leads], µV.
        lead_mask_BL: bool [B, leads], false where a lead was not recorded.
        keys_B: typed PRNG keys [B].
        config: how strongly.
        fs: sampling rate, Hz.

    Returns:
        ECG [B, T, leads], µV, float32 or, with JAX in 64 bits, float64 (as it came, if everything is off); and mask,
        false for silenced leads too.

    Raises:
        EtpError: an option that no such record can satisfy.
    """
    if config == AugmentConfig():
        return ecg_BTL, lead_mask_BL
    check_augment(config, ecg_BTL.shape[1], fs)
    return jax.vmap(lambda ecg, mask, key: augment_one(ecg, mask, key, config, fs))(ecg_BTL, lead_mask_BL, keys_B)


def augment_one(
    ecg_TL: jax.Array, lead_mask_L: jax.Array, key: jax.Array, config: AugmentConfig, fs: int
) -> tuple[jax.Array, jax.Array]:
    """`augment` for one example."""
    # A random draw belongs to its place among the keys; a new change takes a new place.
    keys = [*jax.random.split(key, 6), jax.random.fold_in(key, 6)]
    samples, leads = ecg_TL.shape
    x = ecg_TL.astype(float)
    if config.amplitude > 0:
        x = x * jax.random.uniform(keys[0], minval=1 - config.amplitude, maxval=1 + config.amplitude)
    if config.wander_uv > 0:
        x = x + wander(keys[1], samples, leads, config.wander_uv, fs)
    if config.noise_uv > 0:
        x = x + config.noise_uv * jax.random.normal(keys[2], x.shape)
    if config.time_shift_s > 0:
        x = shift(keys[3], x, round(config.time_shift_s * fs))
    if config.time_mask_s > 0:
        x = mask_time(keys[4], x, round(config.time_mask_s * fs))
    if config.lead_dropout > 0:
        lead_mask_L = drop_leads(keys[5], lead_mask_L, config.lead_dropout)
    if config.few_leads > 0:
        lead_mask_L = keep_few_leads(keys[6], lead_mask_L, config.few_leads)
    if config.lead_dropout > 0 or config.few_leads > 0:
        x = jnp.where(lead_mask_L, x, 0)
    return x, lead_mask_L


def wander(key: jax.Array, samples: int, leads: int, greatest: float, fs: int) -> jax.Array:
    """One slow sine [T, leads] of common frequency and phase, of a different amplitude in each lead."""
    frequency, phase, amplitude = jax.random.split(key, 3)
    hz = jax.random.uniform(frequency, minval=WANDER_HZ[0], maxval=WANDER_HZ[1])
    angle = 2 * jnp.pi * (hz * jnp.arange(samples) / fs + jax.random.uniform(phase))
    return jnp.sin(angle)[:, None] * jax.random.uniform(amplitude, (leads,), minval=-greatest, maxval=greatest)


def shift(key: jax.Array, x_TL: jax.Array, greatest: int) -> jax.Array:
    """Moves the record by up to `greatest` samples either way; zeros fill the gap."""
    by = jax.random.randint(key, (), -greatest, greatest + 1)
    padded = jnp.pad(x_TL, ((greatest, greatest), (0, 0)))
    return jax.lax.dynamic_slice_in_dim(padded, greatest - by, x_TL.shape[0])


def mask_time(key: jax.Array, x_TL: jax.Array, length: int) -> jax.Array:
    """Sets one stretch of `length` samples to zero in all leads."""
    start = jax.random.randint(key, (), 0, x_TL.shape[0] - length + 1)
    time = jnp.arange(x_TL.shape[0])
    return jnp.where(((time < start) | (time >= start + length))[:, None], x_TL, 0)


def drop_leads(key: jax.Array, lead_mask_L: jax.Array, probability: float) -> jax.Array:
    """Silences each recorded lead with `probability`; the one with the highest draw stays in any case."""
    draw = jnp.where(lead_mask_L, jax.random.uniform(key, lead_mask_L.shape), -1.0)
    return lead_mask_L & ((draw >= probability) | (draw == draw.max()))


def keep_few_leads(key: jax.Array, lead_mask_L: jax.Array, probability: float) -> jax.Array:
    """With `probability`, keeps a random set of 1 to all of the recorded leads, every size equally likely."""
    chance, size, order = jax.random.split(key, 3)
    count = jax.random.randint(size, (), 1, jnp.maximum(lead_mask_L.sum(), 1) + 1)
    draw_L = jnp.where(lead_mask_L, jax.random.uniform(order, lead_mask_L.shape), 2.0)
    rank_L = jnp.argsort(jnp.argsort(draw_L))
    chosen_L = lead_mask_L & (rank_L < count)
    return jnp.where(jax.random.bernoulli(chance, probability), chosen_L, lead_mask_L)
