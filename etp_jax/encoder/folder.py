"""The folder of an exported encoder, without its text tower; one ships with the package, `etp export` writes others.

The folder has the files of a run folder (`config.json`, `text.json`, `shards.json`), so evaluation and prediction
accept it as a run. Instead of checkpoints it holds

- `encoder.safetensors`: ECG tower, batch statistics, both projections and logit scale, by the names of the Flax tree;
- `prompts.safetensors`: unit embeddings of all prompts of all tasks, so that these need no text tower;
- `calibration.json`: parameters that turn scores into probabilities, and thresholds;
- `reference.safetensors`: unit embeddings of ECGs that a similarity is ranked among, without any ids;
- `encoder.onnx`, `tasks/*.json`: if the export included them;
- `digest.json`: SHA-256 of all files above, which are compared with it when the encoder is loaded;
- `README.md`, `figures/*.png`, `LICENSE`, `NOTICE`: its model card with plots, and the files that the software's
  licence requires.

No other file of such a folder is read, whatever its source.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.flax import save

from etp_jax.encoder import hub
from etp_jax.errors import EtpError, one_line
from etp_jax.files import check_can_write, sha256, whole_file
from etp_jax.json_text import parse_json
from etp_jax.paths import real, regular
from etp_jax.training import digest
from etp_jax.training.run_folder import CONFIG_FILE, SHARDS_FILE, TEXT_FILE

PRETRAINED = Path(__file__).parent.parent / "pretrained"
"""Folder of the shipped encoder, see its `MODEL_CARD.md`."""
SHIPPED = "shipped"
"""Name of the shipped encoder, accepted wherever a run folder is expected."""
ENCODER_FILE = "encoder.safetensors"
PROMPTS_FILE = "prompts.safetensors"
CALIBRATION_FILE = "calibration.json"
REFERENCE_FILE = "reference.safetensors"
ONNX_FILE = "encoder.onnx"
CARD_FILE = "README.md"
LEGAL_FILES = ("LICENSE", "NOTICE")
REQUIRED_FILES = (CONFIG_FILE, TEXT_FILE, SHARDS_FILE, ENCODER_FILE)
SEALED_FILES = (*REQUIRED_FILES, PROMPTS_FILE, CALIBRATION_FILE, REFERENCE_FILE, ONNX_FILE, "tasks/*.json")
"""Files that decide what an exported encoder computes; their digest is in the folder."""
FILES = (*SEALED_FILES, digest.FILE, CARD_FILE, "figures/*.png", *LEGAL_FILES)
"""Files of an exported encoder; no others are copied, uploaded to a hub or downloaded from one."""
FORMAT = "1"
WEIGHTS = "weights"
"""Field of a result's `checkpoint` with the digest of an exported encoder's weights."""
TEXT_TOWER = "text_tower"


def run_folder(name: str | Path) -> Path:
    """Resolves the name of an encoder to its folder.

    Args:
      name: a path; the word `shipped` for the encoder that comes with the package; or `hf://org/name[@revision]` for an
        exported encoder on the Hugging Face Hub, which is downloaded once.

    Raises:
      EtpError: the hub has no such encoder, or cannot be reached.
    """
    if str(name) == SHIPPED:
        return PRETRAINED
    if not hub.is_hub(name):
        return Path(name)
    folder = hub.download(str(name), FILES)
    for required in REQUIRED_FILES:
        if not (folder / required).exists():
            raise EtpError(f"{name}: holds no encoder of `etp export` ({required} is missing)")
    return folder


def is_shipped(folder: Path) -> bool:
    """Whether a folder is that of the shipped encoder, which is never written to."""
    return real(folder) == real(PRETRAINED)


def check_free(folder: Path) -> None:
    """Raises EtpError if a folder cannot be written, or holds something other than an exported encoder."""
    check_can_write(folder)
    if folder.is_file() or (folder.exists() and any(folder.iterdir()) and not (folder / ENCODER_FILE).exists()):
        raise EtpError(f"{folder}: holds something other than an exported encoder; name a new folder")


def copy_encoder(source: Path, folder: Path) -> None:
    """Copies an exported encoder, without the files that evaluations and caches added.

    Raises:
      EtpError: `folder` is `source`, or holds something other than an exported encoder.
    """
    if real(folder) == real(source):
        raise EtpError(f"{folder}: is the folder to be copied; name another folder")
    check_free(folder)
    for file in (file for pattern in FILES for file in folder.glob(pattern)):
        file.unlink()
    for file in (file for pattern in FILES for file in source.glob(pattern)):
        copy = folder / file.relative_to(source)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, copy)


def weights_digest(folder: Path) -> str | None:
    """SHA-256 of the weights of an exported encoder; None for a run folder."""
    file = folder / ENCODER_FILE
    return sha256(file) if file.exists() else None


def is_of(checkpoint: Mapping[str, Any], folder: Path, step: int | None) -> bool:
    """Whether a result's `checkpoint` is the one of this step, and an exported encoder's weights are still the same.

    Results of earlier versions do not name the weights.
    """
    return checkpoint.get("step") == step and (
        WEIGHTS not in checkpoint or checkpoint[WEIGHTS] == weights_digest(folder)
    )


def seal(folder: Path) -> None:
    """Writes the digest of an exported encoder, after its files; `run_folder.load_config` compares them with it."""
    files = (file for pattern in SEALED_FILES for file in folder.glob(pattern))
    digest.write_digest(folder, [file.relative_to(folder).as_posix() for file in files])


def save_encoder(
    folder: Path, variables: dict[str, Any], step: int, dtype: Literal["bfloat16", "float32"] = "bfloat16"
) -> None:
    """Writes batch statistics and all parameters except those of the text tower.

    Args:
      folder: folder to write into.
      variables: {"params", "batch_stats"}.
      step: training step of the variables.
      dtype: data type of the stored arrays.
    """
    flat = flatten_dict(variables, sep="/")
    arrays = {
        name: jnp.asarray(array, dtype) for name, array in flat.items() if not name.startswith(f"params/{TEXT_TOWER}/")
    }
    _write(folder / ENCODER_FILE, arrays, {"format": FORMAT, "step": str(step)})


def load_encoder(folder: Path) -> tuple[dict[str, Any], int]:
    """Reads {"params", "batch_stats"} as float32 NumPy trees, and the step.

    Raises:
      EtpError: the file cannot be read, or has another format.
    """
    file = folder / ENCODER_FILE
    arrays, metadata = _open(file)
    if metadata.get("format") != FORMAT:
        raise EtpError(f"{file}: format {metadata.get('format')}; this version reads {FORMAT}")
    try:
        tree = unflatten_dict({name: np.asarray(array, np.float32) for name, array in arrays.items()}, sep="/")
        return {"params": tree["params"], "batch_stats": tree.get("batch_stats", {})}, int(metadata["step"])
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise EtpError(f"{file}: damaged ({one_line(error)}); export the run again") from None


def save_prompts(folder: Path, prompts: Sequence[tuple[str, bool]], embeddings_PE: NDArray[np.float32]) -> None:
    """Writes the unit embeddings [P, E] of prompts; each prompt has a flag, see `Encoder.text`'s `whole`."""
    _write(folder / PROMPTS_FILE, {"embeddings": jnp.asarray(embeddings_PE)}, {"prompts": json.dumps(prompts)})


