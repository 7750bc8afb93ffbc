"""The result of `etp predict --json`, described in docs/predict-and-export.md."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from etp_jax.predict import words
from etp_jax.predict.finding import Finding
from etp_jax.predict.occlusion import Occlusion
from etp_jax.predict.predictor import NOTICE, Prediction, Predictor

FORMAT = 1
"""Version of the schema; fields may be added without a new version."""


def as_json(prediction: Prediction, predictor: Predictor, files: Sequence[Path]) -> dict[str, Any]:
    """Everything about one record, for `json.dumps`; null is what could not be measured or is unknown."""
    ecg, encoder = prediction.ecg, predictor.model.encoder
    quantities = [quantity for _, quantity, _ in words.MEASURED]
    return {
        "format": FORMAT,
        "notice": NOTICE,
        "record": ecg.name,
        "summary": words.summary(prediction),
        "seconds": ecg.seconds,
        "fs": ecg.fs,
        "age": ecg.recording.age if math.isfinite(ecg.recording.age) else None,
        "sex": ecg.recording.sex or None,
        "notes": list(ecg.notes),
        "contradictions": prediction.contradictions,
        "measurements": {name: words.value(prediction, name) for name in (*quantities, "beats", "median_beats")},
        "withheld": prediction.withheld,
        "findings": [
            {"group": group, **_finding(finding)} for group, found in prediction.groups.items() for finding in found
        ],
        "prompts": [{"text": f.name, "similarity": f.score, "percentile": f.percentile} for f in prediction.prompts],
        "rests_on": [_rests_on(*explained) for explained in prediction.explained],
        "reports": [{"cosine": cosine, "report": report} for cosine, report in prediction.reports],
        "encoder": {"name": encoder.run_dir.name, "step": encoder.step},
        "files": [str(file) for file in files],
    }


def _rests_on(finding: Finding, found: Occlusion) -> dict[str, Any]:
    return {
        "task": finding.task,
        "code": finding.code,
        "leads": list(found.highlight.leads),
        "seconds": list(found.highlight.seconds),
        "score": finding.score,
        "falls": {"by_lead": dict(found.by_lead), "by_second": found.by_second, "by_chance": found.by_chance},
    }


def _finding(finding: Finding) -> dict[str, Any]:
    threshold = finding.threshold
    return {
        "task": finding.task,
        "code": finding.code,
        "name": finding.name,
        "probability": finding.probability,
        "threshold": threshold and threshold.probability,
        "precision": threshold and threshold.precision,
        "sensitivity": threshold and threshold.sensitivity,
        "verdict": finding.verdict,
        "similarity": finding.score,
        "percentile": finding.percentile,
    }
