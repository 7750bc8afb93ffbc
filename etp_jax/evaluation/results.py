"""The result of an evaluation: figures with intervals, as JSON with an `.npz` file, and as a printed table."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError, one_line
from etp_jax.evaluation.figures import ClassFigures, Figure, PartFigures, Reliability, check_numbers, percent
from etp_jax.files import read_json, sealed, sha256, whole_file, write_text
from etp_jax.metrics.classification import METRICS
from etp_jax.npz import read_npz

SCHEMA = 1
"""Version of the JSON schema. Files without this entry, as written by version 0.1, have the same schema."""
ACRONYMS = (*METRICS, "ece", "mae")
"""Words of metrics' names that are written in capitals."""
ARRAYS = "arrays_sha256"
"""Field of the JSON with the SHA-256 of the `.npz`, which is compared if there is one."""
REPLICATES = "replicates_"
"""Prefix of the arrays of bootstrap replicates in the `.npz`."""


@dataclass(frozen=True)
class Row:
    """One encoder, on one subset of the training records."""

    encoder: str
    """`trained`, `random` or `supervised`."""
    fraction: float
    """Share of the training records whose labels were used; 0 if none were."""
    train_seed: int
    """Seed of the training, or of a random encoder's weights."""
    subset_seed: int | None
    """Seed of the subset of training records; None if no subset is drawn."""
    values: dict[str, float | None]
    """Values on the sample, by metric."""
    details: dict[str, Any] = field(default_factory=dict)
    """Further JSON-serialisable fields, such as the number of training records."""
    per_class: dict[str, ClassFigures] = field(default_factory=dict)
    """Figures by class code; empty for kinds without classes."""
    parts: dict[str, PartFigures] = field(default_factory=dict)
    """Figures of groups of the records, or under conditions, by name; empty for kinds without such parts."""
    reliability: dict[str, Reliability] = field(default_factory=dict)
    """Calibration by class code; empty for kinds that do not measure it."""
    replicates: dict[str, NDArray[np.float64]] = field(default_factory=dict, compare=False, repr=False)
    """Values [1 + R] by metric, on the sample and its R bootstrap replicates; empty if there is no `.npz`."""

    def to_dict(self) -> dict[str, Any]:
        """Converts the row to its JSON form."""
        head = {name: getattr(self, name) for name in ("encoder", "fraction", "train_seed", "subset_seed")}
        tables = {table: {name: asdict(figures) for name, figures in getattr(self, table).items()} for table in TABLES}
        return {
            **head,
            **self.values,
            **self.details,
            **{table: content for table, content in tables.items() if content},
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], metrics: list[str], replicates: dict[str, NDArray]) -> Row:
        """Restores a row from its JSON form."""
        rest = dict(content)
        head = {name: rest.pop(name) for name in ("encoder", "fraction", "train_seed", "subset_seed")}
        values = {name: rest.pop(name) for name in metrics}
        check_numbers(*values.values())
        tables: dict[str, Any] = {
            table: {name: figures(**each) for name, each in rest.pop(table, {}).items()}
            for table, figures in TABLES.items()
        }
        return cls(**head, values=values, details=rest, **tables, replicates=replicates)


TABLES = {"per_class": ClassFigures, "parts": PartFigures, "reliability": Reliability}
"""Fields of a row that are tables, with the class of their figures."""


