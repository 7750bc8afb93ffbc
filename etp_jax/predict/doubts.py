"""Reasons to doubt what `etp predict` reports: an unreadable signal, reversed electrodes, findings that contradict."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from etp_jax.predict.finding import Finding
from etp_jax.waveform.delineate import FS, SHORTEST_RR
from etp_jax.waveform.measure import Measures

NO_BEATS = "too few heart beats of one shape were found"
ENOUGH = 5.0
"""Duration in seconds from which on a signal without three beats is unreadable; a shorter one may hold fewer."""
INVERTED = "P and QRS are negative in lead I: the electrodes of the arms may be reversed, or the signal inverted"
NORMAL = "NORM"
"""Code of a normal ECG."""
SINUS, OTHER_RHYTHMS = frozenset({"SR", "STACH", "SBRAD", "SARRH"}), frozenset({"AFIB", "AFLT", "SVTAC", "PSVT"})
"""Codes of the rhythms with and without regular P waves of the sinus node."""
WITHOUT = {"AFIB": ("pr_ms",), "PACE": ("pr_ms", "qrs_ms", "qt_ms", "qtc_ms")}
"""Measurements that mean nothing beside a finding, by its code. In atrial fibrillation there is no P wave; a
pacemaker's spike may be taken for the beginning of the QRS."""
FASTEST_PR = round(60 * FS / SHORTEST_RR)
"""Heart rate from which on PR is not measured, in beats per minute."""


def unreadable(measures: Measures, seconds: float) -> bool:
    """Whether a signal has no heart beats where there should be some."""
    return "rate_bpm" not in measures and seconds >= ENOUGH


def inverted(measures: Measures, leads: Sequence[str]) -> bool:
    """Whether P and QRS are negative in lead I."""
    waves = [np.asarray(measures[name])[leads.index("I")] for name in ("p_uv", "net_uv") if name in measures]
    return len(waves) == 2 and bool(max(waves) < 0)


def withheld(measures: Measures, above: Sequence[Finding]) -> dict[str, str]:
    """Returns why a measurement is withheld, by quantity.

    Args:
      measures: the measurements.
      above: the findings above their thresholds.
    """
    reasons = {name: f"{f.name} is above its threshold" for f in above for name in WITHOUT.get(f.code, ())}
    if float(measures.get("rate_bpm", 0.0)) >= FASTEST_PR:  # pyright: ignore[reportArgumentType]
        reasons.setdefault("pr_ms", f"at {FASTEST_PR}/min or more, P waves look like those of atrial flutter")
    return reasons


def contradictions(groups: Mapping[str, Sequence[Finding]]) -> list[str]:
    """Describes findings that cannot all be right: one line for each kind of contradiction.

    The kinds are: a normal ECG beside any other finding of its group; a sinus rhythm beside another rhythm; and a
    finding above its threshold that is a kind of another one, which is not.

    Args:
      groups: all findings, by group.
    """
    lines = []
    for findings in groups.values():
        above = [finding for finding in findings if finding.verdict == "above"]
        normal = [f for f in above if f.code == NORMAL]
        lines += _beside(normal, [f for f in above if f.code != NORMAL])
        lines += _beside([f for f in above if f.code in SINUS], [f for f in above if f.code in OTHER_RHYTHMS])
        for whole in findings:
            kinds = [f for f in above if f.codes < whole.codes] if whole.verdict != "above" else []
            be = "is a kind" if len(kinds) == 1 else "are kinds"
            lines += [f"{_names(kinds)} {be} of {whole.name}, which is {_place(whole)}"] * bool(kinds)
    return lines


def _beside(some: Sequence[Finding], others: Sequence[Finding]) -> list[str]:
    return [f"{_names(some)} is above the threshold beside {_names(others)}"] if some and others else []


def _place(finding: Finding) -> str:
    return "below its threshold" if finding.verdict == "below" else finding.verdict


def _names(findings: Sequence[Finding]) -> str:
    return ", ".join(finding.name for finding in findings)
