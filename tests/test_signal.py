from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.errors import EtpError
from etp_jax.records import LEADS
from etp_jax.signal import FLAT_UV, MAX_MISSING, Recording, arrange, fit, lead_of, prepare, resample


def recording(channels=LEADS, samples=1000, fs=100.0) -> Recording:
    """Every channel is a sine of its own height, so that a mix-up shows."""
    t = np.arange(samples) / fs
    signal = np.outer(np.sin(2 * np.pi * t), 100.0 * (1 + np.arange(len(channels))))
    return Recording(signal.astype(np.float64), fs, tuple(channels))


@pytest.mark.parametrize(
    ("channel", "lead"),
    [
        *((lead, lead) for lead in LEADS),
        *((lead.upper(), lead) for lead in LEADS),
        *((lead.lower(), lead) for lead in LEADS),
        ("MLII", "II"),
        ("Lead I", "I"),
        ("lead_aVL", "aVL"),
        (" V1 ", "V1"),
        ("ECG V6", "V6"),
        ("V7", None),
        ("V10", None),
        ("-aVR", "aVR"),
        ("RESP", None),
        ("IIII", None),
        ("", None),
    ],
)
def test_lead_names(channel, lead):
    assert lead_of(channel) == lead


@settings(deadline=None, max_examples=30)
@given(st.permutations(LEADS))
def test_leads_are_arranged_by_name(order):
    source = recording(order)
    signal, mask = arrange(source)
    assert mask.all()
    for place, lead in enumerate(LEADS):
        np.testing.assert_array_equal(signal[:, place], source.signal[:, order.index(lead)])


def test_absent_leads_are_masked_and_other_channels_ignored():
    signal, mask = arrange(recording(("MLII", "RESP", "v5")))
    assert [lead for lead, there in zip(LEADS, mask, strict=True) if there] == ["II", "V5"]
    assert not signal[:, ~mask].any()
    with pytest.raises(EtpError, match="lead names: none of I II"):
        arrange(recording(("RESP", "PLETH")))
    with pytest.raises(EtpError, match="lead names: II appears twice in II MLII"):
        arrange(recording(("II", "MLII")))


def test_resampling_keeps_the_wave_and_removes_what_would_alias():
    t500, t100 = np.arange(5000) / 500, np.arange(1000) / 100
    slow, fast = np.sin(2 * np.pi * 3 * t500), np.sin(2 * np.pi * 90 * t500)
    found = resample((slow + fast)[:, None], 500, 100)[:, 0]
    assert found.shape == (1000,)
    middle = slice(50, -50)
    assert np.abs(found - np.sin(2 * np.pi * 3 * t100))[middle].max() < 0.01
    assert resample(np.zeros((3600, 2)), 360, 100).shape == (1000, 2)
    np.testing.assert_allclose(resample(np.full((5000, 1), 1e3), 500, 100), 1e3, rtol=1e-3)  # no dip at the ends


def test_crop_and_pad():
    signal = np.arange(1.0, 7.0).reshape(3, 2)
    np.testing.assert_array_equal(fit(signal, 2), signal[:2])
    np.testing.assert_array_equal(fit(signal, 4), [*signal, [0, 0]])


@settings(deadline=None, max_examples=30)
@given(st.integers(-32768, 32767))
def test_whole_microvolts_survive(value):
    source = recording()
    source.signal[5, 3] = value
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.ecg[5, 3] == value
    assert prepared.ecg.dtype == np.int16
    assert prepared.verdicts == ()
    np.testing.assert_array_equal(prepared.ecg, np.rint(source.signal))


def test_too_high_voltages_are_clipped_and_said():
    source = recording()
    source.signal[7, 0], source.signal[8, 11] = 4e4, -4e4
    prepared = prepare(source, fs=100, samples=1000)
    assert (prepared.ecg[7, 0], prepared.ecg[8, 11]) == (32767, -32768)
    assert prepared.verdicts == ("clipped lead I", "clipped lead V6")


def test_missing_samples_are_interpolated_up_to_the_limit():
    source, limit = recording(), int(MAX_MISSING * 1000)
    source.signal[:limit, 0] = np.nan  # at the edge: the nearest sample
    source.signal[500, 1] = np.inf
    source.signal[: limit + 1, 2] = np.nan
    source.signal[:, 3] = np.nan
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == (
        "repaired lead I",
        "repaired lead II",
        "missing samples lead III",
        "missing samples lead aVR",
    )
    assert prepared.lead_mask.tolist() == [True, True, False, False] + [True] * 8
    assert (prepared.ecg[:limit, 0] == prepared.ecg[limit, 0]).all()
    assert prepared.ecg[500, 1] == np.rint((source.signal[499, 1] + source.signal[501, 1]) / 2)
    assert not prepared.ecg[:, 2:4].any()


def test_flat_leads_are_masked():
    source = recording()
    source.signal[:, 10] = 700
    source.signal[3, 10] += FLAT_UV
    source.signal[:, 11] = 700
    source.signal[3, 11] += FLAT_UV + 1
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == ("flat lead V5",)
    assert not prepared.lead_mask[10]
    assert prepared.lead_mask[11]
    assert not prepared.ecg[:, 10].any()


def test_a_record_without_a_usable_lead_is_refused():
    with pytest.raises(EtpError, match="no usable lead: flat lead I, "):
        prepare(Recording(np.zeros((1000, 12)), 100, LEADS), fs=100, samples=1000)
    with pytest.raises(EtpError, match="empty signal: 0 samples"):
        prepare(Recording(np.zeros((0, 12)), 100, LEADS), fs=100, samples=1000)


def test_the_archives_signal_is_not_changed():
    source = recording()
    source.signal[3, 3] = np.nan
    before = source.signal.copy()
    prepare(source, fs=100, samples=1000)
    np.testing.assert_array_equal(source.signal, before)
