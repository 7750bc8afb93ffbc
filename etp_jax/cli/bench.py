"""Command `etp bench`, which measures speed."""

from __future__ import annotations

from etp_jax.bench.options import BenchOptions
from etp_jax.cli.command import Command, show
from etp_jax.cli.option_help import own_options, pointer
from etp_jax.cli.recipe import named_recipe


def default(argv: list[str]) -> BenchOptions:
    """Returns the default options, with the recipe that the arguments name."""
    return BenchOptions(**named_recipe(argv, BenchOptions.recipe))


def brief(argv: list[str]) -> str:
    """Formats the short help: the options of `etp bench`, without those of training."""
    own = own_options(BenchOptions, default(argv))
    return "\n".join(["usage: etp bench [options]", "", *own, "", *pointer("bench")])


def bench(options: BenchOptions) -> None:
    """Runs `etp bench`."""
    from etp_jax.bench.run import measure
    from etp_jax.bench.table import plot, table
    from etp_jax.files import write_text

    report = measure(options)
    show(table(report))
    if options.json is not None:
        report.save(options.json)
    if options.plot is not None:
        write_text(options.plot, plot(report))
    for path in (options.json, options.plot, options.trace):
        if path is not None:
            show(f"wrote {path}")


COMMANDS = {
    "bench": Command(BenchOptions, bench, default, brief),
}
