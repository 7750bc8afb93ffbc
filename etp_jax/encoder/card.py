"""The model card and the licence files of an exported encoder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etp_jax import __version__
from etp_jax.configs import recipe_of
from etp_jax.encoder.card_parts import FIGURES_FOLDER, parts_section
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import CARD_FILE, LEGAL_FILES, PRETRAINED, is_of, is_shipped
from etp_jax.errors import EtpError
from etp_jax.files import read_json, write_text
from etp_jax.plain import markdown_cell, plain
from etp_jax.tasks.published import PUBLISHED_SPLIT

FRONT_MATTER = """\
---
license: apache-2.0
library_name: etp-jax
tags:
- ecg
- electrocardiography
- contrastive-learning
- jax
- flax
---
"""
"""Metadata block that the Hugging Face Hub reads from a model card."""


SHOWN = ("macro_auroc", "ece_equal_mass", "ecg_to_text_recall_10", "sex_auroc", "age_mae", "age_mae_of_median")
"""Figures of evaluations that a card shows; of an evaluation with none of them, it shows the first one."""


@dataclass(frozen=True)
class Figure:
    """A figure of one evaluation of a run."""

    kind: str
    task: str | None
    """Name of the task; None for retrieval, which has no task."""
    choices: tuple[str, ...]
    """What distinguishes it from other evaluations of the same kind and task, see `choices`."""
    labels: float
    """Share of the training labels; 0 if none are used."""
    split: str
    data: str
    """Name of the shards."""
    checkpoint: dict[str, Any]
    """Checkpoint that was evaluated, see `Result.checkpoint`."""
    metric: str
    mean: float | None
    """The figure; None where it could not be measured."""
    low: float | None
    """Lower end of the 95 % interval; None where there is no interval."""
    high: float | None
    """Upper end of the 95 % interval; None where there is no interval."""

    @property
    def share(self) -> str:
        """Share of the labels, if some but not all are used; empty otherwise."""
        return f"{100 * self.labels:g}% of the labels" if 0 < self.labels < 1 else ""


def choices(protocol: Mapping[str, Any]) -> tuple[str, ...]:
    """Returns the choices that a result's protocol names.

    They are prompts, another protocol than `honest`, head, feature set, text prior, and published labels.
    """
    found = [f"prompts {protocol['prompts']}"] if "prompts" in protocol else []
    found += [str(protocol["name"])] if protocol.get("name", "honest") != "honest" else []
    found += [f"{protocol['head']} head"] if "head" in protocol else []
    found += [str(protocol["features"]).partition(" (chosen")[0]] if "features" in protocol else []
    found += ["text prior"] * ("text_prior" in protocol)
    return tuple(found + ["published labels"] * str(protocol.get("records", "")).startswith(PUBLISHED_SPLIT))


def read_figures(path: Path) -> list[Figure]:
    """Reads the trained encoder's main figures, at the largest label fraction, from a file of `RUN/evaluation/`.

    Raises:
      EtpError: the file was not written by `etp evaluate`.
    """
    try:
        result: dict[str, Any] = read_json(path, "move it away")
        fractions = result["summary"]["trained"]
        largest = max(fractions, key=float)
        values, chosen = fractions[largest], choices(result.get("protocol", {}))
        where = result["split"], result.get("shards", {}).get("name", ""), result.get("checkpoint", {})
        about = result["kind"], result["task"], chosen, float(largest), *where
        shown = [name for name in SHOWN if name in values] or [next(iter(values))]
        return [
            Figure(*about, name, *(_number(values[name].get(end)) for end in ("mean", "low", "high"))) for name in shown
        ]
    except (ValueError, KeyError, TypeError, AttributeError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"
        raise EtpError(f"{path}: not written by `etp evaluate` ({reason}); move it away") from None


def _number(value: Any) -> float | None:
    return None if value is None else float(value)


def write_card(folder: Path, encoder: Encoder) -> None:
    """Writes the model card (README.md) with its plots, LICENSE and NOTICE into the folder of an exported encoder.

    A folder with imported weights gets no LICENSE and NOTICE, since theirs are not known.
    """
    shutil.rmtree(folder / FIGURES_FOLDER, ignore_errors=True)
    shipped = PRETRAINED / "MODEL_CARD.md"
    text = shipped.read_text(encoding="utf-8") if is_shipped(encoder.run_dir) else _text(folder, encoder)
    imported = encoder.trained_on.get("imported")
    matter = FRONT_MATTER.replace("license: apache-2.0", "license: other") if imported else FRONT_MATTER
    write_text(folder / CARD_FILE, matter + plain(text))
    for name in () if imported else LEGAL_FILES:  # the licence of imported weights is that of their authors
        shutil.copyfile(PRETRAINED / name, folder / name)


def _text(folder: Path, encoder: Encoder) -> str:
    config, data = encoder.config, encoder.trained_on
    fs, seconds, leads = data["fs"], data["samples"] / data["fs"], markdown_cell(", ".join(data["leads"]))
    return f"""\
