"""Conversion of Hugging Face BERT weights to the parameter tree of `bert.py`.

Every tensor must be used or be known to be unused; any other raises an error that names it.
"""

from __future__ import annotations

import importlib.util
import json
import pickle
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.numpy
from flax import serialization, traverse_util

from etp_jax.errors import EtpError, one_line
from etp_jax.files import sha256
from etp_jax.models.bert import ACTIVATIONS, Bert, BertConfig

WEIGHTS = ("model.safetensors", "flax_model.msgpack", "pytorch_model.bin")
"""Weight files in order of preference."""

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt")

HUB_TIMEOUT_S = 10.0
"""Longest wait for the hub's first answer."""

Names = tuple[str, ...]


def resolve(source: str) -> Path:
    """Finds or downloads the folder that holds a text tower's config, weights and tokenizer.

    Args:
        source: a folder; `package:NAME[/SUBFOLDER]`, a folder inside an installed Python package; or a hub id. The
            files of a hub id are downloaded, or taken from the hub's local cache when there is no network.

    Raises:
        EtpError: the folder cannot be found or downloaded; the message names the alternatives.
    """
    if source.startswith("package:"):
        name, _, inside = source.removeprefix("package:").partition("/")
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
        if spec is None or not spec.submodule_search_locations:
            raise EtpError(f"text tower {source!r}: no Python package {name!r} is installed; `pip install` it first")
        folder = Path(spec.submodule_search_locations[0]) / inside
        if not folder.is_dir():
            raise EtpError(f"text tower {source!r}: package {name!r} has no folder {inside!r}")
        return folder
    if Path(source).is_dir():
        return Path(source)
    if source.startswith((".", "/", "~")) or source.count("/") > 1:
        raise EtpError(f"text tower {source!r}: no such folder")
    return from_hub(source)


def from_hub(source: str) -> Path:
    """Downloads a text tower's files from the Hugging Face hub, or finds them in its cache when there is no network."""
    # HTTPError is that of the HTTP client which the installed version uses; not all of its errors are OSErrors.
    failures = (OSError, ValueError, huggingface_hub.errors.HTTPError)  # pyright: ignore[reportPrivateImportUsage]
    problem = ""
    try:
        # snapshot_download has no timeout of its own and would hang for ever on a network that drops packets.
        huggingface_hub.model_info(source, timeout=HUB_TIMEOUT_S)
    except failures as error:
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
    try:
        for weights in WEIGHTS:
            patterns = ["config.json", *TOKENIZER, weights]
            found = huggingface_hub.snapshot_download(source, allow_patterns=patterns, local_files_only=bool(problem))
            if (Path(found) / weights).exists():
                break
        return Path(found)
    except failures as error:
        problem = problem or str(error).strip().partition("\n")[0] or type(error).__name__
        raise EtpError(
            f"text tower {source!r}: no such folder, and no download from the Hugging Face hub ({problem}); name a "
            "folder with its files, `package:NAME/FOLDER` inside an installed package, or `pretrained = None`"
        ) from None


def load_bert(folder: Path) -> tuple[BertConfig, dict[str, Any], str]:
    """Reads a BERT's config and weights.

    Args:
        folder: holds `config.json` and one of `WEIGHTS`.

    Returns:
        Config, parameter tree (float32 numpy arrays) and the SHA-256 of the weights file.

    Raises:
        EtpError: an unsupported architecture; a missing or unreadable file; a missing or unexpected tensor, or one of
            the wrong shape.
    """
    config = read_config(folder / "config.json")
    file = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise EtpError(f"{folder}: no weights; expected one of {', '.join(WEIGHTS)}")
    match file.name:
        case "model.safetensors":
            tensors = from_torch(read_safetensors(file))
        case "flax_model.msgpack":
            tensors = from_flax(read_msgpack(file))
        case _:
            tensors = from_torch(read_torch(file))
    check(tensors, config, file)
    params = traverse_util.unflatten_dict({path: np.asarray(value, np.float32) for path, value in tensors.items()})
    return config, params, sha256(file)


