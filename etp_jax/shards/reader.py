"""Reading of shard folders with random access. Imports neither jax nor TensorFlow.

A shard folder contains:

* TFRecord files `<name>-<split>.tfrecord-00000-of-000NN`.
* `features.json` and `dataset_info.json`, with which `tfds.builder_from_directory` opens the folder.
* `rejects.csv`: the records that were left out.
* `build.json`: what all records have in common, how they were prepared, and the size and SHA-256 of every file. It is
  written last; without it the folder is unfinished.
* `.index/`: files that were computed from the shards, each with a seal (`sealed.py`). They may be deleted.

`writer.py` writes such a folder; `check.py` verifies it byte by byte.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from etp_jax.errors import EtpError
from etp_jax.json_text import check_types, parse_json
from etp_jax.paths import inside, read_file, regular
from etp_jax.shards import sealed, tfrecord
from etp_jax.shards.buffers import Buffers
from etp_jax.shards.index import INDEX_FOLDER, Index, index_schema
from etp_jax.shards.record import (
    BUILD_FILE,
    FORMAT,
    PART_FILE,
    RESTORED,
    RESTORED_FORMAT,
    Record,
    SplitColumns,
    decode_record,
)
from etp_jax.shards.scan import scan
from etp_jax.shards.writer import check_digest

READERS = min(8, os.cpu_count() or 1)
"""Number of threads that read signals into one batch."""
SHARD_TYPES = {"file": str, "bytes": int, "records": int, "sha256": str}
BUILD_TYPES = {
    **{"name": str, "fs": (int, float), "leads": [str], "samples": int, "label_vocabulary": [str]},
    **{"preparation?": {"filters?": {str: object}}, "translation?": {str: {str: (int, float)}}},
    "marks?": {str: [str]},
    **{"rejects?": {str: int}, "verdicts?": {str: int}, "notes?": {str: int}, "leads_by_verdict?": {str: {str: int}}},
    **{"splits": {str: {"records": int, "shards": [SHARD_TYPES]}}, "digests?": {str: str}},
}
"""Types of the fields of `build.json` that are read."""
THREAD_BYTES = 2**20
"""Smallest number of bytes for which a reader thread pays off."""
RECYCLED_BYTES = 2**20
"""Smallest batch, in bytes, whose memory is used again; smaller arrays cost few page faults."""
_BUFFERS = Buffers(4)


@dataclass(frozen=True)
class ReportTable:
    """The distinct reports of a split, and the number of each record's report."""

    reports: Sequence[str]
    """Distinct reports in sorted order (the same on every host), with an empty text if a record has no report.

    They are read from the disk when they are used (`index.Column`)."""
    number: NDArray[np.int32]
    """[N] position in `reports` of each record's report."""
    plain: NDArray[np.int32] | None = None
    """[N] position of each record's report without restored features, in a table of both texts (`both_reports`)."""

    @property
    def paired(self) -> NDArray[np.int64]:
        """Positions of the records that have a report, so that an ECG-report pair can be formed."""
        blank = 0 if self.reports[:1] == [""] else -1  # the empty text is the first of the sorted ones
        return np.flatnonzero(self.number != blank)


