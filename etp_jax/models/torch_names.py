"""Names and shapes of PyTorch's tensors for our parameters: ResNet, MERL's attention, projections, BERT.

`NAMES` is the whole table. A parameter whose tensor is missing, a tensor that no parameter reads, and a wrong shape are
reported together.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from numpy.typing import NDArray

from etp_jax.errors import EtpError, listed
from etp_jax.models.weights import ADVICE, Names, Tensors, as_float32

NAMES: tuple[tuple[str, str | Callable[[re.Match[str]], str]], ...] = (
    (r"stage(\d+)_block(\d+)", lambda match: f"layer{match[1]}/{int(match[2]) - 1}"),
    ("stem_conv", "conv1"),
    ("stem_norm", "bn1"),
    ("shortcut_conv", "shortcut/0"),
    ("shortcut_norm", "shortcut/1"),
    (r"norm(\d)", r"bn\1"),
    ("ecg_tower/pooling/down", "downconv"),
    ("ecg_tower/pooling/class_token", "att_pool_head/cls_token"),
    ("ecg_tower/pooling/position", "att_pool_head/positional_embedding"),
    ("ecg_tower/pooling/attention/out", "att_pool_head/mhsa/out_proj"),
    (r"ecg_tower/pooling/attention/(?:query|key|value)/(\w+)", r"att_pool_head/mhsa/in_proj_\1"),
    ("in_proj_kernel", "in_proj_weight"),
    ("ecg_projection/linear", "att_pool_head/c_proj"),
    ("text_projection/pooler", "lm_model/pooler/dense"),
    ("text_projection/hidden", "proj_t/0"),
    ("text_projection/linear", "proj_t/2"),
    ("ecg_tower", "ecg_encoder"),
    ("text_tower", "lm_model"),
    (r"/(?:kernel|scale|embedding)$", "/weight"),
    ("/mean$", "/running_mean"),
    ("/var$", "/running_var"),
)
"""Patterns in the path of a parameter or statistic and their replacements, applied one after another."""
PARTS = {"query": 0, "key": 1, "value": 2}
"""Thirds of the one tensor in which PyTorch keeps the three maps of an attention layer."""


def torch_name(path: Names) -> str:
    """Returns the name of the tensor in MERL's model for the path of a parameter or statistic."""
    name = "/".join(path)
    for pattern, replacement in NAMES:
        name = re.sub(pattern, replacement, name)
    return name.replace("/", ".")


def from_tensors(
    file: Path, tensors: Tensors, shapes: Mapping[str, Any], without_use: re.Pattern[str]
) -> dict[str, Any]:
    """Fills trees of parameters from PyTorch's tensors.

    Args:
        file: the file, for messages.
        tensors: tensors by their names in MERL's model.
        shapes: trees of shapes, {"params", "batch_stats"}.
        without_use: names of tensors that no parameter needs to read.

    Returns:
        The same trees with float32 arrays.

    Raises:
        EtpError: tensors are missing, unknown or of other shapes, which the message lists; or one is not
            floating-point, not finite, or a variance below zero.
    """
    paths: dict[Names, Any] = dict(traverse_util.flatten_dict(dict(shapes)))
    names = {path: torch_name(path[1:]) for path in paths}
    missing = sorted(set(names.values()) - set(tensors))
    found, wrong = {}, []
    for path, leaf in paths.items():
        name = names[path]
        if name not in tensors:
            continue
        value = _as_leaf(path, tensors[name], leaf.shape)  # the shape first: a file may claim any size
        if value is None:
            wrong.append(f"{name} {list(tensors[name].shape)}")
            continue
        found[path] = as_float32(file, (name,), value)
        if path[-1] == "var" and (found[path] < 0).any():
            raise EtpError(f"{file}: {name} has variances below zero; {ADVICE}")
    unknown = sorted(name for name in set(tensors) - set(names.values()) if not without_use.fullmatch(name))
    faults = {"lacks": missing, "has with other shapes": sorted(set(wrong)), "has, and no layer reads them:": unknown}
    words = [f"{what} {listed(which)}" for what, which in faults.items() if which]
    if words:
        raise EtpError(f"{file}: not a model of this kind; it {'; '.join(words)}")
    return traverse_util.unflatten_dict(found)


def _as_leaf(path: Names, value: NDArray[Any], shape: tuple[int, ...]) -> NDArray[Any] | None:
    """Arranges a tensor as a parameter of this shape: transposed, a third of it; None if it has another shape."""
    if "pooling" in path and path[-2] in PARTS:
        if value.ndim == 0 or len(value) % 3:
            return None
        value = np.split(value, 3)[PARTS[path[-2]]]
    if path[-1] == "kernel":
        value = value.T
    # A 1x1 convolution, heads and leading axes of length 1 are the same numbers in the same order.
    if "pooling" in path and value.size == np.prod(shape):
        value = value.reshape(shape)
    return value if value.shape == shape else None
