# cython: boundscheck=False, wraparound=False, cdivision=True
"""Fresh points of the series of one edge: in memory, in the order of their arrival.

The points of a series are one sequence; a memtable holds its end, from the place up to which it is
stored elsewhere. 64 bytes a series and 16 a point; of texts, a reference to the text.

Every method keeps the GIL, so that a reader in another thread sees whole points; what it has
looked at may grow meanwhile, and never goes: a memtable is emptied by making another one.
"""

cimport cython
from cpython cimport array
from cpython.mem cimport PyMem_Free, PyMem_Malloc, PyMem_Realloc
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

import array

from rows cimport VT_BOOL, VT_F64, VT_TEXT

cdef enum:
    EMPTY = 0xFFFFFFFF
    FIRST_ROOM = 8
    NO_TYPE = 0xFF
    RUN_BYTES = 400  # of the objects of a closed run, beside its points

cdef array.array INTS = array.array("q")
cdef array.array FLOATS = array.array("d")

cdef struct Point:
    int64_t time
    uint64_t bits  # of a text: the object, owned

# The newest point is the latest by its time; of equal times the one that arrived last. A time that
# is still to come is a clock's mistake, which would last for years: any time before it is newer.
cdef struct Slab:
    uint64_t series
    int64_t ref
    int64_t first     # place of points[0] in the sequence of the series
    Point *points
    uint32_t count
    uint32_t room
    int64_t newest_time
    uint64_t newest_bits
    uint8_t newest_type
    uint8_t vtype     # of `points`
    bint has_newest   # the newest point came into this memtable


