"""Tests of sentence-transformers folders: where their BERT is, and what differs from `model.text.pool`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from etp_jax.errors import EtpError
from etp_jax.models.sentence_folder import bert_folder, differences

MEAN = {"word_embedding_dimension": 8, "pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}
CLS = {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False, "include_prompt": True}
BOTH = {"pooling_mode_cls_token": True, "pooling_mode_max_tokens": True}


def write_modules(folder: Path, pooling: dict[str, Any], first: str = "", more: tuple[str, ...] = ()) -> Path:
    kinds = {"Transformer": first, "Pooling": "1_Pooling"} | {kind: f"{i}_{kind}" for i, kind in enumerate(more, 2)}
    entries = [
        {"idx": i, "name": str(i), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for i, (kind, path) in enumerate(kinds.items())
    ]
    (folder / "modules.json").write_text(json.dumps(entries))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling))
    return folder


def test_where_the_bert_is(tmp_path: Path) -> None:
    assert bert_folder(tmp_path) == tmp_path and differences(tmp_path, "cls") == ""
    assert bert_folder(write_modules(tmp_path, MEAN)) == tmp_path
    assert bert_folder(write_modules(tmp_path, MEAN, "0_Transformer")) == tmp_path / "0_Transformer"


@pytest.mark.parametrize(
    ("pooling", "pool", "expected"),
    [
        (MEAN, "mean", ""),
        (MEAN, "cls", "pools by mean, model.text.pool is cls"),
        (CLS, "cls", ""),
        (CLS, "mean", "pools by cls, model.text.pool is mean"),
        (BOTH, "cls", "pools by cls and max, model.text.pool is cls"),
        ({"pooling_mode": "mean"}, "mean", ""),
        ({"pooling_mode": ["mean", "max"]}, "mean", "pools by mean and max, model.text.pool is mean"),
        ({"pooling_mode_lasttoken": True}, "cls", "pools by lasttoken, model.text.pool is cls"),
    ],
)
def test_pooling(tmp_path: Path, pooling: dict[str, Any], pool: str, expected: str) -> None:
    found = differences(write_modules(tmp_path, pooling), pool)
    assert found == (f"the sentence-transformers model in {tmp_path} {expected}" if expected else "")


def test_lower_casing_of_its_own(tmp_path: Path) -> None:
    folder = write_modules(tmp_path, MEAN)
    for lowered in (True, False):
        (folder / "sentence_bert_config.json").write_text(json.dumps({"do_lower_case": lowered}))
        assert ("lower-cases texts" in differences(folder, "mean")) == lowered


def test_modules_that_are_not_applied(tmp_path: Path) -> None:
    write_modules(tmp_path, MEAN, more=("Dense", "Normalize"))
    assert differences(tmp_path, "mean").endswith(f"{tmp_path} has modules that are not applied: Dense, Normalize")
    assert differences(tmp_path, "cls").endswith(
        "pools by mean, model.text.pool is cls; has modules that are not applied: Dense, Normalize"
    )


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[", "not a list of modules"),
        ('{"a": 1}', "not a list of modules"),
        ('[{"type": "a.Transformer"}]', "not a list of modules"),
        ('[{"type": "a.Transformer", "path": "../other"}]', r"'\.\./other' leads out of the folder"),
        ('[{"type": "a.Transformer", "path": "/etc"}]', "'/etc' leads out of the folder"),
        ('[{"type": "a.BoW", "path": ""}]', "the first module is BoW; only Transformer is supported"),
    ],
    ids=["json", "object", "path", "above", "absolute", "words"],
)
def test_bad_modules(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "modules.json").write_text(content)
    with pytest.raises(EtpError, match=rf"modules.json: {message}") as caught:
        bert_folder(tmp_path)
    assert "\n" not in str(caught.value)
