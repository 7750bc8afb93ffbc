"""Derived files: Arrow tables that are memory-mapped, sealed by a checksum and bound to what they were computed from.

A file holds an Arrow stream, which any Arrow library opens, then the seal: the length and the CRC-32C of the stream.
The stream's metadata name the source: a digest of everything that the table was computed from. A file that is damaged,
of another source or of another schema counts as missing, so every derived file can be deleted at any time.
"""

from __future__ import annotations

import contextlib
import mmap
import struct
from pathlib import Path
from typing import Any

import google_crc32c

from etp_jax.errors import EtpError
from etp_jax.files import whole_file
from etp_jax.paths import regular

SEAL = struct.Struct("<QI4s")
"""Length of the stream, its CRC-32C, and `MAGIC`."""
MAGIC = b"ETP1"
SOURCE = b"source"
BLOCK = 4 * 2**20
"""Bytes that are read at a time to verify a seal."""
LEAST_MAPPED = 32 * 2**20
"""Bytes from which a file is mapped. A smaller one is read: a mapped file that somebody cuts ends the process."""


def save(table: Any, path: Path, source: str) -> bool:
    """Writes an Arrow table with its seal, completely or not at all.

    Args:
      table: the `pyarrow.Table`.
      path: file to write; its folder is created if missing.
      source: digest of what the table was computed from.

    Returns:
      False if the folder cannot be written or the disk is full; the table is then computed again next time.
    """
    import pyarrow as pa

    table = table.combine_chunks().replace_schema_metadata({SOURCE: source.encode()})
    with contextlib.suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole_file(path) as file:
            with pa.ipc.new_stream(file, table.schema) as stream:
                stream.write_table(table)
            file.flush()
            length = file.tell()
            file.write(SEAL.pack(length, _crc(Path(file.name), length), MAGIC))
        return True
    return False


def load(path: Path, source: str, schema: Any) -> Any | None:
    """Maps a table that `save` wrote into memory: its columns take no memory of the process until they are read.

    Args:
      path: the file.
      source: digest of what the table must have been computed from.
      schema: the `pyarrow.Schema` that the table must have.

    Returns:
      The `pyarrow.Table`, of a single chunk; None if the file is missing, damaged, or of another source or schema.
    """
    import pyarrow as pa

    try:
        size = path.stat().st_size - SEAL.size
        with regular(path).open("rb") as file:
            file.seek(max(size, 0))
            length, crc, magic = SEAL.unpack(file.read())
        # The checksum is read, not mapped, so that pages which nobody needs do not count as memory of the process.
        if (length, magic) != (size, MAGIC) or _crc(path, size) != crc:
            return None
        content = _mapped(path) if size >= LEAST_MAPPED else path.read_bytes()
        if any(_is_compressed(message) for message in pa.ipc.MessageReader.open_stream(content)):
            return None
        table = pa.ipc.open_stream(content).read_all()
        # Whoever made the file could compute its checksum, and Arrow trusts offsets: a wrong one ends the process.
        table.validate(full=True)
        if isinstance(content, mmap.mmap):
            # The pages that validation read no longer count as memory of the process.
            content.madvise(mmap.MADV_DONTNEED)
    except (EtpError, OSError, ValueError, struct.error, pa.ArrowException):
        return None
    found = (table.schema.metadata or {}).get(SOURCE, b"").decode(errors="replace")
    if found != source or not table.schema.equals(schema) or any(_has_nulls(c) for c in table.itercolumns()):
        return None
    return table.combine_chunks()


def _mapped(path: Path) -> mmap.mmap:
    with path.open("rb") as file:
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _is_compressed(message: Any) -> bool:
    """Whether a message of an Arrow stream is compressed, so that a short one could take any memory.

    pyarrow does not tell. By Arrow's `Message.fbs`, the third field of a message is its content. The fourth field of a
    record batch says how it is compressed; a batch of a dictionary has a record batch as its second field.
    """
    data = memoryview(message.metadata)

    def follow(place: int) -> int:
        return place + struct.unpack_from("<I", data, place)[0]

    def field(table: int, number: int) -> int:
        """Returns the place of a field of a flatbuffer's table; 0 if the table lacks it."""
        fields = table - struct.unpack_from("<i", data, table)[0]
        size, *offsets = struct.unpack_from(f"<H2x{number + 1}H", data, fields)
        return table + offsets[-1] if offsets[-1] and size >= 2 * number + 6 else 0

    content = follow(field(follow(0), 2))
    if message.type == "dictionary":
        content = follow(field(content, 1))
    return message.type in ("dictionary", "record batch") and field(content, 3) != 0


def _has_nulls(array: Any) -> bool:
    """Whether a value is missing, also inside lists and dictionaries; `save` is given whole tables only."""
    import pyarrow as pa

    if isinstance(array, pa.ChunkedArray):
        return any(map(_has_nulls, array.chunks))
    inner = [array.dictionary] if isinstance(array, pa.DictionaryArray) else []
    inner += [array.values] if isinstance(array, pa.ListArray | pa.FixedSizeListArray) else []
    return bool(array.null_count) or any(map(_has_nulls, inner))


def _crc(path: Path, size: int) -> int:
    """CRC-32C of the first `size` bytes of a file."""
    crc = 0
    with path.open("rb") as file:
        while size > 0 and (block := file.read(min(size, BLOCK))):
            crc, size = google_crc32c.extend(crc, block), size - len(block)
    return crc
