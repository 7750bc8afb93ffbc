"""A finding: a class or a prompt with its score for one ECG."""

from __future__ import annotations

from dataclasses import dataclass

from etp_jax.encoder.calibration import Threshold, Verdict


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
    threshold: Threshold | None = None
    """Threshold of the probability; None if the encoder has none for the class."""
    percentile: float | None = None
    """Share of the reference ECGs with a lower score, in percent; None if the encoder has no reference ECGs."""
    codes: frozenset[str] = frozenset()
    """Label codes that belong to the class."""
    readable: bool = True
    """Whether the ECG has heart beats; without them, nothing is decided."""

    @property
    def key(self) -> tuple[float, float]:
        """Sort key: the most probable first; classes without a probability last, by score."""
        return (-1.0 if self.probability is None else self.probability), self.score

    @property
    def verdict(self) -> Verdict:
        """The probability compared with its threshold; not decided if there is none, or the ECG is not readable."""
        if self.probability is None or self.threshold is None or not self.readable:
            return "not decided"
        return self.threshold.verdict(self.probability)
