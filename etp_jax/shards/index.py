"""The index of a split: the positions of its records in the shard files, and all their fields except the signals.

It is kept as a memory-mapped Arrow table in `.index/`. Opening a split of a million records therefore takes little time
and memory: a value becomes a Python object when it is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from typing import Any, TypeVar, cast, overload

import numpy as np
from numpy.typing import NDArray

from etp_jax.shards.record import RESTORED, TEXT_LISTS, Record, SplitColumns, text_fields

T = TypeVar("T")

INDEX_FOLDER = ".index"
BLOCK = 4096
"""Values that an iteration over a column turns into Python objects at a time."""


def shared_texts(restored: bool) -> tuple[str, ...]:
    """Returns the texts that records share: each distinct one is stored once, in sorted order."""
    return tuple(name for name in text_fields(restored) if name != "record_id")


def index_schema(leads: int, restored: bool = False) -> Any:
    """Returns the `pyarrow.Schema` of an index, whose records may have restored reports."""
    import pyarrow as pa

    distinct = pa.dictionary(pa.int32(), pa.large_string())
    return pa.schema(
        {
            "place": pa.list_(pa.int64(), 3),
            "record_id": pa.large_string(),
            **dict.fromkeys(shared_texts(restored), distinct),
            **dict.fromkeys(TEXT_LISTS, pa.list_(distinct)),
            "likelihoods": pa.list_(pa.float32()),
            "age": pa.float32(),
            "lead_mask": pa.list_(pa.uint8(), leads),
        }
    )


class Column(Sequence[T]):
    """One field of all records: a sequence whose values are read from a memory-mapped Arrow array when they are used.

    `arrow` is the `pyarrow.Array`, for work on many values without Python objects.
    """

    def __init__(self, arrow: Any, convert: Callable[[Any], T] = lambda value: value):
        """Wraps an array; `convert` turns what Arrow gives into a value."""
        self.arrow = arrow
        self._convert = convert

    def __len__(self) -> int:
        """Number of values."""
        return len(self.arrow)

    @overload
    def __getitem__(self, key: int) -> T: ...
    @overload
    def __getitem__(self, key: slice) -> list[T]: ...
    def __getitem__(self, key: int | slice) -> T | list[T]:
        """Returns one value, or the values of a slice as a list."""
        if isinstance(key, slice):
            return [self[place] for place in range(len(self))[key]]
        return self._convert(self.arrow[range(len(self))[key]].as_py())

    def __iter__(self) -> Iterator[T]:
        """Iterates over all values."""
        for start in range(0, len(self), BLOCK):
            yield from map(self._convert, self.arrow.slice(start, BLOCK).to_pylist())

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a sequence of the same values."""
        if not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Returns all values as a numpy array."""
        return np.array(list(self), dtype)

    __hash__ = None  # pyright: ignore[reportAssignmentType]


class Index:
    """Positions of the records of a split, and all their fields except the signals."""

    def __init__(self, table: Any):
        """Wraps a `pyarrow.Table` of schema `index_schema`, with a single chunk."""
        self.table = table

    def _arrow(self, name: str) -> Any:
        column = self.table.column(name)
        return column.chunk(0) if column.num_chunks else column.combine_chunks()

    @cached_property
    def places(self) -> NDArray[np.int64]:
        """[N, 3] position of each record: number of its shard, offset and length of its payload, in bytes."""
        return self._arrow("place").flatten().to_numpy().reshape(-1, 3)

    @cached_property
    def columns(self) -> SplitColumns:
        """All fields of the records except the signals."""
        names = text_fields(RESTORED in self.table.column_names)
        texts: dict[str, Any] = {name: Column(self._arrow(name)) for name in names}
        lists: dict[str, Any] = {name: Column(self._arrow(name), tuple) for name in (*TEXT_LISTS, "likelihoods")}
        mask = self._arrow("lead_mask")
        return SplitColumns(
            **texts,
            **lists,
            age=self._arrow("age").to_numpy(),
            lead_mask=mask.flatten().to_numpy().view(bool).reshape(-1, mask.type.list_size),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Iterates over all records, each as `index_row` gives it."""
        columns = {name: column for name, column in vars(self.columns).items() if column is not None}
        for place, values in zip(self.places, zip(*columns.values(), strict=True), strict=True):
            yield _comparable({"place": place, **dict(zip(columns, values, strict=True))})

    def distinct(self, field: str) -> tuple[Column[str], NDArray[np.int32]]:
        """Returns the distinct texts of a field of `shared_texts` sorted, and the number [N] of each record's."""
        texts = self._arrow(field)
        return Column(texts.dictionary), cast("NDArray[np.int32]", texts.indices.to_numpy())

    def distinct_of_both(self, *fields: str) -> tuple[Column[str], NDArray[np.int32], NDArray[np.int32]]:
        """Returns the distinct texts of two fields as `distinct` does, and the number [N] of each record's in each."""
        import pyarrow as pa

        texts = sorted_dictionary(pa.chunked_array([self._arrow(field) for field in fields]))
        first_N, second_N = np.split(texts.indices.to_numpy(), 2)
        return Column(texts.dictionary), first_N, second_N


def sorted_dictionary(column: Any) -> Any:
    """Turns chunks with dictionaries of their own into one array with a sorted dictionary."""
    import pyarrow as pa
    import pyarrow.compute as pc

    array = column.unify_dictionaries().combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    order = pc.sort_indices(array.dictionary)  # pyright: ignore[reportAttributeAccessIssue] - made at run time
    number = np.empty(len(order), np.int32)
    number[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(number[array.indices.to_numpy()])
    return pa.DictionaryArray.from_arrays(indices, array.dictionary.take(order))


def index_row(record: Record, place: tuple[int, int, int]) -> dict[str, Any]:
    """Returns what the index must hold of a record at a position, in a form that can be compared.

    Args:
      record: the record.
      place: number of its shard, offset and length of its payload.
    """
    fields = {name: getattr(record, name) for name in SplitColumns.__dataclass_fields__}
    present = {name: value for name, value in fields.items() if value is not None}
    return _comparable({"place": np.array(place), **present})


def _comparable(row: dict[str, Any]) -> dict[str, Any]:
    """Turns numbers into bytes, because NaN equals nothing."""
    kinds = {"place": np.int64, "likelihoods": np.float32, "age": np.float32, "lead_mask": np.bool_}
    return {**row, **{name: np.asarray(row[name], kind).tobytes() for name, kind in kinds.items()}}
