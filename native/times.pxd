"""Columns of times: the residual to a straight line, or differences, in the unit they share.

    RAW     8 bytes each
    FIXED   t = first + i*step, no section
    LINEAR  t = first + unit*(floor(i*step/unit) + r[i]), unit = 10^k: periodic with jitter
    DELTA   t = first + unit*q[i], unit = step: the gcd of all differences: events, gaps

A clock read in milliseconds costs no bits for its micro- and nanoseconds.
"""

cimport cython
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t

from bitpack cimport trailing_zeros
from buffer cimport DAMAGED, OK, Buf, Cur, left, load64, put_bytes
from section cimport (
    ANY_MODE, FOR, MINIS_MAX, POINTS_MAX, Plan, plan_section, put_section, take_section,
)

cdef enum TimeCodec:
    T_RAW = 0
    T_FIXED = 1
    T_LINEAR = 2
    T_DELTA = 3

cdef enum:
    POWER_MAX = 15

cdef struct TimeHead:
    int64_t first
    int64_t step
    uint8_t codec
    uint8_t power  # k of LINEAR

cdef struct TimeScratch:
    uint64_t linear[POINTS_MAX]
    uint64_t delta[POINTS_MAX]
    Plan linear_plans[MINIS_MAX]
    Plan delta_plans[MINIS_MAX]

# Exact division by d = odd << shift: multiply by the inverse of `odd` modulo 2^64. x is a multiple
# of `odd` just if the product is at most floor((2^64 - 1) / odd).
cdef struct Divisor:
    uint64_t d
    uint64_t inverse
    uint64_t most
    uint32_t shift


@cython.cdivision(True)
cdef inline void set_divisor(Divisor *v, uint64_t d) noexcept nogil:
    cdef uint64_t odd, inverse
    cdef int _i
    v.d = d
    v.shift = trailing_zeros(d)
    odd = d >> v.shift
    inverse = odd  # right modulo 8; each Newton step doubles the bits
    for _i in range(5):
        inverse *= 2 - odd * inverse
    v.inverse = inverse
    v.most = ~<uint64_t>0 / odd

cdef inline bint divides(const Divisor *v, uint64_t x) noexcept nogil:
    return x & ((<uint64_t>1 << v.shift) - 1) == 0 and (x >> v.shift) * v.inverse <= v.most


@cython.cdivision(True)
cdef inline uint64_t gcd(uint64_t a, uint64_t b) noexcept nogil:
    cdef uint64_t t
    while b:
        t = a % b
        a = b
        b = t
    return a


@cython.cdivision(True)
cdef inline int64_t floor_div(int64_t a, int64_t b) noexcept nogil:
    """Floor of a / b for b > 0."""
    return a / b - (1 if a % b < 0 else 0)

cdef inline uint64_t ten_to(uint32_t power) noexcept nogil:
    cdef uint64_t p = 1
    while power:
        p *= 10
        power -= 1
    return p


@cython.cdivision(True)
cdef inline uint8_t power_dividing(uint64_t d) noexcept nogil:
    """Largest k <= 15 for which 10^k divides d."""
    cdef uint8_t k = 0
    while k < POWER_MAX and d % 10 == 0:
        d /= 10
        k += 1
    return k

cdef inline bint is_wide(const int64_t *t, uint32_t n) noexcept nogil:
    """Whether a difference of two of the times may not fit int64."""
    cdef int64_t low = t[0], high = t[0]
    cdef uint32_t i
    for i in range(1, n):
        low = t[i] if t[i] < low else low
        high = t[i] if t[i] > high else high
    return <uint64_t>high - <uint64_t>low >= <uint64_t>1 << 62

cdef inline bint common_unit(Divisor *unit, const int64_t *t, uint32_t n) noexcept nogil:
    """Find the gcd of all differences; returns whether they are all equal. n >= 2."""
    cdef int64_t d
    cdef uint64_t size
    cdef int64_t same = t[1] - t[0]
    cdef bint is_fixed = True
    cdef uint32_t i
    unit.d = 0
    for i in range(1, n):
        d = t[i] - t[i - 1]
        if d == same and i > 1:
            continue
        if d != same:
            is_fixed = False
        size = <uint64_t>d if d >= 0 else 0 - <uint64_t>d
        if size and (unit.d == 0 or not divides(unit, size)):
            set_divisor(unit, gcd(size, unit.d))
    return is_fixed

