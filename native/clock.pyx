# cython: boundscheck=False, wraparound=False
"""Time that orders causes before effects, and vectors that say which events a replica has seen.

A stamp is 48 bits of Unix milliseconds over a 16-bit counter. It never runs behind a stamp already
seen, so an effect is always stamped later than its cause, whatever the wall clock does; and it
leads the wall clock only as far as the worst clock that was heard.
"""

from libc.stdint cimport uint64_t

from buffer cimport Buf, Cur, OK, buf_free, put_varint, take_varint
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE

from edgesync.errors import RecordError

cdef enum:
    COUNTER_BITS = 16
    ENTRIES_MAX = 1 << 20

# The year 10889: what a stamp can hold.
cdef uint64_t WALL_MS_MAX = (<uint64_t>1 << 48) - 1


def stamp_of(wall_ms: int) -> int:
    """Return the lowest stamp of that millisecond."""
    return min(max(wall_ms, 0), WALL_MS_MAX) << COUNTER_BITS


def wall_ms_of(stamp: int) -> int:
    """Return the millisecond a stamp stands for."""
    return stamp >> COUNTER_BITS


cdef class Clock:
    """A hybrid logical clock; `last` is the newest stamp given or heard, to be kept durably."""

    def __cinit__(self, last: int = 0):
        self.last = last

    cpdef uint64_t tick(self, uint64_t wall_ms):
        """Return the stamp of a new local event at that wall-clock time."""
        cdef uint64_t now = min(wall_ms, WALL_MS_MAX) << COUNTER_BITS
        self.last = now if now > self.last else self.last + 1
        return self.last

    cpdef uint64_t hear(self, uint64_t stamp):
        """Take note of a stamp from elsewhere: what follows is stamped later."""
        if stamp > self.last:
            self.last = stamp
        return self.last


cdef class VersionVector:
    """How many events of each replica have been seen; a replica not in it: none (0)."""

    cdef dict seen

    def __cinit__(self, entries=()):
        self.seen = {}
        for replica, count in dict(entries).items():
            self.advance(replica, count)

    def advance(self, replica: int, count: int) -> None:
        """Note that events 1 to `count` of that replica are seen; never goes back."""
        if not (0 <= replica < 1 << 32 and 0 <= count < 1 << 64):
            raise RecordError(f"({replica}, {count}) is no replica and count of its events")
        if count > self.seen.get(replica, 0):
            self.seen[replica] = count

    def __getitem__(self, replica: int) -> int:
        return self.seen.get(replica, 0)

    def __len__(self) -> int:
        return len(self.seen)

    def entries(self) -> dict[int, int]:
        """Return the replicas seen and their counts, ordered by replica."""
        return dict(sorted(self.seen.items()))

    def covers(self, replica: int, number: int) -> bool:
        """Whether that event has been seen."""
        return self.seen.get(replica, 0) >= number

    def merge(self, other: VersionVector) -> VersionVector:
        """Return a vector of everything either has seen."""
        merged = VersionVector(self.seen)
        for replica, count in other.seen.items():
            if count > merged.seen.get(replica, 0):
                merged.seen[replica] = count
        return merged

    def descends(self, other: VersionVector) -> bool:
        """Whether this has seen all that `other` has."""
        return all(self.seen.get(replica, 0) >= n for replica, n in other.seen.items())

    def concurrent(self, other: VersionVector) -> bool:
        """Whether each has seen something the other has not."""
        return not self.descends(other) and not other.descends(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, VersionVector) and self.seen == (<VersionVector>other).seen

    __hash__ = None

    def __repr__(self) -> str:
        return f"VersionVector({self.entries()})"

    def encode(self) -> bytes:
        """Return its bytes; equal vectors give equal bytes."""
        cdef Buf out
        out.data, out.size, out.room = NULL, 0, 0
        try:
            if put_varint(&out, len(self.seen)) != OK:
                raise MemoryError
            for replica, count in sorted(self.seen.items()):
                if put_varint(&out, replica) != OK or put_varint(&out, count) != OK:
                    raise MemoryError
            return PyBytes_FromStringAndSize(<char *>out.data, out.size)
        finally:
            buf_free(&out)

    @classmethod
    def decode(cls, data: bytes) -> VersionVector:
        """Undo `encode`; raises RecordError on anything else."""
        cdef Cur cur
        cdef uint64_t count = 0, replica = 0, n = 0, _i
        cdef VersionVector made = VersionVector()
        cur.at = <const unsigned char *>PyBytes_AS_STRING(data)
        cur.end = cur.at + PyBytes_GET_SIZE(data)
        if not take_varint(&cur, &count) or count > ENTRIES_MAX:
            raise RecordError("a version vector cut short, or of too many replicas")
        for _i in range(count):
            if not take_varint(&cur, &replica) or not take_varint(&cur, &n) or replica >> 32:
                raise RecordError("a version vector cut short or damaged")
            if n == 0 or replica in made.seen:
                raise RecordError("a version vector names a replica twice, or for nothing")
            made.seen[replica] = n
        if cur.at != cur.end:
            raise RecordError("bytes follow a version vector")
        return made
