"""Options of version 0.1 that are gone or have another name: its configs are read as those of this version."""

from __future__ import annotations

from typing import Any

from etp_jax.errors import EtpError

OLD_DEFAULTS = {
    "data": {"train_split": "train", "validation_split": "validation"},
    "augment": {"amplitude": 0.0, "noise_uv": 0.0, "wander_uv": 0.0, "time_mask_s": 0.0},
}
"""Options of version 0.1 that are gone, by group, and the only values that this version can train with."""
OLD_WITHOUT_EFFECT = {"data": ("prefetch", "resident_share")}
"""Options of version 0.1 that are gone and did not change what a run learns."""
OLD_RESNET = ("depth", "width", "stem", "kernel", "norm", "pool")
OLD_VIT = {"vit_width": "width", "vit_layers": "layers", "vit_heads": "heads"}
"""Options of version 0.1's ECG tower, which held those of both kinds; those of the other kind had no effect."""


def check_trainable(data: dict[str, Any], where: str) -> None:
    """Raises EtpError if version 0.1 trained with an option that this version lacks; such a run can only be evaluated.

    Args:
      data: a config in the form of `config.to_dict`, as a file or checkpoint holds it.
      where: name of the source for messages.
    """
    for group, defaults in OLD_DEFAULTS.items():
        for name, default in defaults.items():
            value = data.get(group, {}).get(name, default)
            if value != default:
                raise EtpError(
                    f"{where}: {group}.{name} is {value}, an option that version 0.2 no longer has; train it with "
                    "version 0.1, or without that option"
                )


def without_old_options(data: dict[str, Any]) -> dict[str, Any]:
    """The options of a config of any version in this version's layout; those that are gone are left out."""
    data = {name: dict(value) if isinstance(value, dict) else value for name, value in data.items()}
    for group, names in (*OLD_DEFAULTS.items(), *OLD_WITHOUT_EFFECT.items()):
        for name in names:
            data.get(group, {}).pop(name, None)
    ecg = data.get("model", {}).get("ecg", {})
    if "vit_width" in ecg:
        data["model"]["ecg"] = in_new_layout(ecg)
    return data


def in_new_layout(ecg: dict[str, Any]) -> dict[str, Any]:
    """The options of version 0.1's ECG tower without those of the other kind, under their new names."""
    gone = OLD_RESNET if ecg.get("kind") == "vit" else ("patch", *OLD_VIT)
    return {OLD_VIT.get(name, name): value for name, value in ecg.items() if name not in gone}
