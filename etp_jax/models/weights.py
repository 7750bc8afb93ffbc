"""Reading of a text tower's weight files: safetensors, Flax msgpack and PyTorch, in one file or in shards.

Nothing in a file is executed. All readers return float32 arrays by the names of `bert.py`.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeGuard

import jax.numpy as jnp
import numpy as np
import safetensors
from flax import serialization, traverse_util

from etp_jax.errors import EtpError, listed, one_line
from etp_jax.files import read_json, sha256
from etp_jax.paths import inside, regular

WEIGHTS = (
    "model.safetensors",
    "model.safetensors.index.json",
    "flax_model.msgpack",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
)
"""Weight files in order of preference; an index names the files of sharded weights."""
INDEX = ".index.json"
WORDS = "embeddings.word_embeddings.weight"
"""Name of the tensor that shows the prefix of a BERT inside a larger model."""
WRAPPERS = ("state_dict", "model_state_dict", "model")
"""Keys under which training scripts save the tensors, beside other dictionaries of tensors."""
DEEPEST = 8
"""Number of dictionaries inside one another in which tensors are looked for; a pickle may contain itself."""
HEADS = ("cls", "classifier", "crf", "lm_head", "mlm_head", "pooler", "qa_outputs", "seq_relationship")
"""First names of tensors that only a pre-training or downstream task needs."""
BUFFERS = {("embeddings", "position_ids"), ("embeddings", "token_type_ids")}
FLOATS = ("float16", "bfloat16", "float32", "float64")
TORCH = (2, 6)
"""First version of torch whose `weights_only` holds (CVE-2025-32434)."""
ADVICE = "get the file again"

Names = tuple[str, ...]
Tensors = dict[str, np.ndarray]


def find_weights(folder: Path) -> Path:
    """Finds the weights file of a folder, or the index of sharded weights; EtpError if there is none."""
    file = next((folder / name for name in WEIGHTS if (folder / name).exists()), None)
    if file is None:
        raise EtpError(f"{folder}: no weights; expected one of {', '.join(WEIGHTS)}")
    return file


def weights_sha256(file: Path) -> str:
    """SHA-256 of a weights file; for an index, that of the SHA-256 of its shards in order of their names."""
    if not file.name.endswith(INDEX):
        return sha256(file)
    return hashlib.sha256("".join(map(sha256, shards_of(file))).encode()).hexdigest()


def read_weights(file: Path) -> dict[Names, np.ndarray]:
    """Reads the tensors of a text tower by their Flax path.

    Args:
        file: a weights file, or the index of sharded weights.

    Raises:
        EtpError: a file is missing or damaged, or has tensors that are not floating-point or not finite.
    """
    if file.name.endswith(INDEX):
        tensors = from_torch(file, read_shards(file))
    elif file.suffix == ".msgpack":
        tensors = from_flax(read_msgpack(file))
    else:
        tensors = from_torch(file, read_tensors(file))
    return {path: as_float32(file, path, value) for path, value in tensors.items()}


def as_float32(file: Path, path: Names, value: Any) -> np.ndarray:
    """Converts a tensor to float32; raises EtpError for integers, which are quantised weights, and for NaN."""
    dtype = str(getattr(value, "dtype", type(value).__name__))
    if dtype not in FLOATS:
        raise EtpError(f"{file}: the tensor {'/'.join(path)} is {dtype}; only {', '.join(FLOATS)} are read")
    array = np.asarray(value, np.float32)
    if not np.isfinite(array).all():
        raise EtpError(f"{file}: the tensor {'/'.join(path)} has values that are not finite; {ADVICE}")
    return array


def shards_of(index: Path) -> list[Path]:
    """Lists the files that an index of sharded weights names, which must be in its own folder."""
    names = read_json(index, ADVICE).get("weight_map")
    if not isinstance(names, dict) or not names or not all(isinstance(name, str) for name in names.values()):
        raise EtpError(f"{index}: weight_map does not name the file of each tensor; {ADVICE}")
    suffix = Path(index.name.removesuffix(INDEX)).suffix
    files = sorted(set(names.values()))
    for name in files:
        if not name.endswith(suffix):
            raise EtpError(f"{index}: names {name!r}; shards are {suffix} files in the same folder")
        if not inside(index.parent, name, str(index), subfolders=False).is_file():
            raise EtpError(f"{index}: names {name!r}, which is not in the folder; get it too")
    return [index.parent / name for name in files]


def read_shards(index: Path) -> Tensors:
    """Reads the tensors of all files that an index names; raises EtpError when index and files disagree."""
    tensors: Tensors = {}
    for file in shards_of(index):
        found = read_tensors(file)
        twice = sorted(tensors.keys() & found.keys())
        if twice:
            raise EtpError(f"{file}: the tensor {twice[0]} is in another shard too; {ADVICE}")
        tensors |= found
    missing = sorted(read_json(index, ADVICE)["weight_map"].keys() - tensors.keys())
    if missing:
        raise EtpError(f"{index}: the tensor {missing[0]} is in none of the shards; get them again")
    return tensors


def read_tensors(file: Path) -> Tensors:
    """Reads the tensors of a safetensors or PyTorch file, by PyTorch name; EtpError if it is neither."""
    try:
        with regular(file).open("rb") as opened:
            start = opened.read(9)  # safetensors: the length of a JSON object in 8 bytes, then that object
    except OSError as error:
        raise EtpError(f"{file}: cannot be read ({one_line(error)}); name a file of weights") from None
    return read_safetensors(file) if file.suffix == ".safetensors" or start[8:] == b"{" else read_torch(file)


def read_safetensors(file: Path) -> Tensors:
    """Reads the tensors of a safetensors file, by PyTorch name."""
    try:
        with safetensors.safe_open(regular(file), framework="np") as opened:
            return {name: _tensor(file, opened, name) for name in opened.keys()}  # noqa: SIM118
    except (safetensors.SafetensorError, OSError, ValueError, TypeError, LookupError) as error:
        raise EtpError(f"{file}: not a whole safetensors file ({one_line(error)}); {ADVICE}") from None


def _tensor(file: Path, opened: safetensors.safe_open, name: str) -> np.ndarray:
    try:
        return opened.get_tensor(name)
    except AttributeError:  # numpy has no such type
        dtype = opened.get_slice(name).get_dtype()
        raise EtpError(f"{file}: the tensor {name} is {dtype}; only {', '.join(FLOATS)} are read") from None


def read_msgpack(file: Path) -> dict[str, Any]:
    """Reads the parameter tree of a Hugging Face Flax model."""
    try:
        tree = serialization.msgpack_restore(regular(file).read_bytes())
    except (ValueError, TypeError) as error:
        raise EtpError(f"{file}: not a whole Flax msgpack file ({error}); {ADVICE}") from None
    if not isinstance(tree, dict):
        raise EtpError(f"{file}: not a parameter tree; {ADVICE}")
    return tree


def read_torch(file: Path) -> Tensors:
    """Reads the tensors of a PyTorch pickle, by name; only tensors are unpickled."""
    try:
        import torch  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise EtpError(f"{file}: PyTorch weights; install torch, or convert them to model.safetensors") from None
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < TORCH:
        raise EtpError(
            f"{file}: PyTorch weights, of which torch {torch.__version__} may run code; install torch "
            f"{'.'.join(map(str, TORCH))} or later, or convert them to model.safetensors"
        )
    try:
        with warnings.catch_warnings(action="ignore"):  # about files of bare pickles, which are refused below
            content = torch.load(regular(file), map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:  # its message advises to run the code in the file
        raise EtpError(
            f"{file}: not a whole file of plain tensors; {ADVICE}, or convert it to model.safetensors"
        ) from None
    except (EtpError, MemoryError):
        raise
    except Exception as error:  # noqa: BLE001 (a damaged file raises whatever the unpickler was doing)
        raise EtpError(f"{file}: not a whole file of plain tensors ({one_line(error)}); {ADVICE}") from None

    def as_numpy(name: str, tensor: Any) -> np.ndarray:
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.layout != torch.strided or tensor.is_nested or tensor.device.type != "cpu":
            raise EtpError(f"{file}: the tensor {name} is sparse, nested or without values; save it as a dense one")
        tensor = tensor.detach()
        try:
            # Nothing is copied, so that the size which a file claims is checked before it is allocated.
            return (
                tensor.view(torch.uint16).numpy().view(jnp.dtype(jnp.bfloat16))
                if kind == "bfloat16"
                else tensor.numpy()
            )
        except (TypeError, RuntimeError):  # 8-bit floats and quantised tensors have no meaning without their scales
            raise EtpError(f"{file}: the tensor {name} is {kind}; only {', '.join(FLOATS)} are read") from None

    tensors = _tensors_in(file, content, lambda value: isinstance(value, torch.Tensor))
    return {name: as_numpy(name, tensor) for name, tensor in tensors.items()}


def _tensors_in(file: Path, content: Any, is_tensor: Callable[[Any], bool]) -> dict[str, Any]:
    """Returns the dictionary of tensors in what a training script saved: all of it, or one of its entries.

    Raises:
      EtpError: there is no such dictionary, or several; the message lists what there is.
    """

    def holds_tensors(value: Any) -> bool:
        return _is_dict(value) and bool(value) and all(map(is_tensor, value.values()))

    for _ in range(DEEPEST):
        if not _is_dict(content) or holds_tensors(content):
            break
        named = [content[key] for key in WRAPPERS if key in content][:1]
        inner = [value for value in named or content.values() if _is_dict(value) and value]
        inner = [value for value in inner if holds_tensors(value)] or inner
        if len(inner) != 1:
            break
        (content,) = inner
    if holds_tensors(content):
        return content
    found = f"it is a {type(content).__name__}"
    if isinstance(content, dict):
        others = [f"{name} ({type(value).__name__})" for name, value in content.items() if not is_tensor(value)]
        beside = f" beside {len(content) - len(others)} tensors" * (len(others) < len(content))
        found = f"it has {listed(others)}{beside}" if others else "it is empty, or its keys are not names"
    raise EtpError(f"{file}: not a dictionary of tensors: {found}; save the state_dict of the model alone")


def _is_dict(content: Any) -> TypeGuard[dict[str, Any]]:
    return isinstance(content, dict) and all(isinstance(name, str) for name in content)


def from_torch(file: Path, tensors: Tensors) -> dict[Names, np.ndarray]:
    """Renames PyTorch's tensors to Flax paths and transposes the kernels."""
    result = {}
    for name, value in bare_names(file, tensors).items():
        *parents, leaf = name.split(".")
        if is_unused((*parents, leaf)):
            continue
        leaf = {"gamma": "weight", "beta": "bias"}.get(leaf, leaf)  # before 2019
        if leaf == "weight" and parents[-1:] == ["LayerNorm"]:
            leaf = "scale"
        elif leaf == "weight" and parents[:1] == ["embeddings"]:
            leaf = "embedding"
        elif leaf == "weight":
            leaf, value = "kernel", value.T
        if (*parents, leaf) in result:
            raise EtpError(f"{file}: has the tensor {name} under an old name too; {ADVICE}")
        result[(*parents, leaf)] = value
    return result


