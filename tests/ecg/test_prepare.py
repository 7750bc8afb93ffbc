from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etp_jax.ecg.leads import LEADS, Filters, Recording, lead_of
from etp_jax.ecg.prepare import (
    FLAT_SHARE,
    FLAT_UV,
    MAX_GAP_SECONDS,
    MAX_MISSING,
    MIN_SECONDS,
    RAIL_SECONDS,
    arrange,
    fit,
    prepare,
    resample,
)
from etp_jax.errors import EtpError


def test_limb_leads_are_derived_from_leads_that_are_not_kept() -> None:
    whole = prepare(recording(("I", "II", "V1")), 100, 1000)
    some = prepare(recording(("I", "II", "V1")), 100, 1000, ("aVF", "V1", "V2"))
    np.testing.assert_array_equal(some.ecg, whole.ecg[:, [LEADS.index(lead) for lead in ("aVF", "V1", "V2")]])
    assert some.lead_mask.tolist() == [True, True, False] and set(some.verdicts) == {
        "derived lead aVF",
        "absent lead V2",
    }
    half = recording(("I", "II"))
    half.signal[:, 1] = 0
    with pytest.raises(EtpError, match="no usable lead: absent lead III, absent lead V1"):
        prepare(half, 100, 1000, ("III", "V1"))


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
        ("lead II", "II"),
        ("ECG II", "II"),
        ("EKG lead V2", "V2"),
        ("ECG_aVF", "aVF"),
        ("DIII", "III"),
        ("V7", None),
        ("V10", None),
        ("V3R", None),
        ("MCL1", None),
        ("-aVR", None),
        ("ECG -aVR", None),
        ("vx", None),
        ("II+III", None),
        ("1", None),
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


def test_missing_samples_are_interpolated_up_to_the_limits():
    source, longest = recording(), int(MAX_GAP_SECONDS * 100)
    source.signal[:longest, 0] = np.nan  # at the edge: the nearest sample
    source.signal[500, 1] = np.inf
    source.signal[: longest + 1, 2] = np.nan
    source.signal[: 20 * int(MAX_MISSING * 1000) : 20, 3] = np.nan
    source.signal[1 : 1 + 15 * (int(MAX_MISSING * 1000) + 1) : 15, 4] = np.nan
    source.signal[:, 5] = np.nan
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == (
        "repaired lead I",
        "repaired lead II",
        "incomplete lead III",
        "repaired lead aVR",
        "incomplete lead aVL",
        "incomplete lead aVF",
    )
    assert prepared.kinds == {"repaired lead", "incomplete lead"}
    assert prepared.lead_mask.tolist() == [True, True, False, True, False, False] + [True] * 6
    assert (prepared.ecg[:longest, 0] == prepared.ecg[longest, 0]).all()
    assert prepared.ecg[500, 1] == np.rint((source.signal[499, 1] + source.signal[501, 1]) / 2)
    assert not prepared.ecg[:, ~prepared.lead_mask].any()


def test_flat_leads_are_masked():
    source = recording()
    source.signal[:, 9] = 700
    source.signal[3, 9] += FLAT_UV
    still = int(FLAT_SHARE * 1000)
    source.signal[:still, 10] = 700
    source.signal[: still + 2, 11] = 700
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == ("flat lead V4", "flat lead V6")
    assert prepared.lead_mask.tolist() == [True] * 9 + [False, True, False]
    assert not prepared.ecg[:, ~prepared.lead_mask].any()


def test_a_lead_at_the_end_of_its_range_is_masked():
    source, longest = recording(), int(RAIL_SECONDS * 100)
    source.signal[100 : 100 + longest, 0] = 5000
    source.signal[100 : 101 + longest, 1] = 5000
    source.signal[100 : 101 + longest, 2] = -5000
    source.signal[100:200, 3] = 0  # stands still, but not at the end of its range
    source.signal[::2, 4] = 5000  # long in all, but never for long
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == ("saturated lead II", "saturated lead III")


