"""The optimiser, its learning-rate schedule, and the selection of trained parameters."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from etp_jax.config import OptimConfig, TrainConfig
from etp_jax.errors import EtpError

Schedule = Callable[[Any], jax.Array]


def path_names(path: tuple[Any, ...]) -> list[str]:
    """Returns the keys of a parameter's path."""
    return [str(key.key) for key in path]


def trainable(params: Any, config: TrainConfig) -> Any:
    """Selects the parameters that are trained.

    A parameter of the text tower is fixed unless `model.text.trainable` matches its whole path
    (`encoder/layer/5/attention/self/query/kernel`). The logit scale is fixed unless `loss.learn_temperature`.

    Args:
        params: the model's parameters.
        config: config of the run.

    Returns:
        Tree of bool like `params`.

    Raises:
        EtpError: the regular expression is invalid, or matches no parameter of the model's text tower.
    """
    wanted = config.model.text.trainable
    try:
        pattern = re.compile(wanted)
    except re.error as error:
        raise EtpError(f"model.text.trainable {wanted!r} is not a regular expression: {error}") from None

    def learned(path: tuple[Any, ...], _: Any) -> bool:
        part, *rest = path_names(path)
        if part == "logit_scale":
            return config.loss.learn_temperature
        return part != "text_tower" or pattern.fullmatch("/".join(rest)) is not None

    mask = jax.tree_util.tree_map_with_path(learned, params)
    if "text_tower" in params and not any(jax.tree.leaves(mask["text_tower"])):
        some = path_names(jax.tree_util.tree_leaves_with_path(params["text_tower"])[0][0])
        raise EtpError(
            f"model.text.trainable {wanted!r} matches no parameter of the text tower as a whole, e.g. "
            f"{'/'.join(some)!r}; set model.text.frozen to train none"
        )
    return mask


def take(params: Any, mask: Any, learned: bool = True) -> Any:
    """Selects the parameters where `mask` equals `learned`; others become None, which JAX does not count as a leaf."""
    return jax.tree.map(lambda p, m: p if m is learned else None, params, mask)


def merge(learned: Any, fixed: Any) -> Any:
    """Combines the learned and the fixed parameters that `take` separated."""
    return jax.tree.map(lambda a, b: b if a is None else a, learned, fixed, is_leaf=lambda x: x is None)


def total_steps(config: OptimConfig, steps_per_epoch: int) -> int:
    """Returns the number of steps of the whole run: the steps of its epochs, but at most `max_steps`."""
    steps = round(config.epochs * steps_per_epoch)
    return min(steps, config.max_steps) if config.max_steps > 0 else steps


def make_schedule(config: OptimConfig, steps_per_epoch: int) -> Schedule:
    """Builds the learning-rate schedule over steps (from 0): linear warm-up, then constant or half a cosine to zero.

    `max_steps` shortens the whole schedule: the warm-up keeps its share of the run.

    Raises:
        EtpError: the run has no step, or the warm-up is not shorter than the run.
    """
    if config.max_steps < 0:
        raise EtpError(f"optim.max_steps is {config.max_steps}; it must not be negative (0: no maximum)")
    planned = round(config.epochs * steps_per_epoch)
    warmup = round(config.warmup_epochs * steps_per_epoch)
    if planned < 1:
        raise EtpError(f"optim.epochs {config.epochs} at {steps_per_epoch} steps an epoch is not a single step")
    if warmup >= planned and warmup > 0:
        raise EtpError(f"optim.warmup_epochs {config.warmup_epochs} must be less than optim.epochs {config.epochs}")
    total = total_steps(config, steps_per_epoch)
    warmup = round(warmup * total / planned)

    def schedule(step: Any) -> jax.Array:
        step = jnp.asarray(step, float)  # with an int32 step the result would be float32, even in 64-bit mode
        rate = config.learning_rate * jnp.minimum((step + 1) / max(warmup, 1), 1.0)
        if config.schedule == "cosine":
            done = jnp.clip((step - warmup) / (total - warmup), 0.0, 1.0)
            rate = rate * (1 + jnp.cos(jnp.pi * done)) / 2
        return rate

    return schedule


def decayed(params: Any) -> Any:
    """Selects the parameters with weight decay: matrices and kernels, not biases, norms, logit scale and logit bias."""
    return jax.tree.map(lambda p: p.ndim > 1, params)


def in_text_tower(params: Any) -> Any:
    """Selects the parameters of the text tower."""
    return jax.tree_util.tree_map_with_path(lambda path, _: path_names(path)[0] == "text_tower", params)


def make_optimizer(config: OptimConfig, steps_per_epoch: int) -> tuple[optax.GradientTransformation, Schedule]:
    """Builds Adam (Kingma & Ba 2015; weight decay added to the gradient, as in PyTorch) or AdamW (arXiv 1711.05101).

    Pass it the learned parameters only (`take`): fixed ones then have no moments and do not count in the gradient norm.

    Args:
        config: optimiser options.
        steps_per_epoch: steps per epoch, to convert epochs to steps.

    Returns:
        The optimiser and its schedule.

    Raises:
        EtpError: the schedule is impossible, or an option is out of range.
    """
    text_rate = config.learning_rate if config.text_learning_rate is None else config.text_learning_rate
    if config.learning_rate <= 0 or text_rate <= 0:
        raise EtpError("optim.learning_rate and optim.text_learning_rate must be positive")
    for name in ("weight_decay", "clip_norm", "warmup_epochs"):
        if getattr(config, name) < 0:
            raise EtpError(f"optim.{name} is {getattr(config, name)}; it must not be negative")
    for name in ("b1", "b2", "ema"):
        if not 0 <= getattr(config, name) < 1:
            raise EtpError(f"optim.{name} is {getattr(config, name)}; it must be at least 0 and less than 1")
    schedule = make_schedule(config, steps_per_epoch)
    adam = optax.scale_by_adam(config.b1, config.b2, eps=1e-8)
    decay = optax.add_decayed_weights(config.weight_decay, mask=decayed)
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm) if config.clip_norm > 0 else optax.identity(),
        *((decay, adam) if config.name == "adam" else (adam, decay)),
        optax.masked(optax.scale(text_rate / config.learning_rate), in_text_tower),
        optax.scale_by_learning_rate(schedule),
    ), schedule
