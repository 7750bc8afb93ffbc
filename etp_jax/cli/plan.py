"""Command `etp plan`, which compiles a step for accelerators that need not be there."""

from __future__ import annotations

import tyro

from etp_jax.bench.plan_options import PlanOptions
from etp_jax.cli.command import Command, show
from etp_jax.cli.option_help import own_options, pointer
from etp_jax.cli.recipe import named_recipe


def default(argv: list[str]) -> PlanOptions:
    """Returns the default options, with the recipe that the arguments name."""
    return PlanOptions(topology=tyro.MISSING, **named_recipe(argv, PlanOptions.recipe))


def brief(argv: list[str]) -> str:
    """Formats the short help: the options of `etp plan`, without those of training."""
    own = own_options(PlanOptions, default(argv))
    return "\n".join(["usage: etp plan --topology v5e:16x16 [options]", "", *own, "", *pointer("plan")])


def plan(options: PlanOptions) -> None:
    """Runs `etp plan`."""
    from etp_jax.bench.plan import make_plan
    from etp_jax.bench.plan_table import table

    made = make_plan(options, progress=show)
    show(table(made))
    if options.json is not None:
        made.save(options.json)
        show(f"wrote {options.json}")


COMMANDS = {
    "plan": Command(PlanOptions, plan, default, brief),
}
