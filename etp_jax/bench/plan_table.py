"""Text of a plan. What the compiler reports and what is estimated are in sections of their own."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from etp_jax.bench.plan import Plan, needed_bytes
from etp_jax.ecg.leads import LEADS

MIB, GIB = 2**20, 2**30
COPIES_FROM = 64 * MIB
"""Bytes from which copies are shown."""
RESIDENCIES = {
    "always": "resident on every chip",
    "sharded": "resident, sharded over all chips",
    "never": "read by the hosts",
}
MEMORY = (
    ("argument", "arguments (state, batch, tables)"),
    ("output", "outputs"),
    ("alias", "outputs in the place of arguments"),
    ("temp", "temporaries"),
    ("code", "code"),
)
"""Kinds of memory with their meaning."""


def table(plan: Plan) -> str:
    """Formats a plan as text."""
    found, tokens = plan.compiler, "" if plan.tokens is None else f" of {plan.tokens} tokens"
    rows = plan.batch_size // found["chips"]
    lines = [
        f"{plan.recipe} on {'' if plan.slices == 1 else f'{plan.slices} x '}{plan.topology}: {found['chips']} x "
        f"{found['device']} of {found['hosts']} host(s)",
        f"  batch {plan.batch_size:,} ({rows} a chip, {plan.micro_batches} micro-batch(es), "
        f"{f'loss in blocks of {plan.block}' if plan.block else 'dense loss'}), ECGs of {len(LEADS)} x {plan.samples}, "
        f"{found['precision']}, {plan.parallel}",
        f"  {plan.records:,} records, {plan.reports:,} reports{tokens}"
        f"{'' if found['texts_resident'] else ' (sent with the batches)'}; {RESIDENCIES[found['resident']]}, "
        f"{found['per_dispatch']} step(s) a dispatch",
        "",
        f"reported by the compiler ({', '.join(map(' '.join, plan.versions.items()))}); nothing was run",
        *(_compiled(plan) if found["fits"] else _refused(found)),
    ]
    for other in plan.others:
        lines.append(f"  with {other['change']}: {_verdict(other['fits'], other['bytes'], found['device_bytes'])}")
    if plan.estimate is not None:
        lines += ["", "estimated from it", *_estimated(plan, plan.estimate)]
    lines += ["", *[f"warning: {line}" for line in plan.warnings]] if plan.warnings else []
    return "\n".join(lines)


def _verdict(fits: bool, needed: int | None, limit: int | None) -> str:
    of = "" if limit is None else f" of {limit / GIB:.2f}"
    size = "" if needed is None else f", {needed / GIB:.2f}{of} GiB a chip"
    return ("fits" if fits else "does not fit") + size


def _refused(found: dict[str, Any]) -> list[str]:
    return [f"  {_verdict(False, needed_bytes(found), found['device_bytes'])}", f"  {found['message']}"]


def _compiled(plan: Plan) -> list[str]:
    """Describes memory, collectives, copies and compilation."""
    found, program = plan.compiler, plan.compiler["program"]
    lines = [f"  {_verdict(True, needed_bytes(found), found['device_bytes'])} at the peak"]
    for name, meaning in MEMORY:
        lines.append(f"    {meaning:<34} {found['memory'][name] / GIB:8.3f} GiB")
    for kind, count in program["collectives"].items():
        lines.append(f"  {kind}: {count['number']} a step, {count['bytes'] / MIB:,.2f} MiB in all")
    copies = [copy for copy in program["copies"] if copy["bytes"] >= COPIES_FROM]
    lines.append(f"  copies of more than {COPIES_FROM // MIB} MiB: {len(copies) or 'none'}")
    how = ", without optimising the execution time" if plan.quick else ""
    lines.append(f"  lowering {found['lower_s']:.0f} s, compilation {found['compile_s']:.0f} s on this machine{how}")
    return lines


def _estimated(plan: Plan, estimate: dict[str, Any]) -> list[str]:
    """Describes step time, rates, the epoch and what the readers must deliver."""
    step = estimate["step_s"]
    milliseconds = [None if s is None else 1000 * s for s in (step["low"], step["high"])]
    lines = [f"  step: {_range(milliseconds, ',.1f')} ms"]
    lines += [f"    least: {step['low_from']}"] if step["low_from"] else []
    lines += [f"    most: {step['high_from']}"] if step["high_from"] else ["    most: not known"]
    lines += [f"    peak: {estimate['peak']['source']}"] if step["low_from"] else []
    lines += [
        f"  ECG/s: {_range(estimate['ecg_per_s'], ',.0f')} in all, "
        f"{_range(estimate['ecg_per_s_per_chip'], ',.0f')} a chip",
        f"  epoch of {plan.records:,} records: {estimate['steps_per_epoch']:,} steps, "
        f"{_range(estimate['epoch_s'], ',.2f')} s"
        + ("" if estimate["cost"] is None else f", cost {_range(estimate['cost'], ',.4f')}"),
    ]
    if plan.compiler["resident"] == "never":
        lines.append(
            f"  each host's reader: {_range(estimate['records_per_s_per_host'], ',.0f')} records/s, "
            f"{_range(estimate['gb_per_s_per_host'], ',.2f')} GB/s (`etp bench --data.shards` measures one)"
        )
    return lines


def _range(values: Sequence[float | None], style: str) -> str:
    """Formats a range; where a bound is not known, the other one is named as such."""
    least, most = (None if value is None else format(value, style) for value in values)
    if least is None or most is None:
        return f"at least {least}" if least else f"at most {most}" if most else "not known"
    return f"{least} to {most}"
