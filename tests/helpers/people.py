"""Small shards whose records have sexes, ages and marks of noise; their level tells a little of sex and age."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from etp_jax.shards.record import Record
from tests.helpers import small_run

AGES = (40.0, 64.0, 65.0, 80.0, float("nan"))
SEXES = ("male", "female", "female", "")
MARKS = {
    "static noise": [f"validation-{n}" for n in range(0, 60, 2)],
    "electrodes problems": ["validation-1", "train-3"],
}


def write_people(folder: Path, everyone: dict[str, Any] | None = None, **build: Any) -> Path:
    """Shards like those of `small_run`, with people; sexes and ages go by the number of the record.

    What `everyone` has is the same for all.
    """
    original = small_run.make_record

    def make_record(split: str, number: int, rng: np.random.Generator, shape: tuple[int, int]) -> Record:
        record = original(split, number, rng, shape)
        sex, age = SEXES[number % len(SEXES)], AGES[number % len(AGES)]
        level = 250 * (sex == "female") + (0 if np.isnan(age) else 5 * (age - 60))
        return replace(record, ecg=(record.ecg + level).astype(np.int16), **{"sex": sex, "age": age} | (everyone or {}))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(small_run, "make_record", make_record)
        return small_run.write_shards(folder, **build)
