"""All options of a training run, with their units.

A recipe is a Python file that defines `config = TrainConfig(...)`. The command line overrides single fields
(`--optim.learning-rate 1e-3`). The resolved config is saved as `config.json` in the run folder.
"""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from etp_jax.errors import EtpError
from etp_jax.files import read_json, write_text
from etp_jax.json_text import fits
from etp_jax.model_config import (
    EcgConfig,
    MerlConfig,
    ModelConfig,
    ResNetConfig,
    TextTowerConfig,
    ViTConfig,
    require,
    tower_class,
)
from etp_jax.old_options import in_new_layout, without_old_options

__all__ = [  # recipes import every class from here
    "AugmentConfig",
    "DataConfig",
    "EcgConfig",
    "EcgTowerConfig",
    "LossConfig",
    "MerlConfig",
    "ModelConfig",
    "OptimConfig",
    "ResNetConfig",
    "RunConfig",
    "TextTowerConfig",
    "TrainConfig",
    "ViTConfig",
    "from_dict",
    "load",
    "save",
    "to_dict",
    "tower_class",
    "with_tower",
]


def _values(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields all options by their names, those of the parts included."""
    for name, value in vars(options).items():
        if dataclasses.is_dataclass(value):
            yield from _values(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


@dataclass(frozen=True)
class DataConfig:
    """Training data and batch size."""

    shards: str = ""
    """Shard folder written by `etp prep`, or its URL (gs://, s3://, any of fsspec). A URL is copied to the local disk
    once."""
    stage_dir: str = ""
    """Local folder for copies of shards named by URL. The default is a per-user folder under $TMPDIR (/tmp)."""
    train_share: float = 1.0
    """Share of the training patients that is used. A hash of the patient id selects them, so smaller shares are subsets
    of larger ones."""
    batch_size: int = 128
    """ECG-report pairs per step, over all devices and hosts."""
    restored_share: float = 0.0
    """Share of the examples that read the report with restored waveform features (`etp waveform restore`) instead of
    the plain one. A coin decides for each example and step; above 0, which reports are equal, and with
    `loss.semantic_from` `tower` how similar they are, follows from the restored reports of all examples."""
    resident: Literal["auto", "always", "sharded", "never"] = "auto"
    """Whether the training records are kept on the devices, instead of being sent with each batch: all of them on every
    device (`always`), or a part on each (`sharded`). The result is the same. `auto` uses the first of `always`,
    `sharded` and `never` that fits in half of the free memory; on CPU `never`."""
    check_every: int = 64
    """The CRC of every n-th record of a batch is checked as it is read; 1: of all records, 0: of none. Every epoch
    checks other records. Resident records are read once, and all are checked."""

    def __post_init__(self) -> None:
        """Raises EtpError for an impossible share."""
        require(0 <= self.restored_share <= 1, "data.restored_share", self.restored_share, "lie between 0 and 1")

    @property
    def tosses(self) -> bool:
        """Whether a coin decides which of its two reports an example reads."""
        return 0 < self.restored_share < 1


@dataclass(frozen=True)
class AugmentConfig:
    """Random augmentation of the ECG in training; 0 turns a change off."""

    time_shift_s: float = 0.0
    """Maximum time shift in either direction, in seconds; the gap is filled with zeros."""
    lead_dropout: float = 0.0
    """Probability that a lead is silenced; at least one lead always remains."""
    few_leads: float = 0.0
    """Probability that a random set of leads, of random size, is kept and the others are silenced. Use it for encoders
    that must work with one, two or six leads."""


@dataclass(frozen=True)
class LossConfig:
    """Contrastive loss, defined by two choices: what counts as a pair, and how scores become a loss."""

    pairs: str = "own"
    """What counts as a pair. `own`: only the ECG's own report; `equal-masked`: equal reports leave the denominator;
    `equal-positive`: equal reports share the target; `semantic`: targets follow the similarity of the reports."""
    score: str = "softmax"
    """How scores become a loss: `softmax` (InfoNCE) or `sigmoid` (SigLIP)."""
    temperature: float = 0.07
    """Initial temperature; the logit scale is its inverse."""
    learn_temperature: bool = True
    """Whether the temperature is trained."""
    max_logit_scale: float = 100.0
    """Upper bound of the learned logit scale."""
    semantic_from: Literal["tower", "batch"] = "tower"
    """Source of the similarity of two reports. `tower`: the text tower's outputs before training; `batch`: the text
    embeddings of the current step, without gradient (FG-CLEP)."""
    semantic_centre: bool = False
    """Whether the mean vector is taken off before the cosines, which otherwise are all high: with `tower` the mean of
    the distinct training reports (in a validation, of those of the kind that it reads), with `batch` that of the rows
    of the global batch."""
    semantic_temperature: float = 0.1
    """`semantic` pairs with softmax: temperature of the softmax over text-text cosines."""
    semantic_weight: float = 0.5
    """`semantic` pairs with softmax: share of the semantic target; equal reports share the rest."""
    semantic_margin: float | None = None
    """`semantic` pairs with sigmoid: cosine from which on a pair has a target above 0. The target grows linearly from
    there to 1; equal reports have 1. None: the target is (1 + cosine) / 2 (FOCAL), which calls almost every pair a
    match. With a margin, set `semantic_centre` and a `bias`."""
    bias: float | None = -10.0
    """`sigmoid`: initial bias of the scores, learned (-10 is SigLIP's); None: no bias (FOCAL)."""
    fnm_weight: float = 0.0
    """Weight of FG-CLEP's false-negative term: the absolute difference of ECG-text and text-text cosines."""
    fnm_mean: Literal["batch", "pairs"] = "batch"
    """Average of the false-negative term: summed over the pairs of a row and averaged over rows (1 / B, as in the
    paper), or averaged over all pairs (1 / B^2)."""
    block: int = 0
    """Number of columns of the score matrix (rows of the global batch) that a device computes at a time; 0: all. Loss
    and gradients are the same except for rounding. All at once takes several float32 matrices of (batch size /
    devices) rows and (batch size) columns; where they do not fit, set 512 to 8192."""
    ring: bool = False
    """With `block`: pass the embeddings round the devices instead of gathering the whole batch's on each. It saves
    memory if these alone are too large, but every round waits for the network."""

    def __post_init__(self) -> None:
        """Raises EtpError for temperatures, weights and blocks that make no loss."""
        for name in ("temperature", "semantic_temperature"):
            require(getattr(self, name) > 0, f"loss.{name}", getattr(self, name), "be positive")
        for name in ("fnm_weight", "block"):
            require(getattr(self, name) >= 0, f"loss.{name}", getattr(self, name), "not be negative")
        require(not self.ring or self.block > 0, "loss.ring", self.ring, "have a loss.block")
        require(0 <= self.semantic_weight <= 1, "loss.semantic_weight", self.semantic_weight, "lie between 0 and 1")
        if self.semantic_margin is not None:
            require(0 <= self.semantic_margin < 1, "loss.semantic_margin", self.semantic_margin, "lie in [0, 1)")
            require(
                self.pairs == "semantic" and self.score == "sigmoid",
                "loss.semantic_margin",
                self.semantic_margin,
                "go with loss.pairs semantic and loss.score sigmoid",
            )
        if 1 / self.temperature > self.max_logit_scale:
            raise EtpError(
                f"loss.temperature {self.temperature} starts the logit scale at {1 / self.temperature:g}, "
                f"beyond loss.max_logit_scale {self.max_logit_scale:g}"
            )


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    """`adam` adds weight decay to the gradient (L2, as PyTorch's Adam does); `adamw` decouples it."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    text_learning_rate: float | None = None
    """Peak learning rate of a trained text tower; None: that of the other parameters."""
    weight_decay: float = 0.0
    """Weight decay of matrices and kernels; biases and normalisation have none."""
    b1: float = 0.9
    """Decay of Adam's first moment."""
    b2: float = 0.999
    """Decay of Adam's second moment."""
    epochs: float = 10.0
    """Number of passes over the training records."""
    max_steps: int = 0
    """Maximum number of steps, for short runs; 0: no maximum, all `epochs`. A maximum shortens the whole schedule,
    warm-up included."""
    schedule: Literal["constant", "cosine"] = "cosine"
    """Learning rate after the warm-up: constant, or half a cosine to zero."""
    warmup_epochs: float = 0.0
    """Number of epochs of linear learning-rate warm-up."""
    clip_norm: float = 0.0
    """Maximum global gradient norm; 0: no clipping."""
    ema: float = 0.0
    """Decay of the moving average of the parameters, which is then evaluated; 0: no average."""
    micro_batches: int = 1
    """Number of parts in which a device encodes its rows, one after another, for batches that do not fit in memory. The
    loss is still that of the whole batch; a step takes a third longer. The gradient is the same, except with batch
    normalisation: each part (over all devices) is then normalised by its own statistics, and the running statistics
    are updated with the mean over the parts."""


@dataclass(frozen=True)
class RunConfig:
    """How the run is carried out. Except for rounding, none of these options changes what is learned."""

    parallel: Literal["pmap", "shard_map"] = "pmap"
    """JAX transformation that runs a step on all devices; both give the same bits."""
    precision: Literal["auto", "bfloat16", "float32", "float64"] = "auto"
    """Compute type of the towers; `auto` is bfloat16 on TPU and GPU and float32 on CPU. float64 is for tests."""
    steps_per_dispatch: int = 0
    """Training steps fused into one dispatch; fewer before a validation or checkpoint. 0 selects up to 10 where the
    records are resident on an accelerator, else 1. CPUs are several times slower with more than 1."""
    log_every: int = 20
    """Number of steps between two lines of `metrics.jsonl`."""
    validate_every: float = 1.0
    """Number of epochs between two validations."""
    validation_records: int = 0
    """Number of records that a validation reads, a fixed random sample. 0: all of the split, but of a large one no more
    than a tenth of the records trained on since the last validation (never fewer than 4096)."""
    checkpoint_every: int = 200
    """Number of steps between two checkpoints; every validation saves one too."""
    keep: int = 3
    """Number of newest checkpoints that are kept, besides the best. If the newest is damaged, the one before serves."""
    best: Literal["loss", "recall"] = "loss"
    """Validation metric that selects the best checkpoint: the loss, or recall@10 of retrieval. With
    --loss.semantic-from batch the targets change during training, so losses of different steps do not compare well."""
    skip_nonfinite: bool = False
    """Skip a step whose loss or gradient is not finite: the parameters stay, and the step is counted in the metrics.
    Otherwise the run stops there. It stops after 10 such steps in a row in any case."""
    tensorboard: bool = False
    """Also write the metrics for TensorBoard."""
    wandb: str = ""
    """Weights & Biases project to which the run is logged as well; empty: none. It needs the extra `wandb`; without a
    network set WANDB_MODE=offline."""
    deterministic: bool = False
    """On GPUs: the same bits in every run on the same number and kind of devices, also after a stop and resume. XLA
    then uses only deterministic operations and does not choose them by timing, which is slower. It refuses operations
    without a deterministic form (the gradient of max-pooling, `model.ecg.stem = conv-pool`, may be one). CPUs and TPUs
    do not need this option."""


@dataclass(frozen=True)
class TrainConfig:
    """Options of a training run."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    start_from: str = ""
    """Run folder whose best checkpoint gives the initial parameters of this run; the model must be the same."""
    seed: int = 0
    """Seed of the initial weights, the order of the records, augmentation and dropout."""

    def __post_init__(self) -> None:
        """Raises EtpError for a number that is not finite, a text that is not UTF-8, and a seed beyond 63 bits."""
        for option, value in _values(self):
            if isinstance(value, float):
                require(math.isfinite(value), option, value, "be a finite number")
            if isinstance(value, str):  # a path may be any bytes, with which config.json could not be read again
                require(not re.search("[\0\ud800-\udfff]", value), option, value, "be UTF-8 without zero bytes")
        require(0 <= self.seed < 2**63, "seed", self.seed, "be at least 0 and below 2^63")


def with_tower(config: TrainConfig, kind: str) -> TrainConfig:
    """Returns the config with another ECG tower; the tower's own options have their defaults."""
    cls, ecg = tower_class(kind), config.model.ecg
    if isinstance(ecg, cls):
        return config
    return dataclasses.replace(config, model=dataclasses.replace(config.model, ecg=cls(scale=ecg.scale)))


def EcgTowerConfig(**options: Any) -> EcgConfig:
    """The options of an ECG tower by the name and in the layout of version 0.1, for its recipe files."""
    return _build(EcgConfig, in_new_layout(options), "EcgTowerConfig")


def to_dict(config: Any) -> dict[str, Any]:
    """Converts the config to nested plain dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any], where: str = "config") -> TrainConfig:
    """Rebuilds a config from the form of `to_dict`, or from that of version 0.1.

    Options of version 0.1 that are gone are ignored, see `old_options`.

    Args:
      data: options by name; missing ones take their defaults.
      where: name of the source, for messages.

    Raises:
      EtpError: an option is unknown or impossible.
    """
    return _build(TrainConfig, without_old_options(data), where)


def _build(cls: type, data: dict[str, Any], where: str) -> Any:
    if not isinstance(data, dict):
        raise EtpError(f"{where}: must be an object of options")
    if cls is EcgConfig:
        cls = tower_class(data.get("kind", "resnet"), where)
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise EtpError(f"{where}: unknown option {unknown[0]!r}; this version knows {', '.join(sorted(hints))}")

    def value_of(name: str, value: Any) -> Any:
        if dataclasses.is_dataclass(hints[name]):
            return _build(hints[name], value, f"{where}.{name}")
        return tuple(value) if isinstance(value, list) else value

    values = {name: value_of(name, value) for name, value in data.items()}
    for name, value in values.items():
        if not dataclasses.is_dataclass(value) and not fits(value, hints[name]):
            raise EtpError(f"{where}: {name} is {str(value)[:80]!r}; it has another type")
    try:
        return cls(**values)
    except EtpError as error:
        raise EtpError(f"{where}: {error}") from None


def save(config: TrainConfig, path: Path) -> None:
    """Writes the config as JSON."""
    write_text(path, json.dumps(to_dict(config), indent=2) + "\n")


def load(path: Path) -> TrainConfig:
    """Reads a config that `save` wrote; raises EtpError when the file is missing or not a config."""
    data = read_json(path, "name a run folder made by `etp train`")
    try:
        return from_dict(data, where=str(path))
    except (TypeError, AttributeError) as error:
        raise EtpError(f"{path}: not a training config ({error})") from None
