"""Draws every picture of README.md and docs/ from committed files: `make figures`.

The numbers come from `results/` and `docs/images/quickstart-metrics.csv`, the ECG from the synthetic
archive, the findings from the shipped encoder. A screenshot needs a browser and a report:
`ETP_CHROMIUM=chromium python docs/figures.py RUN/report.html`.
"""

from __future__ import annotations

import csv
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import matplotlib.image
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
STUDY = ROOT / "results" / "ptbxl-study.csv"
GROUPS = ROOT / "results" / "groups-and-conditions.csv"
CURVE = IMAGES / "quickstart-metrics.csv"

INK, MUTED, GRID = "#1b2733", "#5f6f7d", "#e3e8ec"
BLUE, ORANGE, GREEN, PURPLE, GREY = "#0072b2", "#d55e00", "#009e73", "#7b5ea7", "#8a949d"
"""The colours of Okabe and Ito, which most colour-blind readers can tell apart."""
ENCODERS = {
    "ours": (("fgclep_plus", "trained"), BLUE, "o"),
    "METS": (("mets", "trained"), ORANGE, "s"),
    "ETP": (("etp", "trained"), GREEN, "^"),
    "random encoder": (("random encoder, model of ptbxl", "random"), GREY, "v"),
}
"""Label: run and encoder of the study, colour, marker."""
PUBLISHED = {"HeartLang": ((0.789, 0.856, 0.875), "D")}
"""Linear probe on the superclasses at 1, 10 and 100 % of the labels, from the table of its repository."""
FRACTIONS = (0.01, 0.1, 1.0)
TASKS = {"ptbxl-super": "superclasses", "ptbxl-sub": "subclasses", "ptbxl-form": "forms", "ptbxl-rhythm": "rhythms"}
PROMPTS = {"default": (BLUE, "o"), "contrast": (ORANGE, "s"), "waveform": (GREEN, "^")}

WAVES = ((0.12, 0.25, 0.03), (-0.12, 0.37, 0.012), (1.0, 0.4, 0.014), (-0.22, 0.44, 0.014), (0.26, 0.68, 0.06))
"""P, Q, R, S and T of a drawn beat: height, moment, width."""
Point = tuple[float, float]
ROUNDED: dict[str, Any] = {"boxstyle": "round,pad=0,rounding_size=0.12", "linewidth": 1.4}
SMALL: dict[str, Any] = {"fontsize": 8.2, "color": MUTED}
CODE: dict[str, Any] = {"family": "DejaVu Sans Mono", "fontsize": 8.2, "color": INK}

PREDICTED = 97
"""Number of the synthetic record that `etp predict` is shown on: an infarct with one ventricular premature beat."""
PREDICT_TASKS = ("ptbxl-form", "ptbxl-super", "ptbxl-sub", "ptbxl-rhythm")

plt.rcParams.update(
    {
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": INK,
        "axes.edgecolor": MUTED,
        "axes.labelcolor": INK,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": GRID,
        "xtick.color": MUTED,
        "ytick.color": MUTED,
        "figure.facecolor": "white",
        "legend.frameon": False,
        "svg.fonttype": "path",
        "svg.hashsalt": "etp-jax",
    }
)


def load_study() -> list[dict[str, str]]:
    """Macro-AUROC rows of the study that have an interval: means over training seeds, or of a single seed."""
    with STUDY.open(encoding="utf-8", newline="") as file:
        return [row for row in csv.DictReader(file) if row["metric"] == "macro_auroc" and row["low"]]


def cell(rows: list[dict[str, str]], **wanted: Any) -> tuple[float, float, float] | None:
    """Value, low and high of the one row that matches; None if the study has no such row."""
    found = [row for row in rows if all(matches(row[name], value) for name, value in wanted.items())]
    if not found:
        return None
    return float(found[0]["value"]), float(found[0]["low"]), float(found[0]["high"])


def matches(text: str, value: Any) -> bool:
    """Whether a CSV field holds a value; numbers are compared as numbers."""
    return bool(text) and float(text) == value if isinstance(value, float) else text == value


def save(figure: Any, name: str) -> None:
    """Writes a figure into docs/images, the same bytes in every run."""
    path = IMAGES / name
    metadata = {"Date": None} if path.suffix == ".svg" else {"Software": None}
    figure.savefig(path, dpi=150, bbox_inches="tight", pad_inches=0.12, metadata=metadata)
    plt.close(figure)
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size // 1000} kB")


