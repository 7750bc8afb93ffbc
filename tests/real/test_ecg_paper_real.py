"""Lays out every ECG of PTB-XL's fold 9 on paper."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from etp_jax.report.ecg_paper import NARROW, WIDE, lay_out
from etp_jax.shards.reader import Shards
from tests.helpers.paper import faults

pytestmark = pytest.mark.skipif("ETP_DATA_ROOT" not in os.environ, reason="ETP_DATA_ROOT is not set")


def test_no_ecg_of_fold_9_leaves_its_paper(fold_9: Path) -> None:
    shards = Shards(fold_9)
    split = shards.split("validation")
    assert len(split) > 2000
    wrong, reduced = {}, 0
    for record in (split[place] for place in range(len(split))):
        for layout in (WIDE, NARROW):
            paper = lay_out(record.ecg, record.lead_mask, shards.leads, shards.fs, layout)
            if found := faults(paper):
                wrong[record.record_id] = found
            reduced += layout is WIDE and paper.gain < 10
    assert wrong == {}
    assert 0 < reduced < 0.05 * len(split)  # the usual gain is the rule
