"""Doubles that came from decimals, as integers: value = m / 10^e, proven bit by bit.

10^e is exact for e <= 22 and division rounds correctly, so every value of at most 15 significant
digits has its m. What has none (nan, -0.0, a reading with all its 17 digits) is an exception.
"""

from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    static const double edgesync_tens[16] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};
    """
    const double *TENS "edgesync_tens"

cdef enum:
    EXPONENT_MAX = 15
    EXCEPTIONS_MAX = 410  # 5 % of 8192 points
    SAMPLES = 64

cdef struct Decimals:
    uint32_t exponent
    uint32_t exceptions
    uint16_t index[EXCEPTIONS_MAX]
    uint64_t raw[EXCEPTIONS_MAX]

cdef inline bint to_mantissa(uint64_t bits, uint32_t e, int64_t *m) noexcept nogil:
    """Find m with m / 10^e the very double `bits`."""
    cdef double v, scaled, back
    cdef uint64_t back_bits
    memcpy(&v, &bits, 8)
    scaled = v * TENS[e]
    if not (-9007199254740992.0 <= scaled <= 9007199254740992.0):
        return False
    m[0] = <int64_t>(scaled + (0.5 if scaled >= 0 else -0.5))
    # Through the integer: compared as doubles, -0.0 would pass for 0.
    back = <double>m[0] / TENS[e]
    memcpy(&back_bits, &back, 8)
    return back_bits == bits

cdef inline int choose_exponent(const uint64_t *bits, uint32_t n) noexcept nogil:
    """Smallest exponent that fits up to 64 spaced samples, -1 when one in eight fits none."""
    cdef uint32_t stride = n >> 6 if n > SAMPLES else 1
    cdef uint32_t i = 0, e = 0, tried, misses = 0, seen = 0
    cdef int64_t m
    while i < n:
        seen += 1
        tried = e
        while tried <= EXPONENT_MAX and not to_mantissa(bits[i], tried, &m):
            tried += 1
        if tried <= EXPONENT_MAX:
            e = tried
        else:
            misses += 1
            if misses > 8:
                return -1
        i += stride
    return <int>e if misses * 8 <= seen else -1

cdef inline bint convert(
    uint64_t *mantissas, const uint64_t *bits, uint32_t n, uint32_t e, Decimals *d,
) noexcept nogil:
    """Fill the mantissas; False when more than 5 % of the values have none."""
    cdef uint32_t i, most = n // 20
    cdef int64_t m = 0, before = 0
    cdef uint32_t good = 0
    d.exponent = e
    d.exceptions = 0
    for i in range(n):
        if to_mantissa(bits[i], e, &m):
            before = m
            good += 1
        else:
            if d.exceptions >= most:
                return False
            d.index[d.exceptions] = <uint16_t>i
            d.raw[d.exceptions] = bits[i]
            d.exceptions += 1
        # An exception's slot repeats its neighbour, which costs the fewest bits.
        mantissas[i] = <uint64_t>before
    i = 0
    while i < d.exceptions and d.index[i] == i:
        i += 1
    if i < n:
        before = <int64_t>mantissas[i]
        while i:
            i -= 1
            mantissas[i] = <uint64_t>before
    return good > 0

cdef inline bint to_decimals(
    uint64_t *mantissas, const uint64_t *bits, uint32_t n, Decimals *d,
) noexcept nogil:
    """Find exponent, mantissas and exceptions of n doubles, or say that they are no decimals."""
    cdef int e = choose_exponent(bits, n)
    if e < 0:
        return False
    # The samples may have missed a value with more digits: go on from the sampled exponent.
    while e <= EXPONENT_MAX:
        if convert(mantissas, bits, n, e, d):
            return True
        e += 1
    return False

cdef inline void from_decimals(uint64_t *values, uint32_t n, uint32_t e) noexcept nogil:
    """Turn mantissas into the bits of doubles, in place."""
    cdef double by = TENS[e], v
    cdef uint32_t i
    for i in range(n):
        v = <double><int64_t>values[i] / by
        memcpy(values + i, &v, 8)
