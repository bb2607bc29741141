"""Rows out of columns: the way back from group.pxd."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from bare cimport next_bare
from buffer cimport DAMAGED, OK, TOO_LARGE, Buf, Cur, load32, store16, store32, store64
from envelope cimport Envelope
from group cimport Group, Series, Shape, lists_of, series_of, shapes_of
from rows cimport HEADER_BYTES, KIND_READINGS, READINGS_HEAD_BYTES, ROW_BYTES, VT_TEXT, Row

cdef inline uint64_t readings_size(Group *g, const Shape *shape) noexcept nogil:
    """Size of the next body of this shape; moves its texts' columns on."""
    cdef uint64_t size = READINGS_HEAD_BYTES
    cdef Series *one
    cdef uint32_t j
    if shape.vtype != VT_TEXT:
        return size + <uint64_t>16 * shape.count
    for j in range(shape.count):
        one = series_of(g) + lists_of(g)[shape.start + j]
        size += 12 + load32(<const uint8_t *>g.values[one.start + one.filled])
        one.filled += 1
    return size

cdef inline int check_rows_size(Group *g, const Envelope *e, Cur bare) noexcept nogil:
    """The rows must come to exactly the size the envelope names, before memory is taken."""
    cdef Row row
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(g.series_count):
        series_of(g)[i].filled = 0
    for i in range(e.records):
        if not g.order[i]:
            if not next_bare(&bare, &row):
                return DAMAGED
            total += ROW_BYTES + row.body_size
        else:
            total += ROW_BYTES + readings_size(g, shapes_of(g) + g.order[i] - 1)
        if total > e.raw_size:
            return DAMAGED
    for i in range(g.series_count):
        series_of(g)[i].filled = 0
    return OK if total == e.raw_size and bare.at == bare.end else DAMAGED

cdef inline uint8_t *put_readings(
    Group *g, const Shape *shape, int64_t time_ns, uint8_t *to,
) noexcept nogil:
    cdef Series *one
    cdef const uint8_t *text
    cdef uint32_t j, size
    store64(to, <uint64_t>time_ns)
    to[8] = shape.vtype
    to[9] = 0
    store16(to + 10, <uint16_t>shape.count)
    store32(to + 12, 0)
    to += READINGS_HEAD_BYTES
    for j in range(shape.count):
        one = series_of(g) + lists_of(g)[shape.start + j]
        store64(to, one.id)
        if shape.vtype != VT_TEXT:
            store64(to + 8, g.values[one.start + one.filled])
            to += 16
        else:
            text = <const uint8_t *>g.values[one.start + one.filled]
            size = 4 + load32(text)
            memcpy(to + 8, text, size)
            to += 8 + size
        one.filled += 1
    return to

cdef inline void put_rows(Group *g, const Envelope *e, Cur bare, uint8_t *to) noexcept nogil:
    """Write the rows, but for ids, chains and checksums; sizes were checked."""
    cdef Row row
    cdef uint8_t *body
    cdef uint32_t i
    for i in range(e.records):
        body = to + ROW_BYTES
        memset(to, 0, ROW_BYTES)
        if g.order[i]:
            to[8] = KIND_READINGS
            body = put_readings(g, shapes_of(g) + g.order[i] - 1, g.times[i], body)
        else:
            next_bare(&bare, &row)
            memcpy(to + 8, row.head + 4, 4)
            memcpy(body, row.body, row.body_size)
            body += row.body_size
        store32(to, <uint32_t>(body - to - 4))
        to = body
