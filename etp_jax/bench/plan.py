"""`etp plan`: what the compiler reports of a recipe's step on devices that are not there, and estimates from it.

The JSON has the fields of `etp bench`'s (`run.py`), so that one table can read both; null: not known.
    rows: one row, with what, framework, batch_size, devices, lower_s, compile_s, flops, bytes and memory as there;
        step_s is empty, because nothing was run. If the step does not fit: out_of_memory, batch_size, devices
    plan: the fields of `Plan`, which a JSON of `etp bench` lacks:
    topology, slices, micro_batches, block, records, reports, config (all options)
    quick: compiled without optimising the execution time; cycles and times are then null
    compiler: what the compiler reports, of one chip
        chips, hosts, device, device_bytes (usable memory), precision, per_dispatch, fits
        texts_resident: whether every chip holds the report table; otherwise its rows are sent with the batches
        resident: where the records are kept: always (on every chip), sharded (over all chips), never (on the hosts)
        if it fits: lower_s, compile_s, xla_flops, xla_bytes (of one step; each loop counted once)
            memory: {argument, output, temp, alias, code, peak} in bytes
            program: {cycles (of one step), step_share, collectives: {kind: {number, bytes}}, copies: [{shape, bytes,
                times}], loops: {length: number}}
        otherwise: needed_bytes, message
    others: the same run with another batch, micro-batches or block, compiled for its memory: [{change, fits, bytes}]
    estimate: null if the step does not fit
        peak: {tflops, gb_per_s, source} of one chip; clock_ghz, assumed
        flops, bytes: work of a step on all chips, from the shapes (`flops.py`, as in `etp bench`)
        step_s: {low, low_from, high, high_from}
        ecg_per_s, ecg_per_s_per_chip, epoch_s, cost, records_per_s_per_host, gb_per_s_per_host: [least, most]
        steps_per_epoch, validation_records, validation_s
    warnings: one line each
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from etp_jax import __version__
from etp_jax.bench import topology
from etp_jax.bench.peaks import peak
from etp_jax.bench.plan_compile import compiled
from etp_jax.bench.plan_options import PlanOptions
from etp_jax.bench.run import FORMAT
from etp_jax.config import TrainConfig, to_dict
from etp_jax.errors import EtpError
from etp_jax.files import has_fields, keep_other_kinds, write_text
from etp_jax.losses.pairs import check_loss
from etp_jax.training import saved_step
from etp_jax.training.program import Sizes
from etp_jax.training.room import parts_for, smaller
from etp_jax.training.validation import sample_size

CLOCKS = {"TPU v4": 1.05e9, "TPU v5 lite": 1.5e9, "TPU v5": 1.75e9, "TPU v6 lite": 1.75e9}
"""Assumed clocks in Hz. With them the compiler's cycles of large matrix products come to 70-90 % of the peak."""
LARGE_COPY = 256 * 2**20
"""Bytes of a copy that is warned about."""
MOST_PERMUTES = 16
"""Number of dependent permutes above which their latency is warned about."""


@dataclass(frozen=True)
class Plan:
    """A plan; the fields are those of the JSON."""

    recipe: str
    topology: str
    slices: int
    parallel: str
    batch_size: int
    micro_batches: int
    block: int
    samples: int
    records: int
    reports: int
    tokens: int | None
    quick: bool
    versions: dict[str, str]
    compiler: dict[str, Any]
    others: list[dict[str, Any]]
    config: dict[str, Any]
    estimate: dict[str, Any] | None
    warnings: list[str]

    def save(self, path: Path) -> None:
        """Writes the JSON."""
        found, peaks = self.compiler, self.estimate and self.estimate["peak"]
        row: dict[str, Any] = {"batch_size": self.batch_size, "devices": found["chips"]}
        if found["fits"]:
            named = {name: found[name] for name in ("lower_s", "compile_s", "flops", "bytes", "memory")}
            row = {"what": "train step", "framework": "etp-jax", **row, **named, "step_s": []}
        else:
            row["out_of_memory"] = True
        shared = {
            "format": FORMAT,
            "recipe": self.recipe,
            "device": found["device"],
            "platform": self.topology,
            "devices_at_hand": 0,
            "precision": found["precision"],
            "parallel": self.parallel,
            "samples": self.samples,
            "tokens": self.tokens,
            "scaling": None,
            "peak": peaks or {"tflops": None, "gb_per_s": None, "source": None},
            "rows": [row],
            "input": [],
            "versions": self.versions,
        }
        write_text(path, json.dumps({**shared, "plan": asdict(self)}, indent=1) + "\n")


