"""The newest readings of a series, kept at the edge for questions there.

The journal lets a reading go when the hub has it; these stay, as many of a series as its `keep`
says. Rows of the database `points`, in the transaction of the journal records they belong to (I2):

    k | series id u64 BE              the series is kept; the age of its own, u64 ns, 0 for none
    b | number u64 BE                 readings of many series, as a write brought them
    p | series id | n u64 BE          readings: raw, as they came, or some hundred as an ESB1 block
    s | series id                     what all readings that are, or were, in blocks add up to
    m | series id                     metadata, as a msgpack map
    q | series id | n                 readings from the future: kept aside

A write adds one row `b`, however many series are in it. What is in such rows is in memory too, and
is read from there; when it is much, `flush` makes rows `p` of it, one for each series, in a
transaction of its own. A start reads the rows `b` there are.

`n` counts the readings of a series; a flush that was refused leaves a gap. What is staged is seen
at once, and taken back with `withdraw`; only what is confirmed is flushed, so that a write that is
refused takes no other one with it (I8). Between commit and `confirm` of a flush the disk is ahead,
and questions are answered from `moving` instead. Values are 64-bit floats.
"""

import array
import contextlib
import logging
import struct
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, TypeVar

import msgspec

from edgesync._native import block
from edgesync._native.points import (
    Part,
    Recent,
    batch_columns,
    batch_row,
    check,
    latest,
    parts,
    unknown,
)  # fmt: skip
from edgesync._native.window import Window
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.intake import Intake
from edgesync.model import (
    Lane,
    Reading,
    ValueType,
)  # fmt: skip
from edgesync.settings import RollupRule
from edgesync.store.declare import add_metadata
from edgesync.store.journal import EdgeStore
from edgesync.store.pieces import (
    PIECE,
    Times,
    Values,
    joined,
    newest_of,
    packed,
    part_of,
    split,
    unpacked,
)  # fmt: skip
from edgesync.store.rollups import Rollups
from edgesync.store.series import Series

log = logging.getLogger(__name__)

T = TypeVar("T")
DATABASE: Final = "points"
KEEP: Final = 1000
SERIES_MAX: Final = 10_000
# So many readings in rows `b` are flushed: 24 bytes each of memory and of the disk, twice that at
# most. A row of a series then has the more readings, the more there are.
RECENT_MAX: Final = 32_768
# So many raw readings become a block: 256 decimal readings at a steady pace are some 400 bytes.
SEAL_POINTS: Final = 256
BLOCK_POINTS: Final = 1024
# Later than the wall clock by more than this, a time is a mistake: it would be "the newest" for
# ever, and close every window.
AHEAD_NS: Final = 300 * 1_000_000_000
DAMAGED_MAX: Final = 1000  # rows that are told of
ASIDE_MAX: Final = 64  # rows of readings from the future, of a series
METADATA_BYTES_MAX: Final = 4096
NO_AGE: Final = 0

RECENT_BYTES: Final = 24
# Marks of a series, native/points.pyx.
KNOWN: Final = 1
TOUCHED: Final = 2

ASIDE: Final = struct.Struct("<QI")  # readings set aside up to and with this row, those in it


class Point(NamedTuple):
    time_ns: int
    value: float


class _Sum(msgspec.Struct, array_like=True):
    """The row `s`: `window` of all readings in blocks and before; `newest` is of those too."""

    window: bytes
    points: int = 0
    newest: tuple[int, float] | None = None


class _Block(NamedTuple):
    n: int
    points: int
    latest: int


