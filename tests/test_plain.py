"""Text from files that is shown."""

from __future__ import annotations

import io
import struct
import tracemalloc
import zipfile
from pathlib import Path

import numpy as np
import pytest

from etp_jax.npz import read_npz
from etp_jax.plain import escape, plain, plain_line


def test_control_and_bidirectional_characters_become_codes() -> None:
    assert plain("a\x1b[2J\u202eb\u2066\x9b\x00\ud800") == r"a\u001b[2J\u202eb\u2066\u009b\u0000\ud800"
    assert plain("Größe 3 µV – ♥\tand\nmore") == "Größe 3 µV – ♥\tand\nmore"
    assert plain_line("one\r\ntwo") == "one two"
    assert escape("<b>\u202e") == r"&lt;b&gt;\u202e"


def test_arrays_are_read_as_numpy_reads_them(tmp_path: Path) -> None:
    arrays = {
        "a": np.arange(12.0).reshape(3, 4),
        "b": np.asfortranarray(np.eye(3, 2)),
        "c": np.array("text"),
        "d": np.zeros(0),
    }
    for save in (np.savez, np.savez_compressed):
        save(tmp_path / "x.npz", **arrays)  # pyright: ignore[reportArgumentType]
        found = read_npz(tmp_path / "x.npz")
        assert found.keys() == arrays.keys()
        for name, array in arrays.items():
            np.testing.assert_array_equal(found[name], array)
            assert found[name].dtype == array.dtype


def test_an_array_that_claims_48_terabytes(tmp_path: Path) -> None:
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (500000, 12000000), }".ljust(117) + b"\n"
    with zipfile.ZipFile(tmp_path / "x.npz", "w") as archive:
        archive.writestr("a.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header)
    with pytest.raises(ValueError, match="another size"):
        read_npz(tmp_path / "x.npz")


def test_a_small_file_that_unpacks_to_gigabytes(tmp_path: Path) -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", b"x")
    content = bytearray(stream.getvalue())
    place = content.index(b"PK\x01\x02") + 24  # the size in the directory
    content[place : place + 4] = struct.pack("<I", 2**31)
    (tmp_path / "x.npz").write_bytes(content)
    tracemalloc.start()
    with pytest.raises(ValueError, match="GiB of memory"):
        read_npz(tmp_path / "x.npz")
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
