"""Tests of held-out sentences: no report gets them, build.json lists them, and prompts with them can be written."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from etp_jax.cli import main
from etp_jax.ecg.leads import LEADS
from etp_jax.errors import EtpError
from etp_jax.evaluation.zero_shot import ZeroShot
from etp_jax.shards.reader import Shards
from etp_jax.shards.record import FORMAT
from etp_jax.shards.writer import shard_name, write_metadata, write_shard
from etp_jax.tasks import get_task
from etp_jax.tasks.catalog import features_of_prompt
from etp_jax.waveform.hold_out import draw, write_prompts
from tests.helpers import drawn_ecg
from tests.helpers.drawn_ecg import FS, SECONDS
from tests.helpers.unsealed import unsealed

TASK = get_task("ptbxl-super")
PROMPTS = tuple(prompt for c in TASK.classes for prompt in c.prompts)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Shards whose reports are the default prompts of a task, and the criteria's proposals for them."""
    folder = tmp_path_factory.mktemp("hold-out")
    ecg, source = drawn_ecg.draw(), folder / "plain"
    source.mkdir()
    records = [
        replace(ecg, record_id=str(n), patient_id=str(n), report=prompt, statements=tuple(prompt.split(". ")))
        for n, prompt in enumerate(PROMPTS)
    ]
    shard = write_shard(source / shard_name("drawn", "train", 0, 1), records)
    build = {"format": FORMAT, "name": "drawn", "fs": FS, "leads": list(LEADS), "samples": FS * SECONDS}
    rest: dict[str, Any] = {"label_vocabulary": [], "preparation": {"version": 1}, "translation": {}, "rejects": {}}
    write_metadata(source, {**build, **rest, "splits": {"train": {"records": len(records), "shards": [shard]}}})
    etp(f"waveform propose --shards {source} --out {folder}/proposals.json")
    restore(folder, "third", "--hold-out-share 0.333 --seed 0")
    return folder


def etp(command: str) -> None:
    main.main(command.split())


def restore(folder: Path, out: str, options: str) -> Shards:
    files = f"--shards {folder}/plain --proposals {folder}/proposals.json --out {folder}/{out}"
    etp(f"waveform restore {files} --filter none --workers 1 {options}")
    return Shards(folder / out)


def sentences(shards: Shards) -> set[str]:
    return {sentence for some in shards.split("train").columns.features for sentence in some}


def test_the_draw_depends_on_the_set_and_the_seed_only() -> None:
    names = [f"sentence {n}" for n in range(30)]
    some = draw(names, 1 / 3, 0)
    assert len(some) == 10 and set(some) < set(names)
    assert draw(reversed(names), 1 / 3, 0) == some != draw(names, 1 / 3, 1)
    assert draw(names, 0, 0) == ()


def test_a_third_of_the_sentences_is_never_restored_and_listed(folder: Path) -> None:
    third, every = Shards(folder / "third"), restore(folder, "every", "")
    held_out = third.build["preparation"]["restored"]["held_out"]
    assert (held_out["share"], held_out["seed"]) == (0.333, 0)
    assert len(held_out["sentences"]) == round(0.333 * len(sentences(every)))
    assert sentences(third) == sentences(every) - set(held_out["sentences"])
    pairs = zip(third.split("train").columns.features, every.split("train").columns.features, strict=True)
    for rest, text in pairs:  # sentences are held out, not records
        assert rest == tuple(sentence for sentence in text if sentence not in held_out["sentences"])


def test_without_a_hold_out_nothing_changes(folder: Path) -> None:
    plain, none = restore(folder, "plain-restored", ""), restore(folder, "share-0", "--hold-out-share 0 --seed 3")
    assert "held_out" not in plain.build["preparation"]["restored"]
    assert plain.build == none.build


def test_prompts_of_both_parts_are_apart_and_can_be_scored(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    etp(f"waveform prompts --shards {folder}/third --task ptbxl-super --out {folder}/prompts")
    printed = capsys.readouterr().out
    files = [folder / f"prompts/ptbxl-super-{part}.json" for part in ("trained", "held-out")]
    held_out = set(Shards(folder / "third").build["preparation"]["restored"]["held_out"]["sentences"])
    for file, own in zip(files, (sentences(Shards(folder / "third")), held_out), strict=True):
        assert f"wrote {file}" in printed
        prompts = json.loads(file.read_text(encoding="utf-8"))
        for c in TASK.classes:
            kept = [prompt for prompt in c.prompts if set(features_of_prompt(prompt)) & own]
            expected = [". ".join((p, *(f for f in features_of_prompt(p) if f in own))) for p in kept or c.prompts]
            assert prompts[c.code] == expected
    assert sum(len(set(features_of_prompt(prompt)) & held_out) for prompt in PROMPTS) > 5  # something to score
    ZeroShot(run=folder, shards=folder / "third", task="ptbxl-super", prompts=tuple(map(str, files))).check()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("restore --proposals {0}/proposals.json --shards {0}/plain --out {0}/x --hold-out-share 1", "below 1"),
        ("restore --proposals {0}/proposals.json --shards {0}/plain --out {0}/x --seed -1", "--seed is -1"),
        (
            "prompts --shards {0}/plain --out {0}/p",
            "plain: no sentence was held out; write it by `etp waveform restore",
        ),
        ("prompts --shards {0}/third --out {0}/p --task none", "no task 'none'"),
    ],
)
def test_mistakes_are_refused(folder: Path, command: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        etp(f"waveform {command.format(folder)}")
    assert message in capsys.readouterr().err


def test_shards_without_a_description_of_their_preparation(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder / "plain", tmp_path / "bare")
    build = unsealed(tmp_path / "bare" / "build.json")
    (tmp_path / "bare" / "build.json").write_text(json.dumps({**build, "preparation": {"restored": {"held_out": 1}}}))
    with pytest.raises(EtpError, match="bare: no sentence was held out"):
        write_prompts(Shards(tmp_path / "bare"), "ptbxl-super", tmp_path)
    del build["preparation"]
    (tmp_path / "bare" / "build.json").write_text(json.dumps(build))
    with pytest.raises(EtpError, match="bare: no sentence was held out"):
        write_prompts(Shards(tmp_path / "bare"), "ptbxl-super", tmp_path)


def test_a_file_of_another_kind_is_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "ptbxl-super-trained.json").write_text('{"mine": 1}')
    with pytest.raises(EtpError, match=r"ptbxl-super-trained.json: holds something other than prompts of this task"):
        write_prompts(Shards(folder / "third"), "ptbxl-super", tmp_path)
