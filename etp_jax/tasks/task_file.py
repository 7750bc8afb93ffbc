"""The file of a task: one JSON object, checked field by field. No jax.

`TaskFields` is the schema, version 1: its attributes are the fields of the JSON object. `ClassEntry` has the fields of
a class. Shipped tasks are the files in `data/`, found by glob; a user's own file has the same fields.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections import Counter
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, replace
from functools import cache
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

from etp_jax.errors import EtpError
from etp_jax.json_text import parse_json
from etp_jax.paths import inside, read_file, real

FORMAT = 1
"""Version of the schema."""
SHIPPED = Path(__file__).parent / "data"
"""Folder of the shipped tasks."""
TABLES = Path(__file__).parent / "tables"
"""Folder of the tables that tasks share: vocabularies, prompt sets, waveform features."""
KINDS = {str: "a string", int: "a whole number", float: "a number", bool: "true or false"}
"""JSON's name of a Python type, for messages."""


@dataclass(frozen=True)
class ClassEntry:
    """One class in a task file."""

    code: str
    """Short name of the class in tables and results."""
    name: str
    """Name of the class in plain English."""
    labels: tuple[str, ...]
    """Label codes of the class; a record with any of them is positive."""
    prompts: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """Sentences for zero-shot classification, by prompt set; most tasks have the set `default`."""


@dataclass(frozen=True)
class Contrast:
    """A prompt set that subtracts the score of some sentences from every class score."""

    of: str
    """Prompt set whose sentences describe the classes."""
    against: tuple[str, ...]
    """Sentences whose score is subtracted."""
    weight: float
    """Factor of the subtracted score."""
    written: str = ""
    """Note on how the prompt set was written."""


@dataclass(frozen=True, kw_only=True)
class TaskFields:
    """The fields of a task file; those without a default must be given."""

    format: int
    """Version of the schema: 1."""
    name: str
    """Name of the task: letters, digits and `_ . + -`."""
    title: str
    """The task in one line."""
    classes: tuple[ClassEntry, ...]
    """All classes of the task, in the order of its tables."""
    group: str = ""
    """Heading above the task's classes in `etp predict`; by default the title. Tasks may share a heading."""
    source: str = ""
    """Source of classes and codes."""
    of: str | None = None
    """Task that supplies all fields not given here: a shipped task's name, or a .json path relative to this folder."""
    labels: dict[str, tuple[str, ...]] = field(default_factory=dict)
    """With `of` only: label codes by class, which replace those of the other task."""
    order: int | None = None
    """Position among the shipped tasks in lists and reports; files without one follow by name."""
    dataset: str = ""
    """Data set whose label codes the task uses."""
    archive: str | None = None
    """If given, only records with this `dataset` field are used; needed for codes shared by several data sets."""
    vocabulary: dict[str, str] = field(default_factory=dict)
    """Meaning of each label code; by default the shipped table for `dataset`, if there is one."""
    scored: tuple[str, ...] | None = None
    """Codes of the scored classes; by default all. A record with another class is not counted as single-label."""
    max_per_class: int | None = None
    """If given, records form a balanced single-label set with at most this many records of each class."""
    all_splits: bool = False
    """Whether records come from all splits of the shards."""
    known_codes: dict[str, str] | None = None
    """If given, records with any other label code are left out. The values are names."""
    overlapping: bool = False
    """Whether one label code may make a record positive for several classes."""
    templates: dict[str, str] = field(default_factory=dict)
    """Prompt sets with one sentence for every class; `{name}` is its name. The text tower reads them unchanged."""
    contrasts: dict[str, Contrast] = field(default_factory=dict)
    """Contrast sets of this task, in addition to or instead of the shipped one."""
    shared_prompts: tuple[str, ...] = ()
    """Prompts that several classes may have; lint accepts them."""