class Shards:
    """A finished shard folder.

    Opening it compares the size of every shard with `build.json`, so that a truncated or missing file is detected
    immediately. `check.check_shards` reads every byte.

    Raises:
      EtpError: the folder is missing, unfinished or not written by `etp prep`, or a shard is missing or truncated.
    """

    def __init__(self, folder: str | Path):
        """Opens `folder`."""
        self.folder = Path(folder)
        self.build: dict[str, Any] = _read_build(self.folder)
        self.name: str = self.build["name"]
        self.fs: int = self.build["fs"]
        self.leads: tuple[str, ...] = tuple(self.build["leads"])
        self.samples: int = self.build["samples"]
        self.label_vocabulary: tuple[str, ...] = tuple(self.build["label_vocabulary"])
        self.restored: bool = self.build["format"] == RESTORED_FORMAT
        """Whether the records also have `report_restored`."""
        self.marks: dict[str, list[str]] | None = self.build.get("marks")
        """Ids of the records that the archive marks, by the name of the mark; None if `etp prep` was an earlier one."""
        self.splits: dict[str, int] = {name: split["records"] for name, split in self.build["splits"].items()}
        for name in self.splits:
            inside(self.folder, name, str(self.folder / BUILD_FILE), subfolders=False)  # also names files in .index
            for shard in self.shard_files(name):
                self._check_size(shard)
        self._opened: dict[str, Split] = {}

    @property
    def filters(self) -> dict[str, Any]:
        """Filters of the signals, by the names of `Filters`; None for one that was not applied."""
        return self.build.get("preparation", {}).get("filters", {})

    @property
    def signal_bytes(self) -> int:
        """Size of one signal, in bytes."""
        return 2 * self.samples * len(self.leads)

    @property
    def fingerprint(self) -> str:
        """SHA-256 (hex) of what defines the data: schema, label vocabulary and the checksums of all shards."""
        fields = ("format", "name", "fs", "leads", "samples", "label_vocabulary", "splits")
        text = json.dumps({field: self.build[field] for field in fields}, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def shard_files(self, split: str) -> list[dict[str, Any]]:
        """Returns the shards of a split, in order, each with `file`, `records`, `bytes` and `sha256`."""
        return self.build["splits"][split]["shards"]

    def split(self, name: str) -> Split:
        """Opens a split; raises EtpError for an unknown name, with the list of splits."""
        if name not in self.splits:
            raise EtpError(f"{self.folder}: no split {name!r}; there are {', '.join(self.splits)}")
        if name not in self._opened:
            self._opened[name] = Split(self, name)
        return self._opened[name]

    def reports(self, split: str, field: str = "report") -> ReportTable:
        """Builds the report table of a split from the field `report`, `report_original` or `report_restored`.

        Raises:
          EtpError: the records have no restored reports.
        """
        self._check_has(field)
        return ReportTable(*self.split(split).index.distinct(field))

    def both_reports(self, split: str) -> ReportTable:
        """Builds the report table of a split from `report_restored`, with the place of each `report` as well.

        Raises:
          EtpError: the records have no restored reports.
        """
        self._check_has(RESTORED)
        return ReportTable(*self.split(split).index.distinct_of_both(RESTORED, "report"))

    def _check_has(self, field: str) -> None:
        if field != RESTORED or self.restored:
            return
        if "restored" in self.build.get("preparation", {}):
            raise EtpError(
                f"{self.folder}: an earlier version put restored reports in place of the plain ones; train on them "
                "with --data.restored-share 0"
            )
        raise EtpError(f"{self.folder}: the records have no {RESTORED}; `etp waveform restore` writes shards with it")

    def _check_size(self, shard: dict[str, Any]) -> None:
        path = inside(self.folder, shard["file"], str(self.folder / BUILD_FILE), subfolders=False)
        try:
            size = path.stat().st_size
        except FileNotFoundError:
            raise EtpError(f"{path}: missing, though {BUILD_FILE} lists it; copy or prepare the shards again") from None
        if size != shard["bytes"]:
            raise EtpError(
                f"{path}: holds {size} bytes, {BUILD_FILE} says {shard['bytes']}; copy or prepare the shards again"
            )


def _read_build(folder: Path) -> dict[str, Any]:
    path = folder / BUILD_FILE
    if not folder.is_dir():
        raise EtpError(f"{folder}: no such folder; `etp prep` makes shard folders")
    try:
        build = parse_json(read_file(path))
    except FileNotFoundError:
        if any(folder.glob("dataset_info.json")):
            raise EtpError(f"{folder}: not written by `etp prep` ({BUILD_FILE} is missing)") from None
        if (folder / PART_FILE).exists():
            raise EtpError(f"{folder}: only a part of a build; join all its parts with `etp shards merge`") from None
        raise EtpError(f"{folder}: unfinished or no shard folder; run the same `etp prep` command again") from None
    except ValueError as error:
        raise EtpError(f"{path}: damaged ({error}); prepare the shards again") from None
    found = build.get("format") if isinstance(build, dict) else None
    if found not in (FORMAT, RESTORED_FORMAT):
        raise EtpError(
            f"{path}: format {found!r}, this version reads {FORMAT} and {RESTORED_FORMAT}; prepare the shards again"
        )
    try:
        check_types(build, BUILD_TYPES)
        _check_numbers(build)
    except ValueError as error:
        raise EtpError(f"{path}: damaged ({error}); prepare the shards again") from None
    check_digest(folder, build, BUILD_FILE)
    return build


def _check_numbers(build: dict[str, Any]) -> None:
    """Raises ValueError for sizes that cannot be."""
    if not 0 < build["fs"] <= 10**6 or not 0 < build["samples"] <= 2**31 or not 0 < len(build["leads"]) <= 2**10:
        raise ValueError("sampling rate, number of samples or number of leads is out of range")
    for name, split in build["splits"].items():
        shards = split["shards"]
        if min((min(shard["records"], shard["bytes"]) for shard in shards), default=0) < 0:
            raise ValueError(f"a number in split {name!r} is negative")
        if sum(shard["records"] for shard in shards) != split["records"]:
            raise ValueError(f"the shards of split {name!r} do not hold {split['records']} records")


class Split:
    """The records of one split, by position 0 ... N-1 in file order. Signals are read from disk on access."""

    def __init__(self, shards: Shards, name: str):
        """Opens the files of split `name`; use `Shards.split`."""
        self.shards = shards
        self.name = name
        self._paths = [shards.folder / shard["file"] for shard in shards.shard_files(name)]
        self._files = [os.open(regular(path), os.O_RDONLY) for path in self._paths]
        weakref.finalize(self, _close, self._files)

    def __len__(self) -> int:
        """Number of records."""
        return self.shards.splits[self.name]

    def __getitem__(self, position: int) -> Record:
        """Reads the record at `position`; raises EtpError if its CRC differs or its bytes are not a record."""
        shard, start, length = self.index.places[range(len(self))[position]].tolist()
        payload = os.pread(self._files[shard], length, start)
        self._compare_crc(shard, start, length, payload)
        try:
            return decode_record(memoryview(payload), len(self.shards.leads))
        except (ValueError, LookupError) as error:
            raise EtpError(
                f"{self._paths[shard]}: no record at byte {start} ({error}); run `etp shards check`"
            ) from None

    def ecg(
        self,
        indices: ArrayLike,
        out: NDArray[np.int16] | None = None,
        threads: int = READERS,
        check_every: int = 1,
    ) -> NDArray[np.int16]:
        """Reads the signals at the given positions, in the given order.

        The bytes are copied directly from the page cache into the batch: nothing is parsed or kept in memory.
        The CRC of a record is computed from the bytes in the batch, so what was checked is what is used.

        Args:
          indices: [B] positions.
          out: [B, T, leads] int16 array to fill, C-contiguous. If None, an array is allocated, for a large batch in the
            memory of an earlier one to which nothing refers any more.
          threads: largest number of threads that read.
          check_every: the CRC of the first and of every n-th record is checked; 1: of all, 0: of none.

        Returns:
          [B, T, leads] int16 signals, 1 µV per unit.

        Raises:
          EtpError: a shard is truncated, or the CRC of a record differs.
        """
        positions = np.asarray(indices, np.int64)
        shape, size = (len(positions), self.shards.samples, len(self.shards.leads)), self.shards.signal_bytes
        if out is None:
            out = _BUFFERS.empty(shape) if len(positions) * size >= RECYCLED_BYTES else np.empty(shape, np.int16)
        if out.shape != shape or out.dtype != np.int16:
            raise ValueError(f"out is {out.dtype} {out.shape}, these records need int16 {shape}")
        if len(positions) == 0:
            return out
        buffer, (shards, offsets) = out.data.cast("B"), self.signal_places(positions)

        def fill(rows: range) -> None:
            start = rows.start * size
            for shard, offset in zip(shards[rows.start : rows.stop], offsets[rows.start : rows.stop], strict=True):
                if os.preadv(self._files[shard], (buffer[start : start + size],), offset) != size:
                    raise self._ends_early(shard)
                start += size
            for row in rows[-rows.start % check_every :: check_every] if check_every else ():
                self._check(int(positions[row]), out[row])

        rows_a_thread = max(-(-len(positions) // threads), THREAD_BYTES // size)
        shares = [range(row, min(row + rows_a_thread, len(shards))) for row in range(0, len(shards), rows_a_thread)]
        if len(shares) == 1:
            fill(shares[0])
        else:
            list(_readers().map(fill, shares))
        return out

    def _check(self, position: int, signal: NDArray[np.int16]) -> None:
        """Raises EtpError unless a record with this signal has the CRC that was written with the record."""
        shard, start, length = self.index.places[position].tolist()
        before = os.pread(self._files[shard], length - signal.nbytes, start)
        self._compare_crc(shard, start, length, before, signal)

    def _compare_crc(self, shard: int, start: int, length: int, *parts: bytes | NDArray[np.int16]) -> None:
        """Raises EtpError unless the parts of a record, at byte `start`, have the CRC that was written after them."""
        stored = os.pread(self._files[shard], 4, start + length)
        if len(stored) < 4:  # cut off after it was read
            raise self._ends_early(shard)
        if tfrecord.masked_crc(*parts).to_bytes(4, "little") != stored:
            raise EtpError(
                f"{self._paths[shard]}: damaged at the record at byte {start - tfrecord.FRAME_HEAD}: its CRC differs; "
                "copy or prepare the shards again"
            )

    def _ends_early(self, shard: int) -> EtpError:
        return EtpError(f"{self._paths[shard]}: ends early; copy or prepare the shards again")

    def signal_places(self, positions: NDArray[np.int64]) -> tuple[list[int], list[int]]:
        """Returns where the signals are: number of the shard, and byte of its file."""
        places = self.index.places[positions]
        offsets = places[:, 1] + places[:, 2] - self.shards.signal_bytes  # the signal ends the payload
        return places[:, 0].tolist(), offsets.tolist()

    @property
    def columns(self) -> SplitColumns:
        """All fields of the records except the signals; read once."""
        return self.index.columns

    @cached_property
    def index(self) -> Index:
        """The index of the split, from `.index/`; built first if the file is missing, damaged or of other shards.

        Raises:
          EtpError: the index has to be built, and a shard is damaged.
        """
        import pyarrow as pa

        kept = self.kept_index()
        if kept is None:
            shards = self.shards
            files, leads = shards.shard_files(self.name), len(shards.leads)
            built = scan(shards.folder, self.name, files, leads, shards.signal_bytes, shards.restored)
            if len(built) != len(self):
                where = f"{self.shards.folder}: {self.name}"
                raise EtpError(f"{where} holds {len(built)} records, {BUILD_FILE} says {len(self)}")
            sealed.save(built, index_path(self.shards.folder, self.name), self.index_source)
            kept = self.kept_index() or Index(built)  # the file takes no memory; what was built does
            del built
            pa.default_memory_pool().release_unused()
        return kept

    def kept_index(self) -> Index | None:
        """Returns the index that an earlier opening left in `.index/`; None if there is none that can be used."""
        path = index_path(self.shards.folder, self.name)
        schema = index_schema(len(self.shards.leads), self.shards.restored)
        table = sealed.load(path, self.index_source, schema)
        index = Index(table) if table is not None and len(table) == len(self) else None
        return index if index and self._holds(index.places) else None

    def _holds(self, places: NDArray[np.int64]) -> bool:
        """Whether all places of an index are inside the shard files."""
        shard, start, length = places.T
        size = np.array([entry["bytes"] for entry in self.shards.shard_files(self.name)], np.int64)
        if not len(places) or not np.all((shard >= 0) & (shard < len(size))):
            return not len(places)
        last = size[shard] - tfrecord.FRAME_TAIL
        fits = (length >= self.shards.signal_bytes) & (length <= last) & (start >= tfrecord.FRAME_HEAD)
        return bool(np.all(fits & (start <= last - length)))

    @property
    def index_source(self) -> str:
        """What the index derives from: the checksums of all shards, and the name of the split."""
        return f"{self.shards.fingerprint} {self.name}"


def index_path(folder: Path, split: str) -> Path:
    """Returns the file that keeps the index of a split."""
    return folder / INDEX_FOLDER / f"{split}.arrow"


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(READERS, thread_name_prefix="reader")
