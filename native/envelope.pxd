"""What both codecs of a batch begin with: sizes, event ids as ranges, chains that do not follow.

`raw_size u32 | version u8 | records | ranges (origin u64, first, count)* | oddities (index,
chain u64)*`, plain integers as varints. An oddity is a record whose chain is not the mix of the one
before it: a loss record in the place of a damaged one keeps the chain that was there.
"""

from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memset

from buffer cimport (
    DAMAGED, NO_MEMORY, OK, TOO_LARGE, Buf, Cur, buf_free, load32, put8, put32, put64, put_bytes,
    put_varint, store64, take8, take32, take64, take_count, take_varint,
)
from hash cimport hash_record, mix_chain
from rows cimport ROW_BYTES, Row, next_row, row_chain, row_number, row_origin, seal_row

cdef enum:
    BATCH_VERSION = 1

cdef struct Envelope:
    uint32_t raw_size  # of the rows
    uint32_t records
    uint32_t ranges
    uint32_t oddities
    Cur range_list
    Cur oddity_list
    Cur rest

cdef inline int count_rows(const uint8_t *rows, size_t size, uint32_t *records) noexcept nogil:
    cdef const uint8_t *at = rows
    cdef const uint8_t *end = rows + size
    cdef Row row
    cdef uint32_t n = 0
    while at < end:
        if not next_row(&at, end, &row):
            return DAMAGED
        n += 1
    records[0] = n
    return OK

cdef inline int put_range(
    Buf *out, uint64_t origin, uint64_t first, uint64_t count,
) noexcept nogil:
    if put64(out, origin) or put_varint(out, first) or put_varint(out, count):
        return NO_MEMORY
    return OK

cdef inline int put_ids(Buf *out, const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Write runs of (origin, first number, count); `out` gets their number first."""
    cdef Row row
    cdef const uint8_t *again = at
    cdef uint64_t origin = 0, number = 0, count = 0
    cdef uint32_t ranges = 0
    cdef int status = OK
    while again < end:
        next_row(&again, end, &row)
        if not ranges or row_origin(&row) != origin or row_number(&row) != number + 1:
            ranges += 1
        origin, number = row_origin(&row), row_number(&row)
    status = put_varint(out, ranges)
    while at < end and status == OK:
        next_row(&at, end, &row)
        if count and row_origin(&row) == origin and row_number(&row) == number + count:
            count += 1
            continue
        if count:
            status = put_range(out, origin, number, count)
        origin, number, count = row_origin(&row), row_number(&row), 1
    if count and status == OK:
        status = put_range(out, origin, number, count)
    return status

cdef inline int put_oddities(
    Buf *out, const uint8_t *at, const uint8_t *end, bint knows_chain, uint64_t chain,
) noexcept nogil:
    """Write the chains that `unpack` could not compute. Without `chain` the first is trusted."""
    cdef Row row
    cdef Buf odd
    cdef uint64_t expected, count = 0, index = 0
    cdef int status = OK
    memset(&odd, 0, sizeof(Buf))
    while at < end and status == OK:
        next_row(&at, end, &row)
        expected = mix_chain(chain, hash_record(
            row.head[4], row_origin(&row), row_number(&row), row.body, row.body_size))
        chain = row_chain(&row)
        if chain != expected and (index or knows_chain):
            count += 1
            if put_varint(&odd, index) or put64(&odd, chain):
                status = NO_MEMORY
        index += 1
    if status == OK:
        status = put_varint(out, count)
    if status == OK:
        status = put_bytes(out, odd.data, odd.size)
    buf_free(&odd)
    return status

cdef inline int put_envelope(
    Buf *out, const uint8_t *rows, size_t size, uint32_t records, bint knows_chain, uint64_t chain,
) noexcept nogil:
    if put32(out, <uint32_t>size) or put8(out, BATCH_VERSION) or put_varint(out, records):
        return NO_MEMORY
    if put_ids(out, rows, rows + size) != OK:
        return NO_MEMORY
    return put_oddities(out, rows, rows + size, knows_chain, chain)

cdef inline int take_envelope(
    Cur c, Envelope *e, uint64_t limit_bytes, uint64_t limit_records,
) noexcept nogil:
    """Check the envelope and find its parts; the lists are walked here, so later walks succeed."""
    cdef uint8_t version
    cdef uint64_t origin, first, count, total = 0, index, before = 0
    cdef uint32_t i, _r
    if not take32(&c, &e.raw_size) or not take8(&c, &version) or version != BATCH_VERSION:
        return DAMAGED
    if not take_varint(&c, &count):
        return DAMAGED
    if count > limit_records or e.raw_size > limit_bytes:
        return TOO_LARGE
    e.records = <uint32_t>count
    if <uint64_t>e.raw_size < count * ROW_BYTES or not take_count(&c, count, &e.ranges):
        return DAMAGED
    e.range_list.at = c.at
    for _r in range(e.ranges):
        if not take64(&c, &origin) or not take_varint(&c, &first) or not take_varint(&c, &count):
            return DAMAGED
        if count == 0 or count > e.records - total:
            return DAMAGED
        total += count
    e.range_list.end = c.at
    if total != e.records or not take_count(&c, total, &e.oddities):
        return DAMAGED
    e.oddity_list.at = c.at
    for i in range(e.oddities):
        if not take_varint(&c, &index) or index >= total or (i and index <= before):
            return DAMAGED
        if not take64(&c, &origin):
            return DAMAGED
        before = index
    e.oddity_list.end = c.at
    e.rest = c
    return OK

cdef inline uint64_t finish_rows(
    const Envelope *e, uint8_t *rows, uint64_t chain, bint seal, uint8_t lane, uint64_t seq,
) noexcept nogil:
    """Fill ids and chains into rows whose lengths, kinds and bodies are there; returns the last.

    With `seal` the checksums too, which takes as long again.
    """
    cdef Cur ids = e.range_list
    cdef Cur odd = e.oddity_list
    cdef uint64_t origin = 0, number = 0, count = 0, odd_index = 0
    cdef uint32_t i, size
    cdef bint is_odd = take_varint(&odd, &odd_index)
    for i in range(e.records):
        if count == 0:
            take64(&ids, &origin)
            take_varint(&ids, &number)
            take_varint(&ids, &count)
        size = load32(rows)
        store64(rows + 20, origin)
        store64(rows + 28, number)
        chain = mix_chain(
            chain, hash_record(rows[8], origin, number, rows + ROW_BYTES, size - 32))
        if is_odd and odd_index == i:
            take64(&odd, &chain)
            is_odd = take_varint(&odd, &odd_index)
        store64(rows + 12, chain)
        if seal:
            seal_row(rows, seq + i, lane)
        rows += 4 + size
        number += 1
        count -= 1
    return chain
