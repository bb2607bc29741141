# cython: boundscheck=False, wraparound=False, cdivision=True
"""Statistics of the readings of one window of time, which merge: parts give what the whole gives.

Counts, extremes and the sketch of a merge are those of a single pass, bit for bit; the sum is
compensated (Neumaier) and within one unit in the last place; mean and variance come by Welford's
and Chan's formulas, which keep their digits where a sum of squares loses all of them. What is no
number (NaN, infinities) is counted apart and mixed with nothing.

Quantiles are those of DDSketch (Masson, Rim, Lee, 2019) with a relative error of 1 %: values are
counted in buckets that grow by 2 %, placed by a cubic approximation of the logarithm. When the
buckets would be too many, the lowest are counted as one.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.float cimport DBL_MAX
from libc.math cimport INFINITY, fabs, floor, isfinite, llrint, log, log1p, nextafter, sqrt
from libc.stdint cimport int16_t, int64_t, uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from buffer cimport (
    Buf, Cur, OK, buf_free, left, load16, load32, put64, put8, put_bytes, put_varint, take64, take8,
    take_varint,
)

from edgesync.errors import RecordError

cdef enum:
    VERSION = 1
    BUCKETS_MAX = 2048
    ROOM_FIRST = 64
    CHUNK = 128

# Relative error; gamma is what one bucket spans: (1 + error) / (1 - error).
cdef double ERROR = 0.01
cdef double CUBE = 6.0 / 35.0, SQUARE = -3.0 / 5.0, LINE = 10.0 / 7.0
cdef double PER_LOG2 = 1.0 / (LINE * (log1p(ERROR) - log(1.0 - ERROR)))
cdef double SMALLEST = 2.2250738585072014e-308  # below, the exponent says nothing: zero
cdef uint64_t FRACTION = (<uint64_t>1 << 52) - 1
cdef uint64_t EXPONENT = <uint64_t>0x7FF << 52
cdef uint64_t TOP_BIT = <uint64_t>1 << 63
cdef double ROUND = 6755399441055744.0  # 1.5 × 2^52: the last bit of the fraction is worth one
cdef uint64_t ROUND_BITS = 0x4338000000000000


cdef struct Sketch:
    uint64_t *counts
    int64_t first     # index of counts[0]
    int64_t room
    int64_t low       # lowest and highest index in use, when there are `counts`
    int64_t high
    uint64_t total


cdef inline int64_t bucket_of(double size) noexcept nogil:
    """The bucket of a positive number: about its logarithm, times PER_LOG2, rounded up.

    Numbers become integers and back by adding ROUND, whose last bit is worth one: that is what a
    compiler can do with several at a time on every machine.
    """
    cdef uint64_t bits
    cdef double s, exponent, near
    memcpy(&bits, &size, 8)
    exponent = as_double((bits >> 52) | ROUND_BITS) - (ROUND + 1023.0)
    s = as_double((bits & FRACTION) | (<uint64_t>1023 << 52)) - 1.0
    s = (((CUBE * s + SQUARE) * s + LINE) * s + exponent) * PER_LOG2
    near = (s + ROUND) - ROUND
    near += 1.0 if near < s else 0.0
    near += ROUND
    memcpy(&bits, &near, 8)
    return <int64_t>(bits - ROUND_BITS)


cdef inline double as_double(uint64_t bits) noexcept nogil:
    cdef double value
    memcpy(&value, &bits, 8)
    return value


cdef double edge_of(int64_t bucket) noexcept:
    """The largest number of a bucket: `bucket_of` turned round, by Newton's method."""
    cdef double target = bucket / PER_LOG2
    cdef double exponent = floor(target)
    cdef double s = target - exponent
    cdef double want = s
    cdef int _
    for _ in range(8):
        s -= (((CUBE * s + SQUARE) * s + LINE) * s - want) / (
            (3 * CUBE * s + 2 * SQUARE) * s + LINE)
    return (1.0 + s) * 2.0 ** exponent


cdef int widen(Sketch *sketch, int64_t low, int64_t high) except -1:
    """Make room for those buckets, of which there are at most BUCKETS_MAX."""
    cdef int64_t room = ROOM_FIRST, first, kept, span = high - low + 1
    cdef uint64_t *counts
    if sketch.counts != NULL and low >= sketch.first and high < sketch.first + sketch.room:
        return 0
    while room < span:
        room *= 2
    # Room on both sides: values wander.
    first = low - (room - span) // 2
    counts = <uint64_t *>calloc(room, 8)
    if counts == NULL:
        raise MemoryError
    if sketch.counts != NULL and sketch.high >= low:
        # What is below `low` has been taken out already.
        kept = max(sketch.low, low)
        memcpy(
            counts + (kept - first), sketch.counts + (kept - sketch.first),
            (sketch.high - kept + 1) * 8)
    free(sketch.counts)
    sketch.counts, sketch.first, sketch.room = counts, first, room
    return 0


