"""What the text of a compiled program shows: collectives, copies, loops, and the compiler's estimate of cycles.

The text is XLA's HLO after optimisation. One instruction is a line `%name = shape operation(operands), attributes`.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

SIZES = {"pred": 1, "s8": 1, "u8": 1, "s16": 2, "u16": 2, "bf16": 2, "f16": 2, "s32": 4, "u32": 4, "f32": 4}
SIZES |= {"s64": 8, "u64": 8, "f64": 8}
ARRAY = re.compile(rf"\b({'|'.join(SIZES)})\[([\d,]*)\]")
COMPUTATION = re.compile(r"(ENTRY )?%?([\w.-]+) .*\{$")
INSTRUCTION = re.compile(r"\s+(?:ROOT )?%?([\w.-]+) = (.*?) ([a-z][\w-]*)\((.*)$")
COLLECTIVES = "all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute"
MOVES = frozenset(("copy", "copy-start", "slice", "slice-start", "transpose"))
"""Operations whose result is a part of their operand, moved."""
FREE = frozenset(("parameter", "bitcast", "reshape", "constant", "tuple", "get-tuple-element"))
"""Operations that move nothing."""
ON_CHIP = "S(1)"
"""Mark of an array in a TPU's on-chip memory, in its layout."""
SELECTIONS = frozenset(("gather", "dynamic-slice", "slice"))
"""Operations that read no more of an operand than they return."""


class Instruction(NamedTuple):
    """One instruction of a computation."""

    name: str
    shape: str
    operation: str
    rest: str
    """Operands and attributes."""


class Turn(NamedTuple):
    """An instruction that the program runs."""

    instruction: Instruction
    times: int
    """Number of times that it runs; a loop of unknown length counts once."""


@dataclass(frozen=True)
class Copy:
    """A copy of an array."""

    shape: str
    bytes: int
    times: int
    """Number of times in a dispatch; the loop over the steps of a dispatch counts once."""


@dataclass(frozen=True)
class Summary:
    """What a program does on one device.

    Attributes:
        cycles: the compiler's estimate of the cycles of a step, without collectives.
        step_share: share of `moved_bytes` that one step moves; 1 if a dispatch is one step.
        collectives: number and bytes of the results by kind; the loop over the steps counts once.
        copies: copies from a given size on, the largest first.
        loops: lengths of the loops, with the number of loops of each length.
    """

    cycles: int
    step_share: float
    collectives: dict[str, dict[str, int]]
    copies: list[Copy]
    loops: dict[int, int]


def summary(text: str, copies_from: int, steps: int = 1) -> Summary:
    """Summarises a compiled program.

    Args:
      text: the program.
      copies_from: copies of fewer bytes are left out.
      steps: steps of a dispatch. What precedes and follows the loop over them counts for all steps together.
    """
    found, entry = computations(text)
    step = _step_loop(found, entry) if steps > 1 else None
    numbers, sizes = Counter[str](), Counter[str]()
    copies, loops = [], Counter[int]()
    for instruction, times in walk(found, entry, once=step):
        for inner in (instruction, *_called(found, instruction)):
            kind = inner.operation.removesuffix("-start")
            if kind in COLLECTIVES:
                numbers[kind] += times
                sizes[kind] += times * _result_bytes(inner)
        size = array_bytes(instruction.shape)
        if size >= copies_from and _is_copy(found, instruction):
            copies.append(Copy(_result(instruction), _result_bytes(instruction), times))
        if instruction.operation == "while" and (trips := _trips(instruction)) is not None:
            loops[trips] += 1
    collectives = {kind: {"number": numbers[kind], "bytes": sizes[kind]} for kind in COLLECTIVES if numbers[kind]}
    copies = sorted((copy for copy in copies if copy.bytes >= copies_from), key=lambda copy: -copy.bytes)
    cycles = sum(times * _cycles(instruction) for instruction, times in walk(found, entry, once=step))
    moved = _moved(found, entry)
    cycles_of_step = bytes_of_step = 0
    if step is not None:
        cycles_of_step = sum(times * _cycles(instruction) for instruction, times in walk(found, step))
        bytes_of_step = _moved(found, step)
    cycles = cycles_of_step + round((cycles - cycles_of_step) / steps)
    share = (bytes_of_step + (moved - bytes_of_step) / steps) / moved if moved else 1.0
    return Summary(cycles, share, collectives, copies, dict(loops))


def _step_loop(found: dict[str, list[Instruction]], entry: str) -> str | None:
    """Returns the body of the loop over the steps: the loop that moves the most bytes; None if it is unrolled."""
    loops = [body for instruction in found[entry] if instruction.operation == "while" for body in _inner(instruction)]
    return max(loops, key=lambda body: _moved(found, body), default=None)


def computations(text: str) -> tuple[dict[str, list[Instruction]], str]:
    """Reads all computations of a program by name; also returns the name of the entry."""
    found: dict[str, list[Instruction]] = {}
    name = entry = ""
    for line in text.splitlines():
        if start := COMPUTATION.match(line):
            name = start[2]
            found[name] = []
            entry = name if start[1] else entry
        elif name and (body := INSTRUCTION.match(line)):
            found[name].append(Instruction(*body.groups()))
    return found, entry


