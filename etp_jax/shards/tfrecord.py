"""TFRecord framing and `tf.train.Example` messages, without TensorFlow.

A TFRecord file is a sequence of frames: length (uint64), masked CRC-32C of the length, payload, masked CRC-32C of the
payload; all little-endian. The payload is a protobuf message. Only the subset that `tf.train.Example` uses is
implemented, in one canonical form: fields in the order given, numbers packed.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from typing import BinaryIO

import google_crc32c
import numpy as np
from numpy.typing import NDArray

from etp_jax.errors import EtpError

FRAME_HEAD = 12
"""Number of bytes of a frame before its payload."""
FRAME_TAIL = 4
"""Number of bytes of a frame after its payload."""

Value = Sequence[bytes] | NDArray[np.float32] | NDArray[np.int64]
"""Value of a feature of an Example: any number, including 0, of byte strings, float32 numbers or int64 numbers."""

_BYTES_LIST, _FLOAT_LIST, _INT64_LIST = 1, 2, 3  # field numbers of tf.train.Feature


def masked_crc(*parts: bytes | NDArray[np.int16]) -> int:
    """Computes the CRC-32C of the joined parts, masked as TFRecord requires: a CRC of data that holds CRCs is weak."""
    crc = 0
    for part in parts:
        crc = google_crc32c.extend(crc, part)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def frame(payload: bytes) -> bytes:
    """Encodes `payload` as one TFRecord frame."""
    length = struct.pack("<Q", len(payload))
    return b"".join((length, struct.pack("<I", masked_crc(length)), payload, struct.pack("<I", masked_crc(payload))))


def read_frames(file: BinaryIO, where: str) -> Iterator[tuple[int, bytes]]:
    """Iterates over the frames of a file and checks every CRC.

    Args:
      file: the file, at its beginning.
      where: name of the file, for error messages.

    Yields:
      Offset of the payload in the file, and the payload.

    Raises:
      EtpError: a frame is truncated or its CRC differs; the message names the file, frame number and offset.
    """
    size = file.seek(0, os.SEEK_END)
    start, number = file.seek(0), 0

    def damaged(what: str) -> EtpError:
        return EtpError(f"{where}: damaged at record {number} (byte {start}): {what}; copy or prepare it again")

    while start < size:
        payload_start = start + FRAME_HEAD
        head = file.read(FRAME_HEAD)
        if len(head) < FRAME_HEAD:
            raise damaged("the file ends inside a frame")
        length, crc = struct.unpack("<QI", head)
        if masked_crc(head[:8]) != crc:
            raise damaged("the CRC of the length differs")
        end = payload_start + length + FRAME_TAIL
        payload, tail = (file.read(length), file.read(FRAME_TAIL)) if end <= size else (b"", b"")
        if len(tail) < FRAME_TAIL:
            raise damaged("the file ends inside a frame")
        if masked_crc(payload) != struct.unpack("<I", tail)[0]:
            raise damaged("the CRC of the payload differs")
        yield payload_start, payload
        start, number = end, number + 1


def encode_example(features: Mapping[str, Value]) -> bytes:
    """Encodes a `tf.train.Example` with the features in the order given."""
    entries = (_field(1, _field(1, name.encode()) + _field(2, _feature(value))) for name, value in features.items())
    return _field(1, b"".join(entries))


def decode_example(payload: memoryview) -> dict[str, memoryview]:
    """Splits a `tf.train.Example`, as written by `encode_example`, into its features, each still encoded.

    The payload may end inside its last feature, which is then returned incomplete. So a signal written last need not be
    read.

    Raises:
      ValueError: the payload is not such a message.
    """
    start, _ = span(payload, 0, field=1)
    features = {}
    while start < len(payload):
        entry_start, entry_end = span(payload, start, field=1)
        name_start, name_end = span(payload, entry_start, field=1)
        feature_start, _ = span(payload, name_end, field=2)
        features[bytes(payload[name_start:name_end]).decode()] = payload[feature_start:entry_end]
        start = entry_end
    return features


def bytes_list(feature: memoryview) -> list[bytes]:
    """Decodes the byte strings of a feature; raises ValueError if it holds other values."""
    start, end = span(feature, 0, field=_BYTES_LIST)
    values = []
    while start < end:
        value_start, start = span(feature, start, field=1)
        values.append(bytes(feature[value_start:start]))
    return values


def float_list(feature: memoryview) -> NDArray[np.float32]:
    """Decodes the numbers of a float feature; raises ValueError if it holds other values."""
    return np.frombuffer(_packed(feature, _FLOAT_LIST), "<f4")


def int64_list(feature: memoryview) -> NDArray[np.int64]:
    """Decodes the numbers of an integer feature; raises ValueError if it holds other values."""
    packed, start, values = _packed(feature, _INT64_LIST), 0, []
    while start < len(packed):
        value, start = _read_varint(packed, start)
        values.append(value)
    return np.array(values, np.uint64).astype(np.int64)


def span(data: memoryview, start: int, field: int) -> tuple[int, int]:
    """Returns start and end of the body of the length-delimited field at `start`; the end may be beyond the data."""
    if start >= len(data) or data[start] != field << 3 | 2:
        raise ValueError(f"no field {field} at byte {start}")
    length, body = _read_varint(data, start + 1)
    return body, body + length


def _feature(value: Value) -> bytes:
    if not isinstance(value, np.ndarray):
        return _field(_BYTES_LIST, b"".join(_field(1, item) for item in value))
    if value.dtype == np.float32:
        return _field(_FLOAT_LIST, _field(1, value.astype("<f4").tobytes()) if value.size else b"")
    if value.dtype == np.int64:
        return _field(_INT64_LIST, _field(1, b"".join(_varint(int(item)) for item in value)) if value.size else b"")
    raise TypeError(f"an Example holds float32 and int64, not {value.dtype}")


def _packed(feature: memoryview, kind: int) -> memoryview:
    start, end = span(feature, 0, field=kind)
    if start == end:
        return feature[start:end]
    start, end = span(feature, start, field=1)
    return feature[start:end]


def _field(number: int, body: bytes) -> bytes:
    """Encodes a length-delimited protobuf field."""
    return bytes((number << 3 | 2,)) + _varint(len(body)) + body


def _varint(value: int) -> bytes:
    value &= 2**64 - 1  # negative numbers are encoded as two's complement
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _read_varint(data: memoryview, start: int) -> tuple[int, int]:
    """Decodes the number at `start`; returns it and the position after it."""
    value, shift = 0, 0
    for position in range(start, min(start + 10, len(data))):
        value |= (data[position] & 0x7F) << shift
        if data[position] < 0x80:
            return value, position + 1
        shift += 7
    raise ValueError(f"no number at byte {start}")