cdef inline int count(Sketch *sketch, int64_t bucket, uint64_t times) except -1:
    if sketch.counts != NULL and sketch.low <= bucket <= sketch.high:
        sketch.counts[bucket - sketch.first] += times
        sketch.total += times
        return 0
    return count_outside(sketch, bucket, times)


cdef int count_outside(Sketch *sketch, int64_t bucket, uint64_t times) except -1:
    cdef int64_t low = bucket, high = bucket
    cdef uint64_t sunk = 0
    if sketch.counts != NULL:
        low = min(low, sketch.low)
        high = max(high, sketch.high)
        if high - low >= BUCKETS_MAX:
            # The lowest are counted as one, at the lowest place there is.
            low = high - BUCKETS_MAX + 1
            bucket = max(bucket, low)
            sunk = sink(sketch, low)
    widen(sketch, low, high)
    sketch.low, sketch.high = low, high
    sketch.counts[low - sketch.first] += sunk
    sketch.counts[bucket - sketch.first] += times
    sketch.total += sunk + times
    return 0


cdef uint64_t sink(Sketch *sketch, int64_t low) noexcept:
    """Take out what is counted below `low`, and return how much that was."""
    cdef uint64_t sunk = 0
    cdef int64_t at = sketch.low
    while at < low and at <= sketch.high:
        sunk += sketch.counts[at - sketch.first]
        sketch.counts[at - sketch.first] = 0
        at += 1
    sketch.total -= sunk
    sketch.low = at if at <= sketch.high else sketch.high
    return sunk


