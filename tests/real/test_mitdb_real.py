"""Tests windows and beat types of the real MIT-BIH records; annotation files are decoded here independently."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from etp_jax.data_prep.archives.mitdb import open_archive
from etp_jax.data_prep.build import build
from etp_jax.ecg.leads import LEADS
from etp_jax.evaluation.records import TaskRecords
from etp_jax.shards.check import check_shards
from etp_jax.shards.reader import Shards
from etp_jax.tasks import get_task

SOURCE = Path(os.environ.get("ETP_DATA_ROOT", "")) / "mitdb"
pytestmark = pytest.mark.skipif(
    "ETP_DATA_ROOT" not in os.environ or not SOURCE.exists(), reason="ETP_DATA_ROOT with mitdb/ is not set"
)
CODES = {1: "N", 2: "L", 3: "R", 5: "V", 8: "A"}
FS, SECONDS, WINDOWS = 360, 10, 180


def beats(path: Path) -> dict[int, set[str]]:
    """Decodes beat types by window from the MIT format: 16 bits, code in the upper 6, time step in the lower 10."""
    words, found, time, position = np.fromfile(path, "<u2").tolist(), {}, 0, 0
    while words[position]:
        code, step = words[position] >> 10, words[position] & 1023
        position += 1
        if code == 59:  # a long step, in the next two words, the upper half first
            time += (words[position] << 16) + words[position + 1]
            position += 2
        elif code == 63:  # a string of that many bytes
            position += (step + 1) // 2
        elif code < 59:
            time += step
            window = time // (FS * SECONDS)
            if code in CODES and window < WINDOWS:
                found.setdefault(window, set()).add(CODES[code])
    return found


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Shards:
    folder = tmp_path_factory.mktemp("mitdb") / "shards"
    build(open_archive(SOURCE), folder)
    assert "sound" in str(check_shards(folder))
    return Shards(folder)


def test_windows_and_labels_are_the_archive_s(shards: Shards) -> None:
    expected = {
        f"{path.stem}-{window * SECONDS:04d}": types
        for path in SOURCE.glob("*.atr")
        for found in [beats(path)]
        for window, types in ((window, found.get(window, set())) for window in range(WINDOWS))
    }
    columns = [shards.split(name).columns for name in shards.splits]
    got = {record: set(labels) for c in columns for record, labels in zip(c.record_id, c.labels, strict=True)}
    assert len(got) == 12 * WINDOWS and got == expected


def test_classes_of_the_task(shards: Shards) -> None:
    """Checks the positives of each class over all splits, and that only the recorded leads are present."""
    task = get_task("mitbih-beats")
    counts: Counter[str] = Counter()
    for name in shards.splits:
        labelled = TaskRecords(shards, task).of(name)
        counts.update(dict(zip((c.code for c in task.classes), labelled.y_nC.sum(axis=0).tolist(), strict=True)))
        masks = shards.split(name).columns.lead_mask
        assert {LEADS[lead] for lead in np.flatnonzero(masks.any(axis=0))} <= {"II", "V1", "V2", "V4", "V5"}
        assert (masks.sum(axis=1) <= 2).all()
    assert counts == {"N": 1148, "L": 501, "R": 506, "A": 420, "V": 676}
