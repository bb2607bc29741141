"""What one transaction will do, collected before it begins.

The operations are C structs that point into the bytes handed in, which are held alive here, so that
carrying them out needs no Python at all.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, malloc, qsort, realloc
from libc.string cimport memcmp, memcpy, memset

from lanes cimport HEAD_BYTES
from transact cimport (
    OP_APPEND, OP_DELETE, OP_DROP, OP_MARK, OP_NEW_ORIGIN, OP_PUT, OP_REPLACE, OP_REWIND, OP_TRIM,
    Op,
)

cdef enum:
    KEY_BYTES_MAX = 511  # LMDB's own limit
    VALUE_BYTES_MAX = 64 << 20

_LANE_COUNT = 3


cdef struct Place:
    const void *key
    size_t size
    Py_ssize_t at


cdef int by_key(const void *a, const void *b) noexcept nogil:
    cdef const Place *x = <const Place *>a
    cdef const Place *y = <const Place *>b
    cdef int rc = memcmp(x.key, y.key, x.size if x.size < y.size else y.size)
    return rc if rc else (x.size > y.size) - (x.size < y.size)


cdef class Write:
    """What one transaction will do, collected in memory; used once, by one thread."""

    def __cinit__(self):
        self.ops = NULL
        self.held = []
        self.names = []
        self.indices = {}

    def __dealloc__(self):
        free(self.ops)

    def __len__(self):
        return self.count

    @property
    def nbytes(self):
        """Bytes of all keys, values and bodies in it."""
        return self.size

    @property
    def appends(self):
        """Records appended per lane."""
        return (self.appended[0], self.appended[1], self.appended[2])

    @property
    def intake(self):
        """Records appended per lane that may be refused."""
        return (self.taken_in[0], self.taken_in[1], self.taken_in[2])

    @property
    def intake_bytes(self):
        """Bytes those take in the journal, headers included."""
        return (self.taken_bytes[0], self.taken_bytes[1], self.taken_bytes[2])

    cdef int count_record(self, Op *op, uint64_t lane) except -1:
        self.appended[lane] += 1
        if not op.essential:
            self.taken_in[lane] += 1
            self.taken_bytes[lane] += op.value_size + HEAD_BYTES
        return 0

    cdef Op *add(self, uint8_t code, Py_ssize_t lane) except NULL:
        if self.spent:
            raise ValueError("this Write has been carried out; make a new one")
        if not 0 <= lane < _LANE_COUNT:
            raise ValueError(f"lane {lane} is not 0, 1 or 2")
        if self.count == self.room:
            self.grow(self.room if self.room else 8)
        memset(&self.ops[self.count], 0, sizeof(Op))
        self.ops[self.count].code = code
        self.ops[self.count].lane = <uint8_t>lane
        self.count += 1
        return &self.ops[self.count - 1]

    cdef int grow(self, Py_ssize_t more) except -1:
        cdef Py_ssize_t room = self.count + more
        cdef Op *ops
        if room <= self.room:
            return 0
        ops = <Op *>realloc(self.ops, room * sizeof(Op))
        if ops == NULL:
            raise MemoryError
        self.ops = ops
        self.room = room
        return 0

    cdef int index(self, str db) except -1:
        found = self.indices.get(db)
        if found is None:
            found = len(self.names)
            self.indices[db] = found
            self.names.append(db)
        return found

    cdef int point(self, Op *op, bytes value) except -1:
        op.value = PyBytes_AS_STRING(value)
        op.value_size = PyBytes_GET_SIZE(value)
        if op.value_size > VALUE_BYTES_MAX:
            self.count -= 1
            raise ValueError(f"a value of {op.value_size} bytes; at most {VALUE_BYTES_MAX}")
        self.size += op.value_size
        return 0

    cdef Op *keyed(self, uint8_t code, str db, bytes key) except NULL:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
        cdef int index = self.index(db)
        cdef Op *op
        if not 0 < size <= KEY_BYTES_MAX:
            raise ValueError(f"a key of {size} bytes; 1 to {KEY_BYTES_MAX}")
        op = self.add(code, 0)
        op.db = index
        op.key = PyBytes_AS_STRING(key)
        op.key_size = size
        self.size += size
        return op

    def put(self, str db not None, bytes key not None, bytes value not None, *, essential=False):
        cdef Op *op = self.keyed(OP_PUT, db, key)
        self.point(op, value)
        op.essential = essential
        self.held.append(key)
        self.held.append(value)

    def delete(self, str db not None, bytes key not None):
        """Delete one key; a missing key is no error."""
        self.keyed(OP_DELETE, db, key)
        self.held.append(key)

    def put_all(self, str db not None, dict rows not None, *, bint essential=False):
        """Set many rows, or delete those whose value is None.

        They are carried out in the order of their keys, whatever theirs: it is the thread that
        carries them out that sorts them.
        """
        cdef Py_ssize_t first = self.count
        cdef Op *op
        self.sort()
        self.grow(len(rows))
        # The dict may change before they are carried out.
        self.held.append(list(rows))
        self.held.append(list(rows.values()))
        try:
            for key, value in rows.items():
                op = self.keyed(OP_DELETE if value is None else OP_PUT, db, <bytes?>key)
                if value is not None:
                    self.point(op, <bytes?>value)
                    op.essential = essential
        except BaseException:
            self.count = first
            raise
        self.unsorted_at, self.unsorted = first, self.count - first

    cdef void sort(self) noexcept nogil:
        """Put rows of `put_all` in the order of their keys: pages of LMDB are then copied once."""
        cdef Py_ssize_t count = self.unsorted, i
        cdef Op *first = self.ops + self.unsorted_at
        cdef Place *places
        cdef Op *ops
        self.unsorted = 0
        if count < 2:
            return
        places = <Place *>malloc(count * sizeof(Place))
        ops = <Op *>malloc(count * sizeof(Op))
        # Without memory for that they stay as they are: it takes longer, and does the same.
        if places != NULL and ops != NULL:
            for i in range(count):
                places[i].key, places[i].size, places[i].at = first[i].key, first[i].key_size, i
            qsort(places, count, sizeof(Place), by_key)
            for i in range(count):
                ops[i] = first[places[i].at]
            memcpy(first, ops, count * sizeof(Op))
        free(places)
        free(ops)

    def append(
        self, Py_ssize_t lane, int kind, bytes body not None,
        uint64_t origin=0, uint64_t number=0, *, essential=False,
    ):
        """Append a record; origin 0 means "this opening of the store, next number"."""
        cdef Op *op = self.add(OP_APPEND, lane)
        op.essential = essential
        op.kind = kind
        op.a = origin
        op.b = number
        self.point(op, body)
        self.count_record(op, lane)
        self.held.append(body)

    cdef bytes hold_room(self, Py_ssize_t nbytes):
        """Hold room for bodies that are made in place, for `append_at`."""
        cdef bytes room = PyBytes_FromStringAndSize(NULL, nbytes)
        self.held.append(room)
        return room

    cdef int append_at(
        self, Py_ssize_t lane, int kind, const void *body, size_t nbytes,
    ) except -1:
        """Append a record whose body is within what is held."""
        cdef Op *op = self.add(OP_APPEND, lane)
        op.kind = kind
        op.value, op.value_size = body, nbytes
        self.size += nbytes
        self.count_record(op, lane)
        return 0

    def append_many(self, Py_ssize_t lane, int kind, bodies):
        # Our own tuple: a list may be emptied by another thread before the transaction runs.
        cdef tuple all_ = tuple(bodies)
        cdef Op *op
        for body in all_:
            if type(body) is not bytes:
                raise TypeError(f"a body is bytes, not {type(body).__name__}")
        for body in all_:
            op = self.add(OP_APPEND, lane)
            op.kind = kind
            self.point(op, <bytes>body)
            self.count_record(op, lane)
        self.held.append(all_)

    def mark(self, Py_ssize_t lane, uint64_t floor, uint64_t safe):
        """Remember what the hub has (I3); floors only grow, except by `rewind`."""
        cdef Op *op = self.add(OP_MARK, lane)
        op.a = floor
        op.b = safe

    def rewind(self, Py_ssize_t lane, uint64_t floor):
        self.add(OP_REWIND, lane).a = floor

    def trim(self, Py_ssize_t lane, uint64_t up_to):
        """Delete records with seq <= up_to, but none above safe (I3)."""
        self.add(OP_TRIM, lane).a = up_to

    def drop(
        self, Py_ssize_t lane, uint64_t up_to, int kind, bytes body not None, *,
        Py_ssize_t told_in=0,
    ):
        """Delete records with seq <= up_to whoever has them, and append what says so (I3)."""
        if not 0 <= told_in < _LANE_COUNT:
            raise ValueError(f"lane {told_in} is not 0, 1 or 2")
        cdef Op *op = self.add(OP_DROP, lane)
        op.kind = kind
        op.a = up_to
        op.b = told_in
        op.essential = True
        self.point(op, body)
        self.count_record(op, told_in)
        self.held.append(body)

    def replace(self, Py_ssize_t lane, uint64_t seq, int kind, bytes body not None):
        """Put a record in place of a damaged one (a loss record), keeping its seq."""
        cdef Op *op = self.add(OP_REPLACE, lane)
        op.kind = kind
        op.b = seq
        self.point(op, body)
        self.held.append(body)

    def reserve(self, size_t nbytes):
        """Have so much more of the disk allocated than this needs, if there is that much."""
        if nbytes > self.reserved:
            self.reserved = nbytes

    def new_origin(self):
        """Draw a new origin for event ids from here on (a fork)."""
        self.add(OP_NEW_ORIGIN, 0)

    def clear(self):
        """Do nothing after all: what waits to be carried out has been overtaken.

        One that has been carried out, or is being, stays as it is: its rows are in use.
        """
        if self.spent:
            return
        self.count = 0
        self.size = self.reserved = self.unsorted = 0
        self.held = []
        for lane in range(_LANE_COUNT):
            self.appended[lane] = self.taken_in[lane] = self.taken_bytes[lane] = 0

    def extend(self, Write other not None):
        """Do all of `other` after what is in here; `other` itself stays usable."""
        cdef Py_ssize_t i
        cdef Op *op
        cdef int index
        if other is self or other.spent:
            raise ValueError("only another Write that has not been carried out can be added")
        other.sort()
        renamed = [self.index(name) for name in other.names]
        for i in range(other.count):
            index = renamed[other.ops[i].db] if other.ops[i].code in (OP_PUT, OP_DELETE) else 0
            op = self.add(other.ops[i].code, other.ops[i].lane)
            memcpy(op, &other.ops[i], sizeof(Op))
            op.db = index
        self.held.append(other.held)
        self.size += other.size
        self.reserve(other.reserved)
        for i in range(_LANE_COUNT):
            self.appended[i] += other.appended[i]
            self.taken_in[i] += other.taken_in[i]
            self.taken_bytes[i] += other.taken_bytes[i]
