"""Tests `etp prep cinc2020` on the available records of the Challenge."""

from __future__ import annotations

import csv
import os
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import wfdb

from etp_jax.data_prep.archives.cinc2020 import CPSC2018_CODES, open_archive
from etp_jax.data_prep.build import build
from etp_jax.shards.check import check_shards
from etp_jax.shards.pool import Processes
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import Record

ROOT = Path(os.environ.get("ETP_DATA_ROOT", ""))
SOURCE = ROOT / "cinc2020"
pytestmark = pytest.mark.skipif("ETP_DATA_ROOT" not in os.environ, reason="ETP_DATA_ROOT is not set")

ICBEB = {
    "NORM": "426783006",
    "AFIB": "164889003",
    "1AVB": "270492004",
    "CLBBB": "164909002",
    "CRBBB": "59118001",
    "PAC": "284470004",
    "VPC": "164884008",
    "STD": "429622005",
    "STE": "164931005",
}
"""Columns of the MERL benchmark's tables of CPSC2018."""


def headers() -> dict[str, list[str]]:
    """Reads the header comments of each record with wfdb, by record name."""
    return {path.stem: wfdb.rdheader(str(path.with_suffix(""))).comments or [] for path in SOURCE.rglob("*.hea")}


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("cinc2020") / "shards"
    build(open_archive(SOURCE, rate=500), folder, Processes(os.cpu_count() or 1))
    return Shards(folder)


@pytest.fixture(scope="module")
def records(shards: Shards) -> dict[str, Record]:
    return {
        record.record_id: record
        for name in shards.splits
        for record in shards.split(name)  # pyright: ignore[reportGeneralTypeIssues]
    }


def test_every_record_is_there(shards, records):
    assert check_shards(shards.folder).patients == len(records) == len(list(SOURCE.rglob("*.mat")))
    assert shards.build["rejects"] == {}
    assert set(shards.build["verdicts"]) == {"good signal", "cropped", "flat lead", "empty report"}
    assert Counter(record.dataset for record in records.values()) == {
        path.name: len(list(path.glob("*.hea"))) for path in SOURCE.iterdir()
    }


def test_counts_per_code_are_those_of_the_headers(records):
    expected: Counter[str] = Counter()
    for comments in headers().values():
        (text,) = [comment.partition(":")[2] for comment in comments if comment.startswith("Dx")]
        expected.update({CPSC2018_CODES.get(token.strip(), token.strip()) for token in text.split(",")})
    assert Counter(code for record in records.values() for code in record.labels) == expected
    assert all(code.isdecimal() for code in expected)


def test_ages_and_sexes_are_those_of_the_headers(records):
    for name, comments in headers().items():
        said = dict(comment.replace(" ", "").split(":", 1) for comment in comments)
        assert records[name].age == float(said["Age"])
        assert records[name].sex == said["Sex"].lower()


def test_codes_of_cpsc2018_are_those_that_the_challenge_counts_there():
    rows = []
    for name in ("scored", "unscored"):
        with (ROOT / "labels" / f"cinc2021_dx_mapping_{name}.csv").open(newline="", encoding="utf-8") as file:
            rows += [row for row in csv.DictReader(file) if int(row["CPSC"])]
    names = {"sinus rhythm": "Normal", "1st degree av block": "I-AVB", "ventricular ectopics": "PVC"}
    assert {names.get(row["Dx"], row["Abbreviation"]): row["SNOMEDCTCode"] for row in rows} == CPSC2018_CODES


def test_labels_of_cpsc2018_agree_with_the_benchmarks_tables(records):
    compared = 0
    for part in ("train", "val", "test"):
        table = ROOT / "merl" / "finetune" / "data_split" / "icbeb" / f"icbeb_{part}.csv"
        with table.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                if row["filename"] in records:
                    assert set(records[row["filename"]].labels) == {
                        code for column, code in ICBEB.items() if float(row[column])
                    }, row["filename"]
                    compared += 1
    assert compared == sum(record.dataset == "cpsc_2018" for record in records.values())


def test_signals_agree_with_wfdb(records):
    for path in sorted(SOURCE.rglob("*.hea"))[::6]:
        expected: Any = wfdb.rdrecord(str(path.with_suffix("")))
        record = records[path.stem]
        assert expected.sig_name == ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]
        mask = record.lead_mask
        np.testing.assert_array_equal(record.ecg[:, mask], np.rint(1000 * expected.p_signal[:5000, mask]))


def test_flat_leads_are_masked(records):
    flat = {name: record for name, record in records.items() if not record.lead_mask.all()}
    assert {name: np.flatnonzero(~record.lead_mask).tolist() for name, record in flat.items()} == {
        "JS45544": [6, 7, 8, 9, 10, 11],
        "JS45551": [9, 10, 11],
    }
    assert not any(record.ecg[:, ~record.lead_mask].any() for record in flat.values())
