"""A page: runs of points of many series of an edge in one row, found by the series' number.

    off size field
     0   4   magic "ESP1"
     4   4   CRC-32 of all that follows
     8   8   base: the runs' first times are relative to it
    16   8   number of the first series
    24   4   count of runs
    28   4   size of a place in the sequence of a series: 4 or 8
    32       count x u32 series - first series, ascending; equal ones in order of arrival
             count x place of the run's first point in the sequence of its series
             count x u32 end of the run, from the first one's begin
             runs (`block.encode_run`)

Little-endian. A series with a point a minute takes about 3 bytes a point here, where a block of
its own (docs/block-format.md) would take 5 and a leaf of the database's tree.
"""

import array
import struct
import sys
import zlib
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from edgesync._native import block
from edgesync.errors import RecordError
from hubd.state.damage import StateDamaged
from hubd.state.pieces import BLOCK_POINTS, Piece, cut

MAGIC: Final = b"ESP1"
HEADER_BEGIN: Final = struct.Struct("<4sI")
HEADER_CHECKED: Final = struct.Struct("<qqII")
HEADER_BYTES: Final = HEADER_BEGIN.size + HEADER_CHECKED.size
# Runs of a page, and their bytes: what a question about one series has to read.
RUNS_MAX: Final = 256
BYTES_MAX: Final = 64 * 1024
# Numbers of the series of a page are within this.
REFS_MAX: Final = 1 << 32


class Run(NamedTuple):
    """Consecutive points of a series, the first of them its `n`th."""

    ref: int
    n: int
    piece: Piece


class Page(NamedTuple):
    """A page and what its row says of it."""

    ref_first: int
    ref_last: int
    t_min: int
    t_max: int
    points: int
    data: bytes


class Builder:
    """Makes a page of runs that come in the order of their series."""

    def __init__(self) -> None:
        self._refs: list[int] = []
        self._ns: list[int] = []
        self._runs: list[bytes] = []
        self._nbytes = self._points = self._base = 0
        self._t_min, self._t_max = (1 << 63) - 1, -(1 << 63)

    @property
    def is_empty(self) -> bool:
        return not self._runs

    def takes(self, ref: int) -> bool:
        """Return whether a run of that series may be added."""
        return self.is_empty or (
            len(self._runs) < RUNS_MAX
            and self._nbytes < BYTES_MAX
            and ref - self._refs[0] < REFS_MAX
        )

    def add(self, run: Run) -> None:
        vtype, times, values = run.piece
        t_min, t_max = min(times), max(times)
        if self.is_empty:
            self._base = t_min
        packed = block.encode_run(vtype, times, values, self._base)
        self._refs.append(run.ref)
        self._ns.append(run.n)
        self._runs.append(packed)
        self._nbytes += len(packed)
        self._points += len(times)
        self._t_min, self._t_max = min(self._t_min, t_min), max(self._t_max, t_max)

    def page(self) -> Page:
        refs, end = self._refs, 0
        ends = [end := end + len(run) for run in self._runs]
        is_wide = max(self._ns) >= 1 << 32
        body = b"".join((
            _little(array.array("I", [ref - refs[0] for ref in refs])),
            _little(array.array("Q" if is_wide else "I", self._ns)),
            _little(array.array("I", ends)),
            *self._runs,
        ))  # fmt: skip
        checked = HEADER_CHECKED.pack(self._base, refs[0], len(refs), 8 if is_wide else 4) + body
        data = HEADER_BEGIN.pack(MAGIC, zlib.crc32(checked)) + checked
        return Page(refs[0], refs[-1], self._t_min, self._t_max, self._points, data)


def split(run: Run, points: int = BLOCK_POINTS) -> Iterator[Run]:
    """Yield it as runs of at most so many points."""
    n = run.n
    for part in cut(run.piece, points):
        yield Run(run.ref, n, part)
        n += len(part.times)


def find(data: bytes, ref: int) -> list[Run]:
    """Return the runs of a series in the order of arrival; raises StateDamaged."""
    return _read(data, ref)


def runs(data: bytes) -> list[Run]:
    """Return all runs, series by series in the order of arrival; raises StateDamaged."""
    return _read(data, None)


def _read(data: bytes, ref: int | None) -> list[Run]:
    try:
        return _runs(data, ref)
    except (struct.error, ValueError, OverflowError) as error:
        raise StateDamaged(f"a page of {len(data)} bytes is damaged: {error}") from error


def _runs(data: bytes, ref: int | None) -> list[Run]:
    magic, checksum = HEADER_BEGIN.unpack_from(data)
    if magic != MAGIC or zlib.crc32(memoryview(data)[HEADER_BEGIN.size :]) != checksum:
        raise RecordError("its checksum does not fit")
    base, first, count, width = HEADER_CHECKED.unpack_from(data, HEADER_BEGIN.size)
    refs_at, ns_at = HEADER_BYTES, HEADER_BYTES + 4 * count
    ends_at = ns_at + width * count
    runs_at = ends_at + 4 * count
    refs = _numbers("I", data[refs_at:ns_at])
    begin, end = 0, count
    if ref is not None:
        begin, end = bisect_left(refs, ref - first), bisect_right(refs, ref - first)
    if begin == end:
        return []
    ns = _numbers("Q" if width == 8 else "I", data[ns_at + width * begin : ns_at + width * end])
    ends = [0] if begin == 0 else []
    from_end = max(0, begin - 1)
    ends += _numbers("I", data[ends_at + 4 * from_end : ends_at + 4 * end])
    found = []
    for nth, n, start, stop in zip(refs[begin:end], ns, ends, ends[1:], strict=False):
        vtype, times, values = block.decode_run(data[runs_at + start : runs_at + stop], base)
        found.append(Run(first + nth, n, Piece(vtype, times, values)))
    return found


def _numbers(typecode: str, data: bytes) -> Sequence[int]:
    numbers = array.array(typecode)
    numbers.frombytes(data)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _little(numbers: "array.array[int]") -> bytes:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers.tobytes()