@dataclass(frozen=True, kw_only=True)
class TaskFile(TaskFields):
    """A task file, read and checked, with the fields of the task in `of` filled in."""

    path: Path
    """Path of the file."""
    content: dict[str, Any]
    """JSON object without `of` and `labels`, which have been resolved."""

    @property
    def shipped(self) -> bool:
        """Whether the task is a shipped one."""
        return self.path.parent == SHIPPED

    @property
    def label_vocabulary(self) -> dict[str, str]:
        """Label codes of the data set with their meaning; empty if neither the file nor a table has them."""
        return self.vocabulary or table("vocabularies.json")["vocabularies"].get(self.dataset, {})

    @property
    def digest(self) -> str:
        """Hash of everything in the file that affects results."""
        facts = {name: value for name, value in self.content.items() if name not in DESCRIPTIVE}
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:12]


DESCRIPTIVE = ("title", "group", "source", "order")
"""Fields that do not affect results; a file with `of` does not inherit them."""


def read_task_file(path: Path, above: tuple[Path, ...] = ()) -> TaskFile:
    """Reads and checks a task file.

    Args:
      path: the file.
      above: files that are derived from this one.

    Raises:
      EtpError: the file cannot be read, has an unknown field or a wrong value, lacks classes, or has a code twice.
    """
    if real(path) in above:
        raise EtpError(f"{path}: is derived from itself; correct its `of`")
    content = _read_json(path)
    if isinstance(base := content.get("of"), str):
        shipped = not base.endswith(".json")
        where = f"{path}: of"
        file = inside(SHIPPED, f"{base}.json", where, subfolders=False) if shipped else path.parent / base
        if not os.path.exists(file):  # noqa: PTH110 - Path.exists raises for a name that is too long
            raise EtpError(f"{path}: of: no task {base!r}; name a shipped task or a .json file, from this folder")
        other = read_task_file(file, (*above, real(path))).content
        content = {name: value for name, value in other.items() if name not in DESCRIPTIVE} | content
    given: TaskFields = _convert(content, TaskFields, f"{path}", "")
    stray = next((code for code in given.labels if code not in {c.code for c in given.classes}), None)
    if given.labels and given.of is None:
        raise EtpError(f"{path}: labels: belongs to a file with `of`; give each class its own labels")
    if stray is not None:
        raise EtpError(f"{path}: labels: no class {stray!r} in {given.of}")
    classes = tuple(replace(c, labels=given.labels.get(c.code, c.labels)) for c in given.classes)
    entries = [entry | {"labels": list(c.labels)} for entry, c in zip(content["classes"], classes, strict=True)]
    content = {n: v for n, v in content.items() if n not in ("of", "labels")} | {"classes": entries}
    found = TaskFile(**vars(replace(given, classes=classes)), path=path, content=content)
    _check(found)
    _check_classes(found)
    return found


def task_text(content: dict[str, Any]) -> str:
    """Formats a task's JSON object: one line per field, and per entry of objects and of lists of objects."""
    lines = []
    for name, value in content.items():
        text = _inline(value)
        if isinstance(value, dict):
            entries = [f"{_inline(key)}: {_inline(entry)}" for key, entry in value.items()]
            text = "{\n    " + ",\n    ".join(entries) + "\n  }"
        elif isinstance(value, list) and value and isinstance(value[0], dict):
            text = "[\n    " + ",\n    ".join(map(_inline, value)) + "\n  ]"
        lines.append(f"  {_inline(name)}: {text}")
    return "{\n" + ",\n".join(lines) + "\n}\n"


@cache
def table(file: str) -> dict[str, Any]:
    """Reads one of the tables that tasks share."""
    return json.loads((TABLES / file).read_text(encoding="utf-8"))


