"""`etp evaluate`: measures a run beside other encoders; prints a table, writes JSON and scores."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from etp_jax.encoder.encoder import Encoder
from etp_jax.errors import EtpError
from etp_jax.evaluation import finetune, knn, merl, probe, results, retrieval, zero_shot
from etp_jax.evaluation.records import TaskRecords
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL, TRAIN, VALIDATION
from etp_jax.tasks import Task, get_task
from etp_jax.tasks.lint import lint_file
from etp_jax.tasks.prompt_file import with_prompts
from etp_jax.tasks.published import read_published

Kind = Literal["zero-shot", "probe", "knn", "finetune", "retrieval"]
HONEST, MERL = "honest", "merl-as-published"
PROTOCOLS = {"probe": (HONEST, MERL), "finetune": (HONEST, MERL)}
"""Of the kinds that have a choice."""
RANDOM_ENCODERS = {"zero-shot": 3, "retrieval": 3, "probe": 1, "knn": 1, "finetune": 0}
"""How many are drawn: without training, the score depends much on the draw."""
FRACTIONS = (0.01, 0.1, 1.0)
"""Of the training labels that probes are fitted on."""
BOOTSTRAP = 1000
"""Replicates of the intervals."""
REVISION = 2
"""Raised with every change of what a figure means, so that studies measure again instead of mixing."""


def fractions_of(kind: str, protocol: str | None = HONEST) -> tuple[float, ...]:
    """Shares of the training labels that a kind of evaluation has rows of."""
    if kind == "finetune":  # as published it takes 100 epochs: on a CPU hours, but for the smallest share
        return (0.01,) if protocol == MERL else (1.0,)
    return FRACTIONS if kind in ("probe", "knn") else (0.0,)


def run(
    kind: Kind,
    run: str | Path,
    shards: str | Path,
    task: str = "ptbxl-super",
    split: str = VALIDATION,
    prompts: str = "default",
    json_path: Path | None = None,
    seeds: Sequence[int] = (0, 1, 2, 3, 4),
    fractions: Sequence[float] | None = None,
    bootstrap: int = BOOTSTRAP,
    checkpoint: Literal["best", "latest"] = "best",
    published: Path | None = None,
    protocol: str = HONEST,
) -> dict[str, Any]:
    """Measures a run; prints the table and writes the JSON.

    Args:
      kind: what is measured.
      run: run folder.
      shards: shard folder.
      task: by name; retrieval needs none.
      split: whose records are scored; `all` for those of every split (zero-shot only).
      prompts: prompt set of a zero-shot evaluation, or a `.json` file of one's own prompts.
      json_path: by default RUN/evaluation/<task>-<kind>-<split>.json; scores and replicates go beside it, as `.npz`.
      seeds: of the subsets of training records.
      fractions: sizes of these; by default those of the kind.
      bootstrap: replicates of the intervals.
      checkpoint: which one.
      published: folder of published CSV files whose records, labels and splits count instead of the shards' own.
      protocol: one of `PROTOCOLS`.

    Returns:
      What the JSON holds.

    Raises:
      EtpError: no run folder, no shard folder; unknown task, prompt set or split; shards of another shape or without
        the task's labels; a run that has seen what it is to be measured on.
    """
    folder, opened, definition = Path(run), Shards(shards), _task(task, prompts)
    check_together(kind, definition, split, protocol, published)
    if split != ALL and published is None:
        opened.split(split)
    records = TaskRecords(opened, definition, read_published(published, definition) if published else None)
    trained = Encoder.from_run(folder, checkpoint)
    trained.check_signals(opened)
    if kind != "retrieval":
        _check_unseen(trained, records, split)
    drawn = [("random", trained.random(seed)) for seed in range(RANDOM_ENCODERS[kind])]
    if kind == "finetune":
        drawn = [("supervised", trained.random(trained.train_seed))]
    encoders, about = [("trained", trained), *drawn], (records, split, bootstrap)
    fractions = fractions or fractions_of(kind, protocol)
    match kind, protocol:
        case "zero-shot", _:
            outcome = zero_shot.evaluate(encoders, *about)
        case "probe", "honest":
            outcome = probe.evaluate(encoders, *about, seeds, fractions, probe.fit)
        case "knn", _:
            outcome = probe.evaluate(encoders, *about, seeds, fractions, knn.Neighbours.fit)
        case "finetune", "honest":
            outcome = finetune.evaluate(encoders, *about)
        case "probe", _:
            outcome = merl.evaluate(encoders, *about, fractions, merl.fit_linear)
        case "finetune", _:
            outcome = merl.evaluate(encoders, *about, fractions, finetune.fit_as_published)
        case "retrieval", _:
            outcome = retrieval.evaluate(encoders, opened, split, bootstrap)
    result = {
        "run": folder.resolve().name,
        "task": None if kind == "retrieval" else task,
        "kind": kind,
        "protocol": {"name": protocol}
        | outcome.protocol
        | {"bootstrap": f"{bootstrap} draws of patients", "random": "ECG tower and projections drawn, text tower kept"},
        "split": split,
        "records": outcome.records,
        "pretrained_on": ", then ".join(seen["name"] for seen in trained.seen),
        "checkpoint": {"which": checkpoint, "step": trained.step},
        "shards": {"name": opened.name, "fs": opened.fs, "fingerprint": opened.fingerprint},
        "thresholds_from": outcome.thresholds_from,
        "revision": REVISION,
        "versions": results.versions(),
        "rows": [row.to_dict() for row in outcome.rows],
        "summary": results.summarise(outcome.rows),
    }
    path = json_path or result_path(folder, kind, split, task, prompts, protocol, published is not None)
    # The JSON comes last: where it is there and fits, what lies beside it does.
    target = records.of(split) if outcome.scores else None
    results.write_arrays(outcome, definition, target, path.with_suffix(".npz"))
    results.write_json(result, path)
    print(results.table(result))
    print(f"\nwrote {path}")
    return result


def result_path(
    run: Path,
    kind: str,
    split: str,
    task: str = "",
    prompts: str = "default",
    protocol: str = HONEST,
    published: bool = False,
) -> Path:
    """Where the JSON of an evaluation lies, unless another file was named."""
    parts = [kind, split] if kind == "retrieval" else [task, kind, split]
    if kind == "zero-shot" and prompts != "default":
        path = Path(prompts)  # a set's name, or a file: several may have the same name
        digest = f"-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}" if prompts.endswith(".json") else ""
        parts.append(path.stem + digest)
    parts += [protocol] * (protocol != HONEST) + ["published"] * published
    return run / "evaluation" / f"{'-'.join(parts)}.json"


def _task(name: str, prompts: str) -> Task:
    """The task with its prompts; says what the linter finds in prompts of a file."""
    if not prompts.endswith(".json"):
        return get_task(name, prompts)
    for flaw in lint_file(Path(prompts), name):
        print(f"{prompts}: {flaw}", file=sys.stderr)
    return with_prompts(name, Path(prompts))


def check_together(kind: str, task: Task, split: str, protocol: str = HONEST, published: Path | None = None) -> None:
    """Raises EtpError for what does not go together."""
    known = PROTOCOLS.get(kind, (HONEST,))
    if protocol not in known:
        raise EtpError(f"{kind} has no protocol {protocol!r}; there is {', '.join(known)}")
    if kind == "retrieval":
        if split == ALL or published is not None:
            raise EtpError("retrieval reads one split of the shards; it takes neither `all` nor published labels")
        return
    fitted = kind in ("probe", "knn", "finetune")
    if task.most is not None and fitted:
        raise EtpError(f"{task.name} is too small to fit probes on; probe a ptbxl task")
    if kind == "finetune" and published is not None:
        raise EtpError("fine-tuning learns from the shards' own split 'train'; it cannot take published labels")
    if task.most is not None and published is not None:
        raise EtpError(f"{task.name} draws its own records; it cannot take published ones")
    if task.all_splits and split != ALL:
        raise EtpError(f"{task.name} draws its records from all splits; ask for them with --split {ALL}")
    if fitted and split in (TRAIN, ALL):
        raise EtpError(f"a {kind} is fitted on split 'train'; score another one")


def _check_unseen(trained: Encoder, records: TaskRecords, split: str) -> None:
    """Raises EtpError when records to be scored are among those that the run was trained on."""
    shards = records.shards
    if split == TRAIN or shards.name not in (seen["name"] for seen in trained.seen) or TRAIN not in shards.splits:
        return
    target = records.of(split).record_ids
    seen = np.isin(target, shards.split(TRAIN).columns.record_id).sum()
    if seen:
        raise EtpError(
            f"{trained.run_dir}: was trained on {seen} of the {len(target)} records that {records.task.name} has in "
            f"{split!r} of {shards.name}; score a run that was trained on other data"
        )
