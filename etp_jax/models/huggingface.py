"""Folders of Hugging Face BERTs: where they are, their config, and the parameter tree of `bert.py`.

Every tensor must be used or be known to be unused; any other raises an error that names it.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import huggingface_hub
import huggingface_hub.errors
import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from etp_jax.errors import EtpError, one_line
from etp_jax.files import read_json
from etp_jax.json_text import fits
from etp_jax.models.bert import ACTIVATIONS, Bert, BertConfig
from etp_jax.models.weights import INDEX, WEIGHTS, Names, find_weights, read_weights, weights_sha256

TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "vocab.txt", "added_tokens.json", "special_tokens_map.json")
SIZES = ("num_", "max_", "_size")
"""Starts and ends of the names of sizes in `BertConfig`."""
LARGEST = 1 << 24
"""Largest size that is taken for possible; larger ones exceed the number types of the check of shapes."""
POOLING = ("modules.json", "1_Pooling/config.json", "sentence_bert_config.json")
"""Files of a sentence-transformers folder that describe its pooling and lower-casing."""

HUB_TIMEOUT_S = 10.0
"""Longest wait for the hub's first answer."""


def is_local(source: str) -> bool:
    """Whether `resolve` downloads nothing for a source: a folder, or one inside an installed package."""
    return source.startswith("package:") or Path(source).is_dir()


def resolve(source: str) -> Path:
    """Finds or downloads the folder that holds a text tower's config, weights and tokenizer.

    Args:
        source: a folder; `package:NAME[/SUBFOLDER]`, a folder inside an installed Python package; or a hub id,
            `org/name[@revision]`. The files of a hub id are downloaded, or taken from the hub's local cache when there
            is no network.

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
    """Downloads a text tower's files from the Hugging Face hub, or finds them in its cache when there is no network.

    Args:
      source: `org/name`, or `org/name@revision` for the files of one commit, whatever is published later.
    """
    name, _, revision = source.partition("@")
    # HTTPError is that of the HTTP client which the installed version uses; not all of its errors are OSErrors.
    failures = (OSError, ValueError, huggingface_hub.errors.HTTPError)  # pyright: ignore[reportPrivateImportUsage]
    problem = ""
    try:
        # snapshot_download has no timeout of its own and would hang for ever on a network that drops packets.
        huggingface_hub.model_info(name, revision=revision or None, timeout=HUB_TIMEOUT_S)
    except failures as error:
        problem = str(error).strip().partition("\n")[0] or type(error).__name__
    try:
        for weights in WEIGHTS:
            shards = [f"{weights.partition('.')[0]}-*"] if weights.endswith(INDEX) else []
            patterns = ["config.json", *TOKENIZER, *POOLING, *shards, weights]
            options = {"allow_patterns": patterns, "local_files_only": bool(problem)}
            found = huggingface_hub.snapshot_download(name, revision=revision or None, **options)
            if (Path(found) / weights).exists():
                break
        return Path(found)
    except failures as error:
        problem = problem or str(error).strip().partition("\n")[0] or type(error).__name__
        raise EtpError(
            f"text tower {source!r}: no such folder, and no download from the Hugging Face hub ({problem}); name a "
            "folder with its files, `package:NAME/FOLDER` inside an installed package, or `pretrained = None`"
        ) from None


@contextmanager
def quiet_transformers() -> Iterator[Any]:
    """Imports `transformers` on first use, since that takes seconds, and silences its advice while the block runs."""
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")  # it warns at its import that PyTorch is missing
    transformers: Any = importlib.import_module("transformers")
    verbosity = transformers.logging.get_verbosity()
    transformers.logging.set_verbosity_error()
    try:
        yield transformers
    finally:
        transformers.logging.set_verbosity(verbosity)


def load_bert(folder: Path) -> tuple[BertConfig, dict[str, Any], str]:
    """Reads a BERT's config, parameter tree and SHA-256 of the weights, see `read_config` and `load_params`."""
    config = read_config(folder)
    return config, *load_params(folder, config)


def load_params(folder: Path, config: BertConfig) -> tuple[dict[str, Any], str]:
    """Reads a BERT's weights.

    Args:
        folder: holds one of `WEIGHTS`.
        config: sizes that the weights must have.

    Returns:
        Parameter tree (float32 numpy arrays) and the SHA-256 of the weights.

    Raises:
        EtpError: a missing or unreadable file; a missing or unexpected tensor, or one of the wrong shape.
    """
    file = find_weights(folder)
    tensors = read_weights(file)
    check(tensors, config, file)
    return traverse_util.unflatten_dict(tensors), weights_sha256(file)


def read_config(folder: Path) -> BertConfig:
    """Reads Hugging Face's `config.json`; raises EtpError unless `bert.py` implements its model."""
    file = folder / "config.json"
    raw = read_json(file, "a text tower's folder holds config.json, weights and tokenizer")
    expected = {"model_type": "bert", "position_embedding_type": "absolute", "is_decoder": False}
    for key, value in (expected | {"add_cross_attention": False}).items():
        if raw.get(key, value) != value:
            raise EtpError(f"{file}: {key} is {raw[key]!r}; only {value!r} is supported")
    # Only these fields: of others the library makes objects, such as a name for each of 10**9 labels.
    names = [name for name in BertConfig.__dataclass_fields__ if name != "dropout"]
    with quiet_transformers() as transformers:
        try:
            loaded = transformers.BertConfig(**{name: raw[name] for name in names if name in raw})
        except Exception as error:  # noqa: BLE001 (types differ between versions of the library)
            raise EtpError(f"{file}: not a BERT config ({one_line(error)}); get the file again") from None
    # The recipe sets the dropout rate; the two rates in the file were used in pre-training.
    config = BertConfig(**{name: getattr(loaded, name) for name in names})
    check_config(config, file)
    return config


def check_config(config: BertConfig, file: Path) -> None:
    """Raises EtpError for sizes that are not positive integers, or that no model can have, and for other numbers."""
    sizes = {name: value for name, value in vars(config).items() if name.startswith(SIZES) or name.endswith(SIZES)}
    for name, value in sizes.items():
        if type(value) is not int or value < 1 or value > LARGEST:
            raise EtpError(f"{file}: {name} is {value!r}; it must be a whole number from 1 to {LARGEST}")
    if config.hidden_size % config.num_attention_heads:
        raise EtpError(
            f"{file}: hidden_size {config.hidden_size} is not divisible by {config.num_attention_heads} attention heads"
        )
    if type(config.layer_norm_eps) is not float or not 0 < config.layer_norm_eps < 1:
        raise EtpError(f"{file}: layer_norm_eps is {config.layer_norm_eps!r}; it must be between 0 and 1")
    for name in ("initializer_range", "dropout"):
        if not fits(value := getattr(config, name), float) or not 0 <= value < 1:
            raise EtpError(f"{file}: {name} is {value!r}; it must be at least 0 and less than 1")
    if not fits(config.hidden_act, str) or config.hidden_act not in ACTIVATIONS:
        raise EtpError(f"{file}: unknown hidden_act {config.hidden_act!r}; known are {', '.join(ACTIVATIONS)}")


def check(tensors: dict[Names, np.ndarray], config: BertConfig, file: Path) -> None:
    """Raises EtpError that names the first tensor that is missing, unexpected or of the wrong shape."""
    # One layer more than there are is enough to name what is missing; config.json may ask for any number.
    layers = {path[2] for path in tensors if path[:2] == ("encoder", "layer")}
    config = replace(config, num_hidden_layers=min(config.num_hidden_layers, len(layers) + 1))
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
