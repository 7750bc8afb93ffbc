"""The page and the picture that `etp predict` writes for one record."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from etp_jax import __version__
from etp_jax.files import holds_all, keep_other_kinds, write_text
from etp_jax.plain import escape
from etp_jax.predict import words
from etp_jax.predict.finding import Finding
from etp_jax.predict.predictor import NOTICE, Prediction, Predictor
from etp_jax.report.ecg_paper import lay_out, sheets
from etp_jax.report.ecg_png import write_png
from etp_jax.report.ecg_svg import draw_ecg
from etp_jax.report.html import GENERATED, page, table

DRAWN = (
    "The signal is drawn as recorded, at its own sampling rate and without filters; each lead is centred on its median."
)
MEASURED = (
    "Intervals are global: of all leads together, on the median beat. PR and QT are measured by the tangent method, "
    "which ends T some 15 ms before the wave has vanished."
)
THRESHOLDS = (
    "Right if above: of the ECGs above the threshold on which it was fitted, the share that had the finding. "
    "Not decided: the threshold is reached, but the finding is more likely wrong than right."
)


def files(name: str, out: Path) -> tuple[Path, Path]:
    """Returns the paths of a record's page and picture; raises EtpError if one holds something else."""
    html, png = out / f"{name}.html", out / f"{name}.png"
    keep_other_kinds(html, "a page of etp-jax", holds_all(GENERATED))
    keep_other_kinds(png, "a drawing of etp-jax", holds_all(b"PNG", b"Matplotlib"))
    return html, png


def write(prediction: Prediction, predictor: Predictor, out: Path) -> list[Path]:
    """Writes RECORD.html, which needs no network, and RECORD.png, the drawing alone; returns both paths."""
    model, ecg = predictor.model, prediction.ecg
    html, png = files(ecg.name, out)
    sheet, _ = sheets(ecg.seconds)
    paper = lay_out(ecg.recorded.ecg, ecg.recorded.lead_mask, ecg.leads, ecg.fs, sheet, ecg.unusable)
    doubts = list(filter(None, [words.contradiction(prediction), *ecg.notes]))
    lines = f"{ecg.name} · {words.about(ecg)}", words.summary(prediction), *doubts, words.caption(prediction), NOTICE
    write_png(png, paper, "\n".join(filter(None, lines)), prediction.highlight)
    sections = {
        "The ECG": _drawings(prediction) + _paragraphs(words.caption(prediction), DRAWN),
        "Measurements": _measurements(prediction),
        "Findings": _paragraphs(THRESHOLDS) * prediction.has_thresholds
        + "".join(_group(group, found, predictor) for group, found in prediction.groups.items()),
    }
    if prediction.prompts:
        sections["Your sentences"] = _similarities("sentence", prediction.prompts, predictor, "")
    sections["What it rests on"] = _rests_on(prediction)
    if prediction.compared:
        rows = [[f"{cosine:.3f}", escape(report)] for cosine, report in prediction.reports]
        caption = f"Nearest of {prediction.compared} distinct training reports"
        sections["Nearest reports"] = _captioned([("cosine", ""), ("report", "")], rows, caption)
    step = f"{model.encoder.run_dir.name}, step {model.encoder.step}"
    sections["About"] = _paragraphs(NOTICE, f"Encoder {step}; etp-jax {__version__}.")
    notes = "".join(f"<br>{escape(doubt)}" for doubt in doubts)
    top = f"<strong>{escape(words.summary(prediction))}</strong><br>{escape(words.about(ecg))}{notes}<br>{NOTICE}"
    write_text(html, page(ecg.name, top, sections))
    return [html, png]


def _drawings(prediction: Prediction) -> str:
    """Draws the ECG for a wide screen and for a phone; the style sheet shows one of them."""
    ecg, parts = prediction.ecg, []
    drawn = ecg.recorded.ecg, ecg.recorded.lead_mask, ecg.leads, ecg.fs, f"12-lead ECG of record {ecg.name}"
    for style, layout in zip(("desk", "phone"), sheets(ecg.seconds), strict=True):
        svg = draw_ecg(*drawn, prediction.highlight, layout, ecg.unusable)
        parts.append(f'<div class="scroll {style}" tabindex="0" role="region" aria-label="ECG">{svg}</div>')
    return "".join(parts)


