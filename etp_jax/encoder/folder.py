"""An encoder without its text tower, in a folder of its own: what ships with the package, and `etp export` writes.

The folder looks like a run folder (`config.json`, `text.json`, `shards.json`), so whatever evaluates or predicts with a
run reads it too. In place of checkpoints it holds

- `encoder.safetensors`: ECG tower, batch statistics, both projections and logit scale, by the names of the Flax tree;
- `prompts.safetensors`: unit embeddings of all prompts of all tasks, which the text tower is not needed for then;
- `calibration.json`: how scores become probabilities.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from etp_jax.errors import EtpError
from etp_jax.files import whole_file

PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""The encoder that ships, see its `MODEL_CARD.md`."""
SHIPPED = "shipped"
"""Name of the shipped encoder wherever a run folder is asked for."""
ENCODER_FILE = "encoder.safetensors"
PROMPTS_FILE = "prompts.safetensors"
FORMAT = "1"
TEXT_TOWER = "text_tower"


def run_folder(name: str | Path) -> Path:
    """The folder that a user names: a path, or the word `shipped` for the encoder that comes with the package."""
    return PRETRAINED if str(name) == SHIPPED else Path(name)


def is_shipped(folder: Path) -> bool:
    """Whether a folder is the shipped encoder's, into which nothing is written."""
    return folder.resolve() == PRETRAINED.resolve()


def save_encoder(
    folder: Path, variables: dict[str, Any], step: int, dtype: Literal["bfloat16", "float32"] = "bfloat16"
) -> None:
    """Writes parameters (but the text tower's) and batch statistics.

    Args:
      folder: where to.
      variables: {"params", "batch_stats"}.
      step: updates that made them.
      dtype: of the arrays.
    """
    flat = flatten_dict(variables, sep="/")
    arrays = {
        name: jnp.asarray(array, dtype) for name, array in flat.items() if not name.startswith(f"params/{TEXT_TOWER}/")
    }
    _write(folder / ENCODER_FILE, arrays, {"format": FORMAT, "step": str(step)})


def load_encoder(folder: Path) -> tuple[dict[str, Any], int]:
    """{"params", "batch_stats"} as float32 numpy trees, and the step; raises EtpError if the file cannot be read."""
    file = folder / ENCODER_FILE
    arrays, metadata = _open(file)
    if metadata.get("format") != FORMAT:
        raise EtpError(f"{file}: format {metadata.get('format')}; this version reads {FORMAT}")
    tree = unflatten_dict({name: np.asarray(array, np.float32) for name, array in arrays.items()}, sep="/")
    return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}, int(metadata["step"])


def save_prompts(folder: Path, prompts: Sequence[tuple[str, bool]], embeddings_PE: NDArray[np.float32]) -> None:
    """Writes the unit embeddings [P, E] of prompts, each with whether it is all that the text tower reads."""
    _write(folder / PROMPTS_FILE, {"embeddings": jnp.asarray(embeddings_PE)}, {"prompts": json.dumps(prompts)})


def load_prompts(folder: Path) -> dict[tuple[str, bool], NDArray[np.float32]]:
    """Prompt, and whether it is whole → unit embedding [E]."""
    arrays, metadata = _open(folder / PROMPTS_FILE)
    keys = [(text, whole) for text, whole in json.loads(metadata["prompts"])]
    return dict(zip(keys, np.asarray(arrays["embeddings"], np.float32), strict=True))


def _write(file: Path, arrays: dict[str, jax.Array], metadata: dict[str, str]) -> None:
    with whole_file(file) as stream:
        stream.write(save(arrays, metadata))


def _open(file: Path) -> tuple[dict[str, jax.Array], dict[str, str]]:
    try:
        with safe_open(file, framework="flax") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise EtpError(f"{file}: cannot be read ({error}); export the run again") from None
