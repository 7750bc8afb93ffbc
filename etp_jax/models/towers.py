"""Registry of the ECG towers. A tower is a module of this folder, a class of options, and one line of `TOWERS`."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax.config import EcgConfig, MerlConfig, ResNetConfig, TrainConfig, ViTConfig, with_tower
from etp_jax.models import merl, resnet1d, vit1d
from etp_jax.models.work import Work


@dataclass(frozen=True)
class Tower:
    """One kind of ECG encoder."""

    options: type[EcgConfig]
    """Class of the tower's options; its `kind` is the name of the tower."""
    module: Callable[[Any, DTypeLike, str | None], nn.Module]
    """Function that makes the Flax module from the options, the compute type and a device axis.

    In training, batch statistics are averaged over that axis; None: each device uses its own. The module is called as
    `module(ecg_BTL, lead_mask_BL, train, keys)`: scaled ECGs [B, T, leads], bool [B, leads], whether batch statistics
    are used, and typed PRNG keys [B] or None in evaluation. It returns features [B, F], at least float32."""
    work: Callable[[Any, int, int], Work]
    """Function that counts the work of the forward pass of one ECG from the options, its samples and its leads."""


TOWERS = {
    tower.options.kind: tower
    for tower in (
        Tower(ResNetConfig, resnet1d.ResNet1D, resnet1d.work),
        Tower(ViTConfig, vit1d.Vit1D, vit1d.work),
        Tower(MerlConfig, merl.tower, merl.work),
    )
}
"""All towers by their name, `model.ecg.kind`."""


def with_named_tower(config: TrainConfig, words: Sequence[str]) -> TrainConfig:
    """Returns the config with the tower that `--model.ecg.kind` on a command line names; EtpError if it is unknown.

    The tower decides which other options there are, so call this before the command line is parsed.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--model.ecg.kind", dest="kind", default=config.model.ecg.kind)
    return with_tower(config, parser.parse_known_args(words)[0].kind)
