"""Makes results/groups-and-conditions.csv and the tables of its page from JSON files of `etp evaluate`.

    python studies/groups_and_conditions.py RESULT.json ...

The results are those of the kinds with groups or conditions, and of sex and age. The metric of a part has its name,
as `macro_auroc: women` and `difference: women`.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from etp_jax.evaluation import Result
from etp_jax.evaluation.figures import Figure, PartFigures
from etp_jax.evaluation.results import Row
from etp_jax.reproduce.tables import CSV

RESULTS = Path(__file__).parents[1] / "results"
STUDY = "groups-and-conditions"
START, END = "<!-- tables -->", "<!-- end of the tables -->"


def figures_of(result: Result, row: Row) -> Iterator[tuple[str, Figure]]:
    """All figures of an encoder by metric; without those that are undefined."""
    yield from result.summary[row.encoder][row.fraction].items()
    for name, part in row.parts.items():
        yield f"macro_auroc: {name}", part.interval
        yield f"difference: {name}", part.paired
    for code, each in row.reliability.items():
        yield f"ece_equal_mass: {code}", Figure(each.ece_equal_mass, None, None)
        yield f"ece_equal_width: {code}", Figure(each.ece_equal_width, None, None)


def lines_of(result: Result) -> Iterator[list[object]]:
    """The lines of the CSV."""
    for row in result.rows:
        about = [STUDY, "shipped", row.train_seed, row.encoder, result.task or "", result.kind, "honest", ""]
        for metric, figure in figures_of(result, row):
            if figure.mean is not None:
                yield [*about, row.fraction, metric, figure.mean, figure.low, figure.high, result.revision]


def table(result: Result) -> list[str]:
    """A Markdown table of a result: its parts, or else its figures."""
    row = result.rows[0]
    lines = [f"## {' '.join(filter(None, [result.kind, result.task]))}, {result.records} records of {result.split}", ""]
    if row.parts:
        lines += ["| | records | classes | macro-AUROC | difference |", "|---|---|---|---|---|"]
        lines += [_part(name, part) for name, part in row.parts.items()]
        lines += ["", f"Difference: {result.protocol['difference']}."]
    figures = {name: figure for name, figure in result.summary["trained"][row.fraction].items() if _shown(name)}
    if figures:
        lines += ["", "| encoder | " + " | ".join(figures) + " |", "|---" * (len(figures) + 1) + "|"]
        for encoder, by_fraction in result.summary.items():
            cells = [_cell(by_fraction[row.fraction][name], ".3f") for name in figures]
            lines.append(f"| {encoder} | {' | '.join(cells)} |")
    return [*lines, ""]


def _shown(metric: str) -> bool:
    return not metric.startswith("macro_")


def _part(name: str, part: PartFigures) -> str:
    cells = [_cell(part.interval, ".3f"), _cell(part.paired, "+.3f")]
    return f"| {name} | {part.records} | {part.classes} | {' | '.join(cells)} |"


def _cell(figure: Figure, form: str) -> str:
    if figure.mean is None or figure.low is None or figure.high is None:
        return "–"
    return f"{figure.mean:{form}} [{figure.low:{form}}, {figure.high:{form}}]"


def main() -> None:
    """Writes both files."""
    results = [Result.load(Path(name)) for name in sys.argv[1:]]
    with (RESULTS / f"{STUDY}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV)
        for result in results:
            writer.writerows(lines_of(result))
    page = RESULTS / f"{STUDY}.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    tables = "\n".join(line for result in results for line in table(result))
    page.write_text(f"{before}{START}\n\n{tables}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
