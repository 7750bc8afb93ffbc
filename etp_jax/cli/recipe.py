"""The recipe that `--config` names, as the default of every training option."""

from __future__ import annotations

import argparse
from typing import Any

from etp_jax.config import TrainConfig
from etp_jax.configs import load_recipe


def named_recipe(argv: list[str], default: str) -> dict[str, Any]:
    """The fields `config` and `recipe` of a command's options, from its arguments.

    Args:
      argv: the command's arguments.
      default: name of the recipe where the arguments name none.

    Raises:
      EtpError: no such recipe or stage.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=default)
    parser.add_argument("--stage")
    args = parser.parse_known_args(argv)[0]
    recipe: TrainConfig = load_recipe(args.config, args.stage)
    return {"config": args.config, "recipe": recipe}
