"""Figures of a result: with intervals, of a class, of a part of the records, of a class's calibration. No jax."""

from __future__ import annotations

from dataclasses import dataclass


def percent(share: float) -> str:
    """Formats a share of the labels, such as "1%" or "0.5%"; different shares look different."""
    return f"{100 * share:g}%"


def check_numbers(*values: object) -> None:
    """Raises TypeError for a figure that is neither a number nor None."""
    for value in values:
        if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
            raise TypeError(f"{value!r} is no figure"[:100])


@dataclass(frozen=True)
class Figure:
    """A mean with its 95 % interval; None where a value is undefined."""

    mean: float | None
    low: float | None
    high: float | None

    def __post_init__(self) -> None:
        """Raises TypeError for a value that is neither a number nor None."""
        check_numbers(self.mean, self.low, self.high)


@dataclass(frozen=True)
class ClassFigures:
    """Figures of one class; None where only one outcome occurs."""

    auroc: float | None
    auprc: float | None
    f1: float | None
    auroc_low: float | None
    auroc_high: float | None
    positives: int
    """Number of scored records that have the class."""

    def __post_init__(self) -> None:
        """Raises TypeError for a value that is neither a number nor None."""
        check_numbers(self.auroc, self.auprc, self.f1, self.auroc_low, self.auroc_high)

    @property
    def interval(self) -> Figure:
        """AUROC with its interval."""
        return Figure(self.auroc, self.auroc_low, self.auroc_high)


@dataclass(frozen=True)
class PartFigures:
    """Macro-AUROC of a group of the records, or of all records under a condition; None where it is undefined."""

    records: int
    """Number of records scored."""
    classes: int
    """Number of classes averaged."""
    auroc: float | None = None
    auroc_low: float | None = None
    auroc_high: float | None = None
    difference: float | None = None
    """Difference of the macro-AUROC from what the protocol's `difference` names, over the same classes."""
    difference_low: float | None = None
    difference_high: float | None = None
    note: str = ""
    """Reason why the figures, or those of some classes, are missing; empty if none are."""

    def __post_init__(self) -> None:
        """Raises TypeError for a value that is neither a number nor None."""
        check_numbers(self.auroc, self.auroc_low, self.auroc_high)
        check_numbers(self.difference, self.difference_low, self.difference_high)

    @property
    def interval(self) -> Figure:
        """AUROC with its interval."""
        return Figure(self.auroc, self.auroc_low, self.auroc_high)

    @property
    def paired(self) -> Figure:
        """Difference with its interval."""
        return Figure(self.difference, self.difference_low, self.difference_high)


@dataclass(frozen=True)
class Reliability:
    """Calibration of one class's probabilities; a bin is [records, mean probability, share with the class]."""

    ece_equal_mass: float
    """Expected calibration error over the bins of `equal_mass`."""
    ece_equal_width: float
    """Expected calibration error over the bins of `equal_width`."""
    equal_mass: list[list[float]]
    """Bins between quantiles of the probabilities; those without records are left out."""
    equal_width: list[list[float]]
    """Bins of equal width from 0 to 1; those without records are left out."""

    def __post_init__(self) -> None:
        """Raises TypeError or ValueError for a value that is no number, or a bin of other than three."""
        check_numbers(self.ece_equal_mass, self.ece_equal_width)
        for records, mean, share in (*self.equal_mass, *self.equal_width):
            check_numbers(records, mean, share)
