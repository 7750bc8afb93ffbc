"""The study file of `etp reproduce`, in TOML.

title = "Which pairs?"                 # heading of the table; by default the file's name
shards = "shards/ptbxl-100"            # for training and evaluation; paths are relative to the working directory
split = "validation"                   # or "test", which must be named
checkpoint = "best"                    # or "latest"
tasks = ["ptbxl-super"]
recipe = "ptbxl"                       # `recipe`, `stage`, `seeds` and `options` are defaults of all runs;
seeds = [0, 1, 2]                      # common options come before a run's own
options = "--optim.epochs 4"           # options of `etp train`, a string or a list

[[run]]
name = "coarse"

[[run]]
name = "fine"
start_from = "coarse"                  # a run above, with the same seed
shards = "shards/ptbxl-fine"           # replaces the study's shards for training
pretrained_on = "PTB-XL folds 1-8"     # column of the table; by default the run's shards and split

[[run]]
name = "older"
folder = "runs/older-{seed}"           # an existing run, or "shipped"; it is only evaluated
seeds = [0]

[[evaluate]]
kind = "zero-shot"                     # or another kind of `etp evaluate`
prompts = ["default", "contrast"]      # for zero-shot: prompt sets or .json files
protocols = ["honest"]                 # for other kinds that have several protocols
options = "--features stages"          # the kind's own options of `etp evaluate`, a string or a list
tasks = ["mets-super"]                 # default: the study's tasks
shards = "shards/cpsc"                 # default: the study's shards; paths are relative to the working directory
split = "all"                          # default: the study's split
runs = ["fine"]                        # default: all runs
seeds = [0]                            # default: all seeds of the run

[[compare]]
pair = ["fine", "coarse"]              # the first minus the second

[[published]]                          # published figures, for comparison
name = "MERL"
pretrained_on = "MIMIC-IV-ECG"
source = "its table 2"
kind = "probe"
labels = 0.01                          # share of the training labels
macro_auroc = { ptbxl-super = 0.824 }  # by task
"""

from __future__ import annotations

import re
import shlex
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from etp_jax.config import TrainConfig
from etp_jax.configs import load_recipe
from etp_jax.errors import EtpError
from etp_jax.evaluation.kinds import KINDS, Kind
from etp_jax.evaluation.request import HONEST, Request, TaskRequest, check_protocol
from etp_jax.losses.pairs import check_loss
from etp_jax.models.towers import with_named_tower
from etp_jax.paths import read_file
from etp_jax.reproduce.options import set_options
from etp_jax.shards.record import VALIDATION

TEXT, TEXTS, NUMBERS, OPTIONS, TABLES, SHARE, BY_TASK = (
    "a string",
    "a list of strings",
    "a list of distinct whole numbers",
    "a string or a list of strings",
    "tables in double brackets",
    "a number from 0 to 1",
    "a table of numbers from 0 to 1",
)
DEFAULTS = {"recipe": TEXT, "stage": TEXT, "seeds": NUMBERS, "options": OPTIONS}
STUDY = {"title": TEXT, "shards": TEXT, "split": TEXT, "checkpoint": TEXT, "tasks": TEXTS, **DEFAULTS}
STUDY |= {"run": TABLES, "evaluate": TABLES, "compare": TABLES, "published": TABLES}
RUN = {"name": TEXT, **DEFAULTS, "start_from": TEXT, "shards": TEXT, "folder": TEXT, "pretrained_on": TEXT}
EVALUATE = {"kind": TEXT, "prompts": TEXTS, "protocols": TEXTS, "tasks": TEXTS, "shards": TEXT, "split": TEXT}
EVALUATE |= {"options": OPTIONS, "runs": TEXTS, "seeds": NUMBERS}
COMPARE = {"pair": TEXTS}
PUBLISHED = {"name": TEXT, "pretrained_on": TEXT, "source": TEXT, "kind": TEXT, "labels": SHARE, "macro_auroc": BY_TASK}
MOST_BYTES = 2**20
"""Largest study file, in bytes."""
MOST_DOTS = 200
"""Largest number of dots in a line. Memory of the parser grows with the square of a dotted key's length."""
OWN_KEYS = {"data.shards": "shards", "seed": "seeds", "start-from": "start_from"}
"""Options of `etp train` that have a key of their own in a study."""
OWN_KEYS_OF_EVALUATE = {"task", "prompts", "protocol"}
"""Options of a kind of evaluation that have a key of their own in a study."""


