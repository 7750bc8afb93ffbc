"""Structure of the JSON files that the project writes: a changed document opens or is refused, whatever was changed.

Hypothesis changes up to three values of a valid document, and shrinks what fails. A document that once failed is kept
in `seeds/NAME/`, where NAME is that of the document, and is read by every run of the test.
"""

from __future__ import annotations

import copy
import json
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etp_jax import config as config_module
from etp_jax.data_prep.archives import ptbxl
from etp_jax.data_prep.build import build, build_part
from etp_jax.data_prep.parts import Part, PartSummary, merge
from etp_jax.encoder.calibration import CALIBRATION_FILE, Calibration, Threshold, load_calibration, save_calibration
from etp_jax.encoder.card import read_figures
from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation.results import Result
from etp_jax.models.tokenizer import Tokenizer
from etp_jax.report.runs import compare
from etp_jax.reproduce.estimate import read_benchmark
from etp_jax.shards.folder import BuildSummary, finished
from etp_jax.shards.reader import Shards
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.task_file import SHIPPED, read_task_file
from etp_jax.training import digest
from etp_jax.training.log import FILE as METRICS
from etp_jax.training.log import read_metrics
from etp_jax.waveform.features import Check, Feature, collect, load_proposals
from tests.fuzz.mutate import VALUES, _places
from tests.fuzz.project_targets import _write_result
from tests.helpers import ptbxl_samples
from tests.helpers.unsealed import unseal

SECONDS = 1.0
"""Longest time for one document, in seconds of the processor."""
EXAMPLES, SLOW_EXAMPLES = 20, 3
"""Number of changed documents for each file; fewer where the reader also restores a checkpoint."""
SEEDS = Path(__file__).parent / "seeds"
Read = Callable[[], object]


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory, run_dir: Path) -> dict[str, tuple[Path, Read]]:
    """Each document that the project writes, with what reads it; all are valid."""
    folder = tmp_path_factory.mktemp("documents")
    archive = ptbxl.open_archive(ptbxl_samples.write_archive(folder / "source"))
    archive = replace(archive, studies=archive.studies[:4])
    build(archive, folder / "shards")
    parts = [folder / "one", folder / "two"]
    for number, out in enumerate(parts, 1):
        build_part(archive, out, Part(number, 2))
    task = json.loads((SHIPPED / "ptbxl-super.json").read_text(encoding="utf-8")) | {"name": "mine"}
    (folder / "task.json").write_text(json.dumps(task))
    (folder / "prompts.json").write_text(json.dumps({c["code"]: ["one", "two"] for c in task["classes"]}))
    feature = Feature("QRS duration is 120 ms or longer", Check("qrs_ms", low=120.0), "test")
    collect({"block": [feature], "other": []}, {"source": "test"}).save(folder / "proposals.json")
    _write_result(folder / "results")
    run = shutil.copytree(run_dir, folder / "run")
    digest.forget(run)
    digested = shutil.copytree(run_dir, folder / "digested")
    threshold = {"mine": {"NORM": Threshold(0.5, 0.9, 0.8)}}
    save_calibration(run, Calibration("contrast", "validation", {"mine": {"NORM": (1.0, 0.0)}}, {}, threshold))
    (run / METRICS).write_text(json.dumps({"kind": "train", "step": 1, "loss": 1.0, "ecg_per_s": 2.0}) + "\n")
    (folder / "bench.json").write_text(json.dumps(benchmark()))

    recipe = Shards(folder / "shards").build["preparation"]

    def shards() -> None:
        opened = Shards(folder / "shards")
        assert finished(opened.folder, recipe)
        print(BuildSummary(opened.folder, opened.build))
        for name in opened.splits:
            list(opened.reports(name).reports)

    def part() -> None:
        content = json.loads((parts[0] / "part.json").read_text())
        merge(parts, folder / "merged")
        print(PartSummary(parts[0], content))

    def result() -> None:
        Result.load(folder / "results" / "r.json").table()
        read_figures(folder / "results" / "r.json")

    readers: dict[str, tuple[Path, Read]] = {
        "build": (folder / "shards" / "build.json", shards),
        "part": (parts[0] / "part.json", part),
        "task": (folder / "task.json", lambda: read_task_file(folder / "task.json")),
        "prompts": (folder / "prompts.json", lambda: with_prompts("ptbxl-super", folder / "prompts.json")),
        "proposals": (folder / "proposals.json", lambda: load_proposals(folder / "proposals.json")),
        "result": (folder / "results" / "r.json", result),
        "config": (run / "config.json", lambda: (config_module.load(run / "config.json"), compare([run]))),
        "text": (run / "text.json", lambda: Encoder.from_run(run)),
        "shards": (run / "shards.json", lambda: Encoder.from_run(run)),
        "tokenizer": (run / "tokenizer.json", lambda: Tokenizer.from_file(run / "tokenizer.json")),
        "metrics": (run / METRICS, lambda: (read_metrics(run), compare([run]))),
        "calibration": (run / CALIBRATION_FILE, lambda: load_calibration(run)),
        "digest": (digested / "digest.json", lambda: digest.damage(digested)),
        "bench": (folder / "bench.json", lambda: read_benchmark(folder)),
    }
    for path, read in readers.values():
        unseal(path)
        read()
        shutil.copyfile(path, path.with_name(f".{path.name}.valid"))
    return readers