def _measurements(prediction: Prediction) -> str:
    if words.value(prediction, "rate_bpm") is None:
        return _paragraphs(words.measurement_line(prediction))
    rows = [[escape(cell) for cell in row] for row in words.measurements(prediction)]
    return table([("", ""), ("value", "number"), ("rests on", "")], rows) + _paragraphs(MEASURED)


def _group(group: str, findings: Sequence[Finding], predictor: Predictor) -> str:
    """Formats the findings of a group: those with a probability, and below them those with a similarity only."""
    parts = []
    if probable := [finding for finding in findings if finding.probability is not None]:
        rows = [_probable(finding) for finding in probable]
        heads = [
            ("finding", ""),
            ("probability", "number"),
            ("threshold", "number"),
            ("", ""),
            ("right if above", "number"),
        ]
        parts.append(_captioned(heads, rows, f"Probability and threshold were fitted on the {predictor.fitted_on}."))
    if others := [finding for finding in findings if finding.probability is None]:
        why = "Without a probability: too few ECGs to fit one." if probable else "No probabilities are available."
        parts.append(_similarities("finding", others, predictor, why))
    return f"<h3>{escape(group)}</h3>{''.join(parts)}"


def _probable(finding: Finding) -> list[str]:
    cells = [escape(finding.name), words.percent(finding.probability or 0.0)]
    if finding.threshold is None:
        return [*cells, "", "no threshold", ""]
    verdict = f"<strong>{finding.verdict}</strong>" if finding.verdict == "above" else finding.verdict
    limit = finding.threshold
    return [*cells, words.percent(limit.probability), verdict, f"{limit.precision:.0%}"]


def _similarities(noun: str, findings: Sequence[Finding], predictor: Predictor, why: str) -> str:
    """Formats findings without probabilities, with their percentiles among the reference ECGs."""
    rows = [[escape(finding.name), f"{finding.score:.3f}"] for finding in findings]
    heads = [(noun, ""), ("similarity", "number")]
    if predictor.reference_RE is not None:
        heads.append(("percentile", "number"))
        rows = [[*row, f"{finding.percentile:.0f}"] for row, finding in zip(rows, findings, strict=True)]
        why += f" Percentile among {words.reference(predictor)}."
    return _captioned(heads, rows, why.strip())


def _rests_on(prediction: Prediction) -> str:
    """Names the leads and seconds that each explained finding depends on, with all decreases below."""
    if not prediction.explained:
        return _paragraphs("No finding is above its threshold, so none is explained.")
    text = _paragraphs(
        "For each finding, the leads and seconds without which its score falls most. Only those are named whose fall "
        "exceeds all falls without random stretches of the same size, and that of an encoder with shuffled weights. "
        "They show what the encoder depends on, not where the disease is."
    )
    for finding, occlusion in prediction.explained:
        falls = {**occlusion.by_lead, **{f"{s}–{s + 1} s": fall for s, fall in enumerate(occlusion.by_second)}}
        rows = [[escape(name), f"{fall:+.3f}"] for name, fall in falls.items()]
        caption = (
            f"Fall of the score, {finding.score:.3f}; at most {occlusion.by_chance:+.3f} without random stretches."
        )
        details = _captioned([("without", ""), ("fall", "number")], rows, caption)
        text += f"<details><summary>{escape(words.rests_on(finding, occlusion))}</summary>{details}</details>"
    return text


def _captioned(heads: Sequence[tuple[str, str]], rows: Sequence[Sequence[str]], caption: str) -> str:
    """Formats a table below its caption, which on a phone does not scroll away with it."""
    return f'<p class="quiet">{escape(caption)}</p>{table(heads, rows)}'


def _paragraphs(*texts: str) -> str:
    return "".join(f"<p>{escape(text)}</p>" for text in texts if text)