@dataclass(frozen=True)
class Run:
    """A run of the study, with all its seeds."""

    name: str
    seeds: tuple[int, ...]
    config: TrainConfig | None
    """Training options, except seed and `start_from`, which depend on the seed; None for an existing run."""
    start_from: str | None = None
    """Name of the run to start from."""
    folder: str | None = None
    """Folder of an existing run, with the placeholder `{seed}`; None for a run to be trained."""
    pretrained_on: str | None = None
    """Description of the training data for the table; None: derived from the shards."""


@dataclass(frozen=True)
class Measurement:
    """One way to evaluate runs of the study: kind, task, and prompts or protocol."""

    request: Request
    """Options of the evaluation; `run` is filled in for each run folder."""
    options: str = ""
    """The kind's own options, as the study gives them."""

    @property
    def kind(self) -> Kind:
        """The kind of evaluation."""
        return KINDS[self.request.kind]

    def columns(self) -> dict[str, str | None]:
        """Columns of tables and logs: `kind`, `how` (prompts or protocol, and options; None without any) and `task`."""
        how = ", ".join(filter(None, (self.request.how, self.options)))
        return {"kind": self.kind.name, "how": how or None, "task": self.request.task_name}

    def __str__(self) -> str:
        """Kind, task and choice, such as `zero-shot ptbxl-super, contrast`."""
        kind, how, task = self.columns().values()
        return " ".join(filter(None, (kind, task))) + (f", {how}" if how else "")


@dataclass(frozen=True)
class Study:
    """A study file, read and checked."""

    file: Path
    title: str
    shards: Path
    split: str
    checkpoint: Literal["best", "latest"]
    runs: tuple[Run, ...]
    measurements: dict[str, dict[Measurement, tuple[int, ...]]]
    """Measurements of each run, each with the seeds to evaluate."""
    pairs: tuple[tuple[str, str], ...]
    """Pairs of names of runs to compare."""
    published: tuple[dict[str, Any], ...]
    """Published figures, as given in the file."""


def read(file: Path, shards: Path | None = None) -> Study:
    """Reads and checks a study; `shards`, if given, replaces the file's own.

    Raises:
      EtpError: the file is not TOML; a key, run, recipe, option, task or prompt set is unknown; or entries contradict
        each other. The message names the file and its part.
    """
    try:
        table = _parse(read_file(file, MOST_BYTES).decode())
    except (OSError, ValueError, RecursionError) as error:
        raise EtpError(f"{file}: cannot be read as TOML ({error})") from None
    with _in(f"{file}"):
        _check(table, STUDY, needed=("run", "evaluate"))
        if shards is None and "shards" not in table:
            raise EtpError("names no `shards`; add them, or give --shards")
        checkpoint = table.get("checkpoint", "best")
        if checkpoint not in ("best", "latest"):
            raise EtpError(f"checkpoint {checkpoint!r} is neither 'best' nor 'latest'")
    data = shards or Path(table["shards"])
    runs: list[Run] = []
    for number, entry in enumerate(table["run"], 1):
        with _in(f"{file}: run {entry.get('name', number)}"):
            runs.append(_run(entry, table, data, runs))
    split, measurements = table.get("split", VALIDATION), {run.name: {} for run in runs}
    common = {"shards": data, "split": split, "checkpoint": checkpoint}
    for number, entry in enumerate(table["evaluate"], 1):
        with _in(f"{file}: evaluate {entry.get('kind', number)}"):
            _check(entry, EVALUATE, needed=("kind",))
            own = {key: kind(entry[key]) for key, kind in (("shards", Path), ("split", str)) if key in entry}
            found = _measurements(entry, table.get("tasks", []), common | own)
            for name in _run_names(entry.get("runs", list(measurements)), runs):
                run = next(run for run in runs if run.name == name)
                for measurement in found:
                    seeds = {*measurements[name].get(measurement, ()), *_seeds(entry, run)}
                    measurements[name][measurement] = tuple(seed for seed in run.seeds if seed in seeds)
            _check_distinct(measurements)
    pairs = []
    for number, entry in enumerate(table.get("compare", []), 1):
        with _in(f"{file}: compare {number}"):
            pairs.append(_pair(entry, runs))
    for entry in table.get("published", []):
        with _in(f"{file}: published {entry.get('name', '')}"):
            _check(entry, PUBLISHED, needed=("name", "pretrained_on", "source", "kind", "macro_auroc"))
            _kind(entry["kind"])
    title, published = table.get("title", file.stem), tuple(table.get("published", []))
    return Study(file, title, data, split, checkpoint, tuple(runs), measurements, tuple(pairs), published)


