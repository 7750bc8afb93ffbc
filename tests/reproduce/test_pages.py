"""Tests the tables of README, docs and model card: every figure is that of its row and column in results/."""

from __future__ import annotations

import re
import tomllib
from typing import Any

import pytest

from etp_jax.evaluation.probe import PRIOR_PENALTY
from tests.helpers.pages import CELL, CHOSEN, LABELS, ROOT, TASKS, check, figure, figure_of, lines, same, table

RUNS: dict[str, str | tuple[str, str]] = {
    # beginning of a row's label in README.md or docs/results.md: file, run
    "**ours**": "fgclep_plus",
    "ours, features chosen": "fgclep_plus",
    "ours, coarse stage": "fgclep_plus-coarse",
    "ours (`ptbxl`": "ptbxl",
    "METS, last epoch": ("mets-protocol", "mets, last epoch"),
    "METS": "mets",
    "ETP": "etp",
    "FG-CLEP, coarse": "fgclep-coarse",
    "FG-CLEP, fine": "fgclep-fine",
    "random encoder of METS": "random encoder, model of mets",
    "random encoder of ETP": "random encoder, model of etp",
    "random encoder of FG-CLEP": "random encoder, model of fgclep-coarse",
    "random encoder": "random encoder, model of ptbxl",
    "random encoder, features chosen": "random encoder, model of ptbxl",
    "HeartLang": "HeartLang",
    "MERL ResNet18": ("field-protocol", "MERL, fold 10"),
    "supervised, whole network (Strodthoff": "Strodthoff et al. 2021, supervised",
    "supervised (Strodthoff": "Strodthoff et al. 2021, supervised",
    "from scratch, supervised": "ptbxl",
}


def run_of(label: str) -> tuple[str, str]:
    """File and run of a row, by the longest label that its own begins with."""
    plain = label.replace("`ptbxl`, best", "").strip()
    known = max((name for name in RUNS if plain.startswith(name)), key=len)
    found = RUNS[known]
    return found if isinstance(found, tuple) else ("ptbxl-study", found)


def probe_or_zero_shot(label: str, column: str, prompts: str) -> list[tuple[str, str, str]]:
    stem, run = run_of(label)
    about: dict[str, str] = {"run": run, "task": "ptbxl-super"}
    if stem == "field-protocol":
        return [figure(stem, **about, kind="probe", protocol="ecg-fm-benchmark")]
    if column == "zero-shot":
        return [figure(stem, **about, kind="zero-shot", prompts=prompts)]
    kind = "finetune" if "supervised" in label else "probe"
    protocol = CHOSEN if "chosen" in label else "honest" if lines(stem, run=run, protocol="honest") else ""
    return [figure(stem, **about, kind=kind, protocol=protocol, fraction=LABELS[column.removeprefix("probe ")])]


def test_the_table_of_the_readme() -> None:
    rows = table("README.md", "| encoder | zero-shot")
    assert check(rows, lambda label, column: probe_or_zero_shot(label, column, "contrast")) == 30


def test_the_table_of_superclasses() -> None:
    count, label = 0, ""
    for row in table("docs/results.md", "## Superclasses"):
        label = row.pop("encoder") or label
        prompts = row.pop("prompts").strip("`")
        named = {"encoder": label, **row}
        count += check([named], lambda name, column, prompts=prompts: probe_or_zero_shot(name, column, prompts))
    assert count == 66


def test_the_table_of_the_other_tasks() -> None:
    def expected(label: str, column: str) -> list[tuple[str, str, str]]:
        _, task, _, run, _ = label.split("`")
        if prompts := re.match("zero-shot `(.*)`", column):
            return [figure("ptbxl-study", run=run, task=task, kind="zero-shot", prompts=prompts[1])]
        probe = {"task": task, "kind": "probe", "protocol": "honest"}
        if column.startswith("probe"):
            return [figure("ptbxl-study", run=run, encoder="trained", fraction=f, **probe) for f in LABELS.values()]
        if column.startswith("features chosen"):
            return [figure("ptbxl-study", run=run, **probe | {"protocol": f"{CHOSEN} --fractions 1.0"})]
        return [figure("ptbxl-study", run="random encoder, model of ptbxl", fraction="1.0", **probe)]

    assert check(table("docs/results.md", "## Subclasses, forms and rhythms"), expected) == 39


def test_the_table_of_fine_tuning() -> None:
    def expected(label: str, column: str) -> list[tuple[str, str, str]]:
        encoder = {"ours": "trained", "from": "supervised", "supe": "published"}[label.replace("*", "")[:4]]
        views = label.endswith("8 views")
        run = "fgclep_plus" if views else run_of(label)[1]
        about = {"run": run, "encoder": encoder, "task": column.strip("`"), "fraction": "1.0"}
        return [figure("ptbxl-study", kind="finetune", protocol="honest" + ", --views 8" * views, **about)]

    assert check(table("docs/results.md", "## Fine-tuning the whole network"), expected) == 20


