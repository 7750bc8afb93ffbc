"""What XLA's compiler says of a training step on TPUs that are not there: memory, loops, copies, cycles, bytes.

Nothing is run, and no TPU is needed, only libtpu (`pip install "jax[tpu]"`). For example, the recipe `ptbxl` with 256
ECGs of 10 s at 100 Hz on one v5e chip, and METS with 200,000 resident records and several steps a dispatch:

    python studies/compiled.py step ptbxl 256 1000 --chips 1
    python studies/compiled.py step mets 2048 1000 --topology v5e:2x4 --resident 200000 --steps 10
    python studies/compiled.py gather 2048 5000 --topology v5e:2x4 --resident 60000 --steps 10
    python studies/compiled.py loss 65536 --topology v5e:16x16 --block 8192 [--ring]
    python studies/compiled.py ranks 20000

JAX_EXEC_TIME_OPTIMIZATION_EFFORT=-1 makes compilation several times shorter; the memory is the same, the cycles are
then useless. Cycles are the compiler's estimate, without collectives, and high for operations bound by memory.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

os.environ |= {"JAX_PLATFORMS": "cpu", "TPU_SKIP_MDS_QUERY": "1"}
os.environ |= {"TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3"}

import jax
import jax.numpy as jnp
from jax.experimental import topologies

from etp_jax import configs
from etp_jax.bench import flops
from etp_jax.bench.steps import TOKENS, text_tower
from etp_jax.config import LossConfig
from etp_jax.losses.contrastive import Embeddings, contrastive_loss
from etp_jax.losses.pairs import needs_tower
from etp_jax.models.dual_encoder import init_variables
from etp_jax.models.layers import AXIS
from etp_jax.training import build, feed, optim, ranks
from etp_jax.training.parallel import REPLICATED, SPLIT, Parallel
from etp_jax.training.step import init_state, make_train_step

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
COLLECTIVES = "all-reduce", "all-gather", "collective-permute", "reduce-scatter", "all-to-all"
Instruction = tuple[str, str, str]


def size(shape: str) -> int:
    """Bytes of an HLO shape, of all its parts if it is a tuple."""
    found = re.findall(r"(pred|bf16|[suf]\d+)\[([\d,]*)\]", shape)
    return sum(SIZES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in found)


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """The (shape, operation, rest of the line) of every instruction, by computation, and the entry's name."""
    found: dict[str, list[Instruction]] = {}
    name = entry = ""
    for line in text.splitlines():
        if start := re.match(r"(ENTRY )?%?([\w.-]+) .*\{$", line):
            name = start[2]
            found[name] = []
            entry = name if start[1] else entry
        elif name and (body := re.match(r"\s+(?:ROOT )?%?[\w.-]+ = (.*?) ([a-z][\w-]*)\((.*)$", line)):
            found[name].append((body[1], body[2], body[3]))
    return found, entry


def turns(found: dict[str, list[Instruction]], rest: str) -> int:
    """How many turns a `while` makes: the constant in its condition; 0 if the program decides."""
    condition = re.search(r"condition=%?([\w.-]+)", rest)
    lines = found[condition[1]] if condition else []
    return max((int(x[2].split(")")[0]) for x in lines if x[1] == "constant" and x[0].startswith("s32[]")), default=0)


def walk(found: dict[str, list[Instruction]], name: str, times: int = 1) -> Iterator[tuple[Instruction, int]]:
    """Every instruction that a computation runs and how many times, loops followed."""
    for instruction in found[name]:
        yield instruction, times
        if instruction[1] == "while" and (body := re.search(r"body=%?([\w.-]+)", instruction[2])):
            yield from walk(found, body[1], times * max(1, turns(found, instruction[2])))


