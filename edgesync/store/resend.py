"""Reads a range of past readings from the store as RESENT records, a bounded part at a time.

Two places have readings: the point store, of the series that are kept for questions here, and the
journal, of everything as far back as it is retained. What the point store has of a series is taken
from there, the rest from the journal. A `WalkPosition` says where a walk stands; whoever goes on
from one may send some readings again, and leaves none out.
"""

import array
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from edgesync._native import batch
from edgesync.errors import RecordError, StoreError
from edgesync.model import Lane, RecordKind, Value, ValueType
from edgesync.resend import (
    ALWAYS,
    NEVER,
    POINTS_MAX,
    SERIES_MAX,
    SPAN_NS,
    Range,
    Run,
    WalkPosition,
    encode,
    shown_time,
)
from edgesync.store.journal import EdgeStore
from edgesync.store.point_rows import Kept
from edgesync.store.points import PointStore
from edgesync.store.series import Series

# Kept series are walked through an hour at a time: neither side looks at more history for a record.
WINDOW_NS: Final = 3600 * 10**9
READ_BYTES: Final = 256 * 1024
# Of a record before it is packed, so that it is small beside the readings of now.
RAW_BYTES_MAX: Final = 40 * 1024
POINT_BYTES: Final = 16
SERIES_BYTES: Final = 32
# How far the journal is searched for its first reading, which tells how far back it goes.
LOOKED_AT_MAX: Final = 65_536
EXACT_FLOAT: Final = 1 << 53


class NotStored(StoreError):
    """The store has no readings of that name, or no longer all of that time."""


class WalkStep(NamedTuple):
    """A part of a walk: the body of a record, or none where there was nothing for one.

    position  where the walk stands once that is stored
    missed    records of the journal that had gone before they were read
    """

    position: WalkPosition
    body: bytes = b""
    readings: int = 0
    series: Sequence[Series] = ()
    missed: int = 0


