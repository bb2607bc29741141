"""A growing output buffer and a bounded input cursor, for every encoder and decoder here.

Everything is little-endian. A cursor never leaves its bytes: each `take_*` returns False instead.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

cdef extern from *:
    """
    #if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the stored formats are little-endian and this code does not swap bytes"
    #endif
    #if __SIZEOF_POINTER__ != 8
    #error "edgesync needs a 64-bit machine: its maps and LMDB's file format are those of one"
    #endif
    """

# What went wrong, for functions that run without the GIL; `raise_status` in each module names it.
cdef enum Status:
    OK = 0
    DAMAGED = -1
    NO_MEMORY = -2
    TOO_LARGE = -3

cdef struct Buf:
    uint8_t *data
    size_t size
    size_t room

cdef struct Cur:
    const uint8_t *at
    const uint8_t *end

cdef inline uint16_t load16(const void *p) noexcept nogil:
    cdef uint16_t v
    memcpy(&v, p, 2)
    return v

cdef inline uint32_t load32(const void *p) noexcept nogil:
    cdef uint32_t v
    memcpy(&v, p, 4)
    return v

cdef inline uint64_t load64(const void *p) noexcept nogil:
    cdef uint64_t v
    memcpy(&v, p, 8)
    return v

cdef inline void store16(void *p, uint16_t v) noexcept nogil:
    memcpy(p, &v, 2)

cdef inline void store32(void *p, uint32_t v) noexcept nogil:
    memcpy(p, &v, 4)

cdef inline void store64(void *p, uint64_t v) noexcept nogil:
    memcpy(p, &v, 8)

cdef inline int buf_need(Buf *b, size_t more) noexcept nogil:
    """Make room for `more` bytes after `size`; OK or NO_MEMORY."""
    cdef size_t room = b.room
    cdef void *data
    if b.size + more <= room:
        return OK
    room = room * 2 if room * 2 > b.size + more else b.size + more
    data = realloc(b.data, room)
    if data == NULL:
        return NO_MEMORY
    b.data = <uint8_t *>data
    b.room = room
    return OK

cdef inline void buf_free(Buf *b) noexcept nogil:
    free(b.data)
    b.data = NULL
    b.size = b.room = 0

cdef inline int put_bytes(Buf *b, const void *p, size_t n) noexcept nogil:
    if buf_need(b, n) != OK:
        return NO_MEMORY
    if n:
        memcpy(b.data + b.size, p, n)
    b.size += n
    return OK

cdef inline int put8(Buf *b, uint8_t v) noexcept nogil:
    return put_bytes(b, &v, 1)

cdef inline int put32(Buf *b, uint32_t v) noexcept nogil:
    return put_bytes(b, &v, 4)

cdef inline int put64(Buf *b, uint64_t v) noexcept nogil:
    return put_bytes(b, &v, 8)

cdef inline int put_varint(Buf *b, uint64_t v) noexcept nogil:
    """LEB128: seven bits a byte, lowest first, at most ten bytes."""
    if buf_need(b, 10) != OK:
        return NO_MEMORY
    while v >= 0x80:
        b.data[b.size] = <uint8_t>(v | 0x80)
        b.size += 1
        v >>= 7
    b.data[b.size] = <uint8_t>v
    b.size += 1
    return OK

cdef inline size_t left(const Cur *c) noexcept nogil:
    return c.end - c.at

cdef inline bint take8(Cur *c, uint8_t *v) noexcept nogil:
    if left(c) < 1:
        return False
    v[0] = c.at[0]
    c.at += 1
    return True

cdef inline bint take32(Cur *c, uint32_t *v) noexcept nogil:
    if left(c) < 4:
        return False
    v[0] = load32(c.at)
    c.at += 4
    return True

cdef inline bint take64(Cur *c, uint64_t *v) noexcept nogil:
    if left(c) < 8:
        return False
    v[0] = load64(c.at)
    c.at += 8
    return True

cdef inline bint take_varint(Cur *c, uint64_t *v) noexcept nogil:
    cdef uint64_t result = 0
    cdef int shift = 0
    cdef uint8_t b
    while shift < 64 and c.at < c.end:
        b = c.at[0]
        c.at += 1
        if shift == 63 and b > 1:
            return False
        result |= <uint64_t>(b & 0x7F) << shift
        if b < 0x80:
            v[0] = result
            return True
        shift += 7
    return False

cdef inline bint take_count(Cur *c, uint64_t limit, uint32_t *v) noexcept nogil:
    """A varint that says how many follow, at most `limit`."""
    cdef uint64_t n
    if not take_varint(c, &n) or n > limit:
        return False
    v[0] = <uint32_t>n
    return True
