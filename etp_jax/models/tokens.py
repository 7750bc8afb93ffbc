"""Token ids of texts, computed once and kept on disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.models.tokenizer import Tokenizer
from etp_jax.progress import Bar
from etp_jax.shards import sealed

BUCKET = 8
"""Token tables are padded to a multiple of this length, so that few shapes are compiled."""
BLOCK = 4096
"""Texts that are tokenised at a time: the library's results take several KB a text."""


@dataclass(frozen=True)
class Tokens:
    """The token ids of R texts, special tokens included."""

    ids: NDArray[np.int32]
    """Ids of all texts, one text after the other."""
    lengths: NDArray[np.int32]
    """[R] number of ids of each text."""
    cut: NDArray[np.bool_]
    """[R] whether the text was cut at the maximum length."""
    unknown: NDArray[np.bool_]
    """[R] whether the text has an unknown word, also in the part that was cut off."""

    def where(self, chosen: NDArray[np.bool_]) -> Tokens:
        """Returns the tokens of the texts that the mask [R] chooses."""
        ids = self.ids[np.repeat(chosen, self.lengths)]
        return Tokens(ids, self.lengths[chosen], self.cut[chosen], self.unknown[chosen])

    def table(self, max_tokens: int) -> dict[str, NDArray[np.int32]]:
        """Pads the ids to a table, see `tokenize`."""
        width = min(round_up(int(self.lengths.max(initial=1))), max_tokens)
        mask_RS = np.arange(width) < self.lengths[:, None]
        input_ids_RS = np.zeros(mask_RS.shape, np.int32)
        input_ids_RS[mask_RS] = self.ids
        return {"input_ids": input_ids_RS, "attention_mask": mask_RS.astype(np.int32)}


def tokenize(
    tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, cache: Path | None = None
) -> dict[str, NDArray[np.int32]]:
    """Builds the token table of `texts`; `cache` is that of `tokens_of`.

    Returns:
        {"input_ids", "attention_mask"}, int32 [R, S]. S is the number of tokens of the longest text, rounded up to a
        multiple of 8, and at most `max_tokens`. Padding is 0 in both.
    """
    return tokens_of(tokenizer, texts, max_tokens, cache).table(max_tokens)


def tokens_of(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int, cache: Path | None = None) -> Tokens:
    """Tokenises texts, or reads their tokens from a cache on disk.

    Args:
        tokenizer: the tokenizer.
        texts: R texts.
        max_tokens: length at which a text is cut.
        cache: folder for the results, each named by the hash of everything it depends on; None: no cache.
    """
    import pyarrow as pa

    source = tokens_source(tokenizer, texts, max_tokens)
    file = cache / f"tokens-{source[:16]}.arrow" if cache else None
    fields = {"ids": pa.list_(pa.int32()), "cut": pa.bool_(), "unknown": pa.bool_()}
    kept = sealed.load(file, source, pa.schema(fields)) if file else None
    if kept is not None and len(kept) == len(texts):
        ids, cut, unknown = (column.combine_chunks() for column in kept.columns)
        lengths = np.diff(ids.offsets.to_numpy())
        return Tokens(ids.flatten().to_numpy(), lengths, *(x.to_numpy(zero_copy_only=False) for x in (cut, unknown)))
    tokens = _tokenized(tokenizer, texts, max_tokens)
    if file:
        offsets = np.concatenate([[0], np.cumsum(tokens.lengths)]).astype(np.int32)
        ids = pa.ListArray.from_arrays(pa.array(offsets), pa.array(tokens.ids))
        sealed.save(pa.table([ids, pa.array(tokens.cut), pa.array(tokens.unknown)], list(fields)), file, source)
    return tokens


def tokens_source(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> str:
    """SHA-256 of everything that the tokens of texts depend on."""
    digest = hashlib.sha256(json.dumps([tokenizer.inner.to_str(), tokenizer.side, max_tokens]).encode())
    for start in range(0, len(texts), BLOCK):
        digest.update(json.dumps(texts[start : start + BLOCK]).encode())
    return digest.hexdigest()


def describe(tokenizer: Tokenizer, tokens: Tokens, max_tokens: int) -> str:
    """Describes the tokenizer, and how many of the texts it cuts or knows in part, on one line."""
    count = len(tokens.lengths)
    cut, partly = (marked.sum() / max(count, 1) for marked in (tokens.cut, tokens.unknown))
    return (
        f"{tokenizer.name}, {tokenizer.size} pieces, {'lower-cased' if tokenizer.lowercases else 'capitals kept'}; "
        f"{cut:.1%} of {count} distinct texts are cut at {max_tokens} tokens, {partly:.1%} have unknown words"
    )


def _tokenized(tokenizer: Tokenizer, texts: Sequence[str], max_tokens: int) -> Tokens:
    """Tokenises texts, a block at a time on all cores, with progress on the screen."""
    blocks: list[Any] = [(np.zeros(0, np.int32), np.zeros(0, np.int32), np.zeros(0, bool), np.zeros(0, bool))]
    with Bar(total=len(texts), desc="tokenizing reports", unit="text", delay=1, leave=False) as progress:
        for start in range(0, len(texts), BLOCK):
            block = list(texts[start : start + BLOCK])
            blocks.append(_tokenized_block(tokenizer, block, max_tokens))
            progress.update(len(block))
    return Tokens(*map(np.concatenate, zip(*blocks, strict=True)))


def _tokenized_block(tokenizer: Tokenizer, texts: list[str], max_tokens: int) -> tuple[Any, ...]:
    whole = tokenizer(texts, None)
    cut = np.array([len(ids) > max_tokens for ids in whole], bool)
    unknown = np.array([tokenizer.unknown in ids for ids in whole], bool)
    short = iter(tokenizer([text for text, long in zip(texts, cut, strict=True) if long], max_tokens))
    rows = [next(short) if long else ids for ids, long in zip(whole, cut, strict=True)]
    flat = np.array([number for ids in rows for number in ids], np.int32)
    return flat, np.array([len(ids) for ids in rows], np.int32), cut, unknown


def round_up(length: int) -> int:
    """Rounds up to a multiple of `BUCKET`."""
    return -(-int(length) // BUCKET) * BUCKET