def _inline(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = parse_json(read_file(path))
    except (OSError, ValueError) as error:
        raise EtpError(f"{path}: cannot be read as a task ({error})") from None
    if not isinstance(content, dict):
        raise EtpError(f"{path}: must hold a JSON object, as `etp tasks new` writes it")
    if content.get("format") != FORMAT:
        raise EtpError(f"{path}: has format {content.get('format')!r}; this version reads tasks of format {FORMAT}")
    return content


def _convert(value: Any, kind: Any, file: str, place: str) -> Any:
    """Converts a JSON value to the Python type `kind`; raises EtpError, naming the place, if the type differs."""
    origin, args = get_origin(kind), get_args(kind)
    if origin is UnionType:
        return _convert(value, args[0], file, place)
    if origin is tuple:
        _expect(value, list, "a list", file, place)
        return tuple(_convert(item, args[0], file, f"{place}[{n}]") for n, item in enumerate(value, 1))
    if origin is dict:
        _expect(value, dict, "an object", file, place)
        return {name: _convert(item, args[1], file, f"{place}.{name}") for name, item in value.items()}
    if is_dataclass(kind):
        _expect(value, dict, "an object", file, place)
        return _convert_object(value, kind, file, place)
    _expect(value, (int, float) if kind is float else kind, KINDS[kind], file, place)
    return value


def _convert_object(value: dict[str, Any], kind: Any, file: str, place: str) -> Any:
    hints = get_type_hints(kind)
    where = f"{file}: {place}" if place else file
    unknown = next((name for name in value if name not in hints), None)
    if unknown is not None:
        raise EtpError(f"{where}: unknown field {unknown!r}; the fields are {', '.join(hints)}")
    for spec in fields(kind):
        if spec.name not in value and spec.default is MISSING and spec.default_factory is MISSING:
            raise EtpError(f"{where}: lacks the field {spec.name!r}")
    inside = f"{place}." if place else ""
    return kind(**{name: _convert(item, hints[name], file, f"{inside}{name}") for name, item in value.items()})


def _expect(value: Any, kind: Any, words: str, file: str, place: str) -> None:
    """Raises EtpError if a JSON value is not of a Python type. In Python, true and false are also integers."""
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise EtpError(f"{file}: {place}: must be {words}, not {json.dumps(value)}")


def _check(file: TaskFile) -> None:
    """Raises EtpError for wrong values of the task's fields."""
    if not re.fullmatch(r"[\w.+-]{1,100}", file.name) or file.name.endswith(".json"):
        raise EtpError(f"{file.path}: name: {file.name!r} must consist of 1 to 100 letters, digits and _ . + -")
    if not file.shipped and (SHIPPED / f"{file.name}.json").exists():
        raise EtpError(f"{file.path}: name: {file.name!r} is the name of a shipped task; choose another")
    if file.scored == ():
        raise EtpError(f"{file.path}: scored: names no class")
    unknown = next((code for code in file.scored or () if code not in {c.code for c in file.classes}), None)
    if unknown is not None:
        raise EtpError(f"{file.path}: scored: no class {unknown!r}")
    if file.max_per_class is not None and file.max_per_class < 1:
        raise EtpError(f"{file.path}: max_per_class: must be at least 1, not {file.max_per_class}")
    for name, template in file.templates.items():
        if "{name}" not in template:
            raise EtpError(f"{file.path}: templates.{name}: must contain {{name}}, the place of the class's name")


def _check_classes(file: TaskFile) -> None:
    """Raises EtpError for missing classes or label codes, and for codes that are given twice."""
    if not file.classes:
        raise EtpError(f"{file.path}: classes: there must be at least one")
    twice = next((code for code, count in Counter(c.code for c in file.classes).items() if count > 1), None)
    if twice is not None:
        raise EtpError(f"{file.path}: classes: code {twice!r} is given twice")
    owner: dict[str, str] = {}
    for c in file.classes:
        where = f"{file.path}: class {c.code}: labels"
        if not c.labels:
            raise EtpError(f"{where}: there must be at least one label code")
        for label in c.labels:
            if owner.get(label) == c.code:
                raise EtpError(f"{where}: label code {label!r} is given twice")
            if label in owner and not file.overlapping:
                other = owner[label]
                raise EtpError(f"{where}: {label!r} belongs to class {other} too; if intended, set `overlapping`: true")
            owner[label] = c.code
