"""Sets options of `etp train`, written as in a study (`--optim.epochs 4`), on a recipe."""

from __future__ import annotations

import difflib
import types
from collections.abc import Iterator, Sequence
from dataclasses import fields, is_dataclass, replace
from itertools import pairwise
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

from etp_jax.errors import EtpError

Options = TypeVar("Options")
TRUTH = {True: ("True", "true", "1"), False: ("False", "false", "0")}


def set_options(options: Options, words: Sequence[str]) -> Options:
    """Replaces values of nested dataclasses, given as on a command line.

    Args:
      options: the dataclass. Where a field may hold one of several dataclasses, the current one defines the options.
      words: `--path.to.field value` or `--path.to.field=value`; hyphens count as underscores. A Boolean is
        `--path.field` or `--path.no-field`; a tuple takes all the words up to the next option.

    Raises:
      EtpError: an option does not exist, or its type does not allow the value.
    """
    types_of = dict(_leaves(options))
    for option, values in _split(words):
        path = option.replace("-", "_")
        parent, _, leaf = path.rpartition(".")
        negated = f"{parent}.{leaf.removeprefix('no_')}".lstrip(".")
        if path not in types_of and leaf.startswith("no_") and types_of.get(negated) is bool and not values:
            path, values = negated, ["False"]
        if path not in types_of:
            near = difflib.get_close_matches(path, types_of, n=1)
            raise EtpError(f"no option --{option}{f'; did you mean --{_spelled(near[0])}?' if near else ''}")
        options = _replaced(options, path.split("."), _value(types_of[path], values, option))
    return options


def _split(words: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yields each option without its leading hyphens, with the words that follow it."""
    if words and not words[0].startswith("--"):
        raise EtpError(f"{words[0]!r} is not an option; options begin with --")
    starts = [number for number, word in enumerate(words) if word.startswith("--")]
    for start, end in pairwise([*starts, len(words)]):
        option, equals, value = words[start].removeprefix("--").partition("=")
        yield option, [value] * bool(equals) + list(words[start + 1 : end])


def _leaves(options: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields the path and type of every option."""
    hints = get_type_hints(type(options))
    for field in fields(options):
        value = getattr(options, field.name)
        if is_dataclass(value):
            yield from _leaves(value, f"{prefix}{field.name}.")
        else:
            yield f"{prefix}{field.name}", hints[field.name]


def _replaced(options: Any, path: list[str], value: Any) -> Any:
    name, *rest = path
    return replace(options, **{name: _replaced(getattr(options, name), rest, value) if rest else value})


def _value(kind: Any, words: list[str], option: str) -> Any:
    """Converts words to a value of a type; raises EtpError if they do not fit."""
    if kind is bool and not words:
        return True
    found = _read(kind, words)
    if found is None:
        given = " ".join(words) or "nothing"
        raise EtpError(f"--{option} is {given!r}; it must be {_named(kind)}")
    return found[0]


def _read(kind: Any, words: list[str]) -> tuple[Any] | None:
    """Returns the value in a tuple of one, since it may be None; returns None if the words do not fit the type."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        # None comes first: where a string is allowed too, the word "None" means None, as in `etp train`.
        ordered = sorted(args, key=lambda each: each is not types.NoneType)
        return next((found for each in ordered if (found := _read(each, words)) is not None), None)
    if origin is tuple:
        kinds = [args[0]] * len(words) if args[-1] is Ellipsis else list(args)
        if len(kinds) != len(words):
            return None
        items = [_read(each, [word]) for each, word in zip(kinds, words, strict=True)]
        return None if None in items else (tuple(item[0] for item in items if item is not None),)
    if len(words) != 1:
        return None
    if origin is Literal:
        return next(((each,) for each in args if str(each) == words[0]), None)
    return _scalar(kind, words[0])


def _scalar(kind: Any, word: str) -> tuple[Any] | None:
    if kind is types.NoneType:
        return (None,) if word == "None" else None
    if kind is bool:
        return next(((truth,) for truth, spelled in TRUTH.items() if word in spelled), None)
    try:
        return (kind(word),)
    except ValueError:
        return None


def _named(kind: Any) -> str:
    """Describes a type in words, for messages."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return " or ".join(map(_named, args))
    if origin is Literal:
        return f"one of {', '.join(map(str, args))}"
    if origin is tuple:
        return f"a list of {_named(args[0])}"
    words = {int: "a whole number", float: "a number", str: "a string", bool: "True or False", types.NoneType: "None"}
    return words.get(kind, getattr(kind, "__name__", str(kind)))


def _spelled(path: str) -> str:
    return path.replace("_", "-")
