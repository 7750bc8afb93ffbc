"""`etp predict`: writes page and picture of one record, or a table for a folder of records."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.api import load
from etp_jax.ecg.leads import Layout
from etp_jax.ecg.read import SUFFIXES, suffix_of
from etp_jax.errors import EtpError
from etp_jax.files import begins, keep_other_kinds, write_text
from etp_jax.paths import real
from etp_jax.predict import page, words
from etp_jax.predict.finding import Finding
from etp_jax.predict.predictor import BATCH, NOTICE, Prediction, Predictor
from etp_jax.predict.result import as_json
from etp_jax.progress import Bar
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import TRAIN

SHOWN = 5
"""Number of findings printed for each group, besides those above or not decided; the page shows all."""
TABLE = "predictions.csv"


@dataclass(frozen=True)
class Output:
    """What `etp predict` prints or opens."""

    text: str
    """Summary for the terminal."""
    result: dict[str, Any] | None = None
    """Result of one record, for `--json`; None for a folder."""
    page: Path | None = None
    """Page of one record; None for a folder."""


def predict(
    record: Path,
    out: Path,
    layout: Layout,
    run: Path | None = None,
    tasks: Sequence[str] = (),
    prompts: Sequence[str] = (),
    shards: Path | None = None,
    text_tower: str | None = None,
) -> Output:
    """Writes page and picture of a record, or the table of a folder.

    Args:
      record: a file that `read_signal` reads, or a folder that holds such files at any depth.
      out: folder to write into.
      layout: layout of files that contain only numbers.
      run: folder of the encoder; None: the shipped encoder.
      tasks: see `Predictor`.
      prompts: see `Predictor`.
      shards: shard folder whose training reports are compared with a single record.
      text_tower: see `etp_jax.load`.

    Raises:
      EtpError: the record, or every record of the folder, cannot be used; also as for `Predictor`.
    """
    if shards is not None and record.is_dir():
        raise EtpError(f"{record}: --shards finds the nearest reports of one record, not of a folder")
    predictor = Predictor(load(run, text_tower=text_tower), tasks, prompts)
    if record.is_dir():
        return _predict_folder(predictor, record, out, layout)
    ecg = predictor.read(record, layout)
    page.files(ecg.name, out)
    reports, reports_RE = (), None
    if shards is not None:
        reports = tuple(filter(None, Shards(shards).reports(TRAIN).reports))
        if not reports:
            raise EtpError(f"{shards}: no record of split {TRAIN!r} has a report to compare with")
        reports_RE = predictor.model.encode_text(reports)
    prediction = predictor.predict(ecg, reports, reports_RE)
    out.mkdir(parents=True, exist_ok=True)
    written = page.write(prediction, predictor, out)
    text = "\n".join((*summary_lines(prediction, predictor), NOTICE, f"wrote {', '.join(map(str, written))}"))
    return Output(text, as_json(prediction, predictor, written), written[0])


def summary_lines(prediction: Prediction, predictor: Predictor) -> list[str]:
    """Formats what is printed: summary, measurements, findings of each group, what they rest on, nearest reports."""
    ecg = prediction.ecg
    lines = [words.summary(prediction), *filter(None, [words.contradiction(prediction)])]
    lines += [f"{ecg.name}, {words.about(ecg)}", *(f"  {note}" for note in ecg.notes)]
    lines.append(f"measurements: {words.measurement_line(prediction)}")
    for group, findings in prediction.groups.items():
        probable = [finding for finding in findings if finding.probability is not None]
        shown = [f for f in probable if f in probable[:SHOWN] or f.verdict != "below"]
        lines += [f"{group}: probability, threshold"] * bool(shown) + [f"  {_probable(finding)}" for finding in shown]
        others = [] if probable else findings[:SHOWN]
        lines += [f"{group}: similarity, no probabilities"] * bool(others) + [f"  {_similar(f)}" for f in others]
    if prediction.prompts:
        among = f", percentile among {words.reference(predictor)}" if predictor.reference_RE is not None else ""
        lines += [f"your sentences: similarity{among}", *(f"  {_similar(finding)}" for finding in prediction.prompts)]
    if prediction.explained:
        lines += ["what it rests on", *(f"  {words.rests_on(*explained)}" for explained in prediction.explained)]
    if prediction.compared:
        lines.append(f"nearest of {prediction.compared} training reports, with cosine")
        lines += [f"  {cosine:.3f}  {report}" for cosine, report in prediction.reports]
    return lines


def _probable(finding: Finding) -> str:
    limit = words.percent(finding.threshold.probability) if finding.threshold else "none"
    verdict = finding.verdict if finding.threshold else ""
    return f"{verdict:<12}{words.percent(finding.probability or 0.0):>6}  {limit:>6}  {finding.name}"


def _similar(finding: Finding) -> str:
    percentile = "" if finding.percentile is None else f"{finding.percentile:4.0f}"
    return f"{finding.score:6.3f}{percentile}  {finding.name}"


def records_in(folder: Path, besides: Path) -> list[Path]:
    """Lists the records of a folder, at any depth, each once, without the file `besides`."""
    files = sorted(path for path in folder.rglob("*") if suffix_of(path) in SUFFIXES)
    files = [path for path in files if real(path) != real(besides)]
    headers = {path.with_suffix("") for path in files if path.suffix.lower() == ".hea"}
    return [path for path in files if path.suffix.lower() == ".hea" or path.with_suffix("") not in headers]


def _predict_folder(predictor: Predictor, folder: Path, out: Path, layout: Layout) -> Output:
    """Writes the table of a folder, one row for each record."""
    paths = records_in(folder, out / TABLE)
    if not paths:
        raise EtpError(f"{folder}: contains no record; supported files are {', '.join(SUFFIXES)}")
    keep_other_kinds(out / TABLE, "predictions", begins(b"record,"))
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    columns = [
        f"{task} {code} {'similarity' if platt is None else 'probability'}".strip()
        for task, code, _, platt in predictor.classes
    ]
    writer.writerow(["record", *columns, "notes", "trouble", "notice"])
    troubles = []
    for start in Bar(range(0, len(paths), BATCH), desc=f"batches of {BATCH} records", unit="batch"):
        ecgs, trouble = {}, {}
        for path in paths[start : start + BATCH]:
            try:
                ecgs[path] = predictor.read(path, layout)
            except EtpError as error:
                trouble[path] = str(error)
        embeddings = {}
        if ecgs:
            prepared = [ecg.prepared for ecg in ecgs.values()]
            stacked = np.stack([p.ecg for p in prepared]), np.stack([p.lead_mask for p in prepared])
            embeddings = dict(zip(ecgs, predictor.embed(*stacked), strict=True))
        for path in paths[start : start + BATCH]:
            cells, notes = [""] * len(columns), ""
            if path in ecgs:
                found, notes = predictor.findings(embeddings[path]), "; ".join(ecgs[path].notes)
                cells = [f"{f.score if f.probability is None else f.probability:.4f}" for f in found]
            writer.writerow([path.relative_to(folder), *cells, notes, trouble.get(path, ""), NOTICE])
        troubles += trouble.values()
    if len(troubles) == len(paths):
        raise EtpError(f"{folder}: none of its {len(paths)} records can be used; the first: {troubles[0]}")
    out.mkdir(parents=True, exist_ok=True)
    write_text(out / TABLE, stream.getvalue())
    left_out = f", {len(troubles)} of them could not be used (column `trouble`)" if troubles else ""
    return Output(f"{len(paths)} records{left_out}\n{NOTICE}\nwrote {out / TABLE}")
