"""The recipe that `--config` names, as the default of every training option."""

from __future__ import annotations

import argparse
from typing import Any

from etp_jax.configs import load_recipe


def named_recipe(argv: list[str], default: str) -> dict[str, Any]:
    """The fields `recipe` and `config` of a command's options, from its arguments.

    Args:
      argv: the command's arguments. Which options of a tower they may hold depends on `--model.ecg.kind` among them.
      default: name of the recipe where the arguments name none.

    Raises:
      EtpError: no such recipe, stage or tower.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config", default=default)
    parser.add_argument("--stage")
    args = parser.parse_known_args(argv)[0]
    names_tower = any(word.startswith("--model.ecg.kind") for word in argv)
    if not names_tower and not args.config.endswith(".json"):
        return {"recipe": args.config, "config": load_recipe(args.config, args.stage)}
    from etp_jax.models.towers import with_named_tower  # loads jax and the modules of all towers

    return {"recipe": args.config, "config": with_named_tower(load_recipe(args.config, args.stage), argv)}