def _parse(text: str) -> dict[str, Any]:
    for number, line in enumerate(text.splitlines(), 1):
        if line.count(".") > MOST_DOTS:
            raise ValueError(f"line {number} has more than {MOST_DOTS} dots")
    return tomllib.loads(text)


def _run(entry: dict[str, Any], table: Mapping[str, Any], shards: Path, above: Sequence[Run]) -> Run:
    _check(entry, RUN, needed=("name",))
    name, label = entry["name"], entry.get("pretrained_on")
    if not re.fullmatch(r"[\w.+-]+", name):
        raise EtpError("a name must consist of letters, digits and _ . + -")
    if name in (run.name for run in above):
        raise EtpError("is defined twice")
    seeds = tuple(entry.get("seeds", table.get("seeds", [0])))
    if "folder" in entry:
        clash = sorted(set(entry) - {"name", "seeds", "folder", "pretrained_on"})
        if clash:
            raise EtpError(f"an existing run (`folder`) is not trained, so it takes no `{clash[0]}`")
        if len(seeds) > 1 and "{seed}" not in entry["folder"]:
            raise EtpError("`folder` must contain `{seed}` if there are several seeds")
        return Run(name, seeds, None, folder=entry["folder"], pretrained_on=label)
    recipe = entry.get("recipe", table.get("recipe"))
    if recipe is None:
        raise EtpError("names neither `recipe` nor `folder`")
    base = entry.get("start_from")
    if base is not None:
        if base not in (run.name for run in above):
            raise EtpError(f"start_from {base!r} is not a run above this one")
        missing = set(seeds) - set(next(run for run in above if run.name == base).seeds)
        if missing:
            raise EtpError(f"start_from {base!r} has no seed {min(missing)}")
    options = _words(table.get("options", [])) + _words(entry.get("options", []))
    for name_of_option in _names(options):
        if name_of_option in OWN_KEYS:
            raise EtpError(f"--{name_of_option} is set by `{OWN_KEYS[name_of_option]}`")
    config = load_recipe(recipe, entry.get("stage", table.get("stage")))
    with _in("options"):
        config = set_options(with_named_tower(config, options), options)
    check_loss(config.loss)
    if config.start_from and base is None:
        raise EtpError("its recipe starts from another run; name that run as `start_from`")
    config = replace(config, data=replace(config.data, shards=entry.get("shards", str(shards))))
    return Run(name, seeds, config, base, pretrained_on=label)


def _words(options: str | list[str]) -> list[str]:
    try:
        return shlex.split(options) if isinstance(options, str) else options
    except ValueError as error:  # a quotation without an end
        raise EtpError(f"options {options!r}: {error}") from None


def _names(options: Sequence[str]) -> list[str]:
    """Names of the options among words, without leading hyphens."""
    return [word.removeprefix("--").partition("=")[0].replace("_", "-") for word in options if word.startswith("--")]


