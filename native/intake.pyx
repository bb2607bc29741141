# cython: boundscheck=False, wraparound=False, cdivision=True
"""Readings become records of a `Write`, grouped by time and type.

They come as objects, or as a column. An object costs some 50 nanoseconds where its series is known:
the fields are read where `Reading` has them, and the series is found by the addresses of the two
strings that name it, which a program's readings of a series share.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING
from cpython.object cimport PyObject
from cpython.ref cimport Py_INCREF, Py_REFCNT, Py_XDECREF
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy, memset

from collections.abc import Sequence

from buffer cimport store64
from rows cimport READINGS_HEAD_BYTES, READINGS_MAX, VT_BOOL, VT_F64

from edgesync._native.write cimport Write

from edgesync._native.points import check
from edgesync.errors import RecordError
from edgesync.model import Reading, RecordKind

cdef extern from *:
    """
    #include <structmember.h>

    /* Where an object has a field; -1 if that is no plain slot. */
    static Py_ssize_t edgesync_slot_of(PyObject *descriptor) {
        PyMemberDef *member;
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type))
            return -1;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        return member->type == T_OBJECT_EX ? (Py_ssize_t)member->offset : -1;
    }
    #define edgesync_slot(object, offset) (*(PyObject **)((char *)(object) + (offset)))
    """
    Py_ssize_t edgesync_slot_of(object descriptor)
    PyObject *edgesync_slot(PyObject *thing, Py_ssize_t offset) nogil

cdef extern from "Python.h":
    long long PyLong_AsLongLongAndOverflow(object value, int *overflow) except? -1

cdef enum:
    EMPTY = 0xFFFFFFFF
    WAYS = 4           # places a series may have in the table of addresses
    SLOTS_LEAST = 64
    SLOTS_MOST = 1 << 16
    FLEETING = 2       # references to a string that its reading alone has: that one, and ours

cdef uint64_t MULTIPLIER = 0x9E3779B97F4A7C15  # Fibonacci's

cdef int64_t EXACT_FLOAT = 1 << 53  # whole numbers up to here are the same number as a float

cdef Py_ssize_t ENTITY = edgesync_slot_of(Reading.entity)
cdef Py_ssize_t KEY = edgesync_slot_of(Reading.key)
cdef Py_ssize_t VALUE = edgesync_slot_of(Reading.value)
cdef Py_ssize_t TIME_NS = edgesync_slot_of(Reading.time_ns)
cdef Py_ssize_t UNIT = edgesync_slot_of(Reading.unit)
cdef int READINGS = RecordKind.READINGS
cdef bint HAS_SLOTS = min(ENTITY, KEY, VALUE, TIME_NS, UNIT) > 0


# A reading as a record has it.
cdef struct Item:
    PyObject *ready  # whose reading it is; NULL if it came in a column
    uint64_t series
    int64_t time_ns
    uint64_t bits
    uint8_t kind
    bint is_whole  # came as a whole number, also to a series of floats


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
    cdef int64_t time_ns
    cdef uint64_t bits
    cdef bint is_whole
    cdef bint has_newest
    cdef bint is_shown  # a dict of newest readings has this in the place of one

    def __init__(self, name: tuple[str, str], number: int, unit: str, kind: int) -> None:
        if not VT_F64 <= kind <= VT_BOOL:
            raise ValueError(f"values of type {kind} need a look each")
        self.name, self.number, self.unit, self.kind = name, number, unit, kind

    @property
    def newest(self) -> Reading | None:
        """The last reading noted of it, with the series' unit; None for none."""
        cdef double number
        if not self.has_newest:
            return None
        entity, key = self.name
        if self.kind == VT_F64:
            memcpy(&number, &self.bits, 8)
            value = int(number) if self.is_whole else number
        else:
            value = bool(self.bits) if self.kind == VT_BOOL else <int64_t>self.bits
        return Reading(entity, key, value, self.time_ns, self.unit)


@cython.final
cdef class Newest:
    """Readings of a `Write` that is on its way, to be noted once it is stored."""

    cdef Item *items
    cdef Py_ssize_t count

    def __len__(self):
        return self.count

    def __dealloc__(self):
        cdef Py_ssize_t i
        for i in range(self.count):
            Py_XDECREF(self.items[i].ready)
        free(self.items)

    def note(self, dict newest not None) -> None:
        """Set what `newest` has of each series, by entity and key, to the last reading of it.

        Its Ready is there, which has the reading.
        """
        cdef Ready known
        cdef const Item *item
        cdef Py_ssize_t i
        for i in range(self.count):
            item = &self.items[i]
            known = <Ready>item.ready
            known.time_ns, known.bits, known.is_whole = item.time_ns, item.bits, item.is_whole
            known.has_newest = True
            if not known.is_shown:
                put_newest(newest, known.name, known)
                known.is_shown = True


cdef struct Slot:
    PyObject *entity  # both held, so that no other string has their address
    PyObject *key
    PyObject *ready   # held by the table's dict