class Walk:
    """A pass through a range. `check` first: it says whether the store has all of it.

    points   None for an edge that keeps no series
    upto     of each lane, the newest record that the hub has: what follows is on its way to it
    oldest   of each lane, the oldest record there was when the range was asked for
    """

    def __init__(
        self,
        store: EdgeStore,
        points: PointStore | None,
        wanted: Range,
        upto: Sequence[int],
        oldest: Sequence[int] = (),
    ) -> None:
        self._store, self._points, self._wanted, self._upto = store, points, wanted, upto
        self._oldest = oldest
        self._series = {
            number: one
            for number, one in store.series.all().items()
            if wanted.names(one.entity, one.key)
        }
        self._kept: list[_KeptSeries] = []
        if points is not None:
            for kept in sorted(points.all(), key=lambda one: one.id):
                earliest_ns, has_dropped = points.earliest_ns(kept)
                newest = points.newest(kept)
                if kept.id in self._series and earliest_ns is not None and newest is not None:
                    self._kept.append(_KeptSeries(kept, earliest_ns, newest.time_ns, has_dropped))
        # Of a series in the journal, what is as late as this is kept, too, and taken from there.
        self._before_ns = {number: wanted.to_ns for number in self._series}
        for one in self._kept:
            self._before_ns[one.kept.id] = min(one.earliest_ns, wanted.to_ns)
        self._from_ns = max(wanted.from_ns, min((o.earliest_ns for o in self._kept), default=NEVER))
        newest_ns = max((one.newest_ns for one in self._kept), default=ALWAYS)
        self._to_ns = min(wanted.to_ns, newest_ns + 1)

    def check(self) -> None:
        """Raise NotStored, with what would be there, unless all of the range is."""
        wanted = self._wanted
        if not self._series:
            name = "/".join((wanted.entity or "*", wanted.key or "*"))
            raise NotStored(f"no series {name} here; `edgesync latest` lists those there are")
        kept = {one.kept.id: one for one in self._kept}
        journal_ns = self._journal_from_ns()
        missing: list[tuple[int, Series]] = []
        for number, series in self._series.items():
            one = kept.get(number)
            if one is not None and not one.has_dropped:
                continue
            since_ns = min(journal_ns, NEVER if one is None else one.earliest_ns)
            if since_ns > wanted.from_ns:
                missing.append((since_ns, series))
        if not missing:
            return
        since_ns, series = max(missing, key=lambda found: found[0])
        more = f" (and {len(missing) - 1} more series)" if len(missing) > 1 else ""
        has = "no readings any more"
        if since_ns < NEVER:
            shown = shown_time(since_ns + 10**9 - 1)
            has = f"readings from {shown} on only; give --from {shown} or later"
        raise NotStored(
            f"the store has of {series.entity}/{series.key}{more} {has}: "
            "[store] retain and [series] keep say how much it keeps"
        )

    def share(self, position: WalkPosition) -> float:
        """Return how much of the walk is done at a position, 0 to 1."""
        begin, end = self._from_ns, self._to_ns
        kept = 1.0
        if begin < end:
            kept = min(1.0, max(0.0, (max(position.window_ns, begin) - begin) / (end - begin)))
        total = done = 0
        for lane in Lane:
            first = self._store.state(lane).trimmed
            count = max(0, self._upto[lane] - first)
            total += count
            if lane < position.lane:
                done += count
            elif lane == position.lane:
                done += min(count, max(0, position.seq - 1 - first))
        journal = done / total if total else 1.0
        return (kept + journal) / 2 if self._kept else journal

    def steps(self, position: WalkPosition) -> Iterator[WalkStep]:
        """Yield what follows a position; the store may have changed since the step before."""
        yield from self._steps_of_kept(position)
        yield from self._steps_of_journal(position)

    # -- kept series -----------------------------------------------------------------------------

    def _steps_of_kept(self, position: WalkPosition) -> Iterator[WalkStep]:
        begin, journal = max(self._from_ns, position.window_ns), (position.lane, position.seq)
        window_ns, rank = begin - begin % WINDOW_NS, position.rank
        while window_ns < self._to_ns:
            packing = _Packing()
            for nth in range(rank, len(self._kept)):
                for part in self._parts(self._kept[nth], window_ns):
                    if not packing.takes(part):
                        yield packing.step(WalkPosition(window_ns, nth, *journal), self._series)
                    packing.add(part)
            window_ns, rank = self._window_after(window_ns), 0
            yield packing.step(WalkPosition(window_ns, 0, *journal), self._series)

    def _window_after(self, window_ns: int) -> int:
        """Return the next hour that any series may have readings of."""
        after = window_ns + WINDOW_NS
        later = [max(one.earliest_ns, after) for one in self._kept if one.newest_ns >= after]
        start_ns = min(later, default=self._to_ns + WINDOW_NS)
        return start_ns - start_ns % WINDOW_NS

    def _parts(self, one: "_KeptSeries", window_ns: int) -> list[Run]:
        """Return what a series has in an hour, at once: its rows may move before the next call."""
        from_ns = max(self._wanted.from_ns, window_ns)
        to_ns = min(self._wanted.to_ns, window_ns + WINDOW_NS)
        if self._points is None or one.earliest_ns >= to_ns or one.newest_ns < from_ns:
            return []
        runs: list[Run] = []
        for times, values in self._points.columns(one.kept, from_ns, to_ns - 1):
            found = [
                (time_ns, value)
                for time_ns, value in zip(times, values, strict=True)
                if from_ns <= time_ns < to_ns
            ]
            if found:
                runs += _in_parts(_run(one.kept.series, *zip(*found, strict=True)))
        return runs

    # -- the journal -----------------------------------------------------------------------------

    def _journal_from_ns(self) -> int:
        """Return since when the journal has all readings, as far as the hub has them."""
        since_ns = ALWAYS
        for lane in Lane:
            trimmed = self._store.state(lane).trimmed
            if not trimmed:
                continue
            first_ns = self._first_reading_ns(lane, trimmed + 1)
            if first_ns is not None or lane is Lane.BULK:
                since_ns = max(since_ns, NEVER if first_ns is None else first_ns)
        return since_ns

    def _first_reading_ns(self, lane: Lane, seq: int) -> int | None:
        last = seq + LOOKED_AT_MAX
        while seq < last:
            rows = self._store.read(lane, seq, limit_records=1024, limit_bytes=READ_BYTES)
            if not len(rows):
                return None
            for record in batch.records(rows.data):
                if record.kind == RecordKind.READINGS:
                    return batch.parse_readings(record.body)[0]
            seq = rows.last + 1
        return None

    def _steps_of_journal(self, position: WalkPosition) -> Iterator[WalkStep]:
        window_ns = max(self._to_ns, position.window_ns)
        for lane in Lane:
            if lane < position.lane:
                continue
            seq = position.seq if lane == position.lane else 0
            yield from self._steps_of_lane(lane, seq, window_ns)

    def _steps_of_lane(self, lane: Lane, seq: int, window_ns: int) -> Iterator[WalkStep]:
        packing, begun = _Packing(), WalkPosition(window_ns, 0, lane, seq)  # of what is gathered
        while True:
            oldest = self._store.state(lane).trimmed + 1
            gone_to = min(oldest, self._upto[lane] + 1)
            missed = max(0, gone_to - seq) if seq else self._gone_since_asked(lane, gone_to)
            seq = max(seq, oldest)
            if packing.is_empty:
                begun = WalkPosition(window_ns, 0, lane, seq)
            count = self._upto[lane] - seq + 1
            if count <= 0:
                yield WalkStep(begun, missed=missed)
                break
            rows = self._store.read(
                lane, seq, limit_records=min(count, 4096), limit_bytes=READ_BYTES
            )
            if not len(rows):
                break
            for nth, record in enumerate(batch.records(rows.data), rows.first):
                runs = self._runs_in(record) if record.kind == RecordKind.READINGS else []
                for run in runs:
                    if not packing.takes(run):
                        begun = WalkPosition(window_ns, 0, lane, nth)
                        yield packing.step(begun, self._series)
                    packing.add(run)
            seq = rows.last + 1
            if packing.is_empty:
                begun = WalkPosition(window_ns, 0, lane, seq)
            yield WalkStep(begun, missed=missed)
        yield packing.step(WalkPosition(window_ns, 0, lane + 1, 0), self._series)

    def _gone_since_asked(self, lane: Lane, gone_to: int) -> int:
        """Return how many records went before a lane was begun, if the range lacks any of them."""
        count = gone_to - self._oldest[lane] if self._oldest else 0
        if count <= 0:
            return 0
        first_ns = self._first_reading_ns(lane, gone_to)
        return 0 if first_ns is not None and first_ns <= self._wanted.from_ns else count

    def _runs_in(self, record: batch.Record) -> list[Run]:
        try:
            time_ns, vtype, numbers, values = batch.parse_readings(record.body)
        except RecordError:
            return []  # the hub has it as it is, and says so
        if not self._wanted.from_ns <= time_ns:
            return []
        kind = ValueType(vtype)
        return [
            Run(number, kind, array.array("q", [time_ns]), _column(kind, [value]))
            for number, value in zip(numbers, values, strict=True)
            if time_ns < self._before_ns.get(number, ALWAYS)
        ]


