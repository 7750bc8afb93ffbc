"""Findings of single ECGs by a trained encoder, and the parts of the signal that they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import jax
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from etp_jax.api import EcgModel
from etp_jax.ecg.channels import unreadable
from etp_jax.ecg.heart_rate import impossible_rate
from etp_jax.ecg.leads import LEADS, Highlight, Layout, Recording
from etp_jax.ecg.prepare import Prepared, prepare
from etp_jax.ecg.read import SUFFIXES, read_signal
from etp_jax.encoder.calibration import Calibration, load_calibration
from etp_jax.encoder.encoder import Encoder, encode_ecg
from etp_jax.encoder.export import PROMPTS, exported_task, own_tasks
from etp_jax.encoder.folder import load_reference
from etp_jax.encoder.scores import class_directions
from etp_jax.errors import EtpError
from etp_jax.predict import doubts
from etp_jax.predict.finding import Finding
from etp_jax.predict.occlusion import Occlusion, hidden, occlusion
from etp_jax.tasks import get_task
from etp_jax.waveform.measure import FS as MEASURED_FS
from etp_jax.waveform.measure import Measures, measure

NOTICE = "Research software, no medical device: not for diagnosis or treatment."
"""Printed on every output."""
UNCALIBRATED = "ptbxl-super"
"""Default task of an encoder without stored probabilities."""
EXPLAINED = 5
"""Maximum number of findings with an occlusion map."""
NEAREST = 5
"""Number of nearest training reports to show."""
BATCH = 32
"""Number of ECGs encoded at once."""
ABSENT = "absent lead "
"""How the verdict on a lead begins that was not recorded."""


@dataclass(frozen=True, eq=False)
class Ecg:
    """A record as the encoder reads it."""

    name: str
    """File name without its suffix."""
    prepared: Prepared
    """Signal and lead mask at the encoder's sampling rate."""
    recording: Recording
    """The signal as recorded."""
    leads: tuple[str, ...]
    """Leads that are drawn and measured: the standard ones, and any others of the encoder."""
    seconds: float
    """Duration of the part that the encoder reads, in seconds."""
    remarks: tuple[str, ...]
    """Warnings of reading: missing, flat or clipped leads."""

    @property
    def fs(self) -> float:
        """Sampling rate of the recording, in Hz."""
        return self.recording.fs

    @cached_property
    def recorded(self) -> Prepared:
        """The part that the encoder reads, for drawing: all leads, at the recording's own rate and without filters."""
        return prepare(self.recording, self.fs, round(self.seconds * self.fs), self.leads)

    @cached_property
    def measures(self) -> Measures:
        """Measurements on all leads of that part, see `etp_jax.waveform.measure`."""
        fine = prepare(self.recording, MEASURED_FS, round(self.seconds * MEASURED_FS), self.leads)
        return measure(fine, MEASURED_FS, self.leads)

    @property
    def readable(self) -> bool:
        """Whether there are heart beats; true if the ECG is too short to tell."""
        return not doubts.unreadable(self.measures, self.seconds)

    @property
    def notes(self) -> tuple[str, ...]:
        """Warnings about the signal."""
        found = [f"{doubts.NO_BEATS}; the signal may be noise, and no finding is decided"] * (not self.readable)
        found += [doubts.INVERTED] * doubts.inverted(self.measures, self.leads)
        return *found, *self.remarks

    @property
    def unusable(self) -> dict[str, str]:
        """Why a lead that was recorded is not drawn, by lead."""
        mask = zip(self.leads, self.recorded.lead_mask.tolist(), strict=True)
        dropped = {lead for lead, usable in mask if not usable}
        judged = (verdict.rpartition(" lead ") for verdict in self.recorded.verdicts if not absent(verdict))
        return {lead: f"{why}, not used" for why, _, lead in judged if lead in dropped}


@dataclass(frozen=True, eq=False)
class Prediction:
    """Everything `etp predict` reports about one record."""

    ecg: Ecg
    """The record as the encoder reads it."""
    groups: dict[str, list[Finding]]
    """Findings by the heading of their tasks, each class once, the most probable first."""
    prompts: list[Finding]
    """The user's prompts, the most similar first."""
    explained: list[tuple[Finding, Occlusion]]
    """Occlusion maps of the findings above their thresholds; of the top-ranked one if no class has a threshold."""
    reports: list[tuple[float, str]]
    """Cosine similarity and text of the nearest training reports."""
    compared: int
    """Number of training reports that were compared."""

    @property
    def findings(self) -> list[Finding]:
        """The findings of all groups, without the prompts."""
        return [finding for findings in self.groups.values() for finding in findings]

    @property
    def above(self) -> list[Finding]:
        """Findings above their thresholds."""
        return [finding for finding in self.findings if finding.verdict == "above"]

    @property
    def contradictions(self) -> list[str]:
        """Findings that cannot all be right, in words."""
        return doubts.contradictions(self.groups)

    @property
    def withheld(self) -> dict[str, str]:
        """Why a measurement is withheld, by quantity."""
        return doubts.withheld(self.ecg.measures, self.above)

    @property
    def has_thresholds(self) -> bool:
        """Whether any class has a threshold."""
        return any(finding.threshold for finding in self.findings)

    @property
    def highlight(self) -> Highlight:
        """Marks of the drawing: those of the first explained finding for which anything stands out."""
        marks = [occlusion.highlight for _, occlusion in self.explained]
        return next((mark for mark in marks if mark != Highlight()), Highlight())