@cython.final
cdef class Memtable:
    """Series by id, each with its fresh points.

    points   how many are fresh
    nbytes   what all of it takes, about
    """

    cdef Slab *slabs
    cdef uint32_t *table
    cdef uint64_t mask
    cdef uint32_t used
    cdef uint32_t room
    cdef dict closed  # index of a slab: runs of other types that came before its points
    cdef readonly Py_ssize_t points
    cdef readonly Py_ssize_t nbytes

    def __cinit__(self):
        self.closed = {}
        self.grow(16)

    def __dealloc__(self):
        cdef uint32_t i
        for i in range(self.used):
            free_points(&self.slabs[i])
        PyMem_Free(self.slabs)
        PyMem_Free(self.table)

    def __len__(self) -> int:
        return self.used

    cdef int grow(self, uint32_t room) except -1:
        """Make room for so many series; a power of two."""
        cdef uint32_t *table = <uint32_t *>PyMem_Malloc(2 * <size_t>room * sizeof(uint32_t))
        cdef Slab *slabs
        cdef uint32_t i
        if table == NULL:
            raise MemoryError
        slabs = <Slab *>PyMem_Realloc(self.slabs, room * sizeof(Slab))
        if slabs == NULL:
            PyMem_Free(table)
            raise MemoryError
        self.nbytes += (room - self.room) * <Py_ssize_t>(sizeof(Slab) + 2 * sizeof(uint32_t))
        PyMem_Free(self.table)
        self.slabs, self.table, self.room, self.mask = slabs, table, room, 2 * <uint64_t>room - 1
        memset(table, 0xFF, 2 * <size_t>room * sizeof(uint32_t))
        for i in range(self.used):
            table[self.slot_of(slabs[i].series)] = i
        return 0

    cdef uint64_t slot_of(self, uint64_t series) noexcept:
        cdef uint64_t slot = series & self.mask
        while self.table[slot] != EMPTY and self.slabs[self.table[slot]].series != series:
            slot = (slot + 1) & self.mask
        return slot

    cdef Slab *find(self, uint64_t series) noexcept:
        cdef uint32_t at = self.table[self.slot_of(series)]
        return NULL if at == EMPTY else &self.slabs[at]

    def add(self, series: int, ref: int, first: int, newest_ns: int) -> None:
        """Enter a series of which `first` points are stored elsewhere; a known one stays."""
        cdef uint64_t key = series
        cdef int64_t number = ref, place = first, newest = newest_ns
        cdef Slab *slab
        if self.find(key) != NULL:
            return
        if self.used == self.room:
            self.grow(2 * self.room)
        slab = &self.slabs[self.used]
        memset(slab, 0, sizeof(Slab))
        slab.series, slab.ref, slab.first, slab.newest_time = key, number, place, newest
        slab.vtype = slab.newest_type = NO_TYPE
        self.table[self.slot_of(key)] = self.used
        self.used += 1

    def __contains__(self, series: int) -> bool:
        return self.find(series) != NULL

    def missing(self, table) -> list:
        """Return the series of a `batch.Table` that are not entered, in order."""
        cdef const uint64_t[::1] series = table.series
        cdef list found = []
        cdef Py_ssize_t i
        for i in range(series.shape[0]):
            if self.find(series[i]) == NULL:
                found.append(series[i])
        return found

    def append(self, table, until_ns: int = INT64_MAX) -> tuple:
        """Append what a `batch.Table` has; returns (readings, refused, series with a new newest).

        Times after `until_ns` are still to come. Refused are the points of series that are not
        entered. Raises MemoryError with some of it done.
        """
        cdef const uint64_t[::1] series = table.series
        cdef const uint8_t[::1] vtypes = table.vtypes
        cdef const uint32_t[::1] counts = table.counts
        cdef const int64_t[::1] times = table.times
        cdef const uint64_t[::1] values = table.values
        cdef list texts = table.texts
        cdef list changed = []
        cdef int64_t until = until_ns
        cdef Py_ssize_t taken = 0, refused = 0, at = 0, i
        cdef Slab *slab
        check_sizes(series, vtypes, counts, times, values)
        for i in range(series.shape[0]):
            slab = self.find(series[i])
            if slab == NULL:
                refused += counts[i]
            elif counts[i]:
                if slab.vtype != vtypes[i]:
                    self.change_type(slab, vtypes[i])
                if self.extend(slab, &times[at], &values[at], counts[i], texts, until):
                    changed.append(series[i])
                taken += counts[i]
            at += counts[i]
        return taken, refused, changed

    cdef int change_type(self, Slab *slab, uint8_t vtype) except -1:
        """Close the run of points of the old type; it holds the text that may be the newest."""
        if slab.count:
            self.closed.setdefault(slab - self.slabs, []).append(run_of(slab))
            self.nbytes += RUN_BYTES
            free_points(slab)
            slab.first += slab.count
            slab.points = NULL
            slab.count = slab.room = 0
        slab.vtype = vtype
        return 0

    cdef bint extend(
        self, Slab *slab, const int64_t *at, const uint64_t *bits, Py_ssize_t count, list texts,
        int64_t until,
    ) except -1:
        """Append points of the slab's type; returns whether one of them is the newest now."""
        cdef Point *point
        cdef Py_ssize_t i
        cdef bint is_newer = False
        if slab.count + count > slab.room:
            self.make_room(slab, slab.count + count)
        for i in range(count):
            point = &slab.points[slab.count]
            point.time, point.bits = at[i], bits[i]
            if slab.vtype == VT_TEXT:
                if bits[i] >= <uint64_t>len(texts):
                    raise ValueError(f"text {bits[i]} of {len(texts)}")
                text = <str?>texts[<Py_ssize_t>bits[i]]
                Py_INCREF(text)
                point.bits = <uint64_t><void *>text
                self.nbytes += 64 + len(text)
            slab.count += 1
            if point.time >= slab.newest_time or point.time <= until < slab.newest_time:
                slab.newest_time, slab.newest_bits = point.time, point.bits
                slab.newest_type, slab.has_newest = slab.vtype, True
                is_newer = True
        self.points += count
        return is_newer

    cdef int make_room(self, Slab *slab, size_t count) except -1:
        cdef size_t room = slab.room + slab.room // 2
        cdef Point *points
        room = max(room, max(count, <size_t>FIRST_ROOM))
        if room >= EMPTY:
            raise MemoryError
        points = <Point *>PyMem_Realloc(slab.points, room * sizeof(Point))
        if points == NULL:
            raise MemoryError
        self.nbytes += (room - slab.room) * <Py_ssize_t>sizeof(Point)
        slab.points, slab.room = points, <uint32_t>room
        return 0

    def tail(self, series: int) -> tuple | None:
        """Return (points, time_ns, vtype, value): how long the series is, and its newest point.

        The last three are None when the newest point is stored elsewhere; all of it is None for a
        series without fresh points.
        """
        cdef Slab *slab = self.find(series)
        if slab == NULL or (slab.count == 0 and slab.vtype == NO_TYPE):
            return None
        points = slab.first + slab.count
        if not slab.has_newest:
            return points, None, None, None
        return points, slab.newest_time, slab.newest_type, newest_of(slab)

    def runs(self, series: int) -> list:
        """Return the fresh points in order: (place of the first, vtype, times, values) each."""
        cdef Slab *slab = self.find(series)
        cdef list found
        if slab == NULL:
            return []
        found = list(self.closed.get(slab - self.slabs, ()))
        if slab.count:
            found.append(run_of(slab))
        return found

    def fresh(self) -> list:
        """Return (ref, series) of all that have fresh points, by ref."""
        cdef uint32_t i
        cdef list found = []
        for i in range(self.used):
            if self.slabs[i].vtype != NO_TYPE:
                found.append((self.slabs[i].ref, self.slabs[i].series))
        found.sort()
        return found

    def emptied(self) -> Memtable:
        """Return a memtable that follows: the same series, all points of this one stored."""
        cdef Memtable other = Memtable()
        cdef uint32_t i
        cdef Slab *slab
        other.grow(self.room)
        for i in range(self.used):
            slab = &other.slabs[i]
            slab[0] = self.slabs[i]
            slab.first += slab.count
            slab.points = NULL
            slab.count = slab.room = 0
            slab.vtype = slab.newest_type = NO_TYPE
            slab.has_newest = False
        other.used = self.used
        memcpy(other.table, self.table, 2 * <size_t>self.room * sizeof(uint32_t))
        return other


