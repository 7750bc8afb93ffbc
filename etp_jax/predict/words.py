"""What `etp predict` says in words, on the page and on the terminal."""

from __future__ import annotations

import math
from collections.abc import Iterable

from etp_jax.ecg.leads import Highlight
from etp_jax.predict.doubts import NO_BEATS
from etp_jax.predict.finding import Finding
from etp_jax.predict.occlusion import Occlusion
from etp_jax.predict.predictor import Ecg, Prediction, Predictor

MEASURED = (
    ("heart rate", "rate_bpm", "/min"),
    ("PR", "pr_ms", " ms"),
    ("QRS", "qrs_ms", " ms"),
    ("QT", "qt_ms", " ms"),
    ("QTc (Fridericia)", "qtc_ms", " ms"),
    ("QRS axis", "axis_deg", "°"),
)
"""Name, quantity and unit of each measurement that is shown."""
NO_THRESHOLDS = "This encoder has no thresholds; findings are ranked only"
NOTHING = "nothing stands out: hiding random stretches, or an encoder with shuffled weights, changes the score as much"


def value(prediction: Prediction, quantity: str) -> float | None:
    """Returns a measurement of the whole ECG, or None if it could not be measured or is withheld."""
    found = float(prediction.ecg.measures.get(quantity, math.nan))  # pyright: ignore[reportArgumentType]
    return found if math.isfinite(found) and quantity not in prediction.withheld else None


def summary(prediction: Prediction) -> str:
    """One line: the findings above their thresholds, heart rate and QTc."""
    names = ", ".join(dict.fromkeys(finding.name for finding in prediction.above))
    parts = [f"Above the threshold: {names}" if names else "No finding is above its threshold"]
    if not prediction.has_thresholds:
        parts = [NO_THRESHOLDS]
    if not prediction.ecg.readable:
        parts = ["Not readable as an ECG"]
    rate, qtc = value(prediction, "rate_bpm"), value(prediction, "qtc_ms")
    parts += [NO_BEATS] if rate is None else [f"heart rate {rate:.0f}/min"]
    parts += [f"QTc {qtc:.0f} ms"] if qtc is not None else []
    return "; ".join(parts)


def about(ecg: Ecg) -> str:
    """The record, its duration and rate, and age and sex if the file has them."""
    recording = ecg.recording
    parts = [f"{ecg.seconds:g} s at {ecg.fs:g} Hz"]
    parts += [f"{recording.age:g} years"] if math.isfinite(recording.age) else []
    return ", ".join([*parts, *filter(None, [recording.sex])])


def contradiction(prediction: Prediction) -> str:
    """One line about the findings that cannot all be right; empty if there are none."""
    found = "; ".join(prediction.contradictions)
    return f"Contradiction: {found}. Not all of this can be right." if found else ""


def measurements(prediction: Prediction) -> list[tuple[str, str, str]]:
    """Name, value with its unit, and what it rests on, of each measurement."""
    beats, averaged = value(prediction, "beats"), value(prediction, "median_beats")
    rests = [f"{count:.0f} beats" if count else "" for count in (beats, averaged)]
    rows = []
    for name, quantity, unit in MEASURED:
        found, why = value(prediction, quantity), prediction.withheld.get(quantity, "")
        basis = rests[0] if quantity == "rate_bpm" else f"median of {rests[1]}"
        rows.append((name, "not measured", why) if found is None else (name, f"{_whole(found, unit)}{unit}", basis))
    return rows


def _whole(number: float, unit: str) -> int:
    """Rounds a measurement; angles are from -179° to 180°."""
    return 180 - (180 - round(number)) % 360 if unit == "°" else round(number)


def measurement_line(prediction: Prediction) -> str:
    """All measurements in one line."""
    if value(prediction, "rate_bpm") is None:
        return f"not measured: {NO_BEATS}"
    by_basis: dict[str, list[str]] = {}
    for name, found, basis in measurements(prediction):
        by_basis.setdefault(basis, []).append(f"{name} {found}")
    return "; ".join(", ".join(texts) + f" ({basis})" * bool(basis) for basis, texts in by_basis.items())


def percent(share: float) -> str:
    """A share in percent, with one decimal."""
    return f"{share:.1%}"


def reference(predictor: Predictor) -> str:
    """The ECGs among which a percentile is counted."""
    count = 0 if predictor.reference_RE is None else len(predictor.reference_RE)
    return f"{count:,} ECGs of the {predictor.fitted_on.partition(',')[0]}"


def rests_on(finding: Finding, occlusion: Occlusion) -> str:
    """The leads and seconds that a finding depends on."""
    return f"{finding.name}: {marks(occlusion.highlight) or NOTHING}"


def marks(highlight: Highlight) -> str:
    """Leads and seconds in words; empty if there are none."""
    seconds = (f"{second}–{second + 1} s" for second in highlight.seconds)
    parts = [_listed("lead", highlight.leads), _listed("second", [text.removesuffix(" s") for text in seconds])]
    return " and ".join(filter(None, parts))


def caption(prediction: Prediction) -> str:
    """Explains the marks of the drawing; empty if there are none."""
    for finding, occlusion in prediction.explained:
        if occlusion.highlight != Highlight():
            return f"Marked: {rests_on(finding, occlusion)} (leads blue, seconds shaded)"
    return ""


def _listed(noun: str, names: Iterable[str]) -> str:
    items = list(names)
    return f"{noun}{'s' * (len(items) > 1)} {', '.join(items)}" if items else ""
