# cython: boundscheck=False, wraparound=False, cdivision=True
"""Readings of many series in columns: taken apart by series, recent ones, those of clients.

A column is three arrays of the same length: which series (its place in a list), when, and how much.
Taken reading by reading that is several microseconds each in Python, here some tens of nanoseconds.

A *batch row* holds such columns as they came, little-endian: `crc32c u32 over its key and all after
it | n u32 | n series ids u64 | n times i64 | n values f64`.
"""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_GetItemWithError
from cpython.object cimport PyObject
from libc.stdint cimport INT64_MAX, INT64_MIN, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, memset

import array

from edgesync.errors import RecordError

from buffer cimport Buf, buf_free, load32, load64, put_bytes, store32, store64
from crc cimport crc32c

cdef extern from "Python.h":
    double PyOS_string_to_double(const char *text, char **end, void *error) except? -1.0

cdef enum:
    EMPTY = 0xFFFFFFFF
    BATCH_HEAD_BYTES = 8
    KNOWN = 1     # marks of a series: nothing of it needs a look
    TOUCHED = 2   # it has had readings
    LISTED = 4
    NS_A_MS = 1_000_000
    TIME_DIGITS_MAX = 13
    DIGITS_EXACT_MAX = 15  # of a whole number that a double holds
    NUMBER_BYTES_MAX = 63

cdef array.array INTS = array.array("q")
cdef array.array FLOATS = array.array("d")
cdef array.array PLACES = array.array("I")
cdef double[DIGITS_EXACT_MAX + 1] TENS

for _power in range(DIGITS_EXACT_MAX + 1):
    TENS[_power] = 10.0 ** _power


@cython.final
@cython.no_gc  # what it holds refers to nothing
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


def check(places, times, values, Py_ssize_t series) -> None:
    """Raise RecordError for columns that do not belong together; as for `parts`."""
    cdef const uint32_t[::1] where = places
    cdef const int64_t[::1] at = times
    cdef const double[::1] what = values
    checked(where, at.shape[0], what.shape[0], series)


def latest(times) -> int:
    """Return the latest of some times, array("q"); the earliest there can be, of none."""
    cdef const int64_t[::1] at = times
    cdef int64_t found = INT64_MIN
    cdef Py_ssize_t i
    for i in range(at.shape[0]):
        if at[i] > found:
            found = at[i]
    return found


def unknown(places, marks) -> list[int]:
    """Return the places whose mark is not KNOWN, each once, and mark all of them TOUCHED.

    marks   bytearray: a byte for each place
    """
    cdef const uint32_t[::1] where = places
    cdef uint8_t[::1] mark = marks
    cdef list found = []
    cdef Py_ssize_t i
    for i in range(where.shape[0]):
        if where[i] >= <size_t>mark.shape[0]:
            raise IndexError(f"place {where[i]} of {mark.shape[0]}")
        if not mark[where[i]] & (KNOWN | LISTED):
            found.append(where[i])
            mark[where[i]] |= LISTED
        mark[where[i]] |= TOUCHED
    for place in found:
        mark[<Py_ssize_t>place] &= ~LISTED
    return found


def batch_row(bytes key, ids, places, times, values) -> bytes:
    """Return the row of a batch: see the module.

    ids   array("Q"): the series id of each place

    Raises RecordError as `parts` does.
    """
    cdef const uint32_t[::1] where = places
    cdef const uint64_t[::1] names = ids
    cdef const int64_t[::1] at = times
    cdef const double[::1] what = values
    cdef Py_ssize_t n = where.shape[0], i
    cdef bytes row
    cdef uint8_t *out
    checked(where, at.shape[0], what.shape[0], names.shape[0])
    row = PyBytes_FromStringAndSize(NULL, BATCH_HEAD_BYTES + 24 * n)
    out = <uint8_t *>PyBytes_AS_STRING(row)
    store32(out + 4, <uint32_t>n)
    out += BATCH_HEAD_BYTES
    for i in range(n):
        store64(out + 8 * i, names[where[i]])
    if n:
        memcpy(out + 8 * n, &at[0], 8 * n)
        memcpy(out + 16 * n, &what[0], 8 * n)
    out -= BATCH_HEAD_BYTES
    store32(out, batch_crc(key, row))
    return row


