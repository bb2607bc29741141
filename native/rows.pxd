"""Walking the rows of a batch: `u32 length | 32-byte header | body`, record after record.

Header: crc32c u32, kind u8, flags u8, reserved u16, chain u64, origin u64, number u64. A *bare* row
is what cannot be computed again: `u32 body length | kind u8 | flags u8 | reserved u16 | body`.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffer cimport load16, load32, load64, store32, store64
from crc cimport crc32c

cdef enum:
    HEADER_BYTES = 32
    ROW_BYTES = 36  # length field and header
    BARE_BYTES = 8
    READINGS_HEAD_BYTES = 16
    KIND_EVENT = 1
    KIND_READINGS = 2
    FLAG_PACKED = 1
    READINGS_MAX = 1024
    BODY_BYTES_MAX = 65536
    VT_F64 = 0
    VT_I64 = 1
    VT_BOOL = 2
    VT_TEXT = 3

cdef struct Row:
    const uint8_t *head  # the 32-byte header
    const uint8_t *body
    uint32_t body_size

cdef inline bint next_row(const uint8_t **at, const uint8_t *end, Row *row) noexcept nogil:
    """Take the row at `at`; False when it does not fit before `end`."""
    cdef uint32_t size
    if end - at[0] < ROW_BYTES:
        return False
    size = load32(at[0])
    if size < HEADER_BYTES or size > <size_t>(end - at[0]) - 4:
        return False
    row.head = at[0] + 4
    row.body = row.head + HEADER_BYTES
    row.body_size = size - HEADER_BYTES
    at[0] += 4 + size
    return True

cdef inline uint64_t row_chain(const Row *row) noexcept nogil:
    return load64(row.head + 8)

cdef inline uint64_t row_origin(const Row *row) noexcept nogil:
    return load64(row.head + 16)

cdef inline uint64_t row_number(const Row *row) noexcept nogil:
    return load64(row.head + 24)

cdef inline void seal_row(uint8_t *row, uint64_t seq, uint8_t lane) noexcept nogil:
    """Fill in the checksum of the row that begins (with its length) at `row` (I14)."""
    cdef uint8_t key[9]
    store64(key, seq)
    key[8] = lane
    store32(row + 4, crc32c(crc32c(0, key, 9), row + 8, load32(row) - 4))

cdef inline int readings_count(const uint8_t *body, uint32_t size) noexcept nogil:
    """Number of readings in a well-formed READINGS body, else -1."""
    cdef uint8_t vtype
    cdef uint32_t n, i, _i, length
    cdef size_t at = READINGS_HEAD_BYTES
    if size < READINGS_HEAD_BYTES or size > BODY_BYTES_MAX:
        return -1
    vtype = body[8]
    n = load16(body + 10)
    if body[9] or load32(body + 12) or vtype > VT_TEXT or n == 0 or n > READINGS_MAX:
        return -1
    if vtype != VT_TEXT:
        if size != READINGS_HEAD_BYTES + 16 * n:
            return -1
        if vtype == VT_BOOL:
            for i in range(n):
                if load64(body + 16 * i + 24) > 1:
                    return -1
        return n
    for _i in range(n):
        if size - at < 12:
            return -1
        length = load32(body + at + 8)
        if length > size - at - 12:
            return -1
        at += 12 + length
    return n if at == size else -1
