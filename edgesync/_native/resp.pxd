"""What `connection` takes from `resp`: the parser over its own bytes, and replies into a buffer."""

from libc.stdint cimport int64_t, uint8_t

from buffer cimport Buf

cdef enum:
    FOUND = 0
    SHORT = 1
    OTHER = 2

cdef struct Word:
    const char *data
    Py_ssize_t size

cdef class Parser:
    cdef Buf kept              # what came and has not been read
    cdef const char *data      # what is being read: `kept`, or bytes of the caller's
    cdef Py_ssize_t at
    cdef Py_ssize_t end
    cdef Py_ssize_t peeked     # where what `peek` found ends
    cdef list arguments
    cdef int64_t missing       # arguments still to come; 0 between commands
    cdef int64_t bulk          # bytes of the argument that has been announced; -1 for none
    cdef Py_ssize_t size       # bytes of the arguments so far
    cdef int64_t excess        # the limit that this command goes beyond; 0 for none
    cdef Py_ssize_t skipped    # bytes of the present argument, in such a command
    cdef readonly str error
    cdef public bint is_stranger
    cdef int64_t arguments_max
    cdef int64_t bytes_max
    cdef int64_t command_max

    cdef int read(self, const char *chunk, Py_ssize_t size, list commands) except -1
    cdef int begin(self, const char *chunk, Py_ssize_t size) except -1
    cdef int finish(self, list commands) except -1
    cdef int peek(self, Word *words, int count) noexcept
    cdef void pass_by(self) noexcept
    cdef int keep(self) except -1
    cdef bint step(self, list commands) except -1
    cdef bint skip(self, list commands) except -1
    cdef bint fail(self, str why) except -1
    cdef Py_ssize_t line_end(self, Py_ssize_t limit, str why) except -2
    cdef int64_t number(self, Py_ssize_t at, Py_ssize_t end) except? -3
    cdef bint inline(self, list commands) except -1

cdef int head(Buf *out, uint8_t mark, int64_t number) except -1
cdef int write(Buf *out, object reply, int proto) except -1
