"""Options of `etp bench`. This module does not import jax."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import tyro

from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError


@dataclass(frozen=True)
class BenchOptions:
    """Measures ECG/s, utilisation and memory of the training step and the encoder, and the reader's records/s."""

    recipe: Annotated[str, tyro.conf.arg(name="config")] = "mets"
    """Name of a shipped recipe, or a .py file that defines `config`."""
    samples: int = 1000
    """Length of the synthetic ECGs: 1000 is 10 s at 100 Hz, 5000 at 500 Hz."""
    repeats: int = 5
    """Number of rounds; the figures are medians over them."""
    batch_sizes: tuple[int, ...] = ()
    """Batch sizes to measure, over all devices; empty: --data.batch-size."""
    device_counts: tuple[int, ...] = ()
    """Numbers of this machine's devices to measure on; empty: all devices."""
    scaling: Literal["weak", "strong"] = "weak"
    """Batch size with several device counts. weak: the batch per device is constant, and the given sizes are those on
    the largest number of devices; strong: the global batch is constant."""
    compare: Literal["torch"] | None = None
    """Also run the same layers, batch and precision in PyTorch, in alternation; torch must be installed."""
    peak_tflops: float | None = None
    """Peak of a device, in 10^12 FLOPs per second; it replaces the figure of the data sheet."""
    peak_gb_per_s: float | None = None
    """Memory bandwidth of a device, in 10^9 bytes per second; it replaces the figure of the data sheet."""
    trace: Path | None = None
    """Folder for a profile of three training steps of the first batch size and device count; TensorBoard (XProf) and
    Perfetto open it."""
    plot: Path | None = None
    """SVG file for ECG/s over device counts or, with a single device count, over batch sizes."""
    json: Path | None = None
    """JSON file for the figures; etp_jax/bench/run.py describes its format."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)
    """Options of the recipe. A frozen text tower counts as cached, as in training."""

    def __post_init__(self) -> None:
        """Raises EtpError for a size or peak that is not positive."""
        sizes = {"samples": (self.samples,), "repeats": (self.repeats,), "batch-sizes": self.batch_sizes}
        peaks = {"peak-tflops": (self.peak_tflops,), "peak-gb-per-s": (self.peak_gb_per_s,)}
        for name, values in {**sizes, "device-counts": self.device_counts, **peaks}.items():
            for value in values:
                if value is not None and not 0 < value < math.inf:
                    raise EtpError(f"--{name} {value}: it must be positive")
