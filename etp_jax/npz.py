"""Reading of numpy's `.npz` files whose sizes are checked before memory is taken. Does not import jax."""

from __future__ import annotations

import math
import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

LEAST = 2**30
"""Bytes that the arrays of any file may take in memory; those of a larger file may take twice its size."""
DAMAGE = (
    *(ValueError, EOFError, OSError, LookupError, TypeError),
    *(RuntimeError, zipfile.BadZipFile, zlib.error),  # RuntimeError: the file claims to be encrypted
    *(SyntaxError, tokenize.TokenError),  # of numpy's reader of headers
)
"""What a damaged file may raise."""


def read_npz(path: Path) -> dict[str, NDArray[Any]]:
    """Reads all arrays of a file, compressed or not.

    Raises:
      ValueError: the file is damaged, holds objects, or takes more memory than its size explains.
      FileNotFoundError: there is no file.
    """
    found: dict[str, NDArray[Any]] = {}
    try:
        limit = max(LEAST, 2 * path.stat().st_size)
        if path.exists() and not path.is_file():
            raise ValueError("it is no file")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            if sum(info.file_size for info in members) > limit:
                raise ValueError(f"its arrays take more than {limit / 2**30:.3g} GiB of memory")
            for info in members:
                with archive.open(info) as member:
                    shape, by_columns, dtype = read_header(member, info.file_size, info.filename)
                    array = np.frombuffer(bytearray(member.read()), dtype)
                found[info.filename.removesuffix(".npy")] = array.reshape(shape, order="F" if by_columns else "C")
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise ValueError(str(error) or type(error).__name__) from None
    return found


def read_header(file: Any, size: int, name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Reads the header of an array in numpy's format, and compares it with the size of its file.

    Args:
      file: the file, opened at its start; afterwards it is at the first number.
      size: number of bytes of the file.
      name: name of the file, for messages.

    Returns:
      Shape, whether the numbers are ordered by columns, and data type.

    Raises:
      ValueError: the file holds no array, or the array has another size than the file.
    """
    version = np.lib.format.read_magic(file)
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    if version not in readers:
        raise ValueError(f"{name} has version {version} of numpy's format")
    shape, by_columns, dtype = readers[version](file)
    if dtype.hasobject:
        raise ValueError(f"{name} holds objects")
    if min(shape, default=0) < 0 or math.prod(shape) * dtype.itemsize != size - file.tell():
        raise ValueError(f"{name} has another size than it says")
    return shape, by_columns, dtype
