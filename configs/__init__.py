"""Recipes: training configs by name, from a `.py` file, or from a saved run. This module does not import jax."""

from __future__ import annotations

import importlib
import runpy
from dataclasses import replace
from pathlib import Path
from typing import Any

from etp_jax import config as config_module
from etp_jax.config import TrainConfig
from etp_jax.errors import EtpError
from etp_jax.files import read_json
from etp_jax.old_options import check_trainable


def recipe_names() -> list[str]:
    """Lists the names of the recipes installed with the package."""
    folder = Path(importlib.import_module("etp_jax.configs").__path__[0])
    return sorted(path.stem for path in folder.glob("*.py") if path.stem != "__init__")


def load_recipe(name: str, stage: str | None = None) -> TrainConfig:
    """Loads a shipped recipe by name (`mets`), a `.py` file that defines `config`, or a saved `config.json`.

    A recipe with several stages also defines `stages`, a dictionary of configs by stage name.
    """
    path = Path(name)
    if path.suffix == ".json":
        config = config_module.load(path)
        check_trainable(read_json(path, "name a config.json of a run folder"), str(path))
        return config
    if path.suffix == ".py":
        if not path.is_file():
            raise EtpError(f"{path}: no such recipe file")
        recipe = _run(path)
    elif name in recipe_names():
        recipe = vars(importlib.import_module(f"etp_jax.configs.{name}"))
    else:
        raise EtpError(f"no recipe {name!r}; shipped are {', '.join(recipe_names())}, or name a .py file")
    stages = recipe.get("stages", {})
    if stage is not None and stage not in stages:
        raise EtpError(f"--stage {stage}: recipe {name} has {'stages ' + ', '.join(stages) if stages else 'no stages'}")
    config = recipe.get("config") if stage is None else stages[stage]
    if not isinstance(config, TrainConfig):
        raise EtpError(f"{name}: a recipe defines `config = TrainConfig(...)`")
    return config


def recipe_of(config: TrainConfig) -> str | None:
    """Finds the shipped recipe with the same model and loss, ignoring the source of the text tower; None if none."""

    def decisive(config: TrainConfig) -> Any:
        return replace(config.model, text=replace(config.model.text, pretrained=None)), config.loss

    return next((name for name in recipe_names() if decisive(load_recipe(name)) == decisive(config)), None)


def _run(path: Path) -> dict[str, Any]:
    """Returns the names that a recipe file defines; EtpError whatever its code raises."""
    try:
        return runpy.run_path(str(path))
    except EtpError:
        raise
    except (Exception, SystemExit) as error:
        raise EtpError(f"{path}: is no recipe of this version ({type(error).__name__}: {error})") from error
