"""Compares the options of a study's runs with the parser of `etp train`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

import pytest
import tyro

from etp_jax.config import TrainConfig
from etp_jax.configs import load_recipe, recipe_names
from etp_jax.errors import EtpError
from etp_jax.reproduce.options import set_options


@pytest.mark.parametrize(
    "words",
    [
        "--optim.epochs 4 --data.train-share 0.3333 --loss.pairs own --loss.bias None --seed 3",
        "--optim.epochs=4 --optim.warmup_epochs=0.25 --loss.bias=-10 --optim.text-learning-rate 1e-4",
        "--model.text.frozen --run.no-deterministic --model.text.pretrained package:x/y --optim.weight-decay 1e-4",
        "--model.text.pretrained None --run.best recall --loss.no-learn-temperature",
    ],
)
def test_equals_what_etp_train_parses(words: str) -> None:
    for name in recipe_names():
        recipe = load_recipe(name)
        assert set_options(recipe, words.split()) == tyro.cli(TrainConfig, args=words.split(), default=recipe)


@dataclass(frozen=True)
class Small:
    blocks: tuple[int, ...] = (2, 2)
    pair: tuple[float, str] | None = None


@dataclass(frozen=True)
class Large:
    heads: int = 3


@dataclass(frozen=True)
class Options:
    tower: Small | Large = field(default_factory=Small)
    size: Literal[18, 34] = 18


def test_tuples_numbers_to_choose_from_and_unions() -> None:
    words = ["--tower.blocks", "1", "1", "1", "--tower.pair", "0.5", "x", "--size", "34"]
    assert set_options(Options(), words) == Options(Small((1, 1, 1), (0.5, "x")), 34)
    assert set_options(Options(Large()), ["--tower.heads", "5"]) == Options(Large(5))
    assert set_options(Options(), ["--tower.pair", "None", "--tower.blocks"]) == Options(Small((), None))


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("--tower.heads 5", "no option --tower.heads"),
        ("--tower.block 5", "no option --tower.block; did you mean --tower.blocks?"),
        ("--size 50", "--size is '50'; it must be one of 18, 34"),
        ("--size", "--size is 'nothing'; it must be"),
        ("--tower.blocks 1 x", "--tower.blocks is '1 x'; it must be a list of a whole number"),
        ("34", "'34' is not an option"),
    ],
)
def test_a_mistake_names_the_option(words: str, said: str) -> None:
    with pytest.raises(EtpError) as error:
        set_options(Options(), words.split())
    assert said in str(error.value)
