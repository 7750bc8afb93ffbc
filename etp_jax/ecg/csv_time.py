"""Columns of a text file that count or time the samples. Does not import jax."""

from __future__ import annotations

import re
import warnings
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from etp_jax.errors import EtpError

SECONDS = {
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds", "sek", "sekunden"), 1.0),
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), 1e-3),
    **dict.fromkeys(("us", "usec", "μs", "microseconds"), 1e-6),
    **dict.fromkeys(("ns", "nanoseconds"), 1e-9),
    **dict.fromkeys(("min", "minutes"), 60.0),
    **dict.fromkeys(("h", "hours"), 3600.0),
}
"""Seconds per unit of time, by its names in lower case."""
RATES = (50.0, 20_000.0)
"""Range of sampling rates, in Hz, in which exactly one of s, ms, µs and ns fits a step of time."""
RATES_AGREE = 0.01
"""Largest relative difference of two sampling rates that count as equal: times are often rounded."""
CLOCK = re.compile(r"\[?(?:(?:\d+:)?\d+:\d+(?:[.,]\d+)?|\d{4}-\d\d-\d\d[ T].*)(?: .*)?")
"""Time of day, elapsed time or date, such as `0:00.003`."""
_TIME_OF_DAY = re.compile(r"\[?(?:(\d+):)?(\d+):(\d+(?:[.,]\d+)?)")
_DATE = r"\d{1,4}[-./]\d"
_TIME = re.compile(
    r"(?:elapsed|sample|recording)?[ _]*"
    r"(?:time|times|timestamp|timestamps|t|zeit|tiempo|temps|tempo|seconds|secs?|s|ms|milliseconds|clock|datetime)"
    r"(?:[ _/]*[(\[] *(?P<boxed>[a-zμ]+) *[)\]]|[ _/]+(?P<bare>[a-zμ]+))?"
)
_RECORD = re.compile(
    r"(?:record|recording|file)(?:[ _.-]?name)?|filename|(?:u?u?id)"
    r"|(?:record|recording|ecg|ekg|exam|study|patient|subject|case|file|signal)[ _.-]?(?:u?u?id|no|nr|number)"
)
_INDEX = re.compile(
    r"(?:sample|index|idx|n|no|nr|row|frame|leads?|channel|unnamed: 0|#)s?[ _.]*(?:#|no\.?|nr\.?|number|index)?"
)


def is_time(name: str) -> bool:
    """Whether a column's name says that it holds the time of each sample."""
    match = _TIME.fullmatch(name.strip().casefold())
    unit = match and (match["boxed"] or match["bare"])
    return match is not None and (unit is None or unit in SECONDS)


def is_index(name: str) -> bool:
    """Whether a column's name says that it numbers the samples."""
    return bool(_INDEX.fullmatch(name.strip().casefold()))


def names_record(name: str) -> bool:
    """Whether a column's name says that it holds the record, or the person, to which each sample belongs."""
    return bool(_RECORD.fullmatch(name.strip().casefold()))


def check_record(name: str, column: pd.Series, file: str) -> None:
    """Raises EtpError if a column whose name `names_record` recognises holds several, and does not number the rows."""
    count = column.nunique()
    if 1 < count < len(column):
        raise EtpError(f"unreadable signal: {file} holds {count} ECGs by its column {name}; make a file of each")


def is_clock(column: pd.Series) -> bool:
    """Whether a column holds times as text, such as `0:00.003`."""
    return column.dtype.kind not in "iuf" and bool(
        column.astype(str).str.strip("\"' ").str.fullmatch(CLOCK.pattern).all()
    )


def steps_evenly(column: pd.Series) -> bool:
    """Whether the values rise by equal steps, up to the rounding of the last digit, as no lead does."""
    if column.dtype.kind not in "iuf" or len(column) < 3 or not np.isfinite(column).all():
        return False
    values = column.to_numpy(np.float64)
    step = (values[-1] - values[0]) / (len(values) - 1)
    return step > 0 and bool(np.abs(values - values[0] - step * np.arange(len(values))).max() <= 1.01 * _digit(values))