def test_the_tables_of_protocols_and_of_other_data_sets() -> None:
    def protocol(label: str, column: str) -> list[tuple[str, str, str]]:
        how, _, random = column.partition(", ")
        about = {
            "encoder": "random" if random else "trained",
            "task": label.strip("`"),
            "kind": "probe",
            "protocol": {"honest": "honest", "as published": "merl-as-published"}[how],
        }
        return [figure("shipped", fraction=fraction, **about) for fraction in LABELS.values()]

    assert check(table("docs/results.md", "## What the protocol is worth"), protocol) == 48

    def transfer(label: str, column: str) -> list[tuple[str, str, str]]:
        about = {"encoder": "trained", "kind": "zero-shot", "prompts": column.strip("`")}
        return [figure("shipped", task=label.split("`")[1], **about)]

    assert check(table("docs/results.md", "## Other data sets"), transfer) == 4


def test_the_table_of_prompt_sets() -> None:
    rows = table("docs/evaluation.md", "Wording matters.")
    about = {"encoder": "trained", "task": "ptbxl-super", "kind": "zero-shot"}
    for column, cell in rows[0].items():
        assert same(cell, [figure("shipped", prompts=column.strip("`"), **about)])


@pytest.mark.parametrize(
    ("heading", "stem", "seed"),
    [
        ("### What it gives at the size of `ptbxl`", "fgclep-plus-full", "mean"),
        ("Does it understand new waveform language?", "fgclep-plus", "mean"),
    ],
)
def test_the_tables_of_restored_and_held_out_sentences(heading: str, stem: str, seed: str) -> None:
    runs = {"coarse": "coarse", "control": "plain", "fine stage": "fine", "difference": "fine - plain"}
    parts = {"restored": "prompts/ptbxl-super-trained.json", "held-out": "prompts/ptbxl-super-held-out.json"}

    def expected(label: str, column: str) -> list[tuple[str, str, str]]:
        prompts = parts[label.split()[-2]] if "with" in label else label.strip("`")
        about = {"run": runs[column], "task": "ptbxl-super", "kind": "zero-shot", "prompts": prompts}
        return [figure_of(row) for row in lines(stem, metric="macro_auroc", seed=seed, **about)]

    assert check(table("docs/fgclep.md", heading), expected) == 16


