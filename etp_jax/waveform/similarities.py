"""`etp waveform score`: an encoder's similarity of each ECG to each proposed waveform feature."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from etp_jax.encoder.encoder import Encoder
from etp_jax.files import ZIP, begins, keep_other_kinds
from etp_jax.shards.reader import Shards
from etp_jax.waveform.features import Proposals, Similarities

MINIMUM = 10
"""Minimum number of records with a feature, and without it, for choosing its threshold by Youden's J."""
TOP = 0.9
"""Quantile of the cosines that is the threshold of features with fewer records: only the most similar ECGs pass it."""
CALIBRATION = "validation"
"""Split on which the thresholds are chosen, if it exists."""


def similarities(encoder: Encoder, shards: Shards, proposals: Proposals) -> Similarities:
    """Embeds all ECGs and all features' sentences, and chooses the cosine at which each feature counts as present.

    The threshold of a feature best separates the records whose statements propose it from the other records, by
    Youden's J. It is chosen on the validation split, or on the first split if there is none.

    Raises:
      EtpError: the shards differ from the training data in sampling rate, leads, length or filters; or the encoder has
        no text tower.
    """
    encoder.check_signals(shards)
    encoder.check_reads_text()
    text_SE = encoder.text(proposals.sentences)  # first, as the text tower may be missing
    splits = [shards.split(name) for name in shards.splits]
    embeddings = [encoder.ecg(split)[1] for split in splits]
    names = list(shards.splits)
    chosen = names.index(CALIBRATION) if CALIBRATION in names else 0
    proposed_NS = np.zeros((len(splits[chosen]), len(text_SE)), bool)
    for row, statements in enumerate(splits[chosen].columns.statements):
        proposed_NS[row, proposals.of(statements)] = True
    return Similarities(
        record_ids=tuple(record_id for split in splits for record_id in split.columns.record_id),
        sentences=proposals.sentences,
        ecg=np.concatenate(embeddings),
        text=text_SE,
        thresholds=thresholds(embeddings[chosen] @ text_SE.T, proposed_NS),
        origin={
            "run": encoder.run_dir.name,
            "step": encoder.step,
            "shards": shards.fingerprint,
            "thresholds": f"Youden's J on {names[chosen]}; the {TOP} quantile with fewer than {MINIMUM} records",
        },
    )


def thresholds(cosines_NS: NDArray[np.float32], proposed_NS: NDArray[np.bool_]) -> NDArray[np.float32]:
    """Chooses the lowest cosine [S] at which each feature counts as present.

    Args:
      cosines_NS: [N, S] cosines of N records and S features.
      proposed_NS: [N, S] whether the record's statements propose the feature.
    """
    columns = zip(cosines_NS.T, proposed_NS.T, strict=True)
    return np.array([_threshold(cosines, proposed) for cosines, proposed in columns], np.float32)


def _threshold(cosines: NDArray[np.float32], proposed: NDArray[np.bool_]) -> float:
    if min(proposed.sum(), (~proposed).sum()) < MINIMUM:
        return float(np.quantile(cosines, TOP))
    order = np.argsort(-cosines, kind="stable")
    hits, alarms = np.cumsum(proposed[order]), np.cumsum(~proposed[order])
    last = np.append(
        cosines[order][1:] < cosines[order][:-1], True
    )  # records with equal cosines are kept or dropped together
    gain = np.where(last, hits / hits[-1] - alarms / alarms[-1], -np.inf)
    return float(cosines[order[int(gain.argmax())]])


def write(encoder: Encoder, shards: Shards, proposals: Proposals, out: Path) -> str:
    """Writes the file that `etp waveform restore` reads, and returns the summary."""
    keep_other_kinds(out, "similarities", begins(ZIP))
    out.parent.mkdir(parents=True, exist_ok=True)
    found = similarities(encoder, shards, proposals)
    found.save(out)
    return _summary(found, out)


def _summary(found: Similarities, out: Path) -> str:
    middle: Sequence[float] = np.quantile(found.thresholds, (0.1, 0.5, 0.9)).tolist()
    return "\n".join(
        (
            f"similarities: {len(found.record_ids)} ECGs, {len(found.sentences)} features",
            f"thresholds ({found.origin['thresholds']}): {', '.join(f'{x:.3f}' for x in middle)} (10, 50, 90 %)",
            f"file: {out}, {out.stat().st_size / 1e6:.1f} MB",
        )
    )
