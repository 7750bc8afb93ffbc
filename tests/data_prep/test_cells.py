"""Cells of tables as people and programs write them."""

from __future__ import annotations

import ast
import json
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etp_jax.data_prep.archives.cells import age_of, flag_of, labels_of, patient_of, report_of, sex_of
from etp_jax.errors import EtpError


@pytest.mark.parametrize(
    ("cell", "labels"),
    [
        ("AF;LBBB", ["AF", "LBBB"]),
        ("AF, LBBB | SR", ["AF", "LBBB", "SR"]),
        ("['AF', 'LBBB']", ["AF", "LBBB"]),
        ('["AF"]', ["AF"]),
        ("('AF', 'LBBB')", ["AF", "LBBB"]),
        ("{'AF', 'LBBB'}", ["AF", "LBBB"]),
        ("['AF' 'LBBB']", ["AF", "LBBB"]),
        ("array(['AF', 'LBBB'], dtype='<U4')", ["AF", "LBBB"]),
        ("[AF, LBBB]", ["AF", "LBBB"]),
        ("['AF', nan, None]", ["AF"]),
        ("[164889003, 426783006]", ["164889003", "426783006"]),
        ("164889003.0", ["164889003"]),
        ('"AF"', ["AF"]),
        ('{"AF": true, "SR": false}', ["AF"]),
        ("{'AF': True}", ["AF"]),
        ("AF (possible)", ["AF (possible)"]),
        ("AF (possible, old); SR", ["AF (possible, old)", "SR"]),
        ("[np.str_('AF'), np.str_('LBBB')]", ["AF", "LBBB"]),
        ("array(['AF', 'LBBB'],\n      dtype=object)", ["AF", "LBBB"]),
        ("Index(['AF', 'LBBB'], dtype='object', name='codes')", ["AF", "LBBB"]),
        ("dict_keys(['AF', 'LBBB'])", ["AF", "LBBB"]),
        ("\"['AF', 'LBBB']\"", ["AF", "LBBB"]),
        ("{AF,LBBB}", ["AF", "LBBB"]),
        ("[b'AF', b'SR']", ["AF", "SR"]),
        ("b'AF'", ["AF"]),
        ("[164889003. 426783006.]", ["164889003", "426783006"]),
        ("{164889003.0: True, None: True, '': True}", ["164889003"]),
        ("AF\rSR", ["AF", "SR"]),
        ("AF:true; SR=No", ["AF"]),
        ("flutter 2:1; SR", ["flutter 2:1", "SR"]),
        ("SNOMED:164889003, SNOMED:426783006", ["SNOMED:164889003", "SNOMED:426783006"]),
        ("EF<=50", ["EF<=50"]),
        ("rhythm: N", ["rhythm: N"]),
        ("['N', 'F']", ["N", "F"]),
        *(
            (empty, [])
            for empty in ("", "nan", "NaN", "None", "NA", "#N/A", "[]", "{}", "()", "set()", "['']", "[nan nan]")
        ),
    ],
)
def test_labels(cell: str, labels: list[str]) -> None:
    assert sorted(labels_of(cell)) == sorted(labels)
    assert set(labels_of(cell).values()) <= {-1.0}


def test_likelihoods() -> None:
    assert labels_of("{'NORM': 100.0, 'SR': 0.0}") == {"NORM": 100.0, "SR": 0.0}
    assert labels_of('{"NORM": 80, "SR": null}') == {"NORM": 80.0, "SR": -1.0}
    assert labels_of("{'SR': 0.0}") == {"SR": 0.0}
    for cell in (
        "AF:100;SR:0",
        "AF:100, SR:0",
        "AF = 100 | SR = 0.0",
        "AF: 100%\nSR: 0%",
        "'AF': 1e2, 'SR': 0",
        "['AF:100', 'SR:0']",
        "{AF=100,SR=0}",
    ):
        assert labels_of(cell) == {"AF": 100.0, "SR": 0.0}


@pytest.mark.parametrize(
    "cell",
    [
        "['AF'",
        "[AF",
        "{'AF'",
        "[['AF'], ['SR']]",
        "{'AF': 'yes'}",
        "{'AF': 101}",
        "{'AF': 1e999}",
        "{'AF': -1}",
        "{'AF': 1, 'SR': 0}",
        "{'AF': 0.7, 'SR': 0.1}",
        f"{{'AF': {'9' * 400}}}",
        "{'AF': 100, 'SR': True}",
        *("{'AF': 100, 'AF': 0}", '{"AF": 100, "SR": 0, "AF": 0}', "{1: 100, '1': 0}", "{AF: 100, AF: 0}"),
        *("[0, 1, 0]", "[0 1 0]", "[1. 0.]", "[True, False]", "1;0;1"),
        *("[1.64889003e+08 4.26783006e+08]", "1.64889E+08"),
        *(
            "AF=1;SR=0",
            "AF:0.9",
            "AF:100;SR",
            "AF:99,5;SR:0",
            "AF:101",
            "AF:-1;SR:-1",
            "ICD:48;ICD:49",
            "{AF=1.0, SR=0}",
            "AF:100;SR:no",
        ),
        *("AF; ['SR']", "AF]", "AF (possible"),
        "[" * 5000,
    ],
)
def test_labels_that_are_not_understood(cell: str) -> None:
    with pytest.raises(EtpError, match=r"^labels: ") as error:
        labels_of(cell)
    assert len(str(error.value)) < 250


