"""Rows of the database `points`: their keys, what is in them, and where those of a series are.

    k | series id u64 BE              the series is kept; the age of its own, u64 ns, 0 for none
    b | number u64 BE                 readings of many series, as a write brought them
    p | series id | n u64 BE          readings: raw, as they came, or some hundred as an ESB1 block
    s | series id                     what all readings that are, or were, in blocks add up to
    m | series id                     metadata, as a msgpack map
    q | series id | n                 readings from the future: kept aside

`n` counts the readings of a series; a flush that was refused leaves a gap. A row that is damaged
costs what was in it, and is told of once.
"""

import array
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec

from edgesync._native.points import Part
from edgesync._native.store import Store
from edgesync._native.window import Window
from edgesync.store.pieces import PIECE, Times, Values, part_of, unpacked
from edgesync.store.series import Series

log = logging.getLogger(__name__)

T = TypeVar("T")
DATABASE: Final = "points"
DAMAGED_MAX: Final = 1000  # rows that are told of
ASIDE: Final = struct.Struct("<QI")  # readings set aside up to and with this row, those in it


class Point(NamedTuple):
    time_ns: int
    value: float


class Sum(msgspec.Struct, array_like=True):
    """The row `s`: `window` of all readings in blocks and before; `newest` is of those too."""

    window: bytes
    points: int = 0
    newest: tuple[int, float] | None = None


class Block(NamedTuple):
    n: int
    points: int
    latest: int


class Kept:
    """One series.

    place     of it in columns
    blocks    and `raws`, the number of readings behind them in rows of their own, are confirmed
    moving    what a flush that is under way does with it
    metadata  is confirmed; `staged_metadata` is it with each write under way, as they were staged
    next      the n to come
    """

    __slots__ = (
        "age_ns", "asides", "blocks", "id", "is_loaded", "is_new", "keep", "metadata", "moving",
        "newest", "next", "place", "promised", "raws", "row", "series", "set_aside",
        "staged_metadata",
    )  # fmt: skip

    def __init__(self, series: Series, place: int, keep: int) -> None:
        self.series, self.place, self.keep, self.age_ns = series, place, keep, 0
        self.id = series.id
        self.row = self.id.to_bytes(8, "big")
        self.metadata: dict[str, str] = {}
        self.staged_metadata: dict[object, dict[str, str]] = {}
        self.blocks: deque[Block] = deque()
        self.newest: Point | None = None  # of what is in rows of its own
        self.moving: Moving | None = None
        self.next = self.raws = 0
        self.set_aside = self.asides = 0  # confirmed, and staged
        self.promised = 0  # writes under way that make the series
        self.is_loaded = False
        self.is_new = True

    @property
    def raw_from(self) -> int:
        """The n behind the last block."""
        return self.blocks[-1].n + self.blocks[-1].points if self.blocks else 0


class Sealing(NamedTuple):
    """Raw readings on their way into blocks, with those of the flush behind them.

    times     and `values`: of those that were raw
    blocks    what takes their place; `dropped` is how many old ones go
    before    the row `s` as it was
    """

    times: "Times[int]"
    values: "Values[float]"
    before: Sum
    blocks: list[Block]
    dropped: int


class Moving(NamedTuple):
    """Readings of one series on their way into rows of their own, from `n` on."""

    n: int
    part: Part
    sealing: Sealing | None


class PointRows:
    """Reads rows, of whatever state they are in."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._damaged: set[bytes] = set()  # keys of rows that have been told of

    def scan(self, start: bytes, stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        stop = after(start) if stop is None else stop
        while start < stop and (rows := self._store.scan(DATABASE, start, stop)):
            yield from rows
            start = rows[-1][0] + b"\0"

    def scan_back(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, stop) from its end."""
        while start < stop:
            rows = self._store.scan(DATABASE, start, stop, limit=64, reverse=True)
            if not rows:
                return
            yield from rows
            stop = rows[-1][0]

    def load(self, kept: Kept) -> None:
        """Read where the rows of a series are."""
        kept.is_loaded = True
        summed = self.sum_of(kept)
        kept.newest = Point(*summed.newest) if summed.newest else None
        for key, value in self.scan(b"p" + kept.row):
            n = int.from_bytes(key[9:], "big")
            is_block, points, _, latest = self.head(key, value)
            kept.next = n + max(points, 1)
            if is_block:
                kept.blocks.append(Block(n, points, latest))
                continue
            kept.raws += points
            times, values = self.unpacked(key, value)
            if times:
                note_newest(kept, part_of(times, values))
        key = b"m" + kept.row
        raw = self._store.get(DATABASE, key)
        if raw is not None:
            kept.metadata = self._readable(key, {}, partial(_METADATA.decode, raw))
        start = b"q" + kept.row
        for key, value in self._store.scan(DATABASE, start, after(start), limit=1, reverse=True):
            kept.set_aside = kept.asides = self.aside(key, value)[0]
            kept.next = max(kept.next, int.from_bytes(key[9:], "big") + 1)

    def sum_of(self, kept: Kept) -> Sum:
        key = b"s" + kept.row
        raw = self._store.get(DATABASE, key)
        return NOTHING if raw is None else self._readable(key, NOTHING, partial(_sum_of, raw))

    def _readable(self, key: bytes, otherwise: T, read: Callable[[], T]) -> T:
        """Return what is in the row of that key; of one that is damaged, something else.

        It costs what was in it, and stops no question and no flush of other series (I8).
        """
        try:
            return read()
        except (ValueError, struct.error, msgspec.MsgspecError) as error:
            if key not in self._damaged and len(self._damaged) < DAMAGED_MAX:
                self._damaged.add(key)
                log.error("a damaged row is left out: key=%s %s", key.hex(), error)
            return otherwise

    def head(self, key: bytes, row: bytes) -> tuple[int, int, int, int]:
        return self._readable(key, _NO_HEAD, partial(PIECE.unpack_from, row))

    def unpacked(self, key: bytes, row: bytes) -> tuple["Times[int]", "Values[float]"]:
        return self._readable(key, (array.array("q"), array.array("d")), partial(unpacked, row))

    def aside(self, key: bytes, row: bytes) -> tuple[int, int]:
        return self._readable(key, (0, 0), partial(ASIDE.unpack_from, row))


NOTHING: Final = Sum(Window().encode())
_NO_HEAD: Final = 0, 0, 0, -1
_METADATA: Final = msgspec.msgpack.Decoder(dict[str, str])


def _sum_of(raw: bytes) -> Sum:
    found = msgspec.msgpack.decode(raw, type=Sum)
    Window.decode(found.window)
    return found


def after(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`: one of 9 bytes and numbers behind it."""
    return prefix + b"\xff" * 9


def batch_key(number: int) -> bytes:
    return b"b" + number.to_bytes(8, "big")


def piece_key(kept: Kept, n: int) -> bytes:
    return b"p" + kept.row + n.to_bytes(8, "big")


def note_newest(kept: Kept, part: Part) -> None:
    if kept.newest is None or part.latest >= kept.newest.time_ns:
        kept.newest = Point(part.latest, part.values[part.newest])