# {folder.resolve().name}

An ECG encoder of [etp-jax](https://pypi.org/project/etp-jax/) {__version__}: it maps an ECG to a unit vector of
{config.model.embedding_dim} numbers, near the vectors of the sentences that describe it.

**It is not a medical device and not for clinical use.** It is made for research on representations of ECGs.

## Use

```python
import etp_jax

model = etp_jax.load("hf://org/name")  # or the path of this folder
model.encode_ecg(signal, fs=500)  # [time, 12 leads] in millivolt
```

## Data

Trained on {_seen(encoder)}: {fs} Hz, {seconds:g} s, leads {leads}.
The terms of use of these data also apply to the weights: read them before you publish the weights.

## Recipe

{_recipe(encoder)}

`config.json` has every option.

## Figures

{_figures(encoder)}

{parts_section(encoder, folder)}## Limits

- Figures are for the data that they name; for other people, machines and labels they may be lower.
- It reads the first {seconds:g} seconds, at {fs} Hz. It gives an answer for any ECG, even one unlike its training data.
- Similarity to a sentence is not a measurement: intervals, axis and rate are not computed.
"""


def _recipe(encoder: Encoder) -> str:
    """Formats the main choices of the recipe as a table."""
    config, text, optim = encoder.config, encoder.text_about, encoder.config.optim
    if source := encoder.trained_on.get("imported"):
        rows = {
            "imported": f"{source['file']} (SHA-256 {source['sha256'][:16]}), by `etp import --from {source['from']}`",
            "licence": "that of the authors of the weights",
            "ECG tower": config.model.ecg.title,
            "text tower": text["source"] if encoder.reads_text else "none",
        }
        return _rows(rows)
    rows = {
        "recipe": recipe_of(config) or "not a shipped one",
        "ECG tower": config.model.ecg.kind,
        "text tower": f"{text['source'] or 'from scratch'}, {'frozen' if text['frozen'] else 'trained'}",
        "pairs and score": f"{config.loss.pairs}, {config.loss.score}",
        "optimiser": f"{optim.name}, learning rate {optim.learning_rate:g}, {optim.epochs:g} epochs, batch "
        f"{config.data.batch_size}, seed {config.seed}",
        "checkpoint": f"step {encoder.step}",
    }
    return _rows(rows)


def _rows(rows: dict[str, str]) -> str:
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {markdown_cell(value)} |" for name, value in rows.items())])


def _seen(encoder: Encoder) -> str:
    if "imported" in encoder.trained_on:
        return f"{markdown_cell(encoder.trained_on['name'])}, by the authors of the weights"
    shards = (f"{markdown_cell(each['name'])} (SHA-256 {each['fingerprint'][:16]})" for each in encoder.seen)
    return f"the shards {', then '.join(shards)}"


def _figures(encoder: Encoder) -> str:
    """Formats the main figures of an encoder as a table, and names the other files among its run's evaluations."""
    figures, of_others, others = [], [], []
    for path in sorted((encoder.run_dir / "evaluation").glob("*.json")):
        try:
            found = read_figures(path)
        except EtpError:  # an unrelated file must not prevent the export
            others.append(path.name)
            continue
        if is_of(found[0].checkpoint, encoder.run_dir, encoder.step):
            figures += found
        else:
            of_others.append(path.name)
    head = ["| evaluation | task | choices | split | metric | value |", "|---|---|---|---|---|---|"]
    rows = [f"| {' | '.join(map(markdown_cell, _cells(figure)))} |" for figure in figures]
    text = ["Means with 95 % intervals by bootstrap over patients:", "", *head, *rows] if rows else []
    for reason, names in (
        ("figures of another checkpoint or of other weights", of_others),
        ("no results of `etp evaluate` or changed since", others),
    ):
        text += ["", f"Left out, as {reason}: {', '.join(map(markdown_cell, names))}."] if names else []
    return "\n".join(text).strip() or "The run was not evaluated before it was exported."


def _cells(figure: Figure) -> list[str]:
    how = ", ".join(filter(None, [*figure.choices, figure.share]))
    where = " of ".join(filter(None, [figure.split, figure.data]))
    return [figure.kind, figure.task or "–", how or "–", where, figure.metric, _with_interval(figure)]


def _with_interval(figure: Figure) -> str:
    if figure.mean is None:
        return "–"
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.3f}"
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
