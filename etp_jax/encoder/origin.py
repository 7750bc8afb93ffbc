"""What a model of another project reads, and where its weights are in a file: MERL's, or as a JSON file states."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args, get_type_hints

from etp_jax.config import EcgConfig, MerlConfig, ResNetConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError, listed
from etp_jax.files import read_json
from etp_jax.models.huggingface import LARGEST
from etp_jax.models.resnet1d import BLOCKS
from etp_jax.models.weights import ADVICE as AGAIN
from etp_jax.models.weights import Tensors

Kind = Literal["merl", "torch-state"]
STAGES = 4
POOLS = ("mean", "max", "mean-max")
STEMS = ("conv", "conv-pool")
SCALES: tuple[str, ...] = get_args(get_type_hints(EcgConfig)["scale"])
ECG, HEAD, MARK = "ecg_encoder.", "att_pool_head.", "layer1.0.conv1.weight"
"""Prefixes of the ResNet and of the attention in MERL's model, and a tensor that every ResNet has."""


@dataclass(frozen=True)
class Origin:
    """Input format of a model of another project, and what its weights do not show of its layers."""

    name: str
    """Name of the data that it was trained on, as results show it."""
    fs: int
    """Sampling rate of its input, in Hz."""
    samples: int
    """Length of its input, in samples."""
    leads: tuple[str, ...]
    """Leads of its input, in order."""
    scale: Any
    """Scaling of its input, see `EcgConfig.scale`."""
    stem: Any = "conv"
    """Layers before the first stage, see `ResNetConfig.stem`."""
    pool: Any = "mean"
    """Pooling over time, see `ResNetConfig.pool`."""
    blocks: tuple[int, ...] = ()
    """Number of residual blocks of each stage; empty: those of a ResNet of 18, 34, 50, 101 or 152 layers."""


MERL = Origin(
    name="mimic_iv_ecg",
    fs=500,
    samples=5000,
    leads=("I", "II", "III", "aVR", "aVF", "aVL", "V1", "V2", "V3", "V4", "V5", "V6"),  # MIMIC-IV-ECG's order
    scale="min-max",
)
ABOUT = {"name": str, "fs": int, "samples": int, "leads": [str], "scale": str, "stem": str, "pool": str}
OPTIONAL = {"blocks?": [int]}
ADVICE = f"it states {', '.join(ABOUT)}, and blocks if they are not those of a known ResNet"
DEEPER = ((3, 4, 23, 3), (3, 8, 36, 3))
"""Blocks of the ResNets of 101 and 152 layers, whose blocks are bottlenecks like those of 50."""


def read_origin(kind: Kind, about: Path | None) -> Origin:
    """Returns MERL's input format, or that in a JSON file.

    Raises:
      EtpError: the file is missing, has an unknown field, or states something that this package does not do.
    """
    if kind == "merl":
        if about is not None:
            raise EtpError("--about is for --from torch-state; the input format of MERL is known")
        return MERL
    if about is None:
        raise EtpError(f"--from torch-state needs --about, a JSON file about the model's input and layers: {ADVICE}")
    content = read_json(about, ADVICE, ABOUT | OPTIONAL)
    unknown = sorted(set(content) - {*ABOUT, "blocks"})
    if unknown:
        raise EtpError(f"{about}: {unknown[0]!r} cannot be applied; {ADVICE}")
    for name, known in {"scale": SCALES, "stem": STEMS, "pool": POOLS}.items():
        if content[name] not in known:
            raise EtpError(f"{about}: {name} is {content[name]!r}; this package does {', '.join(known)}")
    if not all(1 <= content[name] <= LARGEST for name in ("fs", "samples")):
        raise EtpError(f"{about}: fs and samples must be from 1 to {LARGEST}")
    leads = content["leads"]
    if not leads or len(set(leads)) < len(leads) or not set(leads) <= set(LEADS):
        raise EtpError(f"{about}: leads is {leads}; each is one of {', '.join(LEADS)}, and none is there twice")
    if not content["name"].strip():
        raise EtpError(f"{about}: name is empty; it is the name of the data that the model was trained on")
    blocks = tuple(content.get("blocks", ()))
    if blocks and (len(blocks) != STAGES or not all(1 <= count <= LARGEST for count in blocks)):
        raise EtpError(f"{about}: blocks is {list(blocks)}; it has the number of blocks of each of the {STAGES} stages")
    return Origin(**{**content, "leads": tuple(leads), "blocks": blocks})


