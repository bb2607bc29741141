"""The newest readings of a series, kept at the edge for questions there.

The journal lets a reading go when the hub has it; these stay, as many of a series as its `keep`
says, in rows (point_rows.py) that are written in the transaction of the journal records they belong
to (I2).

A write adds one row `b`, however many series are in it. What is in such rows is in memory too, and
is read from there; when it is much, `flush` makes rows `p` of it, one for each series, in a
transaction of its own. A start reads the rows `b` there are.

What is staged is seen at once, and taken back with `withdraw`; only what is confirmed is flushed,
so that a write that is refused takes no other one with it (I8). Between commit and `confirm` of a
flush the disk is ahead, and questions are answered from `moving` instead (point_history.py). Values
are 64-bit floats.
"""

import array
import contextlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

import msgspec

from edgesync._native import block
from edgesync._native.points import Part, batch_columns, batch_row, check, latest, parts, unknown
from edgesync._native.window import Window
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.intake import Intake
from edgesync.model import Lane, Reading, ValueType
from edgesync.settings import RollupRule
from edgesync.store.declare import add_metadata
from edgesync.store.journal import EdgeStore
from edgesync.store.pieces import PIECE, Times, Values, joined, newest_of, packed, split
from edgesync.store.point_history import Batches, PointHistory
from edgesync.store.point_rows import (
    ASIDE,
    DATABASE,
    Block,
    Kept,
    Moving,
    Point,
    PointRows,
    Sealing,
    Sum,
    after,
    batch_key,
    note_newest,
    piece_key,
)
from edgesync.store.rollups import Rollups
from edgesync.store.series import Series

log = logging.getLogger(__name__)

KEEP: Final = 1000
# So many readings in rows `b` are flushed: 28 bytes each of memory, 24 of the disk, twice that at
# most. A row of a series then has the more readings, the more there are; it costs a page and some
# microseconds, so of many series it is so many readings for every 512, up to four times.
RECENT_MAX: Final = 32_768
RECENT_SERIES: Final = 512
# So many raw readings become a block: 256 decimal readings at a steady pace are some 400 bytes. Of
# one series more, of another fewer: those that are read at one pace are not all sealed in one step.
SEAL_POINTS: Final = 256
SEAL_SPREAD: Final = 128
BLOCK_POINTS: Final = 1024
# Later than the wall clock by more than this, a time is a mistake: it would be "the newest" for
# ever, and close every window.
AHEAD_NS: Final = 300 * 1_000_000_000
ASIDE_MAX: Final = 64  # rows of readings from the future, of a series
METADATA_BYTES_MAX: Final = 4096
NO_AGE: Final = 0

# Marks of a series, native/points.pyx.
KNOWN: Final = 1
TOUCHED: Final = 2


class _Batch(NamedTuple):
    """Readings of one row `b` in memory."""

    batches: Batches
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
        self.metadata: list[Kept] = []
        self.flushed: Batches | None = None
        self.moved: list[Kept] = []


