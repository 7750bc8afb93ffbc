"""The first reading of a split: every byte is verified, and the index is built."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from etp_jax.errors import EtpError
from etp_jax.paths import regular
from etp_jax.progress import Bar
from etp_jax.shards import tfrecord
from etp_jax.shards.index import index_schema, shared_texts, sorted_dictionary
from etp_jax.shards.lockstep import Block, NotARecord, decode_block
from etp_jax.shards.record import TEXT_LISTS

THREADS = min(8, os.cpu_count() or 1)
"""Number of shards that are scanned at the same time; reading, checksums and numpy run in parallel."""
RECORDS = 4096
"""Maximum number of records that are decoded together."""
SHARED = shared_texts(restored=True)


def verified_payloads(path: Path, shard: dict[str, Any]) -> Iterator[tuple[int, bytes]]:
    """Reads a shard file: offset and payload of every record.

    Args:
      path: the shard file.
      shard: its entry in `build.json`.

    Raises:
      EtpError: a CRC, the number of records or the SHA-256 differs; the last two after the last record.
    """
    with regular(path).open("rb") as file:
        count = 0
        for frame in tfrecord.read_frames(file, str(path)):
            count += 1
            yield frame
        if count != shard["records"]:
            raise EtpError(f"{path}: holds {count} records, build.json says {shard['records']}")
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != shard["sha256"]:
            raise EtpError(
                f"{path}: SHA-256 differs from build.json, so the file belongs to another build; prepare it again"
            )


def scan(
    folder: Path, split: str, shards: Sequence[dict[str, Any]], leads: int, signal_bytes: int, restored: bool = False
) -> Any:
    """Reads and verifies all shards of a split, with progress on the screen.

    Args:
      folder: the shard folder.
      split: name of the split.
      shards: the split's shards in `build.json`.
      leads: number of leads.
      signal_bytes: size of a signal.
      restored: whether the records have restored reports.

    Returns:
      The index as a `pyarrow.Table`.

    Raises:
      EtpError: a shard is damaged, or is not that of `build.json`.
    """

    def one(number: int) -> Any:
        found = _scan_shard(folder / shards[number]["file"], shards[number], number, leads, signal_bytes, restored)
        progress.update(shards[number]["records"])
        return found

    total = sum(shard["records"] for shard in shards)
    with (
        Bar(total=total, unit="record", desc=f"index of {split}", delay=1, leave=False) as progress,
        ThreadPoolExecutor(THREADS, thread_name_prefix="scan") as pool,
    ):
        running = [pool.submit(one, number) for number in range(len(shards))]
        try:
            tables = [future.result() for future in running]
        finally:
            pool.shutdown(cancel_futures=True)
    return _joined(tables, index_schema(leads, restored))


def _scan_shard(path: Path, shard: dict[str, Any], number: int, leads: int, signal_bytes: int, restored: bool) -> Any:
    """Builds the rows of one shard, a `pyarrow.Table` in which each distinct text is stored once for each block."""
    import pyarrow as pa

    schema = index_schema(leads, restored)
    tables = [schema.empty_table()]
    # The signals are let go at once: a block of records takes little memory, however long their signals are.
    payloads = verified_payloads(path, shard)
    heads = ((start, len(payload), payload[: len(payload) - signal_bytes]) for start, payload in payloads)
    while some := list(islice(heads, RECORDS)):
        starts, lengths, contents = zip(*some, strict=True)
        try:
            block = decode_block(contents, leads, signal_bytes, restored)
        except NotARecord as error:
            start = starts[error.row] - tfrecord.FRAME_HEAD
            raise EtpError(f"{path}: no record at byte {start} ({error}); run `etp shards check`") from None
        places = np.stack([np.full(len(starts), number), starts, lengths], axis=1).astype(np.int64)
        tables.append(_table(block, places, schema))
    return pa.concat_tables(tables)


def _table(block: Block, places: Any, schema: Any) -> Any:
    import pyarrow as pa

    def rows(name: str, values: Any) -> Any:
        offsets = np.concatenate([[0], np.cumsum(block.counts[name])]).astype(np.int32)
        return pa.ListArray.from_arrays(pa.array(offsets), values)

    mask = pa.array(block.lead_mask.view(np.uint8).ravel())
    columns = {
        "place": pa.FixedSizeListArray.from_arrays(pa.array(places.ravel()), 3),
        "record_id": block.texts["record_id"],
        **{name: texts.dictionary_encode() for name, texts in block.texts.items() if name in SHARED},
        **{name: rows(name, block.texts[name].dictionary_encode()) for name in TEXT_LISTS},
        "likelihoods": rows("likelihoods", pa.array(block.likelihoods)),
        "age": pa.array(block.age),
        "lead_mask": pa.FixedSizeListArray.from_arrays(mask, block.lead_mask.shape[1]),
    }
    return pa.table(columns, schema=schema)


def _joined(tables: Sequence[Any], schema: Any) -> Any:
    """Joins the rows of all shards; each distinct text of the split is stored once, in sorted order."""
    import pyarrow as pa

    table = pa.concat_tables([schema.empty_table(), *tables])
    for place, name in enumerate(table.column_names):
        if name in SHARED:
            column = sorted_dictionary(table.column(name))
        elif name in TEXT_LISTS:
            chunks = table.column(name).chunks
            values = sorted_dictionary(pa.chunked_array([chunk.flatten() for chunk in chunks]))
            counts = np.concatenate([np.diff(chunk.offsets.to_numpy()) for chunk in chunks])
            offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int32)
            column = pa.ListArray.from_arrays(pa.array(offsets), values)
        else:
            continue
        table = table.set_column(place, schema.field(name), column)
    return table.combine_chunks()