def merl_names(file: Path, tensors: Tensors, kind: Kind) -> tuple[Tensors, list[str]]:
    """Renames tensors to those of MERL's model, whatever prefix training scripts put before them.

    Args:
      file: the file, for messages.
      tensors: tensors by the names in the file.
      kind: `merl`: all of the model is read, if the file has it; `torch-state`: the ResNet only.

    Returns:
      The tensors by MERL's names, and the names of those that are outside of what is read.

    Raises:
      EtpError: there is no ResNet, or more than one.
    """
    ends = [name.removesuffix(MARK) for name in tensors if name == MARK or name.endswith(f".{MARK}")]
    if len(ends) != 1:
        how = f"several ResNets, {listed(ends)}" if ends else f"no ResNet, of which a tensor's name ends in {MARK}"
        raise EtpError(f"{file}: has {how}; its tensors are {listed(sorted(tensors))}")
    prefix, added = ends[0], ECG
    whole = prefix.removesuffix(ECG)
    if kind == "merl" and prefix.endswith(ECG) and any(name.startswith(f"{whole}{HEAD}") for name in tensors):
        prefix, added = whole, ""
    inside = {
        added + name.removeprefix(prefix).replace(".downsample.", ".shortcut."): value
        for name, value in tensors.items()
        if name.startswith(prefix)
    }
    return inside, sorted(name for name in tensors if not name.startswith(prefix))


def tower_of(file: Path, tensors: Tensors, origin: Origin) -> EcgConfig:
    """Returns the options of the tower, with the sizes that the tensors (by MERL's names) have.

    Raises:
      EtpError: the sizes are not those of a ResNet for these leads.
    """
    stem, inner = (_kernel(file, tensors, f"{ECG}{name}.weight") for name in ("conv1", "layer1.0.conv2"))
    if stem[1:] != (len(origin.leads), 7):
        raise EtpError(
            f"{file}: the first convolution reads {stem[1]} leads with a kernel of {stem[2]}; only {len(origin.leads)} "
            "leads, as the model's input has, and a kernel of 7 are supported"
        )
    depths = (50,) if f"{ECG}layer1.0.conv3.weight" in tensors else (18, 34)
    counts = tuple(_blocks(tensors, stage) for stage in range(1, STAGES + 1))
    known = [BLOCKS[depth] for depth in depths]
    if depths == (50,):
        known += DEEPER
    if origin.blocks and counts != origin.blocks:
        stated = list(origin.blocks)
        raise EtpError(f"{file}: has {list(counts)} residual blocks, --about states {stated}; correct it, or {AGAIN}")
    if not origin.blocks and counts not in known:
        advice = AGAIN if origin is MERL else f"{AGAIN}, or state the numbers as blocks in --about"
        raise EtpError(
            f"{file}: has {list(counts)} residual blocks in its four stages, but a whole model has "
            f"{' or '.join(str(list(each)) for each in known)}; {advice}"
        )
    depth = next((depth for depth in depths if BLOCKS[depth] == counts), depths[0])
    sizes: dict[str, Any] = {"depth": depth, "blocks": counts if BLOCKS[depth] != counts else (), "width": stem[0]}
    attention = any(name.startswith(HEAD) for name in tensors)
    width = _kernel(file, tensors, "downconv.weight")[0] if attention else 0
    try:
        if attention:
            return MerlConfig(**sizes, attention_width=width, scale=origin.scale)
        layers: dict[str, Any] = {"kernel": inner[2], "stem": origin.stem, "pool": origin.pool}
        return ResNetConfig(**sizes, **layers, scale=origin.scale)
    except EtpError as error:
        raise EtpError(f"{file}: its tensors have impossible sizes ({error}); {AGAIN}") from None


def _kernel(file: Path, tensors: Tensors, name: str) -> tuple[int, int, int]:
    """Returns the output channels, input channels and length of a one-dimensional convolution."""
    if name not in tensors or tensors[name].ndim != 3:
        found = list(tensors[name].shape) if name in tensors else "missing"
        raise EtpError(f"{file}: {name} is {found}; it must be a one-dimensional convolution")
    outputs, inputs, length = tensors[name].shape
    return outputs, inputs, length


def _blocks(tensors: Tensors, stage: int) -> int:
    """Counts the residual blocks of a stage."""
    return len({name.split(".")[2] for name in tensors if name.startswith(f"{ECG}layer{stage}.")})
