"""`etp predict` and `etp export`: use a trained encoder."""

from __future__ import annotations

import json
import sys
import webbrowser
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from etp_jax.cli.command import Command, show
from etp_jax.ecg.leads import Layout
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class Predict:
    """Computes findings: page and picture for one ECG, or a table for a folder of ECGs. Not a medical device."""

    record: tyro.conf.Positional[Path]
    """File of a kind in docs/formats.md (WFDB, EDF, DICOM, .csv, ...) with any leads; FILE#ROW of a file with many; or
    a folder of files."""
    run: Path = Path("shipped")
    """Run folder, folder made by `etp export`, or the word `shipped` for the package's own encoder."""
    task: tuple[str, ...] = ()
    """Tasks by name, or .json files of your own. Default: all tasks for which the encoder has probabilities."""
    prompt: tuple[str, ...] = ()
    """Sentences of your own, scored by similarity, with a percentile among other ECGs. They need the text tower."""
    shards: Path | None = None
    """Shard folder whose training reports are compared with the ECG; needs the text tower."""
    text_tower: str | None = None
    """Folder or name of the run's frozen text tower, where it has moved; its weights must be the same."""
    out: Path = Path("predictions")
    """Folder to write into."""
    json: bool = False
    """Print the result of one record as JSON instead of text; the schema is in the documentation."""
    open: bool = False
    """Open the page of one record in a browser."""
    layout: Annotated[Layout, tyro.conf.arg(name="")] = field(default_factory=Layout)


@dataclass(frozen=True, kw_only=True)
class Export:
    """Writes the encoder of a run as safetensors, with the embeddings of all prompts, to a new folder."""

    run: Path
    """Run folder made by `etp train`, or the word `shipped`."""
    out: Path
    """Folder to write; `etp evaluate` and `etp predict` accept it as --run."""
    checkpoint: Literal["best", "latest"] = "best"
    """Checkpoint to export."""
    text_tower: str | None = None
    """Folder or name of the run's frozen text tower, where it has moved; its weights must be the same."""
    dtype: Literal["bfloat16", "float32"] = "bfloat16"
    """Data type of the weights."""
    shards: Path | None = None
    """Shard folder; the probabilities of `etp predict` are calibrated on its validation split."""
    task: tuple[str, ...] = ()
    """Task files of your own (.json); their prompts are embedded and calibrated too."""
    onnx: bool = False
    """Also write the ECG encoder as ONNX: millivolt in, features and unit embedding out. Needs the extra `onnx`."""
    push: str = ""
    """Also upload the folder to this Hugging Face Hub repository, `org/name`; a new repository is private."""


def predict(args: Predict) -> None:
    """Runs `etp predict`."""
    from etp_jax.encoder.folder import run_folder
    from etp_jax.predict.run import predict as run

    if args.record.is_dir() and (args.json or args.open):
        raise EtpError(f"{args.record}: --json and --open are for one record, not for a folder; read its table")
    args.layout.check()
    folder = run_folder(args.run)
    done = run(args.record, args.out, args.layout, folder, args.task, args.prompt, args.shards, args.text_tower)
    show(json.dumps(done.result, indent=1, ensure_ascii=False) if args.json else done.text)
    if args.open and done.page is not None and not webbrowser.open(done.page.resolve().as_uri()):
        show(f"etp: no browser was found; open {done.page}", file=sys.stderr)


def export(args: Export) -> None:
    """Runs `etp export`."""
    from etp_jax.encoder import hub
    from etp_jax.encoder.export import export as write_folder
    from etp_jax.encoder.folder import FILES, run_folder

    if args.push:
        hub.check_login(args.push)
    run = run_folder(args.run)
    extras = {"onnx": args.onnx, "tasks": args.task, "text_tower": args.text_tower}
    show(write_folder(run, args.out, args.checkpoint, args.dtype, args.shards, **extras))
    if args.push:
        show(f"pushed to {hub.upload(args.out, args.push, FILES, private=True)}")


COMMANDS = {
    "predict": Command(Predict, predict),
    "export": Command(Export, export),
}
