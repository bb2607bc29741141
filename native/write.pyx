"""What one transaction will do, collected before it begins.

The operations are C structs that point into the bytes handed in, which are held alive here, so that
carrying them out needs no Python at all.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy, memset

from lanes cimport HEAD_BYTES
from transact cimport (
    OP_APPEND, OP_DELETE, OP_DROP, OP_MARK, OP_NEW_ORIGIN, OP_PUT, OP_REPLACE, OP_REWIND, OP_TRIM,
    Op,
)

_KEY_BYTES_MAX = 511  # LMDB's own limit
_VALUE_BYTES_MAX = 64 << 20
_LANE_COUNT = 3


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
        cdef Py_ssize_t room
        cdef Op *ops
        if self.spent:
            raise ValueError("this Write has been carried out; make a new one")
        if not 0 <= lane < _LANE_COUNT:
            raise ValueError(f"lane {lane} is not 0, 1 or 2")
        if self.count == self.room:
            room = self.room * 2 if self.room else 8
            ops = <Op *>realloc(self.ops, room * sizeof(Op))
            if ops == NULL:
                raise MemoryError
            self.ops = ops
            self.room = room
        memset(&self.ops[self.count], 0, sizeof(Op))
        self.ops[self.count].code = code
        self.ops[self.count].lane = <uint8_t>lane
        self.count += 1
        return &self.ops[self.count - 1]

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
        if op.value_size > _VALUE_BYTES_MAX:
            self.count -= 1
            raise ValueError(f"a value of {op.value_size} bytes; at most {_VALUE_BYTES_MAX}")
        self.size += op.value_size
        return 0

    cdef Op *keyed(self, uint8_t code, str db, bytes key) except NULL:
        cdef Py_ssize_t size = PyBytes_GET_SIZE(key)
        cdef int index = self.index(db)
        cdef Op *op
        if not 0 < size <= _KEY_BYTES_MAX:
            raise ValueError(f"a key of {size} bytes; 1 to {_KEY_BYTES_MAX}")
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
        """Do nothing after all: what waits to be carried out has been overtaken."""
        self.count = 0
        self.size = self.reserved = 0
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
