"""Tests the committed results: they are tidy and small, and the Markdown tables agree with them."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import numpy as np
import pytest

from etp_jax.evaluation import KINDS
from etp_jax.reproduce.intervals import over_seeds
from etp_jax.reproduce.tables import CSV

RESULTS = Path(__file__).parents[2] / "results"
OTHER_COLUMNS = ("full_disk", "measurements", "million_records", "plans", "reader", "soak", "survival")
FILES = sorted(file for file in RESULTS.glob("*.csv") if file.stem not in OTHER_COLUMNS)
"""The results of studies; errors of measurements, speeds, plans and faults have other columns."""
NUMBER = r"(-?\d\.\d{3})"


def read(file: Path) -> list[dict[str, str]]:
    with file.open(encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_line_is_one_value(file: Path) -> None:
    lines = read(file)
    assert list(lines[0]) == list(CSV) and file.stat().st_size < 300_000
    keys = [tuple(value for name, value in line.items() if name not in ("value", "low", "high")) for line in lines]
    assert len(set(keys)) == len(keys)
    for line in lines:
        assert line["kind"] in KINDS and 0 <= float(line["fraction"]) <= 1
        if line["value"] and line["low"]:
            assert float(line["low"]) <= float(line["high"])
        assert line["seed"] in ("", "mean") or line["seed"].isdigit()


def test_the_table_of_the_study_is_made_of_its_csv() -> None:
    lines, text = read(RESULTS / "ptbxl-study.csv"), (RESULTS / "ptbxl-study.md").read_text(encoding="utf-8")
    triples = {tuple(f"{float(line[end]):.3f}" for end in ("value", "low", "high")) for line in lines if line["low"]}
    by_row: dict[tuple[str, ...], list[float]] = {}
    for line in lines:
        if line["seed"].isdigit():
            by_row.setdefault(tuple(line[name] for name in CSV[1:10] if name != "seed"), []).append(
                float(line["value"])
            )
    means = {row: np.array(values) for row, values in by_row.items()}
    intervals = {row: interval for row, values in means.items() if (interval := over_seeds(values))}
    # Differences have an interval over seeds too, which follows from those of the seeds
    triples |= {
        (f"{means[row].mean():.3f}", f"{interval['low']:.3f}", f"{interval['high']:.3f}")
        for row, interval in intervals.items()
    }
    cells = re.findall(rf"{NUMBER} \[{NUMBER}, {NUMBER}\]", text)
    assert len(cells) > 250 and set(cells) <= triples
    p_values = {f"{float(line['value']):.3f}" for line in lines if "_p_" in line["metric"]}
    assert set(re.findall(r"p = (\d\.\d{3})", text)) <= p_values
    published = {f"{float(line['value']):.3f}" for line in lines if line["encoder"] == "published"}
    assert set(re.findall(rf"(?<=\| ){NUMBER}(?= \|)", text)) == published
    halves = {f"{(interval['high'] - interval['low']) / 2:.3f}" for interval in intervals.values()}
    assert set(re.findall(r"±(\d\.\d{3})", text)) <= halves
    fitted = {f"{float(line['value']):.1f}" for line in lines if line["metric"] == "classes_fitted"}
    assert set(re.findall(r"\((\d+\.\d) of", text)) == fitted


def test_every_cell_of_the_study_is_that_of_its_row_and_column() -> None:
    found: dict[tuple[str, ...], list[dict[str, str]]] = {}
    columns = ("run", "encoder", "task", "kind", "protocol", "prompts", "fraction")
    for line in read(RESULTS / "ptbxl-study.csv"):
        if line["metric"] == "macro_auroc":
            found.setdefault(tuple(line[name] for name in columns), []).append(line)
    kinds = {kind.title: name for name, kind in KINDS.items()}
    page, count = (RESULTS / "ptbxl-study.md").read_text(encoding="utf-8"), 0
    for section in page.split("\n## ")[1:]:
        kind = kinds.get(section.splitlines()[0])
        rows = re.findall(r"^\| (.*) \|$", section, flags=re.MULTILINE) if kind else []
        for name, _, how, _, *cells in (map(str.strip, row.split("|")) for row in rows[1:]):
            label, _, protocol = how.partition(", ")
            protocol = f"honest, {protocol}" if protocol.startswith("--") else protocol or "honest"
            about = (
                [protocol, "", str(float(label.rstrip("%")) / 100)] if label.endswith("%") else ["honest", label, "0.0"]
            )
            encoder = (
                "random" if name.startswith("random") else "supervised" if name.endswith("supervised") else "trained"
            )
            run = name.removesuffix(" from scratch, supervised")
            for task, cell in zip(rows[0].split(" | ")[4:], cells, strict=True):
                if "[" not in cell:  # published, or not run
                    continue
                lines = found[run, encoder, task, str(kind), *about]
                (line,) = lines if len(lines) == 1 else [line for line in lines if line["seed"] == "mean"]
                shown = "{:.3f} [{:.3f}, {:.3f}]".format(*(float(line[end]) for end in ("value", "low", "high")))
                assert cell.startswith(shown), (name, how, task)
                count += 1
    assert count > 200


def by_group() -> dict[tuple[str, str, str, str], str]:
    """Figures by encoder, kind, task and metric, as pages show them, without plus signs."""
    return {
        (line["encoder"], line["kind"], line["task"], line["metric"]): "{:.3f} [{:.3f}, {:.3f}]".format(
            *(float(line[end]) for end in ("value", "low", "high"))
        )
        for line in read(RESULTS / "groups-and-conditions.csv")
        if line["low"]
    }


def test_the_tables_by_group_and_condition_are_made_of_their_csv() -> None:
    found, count, head = by_group(), 0, [""]
    page = (RESULTS / "groups-and-conditions.md").read_text(encoding="utf-8").replace("+", "")
    for section in page.split("\n## ")[1:]:
        kind, _, task = section.partition(",")[0].partition(" ")
        for row in re.findall(r"^\| (.*) \|$", section, flags=re.MULTILINE):
            name, *cells = (cell.strip() for cell in row.split("|"))
            if name in ("", "encoder"):
                head = cells
            for column, cell in zip(head, cells, strict=True):
                if cell.endswith("]"):
                    own = {"macro-AUROC": f"macro_auroc: {name}", "difference": f"difference: {name}"}
                    encoder = name if name in ("trained", "random") else "trained"
                    assert cell == found[encoder, kind, task, own.get(column, column)], (kind, task, name, column)
                    count += 1
    assert count > 95
    names = ("clean", "6 limb leads", "leads I and II", "lead II", "lead I", "sampled at 50 Hz", "white noise, 10 dB")
    names += ("baseline wander, 0.5 mV", "mains, 0.1 mV")
    values = (found["trained", "robustness", "ptbxl-super", f"macro_auroc: {name}"].partition(" ")[0] for name in names)
    docs = (RESULTS.parent / "docs" / "evaluation.md").read_text(encoding="utf-8")
    assert f"| {' | '.join(values)} |" in docs


def test_the_groups_of_the_model_card_are_those_of_their_csv() -> None:
    found = by_group()
    card = (RESULTS.parent / "etp_jax/pretrained/MODEL_CARD.md").read_text(encoding="utf-8")
    section = card[card.index("## Groups and conditions") : card.index("## Limits")]
    shown = re.findall(rf"\| ([^|]+) \| ({NUMBER} \[{NUMBER}, {NUMBER}\])", section)
    assert len(shown) == 19
    for name, cell, *_ in shown:
        metric = f"macro_auroc: {'clean' if name == 'whole ECG' else name.partition(', 3 classes')[0]}"
        of_kinds = [found.get(("trained", kind, "ptbxl-super", metric)) for kind in ("subgroups", "robustness")]
        assert cell in of_kinds and None in of_kinds, name
    (error,) = re.findall(rf"calibration error of the probe: ({NUMBER} \[{NUMBER}, {NUMBER}\])", section)
    assert error[0] == found["trained", "subgroups", "ptbxl-super", "ece_equal_mass"]


def test_the_tables_of_the_fields_protocol_are_made_of_their_csv() -> None:
    lines = read(RESULTS / "field-protocol.csv")
    by_row: dict[tuple[str, str], set[str]] = {}
    for line in lines:
        cell = "{:.3f} [{:.3f}, {:.3f}]".format(*(float(line[end]) for end in ("value", "low", "high")))
        by_row.setdefault((line["run"], line["task"]), set()).add(cell)
    page, readme = (
        (RESULTS.parent / name).read_text(encoding="utf-8") for name in ("results/field-protocol.md", "README.md")
    )
    tasks = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm", "ptbxl-all")
    shown = re.findall(r"^\| ([^|]+, fold \d+)[^|]* \|((?: [^|]+ \|){5})", page, flags=re.MULTILINE)
    assert len(shown) >= 26
    for run, cells in shown:
        for task, cell in zip(tasks, cells.strip(" |").split(" | "), strict=True):
            assert cell == "–" or cell in by_row[run, task]
    published = {line["value"] for line in lines if line["encoder"] == "published"}
    source = read(RESULTS.parent / "studies" / "ecg_fm_published.csv")
    assert published == {line["value"] for line in source} and len(source) == 130
    assert set(re.findall(r"MERL ResNet18 .*\| ([^|]+) \|", readme)) <= by_row["MERL, fold 10", "ptbxl-super"]
