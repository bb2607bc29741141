"""What `connection` takes from `points`: readings that clients bring, taken at once."""

from libc.stdint cimport int64_t, uint32_t

from buffer cimport Buf

cdef class Columns:
    cdef readonly dict names
    cdef object on_first
    cdef Buf places
    cdef Buf times
    cdef Buf values
    cdef Py_ssize_t count

    cdef int put(self, uint32_t place, int64_t time_ns, double value) except -1
    cdef int told(self, Py_ssize_t added) except -1
    cpdef object answer(self, list request, int64_t now_ns, int64_t ahead_ns)
    cdef object taken_in(self, list request, Py_ssize_t at, int64_t now_ns, int64_t ahead_ns)
    cdef int64_t take_text(
        self, object name, const char *time, Py_ssize_t time_size, const char *value,
        Py_ssize_t value_size, int64_t now_ns, int64_t ahead_ns,
    ) except -2
    cdef void cut(self, Py_ssize_t count) noexcept