@cython.final
cdef class ReadyTable:
    """The series whose readings need no look, by entity and key."""

    cdef dict by_name
    cdef Slot *slots
    cdef uint64_t mask
    cdef uint32_t turn
    cdef bint is_empty

    def __cinit__(self):
        self.by_name = {}
        self.make_slots(SLOTS_LEAST)

    def __dealloc__(self):
        self.free_slots()

    def __len__(self):
        return len(self.by_name)

    def __contains__(self, name):
        return name in self.by_name

    def add(self, Ready one not None) -> None:
        """Add a series, or put it in the place of one of that name."""
        cdef uint64_t size = self.mask + 1
        self.by_name[one.name] = one
        while size < SLOTS_MOST and size < 4 * <uint64_t>len(self.by_name):
            size *= 2
        self.forget(size)

    def discard(self, tuple name not None) -> None:
        """Let the readings of a series be looked at again."""
        self.by_name.pop(name, None)
        self.forget(self.mask + 1)

    def clear(self) -> None:
        self.by_name.clear()
        self.forget(SLOTS_LEAST)

    cdef int forget(self, uint64_t size) except -1:
        """Forget addresses: what they led to may be gone."""
        if self.is_empty and size == self.mask + 1:
            return 0
        self.free_slots()
        self.make_slots(size)
        return 0

    cdef int make_slots(self, uint64_t size) except -1:
        self.mask = 0
        self.slots = <Slot *>calloc(size, sizeof(Slot))
        if self.slots == NULL:
            raise MemoryError
        self.mask = size - 1
        self.is_empty = True
        return 0

    cdef void free_slots(self) noexcept:
        cdef Slot *slots = self.slots
        cdef uint64_t i
        self.slots = NULL
        if slots == NULL:
            return
        for i in range(self.mask + 1):
            Py_XDECREF(slots[i].entity)
            Py_XDECREF(slots[i].key)
        free(slots)

    cdef PyObject *find(self, PyObject *entity, PyObject *key) except? NULL:
        """Borrow the Ready of a series; NULL for none."""
        cdef Slot *slots = &self.slots[self.slot_of(entity, key)]
        cdef int i
        for i in range(WAYS):
            if slots[i].entity == entity and slots[i].key == key:
                return slots[i].ready
        return self.look(<object>entity, <object>key)

    cdef uint64_t slot_of(self, PyObject *entity, PyObject *key) noexcept:
        cdef uint64_t mixed = <uintptr_t>entity >> 4
        mixed = mixed * MULTIPLIER + (<uintptr_t>key >> 4)
        return (mixed * MULTIPLIER >> 32) & self.mask & ~<uint64_t>(WAYS - 1)

    cdef PyObject *look(self, object entity, object key) except? NULL:
        cdef object found = self.by_name.get((entity, key))
        if found is None:
            return NULL
        # A string that only its reading has goes with it: nobody brings its address again.
        if type(entity) is str and type(key) is str and (
            Py_REFCNT(entity) > FLEETING and Py_REFCNT(key) > FLEETING
        ):
            self.remember(entity, key, <PyObject *>found)
        return <PyObject *>found

    cdef void remember(self, object entity, object key, PyObject *found) noexcept:
        cdef uint64_t first = self.slot_of(<PyObject *>entity, <PyObject *>key)
        cdef Slot *slot = &self.slots[first + self.turn % WAYS]
        cdef Slot old = slot[0]
        self.turn += 1
        self.is_empty = False
        Py_INCREF(entity)
        Py_INCREF(key)
        slot[0] = Slot(<PyObject *>entity, <PyObject *>key, found)
        Py_XDECREF(old.entity)
        Py_XDECREF(old.key)

    def stage(
        self, Write write not None, Py_ssize_t lane, readings: Sequence[Reading], Py_ssize_t limit,
    ) -> Newest | None:
        """Append READINGS records to `write`, as `stage` does; if any needs a look, none and None.

        readings   a list or tuple of `Reading`

        A reading needs a look when its series is not here, has another unit, or its value or time
        would not be stored as it is.
        """
        cdef Py_ssize_t n = len(readings)
        cdef Newest found = Newest.__new__(Newest)
        found.items = <Item *>malloc((n + 1) * sizeof(Item))
        if found.items == NULL:
            raise MemoryError
        while found.count < n:
            if not take_item(self, &found.items[found.count], readings[found.count]):
                return None
            Py_INCREF(<object>found.items[found.count].ready)
            found.count += 1
        put_records(write, lane, found.items, n, limit)
        return found


def put_newest(dict newest not None, tuple name not None, one) -> None:
    """Set what a dict of newest readings has under a name."""
    cdef object old = newest.get(name)
    if type(old) is Ready:
        (<Ready>old).is_shown = False
    newest[name] = one


