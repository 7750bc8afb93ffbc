"""Embeddings of ECGs and reports by a trained encoder, or by the same architecture with random weights."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from numpy.typing import ArrayLike, NDArray

from etp_jax import __version__
from etp_jax.config import TextTowerConfig, TrainConfig
from etp_jax.ecg.leads import applied
from etp_jax.encoder.folder import ENCODER_FILE, PROMPTS_FILE, load_encoder, load_prompts
from etp_jax.errors import EtpError, option
from etp_jax.files import whole_file
from etp_jax.json_text import check_types
from etp_jax.models.bert import BertConfig
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.models.huggingface import check_config
from etp_jax.models.text_tower import TextTower, apply_template, encode_table, frozen_outputs
from etp_jax.models.tokens import tokenize
from etp_jax.npz import read_npz
from etp_jax.plain import plain_line
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards, Split
from etp_jax.training import build, checkpoint, run_folder
from etp_jax.training.run_folder import read_about

BATCH = 64
"""Number of records per device and call."""
SIGNALS = 32
"""Batch size for several ECGs that are given to `Encoder.signals`."""
TEXT_TYPES = {"bert": {str: (int, float, str)}, "frozen": bool, "absent?": bool, "sha256?": (str, type(None))}
SOURCE_TYPES = {"from": str, "file": str, "sha256": str, "notes": [str]}
TRAINED_ON_TYPES = {
    **{"fs": float, "samples": int, "leads": [str], "name": str, "fingerprint": str},
    "imported?": SOURCE_TYPES,
}
"""Types of the fields of `text.json` and `shards.json` that are read."""
MOST_HZ, MOST_SAMPLES = 10**6, 10**7
"""Largest sampling rate and number of samples of what an encoder reads."""
ECG_PARTS = ("ecg_tower", "ecg_projection")
CACHE_FOLDER = ".cache"
"""Subfolder of a run folder that caches embeddings; it may be deleted."""
OF = "of"
"""Array of a cached file that holds its name, so that the file is not taken for another one that it replaced."""
_reported: set[int | None] = set()
"""Reasons why something was not cached that this process has printed: a full disk would repeat its own each time."""


@dataclass(frozen=True)
class Encoder:
    """Both towers in evaluation mode, in float32 regardless of the training precision."""

    run_dir: Path
    config: TrainConfig
    trained_on: dict[str, Any]
    """Content of the run's `shards.json`, which describes its training data."""
    model: DualEncoder
    variables: dict[str, Any]
    """Flax variables, {"params", "batch_stats"}, in float32."""
    text_about: dict[str, Any]
    """Content of the run's `text.json`, which describes its text tower."""
    step: int
    """Number of training steps; 0 for random weights."""
    train_seed: int
    """Seed of the training, or of the random weights."""

    @classmethod
    def from_run(
        cls, run_dir: Path, which: Literal["best", "latest"] | int = "best", text_tower: str | None = None
    ) -> Encoder:
        """Loads a checkpoint of a run, or the encoder in a folder written by `etp export`.

        Args:
          run_dir: folder of the run or encoder.
          which: checkpoint of a run; a number is its step.
          text_tower: present source of the frozen text tower, see `model.text.pretrained`; None: that of the run.

        Raises:
          EtpError: the folder has no such checkpoint, or its files were not written by `etp train`; or `text_tower` is
            given for a run that trained its text tower.
        """
        config = run_folder.load_config(run_dir)
        if (run_dir / ENCODER_FILE).exists():
            if which != "best":
                raise EtpError(f"{run_dir}: an exported encoder has a single checkpoint; omit {option('checkpoint')}")
            variables, step = load_encoder(run_dir)
        else:
            params, batch_stats, step = checkpoint.restore_params(run_dir, which, config.run.best)
            variables = {"params": params, "batch_stats": batch_stats}
        trained_on, text_about = (read_about(run_dir / name) for name in (run_folder.SHARDS_FILE, run_folder.TEXT_FILE))
        try:
            check_types(text_about, TEXT_TYPES)
            check_types(trained_on, TRAINED_ON_TYPES)
            bert = BertConfig(**text_about["bert"])
        except (ValueError, TypeError) as error:
            files = f"{run_folder.TEXT_FILE} or {run_folder.SHARDS_FILE}"
            raise EtpError(f"{run_dir}: {files} was not written by `etp train` ({error})") from None
        check_config(bert, run_dir / run_folder.TEXT_FILE)
        if text_tower is not None:
            if not text_about["frozen"]:
                raise EtpError(f"{run_dir}: the text tower was trained in this run; omit {option('text-tower')}")
            text = dataclasses.replace(config.model.text, pretrained=text_tower)
            config = dataclasses.replace(config, model=dataclasses.replace(config.model, text=text))
        model = build.build_model(config, bert, jnp.dtype(jnp.float32))
        _check_fit(run_dir, model, variables, trained_on)
        return cls(run_dir, config, trained_on, model, _float32(variables), text_about, step, config.seed)

    @property
    def seen(self) -> list[dict[str, Any]]:
        """Name and fingerprint of each shard folder whose training split the encoder was trained on, in order."""
        return [*self.trained_on.get("earlier", []), self.trained_on]

    @property
    def tower(self) -> TextTower:
        """The text tower. A frozen tower is loaded from the source that the run used.

        Raises:
          EtpError: the weights are not available, or differ from those that the run was trained with; or the tower was
            trained, and an exported encoder does not contain it.
        """
        self.check_reads_text()
        if not self.text_about["frozen"] and not (self.run_dir / run_folder.TOKENIZER_FILE).exists():
            raise EtpError(
                f"{self.run_dir}: holds no text tower, so only the trained encoder has prompt embeddings, and only for "
                "the tasks' own prompts; use the run folder"
            )
        return _tower(self.run_dir, self.config)

    @property
    def reads_text(self) -> bool:
        """Whether there is a text tower; False for an ECG tower that was imported alone."""
        return not self.text_about.get("absent", False)

    def check_reads_text(self) -> None:
        """Raises EtpError if the encoder was imported without a text tower."""
        if not self.reads_text:
            raise EtpError(
                f"{self.run_dir}: has no text tower, so it cannot read sentences; evaluate it by probe (without "
                "--text-prior) or knn, or import it with --text if the file has one"
            )

    @property
    def text_source(self) -> str | None:
        """Source of the frozen text tower; None for one that was trained."""
        return self.config.model.text.pretrained if self.text_about["frozen"] else None

    def random(self, seed: int) -> Encoder:
        """Returns a copy whose ECG tower and projections have random weights; the text tower is unchanged."""
        shape = self.trained_on["samples"], len(self.trained_on["leads"])
        text_params = self.variables["params"].get("text_tower")
        variables = init_variables(self.model, jax.random.key(seed), *shape, text_params)
        return dataclasses.replace(self, variables=_float32(variables), step=0, train_seed=seed)

    def ecg(self, split: Split) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encodes all ECGs of a split on all local devices; the result is cached.

        Args:
          split: N records with the sampling rate, leads and length of the training data.

        Returns:
          Pooled features before the projection [N, F] and unit embeddings [N, E].

        Raises:
          EtpError: the records have another sampling rate, other leads or another length.
        """
        self.check_signals(split.shards)
        model = self.config.model
        about = [split.shards.fingerprint, split.name, dataclasses.asdict(model.ecg), model.projection]
        arrays = self.kept("ecg", about, self.variables, lambda: self._encode_ecg(split))
        return arrays["features"], arrays["embeddings"]

    def signals(
        self, ecg_NTL: NDArray[np.int16], lead_mask_NL: NDArray[np.bool_]
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Encodes prepared ECGs that are not stored in shards; nothing is cached.

        A single ECG is encoded alone, several in batches of one fixed shape.

        Args:
          ecg_NTL: int16 [N, samples, leads] in microvolt, N at least 1.
          lead_mask_NL: bool [N, leads].

        Returns:
          Pooled features [N, F] and unit embeddings [N, E], as `ecg` does.
        """
        count = len(ecg_NTL)
        size = 1 if count == 1 else SIGNALS
        outputs = []
        for start in range(0, count, size):
            rows = np.arange(start, start + size) % count  # the last batch wraps: one shape serves all
            outputs.append(jax.device_get(encode_ecg(self.model, self.variables, ecg_NTL[rows], lead_mask_NL[rows])))
        features_NF, embeddings_NE = (np.concatenate(part)[:count] for part in zip(*outputs, strict=True))
        return features_NF, embeddings_NE

    def text(self, texts: Sequence[str], whole: bool = False) -> NDArray[np.float32]:
        """Encodes reports or prompts.

        Args:
          texts: R sentences.
          whole: the text tower reads the texts unchanged; otherwise the recipe's template is applied to each.

        Returns:
          Unit embeddings [R, E].

        Raises:
          EtpError: the text tower is needed and not available, see `tower`.
        """
        file = self.run_dir / PROMPTS_FILE
        stored = _stored_prompts(self.run_dir, file.stat().st_mtime_ns) if file.exists() else {}
        if self.step and texts and all((text, whole) in stored for text in texts):
            return np.stack([stored[text, whole] for text in texts])
        config = self.config.model.text
        if whole:
            config = dataclasses.replace(config, template="{report}", unit="report")
        tower = [self.text_about.get(name) for name in ("sha256", "tokenizer_sha256")]
        about = [dataclasses.asdict(config), *tower, *texts]
        params = self.variables["params"].get("text_tower", {})
        hidden_RH = self.kept("text", about, params, lambda: self._read(texts, config))["hidden"]
        with jax.default_matmul_precision("highest"):
            return np.asarray(self.model.apply(self.variables, hidden_RH, method="encode_text"))

    def _encode_ecg(self, split: Split) -> dict[str, NDArray[np.float32]]:
        mesh = Mesh(np.array(jax.local_devices()), ("batch",))
        variables = jax.device_put(self.variables, NamedSharding(mesh, PartitionSpec()))
        by_example = NamedSharding(mesh, PartitionSpec("batch"))
        size = BATCH * mesh.size
        who = "trained" if self.step else "random"
        outputs = []
        for start in Bar(range(0, len(split), size), desc=f"{who} encoder, {split.name}", unit="batch"):
            rows = np.arange(start, start + size) % len(split)  # the last batch wraps: one shape serves all
            batch = jax.device_put((split.ecg(rows), split.columns.lead_mask[rows]), by_example)
            outputs.append(jax.device_get(encode_ecg(self.model, variables, *batch)))
        features_NF, embeddings_NE = (np.concatenate(part)[: len(split)] for part in zip(*outputs, strict=True))
        return {"features": features_NF, "embeddings": embeddings_NE}

    def _read(self, texts: Sequence[str], config: TextTowerConfig) -> dict[str, NDArray[np.float32]]:
        """Computes the outputs [R, H] of the text tower."""
        with jax.default_matmul_precision("highest"):
            if config.frozen:
                return {"hidden": frozen_outputs(self.tower, config, texts)}
            tokens = tokenize(self.tower.tokenizer, apply_template(config.template, texts), config.max_tokens)
            params = self.variables["params"]["text_tower"]
            return {"hidden": encode_table(self.tower.bert_config, params, tokens, config.pool)}

    def kept(
        self, kind: str, about: list[Any], params: Any, compute: Callable[[], dict[str, NDArray]]
    ) -> dict[str, NDArray]:
        """Returns what `compute` gives; cached (see `_cache`) by the versions, the parameters and `about`."""
        digest = hashlib.sha256(json.dumps([__version__, jax.__version__, *about]).encode())
        for leaf in jax.tree.leaves(params):
            digest.update(leaf.tobytes())
        folder = _cache(self.run_dir)
        file = folder / f"{kind}-{digest.hexdigest()[:24]}.npz"
        with suppress(FileNotFoundError, ValueError, KeyError):  # a damaged cache is computed again
            found = read_npz(file)
            if str(found.pop(OF)) == file.stem:
                return found
        arrays = compute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with whole_file(file) as stream:
                np.savez(stream, allow_pickle=False, **{OF: np.array(file.stem)}, **arrays)
        except OSError as error:  # the result is valid without the cache
            if error.errno not in _reported:
                _reported.add(error.errno)
                print(plain_line(f"{file}: is not cached, nor is what follows ({error.strerror})"), file=sys.stderr)
        return arrays

    def check_signals(self, shards: Shards) -> None:
        """Raises EtpError if the records differ from the training data in sampling rate, leads, length or filters."""
        there = {name: self.trained_on[name] for name in ("fs", "leads", "samples")}
        here = {"fs": shards.fs, "leads": list(shards.leads), "samples": shards.samples}
        if "filters" in self.trained_on:
            there |= {"filters": applied(self.trained_on["filters"])}
            here |= {"filters": applied(shards.filters)}
        for name, value in here.items():
            if value != there[name]:
                raise EtpError(
                    f"{shards.folder}: {name} is {value or 'none'}, {self.run_dir} was trained with "
                    f"{there[name] or 'none'}; prepare the shards with the same settings"
                )


