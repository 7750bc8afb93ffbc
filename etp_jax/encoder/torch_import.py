"""`etp import`: makes a run folder of the weights of another project's PyTorch model."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from etp_jax import config as config_module
from etp_jax.config import (
    EcgConfig,
    LossConfig,
    MerlConfig,
    ModelConfig,
    OptimConfig,
    ResNetConfig,
    TextTowerConfig,
    TrainConfig,
)
from etp_jax.ecg.leads import LEADS, Filters
from etp_jax.encoder.origin import Kind, Origin, merl_names, read_origin, tower_of
from etp_jax.errors import EtpError, listed
from etp_jax.files import sha256, write_text
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import init_variables
from etp_jax.models.huggingface import read_config, resolve
from etp_jax.models.resnet1d import EXPANSION
from etp_jax.models.sentence_folder import bert_folder
from etp_jax.models.text_tower import TextTower
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.models.torch_names import from_tensors
from etp_jax.models.weights import Tensors, read_tensors
from etp_jax.training import build, run_folder
from etp_jax.training.checkpoint import Checkpoints

STEP = 1
"""Step of the checkpoint: files of weights do not name theirs, and 0 is that of random weights."""
TEXT, TEXT_HEAD = "lm_model.", "proj_t."
"""Prefixes of the text tower and its projection in MERL's model."""
WITHOUT_USE = re.compile(
    r".*\.num_batches_tracked|ecg_encoder\.(linear|fc)\.(weight|bias)|linear[12]\.weight"
    r"|lm_model\.embeddings\.(position_ids|token_type_ids)"
)
"""Tensors that an encoder does not need: counters, classifiers, MERL's heads for pairs of ECGs, stored indices."""
TEMPERATURE = 0.07
"""MERL's temperature, which is not trained and not in the file."""
MAX_TOKENS = 256
"""Length to which MERL cuts its texts."""
NO_BERT = BertConfig(1, 1, 1, 1, 1)
"""Sizes in place of those of a text tower that is not there; nothing is computed with them."""


@dataclasses.dataclass(frozen=True)
class Imported:
    """What an import did."""

    tower: str
    """Name and sizes of the ECG tower."""
    parameters: int
    """Number of parameters of the ECG tower."""
    notes: tuple[str, ...]
    """What was not read, and what follows from it, one line each."""


def import_run(file: Path, out: Path, kind: Kind, text: str | None = None, about: Path | None = None) -> Imported:
    """Writes a run folder with the weights of a file; nothing in the file is executed.

    Args:
      file: PyTorch or safetensors file.
      out: run folder to write.
      kind: `merl`: a model of MERL's code, or its ECG encoder alone; `torch-state`: a ResNet with the same names.
      text: folder or hub id with config and tokenizer of MERL's text tower; None: that tower is not read.
      about: JSON file about the input of a `torch-state`, see `origin.Origin`.

    Raises:
      EtpError: a file cannot be read; the folder is not empty; the options contradict each other; or tensors are
        missing, unknown or of other shapes, which the message lists.
    """
    origin = read_origin(kind, about)
    if out.is_file() or (out.exists() and any(out.iterdir())):
        raise EtpError(f"{out}: holds something already; name a new folder as --out")
    tensors, outside = merl_names(file, read_tensors(file), kind)
    tower = tower_of(file, tensors, origin)
    there = any(name.startswith(TEXT) for name in tensors)
    if text is not None and not there:
        raise EtpError(f"{file}: holds no text tower of {kind}, whose tensors are {TEXT}*; leave --text out")
    digest = sha256(file)
    text_tower = None if text is None else _text(text, digest)
    notes = [f"not read: {listed(outside)}"] * bool(outside)
    if text_tower is None:
        tensors = {name: value for name, value in tensors.items() if not name.startswith((TEXT, TEXT_HEAD))}
        advice = f"; --text FOLDER reads that of {file.name}" * there
        notes.append(f"no text tower: probe and k-NN work, what reads sentences does not{advice}")
    if isinstance(tower, MerlConfig):
        notes.append("features are the attention's; MERL's own linear probe reads the encoder's mean over time")
    model = _model_config(tower, text_tower)
    loss, untrained = LossConfig(temperature=TEMPERATURE, learn_temperature=False), OptimConfig(epochs=0)
    config = TrainConfig(model=model, loss=loss, optim=untrained)
    variables = _variables(file, tensors, config, text_tower, origin)
    source = {"from": kind, "file": file.name, "sha256": digest, "notes": notes}
    _write(out, config, text_tower, origin, source, variables)
    size = sum(leaf.size for leaf in jax.tree.leaves(variables["params"]["ecg_tower"]))
    return Imported(tower.title, size, tuple(notes))