class PointStore(PointHistory):
    """See the module. One thread at a time. The intake limits how many series there are (I7).

    keep         newest readings kept of a series
    age_ns       older ones are not shown, and go with their block; 0 for no such limit
    rules        which series are summed up, and how
    recent_max   readings in rows of their batches that are flushed, of up to 1,023 series
    """

    def __init__(
        self,
        store: EdgeStore,
        intake: Intake,
        *,
        keep: int = KEEP,
        age_ns: int = NO_AGE,
        rules: Sequence[RollupRule] = (),
        recent_max: int = RECENT_MAX,
        wall_ns: Callable[[], int],
    ) -> None:
        super().__init__(PointRows(store.store), age_ns=age_ns, wall_ns=wall_ns)
        self._store, self._intake = store, intake
        self._keep = keep
        self._known: dict[tuple[str, str], Kept] = {}
        self._places: list[Kept] = []
        self._place_of: dict[tuple[str, str], int] = {}
        self._ids: Times[int] = array.array("Q")
        # Of each place: whether a reading of it needs no look, and whether there has been one.
        self._marks = bytearray()
        self._marks_of = store.series.incarnation
        self._recent_max, self._retry_at = recent_max, 0
        self._next_batch = 0
        for key, value in self._rows.scan(b"k", b"l"):
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
            self._rows.load(kept)
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
            self._rows.load(kept)
        return kept

    def _load_batches(self) -> None:
        """Read what is in rows of its batches."""
        places = {kept.id: kept.place for kept in self._places}
        batches = self._batches[0]
        for key, row in self._rows.scan(b"b", b"c"):
            number = int.from_bytes(key[1:], "big")
            if not self._next_batch:
                batches.first = number
            self._next_batch = number + 1
            found = batch_columns(key, row, places)
            if found is None:
                log.error("readings of a damaged row are left out: %s", key.hex())
                continue
            batches.recent.append(*found, len(self._places))

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
        """Confirm a write when the block ends; if the block raises, withdraw it."""
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
        key = batch_key(self._next_batch)
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
        if len(self._batches) == 1 and len(self._batches[0].recent) >= self._flushed_at:
            self._batches.append(Batches(self._next_batch))
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
            staged.write.delete(DATABASE, batch_key(number))
        return staged

    @property
    def _flushed_at(self) -> int:
        """The readings in rows of their batches that are flushed."""
        return self._recent_max * min(max(len(self._places) // RECENT_SERIES, 1), 4)

    def _move(self, write: Write, kept: Kept, part: Part) -> None:
        n, kept.next = kept.next, kept.next + len(part)
        sealing = None
        if kept.raws + len(part) >= SEAL_POINTS + kept.place % SEAL_SPREAD:
            sealing = self._seal(write, kept, n, part)
        else:
            write.put(DATABASE, piece_key(kept, n), packed(part))
        kept.moving = Moving(n, part, sealing)

    def _seal(self, write: Write, kept: Kept, n: int, part: Part) -> Sealing:
        """Make blocks of the raw readings, and of `part` behind them."""
        raw_times: Times[int] = array.array("q")
        raw_values: Values[float] = array.array("d")
        first = n
        for key, value in self._rows.scan(piece_key(kept, kept.raw_from), piece_key(kept, n)):
            first = min(first, int.from_bytes(key[9:], "big"))
            more_times, more_values = self._rows.unpacked(key, value)
            raw_times += more_times
            raw_values += more_values
            write.delete(DATABASE, key)
        times, values = raw_times + part.times, raw_values + part.values
        before = self._rows.sum_of(kept)
        window = Window.decode(before.window)
        window.add_many(times, values)
        newest = newest_of(before.newest, times, values)
        row = Sum(window.encode(), before.points + len(times), newest)
        write.put(DATABASE, b"s" + kept.row, msgspec.msgpack.encode(row))
        dropped = self._drop(write, kept, len(times))
        blocks = [
            self._put_block(write, kept, first + at, times[at : at + BLOCK_POINTS],
                            values[at : at + BLOCK_POINTS])
            for at in range(0, len(times), BLOCK_POINTS)
            # What a batch brings beyond what is kept has been added up, and is not kept.
            if len(times) - at - BLOCK_POINTS < kept.keep
        ]  # fmt: skip
        return Sealing(raw_times, raw_values, before, blocks, dropped)

    def _put_block(
        self, write: Write, kept: Kept, n: int, times: "Times[int]", values: "Values[float]"
    ) -> Block:
        packed = block.encode(kept.id, ValueType.F64, times, values, stats=False)
        head = PIECE.pack(1, len(times), min(times), max(times))
        write.put(DATABASE, piece_key(kept, n), head + packed)
        return Block(n, len(times), max(times))

    def _drop(self, write: Write, kept: Kept, coming: int) -> int:
        """Delete the oldest blocks that are not needed for `keep`; returns how many."""
        held = coming + sum(one.points for one in kept.blocks)
        oldest_ns = self._oldest_ns(kept)
        dropped = 0
        for one in kept.blocks:
            if held - one.points < kept.keep and one.latest >= oldest_ns:
                break
            held -= one.points
            write.delete(DATABASE, piece_key(kept, one.n))
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
        rows = self._store.store.scan(DATABASE, start, after(start), limit=ASIDE_MAX)
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
        under_way = kept.staged_metadata
        newest = next(reversed(under_way), staged)
        before = under_way.get(newest, kept.metadata)
        told = {**before, **metadata}
        # What another write brings may be refused with it.
        is_known = told == before and newest is staged
        if is_known and not kept.is_new:
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
        if is_known:
            return True
        under_way.pop(staged, None)
        under_way[staged] = told
        staged.metadata.append(kept)
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
        for kept in staged.metadata:
            # With what was staged before it: writes are carried out in that order, but those who
            # wait for them are not told in it.
            while staged in kept.staged_metadata:
                kept.metadata = kept.staged_metadata.pop(next(iter(kept.staged_metadata)))
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
            note_newest(kept, moving.part)
        self._batches.pop(0)
        self._flushing, self._retry_at = None, 0

    def withdraw(self, staged: Staged) -> None:
        """The write was refused: nothing of it has happened."""
        for batch in staged.batches:
            batch.batches.under_way -= 1
            batch.batches.recent.drop(batch.first, batch.size)
        for kept, count in staged.aside:
            kept.asides -= count
        for kept in staged.metadata:
            kept.staged_metadata.pop(staged, None)
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

    def latest(self) -> Iterator[tuple[Series, Point]]:
        """Yield each series that has had readings since this was opened, with its newest one."""
        for place, mark in enumerate(self._marks):
            if mark & TOUCHED:
                kept = self.kept_at(place)
                newest = self.newest(kept)
                if newest is not None:
                    yield kept.series, newest