def make_plan(options: PlanOptions, progress: Callable[[str], None] = lambda _: None) -> Plan:
    """Compiles a recipe's step for a slice, and estimates times from what the compiler reports.

    Args:
      options: options of `etp plan`.
      progress: called with a line before each compilation.

    Raises:
      EtpError: the devices are unknown, their compiler is missing, or an option is impossible.
    """
    config, sizes = options.config, _sizes(options)
    topology.platform(options.topology)
    check_loss(config.loss)
    for path in filter(None, (options.save, options.json)):
        if not path.absolute().parent.is_dir():
            raise EtpError(f"{path}: the folder {path.parent} does not exist")
    if options.json is not None:
        keep_other_kinds(options.json, "a plan", has_fields("format", "rows", "plan"))
    if options.save is not None:
        keep_other_kinds(options.save, "a compiled step", saved_step.is_saved_step)
        saved_step.check_options(config)
        if options.quick:
            raise EtpError("--save with --quick would save a step that is not optimised; use one of them")

    def compile_for(config: TrainConfig, quick: bool, what: str, save: Path | None = None) -> dict[str, Any]:
        progress(f"compiling {options.recipe}, {what}, for {options.topology}{' (memory only)' if quick else ''} ...")
        request = {
            "topology": options.topology,
            "slices": options.slices,
            "quick": quick,
            "save": save and str(save.absolute()),
        }
        return compiled({**request, "config": to_dict(config), "sizes": asdict(sizes)})

    found = compile_for(config, options.quick, f"batch {config.data.batch_size}", options.save)
    changes = larger_and_smaller(config, found["chips"], sizes.records) if found["fits"] else may_fit(config, found)
    others = []
    for change, changed in changes if options.others else ():
        other = compile_for(changed, True, change)
        others.append({"change": change, "fits": other["fits"], "bytes": needed_bytes(other)})
    estimate = estimated(found, options, sizes) if found["fits"] else None
    return Plan(
        recipe=options.recipe,
        topology=options.topology,
        slices=options.slices,
        parallel=config.run.parallel,
        batch_size=config.data.batch_size,
        micro_batches=config.optim.micro_batches,
        block=config.loss.block,
        samples=sizes.samples,
        records=sizes.records,
        reports=sizes.reports,
        tokens=None if config.model.text.frozen else sizes.tokens,
        quick=options.quick,
        versions={"etp-jax": __version__, **found.pop("versions")},
        compiler=found,
        others=others,
        config=to_dict(config),
        estimate=estimate,
        warnings=warnings(found, estimate, config) if found["fits"] else [],
    )


def _sizes(options: PlanOptions) -> Sizes:
    """Returns the sizes of the data; raises EtpError for one that is impossible."""
    for name, least in {
        "samples": 1,
        "records": 1,
        "tokens": 1,
        "reports": 0,
        "validation": 0,
        "slices": 1,
        "fs": 0,
    }.items():
        if getattr(options, name) < least:
            raise EtpError(f"--{name} is {getattr(options, name)}; it must be at least {least}")
    if options.price < 0 or options.clock_ghz < 0:
        raise EtpError("--price and --clock-ghz must not be negative")
    return Sizes(options.samples, options.records, options.reports or options.records, options.tokens, options.fs)


def needed_bytes(found: dict[str, Any]) -> int | None:
    """Returns the bytes of a chip that a program needs, as the compiler reports them."""
    return found["memory"]["peak"] if found["fits"] else found["needed_bytes"]


def larger_and_smaller(config: TrainConfig, chips: int, records: int) -> list[tuple[str, TrainConfig]]:
    """Lists the next larger and smaller batch whose rows on a chip are a power of two."""
    rows = config.data.batch_size // chips
    below = 1 << max(rows - 1, 0).bit_length() >> 1
    sizes = [1 << rows.bit_length(), *([below] if below else [])]
    return [with_batch(config, size * chips) for size in sizes if size * chips <= records]


def may_fit(config: TrainConfig, refused: dict[str, Any]) -> list[tuple[str, TrainConfig]]:
    """Lists runs that may fit where a step does not, from the bytes that it needs."""
    parts = parts_for((refused["needed_bytes"] or 0) / (refused["device_bytes"] or math.inf))
    changes = smaller(config, refused["chips"], parts) | smaller(config, refused["chips"], 2 * parts)
    return list(changes.items())


def with_batch(config: TrainConfig, batch_size: int) -> tuple[str, TrainConfig]:
    """Returns the option and the config of a run with another batch."""
    return f"--data.batch-size {batch_size}", replace(config, data=replace(config.data, batch_size=batch_size))


