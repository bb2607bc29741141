"""What the two replicas, `edgekeys` and `hubkeys`, are built on."""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from edgesync._native.clock cimport Clock
from edgesync._native.overlay cimport Overlay

cdef class Key:
    cdef readonly bytes name
    cdef readonly uint64_t kseq   # the hub's sequence of its last change, as known here
    cdef readonly uint64_t kid    # names its cells; 0 without any
    cdef uint64_t cells           # records of cells, also of absent ones
    cdef uint64_t counts[4]       # cells present, by type in the order of COLLECTIONS
    cdef uint8_t strategy         # under which `counts` were taken, and whether it is present
    cdef bint has_strategy        # as stored
    cdef list string
    cdef list ttl
    cdef list tombs               # removals of the whole key: pending ones, at the hub all
    cdef bint is_told             # some operation on it has been given to the link
    cdef bint was_present         # as stored
    cdef int64_t weight           # bytes of name and string, as stored
    cdef int64_t grown            # by which its cells have since
    cdef uint64_t life            # of the edge, when `kseq` was delivered

    cdef bint is_empty(self)
    cdef bint is_choosy(self)
    cdef bint is_present(self)

cdef class Keyspace:
    cdef readonly object view
    cdef Overlay overlay          # the view, if it is one
    cdef readonly uint32_t r
    cdef readonly uint64_t n
    cdef readonly uint64_t keys
    cdef readonly Clock clock
    cdef public uint64_t now_ms
    cdef uint64_t kids
    cdef tuple rules
    cdef uint8_t fallback
    cdef public bint may_pack
    cdef uint64_t weight_before
    cdef set touched              # names, see `remember`; None: nobody asks
    cdef set touched_before

    cdef bytes fetch(self, bytes row)
    cdef place(self, bytes row, bytes value)
    cdef create(self, bytes row, bytes value)
    cdef drop(self, bytes row)
    cpdef uint8_t strategy_of(self, bytes key)
    cdef Key load(self, bytes key)
    cdef Key alive(self, bytes key)
    cdef uint64_t deadline_in(self, Key key)
    cdef uint64_t shown_deadline(self, Key key)
    cpdef int type_of(self, bytes key)
    cdef int type_in(self, Key key)
    cdef int count_types(self, Key key, int *one)
    cdef int ranked_type(self, Key key)
    cdef dict highest(self, Key key)
    cpdef bytes get(self, bytes key, bytes name)
    cpdef bint has(self, bytes key, bytes name)
    cpdef bytes get_string(self, bytes key)
    cpdef uint64_t count(self, bytes key, int kind)
    cdef list dots_of(self, Key key, bytes name)
    cdef list rows(self, Key key)
    cdef int touch(self, bytes key) except -1
    cdef int turn(self) except -1
    cdef bint is_recent(self, bytes key)
    cdef Key open_key(self, bytes key)
    cdef bytes element_name(self, int side)
    cdef bytes name_between(self, bytes left, bytes right)
    cpdef set_string(self, bytes key, bytes value, bint keep_ttl=*)
    cpdef put(self, bytes key, bytes name, bytes value)
    cpdef remove(self, bytes key, bytes name)
    cpdef add(self, bytes key, bytes name, bytes amount)
    cpdef delete(self, bytes key)
    cdef write(self, Key key, bytes name, uint8_t kind, bytes payload)
    cdef remove_in(self, Key key)
    cdef set_dots(self, Key key, bytes name, list before, list after)
    cdef set_ttl(self, Key key, list after)
    cdef recount(self, Key key)
    cdef recount_cells(self, Key key)
    cdef save(self, Key key)
    cdef store_key(self, Key key)
    cdef count_key(self, Key key)

cdef uint64_t mark_of(bytes key, uint64_t seq)
cpdef bint is_in(bytes key, scope)
cdef bytes be64(uint64_t number)
cdef uint64_t of_be64(bytes data, Py_ssize_t at)

cdef bytes STRING_NAME
cdef bytes TTL_NAME
cdef bytes COUNTERS_ROW
