"""Sums over columns: of a whole block (Neumaier and Welford) and by aligned buckets of time."""

cimport cython
from libc.stdint cimport INT64_MIN, int64_t, uint32_t, uint64_t
from libc.string cimport memcpy

from buffer cimport OK, Buf, buf_need

# In this order at the end of a block.
cdef struct Moments:
    double first
    double last
    double low
    double high
    double sum
    double sum_rest  # what rounding took from `sum` (Neumaier); the sum is both together
    double mean
    double m2

# A run of consecutive points in one bucket.
cdef struct Totals:
    int64_t start
    int64_t first_at
    int64_t last_at
    uint64_t count
    double low
    double high
    double sum
    double first
    double last

cdef inline double number_at(const void *values, size_t i, bint is_float) noexcept nogil:
    cdef double x
    cdef int64_t whole
    if is_float:
        memcpy(&x, <const char *>values + 8 * i, 8)
        return x
    memcpy(&whole, <const char *>values + 8 * i, 8)
    return <double>whole

cdef inline double size_of(double x) noexcept nogil:
    return x if x >= 0 else -x

@cython.cdivision(True)
cdef inline bint aggregate(
    const uint64_t *values, uint32_t n, bint is_float, Moments *m,
) noexcept nogil:
    """Fill `m` from n >= 1 values; False when one is nan."""
    cdef double x, total, square = 0, away, pivot
    cdef uint32_t i
    x = number_at(values, 0, is_float)
    m.first = m.low = m.high = x
    m.sum = m.sum_rest = m.mean = m.m2 = 0
    for i in range(n):
        x = number_at(values, i, is_float)
        if x != x:
            return False
        m.low = x if x < m.low else m.low
        m.high = x if x > m.high else m.high
        total = m.sum + x
        if size_of(m.sum) >= size_of(x):
            m.sum_rest += (m.sum - total) + x
        else:
            m.sum_rest += (x - total) + m.sum
        m.sum = total
    m.last = x
    m.mean = (m.sum + m.sum_rest) / n
    # Two passes instead of Welford's division a value: faster, and as exact.
    pivot = m.mean
    away = 0
    for i in range(n):
        x = number_at(values, i, is_float) - pivot
        square += x * x
        away += x
    m.m2 = square - away * away / n
    return True

@cython.cdivision(True)
cdef inline int64_t bucket_of(int64_t t, int64_t width) noexcept nogil:
    """Largest multiple of `width` that is not after t; at the edge of int64 the smallest."""
    cdef int64_t rest = t % width
    if rest < 0:
        rest += width
    if t < INT64_MIN + rest:
        return t + (width - rest)
    return t - rest

cdef inline void open_run(
    Totals *b, int64_t t, int64_t start, double x,
) noexcept nogil:
    b.start = start
    b.first_at = b.last_at = t
    b.count = 0
    b.low = b.high = b.first = b.last = x
    b.sum = 0

@cython.cdivision(True)
cdef inline Py_ssize_t roll_up(
    Buf *out, const int64_t *t, const void *values, size_t n, bint is_float, int64_t width,
) noexcept nogil:
    """Write a Totals for each run of points in the same bucket; returns how many, or negative."""
    cdef Totals *b = NULL
    cdef int64_t start = 0
    cdef uint64_t into
    cdef double x
    cdef size_t i
    for i in range(n):
        x = number_at(values, i, is_float)
        if x != x:
            continue
        # Most points fall into the bucket of the one before: no division for them.
        into = <uint64_t>t[i] - <uint64_t>start
        if b == NULL or t[i] < start or into >= <uint64_t>width:
            start = bucket_of(t[i], width)
            if buf_need(out, sizeof(Totals)) != OK:
                return -1
            b = <Totals *>(out.data + out.size)
            out.size += sizeof(Totals)
            open_run(b, t[i], start, x)
        b.count += 1
        b.sum += x
        b.low = x if x < b.low else b.low
        b.high = x if x > b.high else b.high
        if t[i] < b.first_at:
            b.first_at, b.first = t[i], x
        if t[i] >= b.last_at:
            b.last_at, b.last = t[i], x
    return <Py_ssize_t>(out.size / sizeof(Totals))