def estimated(found: dict[str, Any], options: PlanOptions, sizes: Sizes) -> dict[str, Any]:
    """Estimates times, rates and cost of a step that fits."""
    batch, chips, hosts = options.config.data.batch_size, found["chips"], found["hosts"]
    best = peak(found["device"], found["precision"])
    clock = options.clock_ghz * 1e9 or CLOCKS.get(found["device"])
    step = step_range(found, best.flops, best.bandwidth, None if options.quick else clock)
    least, most = step["low"], step["high"]
    steps = sizes.records // batch
    rates = [None if s is None else batch / s for s in (most, least)]
    epoch = [None if s is None else steps * s for s in (least, most)]

    def each(values: list[float | None], factor: float) -> list[float | None]:
        return [None if value is None else value * factor for value in values]

    # A validation encodes whole batches, a third of a step's work each, and compares each record with all.
    between = max(1, round(options.config.run.validate_every * steps)) * batch
    records = sample_size(options.config.run, options.validation or sizes.records // 10, between)
    encoding = None if least is None else math.ceil(records / batch) * least / 3
    ranking = 4 * records**2 * options.config.model.embedding_dim / (chips * best.flops) if best.flops else 0
    return {
        "peak": {
            "tflops": best.flops and best.flops / 1e12,
            "gb_per_s": best.bandwidth and best.bandwidth / 1e9,
            "source": best.source,
        },
        "clock_ghz": clock and clock / 1e9,
        "flops": found["flops"],
        "bytes": found["bytes"],
        "step_s": step,
        "ecg_per_s": rates,
        "ecg_per_s_per_chip": each(rates, 1 / chips),
        "steps_per_epoch": steps,
        "epoch_s": epoch,
        "cost": each(epoch, chips * options.price / 3600) if options.price else None,
        "records_per_s_per_host": each(rates, 1 / hosts),
        "gb_per_s_per_host": each(rates, sizes.record_bytes / hosts / 1e9),
        "validation_records": records,
        "validation_s": encoding and encoding + ranking,
    }


def step_range(
    found: dict[str, Any], flops: float | None, bandwidth: float | None, clock: float | None
) -> dict[str, Any]:
    """Estimates the time of a step by work at peak and by the compiler's cycles; the smaller of both is the low end.

    Usually that is the work. But the compiler's bytes include those of on-chip memory, which is faster than the peak of
    the main memory, so they may take longer than its cycles.

    Args:
      found: result of `compiled`.
      flops: peak FLOPs per second of a chip; None: not known.
      bandwidth: peak bytes per second of a chip; None: not known.
      clock: cycles per second; None: no upper bound.
    """
    lower = {}
    if flops:
        lower["FLOPs of the shapes at peak"] = found["flops"] / found["chips"] / flops
    if bandwidth and found["xla_bytes"]:
        lower["the compiler's bytes at peak"] = found["xla_bytes"] / bandwidth
    work = max(((seconds, name) for name, seconds in lower.items()), default=(None, None))
    cycles: tuple[float | None, str | None] = None, None
    if clock and found["program"]["cycles"]:
        name = f"the compiler's cycles at {clock / 1e9:g} GHz, assumed; no collectives"
        cycles = found["program"]["cycles"] / clock, name
    ends = [work, cycles]
    if work[0] is not None and cycles[0] is not None and cycles[0] < work[0]:
        ends.reverse()
    (low, low_from), (high, high_from) = ends
    return {"low": low, "low_from": low_from, "high": high, "high_from": high_from}


def warnings(found: dict[str, Any], estimate: dict[str, Any] | None, config: TrainConfig) -> list[str]:
    """Lists what makes a step slower than it need be, one line each."""
    program, lines = found["program"], []
    for copy in program["copies"]:
        if copy["bytes"] >= LARGE_COPY:
            size = f"{copy['bytes'] / 2**20:,.0f} MiB"
            lines.append(f"copy of {copy['shape']}, {size}, {copy['times']} time(s) a dispatch")
    for rows, number in example_loops(found, config).items():
        lines.append(f"{number} loop(s) over the examples, one turn for each of {rows} rows of a chip")
    permutes = program["collectives"].get("collective-permute", {"number": 0})["number"]
    if permutes > MOST_PERMUTES:
        lines.append(f"{permutes} permutes one after another: their latency limits the step, not the bandwidth")
    epoch: float | None = estimate["epoch_s"][0] if estimate else None
    if estimate and epoch and estimate["validation_s"] > epoch * config.run.validate_every:
        lines.append(
            f"a validation of {estimate['validation_records']:,} records takes about {estimate['validation_s']:.2f} s, "
            f"longer than the {epoch * config.run.validate_every:.2f} s of training before it (estimates); "
            "raise --run.validate-every or lower --run.validation-records"
        )
    return lines


def example_loops(found: dict[str, Any], config: TrainConfig) -> dict[int, int]:
    """Finds the loops with one turn for each example of a chip, or of a micro-batch; returns length: number."""
    rows = config.data.batch_size // found["chips"]
    lengths = {rows, rows // config.optim.micro_batches} - {config.optim.micro_batches, 1}
    return {int(trips): count for trips, count in found["program"]["loops"].items() if int(trips) in lengths}
