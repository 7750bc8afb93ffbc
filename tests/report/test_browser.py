"""Tests the pages in a real browser, at phone and desktop size, without a network.

Needs the extra `browser`, and in ETP_CHROMIUM the path of a Chromium (`.ci/browser FOLDER` fetches FOLDER/chromium).
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib import image

from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS
from etp_jax.report.run import write_page
from tests.helpers.evaluations import measure

STUDY = """
shards = "{shards}"
split = "test"
tasks = ["ptbxl-super"]

[[run]]
name = "small"
seeds = [7]
folder = "{folder}/run"

[[evaluate]]
kind = "zero-shot"
prompts = ["default", "contrast"]

[[evaluate]]
kind = "retrieval"
"""

pytestmark = pytest.mark.slow
if "ETP_CHROMIUM" not in os.environ:
    pytest.skip("ETP_CHROMIUM names no browser", allow_module_level=True)
sync_api = pytest.importorskip("playwright.sync_api")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=os.environ["ETP_CHROMIUM"], args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(scope="module")
def pages(run_dir: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("browser")
    run = shutil.copytree(run_dir, folder / "run")
    measure("zero-shot", run, shards, "ptbxl-super", bootstrap=20)
    ecg = np.random.default_rng(0).normal(0, 0.3, (400, 12))
    np.save(folder / "ecg.npy", ecg)
    main.main(["predict", str(folder / "ecg.npy"), "--fs", "100", "--unit", "mV", "--out", str(folder / "predicted")])
    study = folder / "small.toml"
    study.write_text(STUDY.format(folder=folder, shards=shards))
    main.main(["reproduce", str(study), "--out", str(folder / "study")])
    return {
        "report": write_page(run, shards),
        "prediction": folder / "predicted" / "ecg.html",
        "reproduction": folder / "study" / "table.html",
    }


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize(("name", "drawn"), [("report", "svg"), ("prediction", "svg"), ("reproduction", "table")])
def test_a_page_opens_without_a_network(
    browser: Any, pages: dict[str, Path], name: str, drawn: str, width: int
) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    page, complaints, asked = context.new_page(), [], []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(pages[name].as_uri())
    assert complaints == [] and asked == [pages[name].as_uri()]

    assert page.evaluate("document.documentElement.scrollWidth") <= width  # wide tables scroll separately
    boxes = [drawing.bounding_box() for drawing in page.locator(drawn).all()]
    assert boxes and all(box["width"] > 30 and box["height"] > 10 for box in boxes if box)
    assert page.locator("h1").is_visible()
    smallest = page.evaluate(
        "Math.min(...[...document.querySelectorAll('p, td, th, h1, h2')]"
        ".map(element => parseFloat(getComputedStyle(element).fontSize)))"
    )
    assert smallest >= 11

    pixels = image.imread(io.BytesIO(page.screenshot()))[..., :3]
    assert pixels.shape == (844, width, 3)
    dark = (pixels.mean(axis=-1) < 0.4).mean()
    assert 0.005 < dark < 0.5  # there is text on a background
    context.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_all_leads_of_a_prediction_are_in_reach(browser: Any, pages: dict[str, Path], width: int) -> None:
    context = browser.new_context(viewport={"width": width, "height": 844}, offline=True)
    page = context.new_page()
    page.goto(pages["prediction"].as_uri())
    shown = {}
    for trace in page.locator("path[data-lead]").all():
        box = trace.bounding_box()
        if trace.is_visible() and box and box["x"] >= 0 and box["x"] + box["width"] <= width:
            shown[trace.get_attribute("data-lead")] = box
    assert set(shown) == set(LEADS)
    hidden = (
        "[...document.querySelectorAll('.scroll')].filter(box => box.offsetParent && box.scrollWidth > box.clientWidth)"
    )
    assert page.evaluate(f"{hidden}.map(box => box.textContent)") == []
    names = [text.bounding_box() for text in page.locator("svg .lead").all() if text.is_visible()]
    assert len(names) >= len(LEADS) and all(box and box["height"] >= 12 for box in names)
    for text in page.locator("main p, header p").all():  # none is cut by a scrolling table
        box = text.bounding_box()
        assert not box or box["x"] + box["width"] <= width
    context.close()
