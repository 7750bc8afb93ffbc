"""The ECG encoder as an ONNX graph of convolutions, built node by node, for any ONNX runtime.

The input is in millivolt; the graph scales it as the tower does. Batch normalisation is folded into the convolutions.
The metadata give the leads, in order, and the sampling rate of the input.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from etp_jax import __version__
from etp_jax.config import ResNetConfig
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import ONNX_FILE
from etp_jax.errors import EtpError
from etp_jax.files import whole_file
from etp_jax.models.dual_encoder import LEAST_DEVIATION_MV, LEAST_RANGE_MV
from etp_jax.models.resnet1d import EXPANSION, stage_blocks

OPSET, IR_VERSION = 21, 10
"""Oldest versions with all operators used: group normalisation by channel was introduced in opset 21."""
EPSILON = 1e-5
"""Epsilon of batch and group normalisation."""


def check_onnx(encoder: Encoder) -> ResNetConfig:
    """Returns the ECG tower's options; raises EtpError if it is not a ResNet, or the package onnx is not installed."""
    if importlib.util.find_spec("onnx") is None:
        raise EtpError("--onnx needs the package onnx: pip install 'etp-jax[onnx]'")
    tower = encoder.config.model.ecg
    if not isinstance(tower, ResNetConfig):
        raise EtpError(f"{encoder.run_dir}: its ECG tower is a {tower.kind}; only ResNets can be written as ONNX")
    return tower


def save_onnx(folder: Path, encoder: Encoder) -> None:
    """Writes `encoder.onnx`.

    Inputs: `ecg` float32 [batch, time, leads], millivolt, and `lead_mask` bool [batch, leads], false where a lead was
    not recorded. Outputs, float32: `features` [batch, F], pooled, before the projection; `embedding` [batch, E], unit
    length. The sizes of batch and time are free.

    Raises:
      EtpError: see `check_onnx`.
    """
    tower = check_onnx(encoder)
    from onnx import TensorProto, helper  # an optional package

    trained_on = encoder.trained_on
    graph = _Graph()
    params, stats = encoder.variables["params"], encoder.variables["batch_stats"].get("ecg_tower", {})
    x_BTL = _scale(graph, tower.scale)
    features_BF = _Tower(graph, tower, params["ecg_tower"], stats).features(x_BTL)
    graph.add("Identity", features_BF, output="features")
    _project(graph, params["ecg_projection"], features_BF)
    leads = len(trained_on["leads"])
    inputs = [
        helper.make_tensor_value_info("ecg", TensorProto.FLOAT, ["batch", "time", leads]),
        helper.make_tensor_value_info("lead_mask", TensorProto.BOOL, ["batch", leads]),
    ]
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", None]) for name in ("features", "embedding")
    ]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "ecg_encoder", inputs, outputs, graph.weights),
        producer_name="etp-jax",
        producer_version=__version__,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    about = {"leads": ",".join(trained_on["leads"]), "fs": str(trained_on["fs"]), "unit": "mV"}
    helper.set_model_props(model, about | {"samples": str(trained_on["samples"]), "step": str(encoder.step)})
    with whole_file(folder / ONNX_FILE) as stream:
        stream.write(model.SerializeToString())


