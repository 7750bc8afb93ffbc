"""Findings of single ECGs by a trained encoder, and what they rest on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from etp_jax.api import EcgModel
from etp_jax.ecg.leads import Layout
from etp_jax.ecg.prepare import Prepared
from etp_jax.ecg.read import SUFFIXES, read_signal
from etp_jax.encoder.calibration import Calibration, load_calibration
from etp_jax.encoder.encoder import encode_ecg
from etp_jax.encoder.export import PROMPTS
from etp_jax.encoder.scores import class_directions
from etp_jax.errors import EtpError
from etp_jax.predict.occlusion import Occlusion, hidden, occlusion
from etp_jax.tasks import get_task

NOTICE = "Research software, no medical device: not for diagnosis or treatment."
"""Stands on every output."""
UNCALIBRATED = "ptbxl-super"
"""The task of an encoder without stored probabilities, where none is named."""
NEAREST = 5
"""Reports."""
BATCH = 32
"""ECGs that are encoded at once."""


@dataclass(frozen=True)
class Finding:
    """A class of a task, or a prompt of the user's."""

    task: str
    """Empty for a prompt."""
    code: str
    """Of the class; the prompt itself."""
    name: str
    score: float
    """Cosine, less the prompt set's contrast."""
    probability: float | None
    """None where the encoder has no calibration for it."""

    @property
    def key(self) -> tuple[float, float]:
        """Sorts the likeliest first; what has no probability comes last, by its score."""
        return (-1.0 if self.probability is None else self.probability), self.score


@dataclass(frozen=True, eq=False)
class Ecg:
    """A record as the encoder reads it."""

    name: str
    prepared: Prepared
    seconds: float
    """That were read."""
    notes: tuple[str, ...]
    """What is to be known of the signal."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """All that is told of one record."""

    ecg: Ecg
    findings: dict[str, list[Finding]]
    """By task, `` for the user's prompts, the likeliest first."""
    occlusion: Occlusion
    """Of the first finding of all."""
    reports: list[tuple[float, str]]
    """Cosine and text of the nearest training reports."""
    compared: int
    """Reports among which they are the nearest."""

    @property
    def explained(self) -> Finding:
        """The finding of the occlusion."""
        return next(iter(self.findings.values()))[0]


