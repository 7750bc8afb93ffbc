"""Reports as text: tokenizer, token tables, and the frozen tower's output for every distinct report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers
from tqdm import tqdm

from etp_jax.config import TextTowerConfig
from etp_jax.errors import EtpError
from etp_jax.models.bert import Bert, BertConfig, pool_tokens
from etp_jax.models.pretrained import load_bert, resolve

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")

BUCKET = 8
"""Token tables are padded to a multiple of this, so that few shapes are compiled."""


class Tokenizer:
    """A WordPiece tokenizer as BERT uses it: `[CLS] ... [SEP]`."""

    def __init__(self, inner: tokenizers.Tokenizer) -> None:
        """Takes over a `tokenizers.Tokenizer`; padding and truncation that its file prescribes are dropped."""
        inner.no_padding()
        inner.no_truncation()
        self.inner = inner

    @classmethod
    def load(cls, path: Path) -> Tokenizer:
        """Reads `tokenizer.json`, or a Hugging Face folder with it or with `vocab.txt`; EtpError if there is none."""
        file = path / "tokenizer.json" if path.is_dir() else path
        if file.exists():
            try:
                return cls(tokenizers.Tokenizer.from_file(str(file)))
            except Exception as error:  # noqa: BLE001  the library raises nothing narrower
                raise EtpError(f"{file}: not a tokenizer ({error})") from None
        vocabulary = path / "vocab.txt"
        if not vocabulary.exists():
            raise EtpError(f"{path}: no tokenizer; expected tokenizer.json or vocab.txt")
        words = vocabulary.read_text(encoding="utf-8").splitlines()
        return cls(wordpiece({word: i for i, word in enumerate(words)}, lowercase=is_lowercase(path, words)))

    @classmethod
    def train_wordpiece(cls, texts: Sequence[str], vocabulary: int) -> Tokenizer:
        """Trains a lower-case vocabulary of at most `vocabulary` pieces; the same texts always give the same one."""
        # The trainer numbers word-internal letters in the order of a random hash map, and ties follow the numbers.
        # Handing it every letter in sorted order first takes the chance out.
        bare = wordpiece({"[UNK]": 0}, lowercase=True)
        letters = sorted({c for text in texts for c in bare.normalizer.normalize_str(text) if not c.isspace()})
        first = [*SPECIAL, *letters, *(f"##{c}" for c in letters)]
        trainer = trainers.WordPieceTrainer(
            vocab_size=max(vocabulary, len(first)), special_tokens=first, show_progress=False
        )
        bare.train_from_iterator(sorted(texts), trainer)
        pieces = bare.get_vocab(with_added_tokens=True)
        return cls(wordpiece(pieces, lowercase=True))

    def save(self, file: Path) -> None:
        """Writes `tokenizer.json`."""
        self.inner.save(str(file))

    @property
    def size(self) -> int:
        """Number of pieces, special ones included."""
        return self.inner.get_vocab_size()

    def __call__(self, texts: Sequence[str], max_tokens: int) -> list[list[int]]:
        """Token ids of each text, `[CLS]` and `[SEP]` included, cut to `max_tokens`."""
        self.inner.enable_truncation(max_tokens)
        encodings = self.inner.encode_batch(list(texts))
        self.inner.no_truncation()
        return [encoding.ids for encoding in encodings]


def wordpiece(vocabulary: dict[str, int], lowercase: bool) -> tokenizers.Tokenizer:
    """BERT's normaliser, splitter, WordPiece and `[CLS] ... [SEP]` around a vocabulary."""
    inner = tokenizers.Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    inner.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    inner.decoder = decoders.WordPiece()
    special = [token for token in SPECIAL if token in vocabulary]
    inner.add_special_tokens(special)
    if "[CLS]" in vocabulary:
        inner.post_processor = processors.BertProcessing(("[SEP]", vocabulary["[SEP]"]), ("[CLS]", vocabulary["[CLS]"]))
    return inner


def is_lowercase(folder: Path, vocabulary: Sequence[str]) -> bool:
    """Whether text is lower-cased: as `tokenizer_config.json` says, else unless the vocabulary has capitals itself."""
    file = folder / "tokenizer_config.json"
    said = json.loads(file.read_text(encoding="utf-8")).get("do_lower_case") if file.exists() else None
    return said if said is not None else all(word == word.lower() for word in vocabulary if word not in SPECIAL)


