"""Gorilla's XOR of neighbours, begun anew at each mini-block so that it stays seekable.

A mini-block: the first value's 64 bits, then for each further value, lowest bit first: 0 the same
as before; 1 0 and the bits inside the window last used; 1 1, leading zeros (5 bits), length - 1
(6 bits) and that many bits, which becomes the window. DIRECTORY: the first values and the offsets
of the streams stand in 16-byte entries before them; STREAM: value, bits, value, bits.
Source: Pelkonen et al., Gorilla, VLDB 2015, 4.1.2.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from bitpack cimport leading_zeros, trailing_zeros
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, Buf, Cur, buf_need, left, load32, load64, store32, store64, take64,
)
from section cimport DIRECTORY, ENTRY_BYTES, MINI, mini_count

cdef enum:
    BITS_MAX = 77  # of one value: 1 1, 5, 6, 64
    LEADING_MAX = 31

cdef struct BitWriter:
    uint8_t *at
    uint64_t word
    uint32_t used

cdef struct BitReader:
    const uint8_t *at
    size_t bit
    size_t bits  # available
    bint failed

cdef inline void write_bits(BitWriter *w, uint64_t v, uint32_t width) noexcept nogil:
    """Append the `width` (1..64) lowest bits; the others of v are 0."""
    w.word |= v << w.used
    w.used += width
    if w.used >= 64:
        store64(w.at, w.word)
        w.at += 8
        w.used -= 64
        w.word = (v >> 1) >> (width - w.used - 1)

cdef inline uint64_t read_bits(BitReader *r, uint32_t width) noexcept nogil:
    cdef size_t at = r.bit >> 3, end = (r.bits + 7) >> 3
    cdef uint32_t shift = r.bit & 7, i
    cdef uint64_t v = 0
    if width > r.bits - r.bit:
        r.failed = True
        return 0
    r.bit += width
    if at + 9 <= end:
        v = load64(r.at + at) >> shift | <uint64_t>r.at[at + 8] << 1 << (63 - shift)
    else:
        for i in range(<uint32_t>(end - at)):
            if i < 8:
                v |= <uint64_t>r.at[at + i] << (8 * i)
        v >>= shift
        if end - at > 8:
            v |= <uint64_t>r.at[at + 8] << 1 << (63 - shift)
    return v & (~<uint64_t>0 >> (64 - width))

cdef inline uint8_t *xor_mini(uint8_t *to, const uint64_t *v, uint32_t n) noexcept nogil:
    """Write the bits of a mini-block; returns the end, on a byte."""
    cdef BitWriter w
    cdef uint32_t i, lead, trail, window_lead = 0, window_trail = 0
    cdef bint has_window = False
    cdef uint64_t x
    w.at = to
    w.word = 0
    w.used = 0
    for i in range(1, n):
        x = v[i] ^ v[i - 1]
        if x == 0:
            write_bits(&w, 0, 1)
            continue
        lead = leading_zeros(x)
        lead = lead if lead < LEADING_MAX else LEADING_MAX
        trail = trailing_zeros(x)
        if has_window and lead >= window_lead and trail >= window_trail:
            write_bits(&w, 1, 2)
        else:
            window_lead, window_trail, has_window = lead, trail, True
            write_bits(&w, 3 | lead << 2 | (63 - lead - trail) << 7, 13)
        write_bits(&w, x >> window_trail, 64 - window_lead - window_trail)
    store64(w.at, w.word)
    return w.at + ((w.used + 7) >> 3)

cdef inline bint unxor_mini(uint64_t *v, uint32_t n, BitReader *r) noexcept nogil:
    cdef uint32_t i, head, lead, length = 0, trail = 0
    cdef uint64_t x
    for i in range(1, n):
        v[i] = v[i - 1]
        if not read_bits(r, 1):
            if r.failed:
                return False
            continue
        if read_bits(r, 1):
            head = <uint32_t>read_bits(r, 11)
            lead, length = head & 31, (head >> 5) + 1
            if lead + length > 64:
                return False
            trail = 64 - lead - length
        if length == 0:
            return False
        x = read_bits(r, length)
        if r.failed:
            return False
        v[i] ^= x << trail
    return not r.failed

cdef inline int put_xor(Buf *out, const uint64_t *v, uint32_t n, int layout) noexcept nogil:
    cdef uint32_t m = mini_count(n), k, count
    cdef size_t start = out.size
    cdef uint8_t *at
    cdef uint8_t *entry
    if buf_need(out, ENTRY_BYTES * m + (BITS_MAX * <size_t>n >> 3) + 9 * m + 16) != OK:
        return NO_MEMORY
    entry = out.data + start
    at = entry
    if layout == DIRECTORY:
        memset(entry, 0, ENTRY_BYTES * m)
        at += ENTRY_BYTES * m
    for k in range(m):
        count = MINI if k + 1 < m else n - k * MINI
        if layout == DIRECTORY:
            store64(entry, v[k * MINI])
            store32(entry + 8, <uint32_t>(at - out.data - start))
            entry += ENTRY_BYTES
        else:
            store64(at, v[k * MINI])
            at += 8
        at = xor_mini(at, v + k * MINI, count)
    out.size = at - out.data
    return OK

cdef inline int take_xor(Cur *c, uint64_t *v, uint32_t n, int layout) noexcept nogil:
    """Decode n values from `c`; DIRECTORY: `c` holds the section and nothing else."""
    cdef uint32_t m = mini_count(n), k, count
    cdef const uint8_t *start = c.at
    cdef BitReader r
    if layout == DIRECTORY:
        if left(c) < ENTRY_BYTES * <size_t>m:
            return DAMAGED
        c.at += ENTRY_BYTES * <size_t>m
    for k in range(m):
        count = MINI if k + 1 < m else n - k * MINI
        if layout == DIRECTORY:
            v[k * MINI] = load64(start + k * ENTRY_BYTES)
            if load32(start + k * ENTRY_BYTES + 8) != <size_t>(c.at - start):
                return DAMAGED
            if load32(start + k * ENTRY_BYTES + 12):
                return DAMAGED
        elif not take64(c, v + k * MINI):
            return DAMAGED
        r.at = c.at
        r.bit = 0
        r.bits = left(c) * 8
        r.failed = False
        if not unxor_mini(v + k * MINI, count, &r):
            return DAMAGED
        c.at += (r.bit + 7) >> 3
    return OK