def read_config(file: Path) -> BertConfig:
    """Reads Hugging Face's `config.json`; raises EtpError unless `bert.py` implements its model."""
    try:
        raw = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise EtpError(
            f"{file}: no such file; a text tower's folder holds config.json, weights and tokenizer"
        ) from None
    except ValueError as error:
        raise EtpError(f"{file}: not JSON ({error})") from None
    expected = {"model_type": "bert", "position_embedding_type": "absolute"}
    for key, value in expected.items():
        if raw.get(key, value) != value:
            raise EtpError(f"{file}: {key} is {raw[key]!r}; only {value!r} is supported")
    if raw.get("hidden_act", "gelu") not in ACTIVATIONS:
        raise EtpError(f"{file}: unknown hidden_act {raw['hidden_act']!r}; known are {', '.join(ACTIVATIONS)}")
    # The recipe sets the dropout rate; the two rates in the file were used in pre-training.
    fields = [name for name in BertConfig.__dataclass_fields__ if name != "dropout"]
    try:
        return BertConfig(**{name: raw[name] for name in fields if name in raw})
    except TypeError as error:
        raise EtpError(f"{file}: not a complete BERT config ({error})") from None


def read_safetensors(file: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a safetensors file, by PyTorch name."""
    try:
        return safetensors.numpy.load_file(file)
    except (safetensors.SafetensorError, OSError) as error:
        raise EtpError(f"{file}: not a whole safetensors file ({error}); get it again") from None


def read_msgpack(file: Path) -> dict[str, Any]:
    """Reads the parameter tree of a Hugging Face Flax model."""
    try:
        tree = serialization.msgpack_restore(file.read_bytes())
    except (ValueError, TypeError) as error:
        raise EtpError(f"{file}: not a whole Flax msgpack file ({error}); get it again") from None
    if not isinstance(tree, dict):
        raise EtpError(f"{file}: not a parameter tree; get it again")
    return tree


def read_torch(file: Path) -> dict[str, np.ndarray]:
    """Reads the tensors of a PyTorch pickle, by name; only tensors are unpickled."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise EtpError(f"{file}: PyTorch weights; install torch, or convert them to model.safetensors") from None
    try:
        tensors = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise EtpError(f"{file}: not a whole file of plain tensors ({one_line(error)}); get it again") from None
    if not isinstance(tensors, dict) or not all(isinstance(tensor, torch.Tensor) for tensor in tensors.values()):
        raise EtpError(f"{file}: not a dictionary of tensors; convert it to model.safetensors")
    return {name: tensor.float().numpy() for name, tensor in tensors.items()}


def from_torch(tensors: dict[str, np.ndarray]) -> dict[Names, np.ndarray]:
    """Renames PyTorch's tensors to Flax paths and transposes the kernels."""
    result = {}
    for name, value in tensors.items():
        *parents, leaf = name.removeprefix("bert.").split(".")
        if is_unused((*parents, leaf)):
            continue
        leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)  # before 2019
        if leaf == "weight" and parents[-1:] == ["LayerNorm"]:
            leaf = "scale"
        elif leaf == "weight" and parents[:1] == ["embeddings"]:
            leaf = "embedding"
        elif leaf == "weight":
            leaf, value = "kernel", value.T
        result[(*parents, leaf)] = value
    return result


def from_flax(tree: dict[str, Any]) -> dict[Names, np.ndarray]:
    """Flattens the tree of a Hugging Face Flax model; `bert.py` uses the same names."""
    flat: dict[Names, Any] = dict(traverse_util.flatten_dict(tree))
    bare = {path[1:] if path[0] == "bert" else path: value for path, value in flat.items()}
    return {path: value for path, value in bare.items() if not is_unused(path)}


def is_unused(path: Names) -> bool:
    """Whether a tensor is known and not needed by a report encoder: heads, the pooler, and stored index buffers."""
    return path[0] in ("cls", "pooler") or path in {("embeddings", "position_ids"), ("embeddings", "token_type_ids")}


def check(tensors: dict[Names, np.ndarray], config: BertConfig, file: Path) -> None:
    """Raises EtpError that names the first tensor that is missing, unexpected or of the wrong shape."""
    ids = jnp.zeros((1, 1), jnp.int32)
    expected = jax.eval_shape(Bert(config).init, jax.random.key(0), ids, ids)["params"]
    leaves: dict[Names, Any] = dict(traverse_util.flatten_dict(expected))
    shapes = {path: leaf.shape for path, leaf in leaves.items()}
    for path, shape in shapes.items():
        if path not in tensors:
            raise EtpError(f"{file}: lacks the tensor {'/'.join(path)}; get the file again, or check config.json")
        if tensors[path].shape != shape:
            raise EtpError(
                f"{file}: the tensor {'/'.join(path)} has shape {tensors[path].shape}, config.json says {shape}"
            )
    unexplained = sorted(set(tensors) - set(shapes))
    if unexplained:
        raise EtpError(f"{file}: unexplained tensor {'/'.join(unexplained[0])}; this is not a plain BERT encoder")