cdef class Window:
    """Readings of one series in one window; times in nanoseconds since 1970.

    count     finite readings
    missing   readings that are no number
    """

    cdef readonly uint64_t count
    cdef readonly uint64_t missing
    cdef double low, high, start, end, total, rest, middle, squares
    cdef int64_t low_at, high_at, start_at, end_at
    cdef uint64_t zeros
    cdef Sketch above, below

    def __cinit__(self):
        memset(&self.above, 0, sizeof(Sketch))
        memset(&self.below, 0, sizeof(Sketch))

    def __dealloc__(self):
        free(self.above.counts)
        free(self.below.counts)

    def add(self, int64_t time_ns, double value):
        """Take one reading; any order of times will do."""
        self.take(time_ns, value)

    cdef int take(self, int64_t time_ns, double value) except -1:
        cdef double delta
        if not isfinite(value):
            self.missing += 1
            return 0
        self.count += 1
        if self.count == 1:
            self.low = self.high = self.start = self.end = value
            self.low_at = self.high_at = self.start_at = self.end_at = time_ns
        else:
            if value < self.low or (value == self.low and time_ns < self.low_at):
                self.low, self.low_at = value, time_ns
            if value > self.high or (value == self.high and time_ns < self.high_at):
                self.high, self.high_at = value, time_ns
            if time_ns < self.start_at:
                self.start, self.start_at = value, time_ns
            if time_ns >= self.end_at:
                self.end, self.end_at = value, time_ns
        self.put_sum(value, 0)
        delta = value - self.middle
        self.middle += delta / self.count
        self.squares += delta * (value - self.middle)
        self.count_one(value)
        return 0

    def add_many(self, times, values) -> None:
        """Take readings of two arrays of the same length: int64 times, float64 values."""
        cdef const int64_t[::1] at = times
        cdef const double[::1] what = values
        cdef Py_ssize_t i, size
        if at.shape[0] != what.shape[0]:
            raise ValueError(f"{at.shape[0]} times for {what.shape[0]} values")
        i = 0
        while i < at.shape[0]:
            size = min(CHUNK, at.shape[0] - i)
            self.take_chunk(&at[i], &what[i], size)
            i += size

    cdef int take_chunk(self, const int64_t *at, const double *what, Py_ssize_t n) except -1:
        """Take some readings as if they were a window of their own, merged.

        One by one, each reading waits for the division of the one before it: 13 ns instead of 6.
        """
        cdef Py_ssize_t i, low, high, start = 0, end = n - 1
        cdef double total = 0, rest = 0, sum_, middle, delta, value
        cdef double squares = 0, others = 0
        cdef double lowest = what[0], highest = what[0]
        cdef uint64_t both
        if not are_finite(what, n):
            for i in range(n):
                self.take(at[i], what[i])
            return 0
        for i in range(n):
            value = what[i]
            sum_ = total + value
            rest += (total - sum_) + value if fabs(total) >= fabs(value) else (
                value - sum_) + total
            total = sum_
            lowest = value if value < lowest else lowest
            highest = value if value > highest else highest
        if are_in_order(at, n):
            low, high = next_of(what, lowest), next_of(what, highest)
        else:
            for i in range(n):
                if at[i] < at[start]:
                    start = i
                if at[i] >= at[end]:
                    end = i
            low, high = first_of(at, what, n, lowest), first_of(at, what, n, highest)
        middle = (total + rest) / n
        # Two sums, for each addition waits for the one before.
        for i in range(0, n - 1, 2):
            delta = what[i] - middle
            squares += delta * delta
            delta = what[i + 1] - middle
            others += delta * delta
        if n & 1:
            delta = what[n - 1] - middle
            squares += delta * delta
        squares += others
        if lowest >= SMALLEST:
            self.count_positive(what, n, bucket_of(lowest), bucket_of(highest))
        else:
            for i in range(n):
                self.count_one(what[i])
        if self.count == 0 or what[low] < self.low or (
                what[low] == self.low and at[low] < self.low_at):
            self.low, self.low_at = what[low], at[low]
        if self.count == 0 or what[high] > self.high or (
                what[high] == self.high and at[high] < self.high_at):
            self.high, self.high_at = what[high], at[high]
        if self.count == 0 or at[start] < self.start_at:
            self.start, self.start_at = what[start], at[start]
        if self.count == 0 or at[end] >= self.end_at:
            self.end, self.end_at = what[end], at[end]
        self.put_sum(total, rest)
        both = self.count + n
        delta = middle - self.middle
        self.middle += delta * n / both
        self.squares += squares + delta * delta * self.count * n / both
        self.count = both
        return 0

    cdef int count_positive(
        self, const double *what, Py_ssize_t n, int64_t low, int64_t high,
    ) except -1:
        """Count many, of buckets `low` to `high`: buckets first, several at once."""
        cdef int64_t buckets[CHUNK]
        cdef Py_ssize_t i
        cdef uint64_t *counts
        for i in range(n):
            buckets[i] = bucket_of(what[i])
        count(&self.above, high, 0)
        count(&self.above, low, 0)
        if low < self.above.low:
            for i in range(n):
                count(&self.above, buckets[i], 1)
            return 0
        counts = self.above.counts - self.above.first
        for i in range(n):
            counts[buckets[i]] += 1
        self.above.total += n
        return 0

    cdef int count_one(self, double value) except -1:
        cdef double size = fabs(value)
        if size < SMALLEST:
            self.zeros += 1
        else:
            count(&self.above if value > 0 else &self.below, bucket_of(size), 1)
        return 0

    cdef void put_sum(self, double total, double rest) noexcept:
        cdef double sum_ = self.total + total
        if fabs(self.total) >= fabs(total):
            self.rest += (self.total - sum_) + total
        else:
            self.rest += (total - sum_) + self.total
        self.total = sum_
        self.rest += rest

    def merge(self, other: Window) -> None:
        """Take in the readings of `other`, which counts as having come later."""
        cdef uint64_t both = self.count + other.count
        cdef double delta
        self.missing += other.missing
        if other.count == 0:
            return
        if self.count == 0:
            self.low, self.low_at = other.low, other.low_at
            self.high, self.high_at = other.high, other.high_at
            self.start, self.start_at = other.start, other.start_at
            self.end, self.end_at = other.end, other.end_at
        else:
            if other.low < self.low or (other.low == self.low and other.low_at < self.low_at):
                self.low, self.low_at = other.low, other.low_at
            if other.high > self.high or (other.high == self.high and other.high_at < self.high_at):
                self.high, self.high_at = other.high, other.high_at
            if other.start_at < self.start_at:
                self.start, self.start_at = other.start, other.start_at
            if other.end_at >= self.end_at:
                self.end, self.end_at = other.end, other.end_at
        self.put_sum(other.total, other.rest)
        delta = other.middle - self.middle
        self.middle += delta * other.count / both
        self.squares += other.squares + delta * delta * self.count * other.count / both
        if (self.count and not self.has_sketch()) or not other.has_sketch():
            self.drop_sketch()  # quantiles of some of the readings would be those of none
        else:
            self.zeros += other.zeros
            pour(&self.above, &other.above)
            pour(&self.below, &other.below)
        self.count = both

    cdef bint has_sketch(self) noexcept:
        return self.zeros + self.above.total + self.below.total == self.count

    cdef void drop_sketch(self) noexcept:
        free(self.above.counts)
        free(self.below.counts)
        memset(&self.above, 0, sizeof(Sketch))
        memset(&self.below, 0, sizeof(Sketch))
        self.zeros = 0

    # -- what came of it ---------------------------------------------------------------------

    @property
    def sum(self) -> float:
        """Sum of all readings."""
        return self.total + self.rest

    @property
    def mean(self) -> float | None:
        """Mean; None without readings."""
        return self.middle if self.count else None

    @property
    def variance(self) -> float | None:
        """Variance of the population; None without readings."""
        return self.squares / self.count if self.count else None

    @property
    def deviation(self) -> float | None:
        """Standard deviation of the population; None without readings."""
        return sqrt(self.squares / self.count) if self.count else None

    @property
    def min(self) -> tuple[float, int] | None:
        """The lowest reading and when it first was; None without readings."""
        return (self.low, self.low_at) if self.count else None

    @property
    def max(self) -> tuple[float, int] | None:
        """The highest reading and when it first was; None without readings."""
        return (self.high, self.high_at) if self.count else None

    @property
    def first(self) -> tuple[float, int] | None:
        """The reading of the earliest time; of several the one that came first."""
        return (self.start, self.start_at) if self.count else None

    @property
    def last(self) -> tuple[float, int] | None:
        """The reading of the latest time; of several the one that came last."""
        return (self.end, self.end_at) if self.count else None

    def quantile(self, q: float) -> float | None:
        """Return the value below which a share `q` of the readings is, within 1 % of it.

        None without readings, and where the sketch was left out (`pack_windows`).
        """
        cdef double rank
        cdef uint64_t seen = 0
        cdef int64_t at
        if not 0 <= q <= 1:
            raise ValueError(f"a quantile is between 0 and 1, not {q}")
        if self.count == 0:
            return None
        if q == 0 or q == 1:
            return self.high if q else self.low
        if not self.has_sketch():
            return None
        rank = q * (self.count - 1)
        at = self.below.high
        while self.below.total and at >= self.below.low:
            seen += self.below.counts[at - self.below.first]
            if seen > rank:
                return self.inside(-middle_of(at))
            at -= 1
        seen += self.zeros
        if seen > rank:
            return self.inside(0.0)
        at = self.above.low
        while self.above.total and at <= self.above.high:
            seen += self.above.counts[at - self.above.first]
            if seen > rank:
                return self.inside(middle_of(at))
            at += 1
        return self.high

    cdef double inside(self, double value):
        """What is known exactly bounds what is estimated."""
        return min(max(value, self.low), self.high)

    def buckets(self) -> dict[int, int]:
        """Return how many readings are in each bucket: equal for equal readings, in any order.

        Of positive numbers 2 b, of negative ones 2 b + 1; zeros under the key -(1 << 40).
        """
        found = {-(1 << 40): self.zeros} if self.zeros else {}
        for at, times in listed(&self.above):
            found[2 * at] = times
        for at, times in listed(&self.below):
            found[2 * at + 1] = times
        return found

    # -- its bytes ---------------------------------------------------------------------------

    def encode(self) -> bytes:
        """Return its bytes: `1 | count | missing | 12 × 8 bytes | zeros | buckets above | below`.

        Numbers are varints, indices of buckets differences (zigzag); little-endian.
        """
        cdef Buf out
        cdef int bad
        cdef double number
        cdef uint64_t bits
        cdef int64_t stamp
        out.data, out.size, out.room = NULL, 0, 0
        try:
            bad = put8(&out, VERSION) | put_varint(&out, self.count)
            bad |= put_varint(&out, self.missing)
            if self.count:
                for number in (
                    self.low, self.high, self.start, self.end, self.total, self.rest, self.middle,
                    self.squares,
                ):
                    memcpy(&bits, &number, 8)
                    bad |= put64(&out, bits)
                for stamp in (self.low_at, self.high_at, self.start_at, self.end_at):
                    bad |= put64(&out, <uint64_t>stamp)
                bad |= put_varint(&out, self.zeros)
                bad |= put_sketch(&out, &self.above) | put_sketch(&out, &self.below)
            if bad != OK:
                raise MemoryError
            return PyBytes_FromStringAndSize(<char *>out.data, out.size)
        finally:
            buf_free(&out)

    @classmethod
    def decode(cls, data: bytes) -> Window:
        """Undo `encode`; raises RecordError on anything else."""
        cdef Cur cur
        cdef Window made = Window()
        cdef uint8_t version = 0
        cdef uint64_t bits[12]
        cdef double numbers[8]
        cdef int i
        cur.at = <const uint8_t *>PyBytes_AS_STRING(data)
        cur.end = cur.at + PyBytes_GET_SIZE(data)
        if (
            not take8(&cur, &version) or version != VERSION
            or not take_varint(&cur, &made.count) or not take_varint(&cur, &made.missing)
        ):
            raise RecordError("a window cut short, or of another version")
        if made.count:
            for i in range(12):
                if not take64(&cur, &bits[i]):
                    raise RecordError("a window cut short")
            memcpy(numbers, bits, 64)
            for i in range(4):
                if not isfinite(numbers[i]):
                    raise RecordError("a window with statistics that are no numbers")
            made.low, made.high, made.start, made.end = (
                numbers[0], numbers[1], numbers[2], numbers[3])
            made.total, made.rest, made.middle, made.squares = (
                numbers[4], numbers[5], numbers[6], numbers[7])
            made.low_at, made.high_at = <int64_t>bits[8], <int64_t>bits[9]
            made.start_at, made.end_at = <int64_t>bits[10], <int64_t>bits[11]
            if not take_varint(&cur, &made.zeros) or made.zeros > made.count:
                raise RecordError("a window cut short or damaged")
            take_sketch(&cur, &made.above, made.count)
            take_sketch(&cur, &made.below, made.count)
            if made.zeros + made.above.total + made.below.total not in (0, made.count):
                raise RecordError("a window whose buckets hold other readings than it counts")
        if left(&cur):
            raise RecordError("bytes follow a window")
        return made

    def __repr__(self) -> str:
        if not self.count:
            return f"Window(empty, missing={self.missing})"
        return (
            f"Window(count={self.count}, mean={self.middle:g}, min={self.low:g}, "
            f"max={self.high:g})")


