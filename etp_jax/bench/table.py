"""Table and plot of the measurements of `etp bench`."""

from __future__ import annotations

import statistics
from typing import Any

import numpy as np

from etp_jax.bench.run import Report
from etp_jax.ecg.leads import LEADS
from etp_jax.plain import escape
from etp_jax.report.charts import HEIGHT, WIDTH, Series, line_chart

GIB = 2**30
ROW = "{:<11} {:<15} {:>6} {:>7} {:>10} {:>9} {:>9} {:>8} {:>8} {:>8} {:>7} {:>16} {:>7} {:>6}"
HEAD = ROW.format(
    *("what", "framework", "batch", "devices", "ECG/s", "/device", "s/step", "compile", "GFLOP", "GB", "MFU"),
    *("of roof", "GiB", "ours"),
)
EXPLAINED = """\
compile: seconds, lowering included; GFLOP, GB: minimum work and memory traffic of a step; MFU: share of the device's
peak; of roof: share of the roofline limit; GiB: memory per device by XLA's count; ours: our time over this row's"""
COLOURS = "#0072b2", "#b34a00", "#117733", "#882255", "#555555", "#88ccee", "#ddaa33"


def table(report: Report) -> str:
    """Formats the report as aligned text."""
    peak = report.peak
    known = [f"{peak[key]:g} {unit}" for key, unit in (("tflops", "TFLOP/s"), ("gb_per_s", "GB/s")) if peak[key]]
    lines = [
        f"{report.recipe}: ECGs of {len(LEADS)} x {report.samples}, {report.precision}, {report.parallel}; "
        f"{report.devices_at_hand} x {report.device}",
        f"peak of a device: {', '.join(known)} ({peak['source']})" if known else "peak of this device: not known",
        *([f"{report.scaling} scaling"] if report.scaling else []),
        "",
        HEAD,
        *map(_row, report.rows),
        *EXPLAINED.splitlines(),
    ]
    for row in report.input:
        plain = f", {row['plain']['ratio']:.2f} of bare system calls" if row["plain"] else ""
        lines.append(
            f"reader, {row['cache']} cache, {row['threads']} thread(s): {row['records_per_s']:,} records/s "
            f"({len(LEADS)} x {row['samples']}){plain}"
        )
    return "\n".join(lines)


def _row(row: dict[str, Any]) -> str:
    if "out_of_memory" in row:
        return ROW.format("out of memory", "", row["batch_size"], row["devices"], *[""] * 10)
    memory = row["memory"]
    used = memory and memory["argument"] + memory["output"] + memory["temp"] - memory["alias"]
    return ROW.format(
        row["what"],
        row["framework"],
        row["batch_size"],
        row["devices"],
        f"{row['ecg_per_s']:,.1f}",
        f"{row['ecg_per_s_per_device']:,.1f}",
        f"{statistics.median(row['step_s']):.4f}",
        "" if row["compile_s"] is None else f"{row['lower_s'] + row['compile_s']:.1f}",
        f"{row['flops'] / 1e9:,.2f}",
        f"{row['bytes'] / 1e9:,.3f}",
        "" if row["mfu"] is None else f"{row['mfu']:.1%}",
        "" if row["of_roof"] is None else f"{row['of_roof']:.1%} ({row['limit']})",
        "" if used is None else f"{used / GIB:.2f}",
        f"{row['time_of_ours']:.2f}x",
    )


def plot(report: Report) -> str:
    """Plots ECG/s of training step and encoder as SVG.

    With several device counts, ECG/s is plotted over them, with a curve for each batch size (on the largest number of
    devices). Otherwise it is plotted over batch sizes.
    """
    rows = [row for row in report.rows if "out_of_memory" not in row]
    over, x_name = "batch_size", "batch size"
    if len({row["devices"] for row in rows}) > 1:
        over, x_name = "devices", f"devices ({report.scaling} scaling)"
    curves: dict[str, dict[str, list[dict[str, Any]]]] = {}
    for row in rows:
        name = row["framework"]
        if over == "devices":
            size = row["batch_size"] // (row["devices"] if report.scaling == "weak" else 1)
            name += f", batch {size}" + (" a device" if report.scaling == "weak" else "")
        curves.setdefault(row["what"], {}).setdefault(name, []).append(row)
    names = list(dict.fromkeys(name for by_name in curves.values() for name in by_name))
    styles = {name: f"c{number}" for number, name in enumerate(names)}

    parts, y = [], 0
    for what, by_name in curves.items():
        series = [
            Series(
                name, styles[name], np.array([r[over] for r in some], float), np.array([r["ecg_per_s"] for r in some])
            )
            for name, some in by_name.items()
        ]
        chart = line_chart(f"{what}, ECG/s", series, x_name, "ECG/s", from_zero=True)
        parts.append(f'<text x="60" y="{y + 18}">{escape(what)}</text>')
        parts.append(f'<svg y="{y + 24}" width="{WIDTH}" height="{HEIGHT}">{chart}</svg>')
        y += HEIGHT + 30
    for name in names:
        parts.append(f'<path class="curve {styles[name]}" d="M60 {y + 12}H92"/>')
        parts.append(f'<text x="100" y="{y + 16}">{escape(name)}</text>')
        y += 20
    colours = "".join(
        f"path.{style}{{stroke:{colour}}}circle.{style}{{fill:{colour}}}"
        for style, colour in zip(styles.values(), COLOURS * len(styles), strict=False)
    )
    style = (
        "text{font:13px sans-serif;fill:#444}.middle{text-anchor:middle}.end{text-anchor:end}"
        ".grid{stroke:#ddd;fill:none}.curve{fill:none;stroke-width:2}" + colours
    )
    size = f'viewBox="0 0 {WIDTH} {y + 10}" width="{WIDTH}" height="{y + 10}"'
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" {size}><style>{style}</style>'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )
