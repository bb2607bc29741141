"""Columns of texts: a dictionary when few are distinct, else lengths and one compressed run.

In memory a text is `u32 length | bytes`; a column holds the address of each.

    DICT  count varint, (length varint, bytes)*, packed ids
    LZ4   size of the section varint, section of lengths, then as in bare.pxd: sizes, bytes
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcmp, memset

from bare cimport put_packed, take_packed
from bitpack cimport pack_bits, packed_bytes, unpack_bits, width_of
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, TOO_LARGE, Buf, Cur, buf_free, buf_need, left, load32, put32,
    put_bytes, put_varint, take_count, take_varint,
)
from hash cimport hash64
from section cimport ANY_MODE, POINTS_MAX, plan_section, put_section, take_section
from values cimport V_DICT, V_LZ4, Scratch, ValueHead

cdef enum:
    TEXTS_DISTINCT_MAX = 256
    TEXT_SLOTS = 1024

cdef inline const uint8_t *text_at(uint64_t address) noexcept nogil:
    return <const uint8_t *>address

cdef inline bint same_text(const uint8_t *a, const uint8_t *b) noexcept nogil:
    cdef uint32_t size = load32(a)
    return size == load32(b) and memcmp(a + 4, b + 4, size) == 0

cdef inline uint32_t number_texts(Scratch *s, const uint64_t *texts, uint32_t n) noexcept nogil:
    """Number the distinct texts; 0 when there are more than 256."""
    cdef uint32_t count = 0, slot, i
    cdef const uint8_t *text
    memset(s.slots, 0, TEXT_SLOTS * sizeof(uint16_t))
    for i in range(n):
        text = text_at(texts[i])
        slot = hash64(text + 4, load32(text), 0) & (TEXT_SLOTS - 1)
        while s.slots[slot] and not same_text(text_at(s.dictionary[s.slots[slot] - 1]), text):
            slot = (slot + 1) & (TEXT_SLOTS - 1)
        if not s.slots[slot]:
            if count == TEXTS_DISTINCT_MAX:
                return 0
            s.dictionary[count] = texts[i]
            count += 1
            s.slots[slot] = <uint16_t>count
        s.ids[i] = s.slots[slot] - 1
    return count

cdef inline int put_text_dictionary(Scratch *s, uint32_t n, uint32_t count) noexcept nogil:
    cdef uint32_t i, width = width_of(count - 1)
    cdef const uint8_t *text
    if put_varint(&s.best, count) != OK:
        return NO_MEMORY
    for i in range(count):
        text = text_at(s.dictionary[i])
        if put_varint(&s.best, load32(text)) or put_bytes(&s.best, text + 4, load32(text)):
            return NO_MEMORY
    if buf_need(&s.best, packed_bytes(n, width) + 8) != OK:
        return NO_MEMORY
    pack_bits(s.best.data + s.best.size, s.ids, n, width)
    s.best.size += packed_bytes(n, width)
    return OK

cdef inline int put_text_run(
    Scratch *s, const uint64_t *texts, uint32_t n, int layout,
) noexcept nogil:
    cdef uint32_t i
    cdef const uint8_t *text
    s.planes.size = 0
    for i in range(n):
        text = text_at(texts[i])
        s.mantissas[i] = load32(text)
        if put_bytes(&s.planes, text + 4, load32(text)) != OK:
            return NO_MEMORY
    plan_section(s.plans, s.mantissas, n, ANY_MODE, layout)
    s.trial.size = 0
    if put_section(&s.trial, s.plans, s.mantissas, n, layout) != OK:
        return NO_MEMORY
    s.best.size = 0
    if put_varint(&s.best, s.trial.size) or put_bytes(&s.best, s.trial.data, s.trial.size):
        return NO_MEMORY
    return put_packed(&s.best, s.planes.data, s.planes.size)

cdef inline int choose_texts(
    Scratch *s, const uint64_t *texts, uint32_t n, int layout, ValueHead *head,
) noexcept nogil:
    """Encode 1..8192 texts into `s.best`."""
    cdef uint32_t count = number_texts(s, texts, n)
    head.exponent = 0
    head.exceptions = 0
    s.best.size = 0
    # A dictionary of all different texts is the run, uncompressed.
    if count and (count * 2 <= n or n < 16):
        head.codec = V_DICT
        return put_text_dictionary(s, n, count)
    head.codec = V_LZ4
    return put_text_run(s, texts, n, layout)

cdef inline int keep_text(
    Buf *arena, const uint8_t *bytes, uint32_t size, uint64_t limit, uint64_t *place,
) noexcept nogil:
    """Copy a text to the arena; `place` becomes its offset there."""
    if size > limit or arena.size + 4 + size > limit:
        return TOO_LARGE
    place[0] = arena.size
    return put32(arena, size) or put_bytes(arena, bytes, size)

cdef inline int take_text_dictionary(
    Cur *c, uint64_t *texts, uint32_t n, Buf *arena, uint64_t limit,
) noexcept nogil:
    cdef uint64_t places[TEXTS_DISTINCT_MAX]
    cdef uint32_t count, size, width, i
    cdef int status
    if not take_count(c, TEXTS_DISTINCT_MAX, &count) or count == 0:
        return DAMAGED
    for i in range(count):
        if not take_count(c, 0xFFFFFFFF, &size) or size > left(c):
            return DAMAGED
        status = keep_text(arena, c.at, size, limit, places + i)
        if status != OK:
            return status
        c.at += size
    width = width_of(count - 1)
    if left(c) < packed_bytes(n, width):
        return DAMAGED
    unpack_bits(texts, c.at, n, width)
    c.at += packed_bytes(n, width)
    for i in range(n):
        if texts[i] >= count:
            return DAMAGED
        texts[i] = places[texts[i]]
    return OK

cdef inline int split_run(
    uint64_t *texts, uint32_t n, const Buf *run, Buf *arena, uint64_t limit,
) noexcept nogil:
    cdef size_t at = 0
    cdef uint32_t i
    cdef int status
    for i in range(n):
        if texts[i] > run.size - at:
            return DAMAGED
        status = keep_text(arena, run.data + at, <uint32_t>texts[i], limit, texts + i)
        if status != OK:
            return status
        at += load32(arena.data + texts[i])
    return OK if at == run.size else DAMAGED

cdef inline int take_texts(
    Cur *c, uint64_t *texts, uint32_t n, int layout, const ValueHead *head, Buf *arena,
    uint64_t limit,
) noexcept nogil:
    """Decode n texts to `arena` (at most `limit` bytes there); `texts` become offsets in it."""
    cdef Buf run
    cdef Cur lengths
    cdef uint64_t size
    cdef int status
    if head.codec == V_DICT:
        return take_text_dictionary(c, texts, n, arena, limit)
    if head.codec != V_LZ4 or not take_varint(c, &size) or size > left(c):
        return DAMAGED
    lengths.at = c.at
    lengths.end = c.at + size
    c.at += size
    status = take_section(&lengths, texts, n, layout)
    if status != OK or lengths.at != lengths.end:
        return DAMAGED
    memset(&run, 0, sizeof(Buf))
    status = take_packed(c, &run, limit)
    if status == OK:
        status = split_run(texts, n, &run, arena, limit)
    buf_free(&run)
    return status

cdef inline void address_texts(uint64_t *texts, uint64_t n, const Buf *arena) noexcept nogil:
    """Turn offsets into addresses, once the arena no longer grows."""
    cdef uint64_t i
    for i in range(n):
        texts[i] += <uint64_t>arena.data
