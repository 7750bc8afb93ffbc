"""The training run: its plan, steps, validation, checkpoints, metrics, and a clean stop on a signal."""

from __future__ import annotations

import math
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError, one_line
from etp_jax.files import alone_in
from etp_jax.losses.pairs import check_loss, needs_mean
from etp_jax.models.dual_encoder import DualEncoder, init_variables
from etp_jax.models.text_tower import TextTower, build_text, describe_texts
from etp_jax.plain import plain
from etp_jax.shards.reader import ReportTable, Shards, Split
from etp_jax.shards.record import RESTORED, TRAIN, VALIDATION
from etp_jax.shards.remote import staged
from etp_jax.training import build, checkpoint, log, optim, resume, run_folder, stages
from etp_jax.training.batches import Batches
from etp_jax.training.checkpoint import Checkpoints
from etp_jax.training.feed import DeviceFeed, dispatches
from etp_jax.training.parallel import Parallel
from etp_jax.training.program import Sizes
from etp_jax.training.progress import Progress
from etp_jax.training.report_table import DeviceReports
from etp_jax.training.room import check_fits
from etp_jax.training.saved_step import SavedStep
from etp_jax.training.signals import StopSignals
from etp_jax.training.step import TrainState, init_state, make_train_step, semantic_mean
from etp_jax.training.validation import Validation, sample_size

FEW = 10
"""Number of validation records up to which recall@10 has no meaning."""
LOG_LINES = "log_lines"
"""Field of a checkpoint's metadata with the number of lines that the log had."""


def train(config: TrainConfig, workdir: Path, extend: bool = False, compiled: Path | None = None) -> None:
    """Trains a recipe, or resumes the run in `workdir`.

    On SIGTERM or Ctrl-C the dispatched steps are finished and saved. The process then exits with status 128 + signal
    number (143 or 130), as if the signal had killed it. The same command resumes the run. A run killed at any other
    moment resumes from its last checkpoint. On the same devices the result is the same in all cases, bit for bit.

    Args:
      config: the recipe.
      workdir: run folder; created if missing. Several hosts must share it.
      extend: allow more `optim.epochs`, or a larger `optim.max_steps`, than the run was started with.
      compiled: file of a step that `etp plan --save` compiled; None: the step is compiled here.

    Raises:
      EtpError: bad data or options, a run with other options, a folder or disk that cannot be written, too little
        memory, a compiled step of another run, or a loss that is not finite.
      SystemExit: a signal stopped the run.
    """
    if config.run.deterministic:
        build.make_deterministic()
    with _user_errors(workdir):
        workdir.mkdir(parents=True, exist_ok=True)
        taken = f"{workdir}: another process trains in this run folder; name another --workdir"
        with alone_in(workdir, taken) if jax.process_index() == 0 else nullcontext():
            if jax.process_index() == 0:
                run_folder.check_free(workdir)
            run = _prepare(config, workdir, extend, compiled)
            stopped_by = _run(run) if run else None
    if stopped_by:
        sys.exit(128 + stopped_by)


@dataclass
class _Run:
    """State and functions that the training loop needs."""

    config: TrainConfig
    workdir: Path
    steps_per_epoch: int
    parallel: Parallel
    feed: DeviceFeed
    dispatch: Callable[..., tuple[TrainState, dict[str, jax.Array]]]
    compiled_before: bool
    """Whether `dispatch` was loaded from a file; the compiler has then checked its memory."""
    tables: Any
    validation: Validation
    checkpoints: Checkpoints
    compatibility: dict[str, Any]
    state: TrainState
    start: int
    """Number of updates already in `state`."""
    total: int
    """Number of updates of the whole run."""


@dataclass
class _Data:
    """The shards of a run."""

    shards: Shards
    batches: Batches
    held_out: Split
    held_out_reports: ReportTable


