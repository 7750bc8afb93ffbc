"""`etp runs`: compares runs in one table."""

from __future__ import annotations

import csv
import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro

from etp_jax.cli.command import Command, show


@dataclass(frozen=True)
class Runs:
    """Compares runs: recipe, differing options, losses, best checkpoint, speed, evaluations."""

    folders: tyro.conf.Positional[tuple[Path, ...]] = (Path("runs"),)
    """Folders to search for run folders, at any depth."""
    csv: Path | None = None
    """CSV file for the same table with all digits."""


def runs(args: Runs) -> None:
    """Runs `etp runs`."""
    from etp_jax.files import begins, keep_other_kinds, write_text
    from etp_jax.report.runs import compare

    if args.csv is not None:
        keep_other_kinds(args.csv, "a table of runs", begins(b"run,recipe,"))
    rows = compare(args.folders)
    cells = [list(rows[0]), *([_shown(value) for value in row.values()] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for line in cells:
        show("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)).rstrip())
    if args.csv is not None:
        stream = io.StringIO()
        writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        args.csv.parent.mkdir(parents=True, exist_ok=True)
        write_text(args.csv, stream.getvalue())
        show(f"wrote {args.csv}")


def _shown(value: Any) -> str:
    """Formats a cell with few digits; a dash for a missing value."""
    if value is None or value == "":
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


COMMANDS = {
    "runs": Command(Runs, runs),
}
