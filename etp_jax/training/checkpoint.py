"""Checkpoints of a run, saved in the background with a digest. The newest few and the best are kept."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import absl.logging
import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from etp_jax.errors import EtpError, one_line
from etp_jax.files import is_full
from etp_jax.training import digest
from etp_jax.training.abandoned import hide_abandoned_writes

# Silence Orbax: it warns about configurations used on purpose (checkpoints without metrics, read-only folders), and
# logs the traceback of every error that it also raises.
absl.logging.set_verbosity(absl.logging.FATAL)

FOLDER = "checkpoints"
"""Subfolder of a run folder that holds the checkpoints."""

Best = Literal["loss", "recall"]


class Checkpoints:
    """The checkpoints of one run, each named by its number of updates.

    A checkpoint gets its final name only when it is complete and has its digest, and older ones are deleted only after
    that. The process may therefore be killed at any moment. All hosts must call every method.
    """

    def __init__(self, run_dir: Path, best: Best, keep: int = 3, read_only: bool = False):
        """Opens `run_dir/checkpoints`; unless `read_only`, creates it and removes remains of an interrupted save.

        Args:
          run_dir: run folder.
          best: validation metric that selects the best checkpoint.
          keep: number of newest checkpoints that are kept, besides the best.
          read_only: nothing is written.
        """

        def metric(metrics: dict[str, float]) -> float:
            return metrics[best]

        self.folder = run_dir.absolute() / FOLDER
        self._lower_is_better = best == "loss"
        self._bytes = 0  # of the last save
        # `best_fn` makes Orbax write the metrics and find the best step. The policy alone decides what is kept:
        # `best_fn` with `max_to_keep` would delete the newest checkpoint, from which a killed run must resume.
        options = ocp.CheckpointManagerOptions(
            best_fn=metric,
            best_mode="min" if self._lower_is_better else "max",
            preservation_policy=checkpoint_managers.AnyPreservationPolicy(
                [
                    checkpoint_managers.LatestN(keep),
                    checkpoint_managers.BestN(
                        get_metric_fn=metric, reverse=self._lower_is_better, n=1, keep_checkpoints_without_metrics=False
                    ),
                ]
            ),
            # It is called in the background before the checkpoint gets its final name.
            async_options=ocp.AsyncOptions(post_finalization_callback=self._write_digest),
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            create=not read_only,
        )
        hide_abandoned_writes()
        advice = f"check that the folder can be read and written; a damaged {digest.STAMPS[0]} in it can be deleted"
        with _orbax_errors(self.folder, "the checkpoints cannot be opened", advice):
            self._manager = ocp.CheckpointManager(self.folder, options=options, item_names=("state", "meta"))

    def steps(self) -> list[int]:
        """Returns the steps of the existing checkpoints, in order."""
        return sorted(self._manager.all_steps())

    def find(self, which: Literal["best", "latest"] | int) -> int | None:
        """Returns the step of a checkpoint, or None if there is none; `best` is the newest until one is validated.

        Raises:
          EtpError: the best is asked for, and the metrics of a checkpoint, which select it, are damaged.
        """
        if isinstance(which, int):
            return which if which in self.steps() else None
        newest = self.steps()[-1] if self.steps() else None
        if which != "best":
            return newest
        _refuse_damaged(self.folder, damaged(self.folder, "metrics/"))
        with _reading(self.folder):
            best = self._manager.best_step()
            return newest if best is None or self._manager.metrics(best) is None else best

    def save(self, step: int, state: Any, meta: dict[str, Any], metrics: dict[str, float] | None = None) -> None:
        """Starts to save a checkpoint; returns when `state` has been copied and may be donated.

        Args:
          step: number of updates made.
          state: pytree of global arrays (on one host, any arrays).
          meta: JSON data saved with the state.
          metrics: {"loss", "recall"} of validation, if this state was validated. Only a validated state can be best.

        Raises:
          EtpError: this or the previous checkpoint could not be written.
        """
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta))
        self._bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        problem = f"a checkpoint of {self._bytes:,} bytes could not be saved at step {step}"
        with _orbax_errors(self.folder, problem, "free disk space"):
            self._manager.save(step, args=items, metrics=metrics, force=True)

    def _write_digest(self) -> None:
        """Writes the digest of the save in progress; the first host does it for all, after all have written."""
        if jax.process_index() == 0:
            (folder,) = self.folder.glob(f"*{ocp.utils.TMP_DIR_SUFFIX}*")
            digest.write_digest(folder)

    def wait(self) -> None:
        """Waits until the last save is on disk; raises EtpError if it failed."""
        problem = f"the last checkpoint, of {self._bytes:,} bytes, could not be saved"
        with _orbax_errors(self.folder, problem, "free disk space"):
            self._manager.wait_until_finished()

    def __enter__(self) -> Checkpoints:
        """Returns the checkpoints; they are closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Waits for a save in progress, then closes the manager and its threads."""
        self.wait()
        self._manager.close()

    def meta(self, step: int) -> dict[str, Any]:
        """Reads the JSON data that was saved with the state."""
        with _reading(self.folder / str(step)):
            return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore(self, step: int, like: Any) -> Any:
        """Reads the state of a checkpoint, with the structure, shapes, types and placement of `like`.

        Raises:
          EtpError: the checkpoint is damaged, or an array has another shape; the message names the array.
        """
        where = self.folder / str(step)
        with _reading(where):
            check_shapes(where, shapes(self._saved(step)), shapes(like), "name another --workdir")
            target = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
            items = ocp.args.Composite(state=ocp.args.StandardRestore(target))
            return self._manager.restore(step, args=items)["state"]

    def restore_numpy(self, step: int, names: tuple[str, ...]) -> dict[str, Any]:
        """Reads some top-level parts of a state as nested dictionaries of numpy arrays, whatever the devices."""
        where = self.folder / str(step)
        with _reading(where):
            saved = self._saved(step)
            item = {name: saved[name] for name in names if saved.get(name) is not None}
            args = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), item)
            with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
                return reader.restore(
                    where / "state", args=ocp.args.PyTreeRestore(item=item, restore_args=args, partial_restore=True)
                )

    def _saved(self, step: int) -> dict[str, Any]:
        """Reads the shapes and types of a checkpoint's state, as nested dictionaries."""
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            metadata = reader.metadata(self.folder / str(step) / "state").item_metadata
        if metadata is None:
            raise ValueError("the list of its arrays is missing")
        return dict(metadata.tree)


