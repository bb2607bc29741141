"""What the other compiled modules borrow from `store`, which alone has LMDB linked in."""

from libc.stdint cimport uint8_t, uint64_t

from lanes cimport LanePos
from lmdb cimport MDB_cursor, MDB_cursor_op, MDB_dbi, MDB_stat, MDB_txn, MDB_val
from transact cimport Env

from edgesync._native.write cimport Write

cdef extern from "<pthread.h>" nogil:
    ctypedef struct pthread_mutex_t:
        pass

cdef class Store:
    cdef Env e
    cdef pthread_mutex_t mutex
    cdef MDB_txn *reader  # reset, for the next look; or NULL
    cdef object _path
    cdef dict dbis
    cdef tuple options
    cdef int lock_fd
    cdef long forks
    cdef frozenset integers
    cdef long users
    cdef bint closing
    cdef bint reopening
    cdef void *map_at
    cdef object identity
    cdef tuple mended

    cdef open(self)
    cdef claim(self)
    cdef create(self)
    cdef open_env(self, str path)
    cdef open_databases(self)
    cdef find_lanes(self, MDB_txn *txn)
    cdef dict open_each(self, MDB_txn *txn, names, readonly)
    cdef shut(self)
    cdef disk_is_full(self)
    cdef size_t used(self) noexcept
    cdef check_keys(self, Write write)
    cdef bytes look(self, str db, bytes key)
    cdef list range_of(
        self, str db, bytes start, bytes stop, Py_ssize_t limit, Py_ssize_t limit_bytes,
        bint reverse, bint is_size)
    cdef int stat(self, str db, MDB_stat *stat) except -1
    cdef known_key(self, str db, bytes key)
    cdef wait_for_users(self)
    cdef int enter(self) except -1
    cdef void leave(self) noexcept
    cdef void keep(self, MDB_txn *txn) noexcept
    cdef object failure(self, int rc)

cdef int read_begin(Env *e, MDB_txn **txn) noexcept nogil
cdef void read_end(MDB_txn *txn) noexcept nogil
cdef int lane_positions(Env *e, MDB_txn *txn, uint8_t lane, LanePos *pos) noexcept nogil
cdef int lane_chain_before(
    Env *e, MDB_txn *txn, const LanePos *pos, uint64_t seq, uint64_t *chain) noexcept nogil
cdef int lane_cursor(Env *e, MDB_txn *txn, uint8_t lane, MDB_cursor **cursor) noexcept nogil
cdef int cursor_get(
    MDB_cursor *cursor, MDB_val *key, MDB_val *value, MDB_cursor_op op) noexcept nogil
cdef void cursor_end(MDB_cursor *cursor) noexcept nogil
