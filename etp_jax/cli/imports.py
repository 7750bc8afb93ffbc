"""`etp import`: a run folder of another project's weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from etp_jax.cli.command import Command, show


@dataclass(frozen=True, kw_only=True)
class Import:
    """Makes a run folder of the weights of MERL, or of another ResNet in PyTorch, to be evaluated like a run."""

    file: tyro.conf.Positional[Path]
    """File of weights: .safetensors, or a PyTorch file, which needs torch; nothing in it is executed."""
    source: Annotated[Literal["merl", "torch-state"], tyro.conf.arg(name="from")]
    """Model in the file. `merl`: the whole ResNet model of MERL's code, or its ECG encoder alone; `torch-state`: an ECG
    ResNet with the same names of layers, after any prefix."""
    out: Path
    """Run folder to write."""
    text: str | None = None
    """Folder or hub id with config.json and tokenizer of the text tower in the file (MERL: ncbi/MedCPT-Query-Encoder).
    Without it only the ECG tower is read."""
    about: Path | None = None
    """`torch-state`: JSON file about the model's input: name, fs, samples, leads, scale, stem, pool, and blocks if they
    are not those of a known ResNet."""


def import_weights(args: Import) -> None:
    """Runs `etp import`."""
    from etp_jax.encoder.torch_import import import_run

    done = import_run(args.file, args.out, args.source, args.text, args.about)
    show("\n".join([f"{done.tower}; {done.parameters:,} parameters", *done.notes, f"wrote {args.out}"]))


COMMANDS = {
    "import": Command(Import, import_weights),
}
