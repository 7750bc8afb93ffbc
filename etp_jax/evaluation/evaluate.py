"""`etp evaluate`: measures a run beside random encoders; prints a table, writes JSON and scores."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.evaluation import probe, results, retrieval, zero_shot
from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.labelled import ALL, VALIDATION, TaskRecords
from etp_jax.records import Shards
from etp_jax.tasks import Task, get_task
from etp_jax.tasks.lint import lint_file
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.published import read_published

RANDOM_ENCODERS = {"zero-shot": 3, "retrieval": 3, "probe": 1}
"""How many are drawn: without training, the score depends much on the draw."""


def run(
    kind: Literal["zero-shot", "probe", "retrieval"],
    run: str | Path,
    shards: str | Path,
    task: str = "ptbxl-super",
    split: str = VALIDATION,
    prompts: str = "default",
    json_path: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    fractions: Sequence[float] = (0.01, 0.1, 1.0),
    bootstrap: int = 1000,
    checkpoint: Literal["best", "latest"] = "best",
    published: Path | None = None,
) -> dict[str, Any]:
    """Measures a run; prints the table and writes the JSON.

    Args:
      kind: what is measured.
      run: run folder.
      shards: shard folder.
      task: by name; retrieval needs none.
      split: whose records are scored; `all` for those of every split (zero-shot only).
      prompts: prompt set of a zero-shot evaluation, or a `.json` file of one's own prompts.
      json_path: by default RUN/evaluation/<task>-<kind>-<split>.json; scores go beside it, as `.npz`.
      seeds: of the probe's subsets of training records.
      fractions: sizes of these.
      bootstrap: replicates of the intervals.
      checkpoint: which one.
      published: folder of published CSV files whose records, labels and splits count instead of the shards' own.

    Returns:
      What the JSON holds.

    Raises:
      EtpError: no run folder, no shard folder; unknown task, prompt set or split; shards of another shape or without
        the task's labels; a run that has seen what it is to be measured on.
    """
    folder, opened, definition = Path(run), Shards(shards), _task(task, prompts)
    _check(kind, definition, split, published)
    if split != ALL and published is None:
        opened.split(split)
    records = TaskRecords(opened, definition, read_published(published, definition) if published else None)
    trained = Encoder.from_run(folder, checkpoint)
    if kind != "retrieval":
        _check_unseen(trained, records, split)
    drawn = [("random", trained.random(seed)) for seed in range(RANDOM_ENCODERS[kind])]
    encoders = [("trained", trained), *drawn]
    match kind:
        case "zero-shot":
            outcome = zero_shot.evaluate(encoders, records, split, bootstrap)
        case "probe":
            outcome = probe.evaluate(encoders, records, split, bootstrap, seeds, fractions)
        case "retrieval":
            outcome = retrieval.evaluate(encoders, opened, split, bootstrap)
    result = {
        "run": folder.resolve().name,
        "task": None if kind == "retrieval" else task,
        "kind": kind,
        "protocol": outcome.protocol
        | {"bootstrap": f"{bootstrap} draws of patients", "random": "ECG tower and projections drawn, text tower kept"},
        "split": split,
        "records": outcome.records,
        "pretrained_on": trained.trained_on["name"],
        "checkpoint": {"which": checkpoint, "step": trained.step},
        "shards": {"name": opened.name, "fs": opened.fs, "fingerprint": opened.fingerprint},
        "thresholds_from": outcome.thresholds_from,
        "versions": results.versions(),
        "rows": [row.to_dict() for row in outcome.rows],
        "summary": results.summarise(outcome.rows),
    }
    stem = f"{kind}-{split}" if kind == "retrieval" else f"{task}-{kind}-{split}"
    if kind == "zero-shot" and prompts != "default":
        stem += f"-{Path(prompts).stem}"
    if published is not None:
        stem += "-published"
    path = json_path or folder / "evaluation" / f"{stem}.json"
    results.write_json(result, path)
    if outcome.scores:
        results.write_scores(outcome, definition, records.of(split), path.with_suffix(".npz"))
    print(results.table(result))
    print(f"\nwrote {path}")
    return result


def _task(name: str, prompts: str) -> Task:
    """The task with its prompts; says what the linter finds in prompts of a file."""
    if not prompts.endswith(".json"):
        return get_task(name, prompts)
    for flaw in lint_file(Path(prompts), name):
        print(f"{prompts}: {flaw}", file=sys.stderr)
    return with_prompts(name, Path(prompts))


def _check(kind: str, task: Task, split: str, published: Path | None) -> None:
    """Raises EtpError for what does not go together."""
    if kind == "retrieval":
        if split == ALL or published is not None:
            raise EtpError("retrieval reads one split of the shards; it takes neither `all` nor published labels")
        return
    if task.most is not None and kind == "probe":
        raise EtpError(f"{task.name} is too small to fit probes on; probe a ptbxl task")
    if task.most is not None and published is not None:
        raise EtpError(f"{task.name} draws its own records; it cannot take published ones")
    if task.all_splits and split != ALL:
        raise EtpError(f"{task.name} draws its records from all splits; ask for them with --split {ALL}")
    if kind == "probe" and split == ALL:
        raise EtpError("a probe is fitted on split 'train'; score another one")


def _check_unseen(trained: Encoder, records: TaskRecords, split: str) -> None:
    """Raises EtpError when records to be scored are among those that the run was trained on."""
    shards, train = records.shards, trained.config.data.train_split
    if split == train or trained.trained_on["name"] != shards.name or train not in shards.splits:
        return
    target = records.of(split).record_ids
    seen = np.isin(target, shards.split(train).columns.record_id).sum()
    if seen:
        raise EtpError(
            f"{trained.run_dir}: was trained on {seen} of the {len(target)} records that {records.task.name} has in "
            f"{split!r} of {shards.name}; score a run that was trained on other data"
        )
