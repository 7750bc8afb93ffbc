"""MERL's model by the names and shapes of its tensors: random ones without PyTorch, and the same layers in PyTorch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy

from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS
from tests.helpers.small_run import SAMPLES

HEADS, STEPS = 4, 313
WIDTH, OUT, HIDDEN = 4, 16, 12
"""Channels of the first stage, width of the joint space, width of the text tower."""
LEADS_OF_MIMIC = ("I", "II", "III", "aVR", "aVF", "aVL", *LEADS[6:])
ABOUT = {"name": "their-data", "fs": 100, "samples": SAMPLES, "leads": list(LEADS)}
ABOUT |= {"scale": "record", "stem": "conv", "pool": "mean"}


def norm_shapes(name: str, channels: int) -> dict[str, tuple[int, ...]]:
    parts = ("weight", "bias", "running_mean", "running_var")
    return {f"{name}.{part}": (channels,) for part in parts} | {f"{name}.num_batches_tracked": ()}


def resnet_shapes(
    width: int = WIDTH, leads: int = 12, blocks: tuple[int, ...] = (2, 2, 2, 2), bottleneck: bool = False
) -> dict[str, Any]:
    """The tensors of a ResNet of basic blocks or bottlenecks."""
    shapes: dict[str, Any] = {"conv1.weight": (width, leads, 7), **norm_shapes("bn1", width)}
    before = width
    for stage, count in enumerate(blocks):
        channels = width * 2**stage
        for block in range(count):
            name, outer = f"layer{stage + 1}.{block}", channels * (4 if bottleneck else 1)
            kernels = [(channels, before, 3), (channels, channels, 3)]
            if bottleneck:
                kernels = [(channels, before, 1), (channels, channels, 3), (outer, channels, 1)]
            for i, kernel in enumerate(kernels, 1):
                shapes |= {f"{name}.conv{i}.weight": kernel, **norm_shapes(f"{name}.bn{i}", kernel[0])}
            if before != outer:
                shapes[f"{name}.shortcut.0.weight"] = (outer, before, 1)
                shapes |= norm_shapes(f"{name}.shortcut.1", outer)
            before = outer
    return shapes | {"linear.weight": (10, before), "linear.bias": (10,)}


def merl_shapes() -> dict[str, Any]:
    """The tensors of the whole model but the text tower."""
    head = "att_pool_head"
    return {
        **{f"ecg_encoder.{name}": shape for name, shape in resnet_shapes().items()},
        "downconv.weight": (OUT, 8 * WIDTH, 1),
        "downconv.bias": (OUT,),
        f"{head}.positional_embedding": (1, STEPS + 1, OUT),
        f"{head}.cls_token": (1, 1, OUT),
        f"{head}.mhsa.in_proj_weight": (3 * OUT, OUT),
        f"{head}.mhsa.in_proj_bias": (3 * OUT,),
        f"{head}.mhsa.out_proj.weight": (OUT, OUT),
        f"{head}.mhsa.out_proj.bias": (OUT,),
        f"{head}.c_proj.weight": (OUT, OUT),
        f"{head}.c_proj.bias": (OUT,),
        "linear1.weight": (OUT, OUT),
        "linear2.weight": (OUT, OUT),
        "proj_t.0.weight": (OUT, HIDDEN),
        "proj_t.0.bias": (OUT,),
        "proj_t.2.weight": (OUT, OUT),
        "proj_t.2.bias": (OUT,),
    }


def draw(shapes: dict[str, Any], seed: int = 0) -> dict[str, np.ndarray]:
    """Random tensors, of a size that keeps the signal's; no statistic is its initial value."""
    rng = np.random.default_rng(seed)

    def tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
        if name.endswith("num_batches_tracked"):
            return np.array(100)
        if name.endswith("running_var") or (len(shape) == 1 and name.endswith("weight")):
            return rng.uniform(0.5, 1.5, shape).astype(np.float32)
        size = np.prod(shape[1:]) ** -0.5 if len(shape) > 1 else 0.2
        return (size * rng.standard_normal(shape)).astype(np.float32)

    return {name: tensor(name, shape) for name, shape in shapes.items()}


def save(file: Path, tensors: dict[str, np.ndarray], prefix: str = "") -> Path:
    safetensors.numpy.save_file({prefix + name: value for name, value in tensors.items()}, file)
    return file


class TorchMerl:
    """The layers in PyTorch, called on tensors of a state dict; [B, leads, T] from 0 to 1 in, unit vectors out."""

    def __init__(self, torch: Any, tensors: dict[str, np.ndarray]) -> None:
        self.torch, self.f = torch, torch.nn.functional
        self.state = {name: torch.from_numpy(np.asarray(value)) for name, value in tensors.items()}

    def norm(self, x: Any, name: str) -> Any:
        parts = [self.state[f"ecg_encoder.{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias")]
        return self.f.batch_norm(x, *parts, training=False)

    def conv(self, x: Any, name: str, stride: int = 1) -> Any:
        kernel = self.state[f"ecg_encoder.{name}.weight"]
        return self.f.conv1d(x, kernel, stride=stride, padding=kernel.shape[-1] // 2)

    def steps(self, x: Any) -> Any:
        """The last stage, [B, C, T]."""
        x = self.torch.relu(self.norm(self.conv(x, "conv1", 2), "bn1"))
        for stage in range(1, 5):
            for block in range(2):
                name, stride = f"layer{stage}.{block}", 2 if stage > 1 and block == 0 else 1
                y = self.torch.relu(self.norm(self.conv(x, f"{name}.conv1", stride), f"{name}.bn1"))
                y = self.norm(self.conv(y, f"{name}.conv2"), f"{name}.bn2")
                if f"ecg_encoder.{name}.shortcut.0.weight" in self.state:
                    x = self.norm(self.conv(x, f"{name}.shortcut.0", stride), f"{name}.shortcut.1")
                x = self.torch.relu(x + y)
        return x

    def ecg(self, x: Any) -> Any:
        state, head = self.state, "att_pool_head."
        x = self.f.conv1d(self.steps(x), state["downconv.weight"], state["downconv.bias"]).transpose(1, 2)
        position = state[f"{head}positional_embedding"]
        token = (state[f"{head}cls_token"] + position[:, :1]).expand(len(x), -1, -1)
        x = self.torch.cat([token, x], dim=1) + position
        attention = self.torch.nn.MultiheadAttention(x.shape[-1], HEADS, batch_first=True)
        prefix = f"{head}mhsa."
        attention.load_state_dict({k.removeprefix(prefix): v for k, v in state.items() if k.startswith(prefix)})
        pooled = attention.eval()(x[:, :1], x, x)[0][:, 0]
        out = self.f.linear(pooled, state[f"{head}c_proj.weight"], state[f"{head}c_proj.bias"])
        return self.f.normalize(out, dim=-1)

    def text(self, pooled: Any) -> Any:
        """Projects what BERT's pooler gives."""
        x = self.f.gelu(self.f.linear(pooled, self.state["proj_t.0.weight"], self.state["proj_t.0.bias"]))
        x = self.f.linear(x, self.state["proj_t.2.weight"], self.state["proj_t.2.bias"])
        return self.f.normalize(x, dim=-1)


def etp_import(*words: object) -> None:
    main.main(["import", *map(str, words)])


def refusal(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    """The one line of an import that is refused."""
    with pytest.raises(SystemExit):
        etp_import(*words)
    (line,) = capsys.readouterr().err.splitlines()
    return line