def test_the_table_of_centred_targets() -> None:
    tasks = dict(zip(("superclasses", "subclasses", "forms", "rhythms"), TASKS, strict=True))
    kinds = [("zero-shot", "prompts", name) for name in ("default", "contrast")]
    kinds += [("probe", "fraction", share) for share in LABELS.values()]
    rows = table("results/ablations.md", "## Centred targets")
    for number, row in enumerate(rows):
        kind, column, value = kinds[number // 2]
        about = {"run": ("uncentred", "coarse - uncentred")[number % 2], "kind": kind, column: value}
        for name, task in tasks.items():
            assert same(row[name], [figure("fgclep-plus-full", task=task, **about)]), (about, name)
    assert len(rows) == 10


def test_the_table_of_the_random_search() -> None:
    study = tomllib.loads((ROOT / "studies" / "search.toml").read_text(encoding="utf-8"))
    kinds = {"forms": "ptbxl-form", "rhythms": "ptbxl-rhythm", "superclasses": "ptbxl-super"}
    rows = table("results/ablations.md", "## Random search")
    for row, run in zip(rows, study["run"], strict=True):
        options = row.pop("options")
        if "options" in run:
            assert options.split(", ") == run["options"].split()[1::2]
        name = f"{run['name']} - recipe" if "options" in run else run["name"]
        for column, cell in row.items():
            what, _, detail = column.partition(", ")
            about = {"kind": "zero-shot", "task": kinds.get(what, "ptbxl-super"), "prompts": detail.strip("`")}
            if not detail:
                about = {"kind": "probe", "task": "ptbxl-super", "fraction": LABELS[what.removeprefix("probe ")]}
            assert same(cell, [figure("search", run=name, **about)]), (name, column)
    assert len(rows) == 6


def test_the_table_of_the_parts_of_fgclep_plus() -> None:
    others = ("share-0.25", "share-0.75", "share-1", "filter-none", "filter-measurement")
    runs = ["share-0.5", *(f"{other} - share-0.5" for other in others), "coarse", "coarse-sigmoid - coarse"]
    held_out = "prompts/ptbxl-super-held-out.json"
    rows = table("results/ablations.md", "## Parts of `fgclep_plus`")
    for row, run in zip(rows, runs, strict=True):
        *zero_shot, probe, recall = list(row.values())[1:]
        for cell, prompts in zip(zero_shot, ("default", "contrast", "waveform", held_out), strict=True):
            assert same(cell, [figure("fine-stage", run=run, kind="zero-shot", prompts=prompts)]), (run, prompts)
        assert same(probe, [figure("fine-stage", run=run, kind="probe", fraction="1.0")]), run
        (line,) = lines("fine-stage", run=run, metric="ecg_to_text_recall_10")
        assert same(recall, [figure_of(line)]), run


@pytest.mark.parametrize(
    ("heading", "stem", "others"),
    [
        (
            "## Coarse stage: schedule and text tower",
            "coarse-stage",
            ("epochs-8", "epochs-16", "whole-reports", "text-trained"),
        ),
        ("## Other objectives and a state-space tower", "levers", ("sample-1", "aux-0.5", "jepa", "s4")),
    ],
)
def test_the_tables_of_levers_of_the_coarse_stage(heading: str, stem: str, others: tuple[str, ...]) -> None:
    tasks = {"forms": "ptbxl-form", "superclasses": "ptbxl-super"}
    base = {"text-trained": "whole-reports"}
    runs = ["coarse", *(f"{other} - {base.get(other, 'coarse')}" for other in others)]
    for row, run in zip(table("results/ablations.md", heading), runs, strict=True):
        *columns, recall = list(row.items())[1:]
        for column, cell in columns:
            what, _, how = column.partition(", ")
            about = {"kind": "zero-shot", "prompts": how.strip("`")}
            if how == "probe":
                about = {"kind": "probe", "fraction": "1.0"}
            assert same(cell, [figure(stem, run=run, task=tasks[what], **about)]), (run, column)
        (line,) = lines(stem, run=run, metric="ecg_to_text_recall_10")
        assert same(recall[1], [figure_of(line)]), run


@pytest.mark.parametrize(
    ("heading", "stem", "about", "seed"),
    [
        ("Fold 9, zero-shot", "shipped", {"run": "shipped"}, ""),
        ("Fold 10, with", "ptbxl-study", {"run": "fgclep_plus"}, "0"),
    ],
)
def test_the_figures_of_the_model_card(heading: str, stem: str, about: dict[str, Any], seed: str) -> None:
    rows = table("etp_jax/pretrained/MODEL_CARD.md", heading)
    assert [row["task"].strip("`") for row in rows] == list(TASKS)
    for row in rows:
        task = row.pop("task").strip("`")
        for column, cell in row.items():
            prompts = re.search("`(.*)`", column)
            choice = {"kind": "zero-shot", "prompts": prompts[1]} if prompts else {"kind": "probe", "fraction": "1.0"}
            choice |= {"task": task, "encoder": "trained", "protocol": "honest", "metric": "macro_auroc", **about}
            (line,) = lines(stem, **choice, **({"seed": seed} if seed else {}))
            exact = tuple(f"{float(line[end]):.3f}" if line[end] else "" for end in ("value", "low", "high"))
            shown = CELL.findall(cell)
            assert shown == [exact], (task, column, cell, exact)


def test_every_interval_on_a_page_is_in_some_file_of_results() -> None:
    """Also outside the tables."""
    known = set()
    for file in (ROOT / "results").glob("*.csv"):
        for row in lines(file.stem):
            if row.get("low"):
                known.add(tuple(f"{float(row[end]):.3f}" for end in ("value", "low", "high")))
    pages = [ROOT / "README.md", ROOT / "results" / "ablations.md", *(ROOT / "docs").glob("*.md")]
    shown = {
        (page.name, *cell)
        for page in pages
        for cell in re.findall(r"(-?\d\.\d{3})\s+\[(-?\d\.\d{3}),\s+(-?\d\.\d{3})\]", page.read_text(encoding="utf-8"))
    }
    negative = {tuple(f"{-float(x):.3f}" for x in (value, high, low)) for value, low, high in known}
    assert len(shown) > 80 and {cell for cell in shown if cell[1:] not in known | negative} == set()


def test_the_table_of_goals() -> None:
    """Figures and what is missed, to four decimals."""
    plus = {"run": "fgclep_plus", "seed": "0", "encoder": "trained", "metric": "macro_auroc"}
    of = {"superclasses": "ptbxl-super", "subclasses": "ptbxl-sub", "forms": "ptbxl-form", "rhythms": "ptbxl-rhythm"}
    prior, some = f"{CHOSEN} --text-prior", f"{CHOSEN} --fractions 1.0"
    rows = table("docs/results.md", "### Goals")
    for row in rows:
        what, _, how = row["fold 10"].replace(" (155 records)", "").partition(", ")
        stem, about = "ptbxl-study", plus | {"task": of.get(what, "cpsc2018")}
        share = "0.01" if "1 %" in how else "1.0"
        wanted = [{"kind": "probe", "protocol": some, "fraction": share}]
        if what == "superclasses" and how.startswith("probe"):
            wanted = [{"kind": "probe", "protocol": name, "fraction": share} for name in (prior, CHOSEN)]
        if how.startswith("whole"):
            views = {"kind": "finetune", "protocol": "honest, --views 8"}
            wanted = [views, {"kind": "finetune", "protocol": "honest", "run": "ptbxl", "seed": "0"}]
        if how == "zero-shot":
            wanted = [{"kind": "zero-shot", "prompts": "contrast"}]
        if what == "CPSC2018":
            stem, about = "shipped", {"task": "cpsc2018", "run": "shipped", "metric": "macro_auroc"}
            wanted = [{"kind": "zero-shot", "prompts": prompts} for prompts in ("default", "contrast")]
        found = [float(lines(stem, **about | each)[0]["value"]) for each in wanted]
        places = 3 if what == "CPSC2018" else 4
        assert re.findall(rf"\d\.\d{{{places}}}(?!\d)", row["figure"])[: len(found)] == [
            f"{value:.{places}f}" for value in found
        ], row
        short = float(row["goal"]) - max(round(value, 4) for value in found)
        assert row[""].removesuffix(" with `default`") == ("met" if short <= 0 else f"missed by {short:.4f}"), row
    assert len(rows) == 8


def test_the_table_of_the_published_command() -> None:
    first, second = table("docs/results.md", "### The published command trains the whole network")
    about = {"task": "ptbxl-super", "kind": "finetune", "protocol": "merl-as-published", "metric": "macro_auroc"}
    for row, encoder in ((first, "trained"), (second, "supervised")):
        (line,) = lines("ptbxl-study", run="ptbxl", encoder=encoder, **about)
        assert same(row["as published"], [figure_of(line)])
    probe = {"task": "ptbxl-super", "kind": "probe", "protocol": "honest", "fraction": "0.01", "metric": "macro_auroc"}
    (ours,) = lines("ptbxl-study", run="ptbxl", seed="0", **probe)
    (random,) = lines("ptbxl-study", run="random encoder, model of ptbxl", seed="0", **probe)
    assert [row["honest frozen probe"] for row in (first, second)] == [figure_of(ours)[0], figure_of(random)[0]]


def test_the_table_of_the_protocol_of_mets() -> None:
    """The published figures are those of the paper's Table 2, and are in no file of results."""
    metrics = ("binary_accuracy", "macro_precision", "macro_recall", "macro_f1")
    columns = {
        "METS, prompts `mets`": ("mets", "mets"),
        "METS, prompts `default`": ("mets", "default"),
        "`ptbxl`, prompts `default`": ("ptbxl", "default"),
    }
    rows = table("docs/results.md", "## METS's own protocol")
    for row in rows:
        for column, (run, prompts) in columns.items():
            about = {"run": run, "encoder": "trained", "task": row["task"].strip("`"), "kind": "zero-shot"}
            found = [lines("mets-protocol", prompts=prompts, metric=metric, **about) for metric in metrics]
            assert same(row[column], [figure_of(line) for (line,) in found]), (row["task"], column)
    assert len(rows) == 3


def test_the_tables_of_the_text_prior() -> None:
    """Also the choice of the penalty: the shipped one has the best mean of its rows."""
    rows = table("results/text-prior.md", "<!-- tables -->")
    assert len(rows) == 12
    runs = {"without": "shipped", "with": "shipped + text prior", "difference": "shipped + text prior - shipped"}
    for row in rows:
        about = {"task": row["task"], "fraction": LABELS[row["labels"].replace("%", " %")]}
        for column, run in runs.items():
            (line,) = lines("text-prior", run=run, metric="macro_auroc", **about)
            sign = "+" if column == "difference" else ""
            mean, low, high = (format(float(line[end]), f"{sign}.4f") for end in ("value", "low", "high"))
            assert row[column] == f"{mean} [{low}, {high}]", (row, column)
        (p,) = lines("text-prior", run=runs["difference"], metric="macro_auroc_p_patients", **about)
        assert row["p"] == f"{float(p['value']):.3f}"
    *rows, mean = table("results/text-prior.md", "<!-- choice -->")
    columns = list(mean)[2:]
    for column in columns:
        assert float(mean[column]) == pytest.approx(sum(float(row[column]) for row in rows) / len(rows), abs=1e-4)
    assert max(columns, key=lambda column: float(mean[column])) == f"penalty {PRIOR_PENALTY:g}"
