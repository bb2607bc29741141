"""Telemetry as columns: what follows the bare rows in a payload of codec COLUMNS.

    series   count varint, ids u64 each
    shape    of the batch, as in bare.pxd (sizes, LZ4): value type of each series (u8), count of
             shapes varint, the shapes, then for each record in u8, or u16 from 255 shapes on:
             0 a bare row, 1 the next shape not yet used, else its shape + 2
    times    u8: 0 one column for all READINGS records, 1 one for each shape, in the order of the
             shapes, each begun by a varint: 0 here it is, k the same as k own columns before
    values   for each series its column, in pieces of 8192

A shape: varint count*2 + 1 and one bit for each series, or count*2 and its members as zigzag
varints, each less the one before. A column of times: codec u8, power u8, first and step as zigzag
varints, section. A piece of values: codec u8 (bit 7: exceptions), exponent u8 if DEC_FOR of f64,
count of exceptions varint if any, section, exceptions. Sections have the layout STREAM.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset

from bare cimport put_packed, take_packed
from bitpack cimport unzigzag, zigzag
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, TOO_LARGE, Buf, Cur, buf_free, buf_need, left, load16, load64, put8,
    put64, put_bytes, put_varint, store16, take8, take_count, take_varint,
)
from envelope cimport Envelope
from group cimport Group, Series, Shape, group_alloc, lay_columns, lists_of, series_of, shapes_of
from rows cimport READINGS_HEAD_BYTES, READINGS_MAX, ROW_BYTES, VT_F64, VT_TEXT
from section cimport POINTS_MAX, STREAM
from texts cimport address_texts, choose_texts, take_texts
from times cimport TimeHead, put_times, take_times
from values cimport (
    V_DEC_FOR, Scratch, ValueHead, choose_values, free_scratch, new_scratch, put_exceptions,
    take_exceptions, take_values,
)

cdef enum:
    COUNT_MAX = 65533  # of series, and of shapes
    NARROW_MAX = 254  # shapes that a byte can name
    NEW_SHAPE = 1
    HAS_EXCEPTIONS = 0x80
    SHARED_BACK_MAX = 4  # how many columns of times are compared with a new one

cdef struct TimeColumns:
    int64_t *times  # READINGS records in order, or sorted by shape
    uint32_t *start  # of each shape's times, when sorted
    uint32_t count

cdef inline int put_series(Buf *out, const Group *g) noexcept nogil:
    cdef uint32_t i
    if put_varint(out, g.series_count) or buf_need(out, 8 * <size_t>g.series_count):
        return NO_MEMORY
    for i in range(g.series_count):
        put64(out, series_of(g)[i].id)
    return OK

cdef inline bint is_ascending(const uint32_t *members, uint32_t count) noexcept nogil:
    cdef uint32_t j
    for j in range(1, count):
        if members[j] <= members[j - 1]:
            return False
    return True

cdef inline int put_shape(
    Buf *raw, const uint32_t *members, uint32_t count, uint32_t series, uint32_t before,
) noexcept nogil:
    """Write a shape as bits where that is shorter: a deadband makes many shapes of a few series."""
    cdef uint32_t bitmap = (series + 7) >> 3, j
    cdef int status
    if bitmap < count and is_ascending(members, count):
        if put_varint(raw, 2 * count + 1) or buf_need(raw, bitmap):
            return NO_MEMORY
        memset(raw.data + raw.size, 0, bitmap)
        for j in range(count):
            raw.data[raw.size + (members[j] >> 3)] |= 1 << (members[j] & 7)
        raw.size += bitmap
        return OK
    status = put_varint(raw, 2 * count)
    for j in range(count):
        status |= put_varint(raw, zigzag(<uint64_t>(<int64_t>members[j] - <int64_t>before)))
        before = members[j]
    return status

cdef inline int put_order(Buf *raw, const Group *g) noexcept nogil:
    cdef uint32_t wide = 1 if g.shape_count <= NARROW_MAX else 2, used = 0, i, code
    if buf_need(raw, wide * <size_t>g.records) != OK:
        return NO_MEMORY
    for i in range(g.records):
        code = g.order[i] + 1 if g.order[i] else 0
        # Shapes are numbered as they first appear, so a new one needs no number.
        if g.order[i] == used + 1:
            used += 1
            code = NEW_SHAPE
        if wide == 1:
            raw.data[raw.size + i] = <uint8_t>code
        else:
            store16(raw.data + raw.size + 2 * i, <uint16_t>code)
    raw.size += wide * <size_t>g.records
    return OK

cdef inline int put_structure(Buf *out, const Group *g) noexcept nogil:
    cdef Buf raw
    cdef const Shape *shape
    cdef uint32_t h, i, before = 0
    cdef int status = OK
    memset(&raw, 0, sizeof(Buf))
    for i in range(g.series_count):
        status |= put8(&raw, series_of(g)[i].vtype)
    status |= put_varint(&raw, g.shape_count)
    for h in range(g.shape_count):
        shape = shapes_of(g) + h
        status |= put_shape(&raw, lists_of(g) + shape.start, shape.count, g.series_count, before)
        before = lists_of(g)[shape.start + shape.count - 1]
    status |= put_order(&raw, g)
    if status == OK:
        status = put_packed(out, raw.data, raw.size)
    buf_free(&raw)
    return OK if status == OK else NO_MEMORY

cdef inline int put_time_column(
    Buf *out, const int64_t *t, uint32_t n, Scratch *s,
) noexcept nogil:
    """Write n times in pieces of 8192."""
    cdef uint32_t count
    cdef TimeHead head
    while n:
        count = n if n < POINTS_MAX else POINTS_MAX
        s.trial.size = 0
        if put_times(&s.trial, t, count, STREAM, &s.times, &head) != OK:
            return NO_MEMORY
        if put8(out, head.codec) or put8(out, head.power):
            return NO_MEMORY
        if put_varint(out, zigzag(<uint64_t>head.first)):
            return NO_MEMORY
        if put_varint(out, zigzag(<uint64_t>head.step)):
            return NO_MEMORY
        if put_bytes(out, s.trial.data, s.trial.size) != OK:
            return NO_MEMORY
        t += count
        n -= count
    return OK

cdef inline int sort_times(const Group *g, TimeColumns *tc, bint by_shape) noexcept nogil:
    """Collect the times of READINGS records. The caller frees both arrays, whatever comes back."""
    cdef uint32_t i, h, at = 0, slot
    tc.count = 0
    for h in range(g.shape_count):
        tc.count += shapes_of(g)[h].uses
    tc.times = <int64_t *>malloc((tc.count + 1) * sizeof(int64_t))
    tc.start = <uint32_t *>calloc(g.shape_count + 1, sizeof(uint32_t))
    if tc.times == NULL or tc.start == NULL:
        return NO_MEMORY
    for h in range(g.shape_count):
        tc.start[h] = at
        at += shapes_of(g)[h].uses
    at = 0
    for i in range(g.records):
        if g.order[i]:
            slot = at
            if by_shape:
                slot = tc.start[g.order[i] - 1]
                tc.start[g.order[i] - 1] += 1
            tc.times[slot] = g.times[i]
            at += 1
    for h in range(g.shape_count):
        tc.start[h] -= shapes_of(g)[h].uses if by_shape else 0
    return OK

cdef inline int put_shared_times(
    Buf *out, const Group *g, const TimeColumns *tc, Scratch *s,
) noexcept nogil:
    """Write one column per shape, or a reference to an equal one a few before."""
    cdef uint32_t own[SHARED_BACK_MAX]
    cdef uint32_t owned = 0, h, k, uses, back
    for h in range(g.shape_count):
        uses = shapes_of(g)[h].uses
        back = 0
        for k in range(1, SHARED_BACK_MAX + 1):
            if k > owned or back:
                break
            if shapes_of(g)[own[(owned - k) % SHARED_BACK_MAX]].uses == uses and memcmp(
                tc.times + tc.start[own[(owned - k) % SHARED_BACK_MAX]],
                tc.times + tc.start[h], uses * sizeof(int64_t),
            ) == 0:
                back = k
        if put_varint(out, back) != OK:
            return NO_MEMORY
        if back:
            continue
        own[owned % SHARED_BACK_MAX] = h
        owned += 1
        if put_time_column(out, tc.times + tc.start[h], uses, s) != OK:
            return NO_MEMORY
    return OK

cdef inline int put_all_times(Buf *out, const Group *g, Scratch *s) noexcept nogil:
    """Write the times in one column or by shape, whichever is smaller."""
    cdef Buf one, many
    cdef TimeColumns tc
    cdef int status
    memset(&one, 0, sizeof(Buf))
    memset(&many, 0, sizeof(Buf))
    status = sort_times(g, &tc, False)
    if status == OK:
        status = put_time_column(&one, tc.times, tc.count, s)
    # With many shapes of a few records each, columns of their own cannot win.
    if status == OK and g.shape_count > 1 and g.shape_count * 4 <= tc.count:
        free(tc.times)
        free(tc.start)
        status = sort_times(g, &tc, True)
        if status == OK:
            status = put_shared_times(&many, g, &tc, s)
    free(tc.times)
    free(tc.start)
    if status == OK:
        if many.size and many.size < one.size:
            status = put8(out, 1) or put_bytes(out, many.data, many.size)
        else:
            status = put8(out, 0) or put_bytes(out, one.data, one.size)
    buf_free(&one)
    buf_free(&many)
    return status

cdef inline int put_value_column(
    Buf *out, const uint64_t *v, uint32_t n, uint8_t vtype, Scratch *s,
) noexcept nogil:
    cdef ValueHead head
    cdef uint32_t count
    cdef int status
    while n:
        count = n if n < POINTS_MAX else POINTS_MAX
        if vtype == VT_TEXT:
            status = choose_texts(s, v, count, STREAM, &head)
        else:
            status = choose_values(s, v, count, vtype, STREAM, &head)
        if status == OK:
            status = put8(out, head.codec | (HAS_EXCEPTIONS if head.exceptions else 0))
        if status == OK and head.codec == V_DEC_FOR and vtype == VT_F64:
            status = put8(out, head.exponent)
        if status == OK and head.exceptions:
            status = put_varint(out, head.exceptions)
        if status == OK:
            status = put_bytes(out, s.best.data, s.best.size)
        if status == OK:
            status = put_exceptions(out, s, &head)
        if status != OK:
            return status
        v += count
        n -= count
    return OK

cdef inline int put_columns(Buf *out, Group *g) noexcept nogil:
    """Write the columns of `g`; TOO_LARGE when it has more series or shapes than can be counted."""
    cdef Scratch *s
    cdef Series *one
    cdef uint32_t i
    cdef int status
    if g.series_count > COUNT_MAX or g.shape_count > COUNT_MAX:
        return TOO_LARGE
    s = new_scratch()
    if s == NULL:
        return NO_MEMORY
    status = put_series(out, g)
    if status == OK:
        status = put_structure(out, g)
    if status == OK:
        status = put_all_times(out, g, s)
    for i in range(g.series_count):
        if status == OK:
            one = series_of(g) + i
            status = put_value_column(out, g.values + one.start, one.count, one.vtype, s)
    free_scratch(s)
    return status

cdef inline int take_bitmap(Cur *c, Group *g, uint32_t *members, uint32_t count) noexcept nogil:
    """Decode the series whose bits are set, exactly `count` of them."""
    cdef uint32_t bitmap = (g.series_count + 7) >> 3, i, found = 0
    if left(c) < bitmap:
        return DAMAGED
    for i in range(8 * bitmap):
        if c.at[i >> 3] >> (i & 7) & 1:
            if found == count or i >= g.series_count:
                return DAMAGED
            members[found] = i
            found += 1
    c.at += bitmap
    return OK if found == count else DAMAGED

cdef inline int take_members(
    Cur *c, Group *g, uint32_t *members, uint32_t count, uint32_t before,
) noexcept nogil:
    cdef uint64_t difference, member = before
    cdef uint32_t j
    for j in range(count):
        if not take_varint(c, &difference):
            return DAMAGED
        member += unzigzag(difference)
        if member >= g.series_count:
            return DAMAGED
        members[j] = <uint32_t>member
    return OK

cdef inline int take_shapes(Cur *c, Group *g) noexcept nogil:
    """Decode the lists of the shapes; each names known series of one type."""
    cdef uint32_t h, j, shapes, code, count, before = 0
    cdef uint32_t *members
    cdef Shape *shape
    cdef int status
    if not take_count(c, COUNT_MAX, &shapes):
        return DAMAGED
    for h in range(shapes):
        if not take_count(c, 2 * READINGS_MAX + 1, &code) or code < 2:
            return DAMAGED
        count = code >> 1
        if buf_need(&g.shapes, sizeof(Shape)) or buf_need(&g.lists, count * sizeof(uint32_t)):
            return NO_MEMORY
        shape = shapes_of(g) + h
        memset(shape, 0, sizeof(Shape))
        shape.start = <uint32_t>(g.lists.size >> 2)
        shape.count = count
        members = lists_of(g) + shape.start
        if code & 1:
            status = take_bitmap(c, g, members, count)
        else:
            status = take_members(c, g, members, count, before)
        if status != OK:
            return status
        before = members[count - 1]
        shape.vtype = series_of(g)[before].vtype
        for j in range(count):
            if series_of(g)[members[j]].vtype != shape.vtype:
                return DAMAGED
        g.lists.size += count * sizeof(uint32_t)
        g.shapes.size += sizeof(Shape)
        g.shape_count += 1
    return OK

cdef inline int take_order(Cur *c, Group *g, uint64_t raw_size) noexcept nogil:
    """Decode which record has which shape; the rows that makes must not pass `raw_size`."""
    cdef uint32_t wide = 1 if g.shape_count <= NARROW_MAX else 2, i, code, used = 0
    cdef uint64_t total = 0
    cdef Shape *shape
    if left(c) != wide * <size_t>g.records:
        return DAMAGED
    for i in range(g.records):
        code = c.at[i] if wide == 1 else load16(c.at + 2 * i)
        if code == NEW_SHAPE:
            used += 1
            code = used + 1
        elif code > used + 1:
            return DAMAGED
        if used > g.shape_count:
            return DAMAGED
        g.order[i] = code - 1 if code else 0
        total += ROW_BYTES
        if code:
            shape = shapes_of(g) + code - 2
            shape.uses += 1
            total += READINGS_HEAD_BYTES
            total += <uint64_t>shape.count * (12 if shape.vtype == VT_TEXT else 16)
        if total > raw_size:
            return DAMAGED
    return OK if used == g.shape_count else DAMAGED

cdef inline int take_structure(Cur *c, Group *g, uint64_t raw_size) noexcept nogil:
    cdef Buf raw
    cdef Cur inner
    cdef uint32_t i, count
    cdef int status
    if not take_count(c, COUNT_MAX, &count) or count == 0 or left(c) < 8 * <size_t>count:
        return DAMAGED
    if buf_need(&g.series, count * sizeof(Series)) != OK:
        return NO_MEMORY
    memset(g.series.data, 0, count * sizeof(Series))
    g.series_count = count
    memset(&raw, 0, sizeof(Buf))
    for i in range(count):
        series_of(g)[i].id = load64(c.at + 8 * i)
    c.at += 8 * <size_t>count
    # Each record, and each reading of a row, takes more bytes there than here.
    status = take_packed(c, &raw, raw_size + 64)
    inner.at = raw.data
    inner.end = raw.data + raw.size
    if status == OK and raw.size < count:
        status = DAMAGED
    if status == OK:
        for i in range(count):
            series_of(g)[i].vtype = inner.at[i]
            if inner.at[i] > VT_TEXT:
                status = DAMAGED
        inner.at += count
    if status == OK:
        status = take_shapes(&inner, g)
    if status == OK:
        status = take_order(&inner, g, raw_size)
    buf_free(&raw)
    return status

cdef inline int take_time_column(Cur *c, int64_t *t, uint32_t n) noexcept nogil:
    cdef TimeHead head
    cdef uint64_t first, step
    cdef uint32_t count
    while n:
        count = n if n < POINTS_MAX else POINTS_MAX
        if not take8(c, &head.codec) or not take8(c, &head.power):
            return DAMAGED
        if not take_varint(c, &first) or not take_varint(c, &step):
            return DAMAGED
        head.first = <int64_t>unzigzag(first)
        head.step = <int64_t>unzigzag(step)
        if take_times(c, <uint64_t *>t, count, STREAM, &head) != OK:
            return DAMAGED
        t += count
        n -= count
    return OK

cdef inline int take_shared_times(Cur *c, const Group *g, const TimeColumns *tc) noexcept nogil:
    cdef uint32_t own[SHARED_BACK_MAX]
    cdef uint32_t owned = 0, h, back, other
    for h in range(g.shape_count):
        if not take_count(c, SHARED_BACK_MAX, &back) or back > owned:
            return DAMAGED
        if back:
            other = own[(owned - back) % SHARED_BACK_MAX]
            if shapes_of(g)[other].uses != shapes_of(g)[h].uses:
                return DAMAGED
            memcpy(tc.times + tc.start[h], tc.times + tc.start[other],
                   shapes_of(g)[h].uses * sizeof(int64_t))
            continue
        own[owned % SHARED_BACK_MAX] = h
        owned += 1
        if take_time_column(c, tc.times + tc.start[h], shapes_of(g)[h].uses) != OK:
            return DAMAGED
    return OK

cdef inline int take_all_times(Cur *c, Group *g) noexcept nogil:
    cdef TimeColumns tc
    cdef uint8_t by_shape
    cdef uint32_t i, at = 0, slot
    cdef int status
    if not take8(c, &by_shape) or by_shape > 1:
        return DAMAGED
    status = sort_times(g, &tc, by_shape)  # of no times yet: for its counts
    if status == OK and by_shape:
        status = take_shared_times(c, g, &tc)
    elif status == OK:
        status = take_time_column(c, tc.times, tc.count)
    if status == OK:
        for i in range(g.records):
            if g.order[i]:
                slot = at
                if by_shape:
                    slot = tc.start[g.order[i] - 1]
                    tc.start[g.order[i] - 1] += 1
                g.times[i] = tc.times[slot]
                at += 1
    free(tc.times)
    free(tc.start)
    return status

cdef inline int take_value_column(
    Cur *c, Group *g, Series *one, uint64_t text_limit,
) noexcept nogil:
    cdef ValueHead head
    cdef uint64_t *v = g.values + one.start
    cdef uint32_t n = one.count, count
    cdef uint8_t code
    cdef int status
    while n:
        count = n if n < POINTS_MAX else POINTS_MAX
        head.exponent = 0
        head.exceptions = 0
        if not take8(c, &code):
            return DAMAGED
        head.codec = code & 0x7F
        if head.codec == V_DEC_FOR and one.vtype == VT_F64 and not take8(c, &head.exponent):
            return DAMAGED
        if code & HAS_EXCEPTIONS:
            if head.codec != V_DEC_FOR or not take_count(c, count, &head.exceptions):
                return DAMAGED
        if one.vtype == VT_TEXT:
            status = take_texts(c, v, count, STREAM, &head, &g.arena, text_limit)
        else:
            status = take_values(c, v, count, one.vtype, STREAM, &head)
        if status == OK and head.exceptions:
            status = take_exceptions(c, v, count, head.exceptions)
        if status != OK:
            return status
        v += count
        n -= count
    return OK

cdef inline int take_columns(Cur *c, Group *g, const Envelope *e) noexcept nogil:
    """Decode the columns into `g`, which the caller frees. Nothing is larger than the rows are."""
    cdef uint32_t i
    cdef int status = group_alloc(g, e.records)
    if status == OK:
        status = take_structure(c, g, e.raw_size)
    if status == OK:
        status = lay_columns(g)
    for i in range(g.series_count):
        if status == OK and series_of(g)[i].count == 0:
            status = DAMAGED
    if status == OK:
        status = take_all_times(c, g)
    for i in range(g.series_count):
        if status == OK:
            status = take_value_column(c, g, series_of(g) + i, e.raw_size)
    for i in range(g.series_count):
        if status == OK and series_of(g)[i].vtype == VT_TEXT:
            address_texts(
                g.values + series_of(g)[i].start, series_of(g)[i].count, &g.arena)
    return status
