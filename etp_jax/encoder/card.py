"""The model card of an exported encoder, with the licence beside it."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from etp_jax import __version__
from etp_jax.configs import recipe_of
from etp_jax.encoder.encoder import Encoder
from etp_jax.encoder.folder import CARD_FILE, LEGAL_FILES, PRETRAINED, is_shipped
from etp_jax.errors import EtpError
from etp_jax.files import write_text

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
"""What the Hugging Face Hub reads of a card."""


@dataclass(frozen=True)
class Figure:
    """The main figure of one evaluation of a run."""

    kind: str
    task: str | None
    """None for retrieval, which has none."""
    split: str
    metric: str
    mean: float
    low: float | None
    """Lower end of the 95 % interval, None where there is none."""
    high: float | None


def read_figure(path: Path) -> Figure:
    """Reads the trained encoder's main figure, of the most labels, from a file of `RUN/evaluation/`.

    Raises:
      EtpError: not a file that `etp evaluate` writes.
    """
    try:
        result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        metric = "macro_auroc" if result["task"] else "ecg_to_text_recall_10"
        fractions = result["summary"]["trained"]
        value = fractions[max(fractions, key=float)][metric]
        interval = value.get("low"), value.get("high")
        return Figure(result["kind"], result["task"], result["split"], metric, float(value["mean"]), *interval)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        reason = f"{type(error).__name__}: {error}"
        raise EtpError(f"{path}: not written by `etp evaluate` ({reason}); move it away") from None


def write_card(folder: Path, encoder: Encoder) -> None:
    """Writes README.md with what is known of an encoder, LICENSE and NOTICE into the folder that it is exported to."""
    shipped = PRETRAINED / "MODEL_CARD.md"
    text = shipped.read_text(encoding="utf-8") if is_shipped(encoder.run_dir) else _text(folder, encoder)
    write_text(folder / CARD_FILE, FRONT_MATTER + text)
    for name in LEGAL_FILES:
        shutil.copyfile(PRETRAINED / name, folder / name)


def _text(folder: Path, encoder: Encoder) -> str:
    config, data = encoder.config, encoder.trained_on
    fs, seconds, leads = data["fs"], data["samples"] / data["fs"], ", ".join(data["leads"])
    return f"""\
# {folder.resolve().name}

An ECG encoder of [etp-jax](https://pypi.org/project/etp-jax/) {__version__}: it maps an ECG to a unit vector of
{config.model.embedding_dim} numbers, near the vectors of the sentences that describe it.

**It is no medical device and not for clinical use.** It is made for research on representations of ECGs.

## Use

```python
import etp_jax

model = etp_jax.load("hf://org/name")  # or the path of this folder
model.encode_ecg(signal, fs=500)  # [time, 12 leads] in millivolt
```

## Data

Trained on the shards {_seen(encoder)}: {fs} Hz, {seconds:g} s, leads {leads}.
The terms of these data hold for the weights too: read them before you publish the weights.

## Recipe

{_recipe(encoder)}

`config.json` has every option.

## Figures

{_figures(encoder.run_dir)}

## Limits

- Where it was measured, it was on the data named above; figures on other people, machines and labels may be lower.
- It reads the first {seconds:g} seconds, at {fs} Hz. It answers for any ECG, however unlike its training data.
- Similarity to a sentence is no measurement: intervals, axis and rate are not computed.
"""


def _recipe(encoder: Encoder) -> str:
    """A table of the choices that matter most."""
    config, text, optim = encoder.config, encoder.text_about, encoder.config.optim
    rows = {
        "recipe": recipe_of(config) or "none of those that ship",
        "ECG tower": config.model.ecg.kind,
        "text tower": f"{text['source'] or 'from scratch'}, {'frozen' if text['frozen'] else 'trained'}",
        "pairs and score": f"{config.loss.pairs}, {config.loss.score}",
        "optimiser": f"{optim.name}, learning rate {optim.learning_rate:g}, {optim.epochs:g} epochs, batch "
        f"{config.data.batch_size}, seed {config.seed}",
        "checkpoint": f"step {encoder.step}",
    }
    return "\n".join(["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items())])


def _seen(encoder: Encoder) -> str:
    return ", then ".join(f"{shards['name']} (SHA-256 {shards['fingerprint'][:16]})" for shards in encoder.seen)


def _figures(run: Path) -> str:
    """A table of the run's evaluations."""
    figures = []
    for path in sorted((run / "evaluation").glob("*.json")):
        with suppress(EtpError):  # a file of another kind is no reason not to export
            figures.append(read_figure(path))
    if not figures:
        return "The run was not evaluated before it was exported."
    rows = [f"| {f.kind} | {f.task or '–'} | {f.split} | {f.metric} | {_with_interval(f)} |" for f in figures]
    head = ["| evaluation | task | split | metric | value |", "|---|---|---|---|---|"]
    return "\n".join(["Means with 95 % intervals by bootstrap over patients:", "", *head, *rows])


def _with_interval(figure: Figure) -> str:
    if figure.low is None or figure.high is None:
        return f"{figure.mean:.3f}"
    return f"{figure.mean:.3f} [{figure.low:.3f}, {figure.high:.3f}]"