def _prepare(config: TrainConfig, workdir: Path, extend: bool, compiled: Path | None) -> _Run | None:
    """Builds all parts of the run, restores the newest checkpoint, and prints the plan; None if the run is finished."""
    _check_options(config)
    parallel = Parallel(config.run.parallel)
    saved = None if compiled is None else SavedStep(compiled, config, parallel)
    dtype = build.set_precision(config.run.precision, parallel.platform)
    data = _open_data(config, parallel)
    steps_per_epoch = data.batches.steps_per_epoch
    optimizer, schedule = optim.make_optimizer(config.optim, steps_per_epoch)
    text = build_text(config.model.text, data.batches.reports.reports)

    if jax.process_index() == 0:
        for line in checkpoint.set_aside_damaged(workdir):
            _say(line)
    multihost_utils.sync_global_devices("damaged checkpoints are set aside")
    checkpoints = Checkpoints(workdir, config.run.best, config.run.keep)
    compatibility = resume.compatibility(config, data.shards, text)
    start, total = checkpoints.find("latest") or 0, optim.total_steps(config.optim, steps_per_epoch)
    meta = checkpoints.meta(start) if start else {}
    if start:
        resume.check_same(workdir, meta, compatibility, extend)
    elif extend:
        raise EtpError(f"{workdir}: holds no checkpoint to continue; leave --extend out, or name the run's --workdir")
    if start >= total:
        _say(f"{workdir}: this run is finished ({start} steps); to continue it, add --extend and more --optim.epochs")
        return None

    model = build.build_model(config, text.bert_config, dtype, parallel.platform)
    variables = _initial_variables(config, model, data.shards, text, resumed=start > 0)
    if jax.process_index() == 0:
        run_folder.write_run_folder(workdir, config, data.shards, text)
    state = init_state(variables, optimizer, config)
    if start:
        state = checkpoints.restore(start, parallel.to_global(parallel.replicate(state)))

    _say(f"{workdir}: {'training' if start == 0 else f'resuming at step {start}'}")
    between = max(1, round(config.run.validate_every * steps_per_epoch)) * config.data.batch_size
    _say(_plan(config, data, parallel, dtype.name, total, between))
    _say(_size(config, state.params, text.params))
    gap = log.gap(workdir, start, meta.get(LOG_LINES)) if jax.process_index() == 0 else ""
    for warning in filter(None, [gap, *_warnings(data)]):
        _say(f"  warning: {warning}")
    cache = run_folder.text_cache(data.shards, workdir)
    described = describe_texts(text, config.model.text, data.batches.reports.reports, cache)
    _say(f"  reports are read by {described}")
    for doubt in text.doubts:
        _say(f"  note: {doubt}")

    texts = build.text_inputs(config, text, data.batches.reports.reports, cache)
    held_out_texts = build.text_inputs(config, text, data.held_out_reports.reports, cache)
    if needs_mean(config.loss):
        # Training's similarities follow from the restored reports where a coin decides; a validation reads plain ones.
        reports, paired = data.batches.reports, data.batches.paired
        read = reports.number if reports.plain is None else reports.plain
        held_out_texts = held_out_texts | semantic_mean(texts, read[paired])
        texts = texts | semantic_mean(texts, reports.number[paired])
    loaded = None if saved is None else saved.load(_sizes(data, texts), text.bert_config)
    state = parallel.replicate(state)
    on_devices = DeviceReports(texts, config.model.text.precision, parallel, resident=loaded is not None)
    if not on_devices.resident:
        _say(str(on_devices))
    validation = Validation(config, model, data.held_out, data.held_out_reports, held_out_texts, parallel, between)
    feed = DeviceFeed(config, data.batches, parallel, on_devices)
    _say(str(feed))
    step = make_train_step(model, optimizer, schedule, config, data.shards.fs, parallel.platform)
    return _Run(
        config=config,
        workdir=workdir,
        steps_per_epoch=steps_per_epoch,
        parallel=parallel,
        feed=feed,
        dispatch=loaded or feed.wrap(step),
        compiled_before=loaded is not None,
        tables=feed.tables,
        validation=validation,
        checkpoints=checkpoints,
        compatibility=compatibility,
        state=state,
        start=start,
        total=total,
    )


