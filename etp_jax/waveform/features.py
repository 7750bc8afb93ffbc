"""Waveform features of diagnostic statements, and an encoder's similarities between ECGs and features.

`etp waveform propose` writes `proposals.json`: the features, and which of them are likely for each statement.
`etp waveform score` writes an .npz with the embeddings of all ECGs and of all features' sentences. `etp waveform
restore` reads both. Does not import jax.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError, one_line
from etp_jax.files import check_seal, sealed, whole_file, write_text
from etp_jax.json_text import check_types, parse_json
from etp_jax.npz import read_npz
from etp_jax.paths import read_file

FORMAT = 1
"""Version of the format of both files, proposals and similarities."""


@dataclass(frozen=True)
class Quantity:
    """A quantity that can be measured on an ECG."""

    meaning: str
    """Description of the quantity, part of the prompt for a language model."""
    unit: str
    margin: float
    """Error of the measurement: a value outside a check's bounds by more than this contradicts the check."""
    low: float
    """Smallest plausible bound of a check."""
    high: float
    """Largest plausible bound of a check."""
    per_lead: bool = False
    """Whether the quantity is measured in single leads, rather than once per ECG."""


QUANTITIES: dict[str, Quantity] = {
    "rate_bpm": Quantity("ventricular rate", "/min", 3, 10, 350),
    "rr_irregularity": Quantity("median change from one RR interval to the next, a part of it", "", 0.02, 0, 2),
    "rr_range_ms": Quantity("longest minus shortest RR interval", "ms", 40, 0, 5000),
    "premature_beats": Quantity("beats after less than 80 % of the usual RR interval", "", 0.5, 0, 50),
    "aberrant_beats": Quantity("beats whose QRS is unlike the usual one", "", 0.5, 0, 50),
    "p_likeness": Quantity("likeness of what precedes each QRS, 0 to 1: P waves or none", "", 0.15, 0, 1),
    "p_ms": Quantity("duration of the P wave", "ms", 15, 20, 300),
    "pr_ms": Quantity("PR interval", "ms", 20, 40, 600),
    "qrs_ms": Quantity("duration of the QRS", "ms", 12, 40, 300),
    "qt_ms": Quantity("QT interval", "ms", 30, 150, 800),
    "qtc_ms": Quantity("QT interval corrected for rate by Fridericia's formula", "ms", 30, 150, 800),
    "axis_deg": Quantity("axis of the QRS in the frontal plane, -180 to 180", "degrees", 15, -180, 180),
    "sokolow_uv": Quantity("depth of S in V1 plus the taller R of V5 and V6", "µV", 300, 0, 15000),
    "cornell_uv": Quantity("height of R in aVL plus depth of S in V3", "µV", 250, 0, 15000),
    "sokolow_right_uv": Quantity("height of R in V1 plus the deeper S of V5 and V6", "µV", 150, 0, 15000),
    "r_uv": Quantity("height of the tallest R", "µV", 80, 0, 10000, True),
    "s_uv": Quantity("depth of the deepest negative deflection of the QRS", "µV", 80, 0, 10000, True),
    "net_uv": Quantity("height of R minus depth of S", "µV", 80, -10000, 10000, True),
    "span_uv": Quantity("QRS from its highest to its lowest point", "µV", 80, 0, 20000, True),
    "terminal_uv": Quantity("mean of the last third of the QRS", "µV", 40, -5000, 5000, True),
    "q_uv": Quantity("depth of Q (or of a QS complex)", "µV", 50, 0, 10000, True),
    "q_ms": Quantity("duration of Q (or of a QS complex)", "ms", 10, 0, 200, True),
    "st_uv": Quantity("ST level 60 ms after the J point", "µV", 30, -3000, 3000, True),
    "t_uv": Quantity("height of T, negative where it is inverted", "µV", 50, -5000, 5000, True),
    "p_uv": Quantity("height of P, negative where it is inverted", "µV", 30, -1000, 1000, True),
}  # fmt: skip