class _Graph:
    """Collects nodes and weights; tensors are identified by name."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def constant(self, value: ArrayLike, dtype: type = np.float32) -> str:
        from onnx import numpy_helper

        name = f"weight{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(np.ascontiguousarray(value, dtype), name))
        return name

    def add(self, operator: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        from onnx import helper

        output = output or f"tensor{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [output], **attributes))
        return output

    def reduce(self, operator: str, x: str, axes: tuple[int, ...], keep: bool = False) -> str:
        return self.add(operator, x, self.constant(axes, np.int64), keepdims=int(keep))


def _scale(graph: _Graph, scale: str) -> str:
    """Adds the scaling of `dual_encoder.scale_ecg`, for input in millivolt."""
    zero = graph.constant(0)
    live_B1L = graph.add("Unsqueeze", "lead_mask", graph.constant([1], np.int64))
    x_BTL = graph.add("Where", live_B1L, "ecg", zero)
    if scale == "millivolt":
        return x_BTL
    if scale == "min-max":
        masked = [graph.add("Where", live_B1L, x_BTL, graph.constant(end)) for end in (np.inf, -np.inf)]
        low = graph.reduce("ReduceMin", masked[0], (1, 2), keep=True)
        high = graph.reduce("ReduceMax", masked[1], (1, 2), keep=True)
        spread = graph.add("Add", graph.add("Sub", high, low), graph.constant(LEAST_RANGE_MV))
        x_BTL = graph.add("Div", graph.add("Sub", x_BTL, low), spread)
        return graph.add("Where", live_B1L, x_BTL, zero)
    axes = (1, 2) if scale == "record" else (1,)
    weight_BTL = graph.add("Where", live_B1L, graph.add("Add", graph.add("Mul", x_BTL, zero), graph.constant(1)), zero)
    count = graph.add("Max", graph.reduce("ReduceSum", weight_BTL, axes, keep=True), graph.constant(1))
    mean = graph.add("Div", graph.reduce("ReduceSum", x_BTL, axes, keep=True), count)
    x_BTL = graph.add("Where", live_B1L, graph.add("Sub", x_BTL, mean), zero)
    variance = graph.add("Div", graph.reduce("ReduceSumSquare", x_BTL, axes, keep=True), count)
    deviation = graph.add("Sqrt", graph.add("Add", variance, graph.constant(LEAST_DEVIATION_MV**2)))
    return graph.add("Div", x_BTL, deviation)


class _Tower:
    """Builds `ResNet1D` in evaluation mode, with channels before time."""

    def __init__(self, graph: _Graph, config: ResNetConfig, params: dict[str, Any], stats: dict[str, Any]) -> None:
        self.graph, self.config, self.params, self.stats = graph, config, params, stats

    def features(self, x_BTL: str) -> str:
        graph, config = self.graph, self.config
        x_BCT = graph.add("Transpose", x_BTL, perm=[0, 2, 1])
        x_BCT = graph.add("Relu", self.conv(self.params, self.stats, "stem_conv", "stem_norm", x_BCT, 2))
        if config.stem == "conv-pool":
            x_BCT = graph.add("MaxPool", x_BCT, kernel_shape=[3], strides=[2], pads=[1, 1])
        outputs = []
        for stage, count in enumerate(stage_blocks(config), 1):
            for i in range(1, count + 1):
                x_BCT = self.block(f"stage{stage}_block{i}", x_BCT, 2 if stage > 1 and i == 1 else 1)
            outputs.append(x_BCT)
        return self.pool(outputs)

    def block(self, name: str, x_BCT: str, stride: int) -> str:
        params, stats = self.params[name], self.stats.get(name, {})
        strides = [stride, 1] if EXPANSION[self.config.depth] == 1 else [1, stride, 1]
        y_BCT, shortcut = x_BCT, x_BCT
        for i, s in enumerate(strides, 1):
            y_BCT = self.conv(params, stats, f"conv{i}", f"norm{i}", y_BCT, s)
            if i < len(strides):
                y_BCT = self.graph.add("Relu", y_BCT)
        if "shortcut_conv" in params:
            shortcut = self.conv(params, stats, "shortcut_conv", "shortcut_norm", x_BCT, stride)
        return self.graph.add("Relu", self.graph.add("Add", shortcut, y_BCT))

    def conv(
        self, params: dict[str, Any], stats: dict[str, Any], name: str, norm_name: str, x_BCT: str, stride: int
    ) -> str:
        """Adds a convolution and its normalisation; batch normalisation is folded into the weights, in float64."""
        kernel_OIK, norm = np.transpose(params[name]["kernel"], (2, 1, 0)).astype(np.float64), params[norm_name]
        width = kernel_OIK.shape[2]
        layout = {"strides": [stride], "pads": [width // 2, width // 2]}
        if self.config.norm == "group":
            y_BCT = self.graph.add("Conv", x_BCT, self.graph.constant(kernel_OIK), **layout)
            scale, bias = self.graph.constant(norm["scale"]), self.graph.constant(norm["bias"])
            groups = math.gcd(32, len(kernel_OIK))
            return self.graph.add("GroupNormalization", y_BCT, scale, bias, num_groups=groups, epsilon=EPSILON)
        gain_O = norm["scale"] / np.sqrt(stats[norm_name]["var"].astype(np.float64) + EPSILON)
        bias_O = norm["bias"] - stats[norm_name]["mean"] * gain_O
        kernel, bias = self.graph.constant(kernel_OIK * gain_O[:, None, None]), self.graph.constant(bias_O)
        return self.graph.add("Conv", x_BCT, kernel, bias, **layout)

    def pool(self, outputs: Sequence[str]) -> str:
        """Adds the pooling of the stages' outputs."""
        graph, kind, x_BCT = self.graph, self.config.pool, outputs[-1]
        if kind == "attention":
            score_B1T = graph.add("Conv", x_BCT, graph.constant(self.params["pool"]["score"]["kernel"].T[:, :, None]))
            weight_B1T = graph.add("Softmax", score_B1T, axis=2)
            return graph.reduce("ReduceSum", graph.add("Mul", x_BCT, weight_B1T), (2,))
        kinds = {"mean": "ReduceMean", "max": "ReduceMax"}
        if kind == "stages":
            pooled = [graph.reduce(operator, output, (2,)) for output in outputs for operator in kinds.values()]
        else:
            pooled = [graph.reduce(kinds[part], x_BCT, (2,)) for part in kind.split("-")]
        return graph.add("Concat", *pooled, axis=1)


def _project(graph: _Graph, params: dict[str, Any], x_BF: str) -> str:
    """Adds `Projection`, whose output is `embedding`."""

    def linear(name: str, x: str) -> str:
        layer = params[name]
        return graph.add("Gemm", x, graph.constant(layer["kernel"]), graph.constant(layer["bias"]))

    if "hidden" in params:
        x_BF = graph.add("Gelu", linear("hidden", x_BF))
    x_BE = linear("linear", x_BF)
    square_B1 = graph.add("Max", graph.reduce("ReduceSumSquare", x_BE, (1,), keep=True), graph.constant(1e-12))
    return graph.add("Div", x_BE, graph.add("Sqrt", square_B1), output="embedding")
