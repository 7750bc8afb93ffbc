"""Makes results/rhythm-classes.csv, the AUROC of each rhythm, from JSON files of `etp evaluate zero-shot`.

    python studies/rhythm_classes.py NAME=RESULT.json ...

NAME is the run's name in the table. The metric of a class has its code, as `auroc: STACH`.
"""

from __future__ import annotations

import csv
import sys
from pathlib import Path

from etp_jax.evaluation import Result
from etp_jax.reproduce.tables import CSV

STUDY = "rhythm-classes"


def main() -> None:
    """Writes the file."""
    file = Path(__file__).parents[1] / "results" / f"{STUDY}.csv"
    with file.open("w", encoding="utf-8", newline="") as opened:
        writer = csv.writer(opened, lineterminator="\n")
        writer.writerow(CSV)
        for name, path in (text.split("=", 1) for text in sys.argv[1:]):
            result = Result.load(Path(path))
            row, prompts = result.rows[0], result.protocol["prompts"].partition(",")[0]
            about = [STUDY, name, row.train_seed, row.encoder, result.task, result.kind, "honest", prompts, 0.0]
            for code, each in row.per_class.items():
                writer.writerow(
                    [*about, f"auroc: {code}", each.auroc, each.auroc_low, each.auroc_high, result.revision]
                )


if __name__ == "__main__":
    main()