def test_the_missing_limb_leads_are_computed_from_i_and_ii():
    full = recording(samples=500)
    i, ii = full.signal[:, 0], full.signal[:, 1] + np.random.default_rng(0).integers(-99, 99, 500)
    eight = Recording(np.column_stack([i, ii, full.signal[:, 6:]]), 100, ("I", "II", *LEADS[6:]))
    prepared = prepare(eight, fs=100, samples=500)
    assert prepared.lead_mask.all()
    assert prepared.kinds == {"derived lead"}
    expected = {"III": ii - i, "aVR": -(i + ii) / 2, "aVL": i - ii / 2, "aVF": ii - i / 2}
    for lead, values in expected.items():
        np.testing.assert_array_equal(prepared.ecg[:, LEADS.index(lead)], np.rint(values))
    eight.signal[:, 1] = 3  # II was not connected
    prepared = prepare(eight, fs=100, samples=500)
    assert prepared.verdicts == ("flat lead II", *(f"absent lead {lead}" for lead in ("III", "aVR", "aVL", "aVF")))
    assert prepared.lead_mask.tolist() == [True] + [False] * 5 + [True] * 6


def test_a_recorded_lead_is_never_replaced_by_a_computed_one():
    source = recording()
    source.signal[:, 3] = 0
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == ("flat lead aVR",)
    assert not prepared.lead_mask[3]


