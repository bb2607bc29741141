"""What the keyspace borrows from `cells`."""

from libc.stdint cimport uint8_t, uint32_t, uint64_t

cdef class Dot:
    cdef readonly uint32_t r
    cdef readonly uint64_t n
    cdef readonly uint64_t hlc
    cdef readonly uint64_t seq
    cdef readonly uint8_t kind
    cdef readonly bint pending
    cdef readonly bint packed
    cdef readonly bint spent
    cdef readonly bint evicted
    cdef bytes stored

    cpdef Dot at(self, uint64_t seq, bint pending)
    cpdef Dot stamped(self, uint64_t hlc)
    cpdef Dot by(self, uint32_t r)
    cpdef Dot with_payload(self, bytes payload)
    cpdef Dot left_to_hub(self)

cdef enum Kind:
    VALUE = 0
    AMOUNT = 1
    TOMB = 2

cdef enum Strategy:
    CRDT_MERGE = 0
    LAST_WRITE_WINS = 1
    CLOUD_WINS = 2
    EDGE_WINS = 3

cdef enum Meeting:
    MEET_NOTHING = 0
    MEET_VALUES = 1
    MEET_REMOVAL = 2

cpdef uint8_t meeting_of(list dots)
cpdef Dot new_dot(uint32_t r, uint64_t n, uint64_t hlc, uint8_t kind, bytes value, bint may_pack)
cpdef Dot nothing(uint32_t r, uint64_t n, uint64_t hlc, uint64_t seq)
cpdef list apply(list dots, Dot op, uint64_t q)
cpdef Dot winner(list dots, uint8_t strategy)
cpdef bint is_hub(uint32_t r) noexcept
cpdef insert(list dots, Dot op)
cpdef bint has_value(list dots, uint8_t strategy)
cpdef bytes read(list dots, uint8_t strategy)
cpdef bytes encode(list dots)
cpdef list decode(bytes data)

cpdef bytes add_up(bytes base, list amounts)

cdef class Op:
    cdef readonly uint64_t n
    cdef readonly uint64_t hlc
    cdef readonly uint64_t q
    cdef readonly uint8_t kind
    cdef readonly bytes key
    cdef readonly bytes name
    cdef readonly bytes stored
    cdef readonly bint packed

    cpdef Dot dot(self, uint32_t r, uint64_t seq)

cdef class Entry:
    cdef readonly bytes key
    cdef readonly uint64_t position
    cdef readonly bint is_whole
    cdef readonly list tombs
    cdef readonly list cells
