"""Decoding of many records at once, without their signals.

All records have the same features in the same order (`record.encode_record`). So numpy takes every step of the decoding
for all records together, which is about 20 times as fast as `record.decode_metadata`, one record after the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from etp_jax.shards.record import TEXT_LISTS, text_fields
from etp_jax.shards.tfrecord import span

_BYTES, _FLOATS, _INTEGERS = b"\x0a", b"\x12", b"\x1a"  # first byte of a list of byte strings, of floats, of integers
_FIRST, _SECOND = b"\x0a", b"\x12"  # first byte of field 1 and of field 2
_LENGTH_BITS = 35  # a length of more bits is no length
LONG_LIST = 100
"""Number of texts in a list after which the few records with more of them are read one by one."""
_PAD = 64  # bytes behind the last record, so that no step reads beyond the array


class NotARecord(ValueError):
    """A record is not what `encode_record` writes; `row` is its number in the block."""

    def __init__(self, row: int, reason: str):
        """Names the record and the reason."""
        super().__init__(reason)
        self.row = row


@dataclass(frozen=True)
class Block:
    """The fields of N records, except their signals."""

    texts: dict[str, Any]
    """Arrow strings of each field: one a record, or all strings of a list, one record after the other."""
    counts: dict[str, NDArray[np.int64]]
    """[N] number of values in each list."""
    likelihoods: NDArray[np.float32]
    age: NDArray[np.float32]
    lead_mask: NDArray[np.bool_]


def decode_block(heads: Sequence[bytes], leads: int, signal_bytes: int, restored: bool = False) -> Block:
    """Decodes records.

    Args:
      heads: the records, each without its last `signal_bytes` bytes.
      leads: number of leads.
      signal_bytes: size of a signal.
      restored: whether the records have restored reports.

    Raises:
      NotARecord: a record differs from what `encode_record` writes.
    """
    cursor = _Cursor(heads)
    cursor.field(_FIRST)
    texts, counts = {}, {}
    for name in (*text_fields(restored), *TEXT_LISTS):
        cursor.feature(name)
        starts, lengths, count = cursor.byte_strings()
        if name in TEXT_LISTS:
            counts[name] = count
        else:
            cursor.check(count == 1, f"{name}: not one text")
        texts[name] = _strings(cursor, starts, lengths, count, name)
    cursor.feature("likelihoods")
    likelihoods, counts["likelihoods"] = cursor.floats()
    cursor.feature("age")
    age, count = cursor.floats()
    cursor.check(count == 1, "age: not one number")
    cursor.feature("lead_mask")
    lead_mask = cursor.flags(leads)
    cursor.feature("ecg")
    cursor.field(_BYTES)
    cursor.check(cursor.field(_FIRST) == signal_bytes, "ecg: another size")
    cursor.check(cursor.at == cursor.ends, "ecg: another size")
    return Block(texts, counts, likelihoods, age, lead_mask)


class _Cursor:
    """One position in each of N encoded records."""

    def __init__(self, heads: Sequence[bytes]):
        self.data = np.frombuffer(b"".join([*heads, bytes(_PAD)]), np.uint8)
        lengths = np.array([len(head) for head in heads], np.int64)
        self.ends = np.cumsum(lengths)
        self.at = self.ends - lengths
        self.all = np.arange(len(heads))
        self.feature_ends = self.ends  # where the feature that is being read ends

    def check(self, good: NDArray[np.bool_], reason: str, rows: NDArray[np.int64] | None = None) -> None:
        """Raises NotARecord for the first row that is not good."""
        if not good.all():
            bad = np.flatnonzero(~good)[0]
            raise NotARecord(int(bad if rows is None else rows[bad]), reason)

    def skip(self, count: NDArray[np.int64] | int, rows: NDArray[np.int64]) -> None:
        self.at[rows] += count
        self.check(self.at[rows] <= self.ends[rows], "ends early", rows)

    def pieces(self, size: int) -> NDArray[np.void]:
        """Returns a view of the `size` bytes from every byte on, which numpy copies as one item."""
        return np.ndarray((len(self.data) - size + 1,), np.dtype((np.void, size)), self.data, strides=(1,))

    def expect(self, text: bytes, rows: NDArray[np.int64]) -> None:
        """Skips bytes that must be `text`."""
        found = self.pieces(len(text))[self.at[rows]].view(np.uint8).reshape(-1, len(text))
        self.check((found == np.frombuffer(text, np.uint8)).all(axis=1), f"no {text!r}", rows)
        self.skip(len(text), rows)

    def number(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Reads a varint."""
        value, left = np.zeros(len(rows), np.int64), np.arange(len(rows))
        for shift in range(0, _LENGTH_BITS, 7):
            byte = self.data[self.at[rows[left]]]
            self.skip(1, rows[left])
            value[left] |= (byte & 0x7F).astype(np.int64) << shift
            left = left[byte > 0x7F]
            if not len(left):
                return value
        raise NotARecord(int(rows[left[0]]), "no length")

    def field(self, tag: bytes, rows: NDArray[np.int64] | None = None) -> NDArray[np.int64]:
        """Reads the head of a length-delimited field, and returns the length."""
        rows = self.all if rows is None else rows
        self.expect(tag, rows)
        return self.number(rows)

    def feature(self, name: str) -> None:
        """Reads the head of a feature, and its name."""
        ends = self.field(_FIRST) + self.at
        encoded = name.encode()
        self.expect(_FIRST + bytes((len(encoded),)) + encoded, self.all)
        self.feature_ends = self.field(_SECOND) + self.at
        self.check(self.feature_ends == ends, f"{name}: a feature of another length")

    def byte_strings(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Reads a list of byte strings: start and length of each, record after record, and their number a record."""
        ends = self.field(_BYTES) + self.at
        self.check(ends == self.feature_ends, "a list of another length than its feature")
        count, found = np.zeros(len(ends), np.int64), [(self.all[:0],) * 3]
        while len(rows := np.flatnonzero(self.at < ends)):
            if len(found) > LONG_LIST:
                found += [self._rest(int(row), int(ends[row])) for row in rows]
                count[rows] += [len(starts) for _, starts, _ in found[-len(rows) :]]
                break
            lengths = self.field(_FIRST, rows)
            found.append((rows, self.at[rows], lengths))
            self.skip(lengths, rows)
            count[rows] += 1
        self.check(self.at == ends, "a text is longer than its list")
        rows, starts, lengths = (np.concatenate(parts) for parts in zip(*found, strict=True))
        order = np.argsort(rows, kind="stable")
        return starts[order], lengths[order], count

    def _rest(self, row: int, end: int) -> tuple[NDArray[np.int64], ...]:
        """Reads the rest of a record's list of byte strings one by one: its row, and start and length of each."""
        data, at, starts, lengths = self.data.data, int(self.at[row]), [], []
        while at < end:
            try:
                start, at = span(data, at, field=1)
            except ValueError as error:
                raise NotARecord(row, str(error)) from None
            starts.append(start)
            lengths.append(at - start)
        if at > end:
            raise NotARecord(row, "a text is longer than its list")
        self.at[row] = at
        return tuple(np.array(values, np.int64) for values in ([row] * len(starts), starts, lengths))

    def packed(self, tag: bytes) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Reads the heads of a list of numbers; returns where they start, and their size in bytes."""
        ends = self.field(tag) + self.at
        self.check(ends == self.feature_ends, "a list of another length than its feature")
        size = np.zeros(len(ends), np.int64)
        rows = np.flatnonzero(self.at < ends)
        size[rows] = self.field(_FIRST, rows)
        starts = self.at.copy()
        self.skip(size, self.all)
        self.check(self.at == ends, "a list of another length")
        return starts, size

    def floats(self) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        starts, size = self.packed(_FLOATS)
        self.check(size % 4 == 0, "floats of another size")
        return gathered(self.data, starts, size).view("<f4"), size // 4

    def flags(self, count: int) -> NDArray[np.bool_]:
        starts, size = self.packed(_INTEGERS)
        self.check(size == count, "lead_mask: another number of leads")
        values = self.pieces(count)[starts].view(np.uint8).reshape(-1, count)
        self.check(np.asarray((values <= 1).all(axis=1)), "lead_mask: neither 0 nor 1")
        return values.astype(bool)


def gathered(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    """Joins pieces of `data`."""
    offsets = np.cumsum(lengths) - lengths
    return data[np.repeat(starts - offsets, lengths) + np.arange(lengths.sum())]


def _strings(
    cursor: _Cursor, starts: NDArray[np.int64], lengths: NDArray[np.int64], count: NDArray[np.int64], name: str
) -> Any:
    """Builds Arrow strings; raises NotARecord if one is not UTF-8."""
    import pyarrow as pa

    # The texts and what is between them, as one array over the records' bytes; every second item is a text.
    edges = np.stack([starts, starts + lengths], axis=1).ravel()
    between = pa.LargeStringArray.from_buffers(max(0, len(edges) - 1), pa.py_buffer(edges), pa.py_buffer(cursor.data))
    strings = between.take(pa.array(np.arange(0, len(edges), 2)))
    try:
        strings.validate(full=True)
    except pa.ArrowInvalid:
        for row, start, length in zip(np.repeat(cursor.all, count), starts, lengths, strict=True):
            try:
                cursor.data[start : start + length].tobytes().decode()
            except UnicodeDecodeError as error:
                raise NotARecord(int(row), f"{name}: {error}") from None
        raise
    return strings
