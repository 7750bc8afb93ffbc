"""Every option of a training run, with its unit, in one place.

A recipe is a file `config = TrainConfig(...)`; the command line overrides single fields
(`--optim.learning-rate 1e-3`); the resolved copy is saved as `config.json` in the run folder.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_type_hints

from etp_jax.errors import EtpError


@dataclass(frozen=True)
class DataConfig:
    """Which pairs are read, and how many at a time."""

    shards: str = ""
    """Shard folder written by `etp prep`, or its URL (gs://, s3://, any of fsspec), which is copied to the local disk
    once."""
    stage_dir: str = ""
    """Local folder for copies of shards named by URL; by default one of the user's under $TMPDIR (/tmp)."""
    train_split: str = "train"
    train_share: float = 1.0
    """Share of the training patients who take part, always the same ones: chosen by a hash of the patient id."""
    validation_split: str = "validation"
    batch_size: int = 128
    """ECG-report pairs a step, over all devices and hosts."""
    prefetch: int = 2
    """Batches (of so many steps as a dispatch makes) held ready on the devices."""
    resident: Literal["auto", "always", "never"] = "auto"
    """Whether the training split's records are put on every device before the first step, and batches gathered there;
    what is learned is the same. `auto`: where they fit in `data.resident_share`; never on CPU."""
    resident_share: float = 0.5
    """Greatest share of a device's free memory (beside parameters and reports) that `auto` gives to the records."""


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of the ECG in training; 0 turns each off."""

    time_shift_s: float = 0.0
    """Greatest circular-free shift either way, in seconds; the gap is filled with zeros."""
    amplitude: float = 0.0
    """Greatest relative change of the gain of the whole record: the factor is uniform in [1 - a, 1 + a]."""
    lead_dropout: float = 0.0
    """Probability that a lead is silenced; at least one lead always stays."""
    few_leads: float = 0.0
    """Probability that only some leads stay: a random set of random size, from one lead to all; for encoders that are
    to read one, two or six leads."""
    noise_uv: float = 0.0
    """Standard deviation of added white noise, in microvolt."""
    wander_uv: float = 0.0
    """Greatest amplitude of added baseline wander (0.05-0.5 Hz), in microvolt."""
    time_mask_s: float = 0.0
    """Length of one stretch set to zero in all leads, in seconds."""


@dataclass(frozen=True)
class EcgTowerConfig:
    """The ECG encoder."""

    kind: Literal["resnet", "vit"] = "resnet"
    """`resnet`: ResNet1D, what the papers call ResNet18-1D; `vit`: transformer over patches of single leads."""
    depth: Literal[18, 34, 50] = 18
    width: int = 64
    """Channels of the first stage; every later stage doubles them."""
    stem: Literal["conv", "conv-pool"] = "conv"
    """`conv`: kernel 7, stride 2 (MERL's code); `conv-pool`: the same, then max-pool 3, stride 2."""
    kernel: int = 3
    """Kernel length of the residual convolutions, in samples."""
    norm: Literal["batch", "group"] = "batch"
    pool: Literal["mean", "max", "mean-max", "attention"] = "mean"
    patch: int = 100
    """`vit`: length of a patch, in samples; it divides the record. FOCAL's is one second."""
    vit_width: int = 192
    vit_layers: int = 12
    vit_heads: int = 3
    scale: Literal["millivolt", "record", "lead"] = "millivolt"
    """Input scaling: plain mV; or each record, or each lead, to zero mean and unit deviation."""
    drop_path: float = 0.0
    """Probability that the last residual branch is skipped for an example; grows linearly with depth."""


@dataclass(frozen=True)
class TextTowerConfig:
    """The report encoder."""

    pretrained: str | None = None
    """Hugging Face folder or hub id, or `package:NAME[/SUBFOLDER]` for weights inside an installed Python
    package; None builds a small BERT from scratch with a vocabulary trained on the reports."""
    frozen: bool = False
    """Encode every distinct report once, before training, and train the projection only."""
    trainable: str = ".*"
    """Regular expression that must match a text tower parameter's whole path (`encoder/layer/5/.*`) for it to be
    trained; the rest stays fixed."""
    pool: Literal["cls", "mean"] = "cls"
    max_tokens: int = 128
    template: str = "{report}"
    """Sentence made of a report (or statement, see `unit`) before it is tokenized."""
    unit: Literal["report", "statements"] = "report"
    """Frozen only: what the tower reads at a time. `statements`: each statement of a report by itself; the report's
    vector is the mean of their unit vectors."""
    dropout: float = 0.1
    """Dropout in the tower while it is trained."""
    remat: bool = False
    """While it is trained, compute the inside of each layer a second time for the gradient instead of keeping it: less
    memory, a third more time (on accelerators; CPUs keep it all the same)."""
    scan: bool = False
    """While it is trained, compile one layer and loop over all: less to compile. Dropout draws other masks, and layers
    that `trainable` leaves out keep their activations all the same."""
    fused_attention: bool = False
    """While it is trained with `dropout` 0: attention by one kernel (cuDNN's, in bfloat16 on NVIDIA GPUs)."""
    vocabulary: int = 2000
    """From scratch only: greatest size of the trained WordPiece vocabulary."""
    layers: int = 2
    """From scratch only: transformer layers."""
    hidden: int = 128
    """From scratch only: width; the feed-forward layer is four times as wide."""
    heads: int = 4
    """From scratch only: attention heads."""


@dataclass(frozen=True)
class ModelConfig:
    """Two towers and what joins them."""

    ecg: EcgTowerConfig = field(default_factory=EcgTowerConfig)
    text: TextTowerConfig = field(default_factory=TextTowerConfig)
    embedding_dim: int = 128
    """Width of the joint space."""
    projection: Literal["linear", "mlp"] = "linear"
    projection_dropout: float = 0.0


@dataclass(frozen=True)
class LossConfig:
    """A loss is two choices: what counts as a pair, and how scores become a loss."""

    pairs: Literal["own", "equal-masked", "equal-positive", "semantic"] = "own"
    """`own`: only its own report; `equal-masked`: equal reports leave the denominator; `equal-positive`: equal
    reports share the target; `semantic`: targets follow the similarity of the reports' text embeddings."""
    score: Literal["softmax", "sigmoid"] = "softmax"
    temperature: float = 0.07
    """Temperature at the start; the logit scale is its inverse."""
    learn_temperature: bool = True
    max_logit_scale: float = 100.0
    semantic_from: Literal["tower", "batch"] = "tower"
    """What tells how alike two reports are: `tower`, the text tower's outputs before training; `batch`, the text
    embeddings of the step itself, without gradient (FG-CLEP)."""
    semantic_temperature: float = 0.1
    """`semantic` pairs with softmax: temperature of the softmax over text-text cosines."""
    semantic_weight: float = 0.5
    """`semantic` pairs with softmax: share of the semantic target; the rest falls on equal reports."""
    bias: float | None = -10.0
    """`sigmoid`: bias of the scores at the start, learned (-10: SigLIP's); None: there is none (FOCAL)."""
    fnm_weight: float = 0.0
    """Weight of FG-CLEP's false-negative term: how far ECG-text cosines are from the text-text ones, without sign."""
    fnm_mean: Literal["batch", "pairs"] = "batch"
    """How that term is averaged, of which there are two readings: summed over a row's pairs and averaged over the rows
    (1 / B, as written), or averaged over all pairs (1 / B^2)."""
    block: int = 0
    """Columns of the score matrix (rows of the global batch) that a device compares its rows with at a time; the loss
    and its gradients are the same, but for rounding. 0: all at once, while memory has room for several float32 matrices
    of (batch size / devices) rows and (batch size) columns. For large batches 512 or so."""


@dataclass(frozen=True)
class OptimConfig:
    """The optimiser and its schedule."""

    name: Literal["adamw", "adam"] = "adamw"
    """`adam` adds weight decay to the gradient (L2, as PyTorch's Adam does); `adamw` decouples it."""
    learning_rate: float = 1e-3
    text_learning_rate: float | None = None
    """Learning rate of a trained text tower; None means the same."""
    weight_decay: float = 0.0
    b1: float = 0.9
    b2: float = 0.999
    epochs: float = 10.0
    schedule: Literal["constant", "cosine"] = "cosine"
    warmup_epochs: float = 0.0
    clip_norm: float = 0.0
    """Greatest global gradient norm; 0 does not clip."""
    ema: float = 0.0
    """Decay of the moving average of the parameters that is evaluated; 0 evaluates the parameters themselves."""
    micro_batches: int = 1
    """Parts that a device encodes its rows in, one after the other, for batches that memory has no room for; the loss
    is still that of the whole batch, and a step takes a third longer. The gradient is the same, but with
    `model.ecg.norm = batch`: each part (of all devices) is then normalised by its own statistics, as a smaller batch
    would be, and running statistics take the mean of the parts'."""


@dataclass(frozen=True)
class RunConfig:
    """How the run is carried out. None of these changes what is learned, but for rounding."""

    parallel: Literal["pmap", "shard_map"] = "pmap"
    precision: Literal["auto", "bfloat16", "float32", "float64"] = "auto"
    """Compute type of the towers; `auto` is bfloat16 on TPU and GPU and float32 on CPU. float64 is for tests."""
    steps_per_dispatch: int = 0
    """Steps that the devices make between two words with the host, fewer before a validation or checkpoint. 0 chooses:
    up to 10 where the records are resident on an accelerator, else 1. CPUs take several times as long for more than 1:
    their convolutions are slow inside a loop."""
    log_every: int = 20
    """Steps between two lines of `metrics.jsonl`."""
    validate_every: float = 1.0
    """Epochs between two validations."""
    checkpoint_every: int = 200
    """Steps between two checkpoints; every validation saves one too."""
    best: Literal["loss", "recall"] = "loss"
    """What of pre-training validation decides the best checkpoint: the loss, or recall@10 of retrieval. Targets of
    --loss.semantic-from batch move with the training, so that losses of different steps do not compare well."""
    tensorboard: bool = False
    wandb: str = ""
    """Project of Weights & Biases that the run is logged to as well; empty: none. It needs the extra `wandb`; without a
    network set WANDB_MODE=offline."""
    deterministic: bool = False
    """On GPUs: the same bits in every run, stopped and resumed or not, on the same number and kind of devices. XLA then
    takes only operations of a fixed order and does not choose them by timing, which is slower; it refuses those that it
    has in no other form (max-pool's gradient, `model.ecg.stem = conv-pool`, may be one). CPUs and TPUs need no option.
    """


@dataclass(frozen=True)
class TrainConfig:
    """A training run."""

    data: DataConfig = field(default_factory=DataConfig)
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    run: RunConfig = field(default_factory=RunConfig)
    start_from: str = ""
    """Run folder whose best checkpoint's parameters this run begins with; the model must be the same."""
    seed: int = 0
    """Decides initial weights, order and augmentation."""


def to_dict(config: Any) -> dict[str, Any]:
    """The config as nested plain dictionaries, ready for JSON."""
    return dataclasses.asdict(config)


def from_dict(data: dict[str, Any], cls: type = TrainConfig, where: str = "config") -> Any:
    """Rebuilds a config from `to_dict`'s form; unknown keys raise EtpError, missing ones take their defaults."""
    hints = get_type_hints(cls)
    unknown = sorted(set(data) - set(hints))
    if unknown:
        raise EtpError(f"{where}: unknown option {unknown[0]!r}; this version knows {', '.join(sorted(hints))}")
    values = {
        name: from_dict(value, hints[name], f"{where}.{name}") if dataclasses.is_dataclass(hints[name]) else value
        for name, value in data.items()
    }
    return cls(**values)


def save(config: TrainConfig, path: Path) -> None:
    """Writes the config as JSON."""
    path.write_text(json.dumps(to_dict(config), indent=2) + "\n", encoding="utf-8")


def load(path: Path) -> TrainConfig:
    """Reads what `save` wrote; raises EtpError when the file is missing or not a config."""
    try:
        return from_dict(json.loads(path.read_text(encoding="utf-8")), where=str(path))
    except FileNotFoundError:
        raise EtpError(f"{path}: no such file; a run folder made by `etp train` holds one") from None
    except (json.JSONDecodeError, TypeError, AttributeError) as error:
        raise EtpError(f"{path}: not a training config ({error})") from None