def label_efficiency(axes: Axes, rows: list[dict[str, str]], task: str, published: bool) -> None:
    """Linear-probe AUROC over the share of labels, with 95 % intervals over patients."""
    x = np.arange(len(FRACTIONS))
    for number, (label, ((run, encoder), colour, marker)) in enumerate(ENCODERS.items()):
        about = {"run": run, "encoder": encoder, "task": task, "kind": "probe", "protocol": "honest"}
        cells = [cell(rows, **about, fraction=fraction) for fraction in FRACTIONS]
        value, low, high = np.array(cells, float).T
        shifted = x + (number - 1.5) * 0.05
        style = {"color": colour, "marker": marker, "capsize": 2.5, "linewidth": 2, "label": label}
        axes.errorbar(shifted, value, (value - low, high - value), **style)
    for number, (label, (values, marker)) in enumerate(PUBLISHED.items() if published else ()):
        axes.plot(
            x + 0.14 + number * 0.05,
            values,
            marker,
            color=PURPLE,
            fillstyle="none",
            markersize=7,
            label=label,
        )
    axes.set_xticks(x, ["1 %", "10 %", "100 %"])
    axes.set_xlim(-0.25, len(FRACTIONS) - 0.7)
    axes.grid(axis="x", visible=False)


def draw_label_efficiency(rows: list[dict[str, str]]) -> None:
    """The README's plot: superclasses, with published points."""
    figure, axes = plt.subplots(figsize=(7.4, 4.2))
    label_efficiency(axes, rows, "ptbxl-super", published=True)
    axes.set(
        xlabel="share of the training labels", ylabel="macro-AUROC, PTB-XL superclasses, fold 10", ylim=(0.69, 0.95)
    )
    handles, labels = axes.get_legend_handles_labels()
    order = [labels.index(label) for label in ("ours", "METS", "ETP", *PUBLISHED, "random encoder")]
    axes.legend(
        [handles[number] for number in order],
        [labels[number] for number in order],
        loc="center left",
        bbox_to_anchor=(1.01, 0.5),
    )
    axes.set_title("Linear probe on frozen features", loc="left", fontweight="bold")
    save(figure, "label-efficiency.png")


def draw_label_efficiency_tasks(rows: list[dict[str, str]]) -> None:
    """The same for all four PTB-XL tasks."""
    figure, grid = plt.subplots(1, 4, figsize=(13, 3.6), sharey=True)
    for axes, (task, title) in zip(grid, TASKS.items(), strict=True):
        label_efficiency(axes, rows, task, published=False)
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("share of the training labels")
    grid[0].set_ylabel("macro-AUROC, fold 10")
    grid[0].legend(loc="lower right", fontsize=9)
    figure.tight_layout()
    save(figure, "label-efficiency-tasks.png")


def draw_prompts(rows: list[dict[str, str]]) -> None:
    """Zero-shot AUROC of each encoder by prompt set."""
    runs = {
        "fgclep_plus": "ours",
        "ptbxl": "ours, ptbxl",
        "mets": "METS",
        "etp": "ETP",
        "fgclep-coarse": "FG-CLEP, coarse",
        "fgclep-fine": "FG-CLEP, fine",
    }
    figure, grid = plt.subplots(1, 4, figsize=(13, 3.4), sharey=True)
    y = np.arange(len(runs))[::-1]
    for axes, (task, title) in zip(grid, TASKS.items(), strict=True):
        for offset, (prompts, (colour, marker)) in zip((0.18, 0, -0.18), PROMPTS.items(), strict=True):
            for position, run in zip(y, runs, strict=True):
                about = {"run": run, "encoder": "trained", "task": task, "kind": "zero-shot", "prompts": prompts}
                found = cell(rows, **about)
                if found is not None:
                    value, low, high = found
                    error = [[value - low], [high - value]]
                    axes.errorbar(
                        value, position + offset, xerr=error, color=colour, marker=marker, capsize=2, label=prompts
                    )
        axes.set_title(title, loc="left", fontweight="bold")
        axes.set_xlabel("zero-shot macro-AUROC")
        axes.grid(axis="y", visible=False)
    grid[0].set_yticks(y, list(runs.values()))
    grid[0].tick_params(axis="y", colors=INK)
    handles, labels = grid[0].get_legend_handles_labels()
    unique = dict(zip(labels, handles, strict=True))
    figure.legend(unique.values(), unique.keys(), title="prompt set", loc="center left", bbox_to_anchor=(1.0, 0.5))
    figure.tight_layout()
    save(figure, "prompt-sensitivity.png")


