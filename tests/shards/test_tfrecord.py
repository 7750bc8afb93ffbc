from __future__ import annotations

import struct
from io import BytesIO

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from etp_jax.errors import EtpError
from etp_jax.shards import tfrecord

values = st.one_of(
    st.lists(st.binary(max_size=300), max_size=5),
    hnp.arrays(np.float32, st.integers(0, 5)),
    hnp.arrays(np.int64, st.integers(0, 5)),
)


def decode(feature: memoryview, like: object) -> object:
    if not isinstance(like, np.ndarray):
        return tfrecord.bytes_list(feature)
    return tfrecord.float_list(feature) if like.dtype == np.float32 else tfrecord.int64_list(feature)


@settings(deadline=None, max_examples=50)
@given(st.dictionaries(st.text(max_size=10), values, max_size=6))
def test_example_round_trip(features):
    decoded = tfrecord.decode_example(memoryview(tfrecord.encode_example(features)))
    assert list(decoded) == list(features)
    for name, value in features.items():
        np.testing.assert_array_equal(decode(decoded[name], value), value, strict=isinstance(value, np.ndarray))


@settings(deadline=None, max_examples=50)
@given(st.lists(st.binary(max_size=100), max_size=5))
def test_frames_round_trip(payloads):
    data = b"".join(map(tfrecord.frame, payloads))
    assert [bytes(payload) for _, payload in tfrecord.read_frames(BytesIO(data), "f")] == payloads
    assert all(data[start : start + len(p)] == p for start, p in tfrecord.read_frames(BytesIO(data), "f"))


def test_masked_crc_of_a_known_value():
    # CRC-32C of "123456789" is 0xE3069283 by the polynomial's definition; rotated right by 15 and offset.
    crc = 0xE3069283
    expected = ((crc >> 15 | crc << 17 & 0xFFFFFFFF) + 0xA282EAD8) % 2**32
    assert tfrecord.masked_crc(b"123456789") == expected


@settings(deadline=None, max_examples=50)
@given(st.data())
def test_every_flipped_bit_and_every_cut_is_noticed(data):
    whole = bytearray(tfrecord.frame(b"some payload") + tfrecord.frame(b"another"))
    bit = data.draw(st.integers(0, 8 * len(whole) - 1))
    cut = data.draw(st.integers(1, len(whole) - 1).filter(lambda n: n != len(tfrecord.frame(b"some payload"))))
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    for broken in (flipped, whole[:cut]):
        with pytest.raises(EtpError, match=r"^f: damaged at record [01] \(byte \d+\): "):
            list(tfrecord.read_frames(BytesIO(broken), "f"))


@pytest.mark.parametrize("payload", [b"", b"\x0a", b"junk", b"\x12\x00", b"\x0a\x05\x0b", b"\x0a" + b"\xff" * 11])
def test_other_messages_are_refused(payload):
    with pytest.raises(ValueError, match="at byte"):
        tfrecord.decode_example(memoryview(payload))


def test_frame_layout():
    frame = tfrecord.frame(b"abc")
    assert struct.unpack("<Q", frame[:8]) == (3,)
    assert frame[tfrecord.FRAME_HEAD : -tfrecord.FRAME_TAIL] == b"abc"
