"""Measures on one accelerator all that the goals of results/throughput.md name, in about a quarter of an hour.

    python studies/accelerator.py --out FOLDER            # on a machine with one NVIDIA H200; PyTorch beside it
    python studies/accelerator.py --out FOLDER --check    # the same commands at tiny sizes, on any machine

Every part is a command of `etp` with a limit of its own. One that fails or runs too long leaves a row that says so, and
the others go on. The shards are made up, with as many records as PTB-XL has. FOLDER gets a log and the JSON of each
command, `accelerator.json` with all figures, and `accelerator.md` with the goals.
"""

from __future__ import annotations

import argparse
import json
import statistics
import string
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import serialization

from etp_jax.models.bert import Bert, BertConfig

TOWER = "tower"
"""Folder of the frozen text tower. Its outputs are computed before the first step, so its weights are random."""
Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class Part:
    """A command, and the figures that are read from what it wrote."""

    name: str
    command: str
    """Arguments of `etp`. It runs in FOLDER, where the file or folder that it writes has the name of the part."""
    seconds: int
    """Limit of its time."""
    read: Callable[[Path], dict[str, Any]] | None = None
    """Reads the figures from that file or folder."""


@dataclass(frozen=True)
class Sizes:
    """Sizes of the measurements: those of the goals, or tiny ones."""

    batch: int = 1024
    usual_batch: int = 512
    batches: str = "512 1024 4096"
    long: int = 5000
    short: int = 1000
    records: int = 21_799
    """All records of PTB-XL, of which folds 1 to 8 train."""
    long_records: int = 10_240
    """Records of 12×5000, of which eight in ten train: eight batches of 1,024 an epoch."""
    steps: int = 60
    epochs: int = 50
    etp: str = "--config etp"
    """Recipe of the run with a trained text tower."""
    model: str = ""
    """Options of every model."""
    patience: int = 1
    """Factor of all limits."""


TINY = Sizes(
    batch=4,
    usual_batch=4,
    batches="2 4",
    long=200,
    short=200,
    records=120,
    long_records=100,
    steps=4,
    epochs=1,
    etp="--config etp --model.text.pretrained None",
    model="--model.ecg.blocks 1 1 1 1 --model.ecg.width 8 --model.embedding-dim 16",
    patience=10,
)


def bench(path: Path) -> dict[str, Any]:
    """Figures of each row of `etp bench --json`."""
    rows = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["rows"]
    kept = ("what", "framework", "batch_size", "ecg_per_s", "mfu", "of_roof", "time_of_ours", "out_of_memory")
    found = [{name: row[name] for name in kept if name in row} for row in rows]
    for row, short in zip(rows, found, strict=True):
        if "step_s" in row:
            short["step_ms"] = 1000 * statistics.median(row["step_s"])
    return {"rows": found}


def plan(path: Path) -> dict[str, Any]:
    """The range of `etp plan --json` for a step, in milliseconds."""
    estimate = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["plan"]["estimate"]
    step: dict[str, float | None] = estimate["step_s"] if estimate else {}
    ends = {end: step.get(end) for end in ("low", "high")}
    return {f"{end}_ms": None if seconds is None else 1000 * seconds for end, seconds in ends.items()}


def training(path: Path) -> dict[str, Any]:
    """Speed of a run, from its metrics without the first line, in which programs are compiled."""
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    logged = [line for line in lines if line["kind"] == "train"][1:]
    return {
        "ecg_per_s": statistics.median(line["ecg_per_s"] for line in logged),
        "wait_share": statistics.fmean(line["wait_share"] for line in logged),
        "loss": logged[-1]["loss"],
    }