cdef inline void residuals(
    uint64_t *linear, const int64_t *t, uint32_t n, int64_t step, uint64_t unit,
) noexcept nogil:
    """Fill r[i] = (t[i] - first)/unit - floor(i*step/unit)."""
    cdef Divisor by
    cdef int64_t whole = floor_div(step, <int64_t>unit)
    cdef uint64_t rest = <uint64_t>(step - whole * <int64_t>unit), carry = 0, line = 0
    cdef uint32_t i
    set_divisor(&by, unit)
    for i in range(n):
        linear[i] = <uint64_t>((t[i] - t[0]) >> by.shift) * by.inverse - line
        line += <uint64_t>whole
        carry += rest
        if carry >= unit:
            carry -= unit
            line += 1


@cython.cdivision(True)
cdef inline int put_times(
    Buf *out, const int64_t *t, uint32_t n, int layout, TimeScratch *s, TimeHead *head,
) noexcept nogil:
    """Choose the smallest codec for n >= 1 times and write its section; `head` says how to read."""
    cdef Divisor unit
    cdef size_t linear_size, delta_size
    cdef uint32_t i
    head.first = t[0]
    head.step = 0
    head.power = 0
    head.codec = T_FIXED
    if n == 1:
        return OK
    head.codec = T_RAW
    if is_wide(t, n):
        return put_bytes(out, t, n * sizeof(int64_t))
    if common_unit(&unit, t, n):
        head.codec, head.step = T_FIXED, t[1] - t[0]
        return OK
    head.power = power_dividing(unit.d)
    head.step = (t[n - 1] - t[0]) / <int64_t>(n - 1)
    residuals(s.linear, t, n, head.step, ten_to(head.power))
    for i in range(n):
        s.delta[i] = <uint64_t>((t[i] - t[0]) >> unit.shift) * unit.inverse
    # FOR only: with LINEAR any single time can be read without those before it.
    linear_size = plan_section(s.linear_plans, s.linear, n, FOR, layout)
    delta_size = plan_section(s.delta_plans, s.delta, n, ANY_MODE, layout)
    if linear_size >= 8 * n and delta_size >= 8 * n:
        head.power, head.step = 0, 0
        return put_bytes(out, t, n * sizeof(int64_t))
    if linear_size <= delta_size:
        head.codec = T_LINEAR
        return put_section(out, s.linear_plans, s.linear, n, layout)
    head.codec, head.power, head.step = T_DELTA, 0, <int64_t>unit.d
    return put_section(out, s.delta_plans, s.delta, n, layout)

cdef inline void draw_line(uint64_t *t, uint32_t n, const TimeHead *head) noexcept nogil:
    """Turn residuals into times, in place. Sums wrap: a hostile step does no harm."""
    cdef uint64_t unit = ten_to(head.power)
    cdef int64_t whole = floor_div(head.step, <int64_t>unit)
    cdef uint64_t rest = <uint64_t>head.step - <uint64_t>whole * unit, carry = 0, line = 0
    cdef uint32_t i
    for i in range(n):
        t[i] = <uint64_t>head.first + unit * (line + t[i])
        line += <uint64_t>whole
        carry += rest
        if carry >= unit:
            carry -= unit
            line += 1

cdef inline int take_times(
    Cur *c, uint64_t *t, uint32_t n, int layout, const TimeHead *head,
) noexcept nogil:
    """Decode n times; DIRECTORY: `c` holds the section and nothing else."""
    cdef uint64_t at = <uint64_t>head.first
    cdef uint32_t i
    if head.codec == T_RAW:
        if left(c) < 8 * <size_t>n:
            return DAMAGED
        for i in range(n):
            t[i] = load64(c.at + 8 * i)
        c.at += 8 * <size_t>n
    elif head.codec == T_FIXED:
        for i in range(n):
            t[i] = at
            at += <uint64_t>head.step
    elif head.codec == T_LINEAR and head.power <= POWER_MAX:
        if take_section(c, t, n, layout) != OK:
            return DAMAGED
        draw_line(t, n, head)
    elif head.codec == T_DELTA:
        if take_section(c, t, n, layout) != OK:
            return DAMAGED
        for i in range(n):
            t[i] = at + <uint64_t>head.step * t[i]
    else:
        return DAMAGED
    return OK