cdef int check_sizes(
    const uint64_t[::1] series, const uint8_t[::1] vtypes, const uint32_t[::1] counts,
    const int64_t[::1] times, const uint64_t[::1] values,
) except -1:
    cdef uint64_t points = 0
    cdef Py_ssize_t i
    if not series.shape[0] == vtypes.shape[0] == counts.shape[0]:
        raise ValueError("as many types and counts as series")
    for i in range(counts.shape[0]):
        if vtypes[i] > VT_TEXT:
            raise ValueError(f"unknown value type {vtypes[i]}")
        points += counts[i]
    if not points == <uint64_t>times.shape[0] == <uint64_t>values.shape[0]:
        raise ValueError("as many times and values as the counts say")
    return 0


cdef void free_points(Slab *slab):
    cdef uint32_t i
    if slab.vtype == VT_TEXT:
        for i in range(slab.count):
            Py_DECREF(<object><PyObject *>slab.points[i].bits)
    PyMem_Free(slab.points)


cdef object newest_of(const Slab *slab):
    cdef double number
    if slab.newest_type == VT_TEXT:
        return <object><PyObject *>slab.newest_bits
    if slab.newest_type == VT_F64:
        memcpy(&number, &slab.newest_bits, 8)
        return number
    if slab.newest_type == VT_BOOL:
        return slab.newest_bits != 0
    return <int64_t>slab.newest_bits


cdef tuple run_of(const Slab *slab):
    cdef Py_ssize_t count = slab.count, i
    cdef array.array times = array.clone(INTS, count, False)
    cdef array.array numbers
    cdef list texts
    cdef int64_t *at = <int64_t *>times.data.as_longlongs
    cdef uint64_t *bits
    for i in range(count):
        at[i] = slab.points[i].time
    if slab.vtype == VT_TEXT:
        texts = [<object><PyObject *>slab.points[i].bits for i in range(count)]
        return slab.first, slab.vtype, times, texts
    numbers = array.clone(FLOATS if slab.vtype == VT_F64 else INTS, count, False)
    bits = <uint64_t *>numbers.data.as_voidptr
    for i in range(count):
        bits[i] = slab.points[i].bits
    return slab.first, slab.vtype, times, numbers
