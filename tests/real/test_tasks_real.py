"""Compares the tasks with the archives' own files and the benchmark's label files; needs ETP_DATA_ROOT."""

import ast
import csv
import os
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from etp_jax.tasks import get_task, labels, load_task_file, vocabulary
from etp_jax.tasks.lint import lint_file
from etp_jax.tasks.published import SPLITS, read_published

ROOT = os.environ.get("ETP_DATA_ROOT")
pytestmark = pytest.mark.skipif(ROOT is None, reason="ETP_DATA_ROOT is not set")
FOLDER = Path(ROOT or "")
PTBXL = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm")

CSN = "chapman_shaoxing_ningbo"
COLUMN = {"ptbxl-super": "diagnostic_class", "ptbxl-sub": "diagnostic_subclass"}


@pytest.fixture(scope="module")
def statements() -> list[dict[str, str]]:
    with (FOLDER / "ptbxl" / "scp_statements.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def database() -> dict[int, tuple[str, tuple[str, ...]]]:
    """Reads fold and label codes, at any likelihood, by record."""
    with (FOLDER / "ptbxl" / "ptbxl_database.csv").open(encoding="utf-8") as file:
        return {
            int(float(row["ecg_id"])): (row["strat_fold"], tuple(ast.literal_eval(row["scp_codes"])))
            for row in csv.DictReader(file)
        }


def class_of(row: dict[str, str], name: str) -> str:
    """The class that a row of `scp_statements.csv` gives its code in a task; empty if none."""
    if name in COLUMN:
        return row[COLUMN[name]] if row["diagnostic"] else ""
    return row[""] if row[name.removeprefix("ptbxl-")] else ""


@pytest.mark.parametrize("name", PTBXL)
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
    keep, y = labels(task, records_of(fold_10))
    assert keep.sum() == records
    by_code = {row[""]: class_of(row, name) for row in statements}
    counted = Counter(c for codes in fold_10 for c in {by_code[code] for code in codes} if c)
    assert {c.code: n for c, n in zip(task.classes, y.sum(axis=0).tolist(), strict=True)} == counted


def records_of(codes: Iterable[tuple[str, ...]], dataset: str = "ptbxl") -> Any:
    """Creates the columns that a task reads."""
    labels = list(codes)
    return SimpleNamespace(labels=labels, dataset=[dataset] * len(labels))


def published(name: str) -> Path:
    """Folder of the benchmark's label files for a task."""
    if name in PTBXL:
        folder = "ptbxl/" + name.removeprefix("ptbxl-") + ("_class" if name in COLUMN else "")
    else:
        folder = {"cpsc2018": "icbeb", "csn": "chapman", "csn-legacy": "chapman"}[name]
    path = FOLDER / "merl" / "finetune" / "data_split" / folder
    if not path.is_dir():
        pytest.skip("the benchmark's label files are not under ETP_DATA_ROOT")
    return path


def challenge(archive: str) -> dict[str, tuple[str, ...]]:
    """Reads the codes in `#Dx` of each header, by record."""
    headers = sorted((FOLDER / "cinc2020" / archive).glob("*.hea"))
    if not headers:
        pytest.skip("no Challenge records under ETP_DATA_ROOT")
    found = {}
    for header in headers:
        dx = re.search(r"^# ?Dx: *(.*?)\s*$", header.read_text(), re.MULTILINE)
        assert dx is not None, header
        found[header.stem] = tuple(dx[1].split(","))
    return found


@pytest.mark.parametrize("name", PTBXL)
def test_published_labels_are_ours(name: str, database: dict[int, tuple[str, tuple[str, ...]]]):
    """Compares by column name, record by record; the files contain all records of the task and its folds."""
    task = get_task(name)
    read = read_published(published(name), task)
    for split, folds in (("train", [*"12345678"]), ("validation", ["9"]), ("test", ["10"])):
        own = {str(record): codes for record, (fold, codes) in database.items() if fold in folds}
        keep, y = labels(task, records_of(own.values()))
        given = dict(zip(read[split].record_ids, read[split].y_NC.tolist(), strict=True))
        assert given == {record: row for record, row, k in zip(own, y.tolist(), keep, strict=True) if k}


def test_published_columns_are_not_in_one_order():
    """If read by position, 3 of 23 columns of the training file are mistaken for others."""
    heads = {}
    for end in SPLITS:
        with next(published("ptbxl-sub").glob(f"*_{end}.csv")).open(encoding="utf-8") as file:
            heads[end] = next(csv.reader(file))
    assert heads["val"] == heads["test"] and set(heads["train"]) == set(heads["test"])
    moved = {a for a, b in zip(heads["train"], heads["test"], strict=True) if a != b}
    assert moved == {"AVB", "RAO/RAE", "ISC"}


@pytest.fixture(scope="module")
def csn_texts() -> dict[str, list[str]]:
    """Reads the acronyms of each published record of Chapman-Shaoxing-Ningbo."""
    texts = {}
    for path in published("csn").glob("*.csv"):
        with path.open(encoding="utf-8") as file:
            texts |= {Path(row["ecg_path"]).stem: row["diagnose"].split(",") for row in csv.DictReader(file)}
    return texts


def acronyms() -> dict[str, str]:
    """SNOMED CT code by acronym."""
    return {acronym: code for code, acronym in (load_task_file("csn-legacy").known_codes or {}).items()}


def test_5125_published_csn_labels_are_substrings(csn_texts: dict[str, list[str]]):
    exact, legacy, code = get_task("csn"), get_task("csn-legacy"), acronyms()
    marked: Counter[str] = Counter()
    true: Counter[str] = Counter()
    unlabelled = 0
    for given in read_published(published("csn"), exact).values():
        codes = records_of((tuple(code[w] for w in csn_texts[record]) for record in given.record_ids), CSN)
        keep, y = labels(legacy, codes)
        assert (y == given.y_NC).all()
        unlabelled += int((~keep).sum())
        _, y = labels(exact, codes)
        assert not (y & ~given.y_NC).any()
        for c, published_n, true_n in zip(exact.classes, given.y_NC.sum(axis=0), y.sum(axis=0), strict=True):
            marked[c.code] += int(published_n)
            true[c.code] += int(true_n)
    assert {c: (marked[c], true[c]) for c in marked if marked[c] != true[c]} == {
        "VB": (916, 3), "AVB": (913, 176), "CR": (216, 75), "2AVB": (38, 22),
        "SA": (2828, 2107), "AF": (4753, 3340), "ST": (6338, 5154),
    }  # fmt: skip
    assert marked.total() - true.total() == 5125 and len(csn_texts) == 23026
    assert unlabelled == 2  # sinus bradycardia with preexcitation: neither is a class


def test_csn_records_of_the_archive(csn_texts: dict[str, list[str]]):
    """The acronyms mean the codes of the headers, and `csn-legacy` has the published records."""
    archive, code = challenge(CSN), acronyms()
    keep, _ = labels(get_task("csn-legacy"), records_of(archive.values(), CSN))
    kept = {record for record, k in zip(archive, keep, strict=True) if k}
    assert kept == set(archive) & set(csn_texts) and len(kept) >= 15
    for record in kept:
        assert tuple(code[word] for word in csn_texts[record]) == archive[record]
    exact, y = labels(get_task("csn"), records_of(archive.values(), CSN))
    assert exact.sum() > keep.sum()
    found = {c.code: n for c, n in zip(get_task("csn").classes, y.sum(axis=0), strict=True)}
    assert found["AF"] == sum("164890007" in codes for codes in archive.values())
    assert found["VPB"] == sum(bool({"17338001", "427172004"} & set(codes)) for codes in archive.values()) > 0


WORDS = {
    "Normal": "426783006", "AF": "164889003", "I-AVB": "270492004", "LBBB": "164909002", "RBBB": "59118001",
    "PAC": "284470004", "PVC": "164884008", "STD": "429622005", "STE": "164931005",
}  # fmt: skip
"""Codes of the later release of the Challenge, by their spelling in the early release."""


def test_cpsc2018_labels_of_the_archive_are_the_published_ones():
    task, archive = get_task("cpsc2018"), challenge("cpsc_2018")
    codes = [tuple(WORDS.get(word, word) for word in dx) for dx in archive.values()]
    keep, y = labels(task, records_of(codes, "cpsc_2018"))
    assert keep.all() and set().union(*codes) <= task.codes
    given: dict[str, list[bool]] = {}
    for split in read_published(published("cpsc2018"), task).values():
        given |= dict(zip(split.record_ids, split.y_NC.tolist(), strict=True))
    assert len(given) == 6877
    assert dict(zip(archive, y.tolist(), strict=True)) == {record: given[record] for record in archive}
    counts = {c.code: sum(column) for c, column in zip(task.classes, zip(*given.values(), strict=True), strict=True)}
    scored = {row["SNOMEDCTCode"]: int(row["CPSC"]) for row in dx_mapping()}
    assert counts == {c.code: sum(scored[code] for code in c.codes) for c in task.classes}


def dx_mapping(*kinds: str) -> list[dict[str, str]]:
    """Reads the Challenge's tables of codes, with the number of records in each archive."""
    rows = []
    for kind in kinds or ("scored", "unscored"):
        path = FOLDER / "labels" / f"cinc2021_dx_mapping_{kind}.csv"
        if not path.is_file():
            pytest.skip("the Challenge's tables are not under ETP_DATA_ROOT")
        with path.open(encoding="utf-8") as file:
            rows += csv.DictReader(file)
    return rows


def test_georgia_classes_are_the_scored_codes_of_50_records():
    merged = {"733534002": "164909002", "713427006": "59118001", "63593006": "284470004", "17338001": "427172004"}
    groups: dict[str, dict[str, int]] = {}
    for row in dx_mapping("scored"):
        code, count = row["SNOMEDCTCode"], int(row["Georgia"])
        groups.setdefault(merged.get(code, code), {})[code] = count
    enough = {
        frozenset(code for code, n in group.items() if n) for group in groups.values() if sum(group.values()) >= 50
    }
    assert {c.codes for c in get_task("georgia").classes} == enough


@pytest.mark.parametrize(
    ("dataset", "columns"),
    [("CPSC2018", ["CPSC"]), ("Georgia", ["Georgia"]), ("Chapman-Shaoxing-Ningbo", ["Chapman_Shaoxing", "Ningbo"])],
)
def test_vocabularies_are_those_of_the_challenge(dataset: str, columns: list[str]):
    present = {row["SNOMEDCTCode"] for row in dx_mapping() if any(int(row[column]) for column in columns)}
    own = set(acronyms().values()) if dataset == "Chapman-Shaoxing-Ningbo" else set()
    assert set(vocabulary(dataset)) == present | own


def test_vocabulary_of_ptbxl(statements: list[dict[str, str]]):
    assert set(vocabulary("PTB-XL")) == {row[""] for row in statements}


@pytest.mark.parametrize(
    ("name", "fold_10", "all_folds"),
    [("mets-super", 56, 200), ("mets-form", 17, 194), ("mets-rhythm", 63, 200)],
)
def test_size_of_the_balanced_sets(
    name: str, fold_10: int, all_folds: int, database: dict[int, tuple[str, tuple[str, ...]]]
):
    task = get_task(name)
    for folds, n in (({"10"}, fold_10), ({str(fold) for fold in range(1, 11)}, all_folds)):
        keep, y = labels(task, records_of(codes for fold, codes in database.values() if fold in folds))
        assert min(200, y[keep].sum(axis=0).min()) == n


def test_flaws_of_the_benchmarks_prompts_are_found():
    path = FOLDER / "merl" / "CKEPE_prompt.json"
    if not path.is_file():
        pytest.skip("the benchmark's prompts are not under ETP_DATA_ROOT")
    flaws = lint_file(path)
    assert {
        "class NORM: 'Sinus tachycardia' contradicts 'normal ECG'",
        "class NORM: 'Sinus bradycardia' contradicts 'normal ECG'",
        "class STDD: 'ST segment elevation' contradicts 'ST drop down'",
        "class CR: 'counterclockwise rotation' contradicts 'clockwise rotation'",
    } <= set(flaws)
    assert any(flaw.startswith("class BIGU: ") and "talks to somebody" in flaw for flaw in flaws)
    assert len(flaws) < 40  # of 131 classes: most have no flaw