@settings(deadline=None, max_examples=30)
@given(
    st.sampled_from([100.0, 128.0, 257.0, 360.0, 500.0, 1000.0]),
    st.floats(MIN_SECONDS, 30),
    st.sampled_from([100, 250, 500]),
)
def test_every_rate_and_length_becomes_ten_seconds(fs, seconds, target):
    source = recording(samples=int(np.ceil(seconds * fs)), fs=fs)
    prepared = prepare(source, target, 10 * target)
    assert prepared.ecg.shape == (10 * target, 12)
    assert prepared.lead_mask.all()
    kept = min(10 * target, int(np.ceil(len(source.signal) * target / fs)))
    t = np.arange(kept) / target
    middle = slice(target // 2, kept - target // 2)
    assert np.abs(prepared.ecg[:kept, 11] - 1200 * np.sin(2 * np.pi * t))[middle].max() < 12  # of 1,200
    assert not prepared.ecg[kept:].any()
    length = len(source.signal) / fs
    assert prepared.kinds == {"cropped" if length > 10 else "padded" if kept < 10 * target else "good signal"}


def test_only_the_part_that_is_kept_is_looked_at():
    source = recording(samples=3000)
    source.signal[1000:, 0], source.signal[:1000, 1] = np.nan, 7
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.verdicts == ("flat lead II", "cropped")
    np.testing.assert_array_equal(prepared.ecg[:, 2:], np.rint(source.signal[:1000, 2:]))


@pytest.mark.parametrize(
    ("unit", "factor", "likely"), [("mV", 1000, "uV"), ("V", 1000, "mV"), ("uV", 0.001, "mV"), ("mV", 0.001, "V")]
)
def test_voltages_of_another_unit_are_refused(unit, factor, likely):
    source = recording()
    wrong = replace(source, signal=source.signal * factor, unit=unit)
    with pytest.raises(
        EtpError, match=f"^voltage: the leads span .* mV, which no ECG does; .* give --unit {likely}(;|$)"
    ):
        prepare(wrong, fs=100, samples=1000)
    with pytest.raises(EtpError, match="its unit or gain is wrong"):
        prepare(replace(wrong, unit=""), fs=100, samples=1000)


def test_high_and_low_voltages_that_occur_are_accepted():
    source = recording()
    source.signal[::300] = 40_000  # artifacts in all leads
    source.signal[:, :4] += np.linspace(0, 50_000, 1000)[:, None]  # baseline wander in some leads
    assert prepare(source, fs=100, samples=1000).lead_mask.all()
    low = recording()
    assert prepare(replace(low, signal=low.signal / 30), fs=100, samples=1000).lead_mask.all()


def test_a_rhythm_strip_is_left_out():
    source = recording((*LEADS, "II_rhythm"))
    source.signal[:, 12] = source.signal[:, 1]
    prepared = prepare(source, fs=100, samples=1000)
    assert prepared.notes == ("channel II_rhythm repeats II; left out",)
    source.signal[:, 12] += 1
    other = prepare(source, fs=100, samples=1000)
    assert other.notes == ("channel II_rhythm differs from II, which is kept; left out",)
    np.testing.assert_array_equal(other.ecg, prepared.ecg)
    again = replace(source, channels=(*LEADS, "II"))
    assert prepare(again, fs=100, samples=1000).notes == ("channel II differs from II, which is kept; left out",)


def test_every_lead_and_channel_that_is_not_used_is_named():
    prepared = prepare(recording(("I", "C1", "RESP", "-aVR")), fs=100, samples=1000)
    absent = [lead for lead in LEADS if lead not in ("I", "V1")]
    assert prepared.verdicts == tuple(f"absent lead {lead}" for lead in absent)
    assert prepared.notes == (
        "read C1 as V1",
        "channel RESP is no lead that is read; left out",
        "channel -aVR is no lead that is read; left out",
    )
    assert prepared.lines[-1] == f"absent leads {', '.join(absent)}"
    two = prepare(recording(), fs=100, samples=1000, leads=("I", "II"))
    assert two.notes[-1] == "channel V6 is not one of the leads I II; left out"


def test_short_records_are_refused():
    assert prepare(recording(samples=250), fs=100, samples=1000).verdicts == ("padded",)
    with pytest.raises(EtpError, match=r"^too short: 2\.49 s, less than 2\.5 s$"):
        prepare(recording(samples=249), fs=100, samples=1000)
    assert prepare(recording(samples=100), fs=100, samples=100).verdicts == ()  # as long as was asked for


def test_filters_take_out_wander_and_mains_and_delay_nothing():
    t = np.arange(5000) / 500
    beat, wander, mains = (np.sin(2 * np.pi * hz * t) for hz in (8, 0.1, 50))
    source = Recording(1000 * (beat + wander + mains)[:, None] * np.ones(12), 500.0, LEADS)
    middle = slice(1000, 4000)

    def error(filters: Filters, expected: np.ndarray) -> float:
        found = prepare(source, fs=500, samples=5000, filters=filters).ecg[:, 0]
        return float(np.abs(found - 1000 * expected)[middle].max())

    assert error(Filters(bandpass=(0.5, 30)), beat) < 45
    assert error(Filters(notch=50), beat + wander) < 10
    assert error(Filters(bandpass=(0.5, 100), notch=50), beat) < 40
    assert error(Filters(), beat + wander + mains) < 1


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        (Filters(bandpass=(0.5, 50)), "filter: band 0.5-50 Hz is not between 0 and 50 Hz, half the sampling rate"),
        (Filters(bandpass=(0, 40)), "filter: band 0-40 Hz"),
        (Filters(bandpass=(40, 0.5)), "filter: band 40-0.5 Hz"),
        (Filters(notch=60), "filter: 60 Hz is not between 0 and 50 Hz, half the sampling rate"),
        (Filters(notch=float("nan")), "filter: nan Hz"),
    ],
)
def test_filters_beyond_half_the_rate_are_refused(filters, message):
    with pytest.raises(EtpError, match=f"^{message}"):
        prepare(recording(), fs=100, samples=1000, filters=filters)


def test_filters_see_no_gap_and_no_absent_lead():
    source = recording(("I", "V1"))
    source.signal[500, 0] = np.nan
    prepared = prepare(source, fs=100, samples=1000, filters=Filters(bandpass=(0.5, 40)))
    assert prepared.verdicts[0] == "repaired lead I" and prepared.kinds == {"repaired lead", "absent lead"}
    assert np.abs(prepared.ecg[:, 0] - 100 * np.sin(2 * np.pi * np.arange(1000) / 100))[100:-100].max() < 5
    assert not prepared.ecg[:, ~prepared.lead_mask].any()


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
