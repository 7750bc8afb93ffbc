"""Decoding of text files that other programs have written. Does not import jax."""

from __future__ import annotations

import codecs
import gzip
from pathlib import Path

from etp_jax.errors import EtpError

MAX_BYTES = 2**30
"""Largest text that is read, in bytes; a 12-lead ECG of a day at 250 Hz has about as many."""

EXPANSION = 20
"""How many times the size of a compressed file its text may have; gzip makes numbers about four times smaller."""


def encoding_of(start: bytes) -> str | None:
    """Returns the encoding that the first bytes of a file show (UTF-16, or UTF-8 with a BOM), or None."""
    if start.startswith(codecs.BOM_UTF8):
        return "utf-8-sig"
    if start.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    if len(start) > 3 and 0 in start[:4]:  # UTF-16 without a BOM: every other byte of Latin text is 0
        return {(False, True): "utf-16-le", (True, False): "utf-16-be"}.get((start[0] == 0, start[1] == 0))
    return None


def decode(data: bytes) -> tuple[str, str]:
    """Decodes UTF-8, UTF-16 or, if it is neither, Windows-1252; returns text and encoding (`utf-8`, ...).

    Raises:
      UnicodeDecodeError: the bytes are no text in any of these encodings.
    """
    if encoding := encoding_of(data[:4]):
        return data.decode(encoding), encoding.removesuffix("-sig")
    try:
        return data.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return data.decode("cp1252"), "cp1252"


def read_bytes(path: Path) -> bytes:
    """Reads a file, decompressed if its suffix is `.gz`; raises EtpError if it is too large to be a text."""
    packed = path.suffix.lower() == ".gz"
    size = path.stat().st_size
    limit = min(MAX_BYTES, max(2**26, EXPANSION * size)) if packed else MAX_BYTES
    if packed:
        with gzip.open(path) as file:
            data = file.read(limit + 1)
        size = len(data)
    if size > limit:
        raise EtpError(f"size: {path.name} holds more than {limit / 2**30:.3g} GiB of text")
    return data if packed else path.read_bytes()