def _check_fit(run_dir: Path, model: DualEncoder, variables: dict[str, Any], trained_on: dict[str, Any]) -> None:
    """Raises EtpError if no signals are as `shards.json` says, or an ECG tower for them has weights of other shapes."""
    fs, samples, leads = trained_on["fs"], trained_on["samples"], trained_on["leads"]
    if not (0 < fs <= MOST_HZ and 0 < samples <= MOST_SAMPLES and 0 < len(set(leads)) == len(leads)):
        raise EtpError(f"{run_dir / run_folder.SHARDS_FILE}: fs, samples or leads are out of range; get the file again")
    drawn = jax.eval_shape(lambda: init_variables(model.clone(bert=None), jax.random.key(0), samples, len(leads)))
    saved, expected = (
        checkpoint.shapes([tree["batch_stats"], *(tree["params"].get(name) for name in ECG_PARTS)])
        for tree in (variables, drawn)
    )
    checkpoint.check_shapes(run_dir, saved, expected, "its files do not belong together; get them again")


def encode_ecg(
    model: DualEncoder, variables: dict[str, Any], ecg_BTL: ArrayLike, lead_mask_BL: ArrayLike
) -> tuple[jax.Array, jax.Array]:
    """Computes pooled features [B, F] and unit embeddings [B, E] in full precision.

    It is compiled once for all encoders of a run.
    """
    with jax.default_matmul_precision("highest"):
        return _encode_ecg(model, variables, jnp.asarray(ecg_BTL), jnp.asarray(lead_mask_BL))


@partial(jax.jit, static_argnums=0)
def _encode_ecg(
    model: DualEncoder, variables: dict[str, Any], ecg_BTL: jax.Array, lead_mask_BL: jax.Array
) -> tuple[jax.Array, jax.Array]:
    return model.apply(variables, ecg_BTL, lead_mask_BL, method="encode_ecg")  # pyright: ignore[reportReturnType]


@lru_cache(maxsize=2)
def _tower(run_dir: Path, config: TrainConfig) -> TextTower:
    """Loads the text tower once for a run and its random encoders."""
    return build.load_text(run_dir, config)


@lru_cache(maxsize=2)
def _stored_prompts(run_dir: Path, _: int) -> dict[tuple[str, bool], NDArray[np.float32]]:
    """Reads the prompt embeddings once for each folder and modification time of its file."""
    return load_prompts(run_dir)


def _cache(run_dir: Path) -> Path:
    """The cache in the run folder; for an exported encoder or a read-only folder, the user's cache."""
    if not (run_dir / ENCODER_FILE).exists() and os.access(run_dir, os.W_OK):
        return run_dir / CACHE_FOLDER
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "etp-jax"


def _float32(variables: Any) -> Any:
    return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), variables)