def bare_names(file: Path, tensors: Tensors) -> Tensors:
    """Removes the prefix of a BERT inside another model (`bert.`, `module.bert.`, `0.auto_model.`) and its heads.

    Raises:
        EtpError: there are several BERTs, or a tensor outside of the prefix is not one of `HEADS`.
    """
    prefixes = [name.removesuffix(WORDS) for name in tensors if name == WORDS or name.endswith(f".{WORDS}")]
    if len(prefixes) > 1:
        raise EtpError(f"{file}: holds several BERTs ({', '.join(prefixes)}); save the text tower alone")
    prefix = prefixes[0] if prefixes else ""
    wrappers = prefix.split(".")[:-1]
    result = {}
    for name, value in tensors.items():
        if name.startswith(prefix):
            result[name.removeprefix(prefix)] = value
        elif next((part for part in name.split(".") if part not in wrappers), "") not in HEADS:
            raise EtpError(f"{file}: unexplained tensor {name}; this is not a plain BERT encoder")
    return result


def from_flax(tree: dict[str, Any]) -> dict[Names, np.ndarray]:
    """Flattens the tree of a Hugging Face Flax model; `bert.py` uses the same names."""
    flat: dict[Any, Any] = dict(traverse_util.flatten_dict(tree))
    bare = {tuple(map(str, path[1:] if path[0] == "bert" else path)): value for path, value in flat.items()}
    return {path: value for path, value in bare.items() if not is_unused(path)}


def is_unused(path: Names) -> bool:
    """Whether a tensor is known and not needed by a report encoder: heads, the pooler, and stored index buffers."""
    return path[0] in HEADS or path in BUFFERS