def draw_groups() -> None:
    """Macro-AUROC of the shipped encoder by group and by condition, with 95 % intervals over patients."""
    with GROUPS.open(encoding="utf-8", newline="") as file:
        rows = [row for row in csv.DictReader(file) if (row["encoder"], row["task"]) == ("trained", "ptbxl-super")]
    kinds = {name: [row for row in rows if row["kind"] == name] for name in ("subgroups", "robustness")}
    figure, panels = plt.subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    for axes, (kind, own) in zip(panels, kinds.items(), strict=True):
        parts = [row for row in own if row["metric"].startswith("macro_auroc: ")]
        value, low, high = (np.array([float(row[name]) for row in parts]) for name in ("value", "low", "high"))
        places = range(len(parts))
        axes.errorbar(value, places, xerr=(value - low, high - value), fmt="o", color=BLUE, capsize=2.5)
        axes.axvline(float(next(row for row in own if row["metric"] == "macro_auroc")["value"]), color=GREY, ls=":")
        axes.set_yticks(places, [row["metric"].removeprefix("macro_auroc: ") for row in parts])
        axes.invert_yaxis()
        axes.grid(axis="y", visible=False)
        axes.set_xlabel("macro-AUROC, superclasses, fold 9")
        axes.set_title({"subgroups": "group of the records", "robustness": "condition"}[kind], fontsize=10, loc="left")
    save(figure, "groups-and-conditions.png")


def draw_training_curve() -> None:
    """Loss and validation retrieval of the quickstart's training."""
    with CURVE.open(encoding="utf-8", newline="") as file:
        lines = list(csv.DictReader(file))
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4))
    for name, label, colour in (("loss", "training", BLUE), ("validation_loss", "validation", ORANGE)):
        left.plot(*points(lines, name), color=colour, marker="o", markersize=3, linewidth=1.6, label=label)
    left.set(xlabel="training step", ylabel="contrastive loss")
    left.set_title("Loss", loc="left", fontweight="bold")
    left.legend()
    right.plot(*points(lines, "validation_recall_10"), color=GREEN, marker="o", markersize=3, linewidth=1.6)
    right.set(xlabel="training step", ylabel="recall@10", ylim=(0, None))
    right.set_title("Retrieval of reports and ECGs, validation", loc="left", fontweight="bold")
    figure.tight_layout()
    save(figure, "training-curve.png")


