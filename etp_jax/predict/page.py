"""The page and the picture that `etp predict` writes for one record."""

from __future__ import annotations

from html import escape
from pathlib import Path

from etp_jax import __version__
from etp_jax.ecg.leads import Highlight
from etp_jax.files import write_text
from etp_jax.predict.predictor import NOTICE, Ecg, Finding, Prediction, Predictor, figure, rests_on
from etp_jax.report.ecg_paper import NARROW, WIDE, lay_out
from etp_jax.report.ecg_png import write_png
from etp_jax.report.ecg_svg import draw_ecg
from etp_jax.report.html import page, table

DRAWN = "The drawing shows the signal as recorded, at its own sampling rate, not filtered; each lead is centred."


def write(prediction: Prediction, predictor: Predictor, out: Path) -> list[Path]:
    """Writes RECORD.html, which needs no network, and RECORD.png, the drawing alone; returns both paths."""
    model, ecg, highlight = predictor.model, prediction.ecg, prediction.occlusion.highlight
    html, png = out / f"{ecg.name}.html", out / f"{ecg.name}.png"
    drawn = ecg.recorded.ecg, ecg.recorded.lead_mask, ecg.leads, ecg.fs
    paper = lay_out(*drawn, unusable=ecg.unusable)
    write_png(png, paper, f"{ecg.name} · {rests_on(prediction)} (blue; shaded)\n{NOTICE}", highlight)
    sections = {
        "The ECG": _drawings(ecg, highlight)
        + f"<p>{escape(rests_on(prediction))} (leads blue, seconds shaded). {DRAWN}</p>",
        "Findings": "".join(_findings(task, found, predictor) for task, found in prediction.findings.items()),
        "What it rests on": _falls(prediction),
    }
    if prediction.compared:
        rows = [[f"{cosine:.3f}", escape(report)] for cosine, report in prediction.reports]
        caption = f"Nearest of {prediction.compared} distinct training reports"
        sections["Nearest reports"] = table([("cosine", ""), ("report", "")], rows, caption)
    step = f"{model.encoder.run_dir.name}, step {model.encoder.step}"
    sections["About"] = f"<p>{NOTICE}</p><p>Encoder {escape(step)}; etp-jax {__version__}.</p>"
    notes = "".join(f"<br>{escape(note)}" for note in ecg.notes)
    write_text(html, page(ecg.name, f"<strong>{NOTICE}</strong><br>{ecg.seconds:g} s{notes}", sections))
    return [html, png]


def _drawings(ecg: Ecg, highlight: Highlight) -> str:
    """Draws the ECG as the usual sheet, and for a phone with two leads in a row; the style sheet shows one of them."""
    parts = []
    for style, layout in (("desk", WIDE), ("phone", NARROW)):
        svg = draw_ecg(
            ecg.recorded.ecg,
            ecg.recorded.lead_mask,
            ecg.leads,
            ecg.fs,
            f"12-lead ECG of record {ecg.name}",
            highlight,
            layout,
            ecg.unusable,
        )
        parts.append(f'<div class="scroll {style}" tabindex="0" role="region" aria-label="ECG">{svg}</div>')
    return "".join(parts)


def _findings(task: str, findings: list[Finding], predictor: Predictor) -> str:
    """Formats the findings of a task as a table, the most probable first."""
    caption = f"Probabilities by Platt scaling, fitted on the {predictor.fitted_on}"
    if all(finding.probability is None for finding in findings):
        caption = "Similarities; no probabilities are available"
    rows = [
        [str(rank), escape(finding.code), escape(finding.name) if task else "", figure(finding)]
        for rank, finding in enumerate(findings, 1)
    ]
    heads = [("rank", "number"), ("class" if task else "prompt", ""), ("", ""), ("", "number")]
    return f"<h3>{escape(task or 'Your prompts')}</h3>{table(heads, rows, caption)}"


def _falls(prediction: Prediction) -> str:
    """Formats how far the score falls without each lead and each second."""
    name, score = escape(prediction.explained.name), prediction.explained.score
    leads = [[lead, f"{fall:+.3f}"] for lead, fall in prediction.occlusion.by_lead.items()]
    seconds = [[f"{s}-{s + 1}", f"{fall:+.3f}"] for s, fall in enumerate(prediction.occlusion.by_second)]
    text = (
        f"<p>The score of {name} is {score:.3f}. The tables show how far it falls when a lead is masked or a second "
        "is made flat; a negative figure means that it rises. They show what the encoder depends on, not where the "
        "disease is.</p>"
    )
    if leads:
        text += table([("without lead", ""), ("fall", "number")], leads)
    return text + table([("without second", ""), ("fall", "number")], seconds)