def rate_of(column: pd.Series, name: str, unit: str) -> float | None:
    """Computes the sampling rate, in Hz, from a column of times.

    Args:
      column: the times, as numbers or as text such as `0:00.003`.
      name: name of the column, which may contain the unit.
      unit: unit in the file's row of units; may be empty.

    Returns:
      The rate; None if the column counts samples, its unit is unclear, or its times are rounded too coarsely.

    Raises:
      ValueError: the times do not rise by equal steps.
    """
    if is_index(name):
        return None
    if column.dtype.kind in "iuf":
        values = column.to_numpy(np.float64)
    else:
        values, unit = _clock(column), "s"  # whatever the unit, as in `hh:mm:ss.mmm`
    if len(values) < 2 or not np.isfinite(values).all():
        raise ValueError(f"its column {name!r} is no time")
    step, digit = (values[-1] - values[0]) / (len(values) - 1), _digit(values)
    odd = _odd_steps(np.rint(np.diff(values) / digit))
    if step <= 0 or odd.any():
        raise ValueError(f"its column {name!r} does not rise by equal steps at row {odd.argmax() + 2} of the samples")
    if step < digit and digit > RATES_AGREE * (values[-1] - values[0]):  # whole seconds of a short recording
        return None
    match = _TIME.fullmatch(name.strip().casefold())
    stated = unit.casefold() or (match and (match["boxed"] or match["bare"])) or name.strip().casefold()
    if stated in SECONDS:
        return _rounded(step * SECONDS[stated], digit * SECONDS[stated], len(values))
    fitting = [second for second in (1.0, 1e-3, 1e-6, 1e-9) if RATES[0] <= 1 / (step * second) <= RATES[1]]
    if step == 1 or len(fitting) != 1:
        return None
    return _rounded(step * fitting[0], digit * fitting[0], len(values))


def _odd_steps(ticks: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Finds steps back, repeated times and missing rows.

    The steps are counted in the last digit, and vary by its rounding.
    """
    usual = np.median(ticks)
    if usual >= 2:
        return (ticks < 0.4 * usual) | (ticks >= 1.6 * usual)
    regular = usual == 1 and np.mean(ticks == usual) > 0.9
    return (ticks < 0) | (ticks >= (3 if usual == 1 and not regular else 2))


def _digit(values: NDArray[np.float64]) -> float:
    """Returns the value of the last decimal digit that is used."""
    for digits in range(7):
        scaled = values * 10.0**digits
        if np.abs(scaled - np.rint(scaled)).max() < 1e-6 * max(1.0, np.abs(scaled).max() * 1e-6):
            return 10.0**-digits
    return 1e-7


def _rounded(step: float, digit: float, samples: int) -> float:
    """Returns the rate of a step; a whole number if one is within the rounding of the first and the last time."""
    span = step * (samples - 1)
    nearest = float(round(1 / step))
    exact = (samples - 1) / (span + digit) <= nearest <= (samples - 1) / max(span - digit, 1e-12)
    return nearest if exact and nearest else 1 / step


def _clock(column: pd.Series) -> NDArray[np.float64]:
    """Converts `1:02:03.456` or a date to seconds; NaN where a cell is neither."""
    text = column.astype(str).str.strip("\"' []")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pandas warns where cells have several formats
        dates = pd.to_datetime(text.where(text.str.match(_DATE)), errors="coerce")
    parts = text.str.extract(_TIME_OF_DAY.pattern)
    if dates.notna().all() or parts[2].isna().any():
        return (dates - dates.iloc[0]).dt.total_seconds().to_numpy(np.float64)
    columns: list[Any] = [pd.to_numeric(parts[n].str.replace(",", ".")) for n in range(3)]
    hours, minutes, seconds = (column.fillna(0) for column in columns)
    return (3600 * hours + 60 * minutes + seconds).to_numpy(np.float64)