def restore_params(
    run_dir: Path, which: Literal["best", "latest"] | int = "best", best: Best = "loss"
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """Reads the parameters and batch statistics of a run for evaluation, on any number of devices.

    Another checkpoint never takes the place of a damaged one, because results name the checkpoint that they are of.

    Args:
      run_dir: run folder.
      which: `best` by pre-training validation, `latest`, or a step.
      best: validation metric that selects the best checkpoint, `config.run.best`.

    Returns:
      Parameters (their moving average if the run keeps one), batch statistics, both as numpy trees, and the step.

    Raises:
      EtpError: the checkpoint is missing or damaged, or the metrics that select the best are.
    """
    folder = run_dir / FOLDER
    if not folder.is_dir():
        raise EtpError(f"{run_dir}: no run folder with checkpoints; `etp train --workdir {run_dir}` makes one")
    with Checkpoints(run_dir, best, read_only=True) as checkpoints:
        step = checkpoints.find(which)
        if step is None:
            there = ", ".join(map(str, checkpoints.steps())) or "none yet"
            raise EtpError(f"{checkpoints.folder}: no checkpoint {which!r}; there are: {there}")
        _refuse_damaged(folder, damaged(folder, only=step))
        parts = checkpoints.restore_numpy(step, ("params", "batch_stats", "ema"))
    return parts.get("ema") or parts["params"], parts.get("batch_stats", {}), step


def damaged(folder: Path, part: str = "", only: int | None = None) -> dict[int, str]:
    """Compares checkpoints with their digests.

    Args:
      folder: the folder of all checkpoints of a run.
      part: beginning of the names of the files to compare.
      only: step of the checkpoint to compare; None: all of them.

    Returns:
      What is wrong with each damaged checkpoint, by its step. A checkpoint without a digest is not checked if it is
      of an earlier version, that is, if no older one has a digest.
    """
    steps = _steps(folder)
    with_digest = [step for step in steps if digest.has_digest(folder / str(step))]
    found = {}
    for step in steps if only is None else [only]:
        if step in with_digest:
            found[step] = digest.damage(folder / str(step), part)
        elif with_digest and step > with_digest[0]:
            found[step] = f"{digest.FILE} is missing"
    return {step: problem for step, problem in found.items() if problem}


def set_aside_damaged(run_dir: Path) -> list[str]:
    """Renames damaged checkpoints to `STEP.damaged`, so that training resumes from the newest sound one.

    Call it on one host, before the checkpoints are opened.

    Returns:
      A line for each damaged checkpoint.

    Raises:
      EtpError: all checkpoints are damaged; none is renamed.
    """
    folder = run_dir / FOLDER
    found, lines = damaged(folder), []
    if found and len(found) == len(_steps(folder)):
        step = max(found)
        raise EtpError(
            f"{folder / str(step)}: the checkpoint is damaged ({found[step]}), and there is no other; delete {folder} "
            "to train from the beginning"
        )
    for step, problem in found.items():
        aside = folder / f"{step}.damaged"
        shutil.rmtree(aside, ignore_errors=True)
        (folder / str(step)).rename(aside)
        lines.append(f"{folder / str(step)}: the checkpoint is damaged ({problem}); it is renamed to {aside.name}")
    return lines


def _steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in a folder, in order."""
    return sorted(int(path.name) for path in folder.glob("*") if path.name.isdecimal() and path.is_dir())


def _refuse_damaged(folder: Path, found: dict[int, str]) -> None:
    for step, problem in found.items():
        others = ", ".join(map(str, sorted(set(_steps(folder)) - damaged(folder).keys()))) or "none"
        raise EtpError(
            f"{folder / str(step)}: the checkpoint is damaged ({problem}); name a sound one with --checkpoint "
            f"({others}), or run `etp train` again to replace it"
        )


@contextmanager
def _orbax_errors(where: Path, problem: str, advice: str) -> Iterator:
    """Turns errors of Orbax and TensorStore about files they cannot read or write into an EtpError of one line."""
    try:
        yield
    except (OSError, ValueError, LookupError, TypeError, ArithmeticError) as error:
        # TensorStore gives the reason after long names of files.
        reason = os.strerror(errno.ENOSPC) if is_full(error) else one_line(error)[:200]
        raise EtpError(f"{where}: {problem} ({reason}); {advice}") from error


@contextmanager
def _reading(where: Path) -> Iterator:
    """Turns whatever Orbax, TensorStore and JAX raise about a checkpoint into an EtpError of one line."""
    try:
        yield
    except EtpError:
        raise
    except Exception as error:
        raise EtpError(
            f"{where}: the checkpoint cannot be read ({one_line(error)[:200]}); it is damaged: delete its folder to "
            "resume from an earlier one, if there is one"
        ) from error


def shapes(tree: Any) -> dict[str, tuple[int, ...]]:
    """Returns the shape of every array, by its path."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return {jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape) for path, leaf in leaves}


def check_shapes(
    where: Path, saved: dict[str, tuple[int, ...]], expected: dict[str, tuple[int, ...]], advice: str
) -> None:
    """Raises EtpError that names the first array whose shape differs, followed by `advice`."""
    for name in sorted(saved.keys() | expected.keys()):
        if saved.get(name) != expected.get(name):
            there, wanted = saved.get(name, "none"), expected.get(name, "none")
            raise EtpError(f"{where}: {name} has shape {there}, this run needs {wanted}; {advice}")
