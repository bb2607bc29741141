"""Doubles that came from decimals, as integers: value = m / 10^e, proven bit by bit.

10^e is exact for e <= 22 and division rounds correctly, so every value of at most 15 significant
digits has its m. What has none (nan, -0.0, a reading with all its 17 digits) is an exception.
"""

cimport cython
from libc.stdint cimport int64_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <stdint.h>
    #include <string.h>
    #if defined(__SSE2__)
    #include <emmintrin.h>
    #elif defined(__aarch64__)
    #include <arm_neon.h>
    #endif
    static const double edgesync_tens[16] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15};

    /* Adding 1.5 * 2^52 to |x| < 2^51 leaves x rounded in the low bits of the sum: a conversion
       between double and int64 that SSE2 and NEON can do two at a time. */
    #define EDGESYNC_MAGIC 6755399441055744.0
    #define EDGESYNC_MAGIC_BITS 0x4338000000000000ll

    /* Mantissas of the two doubles at `bits`; 0 if one has none or is too large to do it here. */
    static inline int edgesync_two_mantissas(const uint64_t *bits, double tens, uint64_t *m) {
    #if defined(__SSE2__)
        const __m128d magic = _mm_set1_pd(EDGESYNC_MAGIC), by = _mm_set1_pd(tens);
        __m128d v = _mm_loadu_pd((const double *)bits);
        __m128d scaled = _mm_mul_pd(v, by);
        __m128d size = _mm_andnot_pd(_mm_set1_pd(-0.0), scaled);
        __m128d sum = _mm_add_pd(scaled, magic);
        __m128d back = _mm_div_pd(_mm_sub_pd(sum, magic), by);
        __m128i same = _mm_cmpeq_epi32(_mm_castpd_si128(back), _mm_castpd_si128(v));
        __m128d small = _mm_cmplt_pd(size, _mm_set1_pd(2251799813685248.0));
        if (_mm_movemask_epi8(same) != 0xFFFF || _mm_movemask_pd(small) != 3) return 0;
        _mm_storeu_si128((__m128i *)m, _mm_sub_epi64(
            _mm_castpd_si128(sum), _mm_set1_epi64x(EDGESYNC_MAGIC_BITS)));
        return 1;
    #elif defined(__aarch64__)
        const float64x2_t magic = vdupq_n_f64(EDGESYNC_MAGIC), by = vdupq_n_f64(tens);
        uint64x2_t v = vld1q_u64(bits);
        float64x2_t scaled = vmulq_f64(vreinterpretq_f64_u64(v), by);
        float64x2_t sum = vaddq_f64(scaled, magic);
        float64x2_t back = vdivq_f64(vsubq_f64(sum, magic), by);
        uint64x2_t same = vceqq_u64(vreinterpretq_u64_f64(back), v);
        uint64x2_t small = vcltq_f64(vabsq_f64(scaled), vdupq_n_f64(2251799813685248.0));
        uint64x2_t both = vandq_u64(same, small);
        if ((vgetq_lane_u64(both, 0) & vgetq_lane_u64(both, 1)) != ~0ull) return 0;
        vst1q_u64(m, vsubq_u64(vreinterpretq_u64_f64(sum), vdupq_n_u64(EDGESYNC_MAGIC_BITS)));
        return 1;
    #else
        (void)bits; (void)tens; (void)m;
        return 0;
    #endif
    }

    /* Mantissas to the bits of m / tens, in place. */
    static inline void edgesync_divide(uint64_t *v, size_t n, double tens) {
        size_t i = 0;
        double x;
    #if defined(__SSE2__)
        const __m128d magic = _mm_set1_pd(EDGESYNC_MAGIC), by = _mm_set1_pd(tens);
        const __m128i bits = _mm_set1_epi64x(EDGESYNC_MAGIC_BITS);
        uint64_t large = 0;
        for (size_t k = 0; k < n; k++) large |= v[k] + (1ull << 51);
        if (large >> 52 == 0)
            for (; i + 2 <= n; i += 2) {
                __m128i m = _mm_add_epi64(_mm_loadu_si128((const __m128i *)(v + i)), bits);
                __m128d d = _mm_div_pd(_mm_sub_pd(_mm_castsi128_pd(m), magic), by);
                _mm_storeu_si128((__m128i *)(v + i), _mm_castpd_si128(d));
            }
    #elif defined(__aarch64__)
        const float64x2_t magic = vdupq_n_f64(EDGESYNC_MAGIC), by = vdupq_n_f64(tens);
        const uint64x2_t bits = vdupq_n_u64(EDGESYNC_MAGIC_BITS);
        uint64_t large = 0;
        for (size_t k = 0; k < n; k++) large |= v[k] + (1ull << 51);
        if (large >> 52 == 0)
            for (; i + 2 <= n; i += 2) {
                float64x2_t m = vreinterpretq_f64_u64(vaddq_u64(vld1q_u64(v + i), bits));
                float64x2_t d = vdivq_f64(vsubq_f64(m, magic), by);
                vst1q_u64(v + i, vreinterpretq_u64_f64(d));
            }
    #endif
        for (; i < n; i++) {
            x = (double)(int64_t)v[i] / tens;
            memcpy(v + i, &x, 8);
        }
    }
    """
    const double *TENS "edgesync_tens"
    bint two_mantissas "edgesync_two_mantissas"(
        const uint64_t *bits, double tens, uint64_t *m) noexcept nogil
    void divide_all "edgesync_divide"(uint64_t *v, size_t n, double tens) noexcept nogil

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


@cython.cdivision(True)
cdef inline int choose_exponent(const uint64_t *bits, uint32_t n) noexcept nogil:
    """Smallest exponent that fits up to 64 spaced samples, -1 when one in eight fits none."""
    cdef uint32_t stride = n >> 6 if n > SAMPLES else 1
    cdef uint32_t seen = 0, e = 0, tried, misses = 0, i = 0
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
        # Not at equal distances: a period of the data would be all that is seen.
        i = seen * stride + seen * 7919 % stride
    return <int>e if misses * 8 <= seen else -1

cdef inline bint convert_one(
    uint64_t *mantissas, const uint64_t *bits, uint32_t i, uint32_t most, Decimals *d,
) noexcept nogil:
    """Fill mantissa i, or enter it as an exception; False when that is one too many."""
    cdef int64_t m = 0
    if to_mantissa(bits[i], d.exponent, &m):
        mantissas[i] = <uint64_t>m
        return True
    if d.exceptions >= most:
        return False
    d.index[d.exceptions] = <uint16_t>i
    d.raw[d.exceptions] = bits[i]
    d.exceptions += 1
    # An exception's slot repeats its neighbour, which costs the fewest bits.
    mantissas[i] = mantissas[i - 1] if i else 0
    return True


@cython.cdivision(True)
cdef inline bint convert(
    uint64_t *mantissas, const uint64_t *bits, uint32_t n, uint32_t e, Decimals *d,
) noexcept nogil:
    """Fill the mantissas; False when more than 5 % of the values have none."""
    cdef uint32_t i = 0, most = n // 20
    cdef double tens = TENS[e]
    d.exponent = e
    d.exceptions = 0
    while i < n:
        if i + 2 <= n and two_mantissas(bits + i, tens, mantissas + i):
            i += 2
            continue
        if not convert_one(mantissas, bits, i, most, d):
            return False
        if i + 1 < n and not convert_one(mantissas, bits, i + 1, most, d):
            return False
        i += 2
    i = 0
    while i < d.exceptions and d.index[i] == i:
        i += 1
    if i == n:
        return False
    while i:
        i -= 1
        mantissas[i] = mantissas[i + 1]
    return True

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
    divide_all(values, n, TENS[e])