def describe(compiled: Any, copies_from: float) -> str:
    """The compiler's word on a program; `copies_from` is the size in bytes from which a result is listed."""
    found, entry = computations(compiled.as_text())
    cycles, loops, large, collectives = 0, [], [], {}
    for (shape, operation, rest), times in walk(found, entry):
        estimate = re.search(r'"estimated_cycles":"(\d+)"', rest)
        cycles += times * int(estimate[1]) if estimate else 0
        if operation == "while":
            loops.append(f"{turns(found, rest) or '?'}")
        moves = operation in ("copy", "copy-start", "fusion", "slice", "transpose", "reshape", "async-start")
        if moves and copies_from and size(shape) > copies_from:
            large.append(f"{times} x {operation} {size(shape) / 2**20:.0f} MiB")
        kind = operation.removesuffix("-start")
        if kind in COLLECTIVES:
            count, total = collectives.get(kind, (0, 0))
            collectives[kind] = count + times, total + times * size(shape)
    memory, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    several = ", ".join(f"{n} {kind} {total / 2**20:.2f} MiB" for kind, (n, total) in collectives.items())
    return (
        f"arguments {memory.argument_size_in_bytes / 2**30:.3f} GiB, temporary "
        f"{memory.temp_size_in_bytes / 2**30:.3f}, peak {memory.peak_memory_in_bytes / 2**30:.3f}; "
        f"{cycles / 1e6:.3f} M cycles; {cost.get('bytes accessed', 0) / 1e9:.3f} GB accessed; "
        f"loops of {', '.join(loops) or 'none'} turns; collectives: {several or 'none'}; large: {large or 'none'}"
    )


