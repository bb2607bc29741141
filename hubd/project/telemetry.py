"""The telemetry projector: every reading of the log, in memory at first, then in pages.

Memory is filled as the log is read, and what was read is visible then. It is stored later, an edge
at a time (`schedule.py`, `flush.py`), so there are two positions: the log is *visible* up to where
it was read, and *stored* up to before the oldest entry that is in memory alone. From there it is
read again after a restart; of an edge that is stored further, what its row of `stored` covers is
passed over.
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync._native import batch
from edgesync._native.memtable import Memtable
from edgesync.model import CLOCK_SLACK_NS, RecordKind, series_id
from edgesync.resend import Run
from edgesync_transport.messages import Codec
from hubd.log.base import ENTRY_BYTES_MAX, Entry
from hubd.project import directory
from hubd.project.cursors import move_cursor, read_cursor
from hubd.project.directory import Declaration, Names, Waiting, read_declaration
from hubd.project.feed import LIGHT_BYTES, Cursor, Part, is_light
from hubd.project.flush import flush
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live, Update
from hubd.project.resent import Columns, Count, Known, runs_of, stored, unknown
from hubd.project.schedule import MEMORY_BYTES, Schedule
from hubd.project.totals import Totals
from hubd.state import tables
from hubd.state.fresh import EdgeFresh, Fresh, FreshLost, after_commit, fresh_of

DECLARATION_COST: Final = 32
SERIES_COST: Final = 4
# A series of which readings come once more is looked up in a page or two.
RESENT_COST: Final = 128
CHARS_A_UNIT: Final = 16
# The cursor is moved without anything being stored after so many entries that bring no readings.
IDLE_ENTRIES: Final = 4096


class Content(msgspec.Struct, frozen=True):
    """What a part brings: series that are named, points of series, points sent once more."""

    declared: list[Declaration]
    points: batch.Table | None
    resent: Sequence[Run] = ()


class _Step(msgspec.Struct, frozen=True):
    """What an entry adds to memory once the series that it names are committed."""

    entry: Entry
    fresh: EdgeFresh
    entered: Sequence[directory.Stored]
    points: batch.Table | None
    names: Mapping[int, Declaration] | None
    resent: Sequence[Run]
    known: Mapping[int, Known]


class TelemetryProjector:
    name = "telemetry"

    def __init__(
        self,
        live: Live,
        *,
        limits: SeriesLimits | None = None,
        memory_bytes: int = MEMORY_BYTES,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._live = live
        self.limits = limits or SeriesLimits()
        self._clock_ns = clock_ns
        self._names = Names()
        self._waiting = Waiting()
        self._updates: list[Update] = []
        self._schedule = Schedule(memory_bytes)
        self._stored: dict[str, int] = {}
        self._visible = Cursor()
        self._cursor = Cursor()  # as it is stored
        self._log_ns = 0
        self._pressed = 0
        self.resent: dict[str, Count] = {}

    def blank(self) -> "TelemetryProjector":
        limits = SeriesLimits(self.limits.edge_max, self.limits.tenant_max)
        return TelemetryProjector(Live(), limits=limits)

    @property
    def position(self) -> int:
        """Up to where the log is visible."""
        return self._visible.position

    def begin(self, connection: sa.Connection) -> Cursor:
        """Return from where the log is to be read; what is in memory alone is forgotten."""
        cursor = read_cursor(connection, self.name)
        stored = {edge: position for edge, position in connection.execute(sa.select(tables.stored))}
        totals = tables.edge_totals.c
        counts = {
            edge: count for edge, count in connection.execute(sa.select(totals.edge, totals.series))
        }
        refused = connection.scalars(sa.select(totals.edge).where(totals.refused > 0)).all()
        fresh = fresh_of(connection)

        def start() -> None:
            fresh.clear()
            self._schedule = Schedule(self._schedule.memory_bytes)
            self._stored, self._visible, self._cursor = stored, cursor, cursor
            self._names.forget()
            self.limits.load(counts)
            self._waiting.forget(refused)

        after_commit(connection, start)
        return cursor

    def parts(self, entry: Entry, done: int) -> Iterator[Part]:
        """Yield readings and names as one part, each RESENT record as one. See `Projector`.

        Raises RecordError.
        """
        if self._is_none_of_ours(entry):
            yield Part(entry, Content([], None), 1, 0, True)
            return
        table, events = batch.table(entry.codec, entry.payload, limit_bytes=ENTRY_BYTES_MAX)
        again = [record for _, record in events if record.kind == RecordKind.RESENT]
        if not done:
            yield self._ordinary(entry, table, events, is_last=not again)
        for nth in range(max(done - 1, 0), len(again)):
            runs = runs_of(again[nth])
            cost = 1 + sum(len(run.times) for run in runs) + RESENT_COST * len(runs)
            is_last = nth + 1 == len(again)
            yield Part(entry, Content([], None, runs), cost, nth + 2, is_last)

    def _ordinary(
        self,
        entry: Entry,
        table: batch.Table,
        events: Sequence[tuple[int, batch.Record]],
        *,
        is_last: bool,
    ) -> Part:
        declared = [one for _, record in events if (one := read_declaration(record.body))]
        cost = 1 + DECLARATION_COST * len(declared) + SERIES_COST * len(table.series)
        cost += len(table.times) + sum(map(len, table.texts)) // CHARS_A_UNIT
        return Part(entry, Content(declared, table if table.series else None), cost, 1, is_last)

    def takes_light(self, entry: Entry, fresh: Fresh) -> bool:
        """Take readings of series that are in memory. See `Projector`."""
        if self._is_none_of_ours(entry):
            self._visible = Cursor(entry.position)
            return True
        one = fresh.edges.get(entry.edge)
        if one is None or self.is_full or self._live.watches(entry.edge) or not is_light(entry):
            return False
        table, records = batch.table(entry.codec, entry.payload, limit_bytes=LIGHT_BYTES)
        if one.table.missing(table) or any(_makes_rows(record) for _, record in records):
            return False
        if table.series:
            self._take(fresh, {}, [_Step(entry, one, [], table, None, (), {})])
        self._log_ns = max(self._log_ns, entry.stored_at_ns)
        self._visible = Cursor(entry.position)
        return True

    def _is_none_of_ours(self, entry: Entry) -> bool:
        """Whether an entry brings no readings, or those of one whose edge is stored further."""
        return entry.codec not in (Codec.ROWS, Codec.COLUMNS) or (
            entry.position <= self._stored.get(entry.edge, 0)
        )

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        """Enter and name series; points go into memory with the commit."""
        fresh = fresh_of(connection)
        loaded: dict[str, EdgeFresh] = {}
        entering: dict[str, dict[int, directory.Stored]] = {}
        totals = Totals()
        steps = []
        for part in parts:
            declared, table = part.content.declared, part.content.points
            runs = part.content.resent
            if not declared and table is None and not runs:
                continue
            edge = part.entry.edge
            one = fresh.edges.get(edge) or loaded.get(edge)
            if one is None:
                one = loaded[edge] = _load(connection, edge)
            known = entering.setdefault(edge, {})
            named = {series_id(name.entity, name.key): name for name in declared}
            wanted = [run.series for run in runs] if table is None else one.table.missing(table)
            entered = self._enter(connection, edge, one.table, entering, [*wanted, *named])
            if entered:
                totals.add(part.entry, series=len(entered))
            # Of more series than the edge may have, not even the names are looked up.
            mine = {
                series: name for series, name in named.items()
                if series in one.table or series in known
            }  # fmt: skip
            unnamed = [new.series for new in entered if new.series not in named]
            if unnamed:
                limit = 2 * self.limits.edge_max
                mine |= self._waiting.find(connection, edge, unnamed, limit)
            if mine and directory.declare(connection, edge, mine):
                self._names.forget()
            names = None
            if self._live.watches(edge):
                series = [run.series for run in runs] if table is None else table.series
                names = self._names.find(connection, edge, series)
            in_pages: Mapping[int, Known] = {}
            if runs:
                refs = directory.refs(connection, edge, [run.series for run in runs])
                in_pages = stored(connection, edge, runs, refs)
            steps.append(_Step(part.entry, one, entered, table, names, runs, in_pages))
        totals.store(connection)
        if parts:
            self._log_ns = max(self._log_ns, parts[-1].entry.stored_at_ns)
        if steps:
            after_commit(connection, lambda: self._take(fresh, loaded, steps))

    def _enter(
        self,
        connection: sa.Connection,
        edge: str,
        table: Memtable,
        entering: Mapping[str, dict[int, directory.Stored]],
        wanted: Sequence[int],
    ) -> list[directory.Stored]:
        """Enter those series that are new, as far as the edge and its tenant may have more."""
        known = entering[edge]
        new = [
            series for series in dict.fromkeys(wanted)
            if series not in table and series not in known
        ]  # fmt: skip
        if new:
            count = {name: len(some) for name, some in entering.items()}
            room = self.limits.room(edge, len(table), count)
            new = new[:room]
        if not new:
            return []
        entered = directory.enter(connection, edge, new)
        known |= {one.series: one for one in entered}
        return entered

    def _take(self, fresh: Fresh, loaded: Mapping[str, EdgeFresh], steps: Sequence[_Step]) -> None:
        try:
            for edge, one in loaded.items():
                fresh.enter(edge, one)
                self._schedule.note(edge, one)
            for step in steps:
                self._append(step)
        except BaseException as error:
            fresh.clear()
            raise FreshLost(str(error)) from error

    def _append(self, step: _Step) -> None:
        entry, fresh = step.entry, step.fresh
        self.limits.add(entry.edge, len(step.entered))
        for one in step.entered:
            fresh.table.add(one.series, one.ref, one.points, one.time_ns)
        points: batch.Table | Columns | None = step.points
        if step.resent:
            points = unknown(step.resent, step.known, fresh)
            count = self.resent.setdefault(entry.edge, Count())
            sent = sum(len(run.times) for run in step.resent)
            count.readings += sent
            count.known += sent - len(points.times)
        if points is not None:
            readings, refused, changed = fresh.table.append(
                points, entry.stored_at_ns + CLOCK_SLACK_NS
            )
            fresh.readings += readings
            fresh.refused += refused
            fresh.stored_at_ns, fresh.position = entry.stored_at_ns, entry.position
            if not fresh.since:
                fresh.since, fresh.since_ns = entry.position, entry.stored_at_ns
            if step.names is not None:
                self._updates += _updates(entry.edge, fresh.table, changed, step.names)
        self._schedule.note(entry.edge, fresh)

    def move(self, connection: sa.Connection, cursor: Cursor) -> None:
        """Make the log visible up to `cursor`; it is stored later."""

        def moved() -> None:
            self._visible = cursor

        after_commit(connection, moved)

    # -- writing out ---------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        return self._schedule.is_short

    def press(self, position: int) -> None:
        self._pressed = max(self._pressed, position)

    def wait_s(self) -> float:
        """Return after what time there is something to store, if the log stands still."""
        at_ns = self._schedule.next_at_ns()
        return float("inf") if at_ns is None else max(0.0, (at_ns - self._clock_ns()) / 1e9)

    def is_due(self, *, is_idle: bool) -> bool:
        """Return whether something is to be stored, by the time of the log or, idle, of now.

        Never while an entry is in memory in part: it would pass for a whole one.
        """
        if self._visible.part_of:
            return False
        if self._due(is_idle=is_idle) or self._schedule.idle():
            return True
        safe, stored = self._schedule.safe(self._visible.position), self._cursor.position
        return safe >= stored + IDLE_ENTRIES or stored < min(safe, self._pressed)

    def _due(self, *, is_idle: bool) -> list[str]:
        now_ns = max(self._log_ns, self._clock_ns() if is_idle else 0)
        return self._schedule.due(now_ns, self._pressed)

    def store(self, connection: sa.Connection, *, is_idle: bool) -> None:
        """Store what is due of some edges, and how far the log is stored then."""
        fresh = fresh_of(connection)
        due = {edge: fresh.edges[edge] for edge in self._due(is_idle=is_idle)}
        for edge, one in due.items():
            flush(connection, edge, one)
        cursor = Cursor(self._schedule.safe(self._visible.position, due))
        if cursor.position > self._cursor.position:
            move_cursor(connection, self.name, cursor)
        gone = self._schedule.idle()
        emptied = {edge: EdgeFresh(one.table.emptied()) for edge, one in due.items()}

        def stored() -> None:
            fresh.replace({**emptied, **dict.fromkeys(gone)})
            for edge, one in emptied.items():
                self._stored[edge] = due[edge].position
                self._schedule.note(edge, one)
            for edge in gone:
                self._schedule.forget(edge)
            self._cursor = max(self._cursor, cursor, key=lambda one: one.position)

        after_commit(connection, stored)

    def committed(self) -> None:
        self._live.publish(self._updates)
        self._updates = []

    def undone(self) -> None:
        self._names.forget()
        self._updates = []


def _makes_rows(record: batch.Record) -> bool:
    return record.kind == RecordKind.RESENT or read_declaration(record.body) is not None


def _load(connection: sa.Connection, edge: str) -> EdgeFresh:
    fresh = EdgeFresh(Memtable())
    for one in directory.load(connection, edge):
        fresh.table.add(one.series, one.ref, one.points, one.time_ns)
    return fresh


def _updates(
    edge: str, table: Memtable, changed: Sequence[int], names: Mapping[int, Declaration]
) -> Iterator[Update]:
    for series in changed:
        tail, name = table.tail(series), names.get(series)
        if tail is None or tail[1] is None or name is None:
            continue
        points, time_ns, _, value = tail
        yield Update(
            edge=edge, series=series, entity=name.entity, key=name.key, unit=name.unit,
            time_ns=time_ns, value=value, points=points,
        )  # fmt: skip
