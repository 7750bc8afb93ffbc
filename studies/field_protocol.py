"""Makes results/field-protocol.csv and the tables of its page from JSON files of `etp evaluate`.

    python studies/field_protocol.py RESULT.json ...

The results are those of `--protocol ecg-fm-benchmark` with the shipped encoder. They replace their own lines of the
CSV; the lines of other results stay. Published figures are those of `ecg_fm_published.csv`: the rows of PTB-XL in
`Confidence_Interval.xlsx` of the repository AI4HealthUOL/ecg-fm-benchmarking, rounded to six decimals, as read in
November 2026.
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

from etp_jax.evaluation import Result
from etp_jax.evaluation.ecg_fm_benchmark import FREQUENT
from etp_jax.evaluation.figures import Figure
from etp_jax.evaluation.request import FIELD
from etp_jax.reproduce.tables import CSV

ROOT = Path(__file__).parents[1]
RESULTS, PUBLISHED = ROOT / "results", ROOT / "studies" / "ecg_fm_published.csv"
STUDY = "field-protocol"
START, END = "<!-- tables -->", "<!-- end of the tables -->"
TASKS = ("ptbxl-super", "ptbxl-sub", "ptbxl-form", "ptbxl-rhythm", "ptbxl-all")
WAYS = {"linear": "Frozen, linear", "attention": "Frozen, attention head", "finetune": "Whole network fine-tuned"}
"""Ways to use an encoder, with the heading of their table."""
FOLDS = {"validation": "fold 9", "test": "fold 10"}
PRETRAINED_ON = {
    "ECGFounder": "HEEDB",
    "ECG-JEPA": "Chapman, Ningbo, CODE-15 (its repository; the benchmark's code says PTB-XL)",
    "ECG-CPC": "HEEDB",
    "ST-MEM": "Chapman, Ningbo, CODE-15",
    "MERL": "MIMIC-IV-ECG",
    "HuBERT-ECG": "9.1 million ECGs; whether PTB-XL is among them was not found",
    "ECG-FM": "MIMIC-IV-ECG and PhysioNet 2021, **which contains PTB-XL, fold 10 too**",
    "ECGFM-KED": "MIMIC-IV-ECG",
    "S4, supervised": "nothing",
    "Net1D, supervised": "nothing",
}


def published() -> Iterator[list[object]]:
    """The lines of the CSV for the published figures."""
    with PUBLISHED.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            about = [STUDY, f"{row['model']}, fold 10", "", "published", row["task"], *_kind(row["way"]), "", 1.0]
            yield [*about, "macro_auroc", row["value"], row["low"], row["high"], ""]


def measured(result: Result) -> Iterator[list[object]]:
    """The lines of the CSV for a result."""
    for row in result.rows:
        about = [STUDY, f"shipped, {FOLDS[result.split]}", row.train_seed, row.encoder, result.task]
        for metric, figure in result.summary[row.encoder][row.fraction].items():
            if figure.mean is not None and row.fraction == 1:
                values = figure.mean, figure.low, figure.high, result.revision
                yield [*about, *_kind(way_of(result)), "", row.fraction, metric, *values]


def _read(path: Path) -> Result:
    """Reads a result; ends the program if it is of another protocol, task or split."""
    result = Result.load(path)
    name = str(result.protocol.get("name"))
    if name != FIELD or result.task not in TASKS or result.split not in FOLDS:
        found = f"task {result.task}, split {result.split}, protocol {name}"
        raise SystemExit(f"{path}: {found}; this page takes {FIELD} on {', '.join(TASKS)}")
    return result


def _shipped() -> Iterator[list[object]]:
    """The lines of the CSV, as it is now, for the shipped encoder."""
    with (RESULTS / f"{STUDY}.csv").open(encoding="utf-8", newline="") as file:
        for line in csv.reader(file):
            if line[1].startswith("shipped"):
                yield list(line)


def _cell_of(line: list[object]) -> tuple[str, ...]:
    """What a line's figure measures: run, kind, protocol, task, seed and encoder."""
    return tuple(str(line[place]) for place in (1, 5, 6, 4, 2, 3))


def way_of(result: Result) -> str:
    """How a result uses the encoder: one of `WAYS`."""
    return result.protocol.get("head", "linear") if result.kind == "probe" else result.kind


def _kind(way: str) -> tuple[str, str]:
    """Values of the columns `kind` and `protocol`."""
    return ("finetune" if way == "finetune" else "probe", f"{FIELD}, attention head" if way == "attention" else FIELD)


def tables(lines: list[list[object]]) -> list[str]:
    """Markdown tables of lines of the CSV, one for each way to use an encoder."""
    text: list[str] = []
    for way, heading in WAYS.items():
        own = [line for line in lines if (line[5], line[6]) == _kind(way)]
        text += [
            f"## {heading}",
            "",
            f"| encoder | {' | '.join(TASKS)} | pre-trained on |",
            "|---" * (len(TASKS) + 2) + "|",
        ]
        for name, metric in dict.fromkeys((_name(line), line[9]) for line in own):
            if metric not in ("macro_auroc", FREQUENT):
                continue
            found = {line[4]: line for line in own if (_name(line), line[9]) == (name, metric)}
            cells = [_cell(found[task]) if task in found else "–" for task in TASKS]
            title = name if metric == "macro_auroc" else f"{name}, classes of ten positives"
            text.append(f"| {title} | {' | '.join(cells)} | {_data(name)} |")
        text.append("")
    return text


def _name(line: list[object]) -> str:
    return f"{line[1]}" if line[3] in ("published", "trained") else f"{line[1]}, {line[3]}"


def _data(name: str) -> str:
    shipped = "nothing" if name.endswith(("random", "supervised")) else "PTB-XL folds 1–8, with reports"
    return shipped if name.startswith("shipped") else PRETRAINED_ON[name.removesuffix(", fold 10")]


def _cell(line: list[object]) -> str:
    figure = Figure(*(float(str(value)) for value in line[10:13]))
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"


def main() -> None:
    """Writes both files."""
    new = [line for name in sys.argv[1:] for line in measured(_read(Path(name)))]
    replaced = {_cell_of(line) for line in new}
    kept = [line for line in _shipped() if _cell_of(line) not in replaced]
    lines = [*kept, *new, *published()]
    with (RESULTS / f"{STUDY}.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(CSV)
        writer.writerows(lines)
    page = RESULTS / f"{STUDY}.md"
    before, _, rest = page.read_text(encoding="utf-8").partition(START)
    after = rest.partition(END)[2]
    made = "\n".join(tables(lines))
    page.write_text(f"{before}{START}\n\n{made}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
