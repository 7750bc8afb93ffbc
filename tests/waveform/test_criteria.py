from __future__ import annotations

import pytest

from etp_jax.data_prep.synthetic.scp import STATEMENTS
from etp_jax.tasks import get_task, task_names
from etp_jax.waveform.criteria import Criteria, codes_of, features_of
from etp_jax.waveform.features import QUANTITIES


@pytest.mark.parametrize("statement", STATEMENTS, ids=lambda statement: statement.code)
def test_every_scp_statement_has_features_by_its_description(statement):
    assert statement.code in codes_of(statement.description)
    assert features_of(statement.description)


@pytest.mark.parametrize("task", task_names())
def test_every_class_of_every_task_has_features(task):
    assert [c.name for c in get_task(task).classes if not features_of(c.name)] == []


def test_every_feature_is_a_sentence_with_a_source_and_a_sound_check():
    features = {f for statement in STATEMENTS for f in features_of(statement.description)}
    assert len(features) > 100 and len({f.sentence for f in features}) == len(features)
    for feature in features:
        assert feature.source and len(feature.sentence.split()) >= 3 and ". " not in feature.sentence
        assert feature.check is None or feature.check.flaw() == ""
    assert {f.check.quantity for f in features if f.check} <= set(QUANTITIES)


@pytest.mark.parametrize(
    ("statement", "codes"),
    [
        ("Left bundle branch block", ("CLBBB",)),
        ("incomplete left bundle branch block", ("ILBBB",)),
        ("possible old inferior myocardial infarction", ("IMI",)),
        ("probably old inferior myocardial infarction", ("IMI",)),
        ("old inferior myocardial infarction cannot be entirely excluded", ("IMI",)),
        ("inferior myocardial infarction, age undetermined", ("IMI",)),
        ("left axis deviation, left anterior fascicular block", ("LAD", "LAFB")),
        ("Q waves in II, III, aVF consistent with old inferior myocardial infarction", ("IMI",)),
        ("right bundle branch block and left anterior fascicular block", ("CRBBB", "LAFB")),
        ("atrial fibrillation with rapid ventricular response", ("AFIB", "AFIB_FAST")),
        # whole phrases, never a part of one
        ("no left bundle branch block", ()),
        ("left bundle branch block and sinus rhythm not seen", ()),
        ("no evidence of ischemia, left bundle branch block excluded", ()),
        ("left bundle branch blocks", ()),
        ("SR", ()),
        ("normal ECGs", ()),
        ("", ()),
    ],
)
def test_codes_of_a_statement(statement, codes):
    assert codes_of(statement) == codes


def test_known_criteria_are_there():
    def bounds(statement: str, quantity: str) -> list[tuple]:
        checks = [f.check for f in features_of(statement) if f.check]
        return [(c.low, c.high, c.leads, c.at_least) for c in checks if c.quantity == quantity]

    assert bounds("sinus bradycardia", "rate_bpm") == [(None, 60, (), 0)]
    assert bounds("first-degree AV block", "pr_ms") == [(200, None, (), 0)]
    assert bounds("left bundle branch block", "qrs_ms") == [(120, None, (), 0)]
    assert bounds("left ventricular hypertrophy", "sokolow_uv") == [(3500, None, (), 0)]
    assert bounds("inferior myocardial infarction", "q_ms") == [(30, None, ("II", "III", "aVF"), 2)]


def test_unknown_statements_get_nothing():
    answers = Criteria().propose(["sinus rhythm", "the moon is full"])
    assert answers.features["the moon is full"] == () and answers.features["sinus rhythm"]