cdef bint take_item(ReadyTable table, Item *item, object reading) except -1:
    """Make an item of a reading that needs no look; False for one that does."""
    cdef PyObject *one = <PyObject *>reading
    if HAS_SLOTS and type(reading) is Reading and (
        edgesync_slot(one, ENTITY) != NULL and edgesync_slot(one, KEY) != NULL
        and edgesync_slot(one, VALUE) != NULL and edgesync_slot(one, TIME_NS) != NULL
        and edgesync_slot(one, UNIT) != NULL
    ):
        # It is frozen, and held meanwhile: what its slots hold stays.
        return take_fields(
            table, item, edgesync_slot(one, ENTITY), edgesync_slot(one, KEY),
            edgesync_slot(one, VALUE), edgesync_slot(one, TIME_NS), edgesync_slot(one, UNIT))
    entity, key, value = reading.entity, reading.key, reading.value
    time_ns, unit = reading.time_ns, reading.unit
    return take_fields(
        table, item, <PyObject *>entity, <PyObject *>key, <PyObject *>value,
        <PyObject *>time_ns, <PyObject *>unit)


cdef bint take_fields(
    ReadyTable table, Item *item, PyObject *entity, PyObject *key, PyObject *value,
    PyObject *time_ns, PyObject *unit,
) except -1:
    cdef PyObject *found = table.find(entity, key)
    cdef Ready known
    cdef int overflow = 0
    if found == NULL:
        return False
    known = <Ready>found
    if unit != <PyObject *>known.unit and <object>unit and <object>unit != known.unit:
        return False
    if type(<object>time_ns) is not int:
        return False
    item.ready, item.series, item.kind = found, known.number, known.kind
    item.time_ns = PyLong_AsLongLongAndOverflow(<object>time_ns, &overflow)
    return not overflow and take_value(item, <object>value)


cdef bint take_value(Item *item, object value) except -1:
    cdef double number
    cdef int overflow = 0
    if item.kind == VT_F64 and type(value) is float:
        number = value
        memcpy(&item.bits, &number, 8)
        item.is_whole = False
        return True
    if type(value) is not (bool if item.kind == VT_BOOL else int):
        return False
    item.is_whole = True
    item.bits = <uint64_t>PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow:
        return False
    if item.kind == VT_F64:
        if not -EXACT_FLOAT <= <int64_t>item.bits <= EXACT_FLOAT:
            return False
        number = <double><int64_t>item.bits
        memcpy(&item.bits, &number, 8)
    return True


def stage(
    Write write not None, Py_ssize_t lane, places, ids, times, values, Py_ssize_t limit,
) -> None:
    """Append READINGS records to `write`: one for each time, at most `limit` readings in one.

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
    check(places, times, values, names.shape[0])
    items = <Item *>malloc((n + 1) * sizeof(Item))
    try:
        if items == NULL:
            raise MemoryError
        for i in range(n):
            items[i].series, items[i].time_ns, items[i].kind = names[where[i]], at[i], VT_F64
            memcpy(&items[i].bits, &what[i], 8)
        put_records(write, lane, items, n, limit)
    finally:
        free(items)


cdef int put_records(
    Write write, Py_ssize_t lane, const Item *items, Py_ssize_t n, Py_ssize_t limit,
) except -1:
    """Append records of items of any times and types: for each pair of both, as few as can be."""
    cdef uint32_t *heads = NULL  # of each time and type, its first reading
    cdef uint32_t *next_ = NULL  # of each reading, the next one of the same
    cdef uint32_t *lasts = NULL  # of a first reading, the last one so far
    cdef uint32_t *table = NULL
    cdef uint32_t groups = 0, i
    cdef bytes bodies
    cdef uint8_t *out
    if not 1 <= limit <= READINGS_MAX:
        raise RecordError(f"{limit} readings in a record; 1..{READINGS_MAX}")
    if n == 0:
        return 0
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
        # Each record but the last of its group is full.
        bodies = write.hold_room(READINGS_HEAD_BYTES * (groups + n // limit) + 16 * n)
        out = <uint8_t *>PyBytes_AS_STRING(bodies)
        for i in range(groups):
            out = put_group(write, lane, out, items, next_, heads[i], limit)
    finally:
        free(heads)
        free(next_)
        free(lasts)
        free(table)
    return 0


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
            slot = slot * MULTIPLIER >> 20 & mask
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


cdef uint8_t *put_group(
    Write write, Py_ssize_t lane, uint8_t *out, const Item *items, const uint32_t *next_,
    uint32_t head, Py_ssize_t limit,
) except NULL:
    """Append the records of one time and type, with their bodies at `out`; returns their end."""
    cdef uint32_t i = head, count
    cdef uint8_t *body
    while i != EMPTY:
        body, count = out, 0
        store64(body, <uint64_t>items[i].time_ns)
        out += READINGS_HEAD_BYTES
        while i != EMPTY and count < limit:
            store64(out, items[i].series)
            store64(out + 8, items[i].bits)
            out += 16
            count += 1
            i = next_[i]
        store64(body + 8, <uint64_t>items[head].kind | <uint64_t>count << 16)
        write.append_at(lane, READINGS, body, out - body)
    return out
