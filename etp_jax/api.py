"""The Python interface: a trained run as a model of single ECGs and sentences."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etp_jax.ecg.leads import LEADS, MICROVOLT, Filters, Recording
from etp_jax.ecg.prepare import Prepared, prepare
from etp_jax.encoder.encoder import Encoder, encode_ecg
from etp_jax.encoder.folder import PRETRAINED
from etp_jax.errors import EtpError


class EcgModel:
    """Both towers of a run. Make it with `etp_jax.load`.

    Attributes:
      fs: sampling rate that the encoder reads, in Hz; signals of other rates are resampled.
      samples: length that it reads, at that rate; longer signals keep their beginning, shorter ones get zeros.
      leads: leads that it reads; absent ones are masked.
      filters: what its training data went through, and so every signal does.
    """

    def __init__(self, encoder: Encoder) -> None:
        """Takes the encoder of a run."""
        self.encoder = encoder
        self.fs: int = encoder.trained_on["fs"]
        self.samples: int = encoder.trained_on["samples"]
        self.leads: tuple[str, ...] = tuple(encoder.trained_on["leads"])
        filters = encoder.trained_on.get("filters", {})
        bandpass = filters.get("bandpass")
        self.filters = Filters(bandpass and tuple(bandpass), filters.get("notch"))

    def prepare(
        self, signal: ArrayLike, fs: float | None = None, leads: Sequence[str] = LEADS, unit: str = "mV"
    ) -> Prepared:
        """An ECG as the encoder reads it: int16 [samples, leads] in microvolt, and which leads are usable.

        Args:
          signal: [time, leads]; NaN where samples are missing.
          fs: its sampling rate, in Hz; None: the encoder's.
          leads: its leads, in order, by any usual name.
          unit: mV, uV or V.

        Raises:
          EtpError: the array does not fit the leads, the unit is unknown, or the signal cannot be used.
        """
        array = np.asarray(signal, np.float64)
        if array.ndim != 2 or array.shape[1] != len(leads):
            raise EtpError(f"signal has shape {array.shape}; it must be [time, {len(leads)} leads]")
        if unit not in MICROVOLT:
            raise EtpError(f"unit {unit!r} is not one of {', '.join(MICROVOLT)}")
        return self.prepare_recording(Recording(array * MICROVOLT[unit], float(fs or self.fs), tuple(leads)))

    def prepare_recording(self, recording: Recording) -> Prepared:
        """The same for a signal as `data_prep`'s readers give it; raises EtpError if it cannot be used."""
        return prepare(recording, self.fs, self.samples, self.leads, self.filters)

    def encode_ecg(
        self, signal: ArrayLike, fs: float | None = None, leads: Sequence[str] = LEADS, unit: str = "mV"
    ) -> NDArray[np.float32]:
        """Unit embedding [E] of an ECG; arguments and errors as `prepare`."""
        prepared = self.prepare(signal, fs, leads, unit)
        batch = prepared.ecg[None], prepared.lead_mask[None]
        return np.asarray(encode_ecg(self.encoder.model, self.encoder.variables, *batch)[1])[0]

    def encode_text(self, sentences: Sequence[str]) -> NDArray[np.float32]:
        """Unit embeddings [n, E] of reports or findings, read as the run's reports were.

        Raises:
          EtpError: the text tower cannot be had; an exported encoder needs it for all but the tasks' own prompts.
        """
        return self.encoder.text(list(sentences))

    def zero_shot(
        self,
        signal: ArrayLike,
        findings: Sequence[str],
        fs: float | None = None,
        leads: Sequence[str] = LEADS,
        unit: str = "mV",
    ) -> dict[str, float]:
        """Cosine of an ECG and each finding, the most alike first. Similarities, no probabilities.

        Arguments and errors as `prepare`.
        """
        cosines = self.encode_text(findings) @ self.encode_ecg(signal, fs, leads, unit)
        ranked = sorted(zip(cosines.tolist(), findings, strict=True), reverse=True)
        return {finding: cosine for cosine, finding in ranked}


def load(run: str | Path | None = None, checkpoint: str = "best") -> EcgModel:
    """The model of a run folder made by `etp train`, of a folder made by `etp export`, or the one that ships.

    Args:
      run: the folder; None: the encoder that comes with the package, see its `MODEL_CARD.md`.
      checkpoint: `best` by pre-training validation, or `latest`.

    Raises:
      EtpError: no such run or checkpoint.
    """
    if checkpoint not in ("best", "latest"):
        raise EtpError(f"checkpoint {checkpoint!r} is neither best nor latest")
    return EcgModel(Encoder.from_run(PRETRAINED if run is None else Path(run), checkpoint))