cdef bint are_finite(const double *what, Py_ssize_t n) noexcept nogil:
    """Whether all are numbers: of infinities and NaN every bit of the exponent is set."""
    cdef uint64_t bits, seen = 0
    cdef Py_ssize_t i
    for i in range(n):
        memcpy(&bits, &what[i], 8)
        seen |= (bits & EXPONENT) + (FRACTION + 1)
    return not seen & TOP_BIT


cdef bint are_in_order(const int64_t *at, Py_ssize_t n) noexcept nogil:
    cdef Py_ssize_t i
    for i in range(1, n):
        if at[i] < at[i - 1]:
            return False
    return True


cdef Py_ssize_t next_of(const double *what, double value) noexcept nogil:
    """Where that value, which is among them, is first."""
    cdef Py_ssize_t i = 0
    while what[i] != value:
        i += 1
    return i


cdef Py_ssize_t first_of(
    const int64_t *at, const double *what, Py_ssize_t n, double value,
) noexcept nogil:
    """Where that value is, at the earliest time."""
    cdef Py_ssize_t i, found = -1
    for i in range(n):
        if what[i] == value and (found < 0 or at[i] < at[found]):
            found = i
    return found


cdef double middle_of(int64_t bucket):
    """What stands for a bucket: 1 % from its upper edge, and from its lower one."""
    cdef double low = edge_of(bucket - 1), high = edge_of(bucket)
    if 2.0 * high > DBL_MAX:
        return low * (2.0 / (1.0 + low / high))  # the same, where twice the edge is no number
    return low * (2.0 * high / (low + high))


