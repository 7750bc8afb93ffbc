"""Tests that an ECG of any size stays on its paper, and that nothing is struck through."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image

from etp_jax.ecg.leads import LEADS, Highlight
from etp_jax.report.ecg_paper import GAINS, MM, NARROW, TALL, WIDE, lay_out, sheets
from etp_jax.report.ecg_png import DPI, write_png
from etp_jax.report.ecg_svg import draw_ecg
from tests.helpers.paper import faults

ALL = np.ones(12, bool)


def spikes(size: int, fs: int = 100, seconds: int = 10) -> np.ndarray:
    """A spike in every lead each second, upwards and downwards by turns."""
    ecg = np.zeros((seconds * fs, 12), np.int16)
    ecg[fs // 2 :: fs, ::2], ecg[fs // 2 :: fs, 1::2] = size, -size
    return ecg


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 1000),
    size=st.sampled_from([1, 300, 3000, 12_000, 32_767]),
    fs=st.sampled_from([100, 257.5, 500, 1000]),
    seconds=st.floats(2.5, 12),
    layout=st.sampled_from([WIDE, NARROW, TALL]),
)
def test_nothing_leaves_the_paper(seed: int, size: int, fs: float, seconds: float, layout) -> None:
    rng = np.random.default_rng(seed)
    ecg = (rng.uniform(-1, 1, (round(fs * seconds), 12)) * rng.choice([0.01, 1], 12) * size).astype(np.int16)
    assert faults(lay_out(ecg, rng.random(12) < 0.8, LEADS, fs, layout)) == []


@pytest.mark.parametrize(("size", "gain"), [(1000, 10), (3000, 10), (5000, 5), (11_000, 2.5), (32_000, 2.5)])
def test_the_gain_is_reduced_and_named(size: int, gain: float) -> None:
    paper = lay_out(spikes(size), ALL, LEADS, 100)
    assert paper.gain == gain and gain in GAINS and f"{gain:g} mm/mV" in paper.scale
    assert ("reduced" in paper.scale) == (gain < 10)
    strip = paper.strips[0]
    assert np.ptp(strip.y) == round(size * gain / 10)
    svg = draw_ecg(spikes(size), ALL, LEADS, 100, "x")
    assert svg.count(f"h200v-{round(gain * MM)}h500v{round(gain * MM)}h200") == 4 and paper.scale in svg


def test_a_name_is_moved_above_a_tall_wave_at_its_side() -> None:
    ecg = spikes(0)
    ecg[20, 0] = 3000  # 5 mm to the right of the start of lead I
    paper = lay_out(ecg, ALL, LEADS, 100)
    names = {strip.lead: strip.label[1] for strip in paper.strips if strip.row == 0}
    assert names["I"] < paper.bands[0].baseline - 3000 and names["aVR"] == paper.bands[0].baseline - 1000
    assert faults(paper) == []


def test_the_sheet_for_a_phone_holds_all_leads_and_all_seconds() -> None:
    paper = lay_out(spikes(900), ALL, LEADS, 100, NARROW)
    assert {strip.lead for strip in paper.strips} == set(LEADS) and paper.width == 145 * MM
    assert [(band.start, band.stop) for band in paper.bands] == [(0, 5)] * 7 + [(5, 10)]
    assert len(paper.marked(1)) == 7 and len(paper.marked(7)) == 1
    x, y, width, _ = paper.marked(7)[0]
    assert (x, width, y) == (1500 + 2 * 2500, 2500, paper.bands[-1].top)


def test_a_short_record_shows_each_lead_whole() -> None:
    assert sheets(5) == (TALL, TALL) and sheets(10) == (WIDE, NARROW)
    paper = lay_out(spikes(900, seconds=3), ALL, LEADS, 100, TALL)
    assert [strip.lead for strip in paper.strips] == list(LEADS)
    assert all(len(strip.x) == 300 for strip in paper.strips) and faults(paper) == []


def test_missing_leads_have_their_reason_and_others_their_own_row() -> None:
    mask = np.array([True, False, True])
    paper = lay_out(spikes(500)[:, :3], mask, ("V1", "V2", "ECG"), 100, unusable={"V2": "flat, not used"})
    reasons = {strip.lead: strip.missing for strip in paper.strips}
    assert reasons["V2"] == "flat, not used" and reasons["I"] == "not recorded" and not reasons["V1"]
    assert [strip.lead for strip in paper.strips if strip.row >= 3] == ["V1", "ECG"]  # rhythm strip, own row
    assert faults(paper) == []


def test_the_picture_has_its_pulses_and_whole_captions(tmp_path: Path) -> None:
    paper = lay_out(np.zeros((250, 12), np.int16), ALL, LEADS, 100)
    write_png(tmp_path / "x.png", paper, "a long caption " * 12, Highlight(("I",), (0,)))
    pixels = image.imread(tmp_path / "x.png")[..., :3]
    per_mm = DPI / 25.4
    for band in paper.bands:
        pulse = pixels[round((band.baseline / MM - 10) * per_mm) - 1 : round(band.baseline / MM * per_mm)]
        assert (pulse[:, round(5 * per_mm) : round(14 * per_mm)].mean(axis=2) < 0.4).any(axis=1).all()
    foot = pixels[round(paper.height / MM * per_mm) :]
    assert len(foot) > 4 * 4 * per_mm  # several lines
    assert (foot[:, -3:] > 0.9).all() and (foot[-4:] > 0.9).all()


def test_the_drawing_is_what_was_laid_out() -> None:
    ecg = (np.random.default_rng(0).normal(0, 2500, (1000, 12))).astype(np.int16)
    paper, svg = lay_out(ecg, ALL, LEADS, 100), draw_ecg(ecg, ALL, LEADS, 100, "x")
    for strip, (lead, x, y, steps) in zip(
        paper.strips, re.findall(r'data-lead="(\w+)" d="M(\d+) (-?\d+)l([^"]+)"', svg), strict=True
    ):
        moves = np.array(steps.split(), int).reshape(-1, 2)
        points = np.cumsum(np.concatenate([[[int(x), int(y)]], moves]), axis=0)
        assert lead == strip.lead
        np.testing.assert_array_equal(points, np.stack([strip.x, strip.y], axis=1))
