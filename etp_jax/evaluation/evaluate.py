"""Evaluates a run and its baseline encoders by one kind of evaluation, and writes the result."""

from __future__ import annotations

import platform
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.evaluation.kinds import KINDS
from etp_jax.evaluation.outcome import summarise
from etp_jax.evaluation.records import TaskRecords
from etp_jax.evaluation.request import HONEST, Request
from etp_jax.evaluation.results import Result
from etp_jax.files import check_can_write
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import ALL, TRAIN

if TYPE_CHECKING:
    from etp_jax.encoder.encoder import Encoder

REVISION = 2
"""Incremented whenever the meaning of a figure changes, so that studies re-evaluate instead of mixing figures."""


def evaluate(request: Request) -> Result:
    """Evaluates a run and writes the result to `request.path`.

    Args:
      request: a request of one of the kinds in `KINDS`. For several prompt sets, pass its `Request.parts` one by one.

    Raises:
      EtpError: there is no run folder or shard folder; the task, prompt set or split is unknown; options contradict
        each other; the shards have another shape or lack the task's labels; the run was trained on the scored records.
    """
    from etp_jax.encoder.encoder import Encoder  # here, so that the command line can read KINDS without jax
    from etp_jax.encoder.folder import WEIGHTS, weights_digest

    request.check()
    if len(request.parts()) > 1:
        raise EtpError(f"one evaluation takes one value of --{request.choice}; evaluate the request's parts")
    kind, shards = KINDS[request.kind], Shards(request.shards)
    records = request.records(shards)
    if request.split != ALL and (records is None or records.published is None):
        shards.split(request.split)
    check_can_write(request.path, "name another file with --json")
    trained = Encoder.from_run(request.folder, request.checkpoint, request.text_tower)
    trained.check_signals(shards)
    if request.reads_text:
        trained.check_reads_text()
    if records is not None:
        _check_unseen(trained, records, request.split)
    drawn = [("random", trained.random(seed)) for seed in range(kind.random_encoders)]
    outcome = kind.evaluate(request, [("trained", trained), *drawn], shards)
    weights = weights_digest(request.folder)
    result = Result(
        run=request.folder.resolve().name,
        task=request.task_name,
        kind=request.kind,
        protocol={"name": request.how if request.choice == "protocol" else HONEST}
        | outcome.protocol
        | ({"task": request.task_digest} if request.task_digest else {})
        | {
            "bootstrap": f"{request.bootstrap} draws of patients",
            "random": "ECG tower and projections drawn, text tower kept",
        },
        split=request.split,
        records=outcome.records,
        pretrained_on=", then ".join(seen["name"] for seen in trained.seen),
        checkpoint={"which": request.checkpoint, "step": trained.step} | ({WEIGHTS: weights} if weights else {}),
        shards={"name": shards.name, "fs": shards.fs, "fingerprint": shards.fingerprint},
        thresholds_from=outcome.thresholds_from,
        revision=REVISION,
        versions=versions(),
        rows=outcome.rows,
        summary=summarise(outcome.rows),
        arrays=outcome.arrays,
    )
    result.save(request.path)
    return result


def versions() -> dict[str, str]:
    """Returns the versions of Python and of the packages that compute the figures."""
    return {"python": platform.python_version()} | {name: version(name) for name in ("etp-jax", "jax", "flax", "numpy")}


def _check_unseen(trained: Encoder, records: TaskRecords, split: str) -> None:
    """Raises EtpError if the run was trained on records that are to be scored.

    Shards of one name are taken for the same archive with the same splits, since those of a fine stage and those at
    another sampling rate are no others.
    """
    shards = records.shards
    same = [seen for seen in trained.seen if seen["name"] == shards.name]
    if split == TRAIN or not same or TRAIN not in shards.splits:
        return
    target = records.of(split).record_ids
    count = np.isin(target, shards.split(TRAIN).columns.record_id).sum()
    if count:
        here = f"of the {len(target)} records that {records.task.name} has in {split!r} of {shards.name}"
        if shards.fingerprint in (seen["fingerprint"] for seen in same):
            raise EtpError(
                f"{trained.run_dir}: was trained on {count} {here}; score a run that was trained on other data"
            )
        raise EtpError(
            f"{trained.run_dir}: was trained on shards of this name, whose training split has {count} {here}; score a "
            "run that was trained on other data, or, if they are another archive, give it a name of its own (--name)"
        )