def _text(source: str, digest: str) -> TextTower:
    """Reads config and tokenizer of the text tower; its weights, of this SHA-256, are in the imported file."""
    folder = bert_folder(resolve(source))
    bert, tokenizer = read_config(folder), Tokenizer.from_folder(folder, "true")  # MERL lower-cases all texts
    if tokenizer.size > bert.vocab_size:
        raise EtpError(f"{folder}: the tokenizer has {tokenizer.size} pieces, config.json says {bert.vocab_size}")
    return TextTower(bert, None, tokenizer, source, digest)


def _model_config(tower: EcgConfig, text: TextTower | None) -> ModelConfig:
    """Returns the options of the model; without a projection, the joint space is that of the features."""
    if isinstance(tower, MerlConfig):
        width = tower.attention_width
    else:
        assert isinstance(tower, ResNetConfig)
        width = tower.width * 8 * EXPANSION[tower.depth] * (2 if tower.pool == "mean-max" else 1)
    if text is None:
        return ModelConfig(tower, TextTowerConfig(frozen=True), width)
    most = min(MAX_TOKENS, text.bert_config.max_position_embeddings)
    options = TextTowerConfig(pretrained=text.source, lowercase="true", max_tokens=most)
    return ModelConfig(tower, options, width, text_projection="pooler-mlp")


def _variables(
    file: Path, tensors: Tensors, config: TrainConfig, text: TextTower | None, origin: Origin
) -> dict[str, Any]:
    """Fills the model's parameters and statistics; what the file does not have by design is set here."""
    width = config.model.embedding_dim
    bert = NO_BERT
    if text is not None:
        # One layer more than there are is enough to name what is missing; config.json may ask for any number.
        layers = {name.split(".")[3] for name in tensors if name.startswith(f"{TEXT}encoder.layer.")}
        most = min(text.bert_config.num_hidden_layers, len(layers) + 1)
        bert = dataclasses.replace(text.bert_config, num_hidden_layers=most)
    model = build.build_model(config, bert, jnp.dtype(jnp.float32))
    sizes = {"samples": origin.samples, "leads": len(origin.leads)}
    expected: Any = jax.eval_shape(partial(init_variables, model, **sizes), jax.random.key(0))
    linear = isinstance(config.model.ecg, ResNetConfig)
    own = {"logit_scale"} | ({"ecg_projection"} if linear else set())
    absent = own | ({"text_projection"} if text is None else set())
    expected["params"] = {name: tree for name, tree in expected["params"].items() if name not in absent}
    variables = from_tensors(file, tensors, expected, without_use=WITHOUT_USE)
    variables["params"]["logit_scale"] = np.float32(math.log(1 / TEMPERATURE))
    if linear:
        unchanged = {"kernel": np.eye(width, dtype=np.float32), "bias": np.zeros(width, np.float32)}
        variables["params"]["ecg_projection"] = {"linear": unchanged}
    stem = variables["params"]["ecg_tower"]["stem_conv"]
    stem["kernel"] = stem["kernel"][:, [origin.leads.index(lead) for lead in _leads(origin)]]
    return variables


def _leads(origin: Origin) -> list[str]:
    """Lists the leads in the order of shards; the first convolution is put in this order too."""
    return [lead for lead in LEADS if lead in origin.leads]


def _write(
    out: Path,
    config: TrainConfig,
    text: TextTower | None,
    origin: Origin,
    source: dict[str, Any],
    variables: dict[str, Any],
) -> None:
    """Writes the run folder."""
    out.mkdir(parents=True, exist_ok=True)
    config_module.save(config, out / run_folder.CONFIG_FILE)
    if text is None:
        about = {"source": "", "sha256": "", "frozen": True, "absent": True, "dim": NO_BERT.hidden_size}
        write_text(out / run_folder.TEXT_FILE, json.dumps({**about, "bert": dataclasses.asdict(NO_BERT)}) + "\n")
    else:
        run_folder.write_text_tower(out, config, text)
    about = {"fingerprint": "", "fs": origin.fs, "leads": _leads(origin), "samples": origin.samples}
    about |= {"filters": dataclasses.asdict(Filters()), "name": origin.name, "earlier": [], "imported": source}
    write_text(out / run_folder.SHARDS_FILE, json.dumps(about, indent=1) + "\n")
    with Checkpoints(out, config.run.best) as checkpoints:
        checkpoints.save(STEP, {"step": jnp.int32(STEP), **variables}, {})
