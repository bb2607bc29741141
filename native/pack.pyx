# cython: language_level=3, auto_pickle=False, autotestdict=False
"""LZ4 for values, where it helps.

Marked bytes: `0 | value` as it is, or `1 | u32 size | LZ4 block`. Below 64 bytes LZ4 hardly ever
wins; below 8 % gain the reader's time is worth more than the bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from buffer cimport load32, store32
from lz4 cimport LZ4_compress_default, LZ4_decompress_safe

from edgesync.errors import RecordError

cdef enum:
    RAW = 0
    LZ4 = 1
    LZ4_HEAD_BYTES = 5
    SIZE_MIN = 64
    SIZE_MAX = 1 << 30
    # An LZ4 sequence of one byte stands for at most 255: more is a lie about the size.
    LZ4_RATIO_MAX = 255


def pack(value: bytes) -> bytes:
    """Return `value` marked raw, or compressed when it is >= 64 bytes and >= 8 % smaller."""
    cdef const char *source = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = len(value)
    cdef Py_ssize_t room
    cdef char *target
    cdef int packed = 0
    if size > SIZE_MAX:
        raise RecordError(f"value of {size} bytes; at most {SIZE_MAX}")
    if size < SIZE_MIN:
        return b"\0" + value
    # LZ4 stops with 0 when the result would not fit: the room is the test for "8 % smaller".
    room = size - size * 2 // 25
    target = <char *>malloc(room)
    if target == NULL:
        raise MemoryError
    try:
        with nogil:
            packed = LZ4_compress_default(
                source, target + LZ4_HEAD_BYTES, <int>size, <int>(room - LZ4_HEAD_BYTES))
        if packed <= 0:
            return b"\0" + value
        target[0] = LZ4
        store32(target + 1, <uint32_t>size)
        return PyBytes_FromStringAndSize(target, packed + LZ4_HEAD_BYTES)
    finally:
        free(target)


def unpack(data: bytes, *, limit_bytes: int = 4 << 20) -> bytes:
    """Undo `pack`; raises RecordError on bad input or when the result would pass the limit."""
    cdef const char *source = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = len(data)
    cdef uint64_t claimed
    cdef bytes value
    cdef char *target
    cdef int got
    if size < 1:
        raise RecordError("packed value is empty")
    if source[0] == RAW:
        if size - 1 > limit_bytes:
            raise RecordError(f"value of {size - 1} bytes passes the limit of {limit_bytes}")
        return data[1:]
    if source[0] != LZ4 or size < LZ4_HEAD_BYTES + 1:
        raise RecordError("packed value has an unknown mark or is cut short")
    claimed = load32(source + 1)
    if claimed > SIZE_MAX or <Py_ssize_t>claimed > limit_bytes:
        raise RecordError(f"value of {claimed} bytes passes the limit of {limit_bytes}")
    if claimed > <uint64_t>size * LZ4_RATIO_MAX:
        raise RecordError(f"{size} bytes cannot unpack to {claimed}")
    value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>claimed)
    target = PyBytes_AS_STRING(value)
    with nogil:
        got = LZ4_decompress_safe(
            source + LZ4_HEAD_BYTES, target, <int>(size - LZ4_HEAD_BYTES), <int>claimed)
    if got < 0 or <uint64_t>got != claimed:
        raise RecordError("packed value does not decompress to the size it names")
    return value
