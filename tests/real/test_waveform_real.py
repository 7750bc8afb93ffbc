"""Tests measurements and the filter of waveform features on PTB-XL's fold 9."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from etp_jax.ecg.leads import LEADS
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record
from etp_jax.waveform.agreement import measure_split
from etp_jax.waveform.criteria import features_of
from etp_jax.waveform.features import Feature, collect
from etp_jax.waveform.measure import measure
from etp_jax.waveform.restore import Restorer

ROOT = os.environ.get("ETP_DATA_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="ETP_DATA_ROOT is not set")

FLOORS = {
    ("SBRAD", "rate_bpm"): (0.95, 0.80, 0.95),
    ("STACH", "rate_bpm"): (0.95, 0.93, 0.95),
    ("1AVB", "pr_ms"): (0.68, 0.84, 0.83),
    ("CLBBB", "qrs_ms"): (0.93, 0.87, 0.94),
    ("CRBBB", "qrs_ms"): (0.85, 0.87, 0.90),
    ("LVH", "sokolow_uv"): (0.45, 0.93, 0.85),
    ("AFIB", "p_likeness"): (0.75, 0.92, 0.94),
    ("AFIB", "rr_irregularity"): (0.80, 0.88, 0.92),
}
"""Minimum sensitivity, specificity and AUROC of a textbook criterion for a label."""

# True features, which a label implies, and false ones, which cannot occur together with it.
TRUE = {
    "SBRAD": ["heart rate is below 60 per minute"],
    "STACH": ["heart rate is above 100 per minute"],
    "1AVB": ["PR interval is longer than 200 ms"],
    "CLBBB": ["QRS duration is 120 ms or longer", "QRS complexes are mainly negative in V1"],
    "CRBBB": ["QRS duration is 120 ms or longer", "a second late R wave is seen in V1 or V2"],
    "NORM": ["QRS duration is below 110 ms", "frontal QRS axis lies between -30 and 90 degrees", "QTc is below 450 ms"],
}
FALSE = {
    "SBRAD": ["heart rate is above 100 per minute"],
    "STACH": ["heart rate is below 60 per minute"],
    "CLBBB": ["QRS duration is below 110 ms", "QRS duration lies between 110 and 120 ms"],
    "CRBBB": ["QRS duration is below 110 ms"],
    "NORM": [
        "QRS duration is 120 ms or longer",
        "PR interval is longer than 200 ms",
        "frontal QRS axis lies between -45 and -90 degrees",
        "frontal QRS axis lies to the right of 90 degrees",
        "QTc is longer than 450 ms",
        "S in V1 plus R in V5 or V6 reaches 3.5 mV",
        "Q waves of 30 ms or more are seen in two of the leads II, III and aVF",
        "ST segments are depressed by 0.1 mV or more in inferior leads",
        "no P waves can be seen before the QRS complexes",
        "at least one beat has a wide QRS complex unlike the others",
    ],
}
STATEMENTS = (
    "normal ecg,sinus rhythm,sinus bradycardia,sinus tachycardia,first-degree av block,left bundle branch block,"
    "right bundle branch block,incomplete left bundle branch block,left anterior fascicular block,right axis deviation,"
    "long qt-interval,left ventricular hypertrophy,inferior myocardial infarction,atrial fibrillation,"
    "inferior subendocardial injury,premature ventricular complexes"
)


@pytest.fixture(scope="module")
def shards(fold_9: Path) -> Shards:
    return Shards(fold_9)


def test_measurements_agree_with_the_labels(shards):
    summary = measure_split(shards.folder, "validation", workers=2)
    print(f"\n{summary}")
    found = {(a.criterion.label, a.criterion.quantity): a for a in summary.agreements if not a.criterion.lead}
    for key, floors in FLOORS.items():
        agreement = found[key]
        assert agreement.positives >= 20, key
        reached = (agreement.sensitivity, agreement.specificity, agreement.auroc)
        assert all(np.array(reached) >= floors), (key, reached)


def test_normal_ecgs_have_normal_intervals(shards):
    split = shards.split("validation")
    normal = [place for place, labels in enumerate(split.columns.labels) if {"NORM", "SR"} <= set(labels)][:150]
    measured = [measure(split[place], shards.fs) for place in normal]
    # Medians of healthy adults: QRS some 90 ms, PR some 160 ms (Rijnbeek 2014; Mason 2007).
    for name, low, high in (("qrs_ms", 84, 98), ("pr_ms", 145, 170), ("qtc_ms", 365, 415), ("rate_bpm", 60, 80)):
        assert low <= np.nanmedian([float(np.squeeze(m[name])) for m in measured]) <= high, name


def test_rate_agrees_with_neurokit2(shards):
    # Not among the tests' packages: it requires older pandas and setuptools than they do.
    neurokit2 = pytest.importorskip("neurokit2")
    split = shards.split("validation")
    pairs = []
    for place in range(0, len(split), 20):
        record = split[place]
        lead = neurokit2.ecg_clean(record.ecg[:, LEADS.index("II")] / 1000, sampling_rate=shards.fs)
        peaks = np.asarray(neurokit2.ecg_peaks(lead, sampling_rate=shards.fs)[1]["ECG_R_Peaks"])
        if len(peaks) > 2:
            pairs.append((measure(record, shards.fs)["rate_bpm"], 60 * shards.fs / np.median(np.diff(peaks))))
    ours, theirs = np.array(pairs, float).T
    assert len(pairs) > 100 and (np.abs(ours - theirs) < 3).mean() >= 0.9


def test_planted_hallucinations_are_rejected(shards, tmp_path):
    known = {feature.sentence: feature for statement in STATEMENTS.split(",") for feature in features_of(statement)}
    write = collect({sentence: [feature] for sentence, feature in known.items()}, {})
    write.save(tmp_path / "proposals.json")
    restorer = Restorer(tmp_path / "proposals.json", None, "measurement", shards.fs, shards.leads)
    lies = judged(shards, restorer, known, FALSE)
    truths = judged(shards, restorer, known, TRUE)
    rejected = sum(outcome != "confirmed by measurement" for outcome in lies)
    wronged = sum(outcome != "confirmed by measurement" for outcome in truths)
    recall, precision = rejected / len(lies), rejected / (rejected + wronged)
    contradicted = [sum(outcome == "contradicted" for outcome in some) for some in (lies, truths)]
    print(f"\nplanted: recall {recall:.3f}, precision {precision:.3f} beside 500 true; contradicted {contradicted}")
    assert recall >= 0.93 and precision >= 0.85
    assert contradicted[0] >= 400 and contradicted[1] <= 50


def judged(shards: Shards, restorer: Restorer, known: dict[str, Feature], plan: dict[str, list[str]]) -> list[str]:
    """Filters 500 features planted into records with unambiguous labels, one label after the other."""
    split = shards.split("validation")
    sure = [
        dict(zip(codes, p, strict=True))
        for codes, p in zip(split.columns.labels, split.columns.likelihoods, strict=True)
    ]
    places = {
        label: [n for n, codes in enumerate(sure) if label in codes and (label != "NORM" or codes["NORM"] == 100)]
        for label in plan
    }
    pairs: list[tuple[int, str]] = []
    for label, sentences in plan.items():
        count = 500 if label == "NORM" else 30
        pairs += [(place, sentences[n % len(sentences)]) for n, place in enumerate(places[label][:count])]
    assert len(pairs) >= 500
    return [restorer.verdicts(planted(split[place], known[text].sentence))[0].outcome for place, text in pairs[:500]]


def planted(record: Record, sentence: str) -> Record:
    return replace(record, statements=(sentence,))
