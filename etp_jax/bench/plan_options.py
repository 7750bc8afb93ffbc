"""Options of `etp plan`. This module does not import jax."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from etp_jax.config import TrainConfig


@dataclass(frozen=True, kw_only=True)
class PlanOptions:
    """Compiles a recipe's step for TPUs or GPUs that need not be there: memory, collectives, time and cost."""

    topology: str
    """What to compile for: a TPU slice as libtpu names it (v5e:16x16, v6e:8x8, v5p:4x4x4, v4:4x4x4), h200:1x4x8
    (4 hosts of 8 GPUs), or virtual devices of this CPU (cpu:8)."""
    recipe: Annotated[str, tyro.conf.arg(name="config")] = "mets"
    """Name of a shipped recipe, or a .py file that defines `config`."""
    samples: int = 5000
    """Length of the ECGs: 1000 is 10 s at 100 Hz, 5000 at 500 Hz."""
    fs: int = 0
    """Sampling rate of the ECGs in Hz; 0: the one with which they last 10 s."""
    records: int = 800_000
    """Number of training records; the default is about that of MIMIC-IV-ECG."""
    reports: int = 0
    """Number of distinct reports; 0: one for each record."""
    tokens: int = 64
    """Length of a report, in tokens, where the text tower is trained."""
    validation: int = 0
    """Number of validation records; 0: a tenth of the training records."""
    slices: int = 1
    """Number of such slices, connected by the data-centre network."""
    price: float = 0.0
    """Price of one chip for an hour, in any currency; 0: no cost is computed."""
    clock_ghz: float = 0.0
    """Clock for the compiler's cycles, in GHz; 0: the one assumed for this kind of chip."""
    others: bool = True
    """Also compile other batches for their memory: the next larger and smaller one, or some that may fit."""
    quick: bool = False
    """Compile without optimising the execution time: memory and collectives in a fraction of the time, no step time."""
    save: Path | None = None
    """File for the compiled step, which `etp train --compiled` loads."""
    json: Path | None = None
    """JSON file for the plan; etp_jax/bench/plan.py describes its format."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Options of the recipe. A frozen text tower counts as cached, as in training."""
