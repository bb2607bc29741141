"""Sums over columns: of a whole block (compensated) and by aligned buckets of time."""

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
    double sum_rest  # what rounding took from `sum` ; the sum is both together
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

cdef inline void add_to(double *sum, double *rest, double x) noexcept nogil:
    """Add without losing what rounding takes (Knuth's two-sum, no branch)."""
    cdef double total = sum[0] + x
    cdef double part = total - sum[0]
    rest[0] += (sum[0] - (total - part)) + (x - part)
    sum[0] = total

cdef inline bint has_nan(const uint64_t *values, uint32_t n) noexcept nogil:
    cdef uint64_t top = 0, size
    cdef uint32_t i
    for i in range(n):
        size = values[i] << 1
        top = size if size > top else top
    return top > <uint64_t>0x7FF << 53


@cython.cdivision(True)
cdef inline void aggregate(
    const uint64_t *values, uint32_t n, bint is_float, Moments *m,
) noexcept nogil:
    """Fill `m` from n >= 1 values, none of them nan.

    Four sums side by side, as one would wait for each addition; m2 in a second pass, instead of a
    division a value.
    """
    cdef double sum[4]
    cdef double rest[4]
    cdef double square[4]
    cdef double x, low, high
    cdef uint32_t i, k
    low = high = number_at(values, 0, is_float)
    for k in range(4):
        sum[k] = rest[k] = square[k] = 0
    for i in range(0, n & ~3, 4):
        for k in range(4):
            x = number_at(values, i + k, is_float)
            low = x if x < low else low
            high = x if x > high else high
            add_to(sum + k, rest + k, x)
    for i in range(n & ~3, n):
        x = number_at(values, i, is_float)
        low = x if x < low else low
        high = x if x > high else high
        add_to(sum, rest, x)
    m.low, m.high = low, high
    m.first, m.last = number_at(values, 0, is_float), number_at(values, n - 1, is_float)
    m.sum, m.sum_rest = sum[0], rest[0]
    for k in range(1, 4):
        add_to(&m.sum, &m.sum_rest, sum[k])
        m.sum_rest += rest[k]
    m.mean = (m.sum + m.sum_rest) / n
    for i in range(0, n & ~3, 4):
        for k in range(4):
            x = number_at(values, i + k, is_float) - m.mean
            square[k] += x * x
    for i in range(n & ~3, n):
        x = number_at(values, i, is_float) - m.mean
        square[0] += x * x
    m.m2 = (square[0] + square[1]) + (square[2] + square[3])


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
