"""Telemetry regrouped: which series each record names, and one column of values per series.

A *shape* is the list of series one READINGS record names, in order; few records have a shape of
their own. `order[i]` is 0 for a record that stays a row, else its shape's index + 1.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memset

from buffer cimport NO_MEMORY, OK, Buf, buf_free, buf_need, load16, load32, load64
from hash cimport hash64, mix_chain
from rows cimport (
    FLAG_PACKED, KIND_READINGS, READINGS_HEAD_BYTES, VT_TEXT, Row, next_row, readings_count,
)

cdef struct Series:
    uint64_t id
    uint64_t start  # of its column in `values`
    uint32_t count
    uint32_t filled
    uint8_t vtype

cdef struct Shape:
    uint64_t mark  # hash of vtype and series
    uint32_t start  # of its list in `lists`
    uint32_t count
    uint32_t uses
    uint8_t vtype

cdef struct Group:
    uint32_t records
    uint32_t series_count
    uint32_t shape_count
    uint64_t readings
    uint32_t *order  # per record
    int64_t *times  # per record; only those of READINGS records mean something
    Buf series  # Series[]
    Buf shapes  # Shape[]
    Buf lists  # uint32_t[]: indices of series
    # One column per series: the 8 bytes of the value, or the address of `u32 length | text`.
    uint64_t *values
    Buf arena  # texts of a decoded batch
    uint32_t *table  # open addressing over series: index + 1
    uint32_t table_size

cdef inline Series *series_of(const Group *g) noexcept nogil:
    return <Series *>g.series.data

cdef inline Shape *shapes_of(const Group *g) noexcept nogil:
    return <Shape *>g.shapes.data

cdef inline uint32_t *lists_of(const Group *g) noexcept nogil:
    return <uint32_t *>g.lists.data

cdef inline void group_free(Group *g) noexcept nogil:
    free(g.order)
    free(g.times)
    free(g.values)
    free(g.table)
    buf_free(&g.series)
    buf_free(&g.shapes)
    buf_free(&g.lists)
    buf_free(&g.arena)
    memset(g, 0, sizeof(Group))

cdef inline int group_alloc(Group *g, uint32_t records) noexcept nogil:
    g.records = records
    g.order = <uint32_t *>calloc(records + 1, sizeof(uint32_t))
    g.times = <int64_t *>calloc(records + 1, sizeof(int64_t))
    return OK if g.order != NULL and g.times != NULL else NO_MEMORY

cdef inline int grow_table(Group *g) noexcept nogil:
    cdef uint32_t size = g.table_size * 2 if g.table_size else 256
    cdef uint32_t *table = <uint32_t *>calloc(size, sizeof(uint32_t))
    cdef uint32_t i, slot
    cdef Series *s = series_of(g)
    if table == NULL:
        return NO_MEMORY
    for i in range(g.series_count):
        slot = mix_chain(s[i].id, s[i].vtype) & (size - 1)
        while table[slot]:
            slot = (slot + 1) & (size - 1)
        table[slot] = i + 1
    free(g.table)
    g.table = table
    g.table_size = size
    return OK

cdef inline int64_t intern_series(Group *g, uint64_t id, uint8_t vtype) noexcept nogil:
    """Index of the series of this id and type, entered when new; negative: NO_MEMORY."""
    cdef uint32_t slot
    cdef Series *s
    if 2 * g.series_count >= g.table_size and grow_table(g) != OK:
        return NO_MEMORY
    slot = mix_chain(id, vtype) & (g.table_size - 1)
    while g.table[slot]:
        s = series_of(g) + g.table[slot] - 1
        if s.id == id and s.vtype == vtype:
            return g.table[slot] - 1
        slot = (slot + 1) & (g.table_size - 1)
    if buf_need(&g.series, sizeof(Series)) != OK:
        return NO_MEMORY
    s = series_of(g) + g.series_count
    memset(s, 0, sizeof(Series))
    s.id = id
    s.vtype = vtype
    g.series.size += sizeof(Series)
    g.series_count += 1
    g.table[slot] = g.series_count
    return g.series_count - 1

cdef inline size_t step_of(const uint8_t *item, uint8_t vtype) noexcept nogil:
    """Size of the reading at `item`."""
    return 16 if vtype != VT_TEXT else 12 + <size_t>load32(item + 8)

cdef inline uint64_t mark_of(const uint8_t *body, uint32_t n) noexcept nogil:
    cdef uint8_t vtype = body[8]
    cdef const uint8_t *item = body + READINGS_HEAD_BYTES
    cdef uint64_t mark = n * 4 + vtype
    cdef uint32_t _j
    for _j in range(n):
        mark = mix_chain(mark, load64(item))
        item += step_of(item, vtype)
    return mark

cdef inline bint is_shape(
    const Group *g, const Shape *shape, const uint8_t *body, uint32_t n,
) noexcept nogil:
    cdef const uint8_t *item = body + READINGS_HEAD_BYTES
    cdef uint32_t *members = lists_of(g) + shape.start
    cdef uint32_t j
    if shape.count != n or shape.vtype != body[8]:
        return False
    for j in range(n):
        if series_of(g)[members[j]].id != load64(item):
            return False
        item += step_of(item, shape.vtype)
    return True

cdef inline int add_shape(
    Group *g, uint64_t mark, const uint8_t *body, uint32_t n,
) noexcept nogil:
    cdef const uint8_t *item = body + READINGS_HEAD_BYTES
    cdef Shape *shape
    cdef int64_t index
    cdef uint32_t j
    if buf_need(&g.shapes, sizeof(Shape)) or buf_need(&g.lists, n * sizeof(uint32_t)):
        return NO_MEMORY
    shape = shapes_of(g) + g.shape_count
    shape.mark = mark
    shape.start = <uint32_t>(g.lists.size / sizeof(uint32_t))
    shape.count = n
    shape.uses = 0
    shape.vtype = body[8]
    for j in range(n):
        index = intern_series(g, load64(item), shape.vtype)
        if index < 0:
            return NO_MEMORY
        lists_of(g)[shape.start + j] = <uint32_t>index
        item += step_of(item, shape.vtype)
    g.lists.size += n * sizeof(uint32_t)
    g.shapes.size += sizeof(Shape)
    g.shape_count += 1
    return OK

cdef inline int assign_shapes(
    Group *g, const uint8_t *rows, const uint8_t *end, uint32_t *table, uint32_t mask,
) noexcept nogil:
    """Give every well-formed READINGS row its shape. `table` has mask + 1 empty slots."""
    cdef Row row
    cdef uint32_t i, slot
    cdef int n
    cdef uint64_t mark
    for i in range(g.records):
        next_row(&rows, end, &row)
        if row.head[4] != KIND_READINGS or row.head[5] or load16(row.head + 6):
            continue
        n = readings_count(row.body, row.body_size)
        if n < 0:
            continue
        mark = mark_of(row.body, n)
        slot = mark & mask
        while table[slot] and not (
            shapes_of(g)[table[slot] - 1].mark == mark
            and is_shape(g, shapes_of(g) + table[slot] - 1, row.body, n)
        ):
            slot = (slot + 1) & mask
        if not table[slot]:
            if add_shape(g, mark, row.body, n) != OK:
                return NO_MEMORY
            table[slot] = g.shape_count
        g.order[i] = table[slot]
        g.times[i] = <int64_t>load64(row.body)
        shapes_of(g)[table[slot] - 1].uses += 1
    return OK

cdef inline int lay_columns(Group *g) noexcept nogil:
    """Count the readings of each series and give each its column in `values`."""
    cdef uint32_t h, j, i
    cdef Shape *shape
    cdef Series *s = series_of(g)
    g.readings = 0
    for h in range(g.shape_count):
        shape = shapes_of(g) + h
        for j in range(shape.count):
            s[lists_of(g)[shape.start + j]].count += shape.uses
    for i in range(g.series_count):
        s[i].start = g.readings
        g.readings += s[i].count
    g.values = <uint64_t *>malloc((g.readings + 1) * sizeof(uint64_t))
    return OK if g.values != NULL else NO_MEMORY

cdef inline void fill_columns(Group *g, const uint8_t *rows, const uint8_t *end) noexcept nogil:
    cdef Row row
    cdef Shape *shape
    cdef Series *s = series_of(g)
    cdef Series *one
    cdef uint32_t *members
    cdef const uint8_t *item
    cdef uint32_t i, j
    for i in range(g.records):
        next_row(&rows, end, &row)
        if not g.order[i]:
            continue
        shape = shapes_of(g) + g.order[i] - 1
        members = lists_of(g) + shape.start
        item = row.body + READINGS_HEAD_BYTES
        for j in range(shape.count):
            one = s + members[j]
            if shape.vtype != VT_TEXT:
                g.values[one.start + one.filled] = load64(item + 8)
                item += 16
            else:
                g.values[one.start + one.filled] = <uint64_t>(item + 8)
                item += step_of(item, VT_TEXT)
            one.filled += 1

cdef inline int group_rows(
    Group *g, const uint8_t *rows, const uint8_t *end, uint32_t records,
) noexcept nogil:
    """Group `records` rows already known to be well framed. `g` must be zeroed; free it always."""
    cdef uint32_t mask = 1
    cdef uint32_t *table
    cdef int status
    if group_alloc(g, records) != OK:
        return NO_MEMORY
    while mask < 2 * records + 2:
        mask *= 2
    table = <uint32_t *>calloc(mask, sizeof(uint32_t))
    if table == NULL:
        return NO_MEMORY
    status = assign_shapes(g, rows, end, table, mask - 1)
    free(table)
    if status == OK:
        status = lay_columns(g)
    if status == OK:
        fill_columns(g, rows, end)
    return status
