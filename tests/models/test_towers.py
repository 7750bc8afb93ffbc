"""A tower is one module and one line: a toy one is registered as docs/extending.md tells, and trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.typing import DTypeLike

from etp_jax import config as config_module
from etp_jax.bench import flops
from etp_jax.cli import main
from etp_jax.config import EcgConfig
from etp_jax.models.layers import at_least_float32
from etp_jax.models.towers import TOWERS, Tower
from etp_jax.models.work import Work, linear
from etp_jax.training.checkpoint import restore_params
from tests.helpers.tiny_run import SAMPLES, write_shards

# The module, as it would be in etp_jax/models/.


@dataclass(frozen=True)
class ToyConfig(EcgConfig):
    """One dense layer over the leads, then the mean over time."""

    kind: Literal["toy"] = "toy"
    width: int = 4
    """Features."""


class Toy(nn.Module):
    """The toy encoder."""

    config: ToyConfig
    dtype: DTypeLike = jnp.float32
    axis_name: str | None = None

    @nn.compact
    def __call__(
        self, ecg_BTL: jax.Array, lead_mask_BL: jax.Array, train: bool = False, keys: jax.Array | None = None
    ) -> jax.Array:
        exact = at_least_float32(self.dtype)
        x_BTF = nn.Dense(self.config.width, dtype=self.dtype, param_dtype=exact, name="dense")(ecg_BTL)
        return nn.relu(x_BTF).mean(axis=1).astype(exact)


def work(config: ToyConfig, samples: int, leads: int) -> Work:
    return linear(samples, leads, config.width)


TOY = Tower(ToyConfig, Toy, work)  # the line


@pytest.fixture(autouse=True)
def registered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TOWERS, TOY.options.kind, TOY)


def test_a_tower_is_a_module_and_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shards, run = write_shards(tmp_path / "shards"), tmp_path / "run"
    argv = ["train", "--config", "quickstart", "--data.shards", str(shards), "--workdir", str(run)]
    argv += ["--data.batch-size", "8", "--max-steps", "1", "--model.text.layers", "1", "--model.text.hidden", "8"]
    argv += ["--model.ecg.kind", "toy", "--model.ecg.width", "5", "--augment.time-shift-s", "0.1"]
    main.main(argv)
    assert "1 steps: 12 epochs of 5, cut from 60 by --max-steps" in capsys.readouterr().out

    config = config_module.load(run / "config.json")
    assert config.model.ecg == ToyConfig(width=5) and config.optim.max_steps == 1
    params, _, step = restore_params(run, "best", "loss")
    assert step == 1 and params["ecg_tower"]["dense"]["kernel"].shape == (12, 5)
    assert flops.encoder(config, SAMPLES, 12, params, jnp.dtype("float32"), 1).flops == 8 * 2 * (
        SAMPLES * 12 * 5 + 5 * config.model.embedding_dim
    )


def test_every_tower_names_itself() -> None:
    assert all(tower.options.kind == name == tower.options().kind for name, tower in TOWERS.items())  # pyright: ignore
