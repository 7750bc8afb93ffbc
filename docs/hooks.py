"""Fills `options.md` from the dataclasses of `etp_jax/config.py` and `model_config.py` when mkdocs builds the pages."""

from __future__ import annotations

import ast
import inspect
from dataclasses import MISSING, Field, fields, is_dataclass
from types import ModuleType
from typing import Any, get_type_hints

from etp_jax import config, model_config

MARK = "<!-- options -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Replaces the mark by the tables; called by mkdocs for every page."""
    return markdown.replace(
        MARK, "\n\n".join(tables(config.TrainConfig, "", documented(config) | documented(model_config)))
    )


def documented(module: ModuleType) -> dict[tuple[str, str], str]:
    """The string below each attribute of the module's classes, by class and attribute."""
    found = {}
    for node in (node for node in ast.parse(inspect.getsource(module)).body if isinstance(node, ast.ClassDef)):
        for attribute, below in zip(node.body, node.body[1:], strict=False):
            match attribute, below:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(words))):
                    found[node.name, name] = " ".join(words.split())
    return found


def tables(cls: type, prefix: str, texts: dict[tuple[str, str], str]) -> list[str]:
    """A section for each group of options, in the order of the dataclasses."""
    hints = get_type_hints(cls)
    own = [field for field in fields(cls) if not is_dataclass(hints[field.name])]
    lines = [f"## `{prefix.rstrip('.') or 'run as a whole'}`{kind_of(cls)}", "", inspect.getdoc(cls) or "", ""]
    lines += ["| option | default | |", "|---|---|---|"]
    lines += [
        f"| `{flag(prefix, field.name)}` | `{default(field)}` | {text(cls, field.name, texts)} |" for field in own
    ]
    sections = ["\n".join(lines)] if own else []
    for field in fields(cls):
        group = hints[field.name]
        for each in (group.__subclasses__() or [group]) if is_dataclass(group) else []:
            sections += tables(each, f"{prefix}{field.name}.", texts)
    return sections


def kind_of(cls: type) -> str:
    """The kind of a tower, for its heading."""
    kind = next((field.default for field in fields(cls) if field.name == "kind"), None)
    return f", `kind` {kind}" if isinstance(kind, str) and cls.__mro__[1] is not object else ""


def flag(prefix: str, name: str) -> str:
    """An option as it is written on the command line."""
    return "--" + (prefix + name).replace("_", "-")


def default(field: Field[Any]) -> str:
    """The default of an option."""
    value = field.default if field.default is not MISSING else "required"
    return repr(value) if isinstance(value, str) else str(value)


def text(cls: type, name: str, texts: dict[tuple[str, str], str]) -> str:
    """The documentation of an option and its choices; a class inherits that of the classes above it."""
    found = next((texts[each.__name__, name] for each in cls.__mro__ if (each.__name__, name) in texts), "")
    hint = get_type_hints(cls)[name]
    choices = getattr(hint, "__args__", ()) if str(hint).startswith("typing.Literal") else ()
    listed = f"One of {', '.join(f'`{choice}`' for choice in choices)}. " if len(choices) > 1 else ""
    return (listed + found).replace("|", "\\|")
