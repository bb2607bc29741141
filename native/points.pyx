# cython: boundscheck=False, wraparound=False, cdivision=True
"""Readings of many series, taken apart: by series, and by time for the journal.

They come as objects, or as a column: three arrays of the same length, which series (its place in a
list), when, and how much. Taken reading by reading that is several microseconds each in Python,
here a fifth of one, and some tens of nanoseconds in columns.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from collections.abc import Sequence
import array

from edgesync.errors import RecordError

from buffer cimport store64
from rows cimport READINGS_HEAD_BYTES, READINGS_MAX, VT_BOOL, VT_F64

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

cdef enum:
    EMPTY = 0xFFFFFFFF

cdef int64_t EXACT_FLOAT = 1 << 53  # whole numbers up to here are the same number as a float


# A reading as a record has it.
cdef struct Item:
    uint64_t series
    int64_t time_ns
    uint64_t bits
    uint8_t kind

cdef array.array INTS = array.array("q")
cdef array.array FLOATS = array.array("d")


@cython.final
cdef class Part:
    """The readings of one series, in the order in which they came.

    place    of the series, as the caller numbers them
    newest   index of the latest time; of several the one that came last
    earliest, latest   times
    """

    cdef readonly Py_ssize_t place
    cdef readonly array.array times
    cdef readonly array.array values
    cdef readonly Py_ssize_t newest
    cdef readonly object earliest
    cdef readonly object latest

    def __len__(self) -> int:
        return len(self.times)


cdef checked(const uint32_t[::1] places, Py_ssize_t times, Py_ssize_t values, Py_ssize_t limit):
    cdef Py_ssize_t i
    if not places.shape[0] == times == values:
        raise RecordError(
            f"{places.shape[0]} series, {times} times and {values} values; as many of each")
    if places.shape[0] >= EMPTY:
        raise RecordError("more than 4,294,967,294 readings at once")
    for i in range(places.shape[0]):
        if places[i] >= limit:
            raise RecordError(f"series {places[i]} of {limit}")


def parts(places, times, values, Py_ssize_t series) -> list[Part]:
    """Return the readings of each series that has some, in the order of their places.

    places   array("I"), each below `series`; times array("q"); values array("d")

    Raises RecordError for columns that do not belong together.
    """
    cdef const uint32_t[::1] where = places
    cdef const int64_t[::1] at = times
    cdef const double[::1] what = values
    cdef Py_ssize_t n = where.shape[0], i
    cdef uint32_t one
    cdef uint32_t *sizes
    cdef int64_t **to_times = NULL
    cdef double **to_values = NULL
    cdef list found = []
    cdef Part part
    checked(where, at.shape[0], what.shape[0], series)
    sizes = <uint32_t *>calloc(series + 1, sizeof(uint32_t))
    to_times = <int64_t **>malloc((series + 1) * sizeof(void *))
    to_values = <double **>malloc((series + 1) * sizeof(void *))
    try:
        if sizes == NULL or to_times == NULL or to_values == NULL:
            raise MemoryError
        for i in range(n):
            sizes[where[i]] += 1
        for i in range(series):
            if sizes[i]:
                part = Part.__new__(Part)
                part.place = i
                part.times = array.clone(INTS, sizes[i], False)
                part.values = array.clone(FLOATS, sizes[i], False)
                to_times[i] = <int64_t *>part.times.data.as_longlongs
                to_values[i] = part.values.data.as_doubles
                found.append(part)
        for i in range(n):
            one = where[i]
            to_times[one][0] = at[i]
            to_values[one][0] = what[i]
            to_times[one] += 1
            to_values[one] += 1
    finally:
        free(sizes)
        free(to_times)
        free(to_values)
    for part in found:
        mark_ends(part)
    return found


cdef void mark_ends(Part part):
    cdef const int64_t *at = <int64_t *>part.times.data.as_longlongs
    cdef Py_ssize_t i, low = 0, high = 0
    for i in range(len(part.times)):
        if at[i] < at[low]:
            low = i
        if at[i] >= at[high]:
            high = i
    part.newest, part.earliest, part.latest = high, at[low], at[high]


def bodies(places, ids, times, values, Py_ssize_t limit) -> list[bytes]:
    """Return the bodies of READINGS records: one for each time, at most `limit` readings in one.

    ids   array("Q"): the series id of each place

    Times come in the order of their first reading, readings of a time in the order they came: what
    `Intake.stage` makes of the same readings. Raises RecordError as `parts` does.
    """
    cdef const uint32_t[::1] where = places
    cdef const uint64_t[::1] names = ids
    cdef const int64_t[::1] at = times
    cdef const double[::1] what = values
    cdef Py_ssize_t n = where.shape[0], i
    cdef Item *items
    checked(where, at.shape[0], what.shape[0], names.shape[0])
    items = <Item *>malloc((n + 1) * sizeof(Item))
    try:
        if items == NULL:
            raise MemoryError
        for i in range(n):
            items[i].series, items[i].time_ns, items[i].kind = names[where[i]], at[i], VT_F64
            memcpy(&items[i].bits, &what[i], 8)
        return bodies_of(items, n, limit)
    finally:
        free(items)


@cython.final
cdef class Ready:
    """A series whose readings need no further look, if their values are of its type.

    name     its entity and key
    number   its id in records
    unit     its unit
    kind     the type of its values: F64, I64 or BOOL
    """

    cdef readonly tuple name
    cdef readonly uint64_t number
    cdef readonly str unit
    cdef readonly int kind

    def __init__(self, name: tuple[str, str], number: int, unit: str, kind: int) -> None:
        if not VT_F64 <= kind <= VT_BOOL:
            raise ValueError(f"values of type {kind} need a look each")
        self.name, self.number, self.unit, self.kind = name, number, unit, kind


def ready_bodies(readings: Sequence[Reading], ready: dict, limit: int) -> list[bytes] | None:
    """Return the bodies of READINGS records, as `bodies` does; None if any reading needs a look.

    readings   a list or tuple of `Reading`
    ready      Ready of each series that may occur, by entity and key

    A reading needs a look when its series is not in `ready`, has another unit, or its value or time
    would not be stored as it is.
    """
    cdef Py_ssize_t n = len(readings), i
    cdef Item *items = <Item *>malloc((n + 1) * sizeof(Item))
    try:
        if items == NULL:
            raise MemoryError
        for i in range(n):
            if not take_item(&items[i], readings[i], ready):
                return None
        return bodies_of(items, n, limit)
    finally:
        free(items)


cdef bint take_item(Item *item, object reading, dict ready) except -1:
    """Make an item of a reading that needs no look; False for one that does."""
    cdef object found = ready.get((reading.entity, reading.key))
    cdef object value, unit, time_ns
    cdef Ready known
    cdef double number
    cdef int overflow = 0
    if found is None:
        return False
    known = <Ready?>found
    unit = reading.unit
    if unit and unit != known.unit:
        return False
    time_ns, value = reading.time_ns, reading.value
    if type(time_ns) is not int:
        return False
    item.series, item.kind = known.number, known.kind
    item.time_ns = PyLong_AsLongLongAndOverflow(time_ns, &overflow)
    if overflow:
        return False
    if known.kind == VT_F64 and type(value) is float:
        number = value
        memcpy(&item.bits, &number, 8)
        return True
    if type(value) is not (bool if known.kind == VT_BOOL else int):
        return False
    item.bits = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return False
    if known.kind == VT_F64:
        if not -EXACT_FLOAT <= <int64_t>item.bits <= EXACT_FLOAT:
            return False
        number = <double><int64_t>item.bits
        memcpy(&item.bits, &number, 8)
    return True


cdef list bodies_of(const Item *items, Py_ssize_t n, Py_ssize_t limit):
    """Bodies of records for items of any times and types: one for each pair of both."""
    cdef uint32_t *heads = NULL  # of each time and type, its first reading
    cdef uint32_t *next_ = NULL  # of each reading, the next one of the same
    cdef uint32_t *lasts = NULL  # of a first reading, the last one so far
    cdef uint32_t *table = NULL
    cdef uint32_t groups = 0
    cdef Py_ssize_t i
    cdef list found = []
    if not 1 <= limit <= READINGS_MAX:
        raise RecordError(f"{limit} readings in a record; 1..{READINGS_MAX}")
    if n == 0:
        return found
    if n >= EMPTY:
        raise RecordError("more than 4,294,967,294 readings at once")
    heads = <uint32_t *>malloc(n * sizeof(uint32_t))
    next_ = <uint32_t *>malloc(n * sizeof(uint32_t))
    lasts = <uint32_t *>malloc(n * sizeof(uint32_t))
    table = <uint32_t *>malloc(table_size(n) * sizeof(uint32_t))
    try:
        if heads == NULL or next_ == NULL or lasts == NULL or table == NULL:
            raise MemoryError
        groups = link(items, <uint32_t>n, heads, next_, lasts, table)
        for i in range(groups):
            put_bodies(found, items, next_, heads[i], limit)
        return found
    finally:
        free(heads)
        free(next_)
        free(lasts)
        free(table)


cdef uint64_t table_size(Py_ssize_t n) noexcept nogil:
    cdef uint64_t size = 64
    while size < <uint64_t>n * 2:
        size *= 2
    return size


cdef inline bint alike(const Item *a, const Item *b) noexcept nogil:
    return a.time_ns == b.time_ns and a.kind == b.kind


cdef uint32_t link(
    const Item *items, uint32_t n, uint32_t *heads, uint32_t *next_, uint32_t *lasts,
    uint32_t *table,
) noexcept nogil:
    """Make a list of the readings of each time and type; returns how many there are."""
    cdef uint64_t mask = table_size(n) - 1, slot
    cdef uint32_t i, found = 0, head = EMPTY
    memset(table, 0xFF, (mask + 1) * sizeof(uint32_t))
    for i in range(n):
        next_[i] = EMPTY
        if head == EMPTY or not alike(&items[head], &items[i]):
            # Fibonacci's multiplier: steps of a round number of nanoseconds spread as well.
            slot = <uint64_t>items[i].time_ns + items[i].kind
            slot = (slot * <uint64_t>0x9E3779B97F4A7C15) >> 20 & mask
            while table[slot] != EMPTY and not alike(&items[table[slot]], &items[i]):
                slot = (slot + 1) & mask
            head = table[slot]
            if head == EMPTY:
                table[slot] = head = i
                heads[found] = i
                found += 1
                lasts[i] = i
                continue
        next_[lasts[head]] = i
        lasts[head] = i
    return found


cdef put_bodies(
    list found, const Item *items, const uint32_t *next_, uint32_t head, Py_ssize_t limit,
):
    cdef uint32_t i = head, count, j
    cdef bytes body
    cdef uint8_t *out
    while i != EMPTY:
        count, j = 0, i
        while j != EMPTY and count < limit:
            count += 1
            j = next_[j]
        body = PyBytes_FromStringAndSize(NULL, READINGS_HEAD_BYTES + 16 * <Py_ssize_t>count)
        out = <uint8_t *>PyBytes_AS_STRING(body)
        store64(out, <uint64_t>items[i].time_ns)
        store64(out + 8, <uint64_t>items[i].kind | <uint64_t>count << 16)
        out += READINGS_HEAD_BYTES
        while i != j:
            store64(out, items[i].series)
            store64(out + 8, items[i].bits)
            out += 16
            i = next_[i]
        found.append(body)