@dataclass(frozen=True)
class Check:
    """The measurable form of a feature: a quantity is within bounds, in at least some of the leads."""

    quantity: str
    """Name of the quantity, a key of `QUANTITIES`."""
    low: float | None = None
    """Lower bound, inclusive; None if there is no lower bound."""
    high: float | None = None
    """Upper bound, inclusive; None if there is no upper bound."""
    leads: tuple[str, ...] = ()
    """Leads in which the quantity is measured; empty for quantities that belong to no lead."""
    at_least: int = 0
    """Minimum number of leads in which the quantity must be within the bounds."""

    def flaw(self) -> str:
        """Describes what is wrong with the check; returns an empty text if nothing is."""
        quantity = QUANTITIES.get(self.quantity)
        bounds = [bound for bound in (self.low, self.high) if bound is not None]
        if quantity is None:
            return f"quantity: {self.quantity!r} is not known"
        if not bounds or bounds != sorted(bounds) or not all(quantity.low <= b <= quantity.high for b in bounds):
            return f"bounds: {self.low} to {self.high} are not plausible for {self.quantity}"
        if any(lead not in LEADS for lead in self.leads) or len(set(self.leads)) < len(self.leads):
            return f"leads: {' '.join(self.leads)} are not among {' '.join(LEADS)}, each once"
        if bool(self.leads) != quantity.per_lead or not min(1, len(self.leads)) <= self.at_least <= len(self.leads):
            return f"leads: {self.quantity} in at least {self.at_least} of {len(self.leads)} leads is not possible"
        return ""


@dataclass(frozen=True)
class Feature:
    """A waveform feature of an ECG."""

    sentence: str
    """Description of the feature, as added to a report."""
    check: Check | None
    """Measurable form of the feature; None if it cannot be measured."""
    source: str
    """Origin of the criterion: a reference, or a model and its prompt."""


@dataclass(frozen=True)
class Proposals:
    """Content of `proposals.json`."""

    features: tuple[Feature, ...]
    """All features, with distinct sentences."""
    statements: Mapping[str, tuple[int, ...]]
    """Positions in `features` for each statement; empty for a statement without features."""
    origin: Mapping[str, Any]
    """Description of the source that proposed the features."""

    @property
    def sentences(self) -> tuple[str, ...]:
        """Sentences of all features, in the order of `features`."""
        return tuple(feature.sentence for feature in self.features)

    def of(self, statements: Iterable[str]) -> list[int]:
        """Returns the distinct positions of the features likely for any of the statements, in the statements' order."""
        return list(dict.fromkeys(place for statement in statements for place in self.statements.get(statement, ())))

    def save(self, path: Path) -> None:
        """Writes the file completely or not at all."""
        content = {
            "format": FORMAT,
            "origin": dict(self.origin),
            "features": [asdict(feature) for feature in self.features],
            "statements": {statement: list(places) for statement, places in sorted(self.statements.items())},
        }
        write_text(path, json.dumps(sealed(content), indent=1, ensure_ascii=False) + "\n")


def collect(proposed: Mapping[str, Sequence[Feature]], origin: Mapping[str, Any]) -> Proposals:
    """Builds proposals from the features of each statement; of features with the same sentence, the first is kept."""
    places: dict[str, int] = {}
    features: list[Feature] = []
    for statement in sorted(proposed):
        for feature in proposed[statement]:
            if places.setdefault(feature.sentence, len(features)) == len(features):
                features.append(feature)
    of = {text: tuple(dict.fromkeys(places[f.sentence] for f in some)) for text, some in proposed.items()}
    return Proposals(tuple(features), of, origin)


NUMBER = (float, type(None))
PROPOSALS_TYPES = {
    "features": [{"sentence": str, "source": str, "check": (dict, type(None))}],
    **{"statements": {str: [int]}, "origin": {str: object}},
}
"""Types of the fields of `proposals.json`."""
CHECK_TYPES = {"quantity": str, "low": NUMBER, "high": NUMBER, "leads": [str], "at_least": int}


