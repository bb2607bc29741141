# cython: boundscheck=False, wraparound=False
"""Redis' patterns (`*`, `?`, `[a-z]`, `[^x]`, `\\`), matched without backtracking into the past.

After a mismatch only the last `*` is tried one byte further on: what an earlier one took can stay.
So a pattern costs at most its own length for each byte of a name, however many stars it has.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport uint8_t, uint16_t
from libc.string cimport memset

cdef enum:
    ANY = 256
    STAR = 257
    CLASS = 258  # and those behind it: 258 is the first class
    CLASS_BYTES = 32
    PATTERN_BYTES_MAX = 4096

PATTERN_MAX = PATTERN_BYTES_MAX


cdef class Glob:
    """A pattern, compiled; raises ValueError for one of more than PATTERN_MAX bytes."""

    cdef uint16_t *tokens   # a byte, ANY, STAR, or CLASS + number of the class
    cdef uint8_t *classes   # a bit for each byte that is in it
    cdef Py_ssize_t size
    cdef Py_ssize_t least   # bytes that a name needs to have

    def __cinit__(self, bytes pattern not None):
        cdef Py_ssize_t end = PyBytes_GET_SIZE(pattern)
        if end > PATTERN_BYTES_MAX:
            raise ValueError(f"a pattern of {end} bytes; at most {PATTERN_BYTES_MAX}")
        # A class takes two bytes of the pattern at least.
        self.tokens = <uint16_t *>PyMem_Malloc((end + 1) * sizeof(uint16_t))
        self.classes = <uint8_t *>PyMem_Malloc((pattern.count(b"[") + 1) * CLASS_BYTES)
        if self.tokens == NULL or self.classes == NULL:
            raise MemoryError
        self.compile(<const uint8_t *>PyBytes_AS_STRING(pattern), end)

    def __dealloc__(self):
        PyMem_Free(self.tokens)
        PyMem_Free(self.classes)

    cdef void compile(self, const uint8_t *pattern, Py_ssize_t end) noexcept:
        cdef Py_ssize_t at = 0
        cdef uint16_t token, count = 0
        while at < end:
            token = pattern[at]
            at += 1
            if token == c"*":
                if self.size and self.tokens[self.size - 1] == STAR:
                    continue
                self.tokens[self.size] = STAR
                self.size += 1
                continue
            if token == c"?":
                token = ANY
            elif token == c"[":
                at = read_class(pattern, at, end, self.classes + count * CLASS_BYTES)
                token = CLASS + count
                count += 1
            elif token == c"\\" and at < end:
                token = pattern[at]
                at += 1
            self.tokens[self.size] = token
            self.size += 1
            self.least += 1

    cdef bint fits(self, uint16_t token, uint8_t byte) noexcept:
        if token < ANY:
            return token == byte
        if token == ANY:
            return True
        return self.classes[(token - CLASS) * CLASS_BYTES + byte // 8] >> (byte % 8) & 1

    cpdef bint matches(self, bytes name):
        """Whether the whole name is what the pattern says."""
        cdef const uint8_t *raw = <const uint8_t *>PyBytes_AS_STRING(name)
        cdef Py_ssize_t end = PyBytes_GET_SIZE(name), at = 0, token = 0
        cdef Py_ssize_t star = -1, taken = 0  # the last star, and where what it took ends
        if end < self.least:
            return False
        while at < end:
            if token < self.size and self.tokens[token] == STAR:
                star, taken = token, at
                token += 1
                if token == self.size:
                    return True
            elif token < self.size and self.fits(self.tokens[token], raw[at]):
                token += 1
                at += 1
            elif star >= 0:
                taken += 1
                token, at = star + 1, taken
            else:
                return False
        while token < self.size and self.tokens[token] == STAR:
            token += 1
        return token == self.size


cdef Py_ssize_t read_class(
    const uint8_t *pattern, Py_ssize_t at, Py_ssize_t end, uint8_t *bits
) noexcept:
    """Read a class whose `[` is before `at`, as Redis does; returns where it ends."""
    cdef bint is_not = at < end and pattern[at] == c"^"
    cdef int low, high, byte
    cdef Py_ssize_t i
    memset(bits, 0, CLASS_BYTES)
    at += is_not
    while at < end and pattern[at] != c"]":
        if pattern[at] == c"\\" and at + 1 < end:
            at += 1
            low = high = pattern[at]
        elif at + 2 < end and pattern[at + 1] == c"-":
            low, high = pattern[at], pattern[at + 2]
            if low > high:
                low, high = high, low
            at += 2
        else:
            low = high = pattern[at]
        for byte in range(low, high + 1):
            bits[byte // 8] |= <uint8_t>(1 << (byte % 8))
        at += 1
    if is_not:
        for i in range(CLASS_BYTES):
            bits[i] = ~bits[i]
    return at + 1
