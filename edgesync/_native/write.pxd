"""The operations `store` carries out."""

from libc.stdint cimport uint8_t, uint64_t

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
    cdef Py_ssize_t taken_in[3]  # of those, the ones that may be refused
    cdef Py_ssize_t taken_bytes[3]
    cdef Py_ssize_t size
    cdef size_t reserved
    # Rows of `put_all` that are not in order yet, and how many.
    cdef Py_ssize_t unsorted_at, unsorted

    cdef Op *add(self, uint8_t code, Py_ssize_t lane) except NULL
    cdef bytes hold_room(self, Py_ssize_t nbytes)
    cdef int append_at(self, Py_ssize_t lane, int kind, const void *body, size_t nbytes) except -1
    cdef int count_record(self, Op *op, uint64_t lane) except -1
    cdef int index(self, str db) except -1
    cdef int point(self, Op *op, bytes value) except -1
    cdef int grow(self, Py_ssize_t more) except -1
    cdef void sort(self) noexcept nogil
    cdef Op *keyed(self, uint8_t code, str db, bytes key) except NULL