cdef int pour(Sketch *into, const Sketch *other) except -1:
    cdef int64_t at
    if other.total == 0:
        return 0
    # From the top: then every bucket knows at once where the lowest one will be.
    at = other.high
    while at >= other.low:
        if other.counts[at - other.first]:
            count(into, at, other.counts[at - other.first])
        at -= 1
    return 0


cdef list listed(const Sketch *sketch):
    if sketch.total == 0:
        return []
    return [
        (at, sketch.counts[at - sketch.first]) for at in range(sketch.low, sketch.high + 1)
        if sketch.counts[at - sketch.first]]


cdef int put_sketch(Buf *out, const Sketch *sketch) except -1:
    cdef int64_t before = 0, step
    cdef int bad
    rows = listed(sketch)
    bad = put_varint(out, len(rows))
    for at, times in rows:
        step = at - before
        bad |= put_varint(out, <uint64_t>((step << 1) ^ (step >> 63)))
        bad |= put_varint(out, times)
        before = at
    return bad


cdef int take_sketch(Cur *cur, Sketch *sketch, uint64_t limit) except -1:
    cdef uint64_t rows = 0, step = 0, times = 0, _i
    cdef int64_t at = 0, top = 0
    if not take_varint(cur, &rows) or rows > BUCKETS_MAX:
        raise RecordError("a sketch cut short, or of too many buckets")
    for _i in range(rows):
        if not take_varint(cur, &step) or not take_varint(cur, &times):
            raise RecordError("a sketch cut short")
        if step >> 40 or times == 0 or times > limit - sketch.total:
            raise RecordError("a sketch with a bucket that cannot be")
        at += <int64_t>(step >> 1) ^ -<int64_t>(step & 1)
        if _i and (at <= top or at - sketch.low >= BUCKETS_MAX):
            raise RecordError("a sketch whose buckets are not in order")
        count(sketch, at, times)
        top = at
    return 0


