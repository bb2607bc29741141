# cython: language_level=3, auto_pickle=False, autotestdict=False
"""LZ4 for values, where it helps.

Marked bytes: `0 | value` as it is, or `1 | u32 size | LZ4 block`. Below 64 bytes LZ4 hardly ever
wins; below 8 % gain the reader's time is worth more than the bytes.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc

from buffer cimport load32, store32
from lz4 cimport LZ4_compress_default, LZ4_decompress_safe

from edgesync.errors import RecordError

cdef enum:
    RAW = 0
    LZ4 = 1
    SIZE_BYTES = 4
    SIZE_MIN = 64
    SHORT = 4096  # below, to let others run takes longer
    SIZE_MAX = 1 << 30
    # An LZ4 sequence of one byte stands for at most 255: more is a lie about the size.
    LZ4_RATIO_MAX = 255


def pack(value: bytes) -> bytes:
    """Return `value` marked raw, or compressed when it is >= 64 bytes and >= 8 % smaller."""
    cdef bytes squeezed = squeeze(value)
    return b"\0" + value if squeezed is None else b"\1" + squeezed


cdef bytes squeeze(bytes value):
    """Return `u32 size | LZ4 block`; None where that is not worth it."""
    cdef const char *source = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    cdef Py_ssize_t room
    cdef char *target
    cdef int packed = 0
    if size > SIZE_MAX:
        raise RecordError(f"value of {size} bytes; at most {SIZE_MAX}")
    if size < SIZE_MIN:
        return None
    # LZ4 stops with 0 when the result would not fit: the room is the test for "8 % smaller".
    room = size - size * 2 // 25 - 1
    target = <char *>malloc(room)
    if target == NULL:
        raise MemoryError
    try:
        if size < SHORT:
            packed = LZ4_compress_default(
                source, target + SIZE_BYTES, <int>size, <int>(room - SIZE_BYTES))
        else:
            with nogil:
                packed = LZ4_compress_default(
                    source, target + SIZE_BYTES, <int>size, <int>(room - SIZE_BYTES))
        if packed <= 0:
            return None
        store32(target, <uint32_t>size)
        return PyBytes_FromStringAndSize(target, packed + SIZE_BYTES)
    finally:
        free(target)


def unpack(data: bytes, *, limit_bytes: int = 4 << 20) -> bytes:
    """Undo `pack`; raises RecordError on bad input or when the result would pass the limit."""
    cdef const char *source = PyBytes_AS_STRING(data)
    cdef Py_ssize_t size = len(data)
    if size < 1:
        raise RecordError("packed value is empty")
    if source[0] == RAW:
        if size - 1 > limit_bytes:
            raise RecordError(f"value of {size - 1} bytes passes the limit of {limit_bytes}")
        return data[1:]
    if source[0] != LZ4:
        raise RecordError("packed value has an unknown mark or is cut short")
    return expand(source + 1, size - 1, limit_bytes)


cdef bytes expand(const char *source, Py_ssize_t size, Py_ssize_t limit):
    """Undo `squeeze`; raises as `unpack` does."""
    cdef uint64_t claimed
    cdef bytes value
    cdef char *target
    cdef int got
    if size <= SIZE_BYTES:
        raise RecordError("packed value has an unknown mark or is cut short")
    claimed = load32(source)
    if claimed > SIZE_MAX or <Py_ssize_t>claimed > limit:
        raise RecordError(f"value of {claimed} bytes passes the limit of {limit}")
    if claimed > <uint64_t>(size + 1) * LZ4_RATIO_MAX:
        raise RecordError(f"{size + 1} bytes cannot unpack to {claimed}")
    value = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>claimed)
    target = PyBytes_AS_STRING(value)
    if claimed < SHORT:
        got = LZ4_decompress_safe(
            source + SIZE_BYTES, target, <int>(size - SIZE_BYTES), <int>claimed)
    else:
        with nogil:
            got = LZ4_decompress_safe(
                source + SIZE_BYTES, target, <int>(size - SIZE_BYTES), <int>claimed)
    if got < 0 or <uint64_t>got != claimed:
        raise RecordError("packed value does not decompress to the size it names")
    return value