def load_prompts(folder: Path) -> dict[tuple[str, bool], NDArray[np.float32]]:
    """Reads the unit embeddings [E] by prompt and its flag `whole`."""
    arrays, metadata = _open(folder / PROMPTS_FILE)
    try:
        keys = [(str(text), bool(whole)) for text, whole in parse_json(metadata["prompts"], [list])]
        return dict(zip(keys, np.asarray(arrays["embeddings"], np.float32), strict=True))
    except (LookupError, ValueError, TypeError) as error:
        raise EtpError(f"{folder / PROMPTS_FILE}: damaged ({one_line(error)}); export the run again") from None


def save_reference(folder: Path, ecg_RE: NDArray[np.float32]) -> None:
    """Writes the unit embeddings [R, E] of reference ECGs as float16."""
    _write(folder / REFERENCE_FILE, {"embeddings": jnp.asarray(ecg_RE, jnp.float16)}, {"format": FORMAT})


def load_reference(folder: Path) -> NDArray[np.float32] | None:
    """Reads the unit embeddings [R, E] of reference ECGs; returns None if there are none."""
    if not (folder / REFERENCE_FILE).exists():
        return None
    return np.asarray(_open(folder / REFERENCE_FILE)[0]["embeddings"], np.float32)


def _write(file: Path, arrays: dict[str, jax.Array], metadata: dict[str, str]) -> None:
    """Writes a safetensors file; equal content gives equal bytes, while the library orders the metadata at random."""
    content = save(arrays, metadata)
    start = 8 + int.from_bytes(content[:8], "little")
    header = json.dumps(json.loads(content[8:start]) | {"__metadata__": metadata}, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    with whole_file(file) as stream:
        stream.write(len(header).to_bytes(8, "little") + header + content[start:])


def _open(file: Path) -> tuple[dict[str, jax.Array], dict[str, str]]:
    try:
        with safe_open(regular(file), framework="flax") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}, opened.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError, TypeError, LookupError, AttributeError) as error:
        raise EtpError(f"{file}: cannot be read ({error}); export the run again") from None
