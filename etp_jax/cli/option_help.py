"""Short `--help` of commands that take all options of a training run: the common options only, one per line."""

from __future__ import annotations

import dataclasses
import inspect
from typing import Any, get_type_hints

import tyro
from docstring_parser import parse_from_object

from etp_jax.config import EcgConfig, TrainConfig
from etp_jax.configs import load_recipe, recipe_names

WIDTH = 120
FLAG_WIDTH, VALUE_WIDTH = 29, 12
USUAL = (
    *("data.shards", "data.stage_dir", "data.train_share", "data.resident"),
    *("augment.few_leads",),
    *(
        "model.text.lowercase",
        "model.text.precision",
        "model.text.remat",
        "model.text.scan",
        "model.text.fused_attention",
    ),
    *("loss.fnm_weight", "loss.fnm_mean", "loss.block", "loss.ring"),
    *("optim.micro_batches",),
    *("run.parallel", "run.steps_per_dispatch", "run.validation_records", "run.tensorboard", "run.deterministic"),
)
"""Options in the short help, besides those that a shipped recipe sets: the ones that the documentation names."""


def own_options(cls: type, defaults: Any) -> list[str]:
    """Formats the options of a command itself, without those of the recipe, one per line."""
    hints, documented, lines = get_type_hints(cls, include_extras=True), _documented(cls), []
    for each in dataclasses.fields(cls):
        names = [extra.name for extra in getattr(hints[each.name], "__metadata__", ())]
        flag = names[0] if names else each.name
        if flag:
            lines.append(_line(flag, getattr(defaults, each.name), documented.get(each.name, "")))
    return lines


def recipe_options(config: TrainConfig) -> list[str]:
    """Formats the common options by group: all of the ECG tower, those in `USUAL`, and those that a recipe sets."""
    plain, usual = _flat(TrainConfig()), set(USUAL)
    for recipe in map(load_recipe, recipe_names()):
        usual |= {name for name, value in _flat(recipe).items() if value != plain.get(name)}
    lines: list[str] = []
    general = [line for name, line in _lines(config, "") if "." not in name]
    for group in ("data", "augment", "model", "model.ecg", "model.text", "loss", "optim", "run"):
        options: Any = config
        for part in group.split("."):
            options = getattr(options, part)
        whole = isinstance(options, EcgConfig)
        chosen = [line for name, line in _lines(options, f"{group}.") if whole or name in usual]
        lines += ["", f"{group}: {_sentence(type(options).__doc__ or '')}", *chosen]
    return ["", "general", *general, *lines]


def pointer(command: str) -> list[str]:
    """Explains the columns, and names the command that shows all options."""
    return ["Columns: option, value in this recipe, meaning.", f"All options: etp {command} --help-all"]


def _lines(options: Any, prefix: str) -> list[tuple[str, str]]:
    """Lists the dotted name and the help line of every field that is not a group of options."""
    documented = _documented(type(options))
    return [
        (prefix + each.name, _line(prefix + each.name, getattr(options, each.name), documented.get(each.name, "")))
        for each in dataclasses.fields(options)
        if not dataclasses.is_dataclass(getattr(options, each.name))
    ]


def _line(name: str, value: Any, description: str) -> str:
    if value is tyro.MISSING:
        shown = "required"
    elif isinstance(value, tuple):
        shown = " ".join(map(str, value)) or "-"
    else:
        shown = "-" if value == "" else str(value)
    columns = f"--{name.replace('_', '-')}".ljust(FLAG_WIDTH), _cut(shown, VALUE_WIDTH).ljust(VALUE_WIDTH)
    return _cut(f"  {' '.join(columns)}  {_sentence(description)}", WIDTH).rstrip()


def _cut(text: str, width: int) -> str:
    """Truncates the text to the words that fit."""
    return text if len(text) <= width else f"{text[: width - 1].rpartition(' ')[0] or text[: width - 2]} …"


def _documented(cls: type) -> dict[str, str]:
    """Returns the descriptions of the fields of a dataclass, including inherited ones."""
    bases = [base for base in reversed(inspect.getmro(cls)) if dataclasses.is_dataclass(base)]
    return {param.arg_name: param.description or "" for base in bases for param in parse_from_object(base).params}


def _sentence(text: str) -> str:
    """Returns the first sentence, on one line."""
    return " ".join(text.split()).partition(". ")[0].rstrip(".")


def _flat(options: Any, prefix: str = "") -> dict[str, Any]:
    """Flattens the options to a dictionary by dotted name."""
    flat: dict[str, Any] = {}
    for each in dataclasses.fields(options):
        value = getattr(options, each.name)
        nested = dataclasses.is_dataclass(value)
        flat |= _flat(value, f"{prefix}{each.name}.") if nested else {prefix + each.name: value}
    return flat
