"""`etp evaluate`: measures a run beside random encoders; prints a table, writes JSON and scores."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from etp_jax.evaluation import probe, results, retrieval, zero_shot
from etp_jax.evaluation.embed import Encoder
from etp_jax.evaluation.labelled import VALIDATION, Labelled
from etp_jax.records import Shards
from etp_jax.tasks import get_task

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
) -> dict[str, Any]:
    """Measures a run; prints the table and writes the JSON.

    Args:
      kind: what is measured.
      run: run folder.
      shards: shard folder.
      task: by name; retrieval needs none.
      split: whose records are scored.
      prompts: prompt set of a zero-shot evaluation.
      json_path: by default RUN/evaluation/<task>-<kind>-<split>.json; scores go beside it, as `.npz`.
      seeds: of the probe's subsets of training records.
      fractions: sizes of these.
      bootstrap: replicates of the intervals.
      checkpoint: which one.

    Returns:
      What the JSON holds.

    Raises:
      EtpError: no run folder, no shard folder; unknown task, prompt set or split; shards of another shape or without
        the task's labels.
    """
    folder, opened, definition = Path(run), Shards(shards), get_task(task, prompts)
    target = opened.split(split)
    trained = Encoder.from_run(folder, checkpoint)
    drawn = [("random", trained.random(seed)) for seed in range(RANDOM_ENCODERS[kind])]
    encoders = [("trained", trained), *drawn]
    match kind:
        case "zero-shot":
            outcome = zero_shot.evaluate(encoders, definition, opened, split, bootstrap)
        case "probe":
            outcome = probe.evaluate(encoders, definition, opened, split, bootstrap, seeds, fractions)
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
        stem += f"-{prompts}"
    path = json_path or folder / "evaluation" / f"{stem}.json"
    results.write_json(result, path)
    if outcome.scores:
        results.write_scores(outcome, definition, Labelled.of(target, definition), path.with_suffix(".npz"))
    print(results.table(result))
    print(f"\nwrote {path}")
    return result
