"""Tests the glossary on PTB-XL's real reports: the source of its entries and its coverage."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pandas as pd
import pytest

from etp_jax.data_prep.reports import clean_report, coverage, fold, read_glossary, strip_tails, tokenize

ROOT = os.environ.get("ETP_DATA_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="ETP_DATA_ROOT is not set")


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    frame = pd.read_csv(Path(ROOT or "") / "ptbxl" / "ptbxl_database.csv", usecols=["report", "strat_fold"])
    return frame.assign(report=frame["report"].fillna(""))


def test_every_source_phrase_occurs_in_folds_1_to_8(table: pd.DataFrame) -> None:
    train = table.loc[table["strat_fold"] <= 8, "report"].unique()
    seen = "\n".join(f" {' '.join(tokenize(strip_tails(report)[0]))} " for report in train)
    absent = [s for _, s, _ in read_glossary() if f" {' '.join(tokenize(fold(s)))} " not in seen]
    assert absent == []


@pytest.mark.parametrize("folds", [range(1, 11), range(10, 11)], ids=["all", "fold 10"])
def test_reports_are_translated(table: pd.DataFrame, folds: range) -> None:
    got = coverage(table.loc[table["strat_fold"].isin(folds), "report"])
    assert got.token_share >= 0.97, got
    assert got.report_share >= 0.90, got


def test_nothing_of_the_labels_or_the_device_remains(table: pd.DataFrame) -> None:
    codes = pd.read_csv(Path(ROOT or "") / "ptbxl" / "scp_statements.csv", index_col=0).index
    leak = re.compile(r"consensus|derived from|edit:|4\.4|unbest|" + "|".join(rf"\b{code}\b" for code in codes))
    assert table["report"].str.contains("consensus label derived from").sum() == 16
    assert [text for text in map(clean_report, table["report"].unique()) if leak.search(text.report)] == []


def test_only_reports_that_say_nothing_become_empty(table: pd.DataFrame) -> None:
    empty = table.loc[[not clean_report(text).report for text in table["report"]], "report"]
    wordless = empty.str.contains(r"^trace only|^\s*$")
    assert wordless.sum() >= 366
    assert (~wordless).sum() <= 1  # one Swedish report is line noise from its second word on, and cut off


@pytest.mark.parametrize(
    ("source", "english"),
    [
        (
            r"nicht auszuschliessen|kan ej uteslutas|cannot be (?:entirely )?excluded",
            r"cannot be (?:entirely )?excluded",
        ),
        (r"\b(?:kein|keine|ohne|inga|inget)\b", r"\b(?:no|without|absent)\b"),
        (r"\bmoegl|\bmoejligen\b|\boevervaeg", r"\b(?:possibl|should be considered)"),
        (r"\bverdacht auf\b|\bmisstaenkt\b", r"\bsuspected\b"),
        # Three reports continue with the physician's own words: "wahrscheinlich kammerhypertrophie lvh moeglich".
        (r"\bwahrscheinlich\b(?! +(?:kammerhypertrophie|infarkt posterior))|\bsannolikt\b", r"\bprobabl"),
    ],
)
def test_no_hedge_is_lost(table: pd.DataFrame, source: str, english: str) -> None:
    lost = []
    for text in table.loc[table["strat_fold"] <= 9, "report"].unique():
        stripped, cut = strip_tails(text)
        if not cut and re.search(source, stripped) and not re.search(english, clean_report(text).report):
            lost.append(text)
    assert lost == []