def _sizes(data: _Data, texts: dict[str, Any]) -> Sizes:
    """Returns the sizes that the step depends on."""
    shards, reports = data.shards, len(data.batches.reports.reports)
    tokens = texts["input_ids"].shape[1] if "input_ids" in texts else 0
    return Sizes(shards.samples, len(data.batches.paired), reports, tokens, shards.fs)


def _check_options(config: TrainConfig) -> None:
    """Raises EtpError for options that are wrong for any data."""
    if not config.data.shards:
        raise EtpError("data.shards: name a shard folder; `etp prep` makes one")
    for name in ("log_every", "validate_every", "checkpoint_every", "keep"):
        if getattr(config.run, name) <= 0:
            raise EtpError(f"run.{name} is {getattr(config.run, name)}; it must be more than 0")
    if config.run.steps_per_dispatch < 0:
        raise EtpError(f"run.steps_per_dispatch is {config.run.steps_per_dispatch}; it must not be negative")
    if config.run.validation_records < 0:
        raise EtpError(f"run.validation_records is {config.run.validation_records}; it must not be negative")
    check_loss(config.loss)
    log.check_boards(config.run)


def _open_data(config: TrainConfig, parallel: Parallel) -> _Data:
    """Opens both splits, and sets up this host's training batches."""
    shards = Shards(staged(config.data.shards, config.data.stage_dir, _say))
    # A validation reads one kind of reports, the plain ones if there is a choice, so its figures compare over runs.
    field = RESTORED if config.data.restored_share == 1 else "report"
    split, held_out = shards.split(TRAIN), shards.split(VALIDATION)
    reports = shards.both_reports(TRAIN) if config.data.tosses else shards.reports(TRAIN, field)
    held_out_reports = shards.reports(VALIDATION, field)
    hosts = jax.process_index(), jax.process_count()
    options = config.data
    batches = Batches(
        split,
        reports,
        options.batch_size,
        config.seed,
        *hosts,
        devices=parallel.devices,
        share=options.train_share,
        check_every=options.check_every,
    )
    return _Data(shards, batches, held_out, held_out_reports)


def _initial_variables(
    config: TrainConfig, model: DualEncoder, shards: Shards, text: TextTower, resumed: bool
) -> dict[str, Any]:
    """Returns the initial parameters and statistics: random, or from the run named by `start_from`."""
    key = jax.random.key(config.seed, impl="threefry2x32")
    text_params = None if config.model.text.frozen else text.params
    variables = init_variables(model, key, shards.samples, len(shards.leads), text_params)
    if config.start_from and not resumed:
        return stages.start_from(variables, config, text, shards)
    return variables


def _plan(config: TrainConfig, data: _Data, parallel: Parallel, dtype: str, total: int, between: int) -> str:
    """Describes the run to the user: records, steps, devices."""
    batches, held_out = data.batches, len(data.held_out_reports.paired)
    sample = sample_size(config.run, held_out, between)
    validating = f"{held_out}" if sample == held_out else f"{sample} of {held_out}"
    planned = round(config.optim.epochs * batches.steps_per_epoch)
    capped = f", cut from {planned} by --max-steps" if total < planned else ""
    left_out = f" ({batches.unpaired} without a report left out)" if batches.unpaired else ""
    distinct = len(np.unique(batches.reports.number[batches.paired]))
    return (
        f"  {len(batches.paired)} records{left_out}, {distinct} distinct reports; {validating} records validate\n"
        f"  {total} steps: {config.optim.epochs:g} epochs of {batches.steps_per_epoch}{capped}, batch "
        f"{batches.batch_size} on {parallel.devices} x {parallel.mesh.devices.flat[0].device_kind} of "
        f"{jax.process_count()} host(s), {dtype}, {config.run.parallel}"
    )