def benchmark() -> dict[str, Any]:
    """A benchmark of one row, as `etp bench --json` writes it."""
    row = {"what": "train step", "framework": "etp-jax", "batch_size": 8, "devices": jax.device_count()}
    row |= {"flops": 1000, "step_s": [0.1, 0.2]}
    return {"format": 1, "recipe": "mets", "device": jax.devices()[0].device_kind, "rows": [row]}


NAMES = (
    *("build", "part", "task", "prompts", "proposals", "result", "config", "text", "shards", "tokenizer", "metrics"),
    *("calibration", "digest", "bench"),
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
CHANGE = st.tuples(
    st.integers(0, 2**20), st.sampled_from(("set", "drop", "rename", "double")), st.sampled_from(VALUES) | JSON
)


def changed(tree: Any, number: int, kind: str, value: Any) -> Any:
    """Returns a document with one value replaced, removed, renamed or repeated."""
    tree = copy.deepcopy(tree)
    places = list(_places(tree, ()))
    path = places[number % len(places)]
    if not path:
        return value
    parent = tree
    for key in path[:-1]:
        parent = parent[key]
    if kind == "drop":
        del parent[path[-1]]
    elif kind == "double" and isinstance(parent, list):
        parent.append(parent[path[-1]])
    elif kind == "rename" and isinstance(parent, dict):
        parent[str(value)[:50]] = parent.pop(path[-1])
    else:
        parent[path[-1]] = value
    return tree


def check(path: Path, content: bytes, read: Read) -> None:
    """Reads a changed document; only an EtpError is allowed, of one line and within a second."""
    path.write_bytes(content)
    started = time.process_time()
    try:
        read()
    except EtpError as error:
        assert len(str(error).splitlines()) == 1, error
    finally:
        shutil.copyfile(path.with_name(f".{path.name}.valid"), path)
        shutil.rmtree(path.parents[1] / "merged", ignore_errors=True)
    assert time.process_time() - started < SECONDS


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_changed_document_opens_or_is_refused(documents: dict[str, tuple[Path, Read]], name: str) -> None:
    path, read = documents[name]
    tree = json.loads(path.read_text(encoding="utf-8"))

    @settings(
        max_examples=SLOW_EXAMPLES if name in ("text", "shards") else EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
    )
    @given(st.lists(CHANGE, min_size=1, max_size=3))
    def attempt(changes: list[tuple[int, str, Any]]) -> None:
        document = tree
        for change in changes:
            document = changed(document, *change)
        check(path, json.dumps(document).encode(), read)

    attempt()


@pytest.mark.parametrize("seed", sorted(SEEDS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name}")
def test_what_once_failed(documents: dict[str, tuple[Path, Read]], seed: Path) -> None:
    path, read = documents[seed.parent.name]
    check(path, seed.read_bytes(), read)
