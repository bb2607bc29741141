import random
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import pack
from edgesync.errors import RecordError


@given(st.binary(max_size=300) | st.binary(max_size=8).map(lambda part: part * 100))
def test_round_trip(value: bytes) -> None:
    assert pack.unpack(pack.pack(value)) == value


def test_compresses_only_where_it_helps() -> None:
    assert pack.pack(b"a" * 63) == b"\0" + b"a" * 63
    noise = random.Random(1).randbytes(500)
    assert pack.pack(noise) == b"\0" + noise
    packed = pack.pack(b"a" * 5000)
    assert packed[0] == 1
    assert len(packed) <= 5000 * 0.92


def test_the_limit_holds_before_memory_is_taken() -> None:
    packed = pack.pack(b"a" * 5000)
    with pytest.raises(RecordError, match="limit of 4999"):
        pack.unpack(packed, limit_bytes=4999)
    with pytest.raises(RecordError, match="limit"):
        pack.unpack(b"\0" + b"a" * 10, limit_bytes=9)
    bomb = b"\1" + struct.pack("<I", 1 << 29) + b"\0" * 100
    with pytest.raises(RecordError, match="cannot unpack"):
        pack.unpack(bomb, limit_bytes=1 << 30)


@pytest.mark.parametrize("data", [b"", b"\2abc", b"\1", b"\1\0\0\0\0", b"\1\x05\0\0\0\xff"])
def test_bad_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(RecordError):
        pack.unpack(data)


def test_a_value_shorter_than_it_names_is_refused() -> None:
    packed = bytearray(pack.pack(b"a" * 5000))
    for size in (5001, 5100, 4999, 64):
        struct.pack_into("<I", packed, 1, size)
        with pytest.raises(RecordError, match="does not decompress to the size it names"):
            pack.unpack(bytes(packed))


@given(st.binary(max_size=200))
def test_what_unpacks_packs_to_what_unpacks_to_it(raw: bytes) -> None:
    try:
        value = pack.unpack(raw)
    except RecordError:
        return
    assert pack.unpack(pack.pack(value)) == value
    assert raw[:1] == b"\1" or raw[1:] == value