class Kept:
    """One series.

    place     of it in columns
    blocks    and `raws`, the number of readings behind them in rows of their own, are confirmed
    moving    what a flush that is under way does with it
    next      the n to come
    """

    __slots__ = (
        "age_ns", "asides", "blocks", "id", "is_loaded", "is_new", "keep", "metadata", "moving",
        "newest", "next", "place", "promised", "raws", "row", "series", "set_aside",
    )  # fmt: skip

    def __init__(self, series: Series, place: int, keep: int) -> None:
        self.series, self.place, self.keep, self.age_ns = series, place, keep, 0
        self.id = series.id
        self.row = self.id.to_bytes(8, "big")
        self.metadata: dict[str, str] = {}
        self.blocks: deque[_Block] = deque()
        self.newest: Point | None = None  # of what is in rows of its own
        self.moving: _Moving | None = None
        self.next = self.raws = 0
        self.set_aside = self.asides = 0  # confirmed, and staged
        self.promised = 0  # writes under way that make the series
        self.is_loaded = False
        self.is_new = True

    @property
    def raw_from(self) -> int:
        """The n behind the last block."""
        return self.blocks[-1].n + self.blocks[-1].points if self.blocks else 0


class _Sealing(NamedTuple):
    """Raw readings on their way into blocks, with those of the flush behind them.

    times     and `values`: of those that were raw
    blocks    what takes their place; `dropped` is how many old ones go
    before    the row `s` as it was
    """

    times: "Times[int]"
    values: "Values[float]"
    before: _Sum
    blocks: list[_Block]
    dropped: int


class _Moving(NamedTuple):
    """Readings of one series on their way into rows of their own, from `n` on."""

    n: int
    part: Part
    sealing: _Sealing | None


class _Batches:
    """Readings that are in rows `b`, those with numbers from `first` on, and in memory.

    under_way   writes that add to them
    """

    __slots__ = ("first", "recent", "under_way")

    def __init__(self, first: int) -> None:
        self.first, self.recent, self.under_way = first, Recent(), 0


class _Batch(NamedTuple):
    """Readings of one row `b` in memory."""

    batches: _Batches
    first: int
    size: int


class Staged:
    """A write, and what becomes true with its commit."""

    __slots__ = (
        "aside", "batches", "declared", "flushed", "metadata", "moved", "promised", "readings",
        "summed", "used", "write",
    )  # fmt: skip

    def __init__(self) -> None:
        self.write = Write()
        self.readings = 0
        self.declared: list[Series] = []
        self.used: list[int] = []  # places that needed a look
        self.batches: list[_Batch] = []
        self.summed: list[Part] = []
        self.promised: list[Kept] = []
        self.aside: list[tuple[Kept, int]] = []
        self.metadata: list[tuple[Kept, dict[str, str]]] = []
        self.flushed: _Batches | None = None
        self.moved: list[Kept] = []