def load_proposals(path: Path) -> Proposals:
    """Reads `proposals.json`; raises EtpError if it is missing or was changed, or if one of its checks is invalid."""
    try:
        content = parse_json(read_file(path))
        if content["format"] != FORMAT:
            raise EtpError(
                f"{path}: format {content['format']!r}, this version reads {FORMAT}; run `etp waveform propose` again"
            )
        check_types(content, PROPOSALS_TYPES)
        features = tuple(
            Feature(row["sentence"], row["check"] and _check(row["check"]), row["source"])
            for row in content["features"]
        )
        statements = {text: tuple(places) for text, places in content["statements"].items()}
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror}; `etp waveform propose` writes such a file") from None
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise EtpError(f"{path}: damaged ({one_line(error)}); run `etp waveform propose` again") from None
    for feature in features:
        if feature.check and (flaw := feature.check.flaw()):
            raise EtpError(f"{path}: {feature.sentence[:200]!r}: {flaw[:200]}")
    if len({feature.sentence for feature in features}) < len(features):
        raise EtpError(f"{path}: a sentence occurs twice; merge the two features")
    if any(not 0 <= place < len(features) for places in statements.values() for place in places):
        raise EtpError(f"{path}: a statement refers to a feature that does not exist; run `etp waveform propose` again")
    check_seal(path, content, "run `etp waveform propose` again")
    return Proposals(features, statements, content["origin"])


def _check(fields: dict[str, Any]) -> Check:
    check_types(fields, CHECK_TYPES)
    return Check(**{**fields, "leads": tuple(fields["leads"])})


@dataclass(frozen=True)
class Similarities:
    """An encoder's embeddings of N records and S sentences in E dimensions, and a threshold for each sentence."""

    record_ids: tuple[str, ...]
    sentences: tuple[str, ...]
    ecg: NDArray[np.float32]
    """[N, E] unit-length embeddings of the ECGs; float16 in the file."""
    text: NDArray[np.float32]
    """[S, E] unit-length embeddings of the sentences; float16 in the file."""
    thresholds: NDArray[np.float32]
    """[S] lowest cosine at which each feature counts as present."""
    origin: Mapping[str, Any]
    """Description of the run, and of how the thresholds were chosen."""

    def save(self, path: Path) -> None:
        """Writes the file completely or not at all. Its size grows with N + S, not with N · S."""
        with whole_file(path) as file:
            np.savez(
                file,
                allow_pickle=False,
                format=np.array(FORMAT),
                record_ids=np.array(self.record_ids),
                sentences=np.array(self.sentences),
                ecg=self.ecg.astype(np.float16),
                text=self.text.astype(np.float16),
                thresholds=self.thresholds.astype(np.float32),
                origin=np.array(json.dumps(dict(self.origin))),
            )


def load_similarities(path: Path) -> Similarities:
    """Reads a file written by `Similarities.save`; raises EtpError if it is missing or damaged."""
    try:
        arrays = read_npz(path)
        if arrays["format"] != FORMAT:
            raise EtpError(f"{path}: another format; run `etp waveform score` again")
        similarities = Similarities(
            tuple(map(str, arrays["record_ids"].tolist())),
            tuple(map(str, arrays["sentences"].tolist())),
            arrays["ecg"].astype(np.float32),
            arrays["text"].astype(np.float32),
            arrays["thresholds"].astype(np.float32),
            parse_json(str(arrays["origin"]), {str: object}),
        )
    except OSError as error:
        raise EtpError(f"{path}: {error.strerror or error}; `etp waveform score` writes such a file") from None
    except (ValueError, LookupError, TypeError) as error:
        raise EtpError(f"{path}: damaged ({one_line(error)}); run `etp waveform score` again") from None
    shapes = similarities.ecg.shape[1:], similarities.text.shape[1:], similarities.thresholds.shape[1:]
    if [*map(len, shapes)] != [1, 1, 0] or shapes[0] != shapes[1]:
        raise EtpError(f"{path}: its arrays do not fit together; run `etp waveform score` again")
    sizes = len(similarities.ecg), len(similarities.text), len(similarities.thresholds)
    if sizes != (len(similarities.record_ids), len(similarities.sentences), len(similarities.sentences)):
        raise EtpError(f"{path}: its arrays do not fit together; run `etp waveform score` again")
    return similarities
