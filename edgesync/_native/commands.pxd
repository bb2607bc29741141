"""What `connection` takes from `commands`: a command found by its name, and the running of it."""

from libc.stdint cimport int64_t, uint64_t

from edgesync._native.keyspace cimport Keyspace

cdef dict table

cdef class Command:
    cdef readonly str name
    cdef readonly object run
    cdef readonly Py_ssize_t arity
    cdef readonly bint writes
    cdef readonly tuple keys
    cdef readonly bint grows
    cdef readonly object movable

cdef class Runner:
    cdef readonly Keyspace space
    cdef readonly object call
    cdef readonly object wall_ns
    cdef object monotonic_ns
    cdef int64_t gap_ns
    cdef public int64_t behind_ms
    cdef public uint64_t generation
    cdef public uint64_t commands
    cdef readonly uint64_t errors
    cdef public object on_change
    cdef public object on_slow
    cdef public int64_t slow_ns
    cdef public bint is_noted
    cdef public uint64_t wanted
    cdef public object columns

    cpdef int64_t now_ms(self) except? -1
    cdef bint is_changed(self)
    cdef bint is_committing(self)
    cdef object go(self, Command one, list request)