class PointStore:
    """See the module. One thread at a time.

    keep         newest readings kept of a series
    age_ns       older ones are not shown, and go with their block; 0 for no such limit
    series_max   kept at most (I7)
    rules        which series are summed up, and how
    recent_max   readings in rows of their batches that are flushed
    """

    def __init__(
        self,
        store: EdgeStore,
        intake: Intake,
        *,
        keep: int = KEEP,
        age_ns: int = NO_AGE,
        series_max: int = SERIES_MAX,
        rules: Sequence[RollupRule] = (),
        recent_max: int = RECENT_MAX,
        wall_ns: Callable[[], int],
    ) -> None:
        self._store, self._intake, self._wall_ns = store, intake, wall_ns
        self._keep, self._age_ns, self._series_max = keep, age_ns, series_max
        self._known: dict[tuple[str, str], Kept] = {}
        self._places: list[Kept] = []
        self._place_of: dict[tuple[str, str], int] = {}
        self._ids: Times[int] = array.array("Q")
        # Of each place: whether a reading of it needs no look, and whether there has been one.
        self._marks = bytearray()
        self._marks_of = store.series.incarnation
        self._recent_max, self._retry_at = recent_max, 0
        self._batches = [_Batches(0)]
        self._flushing: _Batches | None = None
        self._next_batch = 0
        self._damaged: set[bytes] = set()  # keys of rows that have been told of
        for key, value in self._rows(b"k", b"l"):
            series = store.series.get(int.from_bytes(key[1:], "big"))
            if series is not None:
                kept = self._enter(series)
                kept.age_ns, kept.is_new = int.from_bytes(value, "little"), False
        self._load_batches()
        self.rollups = Rollups(rules, store.store) if rules else None
        if self.rollups is not None:
            for kept in self.all():
                if self.rollups.is_summed(kept.series):
                    self.rollups.restore(kept, self.readings(kept))

    def __len__(self) -> int:
        return len(self._known)

    # -- series --------------------------------------------------------------------------------

    def find(self, entity: str, key: str) -> Kept | None:
        """Return the series of that name; None when it is not kept."""
        kept = self._known.get((entity, key))
        if kept is None or (kept.is_new and not kept.promised):
            return None
        if not kept.is_loaded:
            self._load(kept)
        return kept

    def all(self) -> list[Kept]:
        """Return every series that is kept."""
        found = (self.find(*name) for name in self._known)
        return [kept for kept in found if kept is not None]

    def place(self, entity: str, key: str, unit: str = "") -> int:
        """Return the place of a series in columns, entered if it is new.

        Raises RecordError when there are too many.
        """
        place = self._place_of.get((entity, key))
        if place is not None and (not unit or self._places[place].series.unit == unit):
            return place
        return self._place_for(self._intake.series_of(entity, key, unit, ValueType.F64))

    def _place_for(self, series: Series) -> int:
        place = self._place_of.get((series.entity, series.key))
        if place is None:
            self._enter(series).is_loaded = True  # there is nothing of it
            return len(self._places) - 1
        kept = self._places[place]
        if kept.series is not series and kept.series != series:
            kept.series = series
            self._marks[place] &= ~KNOWN
        return place

    def _enter(self, series: Series) -> Kept:
        if len(self._known) >= self._series_max:
            raise RecordError(
                f"more than {self._series_max} series kept at this edge; raise [series] max"
            )
        kept = Kept(series, len(self._places), self._keep)
        name = (series.entity, series.key)
        self._known[name] = kept
        self._place_of[name] = kept.place
        self._places.append(kept)
        self._ids.append(kept.id)
        self._marks.append(0)
        return kept

    def kept_at(self, place: int) -> Kept:
        kept = self._places[place]
        if not kept.is_loaded:
            self._load(kept)
        return kept

    def _load(self, kept: Kept) -> None:
        """Read where the rows of a series are."""
        kept.is_loaded = True
        summed = self._sum(kept)
        kept.newest = Point(*summed.newest) if summed.newest else None
        for key, value in self._rows(b"p" + kept.row):
            n = int.from_bytes(key[9:], "big")
            is_block, points, _, latest = self._head(key, value)
            kept.next = n + max(points, 1)
            if is_block:
                kept.blocks.append(_Block(n, points, latest))
                continue
            kept.raws += points
            times, values = self._unpacked(key, value)
            if times:
                _note_newest(kept, part_of(times, values))
        key = b"m" + kept.row
        raw = self._store.store.get(DATABASE, key)
        if raw is not None:
            kept.metadata = self._readable(key, {}, partial(_METADATA.decode, raw))
        start = b"q" + kept.row
        for key, value in self._store.store.scan(
            DATABASE, start, _after(start), limit=1, reverse=True
        ):
            kept.set_aside = kept.asides = self._aside(key, value)[0]
            kept.next = max(kept.next, int.from_bytes(key[9:], "big") + 1)

    def _load_batches(self) -> None:
        """Read what is in rows of its batches."""
        places = {kept.id: kept.place for kept in self._places}
        batches = self._batches[0]
        for key, row in self._rows(b"b", b"c"):
            number = int.from_bytes(key[1:], "big")
            if not self._next_batch:
                batches.first = number
            self._next_batch = number + 1
            found = batch_columns(key, row, places)
            if found is None:
                log.error("readings of a damaged row are left out: %s", key.hex())
                continue
            batches.recent.append(*found, len(self._places))

    def _sum(self, kept: Kept) -> _Sum:
        key = b"s" + kept.row
        raw = self._store.store.get(DATABASE, key)
        return _NOTHING if raw is None else self._readable(key, _NOTHING, partial(_sum_of, raw))

    # -- rows that may be damaged --------------------------------------------------------------

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

    def _head(self, key: bytes, row: bytes) -> tuple[int, int, int, int]:
        return self._readable(key, _NO_HEAD, partial(PIECE.unpack_from, row))

    def _unpacked(self, key: bytes, row: bytes) -> tuple["Times[int]", "Values[float]"]:
        return self._readable(key, (array.array("q"), array.array("d")), partial(unpacked, row))

    def _aside(self, key: bytes, row: bytes) -> tuple[int, int]:
        return self._readable(key, (0, 0), partial(ASIDE.unpack_from, row))

    # -- in ------------------------------------------------------------------------------------

    def stage(
        self,
        places: "Times[int]",
        times: "Times[int]",
        values: "Values[float]",
        staged: Staged | None = None,
    ) -> Staged:
        """Prepare readings in columns, for the journal and to be kept; nothing is stored yet.

        places   array("I") of what `place` gave; times array("q"), ns; values array("d")
        staged   something to add them to

        Raises RecordError for columns that do not belong together.
        """
        staged = staged or Staged()
        check(places, times, values, len(self._places))
        if not times:
            return staged
        staged.readings += len(times)
        used = self._unknown(places)
        told, columns = [self._places[place].series for place in used], (places, times, values)
        if self.rollups is not None:
            found = parts(places, times, values, len(self._places))
            sent = [part for part in found if self.rollups.sends_raw(self._series_of(part))]
            told, columns = [self._series_of(part) for part in sent], joined(sent)
        if columns[0]:
            staged.declared += self._intake.stage_columns(staged.write, told, self._ids, *columns)
        self._stage_kept(staged, used, places, times, values)
        return staged

    def _unknown(self, places: "Times[int]") -> list[int]:
        """The places of series that are new here, or that the hub may not have been told of."""
        if self._marks_of != self._store.series.incarnation:  # a fork: it is told everything again
            self._marks = bytearray(mark & TOUCHED for mark in self._marks)
            self._marks_of = self._store.series.incarnation
        return unknown(places, self._marks)

    def _series_of(self, part: Part) -> Series:
        return self._places[part.place].series

    @contextlib.contextmanager
    def keeping(self, write: Write, readings: Iterable[Reading]) -> Iterator[None]:
        """Add to `write`, which has them for the journal already, what keeps these readings.

        It is carried out inside the `with`. Texts are not kept.
        """
        places, times, values = array.array("I"), array.array("q"), array.array("d")
        for one in readings:
            if not isinstance(one.value, str):
                series = self._intake.known(one.entity, one.key)
                places.append(self._place_for(series))
                times.append(one.time_ns)
                values.append(one.value)
        staged = Staged()
        staged.write = write
        if times:
            self._stage_kept(staged, self._unknown(places), places, times, values)
        with self.carried_out(staged):
            yield

    @contextlib.contextmanager
    def carried_out(self, staged: Staged) -> Iterator[None]:
        """What is inside carries the write out; if it raises, nothing of it has happened."""
        try:
            yield
        except BaseException:
            self.withdraw(staged)
            raise
        self.confirm(staged)

    def _stage_kept(
        self,
        staged: Staged,
        used: list[int],
        places: "Times[int]",
        times: "Times[int]",
        values: "Values[float]",
    ) -> None:
        """Add what keeps these readings; `used` are places that need a look."""
        for place in used:
            kept = self.kept_at(place)
            if kept.is_new:
                self._promise(staged, kept)
        staged.used += used
        newest_ns = self._wall_ns() + AHEAD_NS
        if latest(times) > newest_ns:
            good = []
            for part in parts(places, times, values, len(self._places)):
                if part.latest <= newest_ns:
                    good.append(part)
                    continue
                rest, ahead = split(part, newest_ns)
                self._stage_aside(staged, self._places[part.place], ahead)
                if rest is not None:
                    good.append(rest)
            places, times, values = joined(good)
            if not times:
                return
        if self.rollups is not None:
            staged.summed += parts(places, times, values, len(self._places))
        key = _batch_key(self._next_batch)
        self._next_batch += 1
        staged.write.put(DATABASE, key, batch_row(key, self._ids, places, times, values))
        batches = self._batches[-1]
        batches.under_way += 1
        first = batches.recent.append(places, times, values, len(self._places))
        staged.batches.append(_Batch(batches, first, len(times)))

    def flush(self) -> Staged | None:
        """Return what moves recent readings into rows of their series, once there are many of them.

        It is to be carried out by itself. One that was refused is tried again after some more.
        """
        if len(self._batches) == 1 and len(self._batches[0].recent) >= self._recent_max:
            self._batches.append(_Batches(self._next_batch))
        oldest, newest = self._batches[0], self._batches[-1]
        if oldest is newest or oldest.under_way or self._flushing is not None:
            return None
        if len(newest.recent) < self._retry_at:
            return None
        self._flushing = oldest
        staged = Staged()
        staged.flushed = oldest
        try:
            for part in parts(*oldest.recent.all(), len(self._places)):
                kept = self.kept_at(part.place)
                self._move(staged.write, kept, part)
                staged.moved.append(kept)
        except BaseException:
            self.withdraw(staged)
            raise
        for number in range(oldest.first, self._batches[1].first):
            staged.write.delete(DATABASE, _batch_key(number))
        return staged

    def _move(self, write: Write, kept: Kept, part: Part) -> None:
        n, kept.next = kept.next, kept.next + len(part)
        sealing = None
        if kept.raws + len(part) >= SEAL_POINTS:
            sealing = self._seal(write, kept, n, part)
        else:
            write.put(DATABASE, _piece_key(kept, n), packed(part))
        kept.moving = _Moving(n, part, sealing)

    def _seal(self, write: Write, kept: Kept, n: int, part: Part) -> _Sealing:
        """Make blocks of the raw readings, and of `part` behind them."""
        raw_times: Times[int] = array.array("q")
        raw_values: Values[float] = array.array("d")
        first = n
        for key, value in self._rows(_piece_key(kept, kept.raw_from), _piece_key(kept, n)):
            first = min(first, int.from_bytes(key[9:], "big"))
            more_times, more_values = self._unpacked(key, value)
            raw_times += more_times
            raw_values += more_values
            write.delete(DATABASE, key)
        times, values = raw_times + part.times, raw_values + part.values
        before = self._sum(kept)
        window = Window.decode(before.window)
        window.add_many(times, values)
        newest = newest_of(before.newest, times, values)
        row = _Sum(window.encode(), before.points + len(times), newest)
        write.put(DATABASE, b"s" + kept.row, msgspec.msgpack.encode(row))
        dropped = self._drop(write, kept, len(times))
        blocks = [
            self._put_block(write, kept, first + at, times[at : at + BLOCK_POINTS],
                            values[at : at + BLOCK_POINTS])
            for at in range(0, len(times), BLOCK_POINTS)
            # What a batch brings beyond what is kept has been added up, and is not kept.
            if len(times) - at - BLOCK_POINTS < kept.keep
        ]  # fmt: skip
        return _Sealing(raw_times, raw_values, before, blocks, dropped)

    def _put_block(
        self, write: Write, kept: Kept, n: int, times: "Times[int]", values: "Values[float]"
    ) -> _Block:
        packed = block.encode(kept.id, ValueType.F64, times, values, stats=False)
        head = PIECE.pack(1, len(times), min(times), max(times))
        write.put(DATABASE, _piece_key(kept, n), head + packed)
        return _Block(n, len(times), max(times))

    def _drop(self, write: Write, kept: Kept, coming: int) -> int:
        """Delete the oldest blocks that are not needed for `keep`; returns how many."""
        held = coming + sum(one.points for one in kept.blocks)
        oldest_ns = self._oldest_ns(kept)
        dropped = 0
        for one in kept.blocks:
            if held - one.points < kept.keep and one.latest >= oldest_ns:
                break
            held -= one.points
            write.delete(DATABASE, _piece_key(kept, one.n))
            dropped += 1
        return dropped

    def _stage_aside(self, staged: Staged, kept: Kept, part: Part) -> None:
        """Keep readings whose time cannot be, apart from the others."""
        n, kept.next = kept.next, kept.next + len(part)
        kept.asides += len(part)
        head = ASIDE.pack(kept.asides, len(part))
        row = head + part.times.tobytes() + part.values.tobytes()
        staged.write.put(DATABASE, b"q" + kept.row + n.to_bytes(8, "big"), row)
        start = b"q" + kept.row
        rows = self._store.store.scan(DATABASE, start, _after(start), limit=ASIDE_MAX)
        if len(rows) == ASIDE_MAX:
            staged.write.delete(DATABASE, rows[0][0])
        staged.aside.append((kept, len(part)))
        self._promise(staged, kept)

    def _promise(self, staged: Staged, kept: Kept) -> None:
        """The write makes the series, though it may bring no reading of it."""
        if kept.is_new:
            staged.write.put(DATABASE, b"k" + kept.row, kept.age_ns.to_bytes(8, "little"))
        kept.promised += 1
        staged.promised.append(kept)

    def stage_metadata(self, staged: Staged, place: int, metadata: Mapping[str, str]) -> bool:
        """Add metadata to what is staged, and tell the hub; False when it is known already.

        Raises RecordError for metadata beyond 4 KiB.
        """
        kept = self.kept_at(place)
        told = {**kept.metadata, **metadata}
        if told == kept.metadata and not kept.is_new:
            return False
        raw = msgspec.msgpack.encode(told)
        if len(raw) > METADATA_BYTES_MAX:
            raise RecordError(
                f"{kept.series.entity}: metadata of {len(raw)} bytes; at most {METADATA_BYTES_MAX}"
            )
        if kept.is_new and self._store.series.stage(
            staged.write, Lane.BULK, kept.series, self._wall_ns()
        ):
            staged.declared.append(kept.series)
        self._promise(staged, kept)
        staged.metadata.append((kept, told))
        if told == kept.metadata:
            return True
        staged.write.put(DATABASE, b"m" + kept.row, raw)
        add_metadata(staged.write, kept.series, told, self._wall_ns())
        return True

    def confirm(self, staged: Staged) -> None:
        """The write has been committed."""
        self._intake.confirm(staged.declared)
        for batch in staged.batches:
            batch.batches.under_way -= 1
        for part in staged.summed:
            assert self.rollups is not None
            self.rollups.add(self._places[part.place], part.times, part.values)
        for kept, count in staged.aside:
            kept.set_aside += count
        for kept, metadata in staged.metadata:
            kept.metadata = metadata
        self._keep_promises(staged, is_new=False)
        if self._marks_of == self._store.series.incarnation:
            for place in staged.used:
                if self._store.series.is_told(self._places[place].series):
                    self._marks[place] |= KNOWN
        if staged.flushed is not None:
            self._end_flush(staged)

    def _end_flush(self, staged: Staged) -> None:
        for kept in staged.moved:
            moving, kept.moving = kept.moving, None
            assert moving is not None
            if moving.sealing is None:
                kept.raws += len(moving.part)
            else:
                kept.raws = 0
                for _ in range(moving.sealing.dropped):
                    kept.blocks.popleft()
                kept.blocks.extend(moving.sealing.blocks)
            _note_newest(kept, moving.part)
        self._batches.pop(0)
        self._flushing, self._retry_at = None, 0

    def withdraw(self, staged: Staged) -> None:
        """The write was refused: nothing of it has happened."""
        for batch in staged.batches:
            batch.batches.under_way -= 1
            batch.batches.recent.drop(batch.first, batch.size)
        for kept, count in staged.aside:
            kept.asides -= count
        self._keep_promises(staged, is_new=True)
        if staged.flushed is not None:
            for kept in staged.moved:
                kept.moving = None
            self._flushing = None
            self._retry_at = len(self._batches[-1].recent) + self._recent_max // 8

    def _keep_promises(self, staged: Staged, *, is_new: bool) -> None:
        for kept in staged.promised:
            kept.promised -= 1
            kept.is_new &= is_new

    # -- windows -------------------------------------------------------------------------------

    @contextlib.contextmanager
    def sending_windows(self) -> Iterator[Write | None]:
        """Yield what stores the windows that have closed by now, None without any.

        It is carried out inside the `with`; windows of a write that is refused wait for the next.
        """
        rollups = self.rollups
        if rollups is None:
            yield None
            return
        rollups.close_idle(self._wall_ns())
        taken = rollups.take()
        if not taken:
            yield None
            return
        write = Write()
        told = Write()
        series = rollups.stage(write, taken)
        now = self._wall_ns()
        declared = [one for one in series if self._store.series.stage(told, Lane.BULK, one, now)]
        told.extend(write)
        try:
            yield told
        except BaseException:
            rollups.put_back(taken)
            raise
        self._intake.confirm(declared)

    # -- out -----------------------------------------------------------------------------------

    def aggregate(self, kept: Kept) -> Window:
        """Return what all readings the series ever had add up to; the same after a restart."""
        moving = kept.moving
        if moving is None or moving.sealing is None:
            window = Window.decode(self._sum(kept).window)
        else:
            window = Window.decode(moving.sealing.before.window)
        for times, values in reversed(list(self._raw_columns(kept))):
            window.add_many(times, values)
        return window

    def newest(self, kept: Kept) -> Point | None:
        """Return the reading of the latest time; of several the one that came last."""
        newest = kept.newest
        for batches in self._batches:
            found = batches.recent.newest(kept.place)
            if found is not None and (newest is None or found[0] >= newest.time_ns):
                newest = Point(*found)
        return newest

    def latest(self) -> Iterator[tuple[Series, Point]]:
        """Yield each series that has had readings since this was opened, with its newest one."""
        for place, mark in enumerate(self._marks):
            if mark & TOUCHED:
                kept = self.kept_at(place)
                newest = self.newest(kept)
                if newest is not None:
                    yield kept.series, newest

    def readings(
        self,
        kept: Kept,
        from_ns: int = -(1 << 63),
        to_ns: int = (1 << 63) - 1,
        *,
        limit: int | None = None,
        reverse: bool = False,
    ) -> list[Point]:
        """Return those kept from `from_ns` to `to_ns`, by time; of equal times as they came.

        limit   the first so many; with `reverse`, from the other end
        """
        from_ns = max(from_ns, self._oldest_ns(kept))
        columns = list(self._kept_columns(kept, from_ns, to_ns))
        found = [
            Point(time_ns, value)
            for times, values in reversed(columns)
            for time_ns, value in zip(times, values, strict=True)
            if from_ns <= time_ns <= to_ns
        ]
        found.sort(key=_time_of)
        if reverse:
            found.reverse()
        return found if limit is None else found[:limit]

    def _kept_columns(
        self, kept: Kept, from_ns: int, to_ns: int
    ) -> Iterator[tuple["Times[int]", "Values[float]"]]:
        """The newest `keep` readings, the last to come first; but for rows out of range."""
        left = kept.keep
        for times, values in self._raw_columns(kept):
            skip = max(len(times) - left, 0)
            yield times[skip:], values[skip:]
            left -= len(times) - skip
        # Blocks that are being made come behind those: they take the places of raw readings.
        for key, row in self._rows_back(_piece_key(kept, 0), _piece_key(kept, kept.raw_from)):
            if left <= 0:
                return
            _, points, earliest, latest = self._head(key, row)
            if earliest <= to_ns and latest >= from_ns:
                times, values = self._unpacked(key, row)
                skip = max(points - left, 0)
                yield times[skip:], values[skip:]
            left -= points

    def _raw_columns(self, kept: Kept) -> Iterator[tuple["Times[int]", "Values[float]"]]:
        """Readings that are in no block yet, the last to come first."""
        times, values = self._recent_columns(kept)
        if times:
            yield times, values
        moving, stop = kept.moving, kept.next
        if moving is not None:
            yield moving.part.times, moving.part.values
            stop = moving.n
            if moving.sealing is not None:
                yield moving.sealing.times, moving.sealing.values
                return
        for key, row in self._rows_back(_piece_key(kept, kept.raw_from), _piece_key(kept, stop)):
            yield self._unpacked(key, row)

    def _recent_columns(self, kept: Kept) -> tuple["Times[int]", "Values[float]"]:
        """Readings that are in rows of their batches, in order."""
        times: Times[int] = array.array("q")
        values: Values[float] = array.array("d")
        for batches in self._batches:
            if batches is not self._flushing:
                more_times, more_values = batches.recent.columns(kept.place)
                times += more_times
                values += more_values
        return times, values

    def stored_bytes(self, kept: Kept) -> int:
        """Return the bytes of the readings on disk."""
        recent = len(self._recent_columns(kept)[0])
        return RECENT_BYTES * recent + sum(len(value) for _, value in self._rows(b"p" + kept.row))

    def chunks(self, kept: Kept) -> int:
        """Return of how many blocks its readings are, counting those that are in none as one."""
        return len(kept.blocks) + any(len(times) > 0 for times, _ in self._raw_columns(kept))

    def set_aside(self, kept: Kept) -> list[Point]:
        """Return the readings whose time could not be, as far as they are kept."""
        start = b"q" + kept.row
        found: list[Point] = []
        for key, value in self._rows(start):
            times: Times[int] = array.array("q")
            values: Values[float] = array.array("d")
            count = self._aside(key, value)[1]
            if len(value) != ASIDE.size + 16 * count:
                continue
            times.frombytes(value[ASIDE.size : ASIDE.size + 8 * count])
            values.frombytes(value[ASIDE.size + 8 * count :])
            found += map(Point, times, values)
        return found

    def _oldest_ns(self, kept: Kept) -> int:
        age_ns = kept.age_ns or self._age_ns
        return self._wall_ns() - age_ns if age_ns else -(1 << 63)

    def _rows(self, start: bytes, stop: bytes | None = None) -> Iterator[tuple[bytes, bytes]]:
        stop = _after(start) if stop is None else stop
        while start < stop and (rows := self._store.store.scan(DATABASE, start, stop)):
            yield from rows
            start = rows[-1][0] + b"\0"

    def _rows_back(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """Rows of [start, stop) from its end."""
        while start < stop:
            rows = self._store.store.scan(DATABASE, start, stop, limit=64, reverse=True)
            if not rows:
                return
            yield from rows
            stop = rows[-1][0]


_NOTHING: Final = _Sum(Window().encode())
_NO_HEAD: Final = 0, 0, 0, -1
_METADATA: Final = msgspec.msgpack.Decoder(dict[str, str])


def _sum_of(raw: bytes) -> _Sum:
    found = msgspec.msgpack.decode(raw, type=_Sum)
    Window.decode(found.window)
    return found


def _time_of(point: Point) -> int:
    return point.time_ns


def _after(prefix: bytes) -> bytes:
    """The first key behind all that begin with `prefix`: one of 9 bytes and numbers behind it."""
    return prefix + b"\xff" * 9


def _batch_key(number: int) -> bytes:
    return b"b" + number.to_bytes(8, "big")


def _piece_key(kept: Kept, n: int) -> bytes:
    return b"p" + kept.row + n.to_bytes(8, "big")


def _note_newest(kept: Kept, part: Part) -> None:
    if kept.newest is None or part.latest >= kept.newest.time_ns:
        kept.newest = Point(part.latest, part.values[part.newest])
