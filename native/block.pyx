# cython: language_level=3, auto_pickle=False, autotestdict=False
"""ESB1: packed points of one series, at most 8,192 of them (docs/block-format.md).

    off size field
     0   4   magic "ESB1"
     4   1   version 1            5   1   value type: 0 f64, 1 i64, 2 bool, 3 text
     6   1   time codec           7   1   value codec (times.pxd, values.pxd, texts.pxd)
     8   4   n points            12   1   exponent of DEC_FOR
    13   1   flags               14   1   power of ten of LINEAR      15  1  0
    16   8   series id           24   8   first time                  32  8  step or unit
    40   4   size of times       44   4   size of values
    48   4   exceptions          52   4   size of the block
    56   4   CRC-32C of bytes [64, size)                  60  4   CRC-32C of bytes [0, 60)
    64       times | values | exceptions | stats

Two checksums: the header can be trusted, and its stats offset used, without reading the points.
Whatever the bytes are, decoding ends in points or in RecordError.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeUTF8
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcmp, memcpy, memset

import array
from collections.abc import Sequence

from edgesync.errors import RecordError

from aggregate cimport Moments, Totals, aggregate, has_nan, roll_up
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, Buf, Cur, buf_free, buf_need, left, load32, load64, put32,
    put_bytes, put_varint, store32, store64, take_varint,
)
from crc cimport crc32c
from lz4 cimport LZ4_MAX_INPUT_SIZE
from rows cimport VT_BOOL, VT_F64, VT_TEXT
from section cimport DIRECTORY, POINTS_MAX
from texts cimport address_texts, choose_texts, take_texts
from times cimport TimeHead, put_times, take_times
from values cimport (
    EXCEPTION_BYTES, V_DEC_FOR, Scratch, ValueHead, choose_values, free_scratch, new_scratch,
    put_exceptions, take_exceptions, take_values,
)

cdef enum:
    HEADER_BYTES = 64
    VERSION = 1
    STATS_BYTES = 72
    TEXT_BYTES_MAX = 64 << 20  # of all texts in a block
    HAS_EXCEPTIONS = 1
    HAS_NAN = 2
    IS_UNORDERED = 4
    IS_OPAQUE = 8  # texts were given as bytes and come back as bytes
    HAS_STATS = 16
    FLAGS = 31

cdef array.array INTS = array.array("q")
cdef array.array FLOATS = array.array("d")

cdef struct Head:
    uint64_t series
    TimeHead times
    ValueHead values
    uint32_t n
    uint32_t times_size
    uint32_t values_size
    uint32_t size
    uint8_t vtype
    uint8_t flags


@cython.final
cdef class Stats:
    """What a block says about its points without being decoded.

    Of f64, i64 and bool, as doubles; a block with a nan has none. m2 is the sum of squared
    distances from the mean, so that blocks can be merged.
    """

    cdef readonly int count
    cdef readonly object time_first
    cdef readonly object time_last
    cdef readonly double first
    cdef readonly double last
    cdef readonly double min
    cdef readonly double max
    cdef readonly double sum
    cdef readonly double mean
    cdef readonly double m2


def encode(
    series: int, vtype: int, times: array.array[int],
    values: array.array[float] | array.array[int] | Sequence[str] | Sequence[bytes],
    *, stats: bool = True,
) -> bytes:
    """Pack 1 to 8,192 points; the codecs are those that come out smallest.

    times   array("q"), nanoseconds since 1970 UTC, in any order
    values  array("d") for F64, array("q") for I64 and for BOOL (0 or 1), str or bytes for TEXT
    stats   keep aggregates in the block (72 bytes)

    Raises RecordError for other numbers of points, unequal lengths and values of another type.
    """
    cdef uint32_t n = <uint32_t>min(len(times), POINTS_MAX + 1)
    cdef Buf arena
    cdef Head head
    cdef Scratch *s = NULL
    if n < 1 or n > POINTS_MAX or len(values) != n:
        raise RecordError(
            f"{len(times)} times with {len(values)} values; 1..{POINTS_MAX} of each in a block")
    memset(&head, 0, sizeof(Head))
    memset(&arena, 0, sizeof(Buf))
    head.series, head.n = series, n
    head.vtype = <uint8_t>checked_vtype(vtype)
    try:
        s = new_scratch()
        if s == NULL:
            raise MemoryError
        # Copies: another thread may change its arrays while ours are encoded.
        copy_array(s.own_times, times, b"q", n)
        gather(&head, s.own_values, &arena, values)
        return packed(&head, s, stats)
    finally:
        free_scratch(s)
        buf_free(&arena)


cdef int checked_vtype(vtype) except -1:
    if not 0 <= vtype <= VT_TEXT:
        raise RecordError(f"unknown value type {vtype}")
    return vtype


cdef int copy_array(void *to, object source, char typecode, uint32_t n) except -1:
    """Copy n items of an array; raises RecordError unless it is an array of this type."""
    if not isinstance(source, array.array) or (<array.array>source).ob_descr.typecode != typecode:
        raise RecordError(f"not an array of typecode {chr(typecode)!r}: {type(source).__name__}")
    memcpy(to, (<array.array>source).data.as_voidptr, 8 * <size_t>n)
    return 0


cdef int gather(Head *head, uint64_t *to, Buf *arena, object values) except -1:
    cdef uint32_t i
    if head.vtype == VT_TEXT:
        return gather_texts(head, to, arena, values)
    copy_array(to, values, b"d" if head.vtype == VT_F64 else b"q", head.n)
    if head.vtype == VT_BOOL:
        for i in range(head.n):
            if to[i] > 1:
                raise RecordError(f"point {i}: a bool is 0 or 1")
    return 0


cdef int gather_texts(Head *head, uint64_t *to, Buf *arena, object values) except -1:
    cdef bytes text
    cdef size_t limit
    cdef uint32_t i = 0
    cdef list held = list(values)
    if isinstance(held[0], bytes):
        head.flags |= IS_OPAQUE
    for value in held:
        if isinstance(value, bytes) != bool(head.flags & IS_OPAQUE):
            raise RecordError("texts of a block are all str or all bytes")
        try:
            text = value if head.flags & IS_OPAQUE else (<str?>value).encode()
        except (TypeError, UnicodeEncodeError) as error:
            raise RecordError(f"point {i}: {error}") from error
        limit = <size_t>min(TEXT_BYTES_MAX, LZ4_MAX_INPUT_SIZE)
        if arena.size + PyBytes_GET_SIZE(text) + 4 > limit:
            raise RecordError(f"texts of more than {TEXT_BYTES_MAX} bytes")
        to[i] = arena.size
        if put32(arena, <uint32_t>PyBytes_GET_SIZE(text)) != OK:
            raise MemoryError
        if put_bytes(arena, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text)) != OK:
            raise MemoryError
        i += 1
    address_texts(to, head.n, arena)
    return 0


cdef bytes packed(Head *head, Scratch *s, bint stats):
    cdef Buf out
    cdef int status
    memset(&out, 0, sizeof(Buf))
    try:
        with nogil:
            status = put_block(&out, head, s.own_times, s.own_values, s, stats)
        if status != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef int put_block(
    Buf *out, Head *head, const int64_t *t, const uint64_t *v, Scratch *s, bint stats,
) noexcept nogil:
    cdef Moments m
    cdef int status
    if buf_need(out, HEADER_BYTES + STATS_BYTES) != OK:
        return NO_MEMORY
    out.size = HEADER_BYTES
    status = put_times(out, t, head.n, DIRECTORY, &s.times, &head.times)
    head.times_size = <uint32_t>(out.size - HEADER_BYTES)
    if status != OK:
        return status
    if head.vtype == VT_TEXT:
        status = choose_texts(s, v, head.n, DIRECTORY, &head.values)
    else:
        status = choose_values(s, v, head.n, head.vtype, DIRECTORY, &head.values)
    if status == OK:
        status = put_bytes(out, s.best.data, s.best.size)
    if status == OK:
        status = put_exceptions(out, s, &head.values)
    if status != OK:
        return status
    head.values_size = <uint32_t>s.best.size
    head.flags |= order_flag(t, head.n) | (HAS_EXCEPTIONS if head.values.exceptions else 0)
    if head.vtype != VT_TEXT:
        if head.vtype == VT_F64 and has_nan(v, head.n):
            head.flags |= HAS_NAN
        elif stats:
            head.flags |= HAS_STATS
            aggregate(v, head.n, head.vtype == VT_F64, &m)
            status = put_stats(out, t[head.n - 1], &m)
    head.size = <uint32_t>out.size
    put_head(out.data, head)
    return status


cdef uint8_t order_flag(const int64_t *t, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(1, n):
        if t[i] < t[i - 1]:
            return IS_UNORDERED
    return 0


cdef int put_stats(Buf *out, int64_t time_last, const Moments *m) noexcept nogil:
    if put_bytes(out, &time_last, 8) != OK:
        return NO_MEMORY
    return put_bytes(out, m, sizeof(Moments))


cdef void put_head(uint8_t *to, const Head *head) noexcept nogil:
    memcpy(to, b"ESB1", 4)
    to[4] = VERSION
    to[5] = head.vtype
    to[6] = head.times.codec
    to[7] = head.values.codec
    store32(to + 8, head.n)
    to[12] = head.values.exponent
    to[13] = head.flags
    to[14] = head.times.power
    to[15] = 0
    store64(to + 16, head.series)
    store64(to + 24, <uint64_t>head.times.first)
    store64(to + 32, <uint64_t>head.times.step)
    store32(to + 40, head.times_size)
    store32(to + 44, head.values_size)
    store32(to + 48, head.values.exceptions)
    store32(to + 52, head.size)
    store32(to + 56, crc32c(0, to + HEADER_BYTES, head.size - HEADER_BYTES))
    store32(to + 60, crc32c(0, to, 60))


cdef int take_head(const uint8_t *at, size_t size, Head *head) noexcept nogil:
    """Read the header and check that its parts add up to the block."""
    cdef uint64_t total
    if size < HEADER_BYTES or memcmp(at, b"ESB1", 4) != 0 or at[4] != VERSION:
        return DAMAGED
    if load32(at + 60) != crc32c(0, at, 60):
        return DAMAGED
    head.vtype = at[5]
    head.times.codec = at[6]
    head.values.codec = at[7]
    head.n = load32(at + 8)
    head.values.exponent = at[12]
    head.flags = at[13]
    head.times.power = at[14]
    head.series = load64(at + 16)
    head.times.first = <int64_t>load64(at + 24)
    head.times.step = <int64_t>load64(at + 32)
    head.times_size = load32(at + 40)
    head.values_size = load32(at + 44)
    head.values.exceptions = load32(at + 48)
    head.size = load32(at + 52)
    if head.n < 1 or head.n > POINTS_MAX or head.vtype > VT_TEXT or head.flags & ~FLAGS or at[15]:
        return DAMAGED
    if head.values.exceptions > head.n or (
        (head.values.exceptions != 0) != ((head.flags & HAS_EXCEPTIONS) != 0)
    ):
        return DAMAGED
    if head.values.exceptions and head.values.codec != V_DEC_FOR:
        return DAMAGED
    total = <uint64_t>HEADER_BYTES + head.times_size + head.values_size
    total += EXCEPTION_BYTES * <uint64_t>head.values.exceptions
    total += STATS_BYTES if head.flags & HAS_STATS else 0
    return OK if total == head.size and total == size else DAMAGED


cdef int take_points(
    const uint8_t *at, const Head *head, uint64_t *t, uint64_t *v, Buf *arena,
) noexcept nogil:
    cdef Cur c
    if load32(at + 56) != crc32c(0, at + HEADER_BYTES, head.size - HEADER_BYTES):
        return DAMAGED
    c.at = at + HEADER_BYTES
    return take_sections(&c, head, t, v, arena)


cdef int take_sections(
    Cur *c, const Head *head, uint64_t *t, uint64_t *v, Buf *arena,
) noexcept nogil:
    cdef int status
    c.end = c.at + head.times_size
    status = take_times(c, t, head.n, DIRECTORY, &head.times)
    if status != OK or c.at != c.end:
        return DAMAGED
    c.end += head.values_size
    if head.vtype == VT_TEXT:
        status = take_texts(c, v, head.n, DIRECTORY, &head.values, arena, TEXT_BYTES_MAX)
        if status == OK:
            address_texts(v, head.n, arena)
    else:
        status = take_values(c, v, head.n, head.vtype, DIRECTORY, &head.values)
    if status != OK or c.at != c.end:
        return DAMAGED if status == OK else status
    c.end += EXCEPTION_BYTES * <size_t>head.values.exceptions
    return take_exceptions(c, v, head.n, head.values.exceptions)


cdef int open_block(bytes block, Head *head) except -1:
    cdef size_t size = PyBytes_GET_SIZE(block)
    if take_head(<const uint8_t *>PyBytes_AS_STRING(block), size, head) != OK:
        raise RecordError(f"{size} bytes that are no ESB1 block")
    return 0


def decode(
    block: bytes,
) -> tuple[int, int, array.array[int], array.array[float] | array.array[int] | list[str]]:
    """Return (series, vtype, times, values); raises RecordError on anything that is not a block."""
    cdef Head head
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(block)
    cdef array.array times, values
    cdef uint64_t *t
    cdef uint64_t *v
    cdef Buf arena
    cdef int status
    open_block(block, &head)
    times = array.clone(INTS, head.n, False)
    values = array.clone(FLOATS if head.vtype == VT_F64 else INTS, head.n, False)
    t = <uint64_t *>times.data.as_voidptr
    v = <uint64_t *>values.data.as_voidptr
    memset(&arena, 0, sizeof(Buf))
    try:
        with nogil:
            status = take_points(at, &head, t, v, &arena)
        if status == NO_MEMORY:
            raise MemoryError
        if status != OK:
            raise RecordError("ESB1 block is damaged")
        if head.vtype == VT_TEXT:
            return head.series, VT_TEXT, times, texts_of(v, &head)
        return head.series, head.vtype, times, values
    finally:
        buf_free(&arena)


cdef list texts_of(const uint64_t *addresses, const Head *head):
    """One object for each distinct text; a dictionary may name a long one 8,192 times."""
    cdef list texts = []
    cdef dict made = {}
    cdef uint64_t total = 0
    cdef uint32_t i
    for i in range(head.n):
        total += load32(<const uint8_t *>addresses[i])
        if total > TEXT_BYTES_MAX:
            raise RecordError(f"texts of more than {TEXT_BYTES_MAX} bytes")
        text = made.get(addresses[i])
        if text is None:
            text = text_of(<const char *>addresses[i], head.flags & IS_OPAQUE)
            made[addresses[i]] = text
        texts.append(text)
    return texts


cdef object text_of(const char *text, bint opaque):
    if opaque:
        return PyBytes_FromStringAndSize(text + 4, load32(text))
    try:
        return PyUnicode_DecodeUTF8(text + 4, load32(text), NULL)
    except UnicodeDecodeError as error:
        raise RecordError(f"a text of the block is not UTF-8: {error.reason}") from error


# -- runs: the short form, for a container that has its own checksum -------------------------------
#
#   0  vtype | time codec << 2 | value codec << 4     1  exponent     2  power of ten of LINEAR
#   3  varints: n, first time - base (zigzag), step (zigzag), sizes of times and values, exceptions
#      times | values | exceptions

def encode_run(
    vtype: int, times: array.array[int],
    values: array.array[float] | array.array[int] | Sequence[str], base_ns: int,
) -> bytes:
    """Pack 1 to 8,192 points without checksum, name and statistics; raises as `encode` does."""
    cdef uint32_t n = <uint32_t>min(len(times), POINTS_MAX + 1)
    cdef int64_t base = base_ns
    cdef Buf arena
    cdef Buf out
    cdef Head head
    cdef Scratch *s = NULL
    cdef int status
    if n < 1 or n > POINTS_MAX or len(values) != n:
        raise RecordError(
            f"{len(times)} times with {len(values)} values; 1..{POINTS_MAX} of each in a run")
    memset(&head, 0, sizeof(Head))
    memset(&arena, 0, sizeof(Buf))
    memset(&out, 0, sizeof(Buf))
    head.n = n
    head.vtype = <uint8_t>checked_vtype(vtype)
    try:
        s = new_scratch()
        if s == NULL:
            raise MemoryError
        copy_array(s.own_times, times, b"q", n)
        gather(&head, s.own_values, &arena, values)
        if head.flags & IS_OPAQUE:
            raise RecordError("texts of a run are str")
        with nogil:
            status = put_run(&out, &head, base, s)
        if status != OK:
            raise MemoryError
        return PyBytes_FromStringAndSize(<const char *>out.data, out.size)
    finally:
        free_scratch(s)
        buf_free(&arena)
        buf_free(&out)


cdef inline uint64_t to_zigzag(uint64_t v) noexcept nogil:
    return v << 1 ^ (~<uint64_t>0 if v >> 63 else 0)


cdef inline uint64_t from_zigzag(uint64_t v) noexcept nogil:
    return v >> 1 ^ (~<uint64_t>0 if v & 1 else 0)


cdef int put_run(Buf *out, Head *head, int64_t base, Scratch *s) noexcept nogil:
    """Sections first, for their sizes stand in front of them; then both are put together."""
    cdef Buf times
    cdef uint8_t codecs[3]
    cdef int status
    memset(&times, 0, sizeof(Buf))
    status = put_times(&times, s.own_times, head.n, DIRECTORY, &s.times, &head.times)
    if status == OK:
        if head.vtype == VT_TEXT:
            status = choose_texts(s, s.own_values, head.n, DIRECTORY, &head.values)
        else:
            status = choose_values(
                s, s.own_values, head.n, head.vtype, DIRECTORY, &head.values)
    if status == OK:
        codecs[0] = head.vtype | head.times.codec << 2 | head.values.codec << 4
        codecs[1] = head.values.exponent
        codecs[2] = head.times.power
        status = put_bytes(out, codecs, 3)
        status = status or put_varint(out, head.n)
        status = status or put_varint(
            out, to_zigzag(<uint64_t>head.times.first - <uint64_t>base))
        status = status or put_varint(out, to_zigzag(<uint64_t>head.times.step))
        status = status or put_varint(out, times.size)
        status = status or put_varint(out, s.best.size)
        status = status or put_varint(out, head.values.exceptions)
        status = status or put_bytes(out, times.data, times.size)
        status = status or put_bytes(out, s.best.data, s.best.size)
        status = status or put_exceptions(out, s, &head.values)
    buf_free(&times)
    return status


cdef int take_run_head(Cur *c, int64_t base, Head *head) noexcept nogil:
    cdef uint64_t first, step, n, times_size, values_size, exceptions
    if left(c) < 3:
        return DAMAGED
    head.vtype = c.at[0] & 3
    head.times.codec = c.at[0] >> 2 & 3
    head.values.codec = c.at[0] >> 4
    head.values.exponent = c.at[1]
    head.times.power = c.at[2]
    c.at += 3
    if not (
        take_varint(c, &n) and take_varint(c, &first) and take_varint(c, &step)
        and take_varint(c, &times_size) and take_varint(c, &values_size)
        and take_varint(c, &exceptions)
    ):
        return DAMAGED
    if n < 1 or n > POINTS_MAX or exceptions > n or times_size > left(c):
        return DAMAGED
    if exceptions and head.values.codec != V_DEC_FOR:
        return DAMAGED
    if values_size > left(c) or times_size + values_size + EXCEPTION_BYTES * exceptions != left(c):
        return DAMAGED
    head.n = <uint32_t>n
    head.times.first = <int64_t>(from_zigzag(first) + <uint64_t>base)
    head.times.step = <int64_t>from_zigzag(step)
    head.times_size, head.values_size = <uint32_t>times_size, <uint32_t>values_size
    head.values.exceptions = <uint32_t>exceptions
    return OK


def decode_run(
    run: bytes, base_ns: int,
) -> tuple[int, array.array[int], array.array[float] | array.array[int] | list[str]]:
    """Return (vtype, times, values) of what `encode_run` made; raises RecordError."""
    cdef Head head
    cdef Cur c
    cdef array.array times, values
    cdef uint64_t *t
    cdef uint64_t *v
    cdef Buf arena
    cdef int status
    memset(&head, 0, sizeof(Head))
    memset(&arena, 0, sizeof(Buf))
    c.at = <const uint8_t *>PyBytes_AS_STRING(run)
    c.end = c.at + PyBytes_GET_SIZE(run)
    if take_run_head(&c, base_ns, &head) != OK:
        raise RecordError(f"{PyBytes_GET_SIZE(run)} bytes that are no run of points")
    times = array.clone(INTS, head.n, False)
    values = array.clone(FLOATS if head.vtype == VT_F64 else INTS, head.n, False)
    t = <uint64_t *>times.data.as_voidptr
    v = <uint64_t *>values.data.as_voidptr
    try:
        with nogil:
            status = take_sections(&c, &head, t, v, &arena)
        if status == NO_MEMORY:
            raise MemoryError
        if status != OK:
            raise RecordError("a run of points is damaged")
        if head.vtype == VT_TEXT:
            return VT_TEXT, times, texts_of(v, &head)
        return head.vtype, times, values
    finally:
        buf_free(&arena)


def stats(block: bytes) -> Stats | None:
    """Return the block's aggregates, None where it has none; the points stay packed.

    Raises RecordError on anything that is not a block.
    """
    cdef Head head
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(block)
    cdef Moments m
    cdef Stats result
    open_block(block, &head)
    if load32(at + 56) != crc32c(0, at + HEADER_BYTES, head.size - HEADER_BYTES):
        raise RecordError("ESB1 block is damaged")
    if not head.flags & HAS_STATS:
        return None
    at += head.size - STATS_BYTES
    memcpy(&m, at + 8, sizeof(Moments))
    result = Stats.__new__(Stats)
    result.count = head.n
    result.time_first = head.times.first
    result.time_last = <int64_t>load64(at)
    result.first, result.last, result.min, result.max = m.first, m.last, m.low, m.high
    result.sum, result.mean, result.m2 = m.sum + m.sum_rest, m.mean, m.m2
    return result


def rollup(
    times: array.array[int], values: array.array[float] | array.array[int], width_ns: int,
) -> list[tuple[int, int, float, float, float, float, float]]:
    """Aggregate into aligned buckets: (bucket start, count, min, max, sum, first, last).

    A bucket begins at a multiple of `width_ns`. Points need not be in order of time: first and
    last are those of the earliest and the latest time, of equal ones the one given first and last.
    nan is no number and is left out. Buckets come in order; raises RecordError if width_ns < 1.
    """
    cdef const int64_t[::1] t = times
    cdef const double[::1] floats
    cdef const int64_t[::1] ints
    cdef const void *v
    cdef int64_t width = width_ns
    cdef bint is_float = values.typecode == "d"
    cdef Py_ssize_t n = t.shape[0]
    cdef Buf out
    cdef Py_ssize_t count
    if width < 1 or n != len(values):
        raise RecordError(f"{n} times, {len(values)} values, buckets of {width} ns")
    if n == 0:
        return []
    if is_float:
        floats = values
        v = &floats[0]
    else:
        ints = values
        v = &ints[0]
    memset(&out, 0, sizeof(Buf))
    try:
        with nogil:
            count = roll_up(&out, &t[0], v, n, is_float, width)
        if count < 0:
            raise MemoryError
        return totals_of(<const Totals *>out.data, count)
    finally:
        buf_free(&out)


cdef list totals_of(const Totals *b, Py_ssize_t count):
    """Merge the runs of equal buckets, which points out of order leave behind."""
    cdef dict by_start = {}
    cdef Py_ssize_t i
    for i in range(count):
        run = (b[i].start, b[i].count, b[i].low, b[i].high, b[i].sum, b[i].first, b[i].last)
        span = (b[i].first_at, b[i].last_at)
        held = by_start.get(b[i].start)
        by_start[b[i].start] = (run, span) if held is None else merged(held, (run, span))
    return [by_start[start][0] for start in sorted(by_start)]


cdef tuple merged(tuple a, tuple b):
    (start, n, low, high, total, first, last), (first_at, last_at) = a
    (_, n2, low2, high2, total2, first2, last2), (first_at2, last_at2) = b
    if first_at2 < first_at:
        first, first_at = first2, first_at2
    if last_at2 >= last_at:
        last, last_at = last2, last_at2
    run = (start, n + n2, min(low, low2), max(high, high2), total + total2, first, last)
    return run, (first_at, last_at)
