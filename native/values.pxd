"""Columns of 8-byte values (f64, i64, bool) and the choice of the smallest codec for each."""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from bare cimport put_packed, take_packed
from bitpack cimport pack_bits, packed_bytes, unpack_bits, width_of
from buffer cimport (
    DAMAGED, NO_MEMORY, OK, Buf, Cur, buf_free, buf_need, left, load16, load64, put8, put64,
    put_bytes, put_varint, store16, take8, take64, take_varint,
)
from decimal cimport EXPONENT_MAX, Decimals, from_decimals, to_decimals
from rows cimport VT_BOOL, VT_F64
from section cimport (
    ANY_MODE, DIRECTORY, MINI, MINIS_MAX, POINTS_MAX, Plan, plan_section, put_section, take_section,
)
from times cimport TimeScratch
from xor cimport put_xor, take_xor

cdef enum ValueCodec:
    V_RAW = 0
    V_CONST = 1
    V_DEC_FOR = 2
    V_DICT = 3
    V_XOR = 4
    V_LZ4_PLANES = 5
    V_LZ4 = 6
    V_BITMAP = 7
    V_RUNS = 8

cdef enum:
    DICT_MAX = 4096
    EXCEPTION_BYTES = 10
    # From this many bytes a value on it is worth the time to try XOR and LZ4.
    POOR_BYTES = 4

# What an encoder needs: about 0.6 MB, of which a short column touches little.
cdef struct Scratch:
    int64_t own_times[POINTS_MAX]
    uint64_t own_values[POINTS_MAX]
    uint64_t mantissas[POINTS_MAX]
    uint64_t ids[POINTS_MAX]
    uint64_t dictionary[DICT_MAX]
    uint16_t slots[2 * DICT_MAX]
    Plan plans[MINIS_MAX]
    Decimals decimals
    TimeScratch times
    Buf best
    Buf trial
    Buf planes

cdef struct ValueHead:
    uint8_t codec
    uint8_t exponent
    uint32_t exceptions  # they stand in Scratch.decimals

cdef extern from *:
    """
    /* One scratch is kept between calls: fresh from the system, its pages cost more than encoding
       a block does. Taken and put back by exchange, so that each thread holds its own. */
    static void *edgesync_spare_scratch;
    static inline void *edgesync_swap_scratch(void *p) {
        return __atomic_exchange_n(&edgesync_spare_scratch, p, __ATOMIC_ACQ_REL);
    }
    """
    void *swap_spare "edgesync_swap_scratch"(void *p) noexcept nogil

cdef inline Scratch *new_scratch() noexcept nogil:
    cdef void *spare = swap_spare(NULL)
    return <Scratch *>(spare if spare != NULL else calloc(1, sizeof(Scratch)))

cdef inline void free_scratch(Scratch *s) noexcept nogil:
    if s == NULL:
        return
    # Buffers that grew are not kept: the spare stays about as large as the struct.
    buf_free(&s.best)
    buf_free(&s.trial)
    buf_free(&s.planes)
    free(swap_spare(s))

cdef inline bint is_constant(const uint64_t *v, uint32_t n) noexcept nogil:
    cdef uint32_t i
    for i in range(1, n):
        if v[i] != v[0]:
            return False
    return True

cdef inline uint32_t dictionary_room(size_t best, uint32_t n) noexcept nogil:
    """Most distinct values with which a dictionary could still be smaller than `best` bytes."""
    cdef uint32_t width, room, most = 0
    for width in range(1, 13):
        if best > 2 + packed_bytes(n, width):
            room = <uint32_t>((best - 2 - packed_bytes(n, width)) >> 3)
            room = room if room < <uint32_t>1 << width else <uint32_t>1 << width
            most = room if room > most else most
    return most

cdef inline uint32_t fill_dictionary(
    Scratch *s, const uint64_t *v, uint32_t n, uint32_t most,
) noexcept nogil:
    """Number the distinct values in order of appearance; 0 when there are more than `most`."""
    cdef uint32_t mask = 16, slot, count = 0, i
    while mask < 2 * most:
        mask *= 2
    memset(s.slots, 0, mask * sizeof(uint16_t))
    mask -= 1
    for i in range(n):
        if i and v[i] == v[i - 1]:
            s.ids[i] = s.ids[i - 1]
            continue
        slot = <uint32_t>(v[i] * <uint64_t>0x9E3779B97F4A7C15 >> 40) & mask
        while s.slots[slot] and s.dictionary[s.slots[slot] - 1] != v[i]:
            slot = (slot + 1) & mask
        if not s.slots[slot]:
            if count == most:
                return 0
            s.dictionary[count] = v[i]
            count += 1
            s.slots[slot] = <uint16_t>count
        s.ids[i] = s.slots[slot] - 1
    return count