cdef uint32_t batch_crc(bytes key, bytes row) noexcept:
    return crc32c(
        crc32c(0, PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)),
        PyBytes_AS_STRING(row) + 4, PyBytes_GET_SIZE(row) - 4)


def batch_columns(bytes key, bytes row, dict known) -> tuple | None:
    """Return places, times and values of a batch row; None when its checksum does not fit (I14).

    known   the place of each series id; readings of others are left out
    """
    cdef Py_ssize_t size = PyBytes_GET_SIZE(row), n, i
    cdef const uint8_t *at = <const uint8_t *>PyBytes_AS_STRING(row)
    cdef Columns found = Columns()
    cdef double value
    if size < BATCH_HEAD_BYTES or load32(at) != batch_crc(key, row):
        return None
    n = load32(at + 4)
    if size != BATCH_HEAD_BYTES + 24 * n:
        return None
    at += BATCH_HEAD_BYTES
    for i in range(n):
        place = known.get(load64(at + 8 * i))
        if place is not None:
            memcpy(&value, at + 16 * n + 8 * i, 8)
            found.put(place, <int64_t>load64(at + 8 * n + 8 * i), value)
    return found.take()


@cython.final
cdef class Recent:
    """Readings of many series in memory, in the order in which they came: 24 bytes each.

    Those of one series are linked, from the last to the first.

    live   how many there are, without what was dropped
    """

    cdef uint32_t *places  # EMPTY of what was dropped
    cdef int64_t *times
    cdef double *values
    cdef uint32_t *before  # of each reading, 1 + the one before it of its series; 0 for none
    cdef uint32_t *heads   # of each place, 1 + its last reading
    cdef uint32_t count, room
    cdef Py_ssize_t series
    cdef readonly Py_ssize_t live

    def __dealloc__(self):
        free(self.places)
        free(self.times)
        free(self.values)
        free(self.before)
        free(self.heads)

    def __len__(self) -> int:
        return self.count

    cdef int make_room(self, Py_ssize_t more, Py_ssize_t series) except -1:
        cdef size_t room = self.count + more
        cdef uint32_t *heads
        if room >= EMPTY:
            raise MemoryError
        if room > self.room:
            room = max(room, <size_t>self.room + self.room // 2)
            self.places = <uint32_t *>grown(self.places, room * sizeof(uint32_t))
            self.times = <int64_t *>grown(self.times, room * sizeof(int64_t))
            self.values = <double *>grown(self.values, room * sizeof(double))
            self.before = <uint32_t *>grown(self.before, room * sizeof(uint32_t))
            self.room = <uint32_t>room
        if series > self.series:
            series = max(series, self.series + self.series // 2)
            heads = <uint32_t *>grown(self.heads, series * sizeof(uint32_t))
            memset(heads + self.series, 0, (series - self.series) * sizeof(uint32_t))
            self.heads, self.series = heads, series
        return 0

    def append(self, places, times, values, Py_ssize_t series) -> int:
        """Take readings; returns the index of the first. Raises RecordError as `parts` does."""
        cdef const uint32_t[::1] where = places
        cdef const int64_t[::1] at = times
        cdef const double[::1] what = values
        cdef Py_ssize_t n = where.shape[0], i
        cdef uint32_t first = self.count
        checked(where, at.shape[0], what.shape[0], series)
        self.make_room(n, series)
        for i in range(n):
            self.places[self.count] = where[i]
            self.times[self.count] = at[i]
            self.values[self.count] = what[i]
            self.before[self.count] = self.heads[where[i]]
            self.count += 1
            self.heads[where[i]] = self.count
        self.live += n
        return first

    def drop(self, uint32_t first, uint32_t count) -> None:
        """Take back readings that were appended: the write they belong to was refused."""
        cdef uint32_t i
        if <uint64_t>first + count > self.count:
            raise IndexError(f"readings {first} to {first + count} of {self.count}")
        for i in range(first, first + count):
            self.live -= self.places[i] != EMPTY
            self.places[i] = EMPTY

    def columns(self, Py_ssize_t place) -> tuple:
        """Return times and values of the readings of a series, in the order in which they came."""
        cdef uint32_t link = self.heads[place] if 0 <= place < self.series else 0
        cdef uint32_t at = link
        cdef Py_ssize_t n = 0
        cdef array.array times, values
        while at:
            n += self.places[at - 1] != EMPTY
            at = self.before[at - 1]
        times, values = array.clone(INTS, n, False), array.clone(FLOATS, n, False)
        while link:
            if self.places[link - 1] != EMPTY:
                n -= 1
                times.data.as_longlongs[n] = self.times[link - 1]
                values.data.as_doubles[n] = self.values[link - 1]
            link = self.before[link - 1]
        return times, values

    def newest(self, Py_ssize_t place) -> tuple | None:
        """Return time and value of the latest reading of a series; of one time the last to come."""
        cdef uint32_t link = self.heads[place] if 0 <= place < self.series else 0
        cdef uint32_t best = 0
        while link:
            if self.places[link - 1] != EMPTY and (
                best == 0 or self.times[link - 1] > self.times[best - 1]
            ):
                best = link
            link = self.before[link - 1]
        return (self.times[best - 1], self.values[best - 1]) if best else None

    def all(self) -> tuple:
        """Return places, times and values of all readings, in the order in which they came."""
        cdef array.array places = array.clone(PLACES, self.live, False)
        cdef array.array times = array.clone(INTS, self.live, False)
        cdef array.array values = array.clone(FLOATS, self.live, False)
        cdef uint32_t i
        cdef Py_ssize_t n = 0
        for i in range(self.count):
            if self.places[i] != EMPTY:
                places.data.as_uints[n] = self.places[i]
                times.data.as_longlongs[n] = self.times[i]
                values.data.as_doubles[n] = self.values[i]
                n += 1
        return places, times, values


cdef void *grown(void *old, size_t size) except NULL:
    cdef void *made = realloc(old, size)
    if made == NULL:
        raise MemoryError
    return made


cdef class Columns:
    """Readings that clients bring, one by one, until they are taken.

    names     places of series, by the names clients give them
    on_first  is called when there is one after there were none
    """

    def __init__(self, on_first=None):
        self.names, self.on_first = {}, on_first

    def __dealloc__(self):
        buf_free(&self.places)
        buf_free(&self.times)
        buf_free(&self.values)

    def __len__(self) -> int:
        return self.count

    def add(self, uint32_t place, int64_t time_ns, double value) -> None:
        """Take one reading."""
        self.put(place, time_ns, value)
        self.told(1)

    cdef int put(self, uint32_t place, int64_t time_ns, double value) except -1:
        if (
            put_bytes(&self.places, &place, 4) or put_bytes(&self.times, &time_ns, 8)
            or put_bytes(&self.values, &value, 8)
        ):
            raise MemoryError
        self.count += 1
        return 0

    cdef int told(self, Py_ssize_t added) except -1:
        if self.count == added and self.on_first is not None:
            self.on_first()
        return 0

    def take(self) -> tuple:
        """Return places, times and values of all readings, and hold none from here on."""
        found = (
            taken(PLACES, &self.places), taken(INTS, &self.times), taken(FLOATS, &self.values))
        self.count = 0
        return found

    cpdef object answer(self, list request, int64_t now_ns, int64_t ahead_ns):
        """Carry out TS.ADD or TS.MADD of series that are known, by `names`; returns its reply.

        None, and nothing has happened, when anything about it needs a look: a series that is not
        known, options, a time or a value that is none, a time beyond `ahead_ns` from `now_ns`.
        """
        cdef Py_ssize_t size = len(request), before = self.count, i
        cdef bytes name = <bytes>request[0]
        cdef list times
        cdef object first
        if name == b"TS.ADD" or name == b"ts.add":
            if size != 4:
                return None
            first = self.taken_in(request, 1, now_ns, ahead_ns)
            if first is not None:
                self.told(1)
            return first
        if (name != b"TS.MADD" and name != b"ts.madd") or size < 4 or size % 3 != 1:
            return None
        times = []
        for i in range(1, size, 3):
            first = self.taken_in(request, i, now_ns, ahead_ns)
            if first is None:
                self.cut(before)
                return None
            times.append(first)
        self.told(self.count - before)
        return times

    cdef object taken_in(self, list request, Py_ssize_t at, int64_t now_ns, int64_t ahead_ns):
        """Take the reading of three arguments; returns its time in ms, None if it needs a look."""
        cdef bytes time = <bytes>request[at + 1], value = <bytes>request[at + 2]
        cdef int64_t time_ms = self.take_text(
            request[at], PyBytes_AS_STRING(time), PyBytes_GET_SIZE(time),
            PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), now_ns, ahead_ns)
        return None if time_ms < 0 else time_ms

    cdef int64_t take_text(
        self, object name, const char *time, Py_ssize_t time_size, const char *value,
        Py_ssize_t value_size, int64_t now_ns, int64_t ahead_ns,
    ) except -2:
        """Take the reading of a name, a time and a value as texts; -1 if it needs a look."""
        cdef int64_t time_ms
        cdef double number
        cdef PyObject *place = PyDict_GetItemWithError(self.names, name)
        if place == NULL:
            return -1
        if time_size == 1 and time[0] == c"*":
            time_ms = now_ns // NS_A_MS
        elif not whole_of(time, time_size, &time_ms):
            return -1
        elif time_ms * NS_A_MS > now_ns + ahead_ns:
            return -1
        if not number_of(value, value_size, &number):
            return -1
        self.put(<uint32_t><object>place, time_ms * NS_A_MS, number)
        return time_ms

    cdef void cut(self, Py_ssize_t count) noexcept:
        self.count = count
        self.places.size, self.times.size, self.values.size = 4 * count, 8 * count, 8 * count


cdef array.array taken(array.array like, Buf *column):
    cdef array.array found = array.clone(like, column.size // like.ob_descr.itemsize, False)
    if column.size:
        memcpy(found.data.as_voidptr, column.data, column.size)
    buf_free(column)
    return found


cdef bint whole_of(const char *at, Py_ssize_t size, int64_t *number) noexcept:
    """Read digits, as few as a time in milliseconds has."""
    cdef Py_ssize_t i
    if not 1 <= size <= TIME_DIGITS_MAX:
        return False
    number[0] = 0
    for i in range(size):
        if not c"0" <= at[i] <= c"9":
            return False
        number[0] = number[0] * 10 + (at[i] - c"0")
    return number[0] < INT64_MAX // NS_A_MS


cdef bint number_of(const char *at, Py_ssize_t size, double *number) except -1:
    """Read a decimal number as `table.FLOAT` has it, short ones; False for anything else."""
    cdef Py_ssize_t i = 0, digits = 0, behind = 0, powers = 0
    cdef char[NUMBER_BYTES_MAX + 1] copy
    cdef bint is_negative = size > 0 and at[0] == c"-"
    cdef int64_t whole = 0
    if size and (at[0] == c"-" or at[0] == c"+"):
        i = 1
    while i < size and c"0" <= at[i] <= c"9":
        if digits < DIGITS_EXACT_MAX:
            whole = whole * 10 + (at[i] - c"0")
        digits, i = digits + 1, i + 1
    if i < size and at[i] == c".":
        i += 1
        while i < size and c"0" <= at[i] <= c"9":
            if digits < DIGITS_EXACT_MAX:
                whole = whole * 10 + (at[i] - c"0")
            digits, behind, i = digits + 1, behind + 1, i + 1
    if digits == 0:
        return False
    if i == size and digits <= DIGITS_EXACT_MAX:
        # Both are exact, and so the quotient is rounded once, to the nearest.
        number[0] = <double>whole / TENS[behind]
        if is_negative:
            number[0] = -number[0]
        return True
    if i < size and (at[i] == c"e" or at[i] == c"E"):
        i += 1
        if i < size and (at[i] == c"-" or at[i] == c"+"):
            i += 1
        while i < size and c"0" <= at[i] <= c"9":
            powers, i = powers + 1, i + 1
        if not 1 <= powers <= 4:
            return False
    if i != size or size > NUMBER_BYTES_MAX:
        return False
    memcpy(copy, at, size)
    copy[size] = 0
    number[0] = PyOS_string_to_double(copy, NULL, NULL)
    return True