def parts(sizes: Sizes, topology: str, compare: bool) -> list[Part]:
    """All commands in their order: those whose figures matter most come first."""
    torch = "--compare torch" if compare else ""

    def bench_part(name: str, options: str, seconds: int) -> Part:
        command = f"bench {options} {sizes.model} --repeats 3 --json {name}.json"
        return Part(name, command, seconds, bench)

    def prep_part(name: str, records: int, rate: int) -> Part:
        return Part(name, f"prep synthetic --out {name} --records {records} --rate {rate}", 150)

    def train_part(name: str, shards: str, options: str, seconds: int) -> Part:
        run = f"train --config mets --model.text.pretrained {TOWER} --data.shards {shards} --workdir {name}"
        return Part(name, f"{run} --run.log-every 1 {options} {sizes.model}", seconds, training)

    def plan_part(name: str, samples: int) -> Part:
        sized = f"--samples {samples} --data.batch-size {sizes.batch} --data.resident never"
        return Part(name, f"plan --topology {topology} {sized} {sizes.model} --no-others --json {name}.json", 90, plan)

    some = f"--data.batch-size {sizes.batch} --max-steps {sizes.steps} --data.resident"
    exact = f"--samples {sizes.short} --data.batch-size {sizes.batch} --run.deterministic"
    attention = f"--data.batch-size {sizes.usual_batch} --model.text.fused-attention --model.text.dropout 0"
    measured = [
        bench_part("mets-5000", f"--samples {sizes.long} --data.batch-size {sizes.batch} {torch}", 150),
        bench_part("mets-1000", f"--samples {sizes.short} --batch-sizes {sizes.batches} {torch}", 180),
        bench_part("etp", f"{sizes.etp} {attention}", 120),
        bench_part("deterministic", exact, 60),
        prep_part("shards-100", sizes.records, 100),
        train_part(
            "pre-training",
            "shards-100",
            f"--data.batch-size {sizes.usual_batch} --optim.epochs {sizes.epochs}",
            180,
        ),
        prep_part("shards-500", sizes.long_records, 500),
        train_part("resident-5000", "shards-500", f"{some} always", 60),
        train_part("streamed-5000", "shards-500", f"{some} never", 60),
        train_part("resident-1000", "shards-100", f"{some} always", 60),
        train_part("streamed-1000", "shards-100", f"{some} never", 60),
    ]
    planned = [plan_part("plan-mets-5000", sizes.long), plan_part("plan-mets-1000", sizes.short)] if topology else []
    return [replace(part, seconds=part.seconds * sizes.patience) for part in measured + planned]


def write_tower(folder: Path) -> None:
    """Writes a BERT of ClinicalBERT's size with random weights, and a vocabulary of letters."""
    marks, letters = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"], list(string.ascii_lowercase + string.digits)
    vocabulary = [*marks, *letters, *(f"##{letter}" for letter in letters)]
    config = BertConfig(len(vocabulary), 768, 12, 12, 3072)
    ids, rng = np.zeros((1, 2), np.int32), np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: Bert(config).init(jax.random.key(0), ids, ids)["params"])
    params = jax.tree.map(lambda of: 0.02 * rng.standard_normal(of.shape, np.float32), shapes)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "flax_model.msgpack").write_bytes(serialization.msgpack_serialize(params))
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n", encoding="utf-8")
    about = {name: value for name, value in asdict(config).items() if name != "dropout"}
    (folder / "config.json").write_text(json.dumps({"model_type": "bert", **about}), encoding="utf-8")


def run(part: Part, folder: Path, until: float) -> dict[str, Any]:
    """Runs a command within its limit and the time that is left; its figures, or why there are none."""
    row: dict[str, Any] = {"name": part.name, "command": " ".join(f"etp {part.command}".split())}
    started, log = time.monotonic(), folder / f"{part.name}.log"
    limit = min(part.seconds, until - started)
    if limit < 5:
        return row | {"failed": "no time was left"}
    with log.open("wb") as output:
        command = [sys.executable, "-m", "etp_jax", *part.command.split()]
        try:
            done = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT, timeout=limit)
        except subprocess.TimeoutExpired:
            return row | {"failed": f"stopped after {limit:.0f} s"}
    row["seconds"] = round(time.monotonic() - started, 1)
    if done.returncode:
        last = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-1:]
        return row | {"failed": f"exit status {done.returncode}: {' '.join(last)}"}
    return row | (part.read(folder / part.name) if part.read else {})