def _measurements(entry: dict[str, Any], common_tasks: list[str], common: dict[str, Any]) -> list[Measurement]:
    """Creates a measurement for each prompt set or protocol, and each task."""
    options = _kind(entry["kind"]).options
    if "prompts" in entry and options.choice != "prompts":
        raise EtpError(f"a {options.kind} takes no `prompts`")
    if options.choice != "protocol":
        for protocol in entry.get("protocols", ()):
            check_protocol(options.kind, protocol, (HONEST,))
    words = _words(entry.get("options", []))
    own = {field.name.replace("_", "-") for field in fields(options)} - {field.name for field in fields(Request)}
    for name in _names(words):
        if name.removeprefix("no-") not in own - OWN_KEYS_OF_EVALUATE:
            raise EtpError(f"options: a {options.kind} of a study takes no --{name}")
    with _in("options"):
        requests: list[Request] = [set_options(options(run=Path(), **common), words)]
    if values := entry.get({"prompts": "prompts", "protocol": "protocols"}.get(options.choice, "")):
        requests = [request.chosen(value) for request in requests for value in values]
    if issubclass(options, TaskRequest):
        tasks = entry.get("tasks", common_tasks)
        if not tasks:
            raise EtpError("names no `tasks`, nor does the study")
        requests = [replace(request, task=task) for request in requests for task in tasks]  # pyright: ignore[reportCallIssue]
    elif "tasks" in entry:
        raise EtpError(f"{options.kind} has no tasks")
    for request in requests:
        request.check()
    return [Measurement(request, shlex.join(words)) for request in requests]


def _check_distinct(measurements: Mapping[str, Mapping[Measurement, Any]]) -> None:
    """Raises EtpError if two measurements of a run look alike in the table, or have one file for their results."""
    for own in measurements.values():
        names = list(map(str, own))
        files = {name: measurement.request.file_name() for name, measurement in zip(names, own, strict=True)}
        for name in names:
            if names.count(name) > 1:
                raise EtpError(f"{name} is measured on two splits or shard folders; write a study for each")
            if list(files.values()).count(files[name]) > 1:
                raise EtpError(f"{name} has the result file of another measurement; write a study for each")


def _kind(name: str) -> Kind:
    if name not in KINDS:
        raise EtpError(f"no such kind; there are {', '.join(KINDS)}")
    return KINDS[name]


def _run_names(names: list[str], runs: Sequence[Run]) -> list[str]:
    """Returns the names unchanged; raises EtpError if one is not the name of a run."""
    known = [run.name for run in runs]
    for name in names:
        if name not in known:
            raise EtpError(f"no run {name!r}; there are {', '.join(known)}")
    return names


def _seeds(entry: dict[str, Any], run: Run) -> tuple[int, ...]:
    """Returns the seeds of a run to evaluate."""
    seeds = tuple(seed for seed in run.seeds if seed in entry.get("seeds", run.seeds))
    if not seeds:
        raise EtpError(f"run {run.name} has none of the `seeds`")
    return seeds


def _pair(entry: dict[str, Any], runs: Sequence[Run]) -> tuple[str, str]:
    _check(entry, COMPARE, needed=("pair",))
    if len(set(entry["pair"])) != 2 or len(entry["pair"]) != 2:
        raise EtpError("`pair` holds two runs")
    first, second = _run_names(entry["pair"], runs)
    if not set.intersection(*(set(run.seeds) for run in runs if run.name in (first, second))):
        raise EtpError(f"{first} and {second} have no seed in common")
    return first, second


def _check(table: dict[str, Any], known: Mapping[str, str], needed: Sequence[str]) -> None:
    """Raises EtpError for an unknown key, a value of a wrong type, or a missing key."""
    for key, value in table.items():
        if key not in known:
            raise EtpError(f"unknown key {key!r}; there are {', '.join(known)}")
        if not _is(value, known[key]):
            raise EtpError(f"`{key}` must be {known[key]}")
    for key in needed:
        if key not in table:
            raise EtpError(f"has no `{key}`")


def _is(value: Any, what: str) -> bool:
    def each(cls: type) -> bool:
        return isinstance(value, list) and bool(value) and all(type(item) is cls for item in value)

    def share(number: Any) -> bool:
        return type(number) in (int, float) and 0 <= number <= 1

    return {
        TEXT: isinstance(value, str),
        TEXTS: each(str),
        NUMBERS: each(int) and len(set(value)) == len(value) and min(value) >= 0,
        OPTIONS: isinstance(value, str) or each(str),
        TABLES: each(dict),
        SHARE: share(value),
        BY_TASK: isinstance(value, dict) and bool(value) and all(map(share, value.values())),
    }[what]


@contextmanager
def _in(place: str) -> Iterator[None]:
    """Prefixes the message of an EtpError with the part of the study that it refers to."""
    try:
        yield
    except EtpError as error:
        raise EtpError(f"{place}: {error}") from None
