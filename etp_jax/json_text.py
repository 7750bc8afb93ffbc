"""JSON from files and servers, as data: encoding, depth, numbers, repeated names and types are checked.

Does not import jax.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin

DEPTH = 64
"""Largest number of lists and objects that contain each other; what this project writes has fewer than ten."""
LARGEST = 2**64
"""Numbers that are whole are smaller, so that they fit into numpy's types and nothing counts up to them for ever."""
_WORDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false", type(None): "null"}
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")

Schema = Any
"""Types of a JSON value: a type; a tuple of types, one of which it has; `[Schema]` for a list; `{str: Schema}` for an
object of any names; `{"name": Schema}` for an object with at least these names, where `"name?"` may be missing."""


def parse_json(data: bytes | str, schema: Schema = object, constants: bool = False) -> Any:
    """Parses JSON.

    Args:
      data: the text; bytes must be UTF-8.
      schema: types that the content must have.
      constants: whether `NaN` and `Infinity` are accepted, which are no JSON; the log of a run may hold them.

    Raises:
      ValueError: the text is not JSON; is nested deeper than `DEPTH`; holds a number that is out of range, half of a
        character or a repeated name; or its content does not have the types of the schema.
    """
    text = data.decode("utf-8") if isinstance(data, bytes) else data
    try:
        content = json.loads(
            text,
            parse_int=_whole,
            parse_float=_number,
            parse_constant=float if constants else _refuse,
            object_pairs_hook=_unique,
        )
    except RecursionError:
        raise ValueError("lists and objects are nested too deeply") from None
    _check_depth(content)
    if _SURROGATE.search(text):
        json.dumps(content, ensure_ascii=False).encode()
    check_types(content, schema)
    return content


def check_types(value: Any, schema: Schema, place: str = "") -> None:
    """Raises ValueError, which names the place in the JSON, if a value does not have the types of a schema."""
    if isinstance(schema, list):
        _expect(isinstance(value, list), "a list", place)
        for number, item in enumerate(value):
            check_types(item, schema[0], f"{place}[{number}]")
    elif isinstance(schema, Mapping):
        _expect(isinstance(value, dict), "an object", place)
        for name in value if str in schema else ():
            check_types(value[name], schema[str], f"{place}.{name}")
        for key in (key for key in schema if key is not str):
            name = key.removesuffix("?")
            if name in value:
                check_types(value[name], schema[key], f"{place}.{name}")
            else:
                _expect(key.endswith("?"), "given", f"{place}.{name}")
    elif schema is not object:
        kinds = schema if isinstance(schema, tuple) else (schema,)
        words = " or ".join(str(_WORDS.get(kind, kind.__name__)) for kind in kinds)
        _expect(any(_is(value, kind) for kind in kinds), words, place)


def _is(value: Any, kind: type) -> bool:
    """Whether a value has a type; true and false are no numbers, and a whole number is a number."""
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def fits(value: Any, hint: Any) -> bool:
    """Whether a value has the type that an annotation of an option names: a name, a union, a tuple or a literal."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return any(fits(value, arg) for arg in args)
    if origin is Literal:
        return any(type(value) is type(arg) and value == arg for arg in args)
    if origin is tuple:
        kinds = args[:1] * len(value) if isinstance(value, tuple) and args[-1] is ... else args
        return isinstance(value, tuple) and len(value) == len(kinds) and all(map(fits, value, kinds))
    return _is(value, origin or hint)


def _expect(holds: bool, what: str, place: str) -> None:
    if not holds:
        raise ValueError(f"{place.lstrip('.')[:200] or 'the content'} must be {what}")


def _whole(text: str) -> int:
    if len(text) > 20 or abs(value := int(text)) >= LARGEST:
        raise ValueError(f"the number {text[:20]}... is out of range")
    return value


def _number(text: str) -> float:
    value = float(text)
    if value in (float("inf"), float("-inf")):
        raise ValueError(f"the number {text[:20]} is out of range")
    return value


def _refuse(text: str) -> Any:
    raise ValueError(f"{text} is no number in JSON")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Builds an object; the json module would silently keep the last of several values of a name."""
    found = dict(pairs)
    if len(found) < len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"field {twice!r} is given twice")
    return found


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level := [item for item in level if isinstance(item, dict | list)]:
        depth += 1
        if depth > DEPTH:
            raise ValueError("lists and objects are nested too deeply")
        level = [child for item in level for child in (item.values() if isinstance(item, dict) else item)]