def walk(found: dict[str, list[Instruction]], name: str, times: int = 1, once: str | None = None) -> Iterator[Turn]:
    """Yields the instructions that a computation runs, with those of its loops, branches and calls.

    The loop with the body `once` counts as one turn.
    """
    for instruction in found.get(name, []):
        yield Turn(instruction, times)
        trips = (_trips(instruction) or 1) if instruction.operation == "while" else 1
        for body in _inner(instruction):
            yield from walk(found, body, times * (1 if body == once else trips), once)


def _inner(instruction: Instruction) -> list[str]:
    """Returns the names of the computations that a loop, a branch or a call runs."""
    if instruction.operation == "while":
        return re.findall(r"\bbody=%?([\w.-]+)", instruction.rest)
    if instruction.operation not in ("call", "conditional"):
        return []
    named = re.findall(r"(?:to_apply|true_computation|false_computation)=%?([\w.-]+)", instruction.rest)
    branches = re.findall(r"branch_computations=\{([^}]*)\}", instruction.rest)
    return named + re.findall(r"[\w.-]+", " ".join(branches))


def moved_bytes(text: str) -> int:
    """Sums operands and results of all operations that a program runs; a loop counts once, as in XLA's own count.

    For compilers that do not report it. An operand of which only a part is selected counts as that part.
    """
    return _moved(*computations(text))


def _moved(found: dict[str, list[Instruction]], name: str) -> int:
    """Sums the bytes of a computation and of what it runs in loops, branches and calls."""
    total, nothing = 0, FREE | {"while", "call", "conditional"}
    for computation in {name, *_bodies(found, name)}:
        shapes = {instruction.name: instruction.shape for instruction in found[computation]}
        for instruction in found[computation]:
            if instruction.operation in nothing or instruction.operation.endswith("-done"):
                continue
            total += array_bytes(_result(instruction))
            for number, operand in enumerate(_operands(instruction)):
                whole = array_bytes(shapes.get(operand, ""))
                total += min(whole, _selected_bytes(found, instruction, number, whole))
    return total


def _bodies(found: dict[str, list[Instruction]], name: str) -> set[str]:
    """Returns the computations that a computation runs in loops, branches and calls."""
    names: set[str] = set()
    for instruction in found.get(name, []):
        for body in _inner(instruction):
            names |= {body} | _bodies(found, body)
    return names


def _operands(instruction: Instruction) -> list[str]:
    return re.findall(r"%([\w.-]+)", instruction.rest.partition("), ")[0])


def _selected_bytes(found: dict[str, list[Instruction]], instruction: Instruction, number: int, whole: int) -> int:
    """Returns the bytes that an operation reads of an operand of `whole` bytes."""
    if instruction.operation in SELECTIONS:
        return array_bytes(instruction.shape) if number == 0 else whole
    inside = _called(found, instruction)
    own = [inner.name for inner in inside if inner.operation == "parameter" and inner.rest.startswith(f"{number})")]
    users = [inner for inner in inside if own and own[0] in _operands(inner)]
    if users and all(user.operation in SELECTIONS and _operands(user)[0] == own[0] for user in users):
        return sum(array_bytes(user.shape) for user in users)
    return whole


def array_bytes(shape: str) -> int:
    """Sums the bytes of all arrays of a shape, which may be a tuple."""
    return sum(SIZES[kind] * math.prod(int(n) for n in dims.split(",") if n) for kind, dims in ARRAY.findall(shape))


def _result_bytes(instruction: Instruction) -> int:
    """Returns the bytes of a result; the tuple of an asynchronous start also holds its operand."""
    return array_bytes(_result(instruction))


def _result(instruction: Instruction) -> str:
    """Returns the shape of a result without layouts; of an asynchronous start, the largest array of its tuple."""
    if instruction.operation.endswith("-start"):
        arrays = [f"{kind}[{dims}]" for kind, dims in ARRAY.findall(instruction.shape)]
        return max(arrays, key=array_bytes, default="")
    return re.sub(r"\{[^{}]*\}", "", instruction.shape)


def _called(found: dict[str, list[Instruction]], instruction: Instruction) -> list[Instruction]:
    """Returns the instructions inside a fusion, an asynchronous start or a custom call."""
    if instruction.operation not in ("fusion", "async-start", "custom-call"):
        return []
    names = re.findall(r"\bcalls=%?([\w.-]+)", instruction.rest)
    names += re.findall(r"called_computations=\{%?([\w.-]+)", instruction.rest)
    return [inner for name in names for inner in found.get(name, [])]


def _is_copy(found: dict[str, list[Instruction]], instruction: Instruction) -> bool:
    """Whether an instruction only moves data, by itself or as a fusion of nothing else.

    An asynchronous move between memory and on-chip memory is none: the operation that reads it would read as much.
    """
    if instruction.operation.endswith("-start") and ON_CHIP in instruction.shape:
        return False
    inside = [inner.operation for inner in _called(found, instruction) if inner.operation not in FREE]
    if instruction.operation in ("fusion", "async-start"):
        return bool(inside) and MOVES.issuperset(inside)
    return instruction.operation in MOVES


def _cycles(instruction: Instruction) -> int:
    cycles = re.search(r'"estimated_cycles":"(\d+)"', instruction.rest)
    return int(cycles[1]) if cycles else 0


def _trips(instruction: Instruction) -> int | None:
    """Returns the length of a loop; None where the compiler does not know it."""
    trips = re.search(r'"known_trip_count":\{"n":"(\d+)"', instruction.rest)
    return int(trips[1]) if trips else None