@dataclass(frozen=True)
class Result:
    """The result of one evaluation of one run. The fields are those of the JSON, in its order."""

    run: str
    """Name of the run folder."""
    task: str | None
    """Name of the task; None for a kind without tasks."""
    kind: str
    """Name of the kind of evaluation."""
    protocol: dict[str, Any]
    """Description of the evaluation method, by topic; `name` is the protocol."""
    split: str
    """Split whose records were scored."""
    records: int
    """Number of records scored."""
    pretrained_on: str
    """Names of the data sets that the encoder was trained on."""
    checkpoint: dict[str, Any]
    """Requested checkpoint (`which`: best or latest), its `step`, and the SHA-256 of exported `weights`."""
    shards: dict[str, Any]
    """Name, sampling rate (`fs`, Hz) and `fingerprint` of the shards."""
    thresholds_from: str | None
    """Description of the records that F1's thresholds were chosen on; None if there are no thresholds."""
    revision: int | None
    """Incremented whenever the meaning of a figure changes; None in files older than this field."""
    versions: dict[str, str]
    """Versions of Python and of the packages that computed the figures."""
    rows: list[Row]
    """Rows of figures, one for each encoder, fraction and subset."""
    summary: dict[str, dict[float, dict[str, Figure]]]
    """Figures by encoder, fraction and metric, each over all rows of that encoder and fraction."""
    schema: int = SCHEMA
    """Version of the JSON schema."""
    arrays: dict[str, NDArray] = field(default_factory=dict, compare=False, repr=False)
    """Scores of a classification: `record_id` [n], `classes` [C], `y` bool [n, C], and scores [n, C] by encoder."""

    @property
    def prompts(self) -> str | None:
        """Name and version of the prompt set; None for a kind without prompts."""
        return self.protocol.get("prompts")

    @property
    def step(self) -> int:
        """Step of the checkpoint."""
        return self.checkpoint["step"]

    def first_row(self, encoder: str) -> Row | None:
        """Returns the first row of an encoder at its largest fraction, the row whose scores are stored."""
        rows = [row for row in self.rows if row.encoder == encoder]
        return max(rows, key=lambda row: row.fraction) if rows else None

    def main(self, encoder: str, metric: str) -> Figure | None:
        """Returns an encoder's figure at its largest fraction; None for an encoder that was not evaluated."""
        fractions = self.summary.get(encoder)
        return fractions[max(fractions)][metric] if fractions else None

    def to_dict(self) -> dict[str, Any]:
        """Converts the result to its JSON form."""
        content = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "arrays"}
        summary = {
            encoder: {
                str(fraction): {name: asdict(figure) for name, figure in metrics.items()}
                for fraction, metrics in fractions.items()
            }
            for encoder, fractions in self.summary.items()
        }
        return content | {"rows": [row.to_dict() for row in self.rows], "summary": summary}

    @classmethod
    def from_dict(cls, content: Mapping[str, Any], arrays: Mapping[str, NDArray]) -> Result:
        """Restores a result from its JSON form and the arrays of its `.npz`; raises KeyError or TypeError otherwise."""
        known = {f.name for f in fields(cls)} - {"arrays", "rows", "summary"}
        values = {name: value for name, value in content.items() if name in known}
        values = {"run": "", "shards": {}, "revision": None, "versions": {}} | values
        summary = {
            encoder: {
                float(fraction): {name: Figure(**figure) for name, figure in metrics.items()}
                for fraction, metrics in fractions.items()
            }
            for encoder, fractions in content["summary"].items()
        }
        metrics = list(next(iter(next(iter(summary.values())).values())))
        replicates = {
            name.removeprefix(REPLICATES): array.astype(np.float64)
            for name, array in arrays.items()
            if name.startswith(REPLICATES)
        }
        rows = [
            Row.from_dict(row, metrics, {name: array[number] for name, array in replicates.items()})
            for number, row in enumerate(content["rows"])
        ]
        scores = {name: array for name, array in arrays.items() if not name.startswith(REPLICATES)}
        return cls(**values, rows=rows, summary=summary, arrays=scores)

    @classmethod
    def load(cls, path: Path) -> Result:
        """Reads a result and, if it exists, the `.npz` beside it.

        Raises:
          EtpError: there is no such file, or it was not written by `etp evaluate` of this version or an earlier one.
        """
        advice = "not written by `etp evaluate`; move it away"
        content = read_json(path, advice)
        if content.get("schema", 1) != SCHEMA:
            raise EtpError(f"{path}: schema {content['schema']}; this version reads {SCHEMA}; update etp-jax")
        beside = path.with_suffix(".npz")
        try:
            if ARRAYS in content and beside.exists() and sha256(beside) != content[ARRAYS]:
                raise ValueError(f"{beside.name} was changed after it was written")
            result = cls.from_dict(content, read_npz(beside) if beside.exists() else {})
            result.table()  # what cannot be shown is no result
            return result
        except (LookupError, TypeError, ValueError, AttributeError, StopIteration) as error:
            raise EtpError(f"{path}: {type(error).__name__}: {one_line(error)}; {advice}") from None

    def save(self, path: Path) -> None:
        """Writes the JSON, and beside it an `.npz` with the large arrays.

        For each metric M, the `.npz` holds `replicates_M` float32 [rows, 1 + R]: the values on the sample and on its
        replicates, in the order of the rows. The draws of patients depend on the records alone, so replicate r is the
        same draw for every encoder evaluated on the same records. The other arrays are those of `arrays`.

        Raises:
          EtpError: one of the files cannot be written.
        """
        replicates = {
            f"{REPLICATES}{name}": np.stack([row.replicates[name] for row in self.rows]).astype(np.float32)
            for name in self.rows[0].replicates
        }
        beside = path.with_suffix(".npz")
        # The JSON is written last: if it exists and is valid, so is the `.npz`.
        with _writing(beside), whole_file(beside) as file:
            np.savez_compressed(file, allow_pickle=False, **replicates, **self.arrays)
        with _writing(path):
            content = sealed(self.to_dict() | {ARRAYS: sha256(beside)})
            write_text(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def table(self) -> str:
        """Formats the result as aligned plain text: a line for each encoder and fraction, then one for each class."""
        names = list(next(iter(self.summary["trained"].values())))
        lines = [["encoder", "labels", *map(_title, names)]]
        for encoder, fractions in self.summary.items():
            for fraction, metrics in fractions.items():
                lines.append([encoder, percent(fraction), *(_with_interval(metrics[name]) for name in names)])
        text = ["; ".join(self._head()), "", *_align(lines)]
        trained = self.first_row("trained")
        if trained is not None and trained.parts:
            text += ["", *_align(_part_lines(trained.parts, self.protocol.get("parts", "part")))]
        if trained is None or not trained.per_class:
            return "\n".join(text)
        other = next((row for name in self.summary if name != "trained" and (row := self.first_row(name))), trained)
        classes = [["class", "positives", "AUROC", "AUPRC", "F1", f"{other.encoder} encoder's AUROC"]]
        for code, figures in trained.per_class.items():
            others = [figures.auprc, figures.f1, other.per_class[code].auroc]
            classes.append([code, str(figures.positives), _with_interval(figures.interval), *map(_short, others)])
        scored = f"macro over {trained.details['classes_scored']} of {len(trained.per_class)} classes"
        return "\n".join([*text, "", f"{scored}: those with both outcomes", "", *_align(classes)])

    def _head(self) -> list[str]:
        what = " ".join(filter(None, (self.kind, self.task)))
        head = [f"{what} on {self.split}: {self.records} records"]
        head.append(f"pre-trained on {self.pretrained_on}, checkpoint of step {self.step}")
        head += [f"prompts {self.prompts}"] if self.prompts else []
        head += [self.protocol[name] for name in ("records", "lacks") if name in self.protocol]
        head += [f"thresholds of F1 from {self.thresholds_from}"] if self.thresholds_from else []
        return head


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    """Creates the folder of a result file before it is written; turns an OSError into an EtpError."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield
    except OSError as error:
        raise EtpError(f"{path}: cannot be written ({error.strerror}); name another file with --json") from None


def sensitivity(results: Mapping[str, Result], metric: str) -> str:
    """Formats one metric of results that differ in one option, as aligned plain text.

    Args:
      results: results of one task by the value of the option, such as the prompt set.
      metric: name of the metric.
    """
    lines = [["prompts", _title(metric), "random encoders", "classes"]]
    for name, result in results.items():
        trained, random = (result.main(encoder, metric) for encoder in ("trained", "random"))
        classes = str(result.rows[0].details.get("classes_scored", "-"))
        lines.append([name, *(_with_interval(figure) if figure else "-" for figure in (trained, random)), classes])
    means = [
        (figure and figure.mean) or 0.0 for result in results.values() for figure in [result.main("trained", metric)]
    ]
    return "\n".join([*_align(lines), f"range of the means: {max(means) - min(means):.3f}"])


def number(value: float) -> float | None:
    """Rounds to six decimals; returns None for NaN, which JSON does not support."""
    return None if math.isnan(value) else round(float(value), 6)


def _title(metric: str) -> str:
    """Formats the name of a metric, such as "macro AUROC" or "ecg to text recall 1"."""
    return " ".join(word.upper() if word in ACRONYMS else word for word in metric.split("_"))


def _part_lines(parts: Mapping[str, PartFigures], heading: str) -> list[list[str]]:
    lines = [[heading, "records", "classes", "macro AUROC", "difference", "note"]]
    for name, part in parts.items():
        figures = _with_interval(part.interval), _with_interval(part.paired)
        lines.append([name, str(part.records), str(part.classes), *figures, part.note])
    return lines


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _with_interval(figure: Figure) -> str:
    return f"{_short(figure.mean)} [{_short(figure.low)}, {_short(figure.high)}]"


def _align(lines: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return ["  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines]