def absent(verdict: str) -> bool:
    """Whether a verdict on a recording is that a lead was not recorded."""
    return verdict.startswith(ABSENT)


class Predictor:
    """An encoder and the sentences that it compares ECGs with."""

    def __init__(self, model: EcgModel, tasks: Sequence[str] = (), prompts: Sequence[str] = ()) -> None:
        """Embeds all sentences.

        Args:
          model: from `etp_jax.load`.
          tasks: names of tasks, or paths of task files; none: the user's own that were exported with it,
            and all that it has probabilities for.
          prompts: sentences of the user.

        Raises:
          EtpError: a task is unknown, has no prompts or has changed since the export; a sentence is empty; or a
            sentence needs a text tower that is not available.
        """
        if not all(prompt.strip() for prompt in prompts):
            raise EtpError("a sentence of --prompt is empty; give it words, or leave --prompt out")
        self.model = model
        run = model.encoder.run_dir
        calibration = load_calibration(run) or Calibration(PROMPTS, "", {})
        self.fitted_on = calibration.fitted_on
        self.reference_RE = load_reference(run)
        self.groups: dict[str, str] = {}
        """Heading of each task."""
        self.shown: set[tuple[str, str]] = set()
        """Task and code of the classes that a page shows: of those with the same code and data set, the first."""
        self.thresholds = {
            (task, code): threshold
            for task, classes in calibration.thresholds.items()
            for code, threshold in classes.items()
        }
        """Threshold of each class that has one, by task and code."""
        self.classes: list[tuple[str, str, str, tuple[float, float] | None]] = []
        """Task, code, name, and Platt's slope and intercept of each class, in the order of the directions."""
        self.codes: dict[tuple[str, str], frozenset[str]] = {}
        """Label codes of each class, by task and code."""
        directions, known = [], set()
        own = [name for name in own_tasks(run) if name not in calibration.tasks]
        for name in tasks or (*own, *(calibration.tasks or (UNCALIBRATED,))):
            task = get_task(exported_task(run, name), calibration.prompts)
            platt = calibration.tasks.get(task.name, {})
            if platt and task.digest != calibration.digests.get(task.name, ""):
                raise EtpError(f"{task.file}: has changed since {run} was exported with it; export the run again")
            self.classes += [(task.name, c.code, c.name, platt.get(c.code)) for c in task.classes]
            self.codes |= {(task.name, c.code): c.codes for c in task.classes}
            directions.append(class_directions(model.encoder, task))
            self.groups[task.name] = task.group
            places = {(task.dataset or task.name, c.code): (task.name, c.code) for c in task.classes}
            self.shown |= {class_ for place, class_ in places.items() if place not in known}
            known |= places.keys()
        if prompts:
            self.classes += [("", prompt, prompt, None) for prompt in prompts]
            directions.append(model.encode_text(prompts))
        self.directions_CE = np.concatenate(directions)

    def read(self, path: Path, layout: Layout) -> Ecg:
        """Reads and prepares a record; raises EtpError, naming the file, if it cannot be used."""
        try:
            recording = read_signal(path, layout)
            with unreadable(path.name):
                prepared = self.model.prepare_recording(recording)
        except EtpError as error:
            raise EtpError(f"{path}: {error}") from None
        missing = ", ".join(verdict.removeprefix(ABSENT) for verdict in prepared.verdicts if absent(verdict))
        notes = [*prepared.notes, *[f"leads {missing} were not recorded and are masked"] * bool(missing)]
        notes += [", ".join(v for v in prepared.verdicts if " lead " in v and not absent(v))]
        whole, most = len(recording.signal) / recording.fs, self.model.samples / self.model.fs
        seconds = min(whole, most)
        notes += [f"cropped: only the first {most:g} s of {whole:g} s are read"] * ("cropped" in prepared.verdicts)
        notes += [f"padded: shorter than the {most:g} s that the encoder reads"] * ("padded" in prepared.verdicts)
        notes += [impossible_rate(recording)]
        if self.fitted_on and not prepared.lead_mask.all():
            notes.append("probabilities were fitted on complete ECGs")
        leads = (*LEADS, *(lead for lead in self.model.leads if lead not in LEADS))
        name = path.stem if path.suffix.lower() in SUFFIXES else path.name
        return Ecg(name, prepared, recording, leads, seconds, tuple(filter(None, notes)))

    @cached_property
    def untrained(self) -> Encoder:
        """The same encoder with the weights of each kernel shuffled.

        It has learned nothing (Adebayo et al. 2018, arXiv 1810.03292). Drawing initial weights takes longer to compile
        than all the rest of a prediction.
        """
        rng, encoder = np.random.default_rng(0), self.model.encoder
        params = {
            name: jax.tree.map(lambda x: rng.permutation(np.ravel(x)).reshape(x.shape) if x.ndim > 1 else x, tree)
            for name, tree in encoder.variables["params"].items()
            if name.startswith("ecg_")
        }
        variables = encoder.variables | {"params": encoder.variables["params"] | params}
        return replace(encoder, variables=variables)

    def embed(
        self, ecg_NTL: NDArray[np.int16], mask_NL: NDArray[np.bool_], encoder: Encoder | None = None
    ) -> NDArray[np.float32]:
        """Unit embeddings [N, E] of prepared ECGs, by the model's encoder or another one."""
        encoder, parts = encoder or self.model.encoder, []
        for start in range(0, len(ecg_NTL), BATCH):
            rows = np.arange(start, start + BATCH) % len(ecg_NTL)  # the last batch wraps: one shape serves all
            parts.append(encode_ecg(encoder.model, encoder.variables, ecg_NTL[rows], mask_NL[rows])[1])
        return np.concatenate(parts)[: len(ecg_NTL)]

    def findings(self, embedding_E: NDArray[np.float32]) -> list[Finding]:
        """Computes the score of every class and prompt, in the order of `classes`."""
        found = []
        score_C = self.directions_CE @ embedding_E
        below_C = [None] * len(score_C)
        if self.reference_RE is not None:
            below_C = (100 * (self.reference_RE @ self.directions_CE.T < score_C).mean(axis=0)).tolist()
        for (task, code, name, platt), score, below in zip(self.classes, score_C.tolist(), below_C, strict=True):
            probability = None if platt is None else float(expit(platt[0] * score + platt[1]))
            threshold, codes = self.thresholds.get((task, code)), self.codes.get((task, code), frozenset())
            found.append(Finding(task, code, name, score, probability, threshold, below, codes))
        return found

    def predict(
        self, ecg: Ecg, reports: Sequence[str] = (), reports_RE: NDArray[np.float32] | None = None
    ) -> Prediction:
        """Computes findings of a record, the occlusion maps of those above their thresholds, and nearest reports."""
        read = ecg.prepared.ecg[: round(ecg.seconds * self.model.fs)]
        ecg_NTL, mask_NL = hidden(read, ecg.prepared.lead_mask, self.model.fs)
        padded_NTL = np.pad(ecg_NTL, ((0, 0), (0, self.model.samples - len(read)), (0, 0)))
        embedding_NE = self.embed(padded_NTL, mask_NL)
        listed = [replace(finding, readable=ecg.readable) for finding in self.findings(embedding_NE[0])]
        groups: dict[str, list[Finding]] = {}
        for finding in listed:
            if (finding.task, finding.code) in self.shown:
                groups.setdefault(self.groups[finding.task], []).append(finding)
        groups = {group: sorted(findings, key=lambda f: f.key, reverse=True) for group, findings in groups.items()}
        prompts = sorted((f for f in listed if not f.task), key=lambda f: f.key, reverse=True)
        nearest = []
        if reports_RE is not None:
            cosine_R = reports_RE @ embedding_NE[0]
            nearest = [(float(cosine_R[n]), reports[int(n)]) for n in np.argsort(-cosine_R)[:NEAREST]]
        bare = Prediction(ecg, groups, prompts, [], nearest, len(reports))
        chosen = sorted(bare.above, key=lambda f: f.key, reverse=True)[:EXPLAINED]
        if not bare.has_thresholds:
            chosen = bare.findings[:1]
        if not chosen:
            return bare
        untrained_NE = self.embed(padded_NTL, mask_NL, self.untrained)
        explained = []
        for finding in chosen:
            direction_E = self.directions_CE[listed.index(finding)]
            scores = embedding_NE @ direction_E, untrained_NE @ direction_E
            explained.append((finding, occlusion(*scores, ecg.prepared.lead_mask, self.model.leads)))
        return replace(bare, explained=explained)
