"""JSON from files: what is refused, and the types of a schema."""

from __future__ import annotations

import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from etp_jax.json_text import fits, parse_json

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)  # fmt: skip


@given(VALUES)
def test_any_json_is_read_as_the_json_module_reads_it(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b"\xff\xfe", "utf-8"),
        (b"[" * 100_000, "nested too deeply"),
        (b"[" * 65 + b"]" * 65, "nested too deeply"),
        (b'{"a": ' * 5000 + b"1" + b"}" * 5000, "nested too deeply"),
        (b"1" + b"0" * 400, "out of range"),
        (b"18446744073709551616", "out of range"),
        (b"1e400", "out of range"),
        (b"NaN", "no number in JSON"),
        (b'{"a": 1, "a": 2}', "'a' is given twice"),
        (b'"\\ud800"', "surrogates"),
        (b"{", "Expecting"),
    ],
)
def test_what_is_no_json_or_no_data(text: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


SCHEMA = {"name": str, "leads": [str], "fs": float, "of?": int, "splits": {str: {"records": int}}}
SOUND = {"name": "a", "leads": ["I"], "fs": 100, "splits": {"train": {"records": 1}}, "more": None}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, ""),
        ({"of": 1}, ""),
        ({"of": True}, "of must be a whole number"),
        ({"name": 1}, "name must be text"),
        ({"leads": "I"}, "leads must be a list"),
        ({"leads": [1]}, r"leads\[0\] must be text"),
        ({"splits": []}, "splits must be an object"),
        ({"splits": {"train": {}}}, "splits.train.records must be given"),
    ],
)
def test_types_of_a_schema(change: dict[str, Any], reason: str) -> None:
    text = json.dumps({**SOUND, **change})
    if not reason:
        assert parse_json(text, SCHEMA) == {**SOUND, **change}
        return
    with pytest.raises(ValueError, match=reason):
        parse_json(text, SCHEMA)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (1, int, True), (True, int, False), (1, float, True), ("a", float, False), (None, int | None, True),
        ((1, 2), tuple[int, ...], True), ((1, "a"), tuple[int, ...], False), ((1.0, 2.0), tuple[float, float], True),
        ((), tuple[str, ...], True), ("a", Literal["a", "b"], True), ("c", Literal["a", "b"], False), ([], str, False),
    ],
)  # fmt: skip
def test_values_of_options(value: Any, hint: Any, expected: bool) -> None:
    assert fits(value, hint) == expected