class _KeptSeries(NamedTuple):
    kept: Kept
    earliest_ns: int
    newest_ns: int
    has_dropped: bool


class _Packing:
    """Gathers runs until a record is full."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._runs: dict[tuple[int, int], Run] = {}
        self._points = self._nbytes = 0
        self._first_ns, self._last_ns = NEVER, ALWAYS

    @property
    def is_empty(self) -> bool:
        return not self._runs

    def takes(self, run: Run) -> bool:
        """Return whether a run fits in beside those that are in; into an empty record any does."""
        is_new = (run.series, run.vtype) not in self._runs
        first_ns, last_ns = min(*run.times, self._first_ns), max(*run.times, self._last_ns)
        return self.is_empty or (
            self._points + len(run.times) <= POINTS_MAX
            and len(self._runs) + is_new <= SERIES_MAX
            and self._nbytes + _nbytes(run) <= RAW_BYTES_MAX
            and last_ns - first_ns <= SPAN_NS
        )

    def add(self, run: Run) -> None:
        name = run.series, run.vtype
        known = self._runs.get(name)
        if known is None:
            self._runs[name] = run
        else:
            known.times.extend(run.times)
            known.values.extend(run.values)  # type: ignore[arg-type]  # one type, one kind of column
        self._points += len(run.times)
        self._nbytes += _nbytes(run)
        self._first_ns = min(*run.times, self._first_ns)
        self._last_ns = max(*run.times, self._last_ns)

    def step(self, position: WalkPosition, series: dict[int, Series]) -> WalkStep:
        """Return what was gathered, and begin anew."""
        runs = list(self._runs.values())
        if not runs:
            return WalkStep(position)
        found = WalkStep(
            position, encode(runs), self._points,
            [series[number] for number in dict.fromkeys(run.series for run in runs)],
        )  # fmt: skip
        self._clear()
        return found


def _nbytes(run: Run) -> int:
    texts = sum(map(len, run.values)) * 4 if isinstance(run.values, list) else 0
    return SERIES_BYTES + POINT_BYTES * len(run.times) + texts


def _in_parts(run: Run) -> Iterator[Run]:
    """Yield a run in parts that fit into an empty record."""
    step = RAW_BYTES_MAX // POINT_BYTES // 2
    for at in range(0, len(run.times), step):
        yield Run(run.series, run.vtype, run.times[at : at + step], run.values[at : at + step])


def _run(series: Series, times: Sequence[int], values: Sequence[float]) -> Run:
    """Return readings of a kept series as those of its type that they were before."""
    kind = ValueType(series.type)
    fits: bool = kind in (ValueType.I64, ValueType.BOOL) and all(
        value.is_integer() and abs(value) <= (1 if kind is ValueType.BOOL else EXACT_FLOAT)
        for value in values
    )
    if not fits:
        kind = ValueType.F64
    return Run(series.id, kind, array.array("q", times), _column(kind, values))


def _column(
    kind: ValueType, values: Sequence[Value]
) -> "array.array[float] | array.array[int] | list[str]":
    if kind is ValueType.TEXT:
        return [str(value) for value in values]
    if kind is ValueType.F64:
        return array.array("d", [float(value) for value in values])
    return array.array("q", [int(value) for value in values])