def _warnings(data: _Data) -> list[str]:
    """Describes data with which a run teaches or measures nothing."""
    batches, warnings = data.batches, []
    if len(np.unique(batches.reports.number[batches.paired])) == 1:
        warnings.append("all training records have the same report, so there is nothing to learn")
    held_out = len(data.held_out_reports.paired)
    if 0 < held_out <= FEW:
        warnings.append(f"{held_out} records validate, so recall@10 is always 1 and the best checkpoint is chance")
    return warnings


def _size(config: TrainConfig, params: dict[str, Any], frozen_text: dict[str, Any] | None) -> str:
    """Describes the number of parameters of each part, and how many of them are trained."""

    def count(tree: Any) -> int:
        return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))

    learned = optim.take(params, optim.trainable(params, config))
    parts = [f"{name} {count(learned[name])} of {count(params[name])}" for name in sorted(params)]
    frozen = [f"text_tower 0 of {count(frozen_text)} (frozen)"] if config.model.text.frozen else []
    return "  parameters trained: " + ", ".join(frozen + parts)


def _run(run: _Run) -> int | None:
    """Trains to the end, or until a signal, and returns the number of the signal.

    The order must not change: validate, save, next batch, dispatch, then read the metrics of the previous dispatch. A
    state is saved only after its loss and gradient have been checked to be finite. Reading them one dispatch late keeps
    the devices busy; not later, because virtual CPU devices could deadlock.
    """
    config, state, checkpoints = run.config, run.state, run.checkpoints
    validate_every = max(1, round(config.run.validate_every * run.steps_per_epoch))
    checkpoint_every = config.run.checkpoint_every
    spans = dispatches(run.start, run.total, run.feed.per_dispatch, validate_every, checkpoint_every)
    batches = run.feed.batches(spans)
    done, stopped_by = run.start, None
    progress = Progress(config, run.workdir, done, run.total, run.steps_per_epoch)
    with checkpoints, closing(batches), progress, StopSignals() as stop:
        while done < run.total and not stopped_by:
            with progress.waiting():
                steps, batch = next(batches)
                jax.block_until_ready(batch)  # the transfer to the devices counts as waiting too
            if done == run.start and not run.compiled_before:
                check_fits(run.dispatch, (state, batch, run.tables), config, run.parallel, run.feed.residency)
            state, metrics = run.dispatch(state, batch, run.tables)
            progress.step(steps, metrics)
            done = steps.stop

            validate = done % validate_every == 0 or done == run.total
            stopped_by = stop.reached()
            if validate or stopped_by or done % checkpoint_every == 0:
                progress.flush()
                with progress.paused():
                    scores = run.validation(state) if validate else None
                    if scores:
                        progress.validation(done, scores)
                        if done >= min(run.steps_per_epoch, run.total):
                            progress.warn(run.validation.warning(scores))
                    meta = {**run.compatibility, LOG_LINES: progress.logged}
                    checkpoints.save(done, run.parallel.to_global(state), meta, scores)
        checkpoints.wait()
    end = f"stopped by {signal.Signals(stopped_by).name}" if stopped_by else "finished"
    kept, best = ", ".join(map(str, checkpoints.steps())), checkpoints.find("best")
    _say(f"{run.workdir}: {end} at step {done}; checkpoints {kept}, best {best}")
    return None if done == run.total else stopped_by


def _say(text: str) -> None:
    if jax.process_index() == 0:
        print(plain(text), flush=True)


@contextmanager
def _user_errors(workdir: Path) -> Iterator[None]:
    """Turns errors of writing to disk and of too little device memory into an EtpError of one line."""
    try:
        yield
    except BrokenPipeError:  # the reader of our output is gone
        raise
    except OSError as error:
        path = Path(error.filename or workdir)
        advice = "; name a --workdir that can be written, on a disk with room"
        raise EtpError(
            f"{path}: {error.strerror or error}{advice if path.absolute().is_relative_to(workdir.absolute()) else ''}"
        ) from error
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        raise EtpError(
            f"the device's memory is too small ({one_line(error)}); lower --data.batch-size, "
            "or keep the records elsewhere (--data.resident sharded or never)"
        ) from error