def lowered_step(args: argparse.Namespace, parallel: Parallel) -> tuple[Any, float]:
    """The recipe's own step."""
    config = configs.load_recipe(args.recipe)
    config = dataclasses.replace(
        config,
        data=dataclasses.replace(config.data, batch_size=args.batch),
        run=dataclasses.replace(config.run, precision="bfloat16", parallel="shard_map"),
        loss=dataclasses.replace(config.loss, block=args.block, ring=args.ring),
    )
    dtype, bert, frozen = jnp.dtype("bfloat16"), text_tower(config), config.model.text.frozen
    model = build.build_model(config, bert, dtype, "tpu")
    variables = jax.eval_shape(lambda: init_variables(model, jax.random.key(0), args.samples, 12))
    optimizer, schedule = optim.make_optimizer(config.optim, 1000)
    state = jax.eval_shape(lambda v: init_state(v, optimizer, config), variables)
    work = flops.train_step(
        config, args.samples, 12, variables["params"], None if frozen else (bert, TOKENS), bert.hidden_size, dtype,
        parallel.devices,
    )  # fmt: skip
    print(
        f"ours: {work.bytes / parallel.devices / 1e9:.3f} GB, {work.flops / parallel.devices / 1e12:.3f} TFLOP a chip"
    )

    texts: Any = {"embeddings": jax.ShapeDtypeStruct((args.reports, bert.hidden_size), jnp.float32)}
    if not frozen:
        texts = {
            name: jax.ShapeDtypeStruct((args.reports, TOKENS), jnp.int32) for name in ("input_ids", "attention_mask")
        }
    if needs_tower(config.loss):
        texts["semantic"] = jax.ShapeDtypeStruct((args.reports, bert.hidden_size), jnp.float32)
    step = make_train_step(model, optimizer, schedule, config, args.samples // 10, "tpu")
    return dispatched(step, state, texts, args, parallel)


def lowered_gather(args: argparse.Namespace, parallel: Parallel) -> tuple[Any, float]:
    """A step that only reads its records."""

    def step(state: jax.Array, batch: Any, texts: jax.Array) -> tuple[jax.Array, Any]:
        x = batch["ecg"].astype(jnp.float32) * batch["lead_mask"][:, None] * texts[batch["report"]][:, None, None]
        return state + jax.lax.pmean(x.mean(), AXIS), {"loss": x.max()}

    scalar = jax.ShapeDtypeStruct((), jnp.float32)
    return dispatched(step, scalar, jax.ShapeDtypeStruct((1000,), jnp.float32), args, parallel)


def dispatched(step: Any, state: Any, texts: Any, args: argparse.Namespace, parallel: Parallel) -> tuple[Any, float]:
    """The dispatch of a step as in training, lowered, and the bytes of 1 % of the resident table."""

    def array(spec: Any, dtype: Any, *shape: int) -> Any:
        return jax.ShapeDtypeStruct(shape, dtype, sharding=jax.sharding.NamedSharding(parallel.mesh, spec))

    per = (args.batch, args.steps) if args.steps > 1 else (args.batch,)
    batch = {"position": array(SPLIT, jnp.int32, *per)}
    if args.resident:
        batch["row"] = array(SPLIT, jnp.int32, *per)
        split = feed.table_shapes(args.resident, args.samples, 12)
        step, texts = feed.gathering(step, args.samples), (texts, split)
    else:
        batch |= {"ecg": array(SPLIT, jnp.int16, *per, args.samples, 12), "report": array(SPLIT, jnp.int32, *per)}
        batch |= {"lead_mask": array(SPLIT, jnp.bool_, *per, 12)}
    step = feed.several(step) if args.steps > 1 else step
    state, texts = jax.tree.map(lambda x: array(REPLICATED, x.dtype, *x.shape), (state, texts))
    return parallel.wrap_train_step(step).lower(state, batch, texts), args.resident * args.samples * 24 / 100


def lowered_loss(args: argparse.Namespace, parallel: Parallel) -> tuple[Any, float]:
    """Loss and gradients of embeddings alone."""
    config = LossConfig(block=args.block, ring=args.ring)

    def step(scale: jax.Array, batch: Any, _: None) -> Any:
        def loss(scale: jax.Array, ecg: jax.Array, text: jax.Array) -> Any:
            return contrastive_loss(Embeddings(ecg, text, batch["report"]), config, scale, axis_name=AXIS)

        (value, _), grads = jax.value_and_grad(loss, (0, 1, 2), has_aux=True)(scale, batch["ecg"], batch["text"])
        return jax.lax.pmean((value, grads[0]), AXIS), grads[1:]

    spread = jax.shard_map(
        step,
        mesh=parallel.mesh,
        in_specs=(REPLICATED, SPLIT, REPLICATED),
        out_specs=(REPLICATED, SPLIT),
        check_vma=False,
    )
    row = jax.ShapeDtypeStruct((args.batch, args.width), jnp.float32)
    batch = {"ecg": row, "text": row, "report": jax.ShapeDtypeStruct((args.batch,), jnp.int32)}
    return jax.jit(spread).lower(jax.ShapeDtypeStruct((), jnp.float32), batch, None), 0


def lowered_ranks(args: argparse.Namespace, parallel: Parallel) -> tuple[Any, float]:
    """Retrieval ranks of a validation, both directions."""

    def tiles(*shape: int, dtype: Any = jnp.int32, multiple: int = 1) -> jax.ShapeDtypeStruct:
        count = -(-args.batch // (ranks.TILE * multiple)) * multiple
        return jax.ShapeDtypeStruct((count, ranks.TILE, *shape), dtype)

    rows = tiles(args.width, dtype=jnp.float32, multiple=parallel.devices)
    ecg = {"ecg": rows, "report": tiles(multiple=parallel.devices)}
    text = {"text": tiles(args.width, dtype=jnp.float32), "records": tiles()}
    numbers = jax.ShapeDtypeStruct(ecg["report"].shape[:1], jnp.int32)
    return parallel.wrap_eval_step(ranks.step).lower(ecg, text, numbers, None), 0


def main() -> None:
    """Compiles what the arguments describe and prints a line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    what = parser.add_subparsers(required=True)
    step, gather = what.add_parser("step"), what.add_parser("gather")
    step.add_argument("recipe")
    step.add_argument("--reports", type=int, default=10_000)
    step.set_defaults(lowered=lowered_step)
    gather.set_defaults(lowered=lowered_gather)
    for each in (step, gather):
        each.add_argument("batch", type=int)
        each.add_argument("samples", type=int)
        each.add_argument("--resident", type=int, default=0, help="records in the resident table")
        each.add_argument("--steps", type=int, default=1, help="steps a dispatch")
    loss = what.add_parser("loss")
    loss.add_argument("batch", type=int)
    loss.add_argument("--width", type=int, default=128)
    loss.set_defaults(lowered=lowered_loss)
    retrieval = what.add_parser("ranks")
    retrieval.add_argument("batch", type=int, metavar="records")
    retrieval.add_argument("--width", type=int, default=128)
    retrieval.set_defaults(lowered=lowered_ranks)
    for each in (step, gather, loss, retrieval):
        each.add_argument("--topology", default="v5e:2x2")
        each.add_argument("--chips", type=int, default=0, help="the first chips of the topology; 0: all")
        each.add_argument("--block", type=int, default=0)
        each.add_argument("--ring", action="store_true")
        each.add_argument("--hlo", help="file for the compiled program")
    args = parser.parse_args()
    devices = topologies.get_topology_desc(platform="tpu", topology_name=args.topology).devices
    parallel = Parallel("shard_map", devices[: args.chips or len(devices)])
    lowered, copies_from = args.lowered(args, parallel)
    started = time.time()
    compiled = lowered.compile()
    print(f"{' '.join(sys.argv[1:])}: {describe(compiled, copies_from)}; compiled in {time.time() - started:.0f} s")
    if args.hlo:
        Path(args.hlo).write_text(compiled.as_text())


if __name__ == "__main__":
    main()