# -- many windows as one body, small -------------------------------------------------------------

cdef enum:
    PACKED_VERSION = 1
    WINDOWS_MAX = 4096
    PACKED_BYTES_MAX = 60 * 1024
    RAW_VALUES = 15
    IS_SUM_DECIMAL = 1 << 8
    HAS_SKETCH = 1 << 6
    HAS_MISSING = 1 << 7
    UNIT_SHIFT = 4
    FLAGS_KNOWN = 0x1FF

cdef double *TENS = [1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9]
cdef int64_t *UNITS = [1, 1000, 1000000, 1000000000]


cdef inline bint is_decimal(double value, double tens, int64_t *found) noexcept:
    """Whether value is found / tens, to the bit."""
    cdef double scaled = value * tens, back
    if not fabs(scaled) < 9007199254740992.0:
        return False
    found[0] = llrint(scaled)
    back = found[0] / tens
    return memcmp_double(&back, &value)


cdef inline bint memcmp_double(const double *one, const double *other) noexcept:
    cdef uint64_t a, b
    memcpy(&a, one, 8)
    memcpy(&b, other, 8)
    return a == b


cdef inline int put_zigzag(Buf *out, int64_t v) noexcept:
    return put_varint(out, (<uint64_t>v << 1) ^ <uint64_t>(v >> 63))


cdef inline bint take_zigzag(Cur *cur, int64_t *v) noexcept:
    cdef uint64_t raw = 0
    if not take_varint(cur, &raw):
        return False
    v[0] = <int64_t>(raw >> 1) ^ -<int64_t>(raw & 1)
    return True


cdef double ulp_of(double value) noexcept:
    cdef double above = nextafter(fabs(value), INFINITY) - fabs(value)
    return above if isfinite(above) else 0.0


