"""What the keyspace borrows from `clock`."""

from libc.stdint cimport uint64_t

cdef class Clock:
    cdef readonly uint64_t last

    cpdef uint64_t tick(self, uint64_t wall_ms)
    cpdef uint64_t hear(self, uint64_t stamp)
