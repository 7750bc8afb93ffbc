"""Loading of the recipe that `--config` names; it sets the defaults of all training options."""

from __future__ import annotations

import argparse
from typing import Any

from etp_jax.configs import load_recipe


def named_recipe(argv: list[str], default: str) -> dict[str, Any]:
    """Builds the fields `recipe` and `config` of a command's options from its arguments.

    Args:
      argv: arguments of the command. `--model.ecg.kind` among them decides which tower options exist.
      default: name of the recipe if the arguments name none.

    Raises:
      EtpError: the recipe, stage or tower is unknown.
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
