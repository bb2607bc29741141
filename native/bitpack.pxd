"""Fixed-width bit packing: item j occupies bits [j*w, (j+1)*w) of the bytes, lowest first."""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from buffer cimport load64, store64

cdef extern from *:
    """
    static inline int edgesync_bits(unsigned long long v) {
        return v ? 64 - __builtin_clzll(v) : 0;
    }
    #define edgesync_leading __builtin_clzll
    #define edgesync_trailing __builtin_ctzll
    """
    int width_of "edgesync_bits"(uint64_t v) noexcept nogil  # bits needed for v
    int leading_zeros "edgesync_leading"(uint64_t v) noexcept nogil  # v > 0
    int trailing_zeros "edgesync_trailing"(uint64_t v) noexcept nogil  # v > 0

cdef inline uint64_t zigzag(uint64_t v) noexcept nogil:
    """Small numbers of either sign become small numbers."""
    return (v << 1) ^ (0 - (v >> 63))

cdef inline uint64_t unzigzag(uint64_t v) noexcept nogil:
    return (v >> 1) ^ (0 - (v & 1))

cdef inline size_t packed_bytes(uint32_t n, uint32_t width) noexcept nogil:
    return (<size_t>n * width + 7) >> 3

cdef inline void pack_bits(
    uint8_t *to, const uint64_t *items, uint32_t n, uint32_t width,
) noexcept nogil:
    """Write packed_bytes(n, width) bytes; every item fits `width` bits."""
    cdef uint64_t word = 0
    cdef uint32_t used = 0, i
    if width == 0:
        return
    for i in range(n):
        word |= items[i] << used
        used += width
        if used >= 64:
            store64(to, word)
            to += 8
            used -= 64
            # What did not fit; in two shifts, since a shift by 64 is undefined.
            word = (items[i] >> 1) >> (width - used - 1)
    memcpy(to, &word, (used + 7) >> 3)

cdef inline uint64_t bits_at(const uint8_t *p, uint32_t shift, uint64_t mask) noexcept nogil:
    """`mask` wide item at bit `shift` (0..7) of p; reads nine bytes."""
    return (load64(p) >> shift | <uint64_t>p[8] << 1 << (63 - shift)) & mask


@cython.cdivision(True)
cdef inline void unpack_bits(
    uint64_t *items, const uint8_t *p, uint32_t n, uint32_t width,
) noexcept nogil:
    """Undo `pack_bits`; reads exactly packed_bytes(n, width) bytes."""
    cdef size_t size = packed_bytes(n, width)
    cdef uint64_t mask = (~<uint64_t>0) >> (64 - width) if width else 0
    cdef uint8_t tail[24]
    cdef uint32_t i, fast = 0
    cdef size_t bit = 0, start
    if width == 0:
        memset(items, 0, n * sizeof(uint64_t))
        return
    # Items whose nine-byte load stays inside: those that begin at byte size - 9 or before.
    if size >= 9:
        fast = <uint32_t>(((size - 8) * 8 - 1) // width + 1)
        if fast > n:
            fast = n
    if width <= 57:
        for i in range(fast):
            items[i] = load64(p + (bit >> 3)) >> (bit & 7) & mask
            bit += width
    else:
        for i in range(fast):
            items[i] = bits_at(p + (bit >> 3), bit & 7, mask)
            bit += width
    if fast == n:
        return
    start = bit >> 3
    memset(tail, 0, sizeof(tail))
    memcpy(tail, p + start, size - start)
    bit -= start << 3
    for i in range(fast, n):
        items[i] = bits_at(tail + (bit >> 3), bit & 7, mask)
        bit += width
