"""Findings of single ECGs by a trained encoder, and the parts of the signal that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from etp_jax.api import EcgModel
from etp_jax.ecg.leads import LEADS, Layout
from etp_jax.ecg.prepare import Prepared, prepare
from etp_jax.ecg.read import SUFFIXES, read_signal
from etp_jax.encoder.calibration import Calibration, load_calibration
from etp_jax.encoder.encoder import encode_ecg
from etp_jax.encoder.export import PROMPTS, exported_task
from etp_jax.encoder.scores import class_directions
from etp_jax.errors import EtpError
from etp_jax.predict.occlusion import Occlusion, hidden, occlusion
from etp_jax.tasks import get_task

NOTICE = "Research software, no medical device: not for diagnosis or treatment."
"""Printed on every output."""
UNCALIBRATED = "ptbxl-super"
"""Default task of an encoder without stored probabilities."""
NEAREST = 5
"""Number of nearest training reports to show."""
BATCH = 32
"""Number of ECGs encoded at once."""


@dataclass(frozen=True)
class Finding:
    """A class of a task, or one of the user's prompts, with its score for one ECG."""

    task: str
    """Name of the task; empty for a prompt."""
    code: str
    """Code of the class, or the text of the prompt."""
    name: str
    """Name of the class in plain English, or the text of the prompt."""
    score: float
    """Cosine similarity, minus the contrast of the prompt set."""
    probability: float | None
    """Calibrated probability; None if the encoder has no calibration for the class."""

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: the most probable first; classes without a probability last, by score."""
        return (-1.0 if self.probability is None else self.probability), self.score


@dataclass(frozen=True, eq=False)
class Ecg:
    """A record as the encoder reads it."""

    name: str
    """File name without its suffix."""
    prepared: Prepared
    """Signal and lead mask at the encoder's sampling rate."""
    recorded: Prepared
    """The same part of the signal for drawing: all leads, at the recording's own rate and without filters."""
    leads: tuple[str, ...]
    """Leads of `recorded`: the standard ones, and any others of the encoder."""
    fs: float
    """Sampling rate of the recording, in Hz."""
    seconds: float
    """Duration of the signal that was read, in seconds."""
    notes: tuple[str, ...]
    """Warnings about the signal: missing, flat or clipped leads."""

    @property
    def unusable(self) -> dict[str, str]:
        """Why a lead that was recorded is not drawn, by lead."""
        mask = zip(self.leads, self.recorded.lead_mask.tolist(), strict=True)
        dropped = {lead for lead, usable in mask if not usable}
        judged = (verdict.rpartition(" lead ") for verdict in self.recorded.verdicts)
        return {lead: f"{why}, not used" for why, _, lead in judged if lead in dropped}


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything `etp predict` reports about one record."""

    ecg: Ecg
    """The record as the encoder reads it."""
    findings: dict[str, list[Finding]]
    """Findings by task name, the most probable first; an empty name is for the user's prompts."""
    occlusion: Occlusion
    """Occlusion map of the top-ranked finding."""
    reports: list[tuple[float, str]]
    """Cosine similarity and text of the nearest training reports."""
    compared: int
    """Number of training reports that were compared."""

    @property
    def explained(self) -> Finding:
        """The finding that the occlusion map explains."""
        return next(iter(self.findings.values()))[0]


class Predictor:
    """An encoder and the sentences that it compares ECGs with."""

    def __init__(self, model: EcgModel, tasks: Sequence[str] = (), prompts: Sequence[str] = ()) -> None:
        """Embeds all sentences.

        Args:
          model: from `etp_jax.load`.
          tasks: names of tasks, or paths of task files; none: all tasks that the encoder has probabilities for.
          prompts: sentences of the user.

        Raises:
          EtpError: a task is unknown, has no prompts or has changed since the export; or a sentence needs a text tower
            that is not available.
        """
        self.model = model
        run = model.encoder.run_dir
        calibration = load_calibration(run) or Calibration(PROMPTS, "", {})
        self.fitted_on = calibration.fitted_on
        self.classes: list[tuple[str, str, str, tuple[float, float] | None]] = []
        """Task, code, name, and Platt's slope and intercept of each class, in the order of the directions."""
        directions = []
        for name in tasks or tuple(calibration.tasks) or (UNCALIBRATED,):
            task = get_task(exported_task(run, name), calibration.prompts)
            platt = calibration.tasks.get(task.name, {})
            if platt and task.digest != calibration.digests.get(task.name, ""):
                raise EtpError(f"{task.file}: has changed since {run} was exported with it; export the run again")
            self.classes += [(task.name, c.code, c.name, platt.get(c.code)) for c in task.classes]
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
            seconds = min(len(recording.signal) / recording.fs, self.model.samples / self.model.fs)
            leads = (*LEADS, *(lead for lead in self.model.leads if lead not in LEADS))
            recorded = prepare(recording, recording.fs, round(seconds * recording.fs), leads)
        except EtpError as error:
            raise EtpError(f"{path}: {error}") from None
        judged = {verdict.rpartition(" lead ")[2] for verdict in prepared.verdicts}
        mask = zip(self.model.leads, prepared.lead_mask.tolist(), strict=True)
        missing = [lead for lead, there in mask if not there and lead not in judged]
        notes = [f"leads {', '.join(missing)} were not recorded and are masked"] * bool(missing)
        notes += [", ".join(prepared.verdicts)] * bool(prepared.verdicts)
        if self.fitted_on and not prepared.lead_mask.all():
            notes.append("probabilities were fitted on complete ECGs")
        name = path.stem if path.suffix in SUFFIXES else path.name
        return Ecg(name, prepared, recorded, leads, recording.fs, seconds, tuple(notes))

    def embed(self, ecg_NTL: NDArray[np.int16], mask_NL: NDArray[np.bool_]) -> NDArray[np.float32]:
        """Unit embeddings [N, E] of prepared ECGs."""
        encoder, parts = self.model.encoder, []
        for start in range(0, len(ecg_NTL), BATCH):
            rows = np.arange(start, start + BATCH) % len(ecg_NTL)  # the last batch wraps: one shape serves all
            parts.append(encode_ecg(encoder.model, encoder.variables, ecg_NTL[rows], mask_NL[rows])[1])
        return np.concatenate(parts)[: len(ecg_NTL)]

    def findings(self, embedding_E: NDArray[np.float32]) -> list[Finding]:
        """Computes the score of every class and prompt, in the order of `classes`."""
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
        """Computes findings of a record, the occlusion map of the top-ranked one, and the nearest reports."""
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
    """Formats the probability in percent, or the similarity if there is no probability."""
    if finding.probability is None:
        return f"similarity {finding.score:.3f}"
    return f"{finding.probability:.1%}"


def rests_on(prediction: Prediction) -> str:
    """Describes the leads and seconds that the explained finding depends on."""
    highlight = prediction.occlusion.highlight
    parts = [f"leads {', '.join(highlight.leads)}"] * bool(highlight.leads)
    parts += [f"seconds {', '.join(f'{s}-{s + 1}' for s in highlight.seconds)}"] * bool(highlight.seconds)
    if not parts:
        return f"{prediction.explained.name}: no lead or second lowers its score when it is hidden"
    return f"{prediction.explained.name}: its score falls most when one hides {' and '.join(parts)}"
