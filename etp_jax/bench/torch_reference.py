"""The same training step and encoder in PyTorch, for `etp bench --compare torch` only."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax

from etp_jax.bench.steps import REPORTS, Contender
from etp_jax.config import AugmentConfig, ResNetConfig, TrainConfig
from etp_jax.errors import EtpError
from etp_jax.models.resnet1d import stage_blocks
from etp_jax.training.batches import Batch
from etp_jax.training.step import compute_dtype

try:
    import torch  # pyright: ignore[reportMissingImports]
    from torch import Tensor, nn  # pyright: ignore[reportMissingImports]
    from torch.nn import functional as F  # pyright: ignore[reportMissingImports]
except ImportError:
    raise EtpError("torch is not installed; `pip install torch`, or leave --compare out") from None


class Block(nn.Module):
    """Residual block of two convolutions."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        """Creates the layers."""
        super().__init__()
        self.conv1 = nn.Conv1d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
        self.norm1 = nn.BatchNorm1d(outputs)
        self.conv2 = nn.Conv1d(outputs, outputs, kernel, 1, kernel // 2, bias=False)
        self.norm2 = nn.BatchNorm1d(outputs)
        self.shortcut = nn.Sequential()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(nn.Conv1d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm1d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, C, T] to [B, outputs, ceil(T / stride)]."""
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.shortcut(x) + self.norm2(self.conv2(y)))


class DualEncoder(nn.Module):
    """ResNet1D, two linear projections and the logit scale; its text input is the text tower's cached outputs."""

    def __init__(self, config: TrainConfig, leads: int, text_dim: int) -> None:
        """Creates the layers of a recipe."""
        super().__init__()
        ecg = config.model.ecg
        assert isinstance(ecg, ResNetConfig), "`check` refuses other towers"
        width = ecg.width
        layers: list[nn.Module] = [nn.Conv1d(leads, width, 7, 2, 3, bias=False), nn.BatchNorm1d(width), nn.ReLU()]
        if ecg.stem == "conv-pool":
            layers.append(nn.MaxPool1d(3, 2, 1))
        channels = width
        for stage, count in enumerate(stage_blocks(ecg)):
            for i in range(count):
                layers.append(Block(channels, width * 2**stage, ecg.kernel, 2 if stage > 0 and i == 0 else 1))
                channels = width * 2**stage
        self.tower = nn.Sequential(*layers)
        self.both = ecg.pool == "mean-max"
        self.ecg_projection = nn.Linear(channels * (1 + self.both), config.model.embedding_dim)
        self.text_projection = nn.Linear(text_dim, config.model.embedding_dim)
        self.logit_scale = nn.Parameter(torch.tensor(1 / config.loss.temperature).log())

    def encode_ecg(self, ecg: Tensor) -> Tensor:
        """Maps int16 [B, leads, T] to unit vectors [B, E]."""
        y = self.tower(ecg.float() / 1000)
        pooled = torch.cat([y.mean(-1), y.amax(-1)], -1) if self.both else y.mean(-1)
        return F.normalize(self.ecg_projection(pooled.float()), dim=-1)

    def forward(self, ecg: Tensor, text: Tensor) -> Tensor:
        """Computes the symmetric InfoNCE loss."""
        text = F.normalize(self.text_projection(text), dim=-1)
        logits = self.logit_scale.exp() * self.encode_ecg(ecg) @ text.T
        own = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def check(config: TrainConfig, devices: Sequence[Any]) -> None:
    """Raises EtpError where the PyTorch model cannot match ours: other options than METS's, a TPU, several GPUs."""
    ecg = config.model.ecg
    known = (
        config.model.text.frozen
        and config.model.projection == "linear"
        and config.model.text_projection in ("same", "linear")
        and config.loss.pairs == "own"
        and config.loss.score == "softmax"
        and config.augment == AugmentConfig()
        and isinstance(ecg, ResNetConfig)
        and (ecg.depth, ecg.norm, ecg.scale, ecg.drop_path)
        in ((18, "batch", "millivolt", 0), (34, "batch", "millivolt", 0))
        and ecg.pool in ("mean", "mean-max")
        and config.optim.ema == config.optim.clip_norm == 0
        and config.optim.micro_batches == 1
    )
    if not known:
        raise EtpError("--compare torch supports METS's layers and loss only; use `--config mets`")
    if config.run.precision == "float64":
        raise EtpError("--compare torch runs in float32 or bfloat16; set --run.precision")
    backend = jax.default_backend()
    if backend == "cpu":
        return
    if backend != "gpu" or not torch.cuda.is_available():
        raise EtpError(f"this torch has no {backend}: there is nothing to compare with; leave --compare out")
    if len(devices) > 1:
        raise EtpError("--compare torch runs on a single GPU; add `--device-counts 1`")


def contenders(config: TrainConfig, batch: Batch, text_dim: int) -> list[Contender]:
    """Builds the eager contenders and, if there is a compiler, the compiled ones; on the GPU if JAX runs there."""
    device = "cpu" if jax.default_backend() == "cpu" else "cuda"
    torch.set_float32_matmul_precision("high")  # TF32 on GPUs, as JAX does by default
    signal = torch.from_numpy(batch["ecg"]).transpose(1, 2).contiguous().to(device)
    table = torch.randn(REPORTS, text_dim, device=device)
    report = torch.from_numpy(batch["report"]).long().to(device)
    modes = ["eager", "compiled"] if device == "cuda" or shutil.which("g++") else ["eager"]
    return [c for mode in modes for c in _contenders(config, mode, device, signal, table, report)]


def _contenders(
    config: TrainConfig, mode: str, device: str, signal: Tensor, table: Tensor, report: Tensor
) -> list[Contender]:
    model = DualEncoder(config, signal.shape[1], table.shape[1]).to(device)
    kind: Any = torch.optim.Adam if config.optim.name == "adam" else torch.optim.AdamW
    optimizer = kind(model.parameters(), config.optim.learning_rate, weight_decay=config.optim.weight_decay)
    narrow = compute_dtype(config.run.precision, jax.default_backend()).name == "bfloat16"
    loss_of: Any = torch.compile(model) if mode == "compiled" else model
    encode_of: Any = torch.compile(model.encode_ecg) if mode == "compiled" else model.encode_ecg

    def train(count: int) -> None:
        model.train()
        for _ in range(count):
            optimizer.zero_grad()
            with torch.autocast(device, torch.bfloat16, enabled=narrow):
                loss = loss_of(signal, table[report])
            loss.backward()
            optimizer.step()

    def encode(count: int) -> None:
        model.eval()
        with torch.inference_mode(), torch.autocast(device, torch.bfloat16, enabled=narrow):
            for _ in range(count):
                encode_of(signal)

    def waited(steps: Callable[[int], None]) -> Callable[[int], None]:
        def run(count: int) -> None:
            with _memory_errors():
                steps(count)
                if device == "cuda":
                    torch.cuda.synchronize()

        return run

    name = f"torch {mode}"
    return [Contender("train step", name, waited(train)), Contender("encoder", name, waited(encode))]


@contextmanager
def _memory_errors() -> Iterator[None]:
    """Turns PyTorch's out-of-memory error into one line; JAX reserves three quarters of a GPU's memory at its start."""
    try:
        yield
    except torch.cuda.OutOfMemoryError:
        raise EtpError(
            "PyTorch is out of GPU memory; set XLA_PYTHON_CLIENT_MEM_FRACTION=0.4 to leave it more, or lower "
            "--data.batch-size"
        ) from None
