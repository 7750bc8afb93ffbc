"""Groups and conditions in a model card: a table and a plot of each evaluation that divides or changes the records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import NoneType
from typing import Any

from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import is_of
from etp_jax.errors import EtpError
from etp_jax.files import read_json
from etp_jax.plain import plain

FIGURES_FOLDER = "figures"
"""Subfolder of an exported encoder that holds the plots of its model card."""
NUMBER = (float, NoneType)
PART_TYPES = {
    **{"records": int, "note": str, "auroc": NUMBER, "auroc_low": NUMBER, "auroc_high": NUMBER},
    **{"difference": NUMBER, "difference_low": NUMBER, "difference_high": NUMBER},
}
RESULT_TYPES = {
    **{"kind": str, "task": (str, NoneType), "split": str, "protocol": {str: object}, "checkpoint?": {"step?": int}},
    "shards?": {"name?": str},
    "rows": [{"encoder": str, "parts?": {str: PART_TYPES}, "reliability?": {str: {"equal_mass": [[float]]}}}],
}
"""Types of the fields that are read of a result with parts."""


@dataclass(frozen=True)
class Parts:
    """The parts of one evaluation of the trained encoder."""

    title: str
    """Kind, task, split and data."""
    checkpoint: dict[str, Any]
    """Checkpoint that was evaluated, see `Result.checkpoint`."""
    difference: str
    """Description of what the differences are from."""
    parts: dict[str, dict[str, Any]]
    """Figures by group or condition."""
    reliability: dict[str, list[list[float]]]
    """Bins of equal mass by class code: records, mean probability, share with the class."""


def read_parts(path: Path) -> Parts | None:
    """Reads the parts of a file of `RUN/evaluation/`; returns None if its evaluation has none.

    Raises:
      EtpError: the file was not written by `etp evaluate`.
    """
    result = read_json(path, "move it away", RESULT_TYPES)
    row = next((row for row in result["rows"] if row["encoder"] == "trained" and row.get("parts")), None)
    if row is None:
        return None
    where = " of ".join(filter(None, [result["split"], result.get("shards", {}).get("name")]))
    title = " ".join(filter(None, [result["kind"], result["task"], "on", where]))
    reliability = {code: each["equal_mass"] for code, each in row.get("reliability", {}).items()}
    if any(len(row) != 3 for bins in reliability.values() for row in bins):
        raise EtpError(f"{path}: a bin of reliability has other than three numbers; move it away")
    difference = str(result["protocol"].get("difference", ""))
    return Parts(title, result.get("checkpoint", {}), difference, row["parts"], reliability)


def parts_section(encoder: Encoder, folder: Path) -> str:
    """Writes the plots into the folder of an exported encoder; returns the section, or an empty text if there is none.

    Args:
      encoder: the exported encoder; `evaluation/` of its run is read, without evaluations of another checkpoint.
      folder: folder of the exported encoder.
    """
    run = encoder.run_dir
    found = [each for each in _found(run / "evaluation") if is_of(each[1].checkpoint, run, encoder.step)]
    if not found:
        return ""
    from etp_jax.encoder.card_plot import draw  # loads matplotlib

    text = ["## Groups and conditions", "", "Macro-AUROC of a linear probe, 95 % intervals by bootstrap over patients."]
    for stem, parts in found:
        plot = f"{FIGURES_FOLDER}/{stem}.png"
        draw(folder / plot, parts.parts, parts.reliability)
        rows = [
            f"| {plain(name)} | {part['records']} | {_figure(part, 'auroc', '.3f')} | "
            f"{_figure(part, 'difference', '+.3f')} | {plain(part['note'])} |"
            for name, part in parts.parts.items()
        ]
        head = ["| | records | macro-AUROC | difference | |", "|---|---|---|---|---|"]
        text += ["", f"### {plain(parts.title)}", "", f"Difference: {plain(parts.difference)}.", "", *head, *rows, ""]
        text += [f"![{plain(parts.title)}]({plot})"]
    return "\n".join([*text, "", ""])


def _found(evaluations: Path) -> Iterator[tuple[str, Parts]]:
    for path in sorted(evaluations.glob("*.json")):
        try:
            parts = read_parts(path)
        except EtpError:  # an unrelated file must not prevent the export
            continue
        if parts is not None:
            yield path.stem, parts


def _figure(part: dict[str, Any], name: str, form: str) -> str:
    mean, low, high = part[name], part[f"{name}_low"], part[f"{name}_high"]
    if mean is None:
        return "–"
    return format(mean, form) + ("" if low is None or high is None else f" [{low:{form}}, {high:{form}}]")
