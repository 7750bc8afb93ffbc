from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.files import SEAL
from etp_jax.waveform.features import (
    QUANTITIES,
    Check,
    Feature,
    Similarities,
    collect,
    load_proposals,
    load_similarities,
)


@st.composite
def checks(draw: st.DrawFn) -> Check:
    name = draw(st.sampled_from(sorted(QUANTITIES)))
    quantity = QUANTITIES[name]
    low, high = sorted(draw(st.lists(st.floats(quantity.low, quantity.high), min_size=2, max_size=2)))
    leads = tuple(draw(st.lists(st.sampled_from(LEADS), min_size=1, unique=True))) if quantity.per_lead else ()
    return Check(
        name, low, draw(st.sampled_from([None, high])), leads, draw(st.integers(1, len(leads))) if leads else 0
    )


@settings(max_examples=30, deadline=None)
@given(
    st.dictionaries(
        st.text(st.characters(codec="utf-8"), max_size=9),
        st.lists(st.builds(Feature, st.sampled_from(["a", "b", "ü"]), st.none() | checks(), st.just("x")), max_size=3),
    )
)
def test_proposals_come_back_as_they_were(tmp_path_factory, proposed):
    path: Path = tmp_path_factory.mktemp("features") / "proposals.json"
    proposals = collect(proposed, {"source": "test"})
    proposals.save(path)
    assert load_proposals(path) == proposals
    for statement, features in proposed.items():
        wanted = list(dict.fromkeys(feature.sentence for feature in features))
        assert [proposals.features[place].sentence for place in proposals.of([statement])] == wanted


def test_a_sentence_has_one_check():
    first, second = Feature("wide", Check("qrs_ms", low=120), ""), Feature("wide", Check("qrs_ms", low=110), "")
    proposals = collect({"b": [second], "a": [first]}, {})
    assert proposals.features == (first,) and proposals.statements == {"a": (0,), "b": (0,)}


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ('"quantity": "qrs_ms", "low": 120', "quantity: 'qrs_km'"),
        ('"low": 120', "bounds: 120000"),
        ('"a": [\n   0\n  ]', "refers to a feature that does not exist"),
    ],
)
def test_a_file_that_makes_no_sense_is_refused(tmp_path, text, match):
    path = tmp_path / "proposals.json"
    collect({"a": [Feature("wide", Check("qrs_ms", low=120), "")]}, {}).save(path)
    replaced = {"qrs_ms": "qrs_km"} if "quantity" in text else {'"low": 120': '"low": 120000'}
    if text.startswith('"a"'):
        replaced = {text: '"a": [7]'}
    written = path.read_text()
    for old, new in replaced.items():
        assert old in written
        written = written.replace(old, new)
    path.write_text(written)
    with pytest.raises(EtpError, match=match):
        load_proposals(path)


def test_a_changed_bound_is_refused_unless_the_seal_is_deleted(tmp_path):
    path = tmp_path / "proposals.json"
    collect({"a": [Feature("wide", Check("qrs_ms", low=120), "")]}, {}).save(path)
    path.write_text(path.read_text().replace('"low": 120', '"low": 130'))
    with pytest.raises(EtpError, match=rf"was changed after it was written; run .* again, or delete {SEAL} in it"):
        load_proposals(path)
    content = json.loads(path.read_text())
    del content[SEAL]
    path.write_text(json.dumps(content))
    assert load_proposals(path).features[0].check == Check("qrs_ms", low=130)


def test_similarities_come_back_to_half_precision(tmp_path):
    rng = np.random.default_rng(0)
    ecg, text = (rng.normal(size=(n, 8)).astype(np.float32) for n in (5, 3))
    ecg, text = (x / np.linalg.norm(x, axis=1, keepdims=True) for x in (ecg, text))
    saved = Similarities(
        tuple("abcde"), ("x", "y ü", "z"), ecg, text, np.array([0.1, 0.2, 0.3], np.float32), {"run": "r"}
    )
    saved.save(tmp_path / "s.npz")
    loaded = load_similarities(tmp_path / "s.npz")
    assert (loaded.record_ids, loaded.sentences, loaded.origin) == (saved.record_ids, saved.sentences, saved.origin)
    np.testing.assert_allclose(loaded.ecg @ loaded.text.T, ecg @ text.T, atol=2e-3)
    np.testing.assert_array_equal(loaded.thresholds, saved.thresholds)