cdef inline int try_dictionary(Scratch *s, const uint64_t *v, uint32_t n) noexcept nogil:
    """Replace `best` by DICT when that is smaller; returns 1 then, 0 if not, or NO_MEMORY."""
    cdef size_t size
    cdef uint32_t count, most = dictionary_room(s.best.size, n), width
    count = fill_dictionary(s, v, n, most) if most else 0
    width = width_of(count - 1)
    size = 2 + 8 * <size_t>count + packed_bytes(n, width)
    if count == 0 or size >= s.best.size:
        return 0
    s.best.size = 0
    if buf_need(&s.best, size + 8) != OK:
        return NO_MEMORY
    store16(s.best.data, <uint16_t>count)
    memcpy(s.best.data + 2, s.dictionary, 8 * count)
    pack_bits(s.best.data + 2 + 8 * count, s.ids, n, width)
    s.best.size = size
    return 1

cdef inline int take_dictionary(Cur *c, uint64_t *v, uint32_t n) noexcept nogil:
    cdef uint32_t count, width, i
    cdef const uint8_t *words
    if left(c) < 2:
        return DAMAGED
    count = load16(c.at)
    if count == 0 or count > DICT_MAX:
        return DAMAGED
    width = width_of(count - 1)
    if left(c) < 2 + 8 * <size_t>count + packed_bytes(n, width):
        return DAMAGED
    words = c.at + 2
    unpack_bits(v, words + 8 * count, n, width)
    for i in range(n):
        if v[i] >= count:
            return DAMAGED
        v[i] = load64(words + 8 * v[i])
    c.at = words + 8 * count + packed_bytes(n, width)
    return OK

cdef inline void keep_smaller(Scratch *s, ValueHead *head, uint8_t codec) noexcept nogil:
    """Take `trial` in place of `best` if it is smaller."""
    cdef Buf b
    if s.trial.size < s.best.size + EXCEPTION_BYTES * <size_t>head.exceptions:
        b = s.best
        s.best = s.trial
        s.trial = b
        head.codec = codec
        head.exponent = 0
        head.exceptions = 0

cdef inline void to_planes(uint8_t *planes, const uint64_t *v, uint32_t n) noexcept nogil:
    """Byte k of every value together: high bytes of neighbours are alike."""
    cdef uint32_t i, k
    for i in range(n):
        for k in range(8):
            planes[k * n + i] = <uint8_t>(v[i] >> (8 * k))

cdef inline int try_the_slow(
    Scratch *s, const uint64_t *v, uint32_t n, int layout, ValueHead *head,
) noexcept nogil:
    s.trial.size = 0
    if put_xor(&s.trial, v, n, layout) != OK:
        return NO_MEMORY
    keep_smaller(s, head, V_XOR)
    s.trial.size = s.planes.size = 0
    if buf_need(&s.planes, 8 * <size_t>n) != OK:
        return NO_MEMORY
    to_planes(s.planes.data, v, n)
    if put_packed(&s.trial, s.planes.data, 8 * <size_t>n) != OK:
        return NO_MEMORY
    keep_smaller(s, head, V_LZ4_PLANES)
    s.trial.size = 0
    if put_packed(&s.trial, <const uint8_t *>v, 8 * <size_t>n) != OK:
        return NO_MEMORY
    keep_smaller(s, head, V_LZ4)
    return OK

cdef inline int put_bools(
    Scratch *s, const uint64_t *v, uint32_t n, ValueHead *head,
) noexcept nogil:
    cdef uint32_t i, run = 0
    head.codec = V_BITMAP
    if buf_need(&s.best, packed_bytes(n, 1) + 8) != OK:
        return NO_MEMORY
    pack_bits(s.best.data, v, n, 1)
    s.best.size = packed_bytes(n, 1)
    if put8(&s.trial, <uint8_t>v[0]) != OK:
        return NO_MEMORY
    for i in range(n):
        run += 1
        if i + 1 == n or v[i + 1] != v[i]:
            if put_varint(&s.trial, run) != OK:
                return NO_MEMORY
            run = 0
            if s.trial.size >= s.best.size:
                return OK
    keep_smaller(s, head, V_RUNS)
    return OK

cdef inline int take_runs(Cur *c, uint64_t *v, uint32_t n) noexcept nogil:
    cdef uint8_t bit
    cdef uint64_t run
    cdef uint32_t i = 0
    if not take8(c, &bit) or bit > 1:
        return DAMAGED
    while i < n:
        if not take_varint(c, &run) or run == 0 or run > n - i:
            return DAMAGED
        while run:
            v[i] = bit
            i += 1
            run -= 1
        bit ^= 1
    return OK

