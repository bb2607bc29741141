"""The part of a batch that stays rows: bare rows one after the other, under LZ4 when that helps.

`raw size varint | packed size varint, 0 = stored as it is | bytes`
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from buffer cimport (
    DAMAGED, NO_MEMORY, OK, TOO_LARGE, Buf, Cur, buf_free, buf_need, left, load16, load32,
    put_bytes, put_varint, store16, store32, take_varint,
)
from lz4 cimport LZ4_compress_default, LZ4_compressBound, LZ4_decompress_safe
from rows cimport BARE_BYTES, Row, next_row

cdef enum:
    # An LZ4 sequence of one byte stands for at most 255: more is a lie about the size.
    LZ4_RATIO = 255

cdef inline int put_packed(Buf *out, const uint8_t *data, size_t size) noexcept nogil:
    """Write `data` with its sizes, compressed if that is smaller."""
    cdef int bound, got
    if put_varint(out, size) != OK:
        return NO_MEMORY
    bound = LZ4_compressBound(<int>size)
    cdef Buf packed
    memset(&packed, 0, sizeof(Buf))
    if buf_need(&packed, bound + 1) != OK:
        return NO_MEMORY
    got = LZ4_compress_default(<const char *>data, <char *>packed.data, <int>size, bound)
    cdef int status
    if got <= 0 or <size_t>got >= size:
        status = put_varint(out, 0) or put_bytes(out, data, size)
    else:
        status = put_varint(out, got) or put_bytes(out, packed.data, got)
    buf_free(&packed)
    return status

cdef inline int take_packed(Cur *c, Buf *raw, uint64_t limit) noexcept nogil:
    """Undo `put_packed` into the empty buffer `raw`, at most `limit` bytes."""
    cdef uint64_t size, packed
    cdef int got
    if not take_varint(c, &size) or not take_varint(c, &packed):
        return DAMAGED
    if size > limit or size > 0x7E000000:
        return TOO_LARGE
    if packed == 0:
        if size > left(c):
            return DAMAGED
        if put_bytes(raw, c.at, size) != OK:
            return NO_MEMORY
        c.at += size
        return OK
    if packed > left(c) or size > packed * LZ4_RATIO:
        return DAMAGED
    if buf_need(raw, size + 1) != OK:
        return NO_MEMORY
    got = LZ4_decompress_safe(<const char *>c.at, <char *>raw.data, <int>packed, <int>size)
    if got < 0 or <uint64_t>got != size:
        return DAMAGED
    raw.size = size
    c.at += packed
    return OK

cdef inline int put_bare(
    Buf *out, const uint8_t *at, const uint8_t *end, const uint32_t *order,
) noexcept nogil:
    """Write the rows whose order is 0 (`order` NULL: all)."""
    cdef Buf bare
    cdef Row row
    cdef uint8_t *to
    cdef uint32_t i = 0
    cdef int status = OK
    memset(&bare, 0, sizeof(Buf))
    if order == NULL and buf_need(&bare, end - at) != OK:
        return NO_MEMORY
    while at < end:
        next_row(&at, end, &row)
        i += 1
        if order != NULL and order[i - 1]:
            continue
        if buf_need(&bare, BARE_BYTES + row.body_size) != OK:
            buf_free(&bare)
            return NO_MEMORY
        to = bare.data + bare.size
        store32(to, row.body_size)
        memcpy(to + 4, row.head + 4, 4)  # kind, flags, reserved
        memcpy(to + BARE_BYTES, row.body, row.body_size)
        bare.size += BARE_BYTES + row.body_size
    status = put_packed(out, bare.data, bare.size)
    buf_free(&bare)
    return status

cdef inline bint next_bare(Cur *c, Row *row) noexcept nogil:
    """Take a bare row; `row.head` is such that head[4..7] are kind, flags and reserved."""
    cdef uint32_t size
    if left(c) < BARE_BYTES:
        return False
    size = load32(c.at)
    if size > left(c) - BARE_BYTES:
        return False
    row.head = c.at
    row.body = c.at + BARE_BYTES
    row.body_size = size
    c.at += BARE_BYTES + size
    return True
