"""The operations `store` carries out."""

from libc.stdint cimport uint8_t

from transact cimport Op

cdef class Write:
    cdef Op *ops
    cdef Py_ssize_t count
    cdef Py_ssize_t room
    cdef list held  # keeps every byte the ops point at alive
    cdef list names
    cdef dict indices
    cdef bint spent
    cdef Py_ssize_t appended[3]
    cdef Py_ssize_t size

    cdef Op *add(self, uint8_t code, Py_ssize_t lane) except NULL
    cdef int index(self, str db) except -1
    cdef int point(self, Op *op, bytes value) except -1
    cdef Op *keyed(self, uint8_t code, str db, bytes key) except NULL
