"""Sampling rates from columns of times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from etp_jax.ecg.csv_time import is_index, is_time, rate_of, steps_evenly


@given(
    st.sampled_from([100, 128, 200, 250, 256, 257, 333, 360, 400, 500, 512, 800, 1000]),
    st.integers(3, 7),
    st.integers(1000, 6000),
    st.floats(0, 1000).map(lambda start: round(start, 3)),
)
def test_rounded_times_give_the_rate(rate: int, digits: int, samples: int, start: float) -> None:
    times = pd.Series(np.round(start + np.arange(samples) / rate, digits))
    assert rate_of(times, "time (s)", "") == pytest.approx(rate, rel=2e-3 if digits == 3 else 1e-5)


@given(st.sampled_from([100, 250, 360, 500, 1000]), st.integers(1, 998), st.integers(1, 50))
def test_missing_rows_are_noticed(rate: int, row: int, missing: int) -> None:
    times = np.round(np.delete(np.arange(1000 + missing), range(row, row + missing)) / rate, 3)
    with pytest.raises(ValueError, match=f"does not rise by equal steps at row {row + 1} "):
        rate_of(pd.Series(times), "time", "")


def test_times_in_whole_seconds_give_a_rate_only_of_long_recordings() -> None:
    seconds = pd.Series([f"10:{n // 500 // 60:02}:{n // 500 % 60:02}" for n in range(500 * 120)])
    assert rate_of(seconds.head(5000), "time", "") is None
    assert rate_of(seconds, "time", "") == pytest.approx(500, rel=0.01)


def test_units_of_time() -> None:
    steps = np.arange(1000)
    assert rate_of(pd.Series(steps * 2), "time", "ms") == 500
    assert rate_of(pd.Series(steps * 2), "t [ms]", "") == 500
    assert rate_of(pd.Series(steps * 2000), "time", "") == 500  # microseconds
    assert rate_of(pd.Series(steps), "time", "") is None  # milliseconds or a count
    assert rate_of(pd.Series(steps), "time_ms", "") == 1000
    assert rate_of(pd.Series(steps * 0.5), "sample", "") is None
    assert rate_of(pd.Series([f"00:59:{n / 100:06.3f}" for n in steps]), "Elapsed", "hh:mm:ss.mmm") == 100


@pytest.mark.parametrize(
    "name", ["time", "Time (s)", "t", "time_ms", "Elapsed time", "timestamp", "Zeit [ms]", "seconds"]
)
def test_names_of_times(name: str) -> None:
    assert is_time(name)


@pytest.mark.parametrize("name", ["I", "V1", "rhythm", "temperature", "time to beat", "RESP", "aVL"])
def test_other_names(name: str) -> None:
    assert not is_time(name) and not is_index(name)


def test_no_ecg_rises_by_equal_steps() -> None:
    assert steps_evenly(pd.Series(np.round(np.arange(100) / 360, 3)))
    assert not steps_evenly(pd.Series(np.zeros(100)))
    assert not steps_evenly(pd.Series(np.cumsum(np.random.default_rng(0).integers(0, 3, 100)) / 1000))