def tokenize(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> dict[str, np.ndarray]:
    """Token table of `texts`.

    Returns:
        {"input_ids", "attention_mask"}, int32 [R, S]; S is the longest text's tokens, rounded up to a multiple of 8, at
        most `max_tokens`. Padding is 0 in both.
    """
    rows = tokenizer(texts, max_tokens)
    longest = max(map(len, rows), default=1)
    width = min(-(-longest // BUCKET) * BUCKET, max_tokens)
    input_ids = np.zeros((len(rows), width), np.int32)
    attention_mask = np.zeros((len(rows), width), np.int32)
    for i, row in enumerate(rows):
        input_ids[i, : len(row)] = row
        attention_mask[i, : len(row)] = 1
    return {"input_ids": input_ids, "attention_mask": attention_mask}


@dataclass(frozen=True)
class TextTower:
    """A text tower before training.

    Attributes:
        bert_config: sizes.
        params: pretrained weights (float32 numpy tree), or None when they start at random.
        tokenizer: its tokenizer.
        source: where the weights came from; "" from scratch.
        sha256: of the weights file; "" from scratch.
    """

    bert_config: BertConfig
    params: dict[str, Any] | None
    tokenizer: Tokenizer
    source: str
    sha256: str


def build_text(config: TextTowerConfig, reports: Sequence[str]) -> TextTower:
    """Loads the text tower that a recipe names, or lays out one from scratch with a vocabulary of the reports.

    Raises:
        EtpError: it cannot be had, its files do not fit, or a tower from scratch is to be frozen.
    """
    if config.pretrained is None:
        if config.frozen:
            raise EtpError("model.text: a tower from scratch (pretrained = None) cannot be frozen; name its weights")
        tokenizer = Tokenizer.train_wordpiece(apply_template(config.template, reports), config.vocabulary)
        bert_config = BertConfig(
            vocab_size=tokenizer.size,
            hidden_size=config.hidden,
            num_hidden_layers=config.layers,
            num_attention_heads=config.heads,
            intermediate_size=4 * config.hidden,
            max_position_embeddings=config.max_tokens,
            dropout=config.dropout,
        )
        return TextTower(bert_config, None, tokenizer, "", "")
    folder = resolve(config.pretrained)
    tokenizer = Tokenizer.load(folder)
    bert_config, params, digest = load_bert(folder)
    if tokenizer.size > bert_config.vocab_size:
        raise EtpError(f"{folder}: the tokenizer has {tokenizer.size} pieces, the weights {bert_config.vocab_size}")
    if config.max_tokens > bert_config.max_position_embeddings:
        raise EtpError(
            f"model.text.max_tokens is {config.max_tokens}; {config.pretrained} reads at most "
            f"{bert_config.max_position_embeddings}"
        )
    return TextTower(replace(bert_config, dropout=config.dropout), params, tokenizer, config.pretrained, digest)


def apply_template(template: str, reports: Sequence[str]) -> list[str]:
    """Puts each report into the template's `{report}`."""
    return [template.format(report=report) for report in reports]


def encode_table(
    bert_config: BertConfig, params: dict[str, Any], tokens: dict[str, np.ndarray], pool: str, batch: int = 64
) -> np.ndarray:
    """Runs a frozen tower over a token table.

    Args:
        bert_config: sizes.
        params: weights.
        tokens: as `tokenize` gives them, [R, S].
        pool: `cls` or `mean`.
        batch: rows a call; rows of like length go together, padded to few lengths.

    Returns:
        float32 [R, H].
    """
    bert = Bert(bert_config)

    @jax.jit
    def encode(params: Any, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        hidden: Any = bert.apply({"params": params}, input_ids, attention_mask)
        return pool_tokens(hidden, attention_mask, pool)

    lengths = tokens["attention_mask"].sum(axis=1)
    order = np.argsort(lengths, kind="stable")
    params = jax.device_put(params)
    result = np.zeros((len(order), bert_config.hidden_size), np.float32)
    for start in tqdm(range(0, len(order), batch), desc="encoding reports", unit="batch", disable=len(order) <= batch):
        rows = order[start : start + batch]
        width = min(-(-int(lengths[rows].max()) // BUCKET) * BUCKET, tokens["input_ids"].shape[1])
        padded = np.resize(rows, batch)  # the last batch repeats its rows, so that one shape serves all
        out = encode(params, tokens["input_ids"][padded, :width], tokens["attention_mask"][padded, :width])
        result[rows] = np.asarray(out)[: len(rows)]
    return result


def frozen_table(
    tower: TextTower, config: TextTowerConfig, texts: Sequence[str], cache: Path | None = None
) -> np.ndarray:
    """Outputs of a frozen tower for texts, kept on disk.

    Args:
        tower: with weights.
        config: pooling and greatest length.
        texts: what the tower reads; the template is already applied.
        cache: folder for the results, each named by the hash of everything it depends on; None keeps nothing.

    Returns:
        float32 [R, H].
    """
    assert tower.params is not None, "a tower from scratch is never frozen"
    key = json.dumps([tower.sha256, config.pool, config.max_tokens, list(texts)])
    file = cache / f"text-{hashlib.sha256(key.encode()).hexdigest()[:16]}.npy" if cache else None
    if file and file.exists():
        return np.load(file)
    tokens = tokenize(tower.tokenizer, texts, config.max_tokens)
    table = encode_table(tower.bert_config, tower.params, tokens, config.pool)
    if file:
        file.parent.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(".partial.npy")
        np.save(partial, table)
        partial.replace(file)  # whole or not there
    return table
