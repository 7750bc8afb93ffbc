"""The options of the two towers and of the joint space, with their units, and the checks of options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from etp_jax.errors import EtpError


def require(holds: bool, option: str, value: object, rule: str) -> None:
    """Raises EtpError unless the value of an option satisfies its rule."""
    if not holds:
        raise EtpError(f"{option} is {value}; it must {rule}")


def check_sizes(options: object, prefix: str, *names: str) -> None:
    """Raises EtpError for a size below 1."""
    for name in names:
        value = getattr(options, name)
        require(value >= 1, f"{prefix}.{name}", value, "be at least 1")


def check_rates(options: object, prefix: str, *names: str) -> None:
    """Raises EtpError for a dropout rate outside [0, 1)."""
    for name in names:
        value = getattr(options, name)
        require(0 <= value < 1, f"{prefix}.{name}", value, "be at least 0 and below 1")


@dataclass(frozen=True)
class EcgConfig:
    """Options of every ECG tower. Each tower defines a subclass with its own options (`etp_jax/models/towers.py`)."""

    kind: str = ""
    """Name of the tower: `resnet`, `vit`. The other options depend on it."""
    scale: Literal["millivolt", "record", "lead", "min-max"] = "millivolt"
    """Input scaling. `millivolt`: mV; `record`, `lead`: zero mean and unit standard deviation; `min-max`: from 0 to 1
    over all leads of a record (MERL)."""

    @property
    def title(self) -> str:
        """Name and size of the tower, as a page shows them."""
        return self.kind


@dataclass(frozen=True)
class ResNetConfig(EcgConfig):
    """ResNet1D, called ResNet18-1D in the papers."""

    kind: Literal["resnet"] = "resnet"
    depth: Literal[18, 34, 50] = 18
    """Number of layers: basic blocks (18, 34) or bottlenecks (50), in four stages."""
    blocks: tuple[int, ...] = ()
    """Number of residual blocks of each stage, to override those of `depth`; empty: as `depth` gives."""
    width: int = 64
    """Channels of the first stage; every later stage doubles them."""
    stem: Literal["conv", "conv-pool"] = "conv"
    """`conv`: kernel 7, stride 2 (MERL's code); `conv-pool`: the same, then max-pool 3, stride 2."""
    kernel: int = 3
    """Kernel length of the residual convolutions, in samples; odd."""
    norm: Literal["batch", "group"] = "batch"
    """Normalisation after each convolution."""
    pool: Literal["mean", "max", "mean-max", "attention", "stages"] = "mean"
    """Pooling of the last stage over time; `stages`: mean and maximum of every stage."""
    drop_path: float = 0.0
    """Probability that the last residual branch is skipped for an example; it grows linearly with depth."""

    def __post_init__(self) -> None:
        """Raises EtpError for impossible sizes."""
        check_sizes(self, "model.ecg", "width", "kernel")
        check_rates(self, "model.ecg", "drop_path")
        require(all(count >= 0 for count in self.blocks), "model.ecg.blocks", self.blocks, "not be negative")
        if self.kernel % 2 == 0:
            raise EtpError(f"model.ecg.kernel is {self.kernel}; residual branches only line up for an odd kernel")

    @property
    def title(self) -> str:
        """Name and size of the tower, as a page shows them."""
        blocks = "bottlenecks" if self.depth == 50 else "blocks"
        name = f"ResNet-1D of {'-'.join(map(str, self.blocks))} {blocks}" if self.blocks else f"ResNet{self.depth}-1D"
        return f"{name}, width {self.width}"


@dataclass(frozen=True)
class ViTConfig(EcgConfig):
    """Transformer over patches of single leads; the defaults are FOCAL's."""

    kind: Literal["vit"] = "vit"
    patch: int = 100
    """Length of a patch, in samples; it must divide the record length. FOCAL's is one second."""
    width: int = 192
    """Width of a token; a multiple of twice the number of heads."""
    layers: int = 12
    """Number of transformer layers."""
    heads: int = 3
    """Number of attention heads."""
    drop_path: float = 0.0
    """Probability that the last residual branch is skipped for an example; it grows linearly with depth."""

    def __post_init__(self) -> None:
        """Raises EtpError for impossible sizes."""
        check_sizes(self, "model.ecg", "patch", "width", "layers", "heads")
        check_rates(self, "model.ecg", "drop_path")
        if self.width % (2 * self.heads):
            raise EtpError(f"model.ecg.width {self.width} is not a multiple of 2 x heads ({self.heads})")

    @property
    def title(self) -> str:
        """Name and size of the tower, as a page shows them."""
        return f"ViT-1D, {self.layers} layers of width {self.width}, patches of {self.patch} samples"


@dataclass(frozen=True)
class MerlConfig(EcgConfig):
    """MERL's ResNet: `resnet` with a class token that attends to all time steps; it reads one record length only."""

    kind: Literal["merl"] = "merl"
    depth: Literal[18, 34, 50] = 18
    """Number of layers, as for `resnet`."""
    blocks: tuple[int, ...] = ()
    """Number of residual blocks of each stage, to override those of `depth`; empty: as `depth` gives."""
    width: int = 64
    """Channels of the first stage; every later stage doubles them."""
    attention_width: int = 256
    """Width of the class token and of the time steps that it attends to."""
    attention_heads: int = 4
    """Number of attention heads."""

    def __post_init__(self) -> None:
        """Raises EtpError for impossible sizes."""
        check_sizes(self, "model.ecg", "attention_width", "attention_heads")
        _ = self.resnet
        if self.attention_width % self.attention_heads:
            raise EtpError(
                f"model.ecg.attention_width {self.attention_width} is not a multiple of {self.attention_heads} heads"
            )

    @property
    def resnet(self) -> ResNetConfig:
        """The layers before the attention."""
        return ResNetConfig(depth=self.depth, blocks=self.blocks, width=self.width)

    @property
    def title(self) -> str:
        """Name and size of the tower, as a page shows them."""
        return f"{self.resnet.title}, attention of width {self.attention_width}"


@dataclass(frozen=True)
class TextTowerConfig:
    """Text tower, the encoder of the reports."""

    pretrained: str | None = None
    """Hugging Face folder or hub id, or `package:NAME[/SUBFOLDER]` for weights inside an installed Python package.
    None builds a small BERT from scratch with a vocabulary trained on the reports."""
    frozen: bool = False
    """Encode every distinct report once, before training, and train the projection only."""
    trainable: str = ".*"
    """Regular expression that selects the text tower's trained parameters; the others are fixed. It must match the
    whole path of a parameter (`encoder/layer/5/.*`)."""
    pool: Literal["cls", "mean"] = "cls"
    """Pooling over the tokens: the first one, or the mean of all."""
    max_tokens: int = 128
    """Maximum length of a tokenized report."""
    lowercase: Literal["auto", "true", "false"] = "auto"
    """Pretrained only: whether text is lower-cased before it is tokenized. `auto`: as the tokenizer's files specify;
    `transformers` lower-cases where they specify nothing, also with a cased vocabulary."""
    template: str = "{report}"
    """Template applied to a report (or statement, see `unit`) before it is tokenized."""
    unit: Literal["report", "statements"] = "report"
    """Text that a frozen tower encodes at a time. `statements`: each statement of a report separately; the vector of
    the report is the mean of their unit vectors."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """Type in which the devices receive the outputs of a tower before training: those of a frozen tower, and those for
    the similarity of reports. bfloat16 takes half of the memory and rounds them."""
    dropout: float = 0.1
    """Dropout in the tower while it is trained."""
    remat: bool = False
    """Recompute the inside of each trained layer for the gradient: less memory, a third more time. Accelerators only;
    CPUs keep the activations."""
    scan: bool = False
    """Compile one layer and loop over all, while the tower is trained, to save compilation time. Dropout masks differ
    from those without it, and layers that `trainable` leaves out keep their activations."""
    fused_attention: bool = False
    """Compute attention in one kernel (cuDNN's, in bfloat16 on NVIDIA GPUs), while the tower is trained with `dropout`
    0."""
    vocabulary: int = 2000
    """From scratch only: maximum size of the trained WordPiece vocabulary."""
    layers: int = 2
    """From scratch only: number of transformer layers."""
    hidden: int = 128
    """From scratch only: width; the feed-forward layer is four times as wide."""
    heads: int = 4
    """From scratch only: number of attention heads."""

    def __post_init__(self) -> None:
        """Raises EtpError for an impossible rate."""
        check_rates(self, "model.text", "dropout")


@dataclass(frozen=True)
class ModelConfig:
    """The two towers and the joint space."""

    ecg: EcgConfig = field(default_factory=ResNetConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    embedding_dim: int = 128
    """Width of the joint space."""
    projection: Literal["linear", "mlp"] = "linear"
    """Map from a tower's features to the joint space."""
    text_projection: Literal["same", "linear", "mlp", "pooler-mlp"] = "same"
    """Map of the text side, where it differs from `projection`. `pooler-mlp`: BERT's own pooler (a linear layer and a
    tanh), then `mlp`."""
    projection_dropout: float = 0.0
    """Dropout before the projection."""

    def __post_init__(self) -> None:
        """Raises EtpError for impossible sizes."""
        check_sizes(self, "model", "embedding_dim")
        check_rates(self, "model", "projection_dropout")


def tower_class(kind: str, where: str = "model.ecg.kind") -> type[EcgConfig]:
    """Finds the options class of an ECG tower by name, among the imported ones; EtpError if there is none."""
    known = {cls.kind: cls for cls in EcgConfig.__subclasses__()}
    if kind not in known:
        raise EtpError(f"{where}: no ECG tower {kind!r}; there are {', '.join(known)}")
    return known[kind]