def points(lines: list[dict[str, str]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values of the lines that have a value."""
    found = [(int(line["step"]), float(line[name])) for line in lines if line[name]]
    steps, values = zip(*found, strict=True)
    return list(steps), list(values)


def draw_predict() -> None:
    """What `etp predict` writes of a synthetic ECG: the drawing, and the ranked findings beside it."""
    from etp_jax.api import load
    from etp_jax.data_prep.synthetic.archive import write_archive
    from etp_jax.ecg.leads import Layout
    from etp_jax.predict import page
    from etp_jax.predict.predictor import Predictor

    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_archive(folder / "archive", PREDICTED)
        predictor = Predictor(load(), PREDICT_TASKS)
        record = folder / "archive" / "records100" / "00000" / f"{PREDICTED:05d}_lr.hea"
        prediction = predictor.predict(predictor.read(record, Layout()))
        drawing = matplotlib.image.imread(
            next(path for path in page.write(prediction, predictor, folder) if path.suffix == ".png")
        )
    height, width = drawing.shape[:2]
    figure = plt.figure(figsize=(width / 150, (height + 330) / 150))
    share = height / (height + 330)
    picture = figure.add_axes((0, 1 - share, 1, share))
    picture.imshow(drawing, aspect="auto", interpolation="none")
    picture.set_axis_off()
    for number, (group, findings) in enumerate(prediction.groups.items()):
        axes = figure.add_axes((0.015 + number * 0.33, 0.02, 0.3, 1 - share - 0.075))
        bars(axes, group, [(f.name, f.probability or 0.0) for f in findings[:4]])
    path = IMAGES / "predict.png"
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
    quantise(path)
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size // 1000} kB")


def bars(axes: Axes, group: str, findings: list[tuple[str, float]]) -> None:
    """Probabilities of a group's first findings, the likeliest on top."""
    for row, (name, probability) in enumerate(findings):
        axes.barh(-row, 1, height=0.34, color=GRID)
        axes.barh(-row, probability, height=0.34, color=BLUE if row == 0 else "#9cc3dc")
        short = name if len(name) <= 36 else name[:35].rstrip() + "…"
        axes.text(0, -row + 0.24, short, fontsize=8, va="bottom")
        axes.text(1.0, -row + 0.24, f"{probability:.0%}", fontsize=8, va="bottom", ha="right", color=MUTED)
    axes.set(xlim=(0, 1), ylim=(-len(findings) + 0.7, 0.75))
    axes.set_title(group, loc="left", fontweight="bold", fontsize=9.5)
    axes.set_axis_off()


def quantise(path: Path) -> None:
    """Shrinks a PNG to 128 colours."""
    from PIL import Image

    with Image.open(path) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def box(axes: Axes, centre: Point, title: str, lines: str, colour: str, size: Point) -> None:
    """A rounded box with a bold title and small lines below it."""
    (x, y), (width, height) = centre, size
    axes.add_patch(
        FancyBboxPatch((x - width / 2, y - height / 2), width, height, **ROUNDED, fc=colour + "1f", ec=colour)
    )
    axes.text(x, y + (0.2 if lines else 0), title, ha="center", va="center", fontweight="bold", fontsize=10.5)
    axes.text(x, y - 0.2, lines, ha="center", va="center", **SMALL, linespacing=1.35)


def arrow(axes: Axes, start: Point, end: Point, label: str = "") -> None:
    """An arrow, with a label above or beside its middle."""
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=13, color=MUTED, linewidth=1.3))
    if label:
        x, y = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2
        if start[1] == end[1]:
            axes.text(x, y + 0.1, label, **CODE, ha="center", va="bottom")
        else:
            axes.text(x + 0.08, y, label, **CODE, ha="left", va="center")


def canvas(width: float, height: float) -> tuple[Any, Axes]:
    """An empty figure whose unit is four fifths of an inch."""
    figure, axes = plt.subplots(figsize=(width * 0.8, height * 0.8))
    axes.set(xlim=(0, width), ylim=(0, height))
    axes.set_axis_off()
    axes.set_aspect("equal")
    return figure, axes


def draw_data_flow() -> None:
    """From raw archives to results: folders as boxes, commands as arrows."""
    figure, axes = canvas(16.4, 4.7)
    size, top, low = (2.5, 1.15), 3.7, 1.1
    x = (1.4, 5.2, 9.2, 13.4)
    box(axes, (x[0], top), "raw archive", "WFDB, EDF, .mat,\n.npy, CSV; reports", GREY, size)
    box(axes, (x[1], top), "shard folder", "TFRecord: ECG in µV,\nreports, labels", BLUE, size)
    box(axes, (x[2], top), "run folder", "config, Orbax\ncheckpoints, metrics", ORANGE, size)
    box(axes, (x[3], top), "encoder folder", "safetensors,\nprompts, ONNX", GREEN, size)
    for start, end, label in ((0, 1, "etp prep"), (1, 2, "etp train"), (2, 3, "etp export")):
        arrow(axes, (x[start] + 1.28, top), (x[end] - 1.28, top), label)
    box(axes, (5.2, low), "fine shards", "reports with restored\nwaveform features", BLUE, size)
    arrow(axes, (5.2, top - 0.62), (5.2, low + 0.62), "etp waveform")
    arrow(axes, (6.3, low + 0.62), (8.1, top - 0.62))
    box(axes, (9.2, low), "results", "JSON, CSV,\nreport.html", PURPLE, size)
    box(axes, (13.4, low), "findings", "page, picture, table,\nembeddings", PURPLE, size)
    arrow(axes, (9.2, top - 0.62), (9.2, low + 0.62), "etp evaluate\netp report\netp reproduce")
    arrow(axes, (13.4, top - 0.62), (13.4, low + 0.62), "etp predict\netp_jax.load()")
    arrow(axes, (12.4, top - 0.62), (10.52, low + 0.3))
    save(figure, "data-flow.svg")


