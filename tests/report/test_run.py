"""Tests `report.html` of a small run with real files: checkpoint, metrics, evaluations and shards."""

from __future__ import annotations

import json
import math
import re
import shutil
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from sklearn.metrics import roc_curve as sklearn_roc_curve

from etp_jax import config as config_module
from etp_jax.cli import main
from etp_jax.config import DataConfig, ModelConfig, ResNetConfig, TextTowerConfig, TrainConfig
from etp_jax.ecg.leads import LEADS
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.models.dual_encoder import init_variables
from etp_jax.models.text_tower import build_text
from etp_jax.report import charts
from etp_jax.report.ecg_svg import draw_ecg
from etp_jax.report.run import write_page
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import FORMAT, Record
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.training import build, digest, run_folder
from etp_jax.training.checkpoint import Checkpoints
from etp_jax.training.log import MetricsLog
from tests.helpers.evaluations import measure

SAMPLES, RECORDS = 200, 24
REPORTS = [
    "sinus rhythm. normal ECG",
    "ST > 1 mm & T <inverted>",
    '<script>alert("1")</script>',
    "left bundle branch block",
    "anterior infarction",
    "atrial fibrillation",
    "pacemaker",
    "",
]
LABELS = [("NORM", "SR"), ("ISC_",), ("NDT", "IMI"), ("CLBBB",), ("ASMI",), ("NORM", "AFIB"), ("PACE",), ("NORM",)]
"""Labels in the order of the reports; no record has a hypertrophy."""
VOID = {"meta", "br"}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run folder and its shards."""
    folder = tmp_path_factory.mktemp("page")
    shards = write_shards(folder / "shards")
    run = write_run(folder / "run <1> & co", shards)
    measure("zero-shot", run, shards, "ptbxl-super", bootstrap=20)
    measure("retrieval", run, shards, bootstrap=20)
    return run, shards


@pytest.fixture(scope="module")
def page(made: tuple[Path, Path]) -> Page:
    return Page(write_page(*made).read_text(encoding="utf-8"))


def write_shards(folder: Path) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    content = {}
    for split in ("train", "validation"):
        records = [make_record(f"{split}-{number}", number, rng) for number in range(RECORDS)]
        content[split] = {
            "records": RECORDS,
            "shards": [write_shard(folder / shard_name("tiny", split, 0, 1), records)],
        }
    build = {"format": FORMAT, "name": "tiny", "fs": 100, "leads": list(LEADS), "samples": SAMPLES}
    vocabulary = sorted({code for codes in LABELS for code in codes})
    write_metadata(folder, {**build, "label_vocabulary": vocabulary, "splits": content})
    return folder


def make_record(name: str, number: int, rng: np.random.Generator) -> Record:
    kind = number % len(REPORTS)
    return Record(
        ecg=rng.integers(-500, 500, (SAMPLES, len(LEADS)), np.int16),
        lead_mask=np.ones(len(LEADS), bool),
        record_id=name,
        patient_id=name,
        report=REPORTS[kind],
        report_original=REPORTS[kind],
        statements=(REPORTS[kind],),
        labels=LABELS[kind],
        likelihoods=(100.0,) * len(LABELS[kind]),
        age=math.nan if kind == 0 else 50.0,
        sex="female",
        dataset="tiny",
    )


def write_run(run: Path, shards: Path) -> Path:
    """A run that stopped before its first step; its metrics are invented."""
    run.mkdir()
    text = TextTowerConfig(vocabulary=80, layers=1, hidden=8, heads=2, max_tokens=16)
    model_config = ModelConfig(ecg=ResNetConfig(width=2, blocks=(1, 1)), text=text, embedding_dim=8)
    config = TrainConfig(data=DataConfig(shards=str(shards), batch_size=8), model=model_config)
    data = Shards(shards)
    tower = build_text(text, data.reports("train").reports)
    run_folder.write_run_folder(run, config, data, tower)
    variables = init_variables(
        build.build_model(config, tower.bert_config, jnp.dtype("float32")), jax.random.key(1), SAMPLES, len(LEADS), None
    )
    with Checkpoints(run, "loss") as checkpoints:
        checkpoints.save(30, {"step": np.int32(30), **variables}, {}, {"loss": 1.5, "recall": 0.5})
    log = MetricsLog(run, 0)
    recall = {f"{way}_recall_{k}": k / 20 for way in ("ecg_to_text", "text_to_ecg") for k in (1, 5, 10)}
    for step in range(1, 31):
        values = {"epoch": step / 3, "loss": math.nan if step == 7 else 3 - step / 20}
        log.write("train", step, values | {"ecg_to_text_recall_1": 0.1, "text_to_ecg_recall_1": step / 40})
        if step % 10 == 0:
            log.write("validation", step, {"epoch": step / 3, "loss": 3.0, **recall})
    log.close()
    return run


class Page(HTMLParser):
    """Collects elements with their attributes, and all text; fails on an element that is not closed in order."""

    def __init__(self, html: str):
        super().__init__()
        self.html = html
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert not self._open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data if "style" not in self._open else ""

    def attributes(self, name: str, tag: str | None = None) -> list[str]:
        return [attrs[name] for element, attrs in self.elements if name in attrs and tag in (None, element)]

    def with_class(self, name: str) -> list[dict[str, str]]:
        return [attrs for _, attrs in self.elements if name in attrs.get("class", "").split()]


def test_needs_nothing_from_outside(page: Page) -> None:
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base", "use", "image"}
    assert not page.attributes("src") and not page.attributes("srcset")
    assert not re.search(r"https?:|url\(|@import", page.html)
    ids = page.attributes("id")
    assert len(ids) == len(set(ids))
    assert {link.removeprefix("#") for link in page.attributes("href")} <= set(ids)


def test_is_readable_everywhere(page: Page) -> None:
    assert ("html", {"lang": "en"}) in page.elements
    assert "width=device-width, initial-scale=1" in page.attributes("content")
    for tag, attrs in page.elements:
        if tag == "svg":
            assert attrs.get("aria-hidden") == "true" or (attrs["role"] == "img" and attrs["aria-label"])


def test_names_of_runs_and_reports_are_text(page: Page) -> None:
    assert "run <1> & co" in page.text
    for report in filter(None, REPORTS):
        assert report in page.text


def test_every_class_has_bars_and_those_with_both_outcomes_a_roc_curve(made: tuple[Path, Path], page: Page) -> None:
    result = json.loads((made[0] / "evaluation" / "ptbxl-super-zero-shot-validation.json").read_text())
    names = ["normal ECG", "myocardial infarction", "ST/T change", "conduction disturbance", "hypertrophy"]
    for code, name in zip(("NORM", "MI", "STTC", "CD", "HYP"), names, strict=True):
        values = result["rows"][0]["per_class"][code]
        assert f"{name}{code}, {values['positives']} positive" in page.text
        if code != "HYP":
            assert f"{values['auroc']:.3f} {values['auroc_low']:.3f}–{values['auroc_high']:.3f}" in page.text
    labels = [attrs["aria-label"] for attrs in page.with_class("roc")]
    assert labels == [f"ROC curve, {name}" for name in names[:-1]]
    assert len(page.with_class("bar")) == 2 * len(names[:-1])
    summary = result["summary"]["trained"]["0.0"]["macro_auroc"]
    assert f"{summary['mean']:.3f} {summary['low']:.3f}–{summary['high']:.3f}" in page.text


def test_retrieval_is_shown_without_classes(page: Page) -> None:
    assert "Retrieval, validation split" in page.text
    assert "ECG to report, recall@10" in page.text


def test_curves_leave_a_gap_where_the_loss_is_not_a_number(page: Page) -> None:
    loss = next(i for i, (_, attrs) in enumerate(page.elements) if attrs.get("aria-label") == "Loss")
    drawn = [attrs["d"] for _, attrs in page.elements[loss:] if "curve" in attrs.get("class", "").split()]
    training = re.findall(r"[ML]", drawn[0])
    assert len(training) == 29 and training.count("M") == 2
    assert "1 of 33 lines hold a value that is not finite" in page.text
    assert not any("nan" in d or "inf" in d for d in page.attributes("d"))


def test_nearest_reports_are_those_of_the_greatest_cosine(made: tuple[Path, Path], page: Page) -> None:
    run, shards = made
    encoder, split = Encoder.from_run(run), Shards(shards).split("validation")
    reports = sorted(filter(None, REPORTS))
    text_RE = encoder.text(reports)
    shown = re.findall(
        r"Record (validation-\d+).*?has rank (\d+)rankcosinereport(.*?)(?=Record |The run)", page.text, re.S
    )
    assert len(shown) == 6
    for name, rank, rows in shown:
        position = split.columns.record_id.index(name)
        cosine_R = text_RE @ encoder.ecg(split)[1][position]
        order = np.argsort(-cosine_R)
        own = reports.index(split.columns.report[position])
        assert int(rank) == order.tolist().index(own) + 1
        expected = [f"{place}{cosine_R[number]:.3f}{reports[number]}" for place, number in enumerate(order, 1)]
        expected[int(rank) - 1] += " own report"
        assert rows == "".join(expected[:5] + (expected[int(rank) - 1 : int(rank)] if int(rank) > 5 else []))


def test_the_runs_facts(made: tuple[Path, Path], page: Page) -> None:
    params = Encoder.from_run(made[0]).variables["params"]
    count = sum(leaf.size for leaf in jax.tree.leaves(params["ecg_tower"]))
    assert f"ecg tower {count:,}" in page.text
    assert "step 30, the one with the lowest loss on the validation split" in page.text
    assert "24 train, 24 validation" in page.text
    assert "optim.learning_rate0.001" in page.text


def test_the_same_run_gives_the_same_page(made: tuple[Path, Path], page: Page) -> None:
    assert write_page(*made).read_text(encoding="utf-8") == page.html


def test_what_a_run_lacks_is_said(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = made
    shutil.copy(run / "config.json", tmp_path)
    page = Page(write_page(tmp_path, shards).read_text(encoding="utf-8"))
    for lack in ("No evaluation yet", "No metrics yet", "no checkpoint yet"):
        assert lack in page.text
    (tmp_path / "metrics.jsonl").write_text('{"kind": "train", "step": 1, "loss": 1.0}\n')  # of no epoch
    assert "Nothing recorded yet" in Page(write_page(tmp_path, shards).read_text(encoding="utf-8")).text


def test_other_shards_are_refused_or_named(made: tuple[Path, Path], tmp_path: Path, capsys: Any) -> None:
    run, shards = made
    run = shutil.copytree(run, tmp_path / "run")
    about = json.loads((run / "shards.json").read_text())
    digest.forget(run)
    (run / "shards.json").write_text(json.dumps(about | {"name": "own <1>", "fingerprint": "0123456789abcdef0123"}))
    with pytest.raises(SystemExit):
        main.main(["report", "--run", str(run), "--shards", str(shards)])
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (
        f"etp: {shards}: not the shards own <1> (0123456789abcdef) that the run was trained on; "
        "name the run's own, or add --other-shards"
    )
    main.main(["report", "--run", str(run), "--shards", str(shards), "--other-shards"])
    html = (run / "report.html").read_text(encoding="utf-8")
    headings = re.findall("<h2>(.*?)</h2>", html)
    assert headings == ["Results", "Training", "Examples – shards tiny, not the run&#x27;s own", "The run"]
    assert "Data: own &lt;1&gt;, " in html and "SHA-256 0123456789abcdef" in html
    assert "of the examples&#x27; shards tiny: " in html


def test_evaluations_without_scores_have_no_roc_curves(made: tuple[Path, Path], tmp_path: Path) -> None:
    run, shards = made
    name = "ptbxl-super-zero-shot-validation.json"
    (tmp_path / "evaluation").mkdir()
    shutil.copy(run / "config.json", tmp_path)
    shutil.copy(run / "evaluation" / name, tmp_path / "evaluation")
    page = Page(write_page(tmp_path, shards).read_text(encoding="utf-8"))
    assert "No ROC curves" in page.text and not page.with_class("roc") and page.with_class("bar")


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_text("{"),
        lambda path: path.write_text("[]"),
        lambda path: path.write_text('{"kind": "zero-shot"}'),
        lambda path: path.write_bytes(b"\xff\xfe"),
    ],
)
def test_a_file_that_is_no_evaluation_is_named(
    made: tuple[Path, Path], tmp_path: Path, damage: Callable[[Path], Any]
) -> None:
    shutil.copy(made[0] / "config.json", tmp_path)
    path = tmp_path / "evaluation" / "x.json"
    path.parent.mkdir()
    damage(path)
    with pytest.raises(EtpError, match=r"x\.json: .*not written by `etp evaluate`; move it away"):
        write_page(tmp_path, made[1])


def test_a_folder_that_is_no_run_is_refused(made: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(EtpError, match=r"config\.json: no such file"):
        write_page(tmp_path, made[1])
    config_module.save(TrainConfig(), tmp_path / "config.json")
    with pytest.raises(EtpError, match="no such folder"):
        write_page(tmp_path, tmp_path / "shards")


class TestEcgPaper:
    """Checks the geometry of the drawing; its viewBox has 100 units per millimetre of width."""

    @staticmethod
    def traces(svg: str) -> dict[str, list[np.ndarray]]:
        """Absolute points [n, 2] of each trace in mm, by lead, in the order of drawing."""
        _, _, width, _ = map(int, re.findall(r'viewBox="(\d+) (\d+) (\d+) (\d+)"', svg)[0])
        scale = float(re.findall(r"max-width:([\d.]+)mm", svg)[0]) / width
        found: dict[str, list[np.ndarray]] = {}
        for lead, first, steps in re.findall(r'data-lead="(\w+)" d="M([^l]+)l([^"]+)"', svg):
            numbers = np.array([first.split(), *np.array(steps.split()).reshape(-1, 2)], float)
            found.setdefault(lead, []).append(np.cumsum(numbers, axis=0) * scale)
        return found

    @pytest.mark.parametrize("fs", [100, 257, 500])
    def test_a_millivolt_is_10_mm_and_a_second_25_mm(self, fs: int) -> None:
        time = np.arange(10 * fs) / fs
        ecg = np.zeros((len(time), 12), np.int16)
        ecg[(time % 1 > 0.3) & (time % 1 < 0.5)] = 1000
        traces = self.traces(draw_ecg(ecg, np.ones(12, bool), LEADS, fs, "x"))
        assert set(traces) == set(LEADS)
        assert (
            sum(len(trace[0]) for lead, trace in traces.items() if lead != "II") + len(traces["II"][0]) == 3 * 10 * fs
        )
        rhythm = traces["II"][1]
        assert len(rhythm) == 10 * fs
        np.testing.assert_allclose(rhythm[:, 0] - rhythm[0, 0], time * 25, atol=0.01)
        for trace in (rhythm, traces["V5"][0]):
            np.testing.assert_allclose(np.ptp(trace[:, 1]), 10)
            assert trace[:, 1].min() < np.median(trace[:, 1])  # a positive deflection points upwards

    def test_columns_go_on_where_the_one_before_ends(self) -> None:
        traces = self.traces(draw_ecg(np.zeros((1000, 12), np.int16), np.ones(12, bool), LEADS, 100, "x"))
        starts = [traces[lead][0][0, 0] - traces["I"][0][0, 0] for lead in ("I", "aVR", "V1", "V4")]
        np.testing.assert_allclose(starts, [0, 62.5, 125, 187.5])
        rows = [traces[lead][0][0, 1] for lead in ("I", "II", "III")]
        np.testing.assert_allclose(np.diff(rows), 30)

    def test_pulse_and_grid(self) -> None:
        svg = draw_ecg(np.zeros((1000, 12), np.int16), np.ones(12, bool), LEADS, 100, "x")
        assert len(re.findall(r'class="pulse" d="M\d+ \d+h200v-1000h500v1000h200"', svg)) == 4
        for style, step in (("fine", 100), ("strong", 500)):
            lines = re.findall(rf'class="{style}" d="([^"]+)"', svg)[0]
            assert set(np.diff([int(x) for x in re.findall(r"M(\d+) 0v", lines)])) == {step}
            assert set(np.diff([int(y) for y in re.findall(r"M0 (\d+)h", lines)])) == {step}

    def test_leads_are_placed_by_name(self) -> None:
        ecg = np.random.default_rng(0).integers(-900, 900, (1000, 12), np.int16)
        order = np.random.default_rng(1).permutation(12)
        shuffled = draw_ecg(ecg[:, order], np.ones(12, bool), [LEADS[i] for i in order], 100, "x")
        assert shuffled == draw_ecg(ecg, np.ones(12, bool), LEADS, 100, "x")

    def test_leads_that_were_not_recorded(self) -> None:
        ecg = np.zeros((1000, 3), np.int16)
        svg = draw_ecg(ecg, np.array([True, True, False]), ("I", "II", "V1"), 100, "x")
        assert set(self.traces(svg)) == {"I", "II"}
        assert svg.count("not recorded") == 10

    def test_a_long_record_shows_its_first_ten_seconds(self) -> None:
        ecg = np.random.default_rng(0).integers(-900, 900, (1500, 12), np.int16)
        svg = draw_ecg(ecg, np.ones(12, bool), LEADS, 100, "x")
        assert len(self.traces(svg)["II"][1]) == 1000

    def test_six_ecgs_of_500_hz_stay_small(self) -> None:
        ecg = np.random.default_rng(0).normal(0, 300, (5000, 12)).astype(np.int16)
        assert 6 * len(draw_ecg(ecg, np.ones(12, bool), LEADS, 500, "x")) < 2_000_000


def test_roc_curve_lies_on_the_full_one() -> None:
    rng = np.random.default_rng(0)
    y = rng.random(2000) < 0.2
    score = np.round(rng.normal(0, 1, 2000) + y, 1)
    fpr, tpr = charts.roc_curve(y, score, points=60)
    full = np.stack(sklearn_roc_curve(y, score, drop_intermediate=False)[:2], axis=1)
    distance = np.abs(full[None] - np.stack([fpr, tpr], axis=1)[:, None]).max(axis=2).min(axis=1)
    assert distance.max() < 1e-12
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    assert 30 < len(fpr) <= 61


@pytest.mark.parametrize(("low", "high"), [(0, 10), (0.0231, 0.0239), (-3, 1e6), (5, 5), (0, 0), (1e-9, 2e-9)])
def test_ticks_enclose_their_range_in_a_few_round_steps(low: float, high: float) -> None:
    found = charts.ticks(low, high)
    assert found[0] <= low and found[-1] >= high and 3 <= len(found) <= 8
    step = found[1] - found[0]
    np.testing.assert_allclose(np.diff(found), step, rtol=1e-6)
    mantissa = step / 10 ** math.floor(math.log10(step) + 1e-9)
    assert min(abs(mantissa - nice) for nice in (1, 2, 5)) < 1e-6


def test_bars_start_at_chance() -> None:
    def rectangle(value: float) -> tuple[float, float]:
        x, width = re.findall(r'x="([\d.]+)" y="2" width="([\d.]+)"', charts.bar("trained", value, 0.4, 0.9, 0.0))[0]
        return float(x), float(width)

    assert rectangle(0.9) == (50, 40)
    assert rectangle(0.2) == (20, 30)
    assert "interval" not in charts.bar("trained", 0.9, math.nan, math.nan, 0.0)