class Predictor:
    """An encoder and the sentences that it compares ECGs with."""

    def __init__(self, model: EcgModel, tasks: Sequence[str] = (), prompts: Sequence[str] = ()) -> None:
        """Embeds all sentences.

        Args:
          model: from `etp_jax.load`.
          tasks: by name; none: all that the encoder has probabilities for.
          prompts: sentences of the user's.

        Raises:
          EtpError: no such task, or a sentence needs a text tower that cannot be had.
        """
        self.model = model
        run = model.encoder.run_dir
        calibration = load_calibration(run) or Calibration(PROMPTS, "", {})
        self.fitted_on = calibration.fitted_on
        self.classes: list[tuple[str, str, str, tuple[float, float] | None]] = []
        """Task, code, name, Platt's slope and intercept; in the order of the directions."""
        directions = []
        for name in tasks or tuple(calibration.tasks) or (UNCALIBRATED,):
            task, platt = get_task(name, calibration.prompts), calibration.tasks.get(name, {})
            self.classes += [(name, c.code, c.name, platt.get(c.code)) for c in task.classes]
            directions.append(class_directions(model.encoder, task))
        if prompts:
            self.classes += [("", prompt, prompt, None) for prompt in prompts]
            directions.append(model.encode_text(prompts))
        self.directions_CE = np.concatenate(directions)

    def read(self, path: Path, layout: Layout) -> Ecg:
        """Reads and prepares a record; raises EtpError, naming the file, if it cannot be used."""
        try:
            recording = read_signal(path, layout)
            prepared = self.model.prepare_recording(recording)
        except EtpError as error:
            raise EtpError(f"{path}: {error}") from None
        judged = {verdict.rpartition(" lead ")[2] for verdict in prepared.verdicts}
        mask = zip(self.model.leads, prepared.lead_mask.tolist(), strict=True)
        missing = [lead for lead, there in mask if not there and lead not in judged]
        notes = [f"leads {', '.join(missing)} were not recorded and are masked"] * bool(missing)
        notes += [", ".join(prepared.verdicts)] * bool(prepared.verdicts)
        if self.fitted_on and not prepared.lead_mask.all():
            notes.append("probabilities were fitted on complete ECGs")
        seconds = min(len(recording.signal) / recording.fs, self.model.samples / self.model.fs)
        return Ecg(path.stem if path.suffix in SUFFIXES else path.name, prepared, seconds, tuple(notes))

    def embed(self, ecg_NTL: NDArray[np.int16], mask_NL: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Unit embeddings [N, E] of prepared ECGs."""
        encoder, parts = self.model.encoder, []
        for start in range(0, len(ecg_NTL), BATCH):
            rows = np.arange(start, start + BATCH) % len(ecg_NTL)  # the last batch wraps: one shape serves all
            parts.append(encode_ecg(encoder.model, encoder.variables, ecg_NTL[rows], mask_NL[rows])[1])
        return np.concatenate(parts)[: len(ecg_NTL)]

    def findings(self, embedding_E: NDArray[np.float32]) -> list[Finding]:
        """Every class and prompt, in the order of `classes`."""
        found = []
        for (task, code, name, platt), score in zip(
            self.classes, (self.directions_CE @ embedding_E).tolist(), strict=True
        ):
            probability = None if platt is None else float(expit(platt[0] * score + platt[1]))
            found.append(Finding(task, code, name, score, probability))
        return found

    def predict(
        self, ecg: Ecg, reports: Sequence[str] = (), reports_RE: NDArray[np.float32] | None = None
    ) -> Prediction:
        """Findings of a record, what the first of them rests on, and the nearest of the reports."""
        read = ecg.prepared.ecg[: round(ecg.seconds * self.model.fs)]
        ecg_NTL, mask_NL = hidden(read, ecg.prepared.lead_mask, self.model.fs)
        padding = ((0, 0), (0, self.model.samples - len(read)), (0, 0))
        embedding_NE = self.embed(np.pad(ecg_NTL, padding), mask_NL)
        listed = self.findings(embedding_NE[0])
        tasks = dict.fromkeys(finding.task for finding in listed)
        ranked = {
            task: sorted((f for f in listed if f.task == task), key=lambda f: f.key, reverse=True) for task in tasks
        }
        first = next(iter(ranked.values()))[0]
        score_N = embedding_NE @ self.directions_CE[listed.index(first)]
        nearest = []
        if reports_RE is not None:
            cosine_R = reports_RE @ embedding_NE[0]
            nearest = [(float(cosine_R[n]), reports[int(n)]) for n in np.argsort(-cosine_R)[:NEAREST]]
        rests_on = occlusion(score_N, ecg.prepared.lead_mask, self.model.leads)
        return Prediction(ecg, ranked, rests_on, nearest, len(reports))


def figure(finding: Finding) -> str:
    """Probability, or similarity where there is none."""
    if finding.probability is None:
        return f"similarity {finding.score:.3f}"
    return f"{finding.probability:.1%}"


def rests_on(prediction: Prediction) -> str:
    """What the explained finding rests on, in words."""
    highlight = prediction.occlusion.highlight
    parts = [f"leads {', '.join(highlight.leads)}"] * bool(highlight.leads)
    parts += [f"seconds {', '.join(f'{s}-{s + 1}' for s in highlight.seconds)}"] * bool(highlight.seconds)
    if not parts:
        return f"{prediction.explained.name}: no lead or second lowers its score when it is hidden"
    return f"{prediction.explained.name}: its score falls most when one hides {' and '.join(parts)}"
