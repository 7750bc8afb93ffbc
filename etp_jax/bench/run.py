"""`etp bench`: throughput of training step, encoder and reader on the available devices, optionally next to PyTorch.

Contenders alternate: in every round each of them runs a block of steps, so that other load on the machine affects all
of them equally. Ratios are paired by round.

The JSON, format 1 (null: not known, or not reported by the platform):
    format, recipe, device, platform, devices_at_hand, precision, parallel, samples, tokens, scaling, versions
    peak: {tflops, gb_per_s, source} of one device
    rows: one for each contender, batch size and device count
        what ("train step" or "encoder"), framework, batch_size (over all devices), devices
        lower_s, compile_s (with a compilation cache: the time to read it), first_step_s (after compilation)
        step_s: seconds per step, one figure per round; ecg_per_s, ecg_per_s_per_device: from their median
        time_of_ours: our time over this contender's, median over the rounds
        flops, bytes: work of a step on all devices, from the shapes (`flops.py`); intensity: flops / bytes
        mfu, limit, of_roof: results of `peaks.against_peak`
        memory: {argument, output, temp, alias}, XLA's bytes per device; peak_bytes: most in use on a device so far
        out_of_memory: true in a row with no other fields than batch_size and devices
    input: {cache ("cold" or "warm"), threads, records, samples, batch_size, records_per_s}
        plain: {records_per_s, ratio} of bare system calls in the same rounds; ratio: our rate over theirs. Cold: null
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np

from etp_jax import __version__
from etp_jax.bench.flops import Step
from etp_jax.bench.options import BenchOptions
from etp_jax.bench.peaks import Peak, against_peak, peak
from etp_jax.bench.reader import read
from etp_jax.bench.steps import TOKENS, Contender, made_up, ours
from etp_jax.errors import EtpError
from etp_jax.files import begins, has_fields, keep_other_kinds, write_text
from etp_jax.losses.pairs import check_loss
from etp_jax.shards.reader import Shards
from etp_jax.training import build
from etp_jax.training.program import text_tower

FORMAT = 1
BLOCK_S = 1.0
"""Approximate duration of a block, in seconds."""
TRACED_STEPS = 3
"""Number of training steps in a profile."""


@dataclass(frozen=True)
class Report:
    """All measurements of a run of `etp bench`; the fields are those of the JSON."""

    recipe: str
    device: str
    platform: str
    devices_at_hand: int
    precision: str
    parallel: str
    samples: int
    tokens: int | None
    scaling: str | None
    peak: dict[str, Any]
    rows: list[dict[str, Any]]
    input: list[dict[str, Any]]
    versions: dict[str, str]

    def save(self, path: Path) -> None:
        """Writes the JSON."""
        write_text(path, json.dumps({"format": FORMAT, **asdict(self)}, indent=1) + "\n")


def measure(options: BenchOptions) -> Report:
    """Measures a recipe on synthetic ECGs and, if it names shards, the reader on them.

    Raises:
      EtpError: a batch is not a multiple of the number of devices; more devices are requested than exist; a file cannot
        be written; or `compare` is given without torch, or for a recipe that the PyTorch model does not cover.
    """
    config = options.config
    _check(options)
    device = jax.devices()[0]
    dtype = build.set_precision(config.run.precision, device.platform)
    best = peak(device.device_kind, dtype.name, options.peak_tflops, options.peak_gb_per_s)
    batch_sizes = options.batch_sizes or (config.data.batch_size,)
    points = grid(batch_sizes, options.device_counts or (jax.device_count(),), options.scaling)
    rows = []
    for number, (batch_size, count) in enumerate(points):
        devices = jax.devices() if count == jax.device_count() else jax.local_devices()[:count]
        sized = replace(options, config=replace(config, data=replace(config.data, batch_size=batch_size)))
        rows += _measure(sized if number == 0 else replace(sized, trace=None), devices, best)
    return Report(
        recipe=options.recipe,
        device=device.device_kind,
        platform=device.client.platform_version,
        devices_at_hand=jax.device_count(),
        precision=dtype.name,
        parallel=config.run.parallel,
        samples=options.samples,
        tokens=None if config.model.text.frozen else TOKENS,
        scaling=options.scaling if len(set(options.device_counts)) > 1 else None,
        peak={
            "tflops": best.flops and best.flops / 1e12,
            "gb_per_s": best.bandwidth and best.bandwidth / 1e9,
            "source": best.source,
        },
        rows=rows,
        input=read(config, options.repeats) if config.data.shards else [],
        versions=_versions(options.compare),
    )


def _check(options: BenchOptions) -> None:
    """Raises EtpError for a mistake that would otherwise be found only after the measurements."""
    check_loss(options.config.loss)
    if options.config.data.shards:
        Shards(options.config.data.shards)
    if options.json is not None:
        keep_other_kinds(options.json, "a benchmark", has_fields("format", "rows"))
    if options.plot is not None:
        keep_other_kinds(options.plot, "a plot", begins(b"<svg"))
    if options.trace is not None and options.trace.is_file():
        raise EtpError(f"{options.trace}: is a file; name a folder for the profile")
    for path in filter(None, (options.json, options.plot)):
        path.parent.mkdir(parents=True, exist_ok=True)


def grid(batch_sizes: Sequence[int], device_counts: Sequence[int], scaling: str) -> list[tuple[int, int]]:
    """Lists the (global batch size, devices) to measure; `batch_sizes` are those on the largest number of devices."""
    most = max(device_counts)
    if most > jax.device_count() or min(device_counts) < 1:
        raise EtpError(f"--device-counts {most}: this machine has {jax.device_count()} devices")
    points = []
    for count in device_counts:
        for size in batch_sizes:
            if size < 1 or size % most:
                raise EtpError(f"batch size {size} is not a multiple of the {most} devices")
            points.append((size if scaling == "strong" else size // most * count, count))
    return points


def _measure(options: BenchOptions, devices: Sequence[Any], best: Peak) -> list[dict[str, Any]]:
    """Measures the rows of one batch size, that of the config, and one device count."""
    config, samples = options.config, options.samples
    point = {"batch_size": config.data.batch_size, "devices": len(devices)}
    try:
        if options.compare == "torch":
            from etp_jax.bench import torch_reference

            torch_reference.check(config, devices)
        contenders, work = ours(config, samples, devices)
        if options.compare == "torch":
            contenders += torch_reference.contenders(config, made_up(config, samples), text_tower(config).hidden_size)
        rows = [
            row | point | _rates(row["step_s"], point, work[row["what"]], best)
            for row in _time(contenders, options.repeats, devices)
        ]
        if options.trace is not None:
            _trace(contenders[0], options.trace)
        return rows
    except (jax.errors.JaxRuntimeError, MemoryError) as error:
        if not isinstance(error, MemoryError) and "RESOURCE_EXHAUSTED" not in str(error):
            raise
        return [point | {"out_of_memory": True}]


def _time(contenders: Sequence[Contender], repeats: int, devices: Sequence[Any]) -> list[dict[str, Any]]:
    """Times the contenders; the third step of each sets the number of steps in its blocks."""
    rows, counts = [], []
    for contender in contenders:
        first_s = _seconds(contender, 1)
        contender.steps(1)
        counts.append(max(1, round(BLOCK_S / _seconds(contender, 1))))
        rows.append(
            {
                "what": contender.what,
                "framework": contender.framework,
                "lower_s": contender.lower_s and round(contender.lower_s, 3),
                "compile_s": contender.compile_s and round(contender.compile_s, 3),
                "first_step_s": round(first_s, 3),
                "memory": contender.memory,
                "peak_bytes": _peak_bytes(devices) if contender.framework == "etp-jax" else None,
            }
        )
    rounds = [
        [_block(contender, count) / count for contender, count in zip(contenders, counts, strict=True)]
        for _ in range(repeats)
    ]
    for number, row in enumerate(rows):
        ours_at = next(i for i, other in enumerate(rows) if other["what"] == row["what"])
        row["step_s"] = [round(times[number], 6) for times in rounds]
        row["time_of_ours"] = round(statistics.median(times[ours_at] / times[number] for times in rounds), 3)
    return rows


def _rates(step_s: Sequence[float], point: dict[str, int], work: Step, best: Peak) -> dict[str, Any]:
    median = statistics.median(step_s)
    rate = point["batch_size"] / median
    return {
        "ecg_per_s": round(rate, 1),
        "ecg_per_s_per_device": round(rate / point["devices"], 1),
        "flops": work.flops,
        "bytes": work.bytes,
        "intensity": round(work.flops / work.bytes, 1),
        **against_peak(work, median, point["devices"], best),
    }


def _block(contender: Contender, count: int) -> float:
    """Returns the duration of some steps, after one that is not timed.

    The first step after another framework's block waits for memory that the other has released. On a CPU it took a
    quarter longer, which a training in one framework does not see.
    """
    contender.steps(1)
    return _seconds(contender, count)


def _seconds(contender: Contender, count: int) -> float:
    started = time.perf_counter()
    contender.steps(count)
    return time.perf_counter() - started


def _peak_bytes(devices: Sequence[Any]) -> int | None:
    """Returns the most bytes in use on any device since the program began; None where devices do not report it."""
    stats = [device.memory_stats() or {} for device in devices]
    return max((each["peak_bytes_in_use"] for each in stats if "peak_bytes_in_use" in each), default=None)


def _trace(contender: Contender, folder: Path) -> None:
    """Profiles a few steps; TensorBoard, XProf and Perfetto read the folder."""
    with jax.profiler.trace(folder):
        for number in range(TRACED_STEPS):
            with jax.profiler.StepTraceAnnotation(contender.what, step_num=number):
                contender.steps(1)


def _versions(compare: Literal["torch"] | None) -> dict[str, str]:
    versions = {"etp-jax": __version__, "jax": jax.__version__, "numpy": np.__version__}
    if compare == "torch":
        import torch  # pyright: ignore[reportMissingImports]

        versions["torch"] = torch.__version__
    return versions