cdef inline int put_numbers(
    Scratch *s, const uint64_t *v, uint32_t n, uint8_t vtype, int layout, ValueHead *head,
) noexcept nogil:
    cdef const uint64_t *m = v
    cdef size_t size
    cdef int status
    cdef bint is_integral = vtype != VT_F64
    if not is_integral:
        is_integral = to_decimals(s.mantissas, v, n, &s.decimals)
        m = s.mantissas
    head.codec = V_RAW
    size = plan_section(s.plans, m, n, ANY_MODE, layout) if is_integral else 8 * <size_t>n
    if is_integral and vtype == VT_F64:
        head.exponent = <uint8_t>s.decimals.exponent
        head.exceptions = s.decimals.exceptions
    if is_integral and size + EXCEPTION_BYTES * head.exceptions < 8 * <size_t>n:
        head.codec = V_DEC_FOR
        status = put_section(&s.best, s.plans, m, n, layout)
    else:
        head.exponent = 0
        head.exceptions = 0
        status = put_bytes(&s.best, v, 8 * <size_t>n)
    if status != OK:
        return status
    status = try_dictionary(s, v, n)
    if status < 0:
        return status
    if status:
        head.codec, head.exponent, head.exceptions = V_DICT, 0, 0
    if s.best.size > POOR_BYTES * <size_t>n and n >= 8:
        return try_the_slow(s, v, n, layout, head)
    return OK

cdef inline int choose_values(
    Scratch *s, const uint64_t *v, uint32_t n, uint8_t vtype, int layout, ValueHead *head,
) noexcept nogil:
    """Encode 1..8192 values into `s.best` with the smallest codec; `head` says how to read them."""
    head.exponent = 0
    head.exceptions = 0
    s.best.size = s.trial.size = 0
    # In a stream the few bytes of a short integer beat the eight of CONST.
    if is_constant(v, n) and (vtype == VT_BOOL or layout == DIRECTORY or n > 2 * MINI):
        head.codec = V_CONST
        return put64(&s.best, v[0])
    if vtype == VT_BOOL:
        return put_bools(s, v, n, head)
    return put_numbers(s, v, n, vtype, layout, head)

cdef inline int put_exceptions(Buf *out, const Scratch *s, const ValueHead *head) noexcept nogil:
    cdef uint32_t i
    if buf_need(out, EXCEPTION_BYTES * head.exceptions) != OK:
        return NO_MEMORY
    for i in range(head.exceptions):
        store16(out.data + out.size, s.decimals.index[i])
        memcpy(out.data + out.size + 2, s.decimals.raw + i, 8)
        out.size += EXCEPTION_BYTES
    return OK

cdef inline int take_exceptions(Cur *c, uint64_t *v, uint32_t n, uint32_t count) noexcept nogil:
    cdef uint32_t i, index, before = 0
    if count > n or left(c) < EXCEPTION_BYTES * <size_t>count:
        return DAMAGED
    for i in range(count):
        index = load16(c.at)
        if index >= n or (i and index <= before):
            return DAMAGED
        v[index] = load64(c.at + 2)
        before = index
        c.at += EXCEPTION_BYTES
    return OK

cdef inline int take_lz4(Cur *c, uint64_t *v, uint32_t n, bint planes) noexcept nogil:
    cdef Buf raw
    cdef int status
    cdef uint32_t i, k
    memset(&raw, 0, sizeof(Buf))
    status = take_packed(c, &raw, 8 * <size_t>n)
    if status == OK and raw.size != 8 * <size_t>n:
        status = DAMAGED
    if status == OK and not planes:
        memcpy(v, raw.data, raw.size)
    elif status == OK:
        for i in range(n):
            v[i] = 0
            for k in range(8):
                v[i] |= <uint64_t>raw.data[k * n + i] << (8 * k)
    buf_free(&raw)
    return status

cdef inline int take_values(
    Cur *c, uint64_t *v, uint32_t n, uint8_t vtype, int layout, const ValueHead *head,
) noexcept nogil:
    """Decode n values of a number type; DIRECTORY: `c` holds the section and nothing else."""
    cdef uint32_t i
    cdef int status = OK
    if vtype == VT_BOOL and head.codec != V_CONST and head.codec != V_BITMAP \
            and head.codec != V_RUNS:
        return DAMAGED
    if head.codec == V_RAW:
        if left(c) < 8 * <size_t>n:
            return DAMAGED
        memcpy(v, c.at, 8 * <size_t>n)
        c.at += 8 * <size_t>n
    elif head.codec == V_CONST:
        if not take64(c, v) or (vtype == VT_BOOL and v[0] > 1):
            return DAMAGED
        for i in range(1, n):
            v[i] = v[0]
    elif head.codec == V_DEC_FOR:
        if head.exponent > (EXPONENT_MAX if vtype == VT_F64 else 0):
            return DAMAGED
        status = take_section(c, v, n, layout)
        if status == OK and vtype == VT_F64:
            from_decimals(v, n, head.exponent)
    elif head.codec == V_DICT:
        status = take_dictionary(c, v, n)
    elif head.codec == V_XOR:
        status = take_xor(c, v, n, layout)
    elif head.codec == V_LZ4_PLANES or head.codec == V_LZ4:
        status = take_lz4(c, v, n, head.codec == V_LZ4_PLANES)
    elif vtype != VT_BOOL:
        status = DAMAGED
    elif head.codec == V_BITMAP:
        if left(c) < packed_bytes(n, 1):
            return DAMAGED
        unpack_bits(v, c.at, n, 1)
        c.at += packed_bytes(n, 1)
    else:
        status = take_runs(c, v, n)
    return status
