"""Makes results/plans.csv from the JSON files of `etp plan` and `etp bench`, and the table of results/plans.md from it.

    python studies/plans.py PLAN.json ... [BENCH.json ...]    # adds their rows; a row of the same name is replaced
    python studies/plans.py                                   # only makes the table again

The name of a file, without `.json`, is that of its rows.
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parents[1] / "results"
HEAD = """\
name source recipe target device devices batch samples precision parallel resident micro_batches quick fits
peak_gib limit_gib all_reduces all_reduce_mib all_gathers all_gather_mib permutes largest_copy_mib example_loops
step_ms_low step_ms_high ecg_per_s_per_device_low ecg_per_s_per_device_high compile_s versions
"""
COLUMNS: tuple[str, ...] = tuple(HEAD.split())
"""Columns of the CSV."""
GIB, MIB = 2**30, 2**20
START, END = "<!-- table -->", "<!-- end of the table -->"
Row = dict[str, Any]


def rows_of(path: Path) -> list[Row]:
    """The rows of one JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    shared = {
        "source": "compiled" if "plan" in content else "measured",
        "recipe": content["recipe"],
        "target": content["platform"],
        "device": content["device"],
        "samples": content["samples"],
        "precision": content["precision"],
        "parallel": content["parallel"],
        "versions": " ".join(f"{name} {version}" for name, version in content["versions"].items()),
    }
    rows = content["rows"]
    found = []
    for number, row in enumerate(rows):
        name = path.stem if len(rows) == 1 else f"{path.stem}-{number}"
        own = _planned(content["plan"]) if "plan" in content else _measured(row)
        found.append({"name": name, **shared, "devices": row["devices"], "batch": row["batch_size"], **own})
    return found


def _measured(row: Row) -> Row:
    if "out_of_memory" in row:
        return {"fits": False}
    step, each = 1000 * statistics.median(row["step_s"]), row["ecg_per_s_per_device"]
    memory = row["memory"]
    used = memory and memory["argument"] + memory["output"] + memory["temp"] - memory["alias"]
    return {
        "fits": True,
        "peak_gib": used and used / GIB,
        "step_ms_low": step,
        "step_ms_high": step,
        "ecg_per_s_per_device_low": each,
        "ecg_per_s_per_device_high": each,
        "compile_s": row["compile_s"],
    }


def _planned(plan: Row) -> Row:
    found = plan["compiler"]
    limit, needed = found["device_bytes"], found["memory"]["peak"] if found["fits"] else found["needed_bytes"]
    row = {
        "resident": found["resident"],
        "micro_batches": plan["micro_batches"],
        "quick": plan["quick"],
        "fits": found["fits"],
        "peak_gib": needed and needed / GIB,
        "limit_gib": limit and limit / GIB,
    }
    if not found["fits"]:
        return row
    kinds, estimate = found["program"]["collectives"], plan["estimate"]
    none = {"number": 0, "bytes": 0}
    step, each = estimate["step_s"], estimate["ecg_per_s_per_chip"]
    return row | {
        "all_reduces": kinds.get("all-reduce", none)["number"],
        "all_reduce_mib": kinds.get("all-reduce", none)["bytes"] / MIB,
        "all_gathers": kinds.get("all-gather", none)["number"],
        "all_gather_mib": kinds.get("all-gather", none)["bytes"] / MIB,
        "permutes": kinds.get("collective-permute", none)["number"],
        "largest_copy_mib": max((copy["bytes"] for copy in found["program"]["copies"]), default=0) / MIB,
        "example_loops": sum("over the examples" in line for line in plan["warnings"]),
        "step_ms_low": step["low"] and 1000 * step["low"],
        "step_ms_high": step["high"] and 1000 * step["high"],
        "ecg_per_s_per_device_low": each[0],
        "ecg_per_s_per_device_high": each[1],
        "compile_s": found["compile_s"],
    }


def table(rows: list[dict[str, str]]) -> str:
    """The rows of the CSV as a Markdown table."""
    head = "plan | on | batch | samples | peak, GiB | all-reduces | all-gathers | step, ms | ECG/s a device"
    lines = [f"| {head} |", "|---" * (head.count("|") + 1) + "|"]
    for row in rows:
        memory = f"{_figure(row['peak_gib'], 2)} of {_figure(row['limit_gib'], 2)}" if row["limit_gib"] else ""
        memory = memory or _figure(row["peak_gib"], 2)
        cells = [
            f"`{row['name']}`" + (" (measured)" if row["source"] == "measured" else ""),
            f"{row['devices']} × {row['device']}",
            f"{int(row['batch']):,}",
            f"12×{row['samples']}",
            memory if row["fits"] == "True" else f"**does not fit**, {memory}",
            _collective(row, "all_reduce"),
            _collective(row, "all_gather"),
            _range(row["step_ms_low"], row["step_ms_high"], 1),
            _range(row["ecg_per_s_per_device_low"], row["ecg_per_s_per_device_high"], 0),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(text: str, digits: int) -> str:
    return f"{float(text):,.{digits}f}" if text else "not known"


def _collective(row: dict[str, str], kind: str) -> str:
    number = row[f"{kind}s"]
    return f"{number} ({_figure(row[f'{kind}_mib'], 1)} MiB)" if number else ""


def _range(low: str, high: str, digits: int) -> str:
    """A range of which a bound may be unknown."""
    if low and high:
        return _figure(low, digits) if low == high else f"{_figure(low, digits)} to {_figure(high, digits)}"
    return f"≥ {_figure(low, digits)}" if low else f"≤ {_figure(high, digits)}" if high else ""


def main(paths: list[str]) -> None:
    """Adds the files to the CSV, and makes the table."""
    csv_path, page = RESULTS / "plans.csv", RESULTS / "plans.md"
    kept: dict[str, Row] = {}
    if csv_path.exists():
        with csv_path.open(newline="", encoding="utf-8") as file:
            kept = {row["name"]: dict(row) for row in csv.DictReader(file)}
    for path in paths:
        kept |= {row["name"]: row for row in rows_of(Path(path))}
    with csv_path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        writer.writeheader()
        for row in kept.values():
            writer.writerow({name: f"{x:.4f}" if isinstance(x, float) else x for name, x in row.items()})
    with csv_path.open(newline="", encoding="utf-8") as file:
        made = table(list(csv.DictReader(file)))
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{START}\n\n{made}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
