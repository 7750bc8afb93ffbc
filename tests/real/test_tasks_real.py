"""The tasks against PTB-XL's own files; needs ETP_DATA_ROOT."""

import ast
import csv
import os
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from etp_jax.tasks import get_task, labels, task_names

ROOT = os.environ.get("ETP_DATA_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="ETP_DATA_ROOT is not set")

COLUMN = {"ptbxl-super": "diagnostic_class", "ptbxl-sub": "diagnostic_subclass"}


@pytest.fixture(scope="module")
def statements() -> list[dict[str, str]]:
    with (Path(ROOT or "") / "ptbxl" / "scp_statements.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def database() -> dict[int, tuple[str, tuple[str, ...]]]:
    """Fold and label codes, at any likelihood, by record."""
    with (Path(ROOT or "") / "ptbxl" / "ptbxl_database.csv").open(encoding="utf-8") as file:
        return {
            int(float(row["ecg_id"])): (row["strat_fold"], tuple(ast.literal_eval(row["scp_codes"])))
            for row in csv.DictReader(file)
        }


def class_of(row: dict[str, str], name: str) -> str:
    """The class that a row of `scp_statements.csv` gives its code in a task; empty if none."""
    if name in COLUMN:
        return row[COLUMN[name]] if row["diagnostic"] else ""
    return row[""] if row[name.removeprefix("ptbxl-")] else ""


@pytest.mark.parametrize("name", task_names())
def test_classes_are_those_of_scp_statements(name: str, statements: list[dict[str, str]]):
    of_file = {(row[""], class_of(row, name)) for row in statements if class_of(row, name)}
    assert {(code, c.code) for c in get_task(name).classes for code in c.codes} == of_file


@pytest.mark.parametrize(
    ("name", "records"), [("ptbxl-super", 2158), ("ptbxl-sub", 2158), ("ptbxl-form", 880), ("ptbxl-rhythm", 2098)]
)
def test_records_and_positives_of_fold_10(
    name: str, records: int, database: dict[int, tuple[str, tuple[str, ...]]], statements: list[dict[str, str]]
):
    task, fold_10 = get_task(name), [codes for fold, codes in database.values() if fold == "10"]
    keep, y = labels(task, SimpleNamespace(labels=fold_10))  # pyright: ignore[reportArgumentType]
    assert keep.sum() == records
    by_code = {row[""]: class_of(row, name) for row in statements}
    counted = Counter(c for codes in fold_10 for c in {by_code[code] for code in codes} if c)
    assert {c.code: n for c, n in zip(task.classes, y.sum(axis=0).tolist(), strict=True)} == counted


@pytest.mark.parametrize("name", task_names())
def test_labels_are_those_of_the_benchmark(name: str, database: dict[int, tuple[str, tuple[str, ...]]]):
    """Record by record, MERL's label files (finetune/data_split), whose codes have lost their underscores."""
    folder = name.removeprefix("ptbxl-") + ("_class" if name in COLUMN else "")
    files = Path(ROOT or "") / "merl" / "finetune" / "data_split" / "ptbxl" / folder
    if not files.is_dir():
        pytest.skip("MERL's label files are not under ETP_DATA_ROOT")
    task = get_task(name)
    own = {record: codes for record, (_, codes) in database.items()}
    count = 0
    for path in sorted(files.glob("*.csv")):
        with path.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
        _, y = labels(task, SimpleNamespace(labels=[own[int(float(row["ecg_id"]))] for row in rows]))  # pyright: ignore[reportArgumentType]
        for c, y_c in zip(task.classes, y.T, strict=True):
            assert [bool(int(float(row[c.code.strip("_")]))) for row in rows] == y_c.tolist(), (path.name, c.code)
        count += len(rows)
    everyone = SimpleNamespace(labels=list(own.values()))
    assert count == labels(task, everyone)[0].sum()  # pyright: ignore[reportArgumentType]
