"""What the readers share: the choice of channels, limits on gaps, and the boundary for what a library raises."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from etp_jax.ecg.leads import MICROVOLT, Layout, Recording, leads_of, unit_of
from etp_jax.errors import EtpError, one_line, option

MAX_GAP = 40_000_000
"""Largest number of missing samples that is filled in, over all gaps and leads; of 4 leads, 22 hours at 125 Hz."""
MAX_BYTES = 2**31
"""Largest number of bytes that one ECG, the ids of a stack, or a compressed array may take in memory."""
LEAST_BYTES = 2**27
"""Bytes in memory that an ECG from a file of any size may take: 12 leads of 46 minutes at 500 Hz."""
EXPANSION = 20
"""How many times the size of a file its ECG may take: int16 becomes float64, and compressed data about three times."""
_ECG = re.compile(r"e[ck]g", re.IGNORECASE)


@contextmanager
def unreadable(name: str, what: str = "signal") -> Iterator[None]:
    """Converts whatever a reader raises into one EtpError that names the file and what it should hold."""
    try:
        yield
    except EtpError:
        raise
    except FileNotFoundError as error:
        raise EtpError(f"missing file: {Path(error.filename or name).name}") from None
    except Exception as error:  # noqa: BLE001 - libraries raise anything on a damaged file, also bare exceptions
        raise EtpError(f"unreadable {what}: {name} ({one_line(error)})") from None


@contextmanager
def clinical_extra(file: str) -> Iterator[None]:
    """Converts the lack of a package, imported inside, into one EtpError that names the extra which installs it."""
    try:
        yield
    except ModuleNotFoundError as error:
        package = (error.name or "another package").partition(".")[0]
        raise EtpError(f"kind not read: {file} needs {package}; pip install 'etp-jax[clinical]'") from None


def check_bytes(path: Path, limit: int) -> None:
    """Raises EtpError if a file is larger than `limit` bytes, before memory is taken for its content."""
    if path.stat().st_size > limit:
        raise EtpError(f"size: {path.name} holds more than {limit / 2**20:g} MiB")


def microvolts(unit: str) -> float | None:
    """Returns the microvolts per unit, or None if the unit is no voltage."""
    name = unit_of(unit)
    return None if name is None else MICROVOLT[name]


def choose_channels(
    file: str, names: Sequence[str], units: Sequence[str], rates: Sequence[float]
) -> tuple[list[int], list[str]]:
    """Chooses the channels that are read: voltages of one sampling rate, at which most leads were recorded.

    Returns:
      The numbers of the channels, and a note for each channel that is left out.

    Raises:
      EtpError: no channel is a voltage, or no sampling rate has most of the leads.
    """
    named = _called(names)
    voltages = [number for number, unit in enumerate(units) if microvolts(unit) is not None]
    if not voltages:
        found = ", ".join(map(repr, dict.fromkeys(units)))
        raise EtpError(f"unit: {file} is in {found}, not in one of {', '.join(MICROVOLT)}")
    notes = [
        f"channel {named[number]} ({unit.strip() or 'no unit'}) left out"
        for number, unit in enumerate(units)
        if number not in voltages
    ]
    denoted = _leads([names[number] for number in voltages])
    leads = [number for number, lead in zip(voltages, denoted, strict=True) if lead]
    called_ecg = [number for number in voltages if _ECG.search(names[number])]
    if not leads and called_ecg:
        notes += [f"channel {named[n]} left out: it is not called ECG" for n in voltages if n not in called_ecg]
        voltages = called_ecg
    by_rate: dict[float, list[int]] = {}
    for number in voltages:
        by_rate.setdefault(rates[number], []).append(number)
    counts = {rate: len(set(group) & set(leads or group)) for rate, group in by_rate.items()}
    best = max(counts, key=lambda rate: counts[rate])
    if list(counts.values()).count(counts[best]) > 1:
        groups = "; ".join(f"{' '.join(named[n] for n in group)} ({rate:g} Hz)" for rate, group in by_rate.items())
        raise EtpError(f"sampling rate: the channels of {file} have several: {groups}; convert them to one")
    for rate, group in by_rate.items():
        if rate != best:
            notes += [f"channel {named[n]} ({rate:g} Hz) left out: the leads have {best:g} Hz" for n in group]
    return by_rate[best], notes


def name_channels(recording: Recording, layout: Layout, file: str) -> Recording:
    """Names the channels of a recording by `layout`, if its own names denote no lead.

    Raises:
      EtpError: no channel denotes a lead, and the layout has another number of leads.
    """
    recording = replace(recording, channels=_called(recording.channels))
    leads = _leads(recording.channels)
    names = ", ".join(recording.channels)
    if any(leads):
        said = any(option("leads") in note for note in recording.notes)
        ignored = layout.leads and _leads(layout.leads) != leads and not said
        note = f"leads by the names in the file ({names}), not by {option('leads')}"
        return replace(recording, notes=(*recording.notes, note)) if ignored else recording
    if len(layout.leads) != len(leads):
        how = f"name all {len(leads)} with {option('leads')} if they are standard leads under other names"
        raise EtpError(f"lead names: no channel of {file} ({names}) is a lead; {how}")
    note = f"{names} read as {', '.join(layout.leads)} by {option('leads')}"
    return replace(recording, channels=layout.leads, notes=(*recording.notes, note))


def _called(names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names of channels; that of a channel without one is its number."""
    return tuple((name.strip() and name) or f"number {number + 1}" for number, name in enumerate(names))


def _leads(names: Sequence[str]) -> list[str | None]:
    """Returns the lead that each channel denotes; numbers of channels denote none."""
    try:
        return leads_of(names)
    except EtpError:
        return [None] * len(names)


def allowance(path: Path) -> int:
    """Returns the number of bytes in memory that an ECG of a file may take."""
    return min(MAX_BYTES, max(LEAST_BYTES, EXPANSION * path.stat().st_size))


def check_memory(path: Path, needed: int) -> None:
    """Compares the memory that an ECG takes with the size of its file: a damaged one may claim any size.

    Args:
      path: the file.
      needed: number of bytes in memory, where a sample takes eight.

    Raises:
      EtpError: the ECG is too large, or much larger than a compressed file of this size holds.
    """
    limit = allowance(path)
    if needed > limit:
        raise EtpError(f"size: {path.name} takes more than {limit / 2**30:.3g} GiB of memory")


def check_gaps(file: str, held: int, whole: int, leads: int) -> None:
    """Checks the size of a recording with gaps before memory is taken for it.

    Args:
      file: name of the file.
      held: number of samples that the file holds, per channel.
      whole: number of samples with those of the gaps.
      leads: number of leads.

    Raises:
      EtpError: the gaps are too long.
    """
    if (whole - held) * leads > MAX_GAP:
        raise EtpError(f"gaps: {file} holds {held} samples and gaps of {whole - held}; split it at its gaps")