def goals(rows: Rows, batch: int) -> list[tuple[str, str, str]]:
    """Each goal of results/throughput.md with what was measured, and whether it is met."""
    named = {row["name"]: row for row in rows}

    def step(name: str, framework: str = "etp-jax", size: int | None = None) -> dict[str, Any]:
        """The fastest training step of a benchmark, by framework and batch."""
        found = [row for row in named.get(name, {}).get("rows", ()) if row["what"] == "train step" and "step_ms" in row]
        found = [row for row in found if row["framework"] == framework and size in (None, row["batch_size"])]
        return max(found, key=lambda row: row["ecg_per_s"], default={})

    def judged(goal: str, value: float | None, least: float, unit: str, most: bool = False) -> tuple[str, str, str]:
        if value is None:
            return goal, "not measured", ""
        return goal, f"{value:,.4g}{unit}", "met" if (value <= least if most else value >= least) else "**not met**"

    def compiled(name: str) -> tuple[str, str, str]:
        ratio = step(name, "torch compiled", batch).get("time_of_ours")
        return judged(f"{name}: ≥ 2 times the speed of torch.compile", ratio and 1 / ratio, 2, " times")

    def in_range(name: str) -> tuple[str, str, str]:
        goal, planned = f"{name}: the step is in the range of `etp plan`", named.get(f"plan-{name}", {})
        low, high, measured = planned.get("low_ms"), planned.get("high_ms"), step(name, size=batch).get("step_ms")
        if low is None or measured is None:
            return goal, "not measured", ""
        inside = low <= measured and (high is None or measured <= high)
        ends = f"{low:.3g} to {high:.3g} ms" if high else f"at least {low:.3g} ms"
        return goal, f"{measured:.3g} ms; planned {ends}", "met" if inside else "**not met**"

    usual, exact = step("mets-1000", size=batch).get("step_ms"), step("deterministic").get("step_ms")
    whole, utilisation = named.get("pre-training", {}), step("etp").get("mfu")
    return [
        judged("mets-5000: ≥ 25,000 ECG/s", step("mets-5000").get("ecg_per_s"), 25_000, " ECG/s"),
        compiled("mets-5000"),
        judged("mets-1000: ≥ 120,000 ECG/s", step("mets-1000").get("ecg_per_s"), 120_000, " ECG/s"),
        compiled("mets-1000"),
        judged("etp: ≥ 45 % MFU", utilisation and 100 * utilisation, 45, " %"),
        judged("pre-training: ≤ 60 s, from start to exit", whole.get("loss") and whole["seconds"], 60, " s", most=True),
        (
            "deterministic: time added to a step of mets-1000",
            f"{100 * (exact / usual - 1):.1f} %" if usual and exact else "not measured",
            "",
        ),
        in_range("mets-5000"),
        in_range("mets-1000"),
    ]


def page(rows: Rows, sizes: Sizes, device: str) -> str:
    """The goals and the figures of each command, as Markdown."""
    title = f"# Tiny sizes on {device}, not the goals'" if sizes is TINY else f"# Measured on {device}"
    lines = [title, "", "| goal | measured | |", "|---|---|---|"]
    lines += [f"| {goal} | {value} | {verdict} |" for goal, value, verdict in goals(rows, sizes.batch)]
    lines += ["", "| benchmark | framework | batch | ms | ECG/s | our time over it |", "|---|---|---|---|---|---|"]
    for row in rows:
        for part in row.get("rows", ()):
            if "out_of_memory" in part:
                lines.append(f"| {row['name']} | out of memory | {part['batch_size']:,} | | | |")
                continue
            ratio = part.get("time_of_ours")
            speed = f"{part['step_ms']:.3g} | {part['ecg_per_s']:,.0f} | {f'{ratio:.2f}' if ratio else ''}"
            lines.append(f"| {row['name']}, {part['what']} | {part['framework']} | {part['batch_size']:,} | {speed} |")
    lines += ["", "| training | ECG/s | share of time waiting for data | seconds in all |", "|---|---|---|---|"]
    lines += [
        f"| {row['name']} | {row['ecg_per_s']:,.0f} | {row['wait_share']:.1%} | {row['seconds']:.0f} |"
        for row in rows
        if "wait_share" in row
    ]
    lines += ["", "| command | result |", "|---|---|"]
    lines += [f"| `{row['command']}` | {row.get('failed') or str(row['seconds']) + ' s'} |" for row in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Runs all parts; the figures are written after each, so that those measured are kept if the time ends."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for logs and figures")
    parser.add_argument("--seconds", type=float, default=840, help="for all commands together")
    parser.add_argument("--topology", default="h200:1x1x1", help="the same device for `etp plan`; empty: no plan")
    parser.add_argument("--no-torch", action="store_true", help="without the comparison with PyTorch")
    parser.add_argument("--check", action="store_true", help="tiny sizes, to check the commands on any machine")
    args = parser.parse_args()
    sizes, until, rows = TINY if args.check else Sizes(), time.monotonic() + args.seconds, []
    write_tower(args.out / TOWER)
    device = "an unknown device"
    for part in parts(sizes, args.topology, not args.no_torch):
        rows.append(run(part, args.out, until))
        print(json.dumps(rows[-1]), flush=True)
        if part.read is bench and "failed" not in rows[-1]:
            device = json.loads((args.out / f"{part.name}.json").read_text(encoding="utf-8"))["device"]
        figures = {"device": device, "rows": rows}
        (args.out / "accelerator.json").write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
        (args.out / "accelerator.md").write_text(page(rows, sizes, device), encoding="utf-8")


if __name__ == "__main__":
    main()