cdef int put_small(Buf *out, Window w, int64_t start, int64_t width, bint wants_sketch) except -1:
    """Flags u16, count, [missing], values, sum, rest i16, squares 6 bytes, times, [sketch].

    The mean is sum / count. Squares lose their last 16 bits: 1.5e-11 of the variance.
    """
    cdef int64_t m[4]
    cdef int64_t at[4]
    cdef double numbers[4]
    cdef int64_t whole = 0
    cdef int e, i, unit
    cdef int bad = OK
    cdef uint16_t flags
    cdef uint64_t bits
    cdef double total, rest
    cdef int16_t small
    flags = HAS_MISSING if w.missing else 0
    if w.count == 0:
        flags |= RAW_VALUES
        bad |= put_bytes(out, &flags, 2) | put_varint(out, 0)
        return check(bad | put_varint(out, w.missing) if w.missing else bad)
    numbers[0], numbers[1], numbers[2], numbers[3] = w.low, w.high, w.start, w.end
    at[0], at[1], at[2] = w.low_at - start, w.high_at - start, w.start_at - start
    at[3] = start + width - w.end_at
    for e in range(10):
        for i in range(4):
            if not is_decimal(numbers[i], TENS[e], &m[i]):
                break
        else:
            break
    else:
        e = RAW_VALUES
    for unit in range(3, -1, -1):
        if not (at[0] % UNITS[unit] or at[1] % UNITS[unit] or at[2] % UNITS[unit]
                or at[3] % UNITS[unit]):
            break
    total = w.total + w.rest
    wants_sketch = wants_sketch and w.has_sketch()
    flags |= <uint16_t>(e | unit << UNIT_SHIFT) | (HAS_SKETCH if wants_sketch else 0)
    if e != RAW_VALUES and is_decimal(total, TENS[e], &whole):
        flags |= IS_SUM_DECIMAL
    bad |= put_bytes(out, &flags, 2) | put_varint(out, w.count)
    if w.missing:
        bad |= put_varint(out, w.missing)
    if e == RAW_VALUES:
        bad |= put_bytes(out, numbers, 32)
    else:
        bad |= put_zigzag(out, m[0])
        for i in range(1, 4):
            bad |= put_varint(out, <uint64_t>(m[i] - m[0]))
    if flags & IS_SUM_DECIMAL:
        bad |= put_zigzag(out, whole)
    else:
        bad |= put_bytes(out, &total, 8)
    rest = ((w.total - total) + w.rest) / ulp_of(total) * 65536.0
    small = <int16_t>max(min(rest, 32767.0), -32768.0) if isfinite(rest) else 0
    bad |= put_bytes(out, &small, 2)
    memcpy(&bits, &w.squares, 8)
    bits = (bits + 0x8000) >> 16
    bad |= put_bytes(out, &bits, 6)
    for i in range(4):
        bad |= put_varint(out, <uint64_t>(at[i] // UNITS[unit]))
    if wants_sketch:
        bad |= put_varint(out, w.zeros)
        bad |= put_buckets(out, &w.above) | put_buckets(out, &w.below)
    return check(bad)


cdef int check(int bad) except -1:
    if bad != OK:
        raise MemoryError
    return 0


cdef int put_buckets(Buf *out, const Sketch *sketch) except -1:
    """How many, the index before the first; each `step << 4 | times`, or 0 and both as varints."""
    cdef int bad
    cdef int64_t step, times, at, before
    rows = listed(sketch)
    bad = put_varint(out, len(rows))
    if rows:
        before = rows[0][0] - 1
        bad |= put_zigzag(out, before)
        for at, times in rows:
            step = at - before
            if step < 16 and times < 16:
                bad |= put8(out, <uint8_t>(step << 4 | times))
            else:
                bad |= put8(out, 0) | put_varint(out, step) | put_varint(out, times)
            before = at
    return bad


cdef Window take_small(Cur *cur, int64_t start, int64_t width):
    """Undo `put_small`; raises RecordError."""
    cdef Window w = Window()
    cdef int64_t m[4]
    cdef int64_t at[4]
    cdef double numbers[4]
    cdef int64_t whole = 0
    cdef uint64_t raw = 0
    cdef uint16_t flags
    cdef double total = 0
    cdef int i, e
    if left(cur) < 2:
        raise RecordError("a window cut short")
    flags = load16(cur.at)
    cur.at += 2
    e = flags & 15
    if flags & ~FLAGS_KNOWN or not (e < 10 or e == RAW_VALUES) or not take_varint(cur, &w.count):
        raise RecordError("a window cut short, or of a kind unknown here")
    if flags & HAS_MISSING and not take_varint(cur, &w.missing):
        raise RecordError("a window cut short")
    if w.count == 0:
        return w
    if e == RAW_VALUES:
        if left(cur) < 32:
            raise RecordError("a window cut short")
        memcpy(numbers, cur.at, 32)
        cur.at += 32
    else:
        if not take_zigzag(cur, &m[0]):
            raise RecordError("a window cut short")
        for i in range(1, 4):
            if not take_varint(cur, &raw) or raw >> 60:
                raise RecordError("a window cut short, or with a value that cannot be")
            m[i] = <int64_t>(<uint64_t>m[0] + raw)
        for i in range(4):
            numbers[i] = m[i] / TENS[e]
    if flags & IS_SUM_DECIMAL:
        if e == RAW_VALUES or not take_zigzag(cur, &whole):
            raise RecordError("a window cut short")
        total = whole / TENS[e]
    elif left(cur) < 8:
        raise RecordError("a window cut short")
    else:
        memcpy(&total, cur.at, 8)
        cur.at += 8
    if left(cur) < 8:
        raise RecordError("a window cut short")
    w.rest = <int16_t>load16(cur.at) / 65536.0 * ulp_of(total)
    raw = (<uint64_t>load32(cur.at + 2) | <uint64_t>load16(cur.at + 6) << 32) << 16
    memcpy(&w.squares, &raw, 8)
    cur.at += 8
    for i in range(4):
        if not take_varint(cur, &raw) or raw > <uint64_t>(width // UNITS[flags >> UNIT_SHIFT & 3]):
            raise RecordError("a window cut short, or with a time outside of it")
        at[i] = <int64_t>raw * UNITS[flags >> UNIT_SHIFT & 3]
    for i in range(4):
        if not isfinite(numbers[i]):
            raise RecordError("a window with statistics that are no numbers")
    w.low, w.high, w.start, w.end = numbers[0], numbers[1], numbers[2], numbers[3]
    w.low_at, w.high_at, w.start_at = start + at[0], start + at[1], start + at[2]
    w.end_at = start + width - at[3]
    w.total = total
    w.middle = (w.total + w.rest) / w.count
    if flags & HAS_SKETCH:
        if not take_varint(cur, &w.zeros) or w.zeros > w.count:
            raise RecordError("a sketch cut short")
        take_buckets(cur, &w.above, w.count)
        take_buckets(cur, &w.below, w.count)
        if not w.has_sketch():
            raise RecordError("a window whose buckets hold other readings than it counts")
    return w


cdef int take_buckets(Cur *cur, Sketch *sketch, uint64_t limit) except -1:
    cdef uint64_t rows = 0, step = 0, times = 0, _i
    cdef uint8_t small = 0
    cdef int64_t at = 0
    if not take_varint(cur, &rows) or rows > BUCKETS_MAX:
        raise RecordError("a sketch cut short, or of too many buckets")
    if rows and (not take_zigzag(cur, &at) or not -(1 << 40) < at < 1 << 40):
        raise RecordError("a sketch cut short, or with a bucket that cannot be")
    for _i in range(rows):
        if not take8(cur, &small):
            raise RecordError("a sketch cut short")
        step, times = small >> 4, small & 15
        if small == 0 and not (take_varint(cur, &step) and take_varint(cur, &times)):
            raise RecordError("a sketch cut short")
        if not (0 < step < 1 << 40) or times == 0 or times > limit - sketch.total:
            raise RecordError("a sketch with a bucket that cannot be")
        at += <int64_t>step
        if _i and at - sketch.low >= BUCKETS_MAX:
            raise RecordError("a sketch of too many buckets")
        count(sketch, at, times)
    return 0


def pack_windows(
    int64_t width_ns, int64_t start_ns, uint64_t revision, windows, *, bint sketch=True,
) -> bytes:
    """Return windows of several series that share width, start and revision, as one small body.

    windows   pairs of a series id and its Window, at most 4,096 and 60 KiB
    sketch    False: without quantiles, at half the size

    `version u8 | width | start / width, zigzag | revision | count`, then each `series u64` and what
    `put_small` says; numbers are varints. Raises RecordError beyond the limits.
    """
    cdef Buf out
    cdef uint64_t series
    cdef Window w
    rows = list(windows)
    if width_ns < 1 or start_ns % width_ns or not 0 < len(rows) <= WINDOWS_MAX:
        raise RecordError(
            f"{len(rows)} windows of {width_ns} ns at {start_ns}; 1 to {WINDOWS_MAX}, on the grid")
    out.data, out.size, out.room = NULL, 0, 0
    try:
        check(put8(&out, PACKED_VERSION) | put_varint(&out, width_ns)
              | put_zigzag(&out, start_ns // width_ns) | put_varint(&out, revision)
              | put_varint(&out, len(rows)))
        for series, w in rows:
            check_inside(w, start_ns, width_ns)
            check(put64(&out, series))
            put_small(&out, w, start_ns, width_ns, sketch)
        if out.size > PACKED_BYTES_MAX:
            raise RecordError(f"windows of {out.size} bytes; at most {PACKED_BYTES_MAX}")
        return PyBytes_FromStringAndSize(<char *>out.data, out.size)
    finally:
        buf_free(&out)


cdef int check_inside(Window w, int64_t start, int64_t width) except -1:
    cdef int64_t at
    if w.count:
        for at in (w.low_at, w.high_at, w.start_at, w.end_at):
            if not 0 <= at - start < width:
                raise RecordError(f"a window from {start} with a reading at {at}")
    return 0


def unpack_windows(body: bytes) -> tuple[int, int, int, list[tuple[int, Window]]]:
    """Undo `pack_windows`: (width_ns, start_ns, revision, windows); raises RecordError."""
    cdef Cur cur
    cdef uint8_t version = 0
    cdef uint64_t width = 0, revision = 0, rows = 0, series = 0, _i
    cdef int64_t place = 0
    cur.at = <const uint8_t *>PyBytes_AS_STRING(body)
    cur.end = cur.at + PyBytes_GET_SIZE(body)
    if not take8(&cur, &version) or version != PACKED_VERSION:
        raise RecordError("windows cut short, or of another version")
    if not (take_varint(&cur, &width) and take_zigzag(&cur, &place)
            and take_varint(&cur, &revision) and take_varint(&cur, &rows)):
        raise RecordError("windows cut short")
    if not 0 < width < 1 << 62 or not 0 < rows <= WINDOWS_MAX or revision >> 32 or (
            fabs(<double>place * width) > 9e18):
        raise RecordError("windows of a width, time or number that cannot be")
    found = []
    for _i in range(rows):
        if not take64(&cur, &series):
            raise RecordError("windows cut short")
        found.append((series, take_small(&cur, place * <int64_t>width, <int64_t>width)))
    if left(&cur):
        raise RecordError("bytes follow the windows")
    return width, place * <int64_t>width, revision, found
