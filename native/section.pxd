"""Columns of integers in mini-blocks of 128, each in the smallest of three forms.

    FOR        x[j] = base + u[j]                     n items
    ZIGZAG     x[0] = base, x[j] = x[j-1] + z(u)      n - 1 items, z undoes the zigzag
    DELTA_FOR  x[0] = base, x[j] = x[j-1] + dmin + u  n - 1 items

All sums are modulo 2^64, so every column of int64 has a form. Two layouts: with a DIRECTORY any
mini-block is found at once (a stored block); as a STREAM they follow each other without one and
with short integers (a batch, which is always read whole).
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from bitpack cimport pack_bits, packed_bytes, unpack_bits, unzigzag, width_of, zigzag
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, Buf, Cur, buf_need, left, load32, load64, put8, put_varint, store32,
    store64, take8, take_varint,
)

cdef enum:
    POINTS_MAX = 8192
    MINI = 128
    MINIS_MAX = 64
    ENTRY_BYTES = 16
    WIDTHS = 65  # 0..64

cdef enum Mode:
    FOR = 0
    ZIGZAG = 1
    DELTA_FOR = 2
    ANY_MODE = 3

cdef enum Layout:
    DIRECTORY = 0
    STREAM = 1

cdef struct Plan:
    uint64_t base
    uint64_t dmin
    uint32_t count
    uint8_t mode
    uint8_t width


@cython.cdivision(True)
cdef inline uint32_t mini_count(uint32_t n) noexcept nogil:
    return (n + MINI - 1) // MINI

cdef inline uint32_t items_of(const Plan *p) noexcept nogil:
    return p.count if p.mode == FOR else p.count - 1

cdef inline size_t area_bytes(const Plan *p, int layout) noexcept nogil:
    cdef size_t size = packed_bytes(items_of(p), p.width)
    if layout == STREAM:
        return size
    size += 8 if p.mode == DELTA_FOR else 0
    return (size + 7) & ~<size_t>7

cdef inline void plan_mini(Plan *p, const uint64_t *x, uint32_t n, int allowed) noexcept nogil:
    """Choose the form of one mini-block of n >= 1 integers."""
    cdef int64_t low = <int64_t>x[0], high = <int64_t>x[0], dlow = 0, dhigh = 0, v, d
    cdef uint64_t zigzags = 0
    cdef uint32_t i, w, bits, best
    for i in range(1, n):
        v = <int64_t>x[i]
        d = <int64_t>(x[i] - x[i - 1])
        low = v if v < low else low
        high = v if v > high else high
        if i == 1:
            dlow = dhigh = d
        dlow = d if d < dlow else dlow
        dhigh = d if d > dhigh else dhigh
        zigzags |= zigzag(<uint64_t>d)
    p.count = n
    p.mode = FOR
    p.base = <uint64_t>low
    p.dmin = <uint64_t>dlow
    p.width = <uint8_t>width_of(<uint64_t>high - <uint64_t>low)
    if allowed != ANY_MODE:
        return
    best = n * p.width
    w = width_of(zigzags)
    if (n - 1) * w < best:
        best = (n - 1) * w
        p.mode, p.base, p.width = ZIGZAG, x[0], <uint8_t>w
    w = width_of(<uint64_t>dhigh - <uint64_t>dlow)
    bits = (n - 1) * w + 64
    if bits < best:
        p.mode, p.base, p.width = DELTA_FOR, x[0], <uint8_t>w

cdef inline size_t plan_section(
    Plan *plans, const uint64_t *x, uint32_t n, int allowed, int layout,
) noexcept nogil:
    """Plan all mini-blocks of a column; returns its size in bytes (STREAM: a close estimate)."""
    cdef uint32_t m = mini_count(n), k, count
    cdef size_t size = 0
    for k in range(m):
        count = MINI if k + 1 < m else n - k * MINI
        plan_mini(plans + k, x + k * MINI, count, allowed)
        size += area_bytes(plans + k, layout)
        size += ENTRY_BYTES if layout == DIRECTORY else (4 if plans[k].mode != DELTA_FOR else 6)
    return size

cdef inline void put_items(uint8_t *to, const Plan *p, const uint64_t *x) noexcept nogil:
    cdef uint64_t items[MINI]
    cdef uint32_t i
    if p.mode == FOR:
        for i in range(p.count):
            items[i] = x[i] - p.base
    elif p.mode == ZIGZAG:
        for i in range(1, p.count):
            items[i - 1] = zigzag(x[i] - x[i - 1])
    else:
        for i in range(1, p.count):
            items[i - 1] = x[i] - x[i - 1] - p.dmin
    pack_bits(to, items, items_of(p), p.width)

cdef inline int put_section(
    Buf *out, const Plan *plans, const uint64_t *x, uint32_t n, int layout,
) noexcept nogil:
    if layout == STREAM:
        return put_stream(out, plans, x, n)
    cdef uint32_t m = mini_count(n), k
    cdef size_t offset = ENTRY_BYTES * m, size = ENTRY_BYTES * m
    cdef uint8_t *entry
    cdef uint8_t *area
    for k in range(m):
        size += area_bytes(plans + k, DIRECTORY)
    if buf_need(out, size) != OK:
        return NO_MEMORY
    entry = out.data + out.size
    memset(entry, 0, size)
    for k in range(m):
        area = out.data + out.size + offset
        store64(entry, plans[k].base)
        store32(entry + 8, <uint32_t>offset)
        entry[12] = plans[k].width
        entry[13] = plans[k].mode
        entry += ENTRY_BYTES
        if plans[k].mode == DELTA_FOR:
            store64(area, plans[k].dmin)
            area += 8
        put_items(area, plans + k, x + k * MINI)
        offset += area_bytes(plans + k, DIRECTORY)
    out.size += size
    return OK

cdef inline int put_stream(
    Buf *out, const Plan *plans, const uint64_t *x, uint32_t n,
) noexcept nogil:
    cdef uint64_t last = 0
    cdef uint32_t k
    cdef size_t size
    for k in range(mini_count(n)):
        size = area_bytes(plans + k, STREAM)
        if put8(out, plans[k].mode * WIDTHS + plans[k].width) != OK:
            return NO_MEMORY
        if put_varint(out, zigzag(plans[k].base - last)) != OK:
            return NO_MEMORY
        if plans[k].mode == DELTA_FOR and put_varint(out, zigzag(plans[k].dmin)) != OK:
            return NO_MEMORY
        if buf_need(out, size + 8) != OK:
            return NO_MEMORY
        put_items(out.data + out.size, plans + k, x + k * MINI)
        out.size += size
        last = x[k * MINI + plans[k].count - 1]
    return OK

cdef inline void take_items(uint64_t *x, const Plan *p, const uint8_t *area) noexcept nogil:
    cdef uint64_t at = p.base, step = p.dmin
    cdef uint32_t i
    if p.mode == FOR:
        unpack_bits(x, area, p.count, p.width)
        for i in range(p.count):
            x[i] += at
        return
    unpack_bits(x + 1, area, p.count - 1, p.width)
    x[0] = at
    if p.mode == ZIGZAG:
        for i in range(1, p.count):
            at += unzigzag(x[i])
            x[i] = at
    else:
        for i in range(1, p.count):
            at += step + x[i]
            x[i] = at

cdef inline int take_section(Cur *c, uint64_t *x, uint32_t n, int layout) noexcept nogil:
    """Decode n integers. DIRECTORY: `c` holds the section and nothing else."""
    cdef uint32_t m = mini_count(n), k
    cdef const uint8_t *start = c.at
    cdef size_t total = left(c), offset = ENTRY_BYTES * <size_t>m, size
    cdef const uint8_t *entry
    cdef Plan p
    if layout == STREAM:
        return take_stream(c, x, n)
    if offset > total:
        return DAMAGED
    for k in range(m):
        entry = start + k * ENTRY_BYTES
        p.count = MINI if k + 1 < m else n - k * MINI
        p.base = load64(entry)
        p.width = entry[12]
        p.mode = entry[13]
        p.dmin = 0
        if p.width > 64 or p.mode > DELTA_FOR or entry[14] or entry[15]:
            return DAMAGED
        size = area_bytes(&p, DIRECTORY)
        if load32(entry + 8) != offset or size > total - offset:
            return DAMAGED
        if p.mode == DELTA_FOR:
            p.dmin = load64(start + offset)
            take_items(x + k * MINI, &p, start + offset + 8)
        else:
            take_items(x + k * MINI, &p, start + offset)
        offset += size
    c.at += offset
    return OK


@cython.cdivision(True)
cdef inline int take_stream(Cur *c, uint64_t *x, uint32_t n) noexcept nogil:
    cdef uint32_t m = mini_count(n), k
    cdef uint64_t last = 0, base
    cdef uint8_t code
    cdef Plan p
    for k in range(m):
        if not take8(c, &code) or code >= 3 * WIDTHS or not take_varint(c, &base):
            return DAMAGED
        p.count = MINI if k + 1 < m else n - k * MINI
        p.mode = code // WIDTHS
        p.width = code % WIDTHS
        p.base = last + unzigzag(base)
        p.dmin = 0
        if p.mode == DELTA_FOR:
            if not take_varint(c, &base):
                return DAMAGED
            p.dmin = unzigzag(base)
        if area_bytes(&p, STREAM) > left(c):
            return DAMAGED
        take_items(x + k * MINI, &p, c.at)
        c.at += area_bytes(&p, STREAM)
        last = x[k * MINI + p.count - 1]
    return OK
