"""Damage to files: bytes of any file, and values of JSON files. A seed and a number determine every input."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

NUMBERS = (b"0", b"-1", b"99999999999", b"1e11", b"1e400", b"nan", b"inf", b"-inf", b"9" * 400, b"9" * 5000)
"""What is written in place of a number."""
TEXTS = (b"\0", b"../../x", b"\xe2\x80\xae", b"\x1b[2J", b"\xff", b"[" * 100_000, b'{"a":' * 50_000, b"\n", b",", b'"')
WHOLE: tuple[bytes, ...] = (b"", b"[]", b"null", b"0", b"\xff\xfe", b"[" * 100_000, b"\0" * 1000, b"{}", b'""')
"""What replaces a file as a whole."""
VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 0.5, 10**11, 2**31, 2**63, 2**64, 10**400, float("inf"), float("nan"), -(10**4000)),
    *("", "\0", "../../x", "/etc/passwd", "x" * 100_000, "\u202e\x1b[2J\n", "\ud800", "NaN", "1e400"),
    *([], {}, [[]], [{}], {"": None}, [None, 1, "a"]),
)
"""What replaces a value of a JSON file."""
Random = np.random.Generator


def mutant(content: bytes, other: bytes, rng: Random) -> bytes:
    """Damages a file's content, once or a few times.

    Args:
      content: a valid file.
      other: another valid file, for splicing.
      rng: source of all choices.
    """
    if rng.random() < 0.02:
        return WHOLE[rng.integers(len(WHOLE))]
    if content[:1] in (b"{", b"[") and rng.random() < 0.5 and (changed := _json_mutant(content, rng)) is not None:
        return changed
    for _ in range(1 + int(rng.geometric(0.5))):
        change = CHANGES[rng.integers(len(CHANGES))]
        content = change(content, rng) if change is not _splice else _spliced(content, other, rng)
    return content[: 2**24]


def _place(content: bytes, rng: Random) -> int:
    """Chooses a position; half of them are among the first 600 bytes, where headers are."""
    size = min(len(content), 600) if rng.random() < 0.5 else len(content)
    return int(rng.integers(size + 1))


def _flip(content: bytes, rng: Random) -> bytes:
    changed = bytearray(content or b"\0")
    for _ in range(int(rng.geometric(0.4))):
        changed[min(_place(content, rng), len(changed) - 1)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def _overwrite(content: bytes, rng: Random) -> bytes:
    """Writes extreme numbers of 1, 2, 4 or 8 bytes."""
    size, start = 1 << int(rng.integers(4)), _place(content, rng)
    value = (0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1)[rng.integers(5)]
    data = value.to_bytes(size, "little" if rng.random() < 0.5 else "big")
    return content[:start] + data + content[start + size :]


def _truncate(content: bytes, rng: Random) -> bytes:
    return content[: _place(content, rng)]


def _remove(content: bytes, rng: Random) -> bytes:
    start = _place(content, rng)
    return content[:start] + content[start + int(rng.geometric(0.05)) :]


def _insert(content: bytes, rng: Random) -> bytes:
    start = _place(content, rng)
    data = TEXTS[rng.integers(len(TEXTS))] if rng.random() < 0.5 else rng.bytes(int(rng.geometric(0.1)))
    return content[:start] + data + content[start:]


def _repeat(content: bytes, rng: Random) -> bytes:
    start = _place(content, rng)
    piece = content[start : start + int(rng.geometric(0.02))]
    return content[:start] + piece * int(rng.choice((2, 10, 1000))) + content[start:]


def _number(content: bytes, rng: Random) -> bytes:
    found = list(re.finditer(rb"-?\d+(?:\.\d+)?", content[: 2**16]))
    if not found:
        return _flip(content, rng)
    chosen = found[rng.integers(len(found))]
    return content[: chosen.start()] + NUMBERS[rng.integers(len(NUMBERS))] + content[chosen.end() :]


def _splice(content: bytes, rng: Random) -> bytes:
    return content


def _spliced(content: bytes, other: bytes, rng: Random) -> bytes:
    return content[: _place(content, rng)] + other[_place(other, rng) :]


CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    *(_flip, _flip, _overwrite, _truncate, _remove, _insert, _repeat, _number, _number, _splice),
)


def _json_mutant(content: bytes, rng: Random) -> bytes | None:
    """Replaces, removes or doubles a value of a JSON file, or of a line of JSON lines; None if it is not JSON."""
    lines = content.splitlines(keepends=True)
    number = int(rng.integers(len(lines)))
    try:
        tree, before, after = json.loads(content), b"", b""
    except ValueError:
        try:
            tree, before, after = json.loads(lines[number]), b"".join(lines[:number]), b"".join(lines[number + 1 :])
        except ValueError:
            return None
    places = list(_places(tree, ()))
    path = places[rng.integers(len(places))]
    value = VALUES[rng.integers(len(VALUES))]
    if not path or rng.random() < 0.02:
        tree = [tree] if rng.random() < 0.5 else value
    else:
        parent = tree
        for key in path[:-1]:
            parent = parent[key]
        kind = rng.random()
        if kind < 0.15:
            del parent[path[-1]]
        elif kind < 0.25 and isinstance(parent, list):
            parent.append(parent[path[-1]])
        elif kind < 0.35 and isinstance(parent, dict):
            parent[str(value)[:50]] = parent.pop(path[-1])
        else:
            parent[path[-1]] = value
    return before + _dump(tree) + after


def _dump(tree: Any) -> bytes:
    return json.dumps(tree).encode() + b"\n"


def _places(tree: Any, path: tuple[Any, ...]) -> Any:
    yield path
    if isinstance(tree, dict | list) and len(path) < 6:
        children: Sequence[tuple[Any, Any]] = list(tree.items() if isinstance(tree, dict) else enumerate(tree))
        for key, value in children[:200]:
            yield from _places(value, (*path, key))