def draw_towers() -> None:
    """Both towers, the score matrix, and where the loss reads its targets."""
    figure, axes = canvas(16.4, 6.0)
    rng, size = np.random.default_rng(1), (2.6, 1.15)
    time = np.linspace(0, 1, 400)
    beat = sum(
        height * np.exp(-(((time * 3 % 1) - at) ** 2) / width**2)
        for height, at, width in (
            (0.12, 0.25, 0.03),
            (-0.12, 0.37, 0.012),
            (1.0, 0.4, 0.014),
            (-0.22, 0.44, 0.014),
            (0.26, 0.68, 0.06),
        )
    )
    for row in range(3):
        wave = beat * (0.55, 0.42, -0.3)[row] + rng.normal(0, 0.006, time.size)
        axes.plot(0.2 + time * 2.4, 5.15 - row * 0.5 + wave * 0.75, color=INK, linewidth=1.0)
    axes.text(1.4, 3.55, "ECG  [T, 12], int16 µV", ha="center", **SMALL)
    axes.add_patch(Rectangle((0.2, 0.75), 2.4, 1.3, facecolor="white", edgecolor=MUTED, linewidth=1))
    axes.text(
        0.35,
        1.4,
        "Sinus rhythm. Left\naxis deviation.\nOld anterior infarct.",
        fontsize=8.4,
        va="center",
        style="italic",
    )
    axes.text(1.4, 0.4, "report, English, cleaned", ha="center", **SMALL)
    for y, title, lines, colour, vector in (
        (4.65, "ECG tower", "ResNet18-1D or ViT-1D\nalways trained", BLUE, "ECG"),
        (1.4, "text tower", "BERT: frozen, partly\nor wholly trained", ORANGE, "text"),
    ):
        box(axes, (4.9, y), title, lines, colour, size)
        box(axes, (8.2, y), "projection", "linear or MLP,\nunit length", colour, (2.2, 1.15))
        arrow(axes, (2.75, y), (3.55, y))
        arrow(axes, (6.25, y), (7.05, y))
        end = 4.05 if vector == "ECG" else 2.0
        arrow(axes, (9.35, y), (11.0, end))
        axes.text(
            9.5,
            y + (0.3 if vector == "ECG" else -0.4),
            f"{vector} embeddings\n[B, E]",
            fontsize=8.2,
            color=MUTED,
            va="center",
        )
    scores = rng.uniform(0.02, 0.3, (6, 6)) + np.eye(6) * 0.65
    scores[1, 4] = scores[4, 1] = 0.62
    for i, j in np.ndindex(6, 6):
        face = plt.get_cmap("Blues")(float(scores[i, j]) * 0.95)
        axes.add_patch(Rectangle((11.2 + j * 0.4, 3.82 - i * 0.4), 0.36, 0.36, facecolor=face, edgecolor="white"))
    axes.text(12.4, 4.4, "cosines [B, B]", ha="center", fontsize=9.5, fontweight="bold")
    axes.text(12.4, 1.62, "pairs: own report, equal\nreports, or semantic", ha="center", va="top", **SMALL)
    box(axes, (15.15, 3.0), "loss", "softmax (InfoNCE)\nor sigmoid", PURPLE, (2.1, 1.15))
    arrow(axes, (13.7, 3.0), (14.05, 3.0))
    save(figure, "towers.svg")


def screenshot(report: Path) -> None:
    """The top of a run's report.html, by the browser that ETP_CHROMIUM names; needs the extra `browser`."""
    from playwright.sync_api import sync_playwright

    path = IMAGES / "report.png"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=os.environ["ETP_CHROMIUM"], args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 960, "height": 1240})
        page.goto(report.resolve().as_uri())
        page.screenshot(path=path)
        browser.close()
    quantise(path)
    print(f"wrote {path.relative_to(ROOT)}, {path.stat().st_size // 1000} kB")


def main() -> None:
    """Draws all pictures; with the path of a report.html, its screenshot too."""
    rows = load_study()
    draw_label_efficiency(rows)
    draw_label_efficiency_tasks(rows)
    draw_prompts(rows)
    draw_groups()
    draw_training_curve()
    draw_data_flow()
    draw_towers()
    draw_predict()
    for report in sys.argv[1:]:
        screenshot(Path(report))


if __name__ == "__main__":
    main()