@given(st.lists(st.text("ABCD_0", min_size=1).filter(lambda word: not word.isdecimal()), unique=True))
def test_lists_of_every_program(labels: list[str]) -> None:
    for cell in (str(labels), json.dumps(labels), ";".join(labels), str(tuple(labels)), str(np.array(labels, object))):
        assert list(labels_of(cell)) == labels
    percent = {label: 50.0 for label in labels}
    assert labels_of(str(percent)) == labels_of(json.dumps(percent)) == ast.literal_eval(str(percent))


@pytest.mark.parametrize(
    ("cell", "patient"),
    [
        ("123", "123"),
        ("00123", "123"),
        ("123.0", "123"),
        (" 00123.00 ", "123"),
        ("000", "0"),
        ("p007", "p007"),
        ("1.5", "1.5"),
    ],
)
def test_patients(cell: str, patient: str) -> None:
    assert patient_of(cell) == patient


@pytest.mark.parametrize("cell", ["", "nan", "1.23457E+11", "1e5"])
def test_patients_that_are_not_known(cell: str) -> None:
    with pytest.raises(EtpError, match=r"^patient: "):
        patient_of(cell)


@pytest.mark.parametrize(
    ("cell", "age"),
    [
        ("61", 61),
        ("61.5", 61.5),
        ("61,5", 61.5),
        ("45Y", 45),
        ("045Y", 45),
        ("45 years", 45),
        ("45 years old", 45),
        ("018M", 1.5),
        ("64 M", None),
        ("0", 0),
        ("", math.nan),
        ("NaN", math.nan),
        *((cell, None) for cell in ("-1", "121", "300", "inf", "unknown", "9" * 400, "4.5.2020", "45-50")),
    ],
)
def test_ages(cell: str, age: float | None) -> None:
    assert age_of(cell) == pytest.approx(age, nan_ok=True)


def test_sexes_and_reports() -> None:
    assert [sex_of(cell) for cell in ("M", "male", "F", "w", "Female")] == [
        "male",
        "male",
        "female",
        "female",
        "female",
    ]
    assert [sex_of(cell) for cell in ("", "nan")] == ["", ""]
    assert [sex_of(cell) for cell in ("0", "1", "x")] == [None, None, None]
    assert report_of("Linksanteriorer H&auml;miblock, QRS &lt; 120 ms") == "Linksanteriorer Hämiblock, QRS < 120 ms"
    assert report_of("Sinus&lt;br/&gt;<b>AF</b> <p class='x'>QRS &amp;lt; 120") == "Sinus\nAF \nQRS < 120"
    assert report_of("['Sinus rhythm', 'AF']") == "Sinus rhythm\nAF"
    assert report_of("['Sinus rhythm', nan]") == "Sinus rhythm"
    for text in ("QRS <120 ms, PR >200", "<<AF>>", "PR <b and c>", "<name> [AF]"):
        assert report_of(text) == text
    assert [report_of(cell) for cell in ("NaN", "nan", "None", "")] == [""] * 4


def test_true_and_false() -> None:
    assert all(flag_of(cell) is True for cell in ("True", "1", "1.0", " yes ", "T"))
    assert all(flag_of(cell) is False for cell in ("FALSE", "0", "0.0", "no", "f"))
    assert [flag_of(cell) for cell in ("", "2", "-1", "maybe")] == [None] * 4


def test_sex_in_a_column_that_asks_for_it() -> None:
    assert [sex_of(cell, "is_male") for cell in ("True", "0", "")] == ["male", "female", ""]
    assert [sex_of(cell, "Female") for cell in ("1", "False", "m")] == ["female", "male", "male"]
    assert sex_of("1", "sex") is None


def test_a_label_in_each_line() -> None:
    assert list(labels_of("Atrial flutter, typical\n")) == ["Atrial flutter, typical"]
    assert list(labels_of("Left atrial hypertrophy\r\nSinus rhythm; fast\n")) == [
        "Left atrial hypertrophy",
        "Sinus rhythm; fast",
    ]
