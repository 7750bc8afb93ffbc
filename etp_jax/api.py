"""The Python interface: a trained encoder for ECGs and sentences in memory."""

from __future__ import annotations

import tempfile
import warnings
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etp_jax.configs import recipe_of
from etp_jax.ecg.arrays import Signal, as_recording
from etp_jax.ecg.heart_rate import impossible_rate
from etp_jax.ecg.leads import Filters, Recording
from etp_jax.ecg.prepare import Prepared, prepare
from etp_jax.encoder import hub
from etp_jax.encoder.card import write_card
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.export import export
from etp_jax.encoder.folder import CARD_FILE, ENCODER_FILE, FILES, SHIPPED, copy_encoder, run_folder
from etp_jax.errors import EtpError, python_interface
from etp_jax.models.dual_encoder import EcgEncoder
from etp_jax.plain import plain_line

Signals = Signal | Sequence[Signal]
"""One ECG [time, leads], a batch [n, time, leads], or a list of ECGs that may differ in length."""


CHECKED = 8
"""Number of ECGs of a call whose heart rate is checked: a wrong sampling rate is the same for all."""


class EcgModel:
    """A trained ECG encoder with its text encoder; create it with `etp_jax.load`.

        model = etp_jax.load()
        model.encode_ecg(signal, fs=500)  # [E]
        model.encode_ecg([signal, longer], fs=500)  # [2, E]
        model.zero_shot(signal, ["sinus rhythm", "atrial fibrillation"], fs=500)

    Attributes:
      fs: sampling rate of the encoder's input, in Hz; signals at other rates are resampled.
      samples: length of the input in samples; longer signals are cut at the end, shorter ones are padded with zeros.
      leads: leads of the input; absent ones are masked.
      filters: filters of the training data; they are applied to every signal.
    """

    def __init__(self, encoder: Encoder, source: str | None = None) -> None:
        """Wraps the encoder of a run; `source` is the name that it was loaded by."""
        self.encoder = encoder
        self.source = source or str(encoder.run_dir)
        self.fs: int = encoder.trained_on["fs"]
        self.samples: int = encoder.trained_on["samples"]
        self.leads: tuple[str, ...] = tuple(encoder.trained_on["leads"])
        filters = encoder.trained_on.get("filters", {})
        bandpass = filters.get("bandpass")
        self.filters = Filters(bandpass and tuple(bandpass), filters.get("notch"))

    def __repr__(self) -> str:
        """Source, step, recipe, input format and embedding size."""
        return (
            f"EcgModel({self.source!r}, step={self.encoder.step}, recipe={recipe_of(self.encoder.config)!r}, "
            f"fs={self.fs}, samples={self.samples}, leads='{' '.join(self.leads)}', "
            f"embedding_dim={self.encoder.config.model.embedding_dim})"
        )

    def prepare(
        self,
        signal: Signal,
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> Prepared:
        """Prepares an ECG for the encoder: int16 [samples, leads] in microvolt, and a mask of the usable leads.

            model.prepare(signal, fs=250, leads=["I", "II", "V2"], unit="uV").lead_mask

        Args:
          signal: [time, leads]; NaN where samples are missing. The column names of a DataFrame are leads.
          fs: sampling rate of the signal, in Hz; a `Recording` has its own.
          leads: leads of the signal, in order, by any usual name. Default: the column names of a DataFrame, or the
            twelve standard leads.
          unit: unit of the signal: mV, uV or V. Default: the unit in the column names of a DataFrame, or mV.

        Returns:
          The prepared ECG. Its `verdicts` and `notes` name the leads that are absent, derived or masked.

        Raises:
          EtpError: the array does not fit the leads, a lead or the unit is unknown, the sampling rate is missing or
            impossible, the voltages are not those of an ECG, or the signal cannot be used.
        """
        with python_interface():
            recording = as_recording(signal, fs, leads, unit)
            prepared = self.prepare_recording(recording)
        _warn([recording], [prepared], stacklevel=3)
        return prepared

    def prepare_recording(self, recording: Recording) -> Prepared:
        """Prepares a recording from one of the file readers; raises EtpError if it cannot be used."""
        return prepare(recording, self.fs, self.samples, self.leads, self.filters)

    def encode_ecg(
        self,
        signals: Signals,
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> NDArray[np.float32]:
        """Computes unit embeddings of ECGs: [E] for one, [n, E] for several.

            embeddings = model.encode_ecg(batch, fs=500)  # batch: [n, 5000, 12] in millivolt

        A warning names the leads that are absent, derived or masked, and a heart rate that is impossible at this
        sampling rate.

        Args:
          signals: one ECG [time, leads], a batch [n, time, leads], or a list of ECGs that may differ in length. An ECG
            is an array, a DataFrame whose column names are leads, or a `Recording`.
          fs: sampling rate of the signals, in Hz; a `Recording` has its own.
          leads: leads of the signals, in order, by any usual name; as for `prepare`.
          unit: unit of the signals: mV, uV or V; as for `prepare`.

        Raises:
          EtpError: as for `prepare`; for several ECGs the message names the first that cannot be used.
        """
        return self._encode(signals, fs, leads, unit)[1]

    def features(
        self,
        signals: Signals,
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> NDArray[np.float32]:
        """Computes pooled features before the projection, for fitting probes: [F] for one ECG, [n, F] for several.

            LogisticRegression().fit(model.features(batch, fs=500), labels)

        Arguments and errors are those of `encode_ecg`.
        """
        return self._encode(signals, fs, leads, unit)[0]

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Computes unit embeddings [n, E] of reports or findings, processed like the run's reports.

            model.encode_text(["sinus rhythm"]) @ model.encode_ecg(signal, fs=500)  # [1], cosine

        Raises:
          EtpError: the text tower is not available; an exported encoder needs it for all but the tasks' own prompts.
        """
        if isinstance(sentences, str) or not len(sentences):
            raise EtpError(f"sentences is {sentences!r}; give a list of at least one string")
        return self.encoder.text(list(sentences))

    def zero_shot(
        self,
        signals: Signals,
        findings: Sequence[str],
        fs: float | None = None,
        leads: Sequence[str] | None = None,
        unit: str | None = None,
    ) -> Any:
        """Computes the cosine similarity of ECGs and findings, highest first; these are not probabilities.

            model.zero_shot(signal, ["sinus rhythm", "atrial fibrillation"], fs=500)
            # {"sinus rhythm": 0.41, "atrial fibrillation": 0.13}

        Args:
          signals: as for `encode_ecg`.
          findings: sentences in the style of a report.
          fs: as for `encode_ecg`.
          leads: as for `encode_ecg`.
          unit: as for `encode_ecg`.

        Returns:
          A dictionary for one ECG, a list of dictionaries for several.

        Raises:
          EtpError: as for `encode_ecg` and `encode_text`.
        """
        findings_FE, ecg = self.encode_text(findings), self._encode(signals, fs, leads, unit)[1]
        found = []
        for embedding_E in np.atleast_2d(ecg):
            ranked = sorted(zip((findings_FE @ embedding_E).tolist(), findings, strict=True), reverse=True)
            found.append({finding: cosine for cosine, finding in ranked})
        return found[0] if ecg.ndim == 1 else found

    @property
    def module(self) -> EcgEncoder:
        """The ECG encoder as a Flax module, for your own `jit` and `grad`; see `variables`.

            prepared = [model.prepare(signal, fs=500) for signal in signals]
            ecg_BTL, lead_mask_BL = (np.stack(x) for x in zip(*((p.ecg, p.lead_mask) for p in prepared)))
            (features_BF, embedding_BE), updated = model.module.apply(
                variables, ecg_BTL, lead_mask_BL, train=True, mutable=["batch_stats"]
            )

        It computes in float32. Under `jit`, batch statistics are those of the current batch; under `pmap` or
        `shard_map` use `model.module.clone(axis_name=...)`. Drop-path and dropout need `keys=jax.random.split(key, B)`.
        """
        return EcgEncoder(self.encoder.config.model, jnp.float32)

    @property
    def variables(self) -> dict[str, Any]:
        """Trained parameters and batch statistics of `module`: {"params", "batch_stats"}."""
        params = self.encoder.variables["params"]
        parts = {name: params[name] for name in ("ecg_tower", "ecg_projection")}
        return {"params": parts, "batch_stats": self.encoder.variables["batch_stats"]}

    def save(
        self,
        folder: str | Path,
        dtype: Literal["bfloat16", "float32"] = "bfloat16",
        shards: str | Path | None = None,
    ) -> Path:
        """Writes the folder of `etp export`, which `etp_jax.load` reads: weights, prompts, model card, licence.

            etp_jax.load("runs/ptbxl").save("my-encoder")
            model = etp_jax.load("my-encoder")

        Args:
          folder: folder to write; an earlier export there is replaced.
          dtype: data type of the weights. An encoder that was loaded from an export is copied unchanged.
          shards: shard folder on which the probabilities of `etp predict` are calibrated; only for an encoder of a run.

        Returns:
          The folder.

        Raises:
          EtpError: the folder holds something else or is the source itself; the shards do not fit, or were given for an
            encoder that was loaded from an export.
        """
        source, out = self.encoder.run_dir, Path(folder)
        if (source / ENCODER_FILE).exists():
            if shards is not None:
                raise EtpError(f"{source}: an exported encoder is copied unchanged; calibrate an export of its run")
            copy_encoder(source, out)
            if not (out / CARD_FILE).exists():
                write_card(out, self.encoder)
        else:
            data = None if shards is None else Path(shards)
            export(source, out, self.encoder.step, dtype, data, text_tower=self.encoder.text_source)
        return out

    def push_to_hub(self, name: str, private: bool = True, dtype: Literal["bfloat16", "float32"] = "bfloat16") -> str:
        """Uploads what `save` writes to the Hugging Face Hub; load it with `etp_jax.load("hf://org/name")`.

            model.push_to_hub("my-lab/ecg-encoder")

        Args:
          name: `org/name`; the repository is created if it does not exist.
          private: whether a newly created repository is visible to its owners only. Read the terms of the training data
            before you change this.
          dtype: data type of the weights.

        Returns:
          The URL of the commit.

        Raises:
          EtpError: not logged in (`hf auth login`), no right to write there, or no connection.
        """
        repository = hub.check_login(name)
        with tempfile.TemporaryDirectory() as folder:
            return hub.upload(self.save(Path(folder) / repository.split("/")[1], dtype), name, FILES, private)

    def _encode(
        self, signals: Signals, fs: float | None, leads: Sequence[str] | None, unit: str | None
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Computes features and embeddings, with the axis n if there are several signals."""
        several = _several(signals)
        if several is not None and not len(several):
            raise EtpError("signals is empty; give at least one ECG")
        recordings, prepared = [], []
        for number, signal in enumerate([signals] if several is None else several):
            try:
                with python_interface():
                    recordings.append(as_recording(signal, fs, leads, unit))
                    prepared.append(self.prepare_recording(recordings[-1]))
            except EtpError as error:
                raise EtpError(str(error) if several is None else f"signal {number}: {error}") from None
        _warn(recordings, prepared, stacklevel=4)
        features_NF, embedding_NE = self.encoder.signals(
            np.stack([p.ecg for p in prepared]), np.stack([p.lead_mask for p in prepared])
        )
        return (features_NF[0], embedding_NE[0]) if several is None else (features_NF, embedding_NE)


def _several(signals: Any) -> Any:
    """Returns the list or array of ECGs if there are several; None for a single ECG."""
    if isinstance(signals, (Recording, pd.DataFrame)):
        return None
    if isinstance(signals, (list, tuple)):
        return None if signals and all(map(_is_sample, signals)) else signals
    return signals if np.ndim(signals) == 3 else None


def _is_sample(item: Any) -> bool:
    """Whether a list item is one time step of an ECG that is given as lists of numbers."""
    try:
        return not isinstance(item, Recording) and np.ndim(item) == 1
    except ValueError:  # lists of different lengths
        return False


def _warn(recordings: Sequence[Recording], prepared: Sequence[Prepared], stacklevel: int) -> None:
    """Warns once, in the user's line, of what happened to leads, and of heart rates that are impossible."""
    lines = Counter(line for each in prepared for line in each.lines)
    for recording in recordings[:CHECKED]:
        if impossible := impossible_rate(recording):
            lines[impossible] += 1
    if lines:
        many = len(prepared) > 1
        words = [f"{line} ({count} of {len(prepared)} ECGs)" if many else line for line, count in lines.items()]
        warnings.warn(plain_line("; ".join(words)), UserWarning, stacklevel=stacklevel)


def load(
    run: str | Path | None = None,
    checkpoint: Literal["best", "latest"] = "best",
    text_tower: str | Path | None = None,
) -> EcgModel:
    """Loads the model of a run folder, an exported encoder, a Hugging Face Hub repository, or the shipped encoder.

        etp_jax.load()
        etp_jax.load("runs/ptbxl", checkpoint="latest")
        etp_jax.load("hf://org/name@v1")

    Args:
      run: folder made by `etp train` or `etp export`; or `hf://org/name[@revision]`; or `shipped` or None for
        the package's own encoder, see its `MODEL_CARD.md`.
      checkpoint: checkpoint of a run: `best` by pre-training validation, or `latest`.
      text_tower: folder or name of the run's frozen text tower, where it has moved; its weights must be the same.

    Raises:
      EtpError: there is no such run, checkpoint or repository.
    """
    if checkpoint not in ("best", "latest"):
        raise EtpError(f"checkpoint {checkpoint!r} is neither best nor latest")
    name = SHIPPED if run is None else run
    source = None if text_tower is None else str(text_tower)
    with python_interface():
        return EcgModel(Encoder.from_run(run_folder(name), checkpoint, source), str(name))
