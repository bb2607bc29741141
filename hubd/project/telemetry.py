"""The telemetry projector: every reading of the log into history, latest and rollups."""

from collections.abc import Iterator, Sequence
from typing import Final

import msgspec
import sqlalchemy as sa

from edgesync._native import batch
from edgesync.model import ValueType, series_id
from edgesync_transport.messages import Codec
from hubd.log.base import ENTRY_BYTES_MAX, Entry
from hubd.project.append import Tail, Tails, append
from hubd.project.directory import SERIES_MAX, Declaration, Directory, Known, read_declaration
from hubd.project.feed import PART_WORK, Part
from hubd.project.live import Live, Update
from hubd.project.rollups import MINUTE_NS
from hubd.project.totals import Totals
from hubd.state.pieces import Piece, from_bits

# Points of a piece of one part.
SLICE_POINTS: Final = 16384
SLICE_CHARS: Final = 1 << 18
# Up to here an entry is one part, whatever its points are: looking at each piece would cost more.
SMALL_POINTS: Final = 2048
DECLARATIONS: Final = 1024
DECLARATION_COST: Final = 16
PIECE_COST: Final = 16
BUCKET_COST: Final = 4
CHARS_A_UNIT: Final = 16


class Content(msgspec.Struct, frozen=True):
    """What a part brings: series that are named, and points of series."""

    declared: list[Declaration]
    pieces: list[tuple[int, Piece]]


class TelemetryProjector:
    name = "telemetry"

    def __init__(self, live: Live, *, series_max: int = SERIES_MAX) -> None:
        self._live = live
        self._directory = Directory(series_max)
        self._tails = Tails()
        self._updates: list[Update] = []

    def blank(self) -> "TelemetryProjector":
        return TelemetryProjector(Live(), series_max=self._directory.series_max)

    def parts(self, entry: Entry, done: int) -> Iterator[Part]:
        """Yield declarations, then points by column; raises RecordError. See `Projector`."""
        if entry.codec not in (Codec.ROWS, Codec.COLUMNS):
            yield Part(entry, Content([], []), 1, 0, True)
            return
        columns, events = batch.columns(entry.codec, entry.payload, limit_bytes=ENTRY_BYTES_MAX)
        declared = [one for _, record in events if (one := read_declaration(record.body))]
        points = sum([len(column.times) for column in columns])
        total = len(declared) + points
        if not done and points <= SMALL_POINTS and _is_plain(declared, columns):
            pieces = [(one.series, Piece(one.vtype, one.times, one.values)) for one in columns]
            bound = PIECE_COST * len(pieces) + (1 + BUCKET_COST) * points
            bound += 1 + DECLARATION_COST * len(declared)
            yield Part(entry, Content(declared, pieces), bound, total, True)
            return
        content, cost, at = Content([], []), 1, done
        for some in _items(declared, columns, done):
            extra = DECLARATION_COST * len(some.declared) + sum(cost_of(p) for _, p in some.pieces)
            if cost > 1 and cost + extra > PART_WORK:
                yield Part(entry, content, cost, at, False)
                content, cost = Content([], []), 1
            content.declared.extend(some.declared)
            content.pieces.extend(some.pieces)
            at += len(some.declared) + sum(len(piece.times) for _, piece in some.pieces)
            cost += extra
        assert at == total, f"{at} of {total} items of entry {entry.position}"
        yield Part(entry, content, cost, total, True)

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        arrived: dict[int, list[Piece]] = {}
        touched: dict[int, Known] = {}
        totals = Totals()
        for edge, some in _by_edge(parts).items():
            found, entered = self._directory.find(connection, edge, _ids_of(some))
            totals.add(some[0].entry, series=entered)
            for part in some:
                self._directory.declare(connection, found, part.content.declared)
                readings = refused = 0
                for series, piece in part.content.pieces:
                    known = found.get(series)
                    if known is None:
                        refused += len(piece.times)
                        continue
                    touched[known.ref] = known
                    arrived.setdefault(known.ref, []).append(piece)
                    readings += len(piece.times)
                totals.add(part.entry, readings=readings, refused=refused)
        ends: dict[int, Tail] = {}
        if arrived:
            ids = {ref: known.series for ref, known in touched.items()}
            ends = append(connection, self._tails, arrived, ids)
        totals.store(connection)
        self._updates = [
            _update(known, ends[ref]) for ref, known in touched.items() if ends[ref].is_changed
        ]

    def committed(self) -> None:
        self._live.publish(self._updates)
        self._updates = []
        self._tails.trim()
        self._directory.trim()

    def undone(self) -> None:
        self._directory.forget()
        self._tails.forget()
        self._updates = []


def _is_plain(declared: Sequence[Declaration], columns: Sequence[batch.Column]) -> bool:
    return len(declared) <= DECLARATIONS and all(one.vtype != ValueType.TEXT for one in columns)


def cost_of(piece: Piece) -> int:
    """Return an upper bound of the work of a piece: points, and rows of aggregates."""
    points = len(piece.times)
    if isinstance(piece.values, list):
        return PIECE_COST + points + sum(map(len, piece.values)) // CHARS_A_UNIT
    minutes = (max(piece.times) - min(piece.times)) // MINUTE_NS + 1
    return PIECE_COST + points + BUCKET_COST * min(points, minutes)


def _items(
    declared: list[Declaration], columns: Sequence[batch.Column], done: int
) -> Iterator[Content]:
    """Yield what follows the first items of an entry, a little at a time."""
    for at in range(min(done, len(declared)), len(declared), DECLARATIONS):
        yield Content(declared[at : at + DECLARATIONS], [])
    done = max(0, done - len(declared))
    for column in columns:
        for piece in _slices(Piece(column.vtype, column.times, column.values), done):
            yield Content([], [(column.series, piece)])
        done = max(0, done - len(column.times))


def _slices(piece: Piece, done: int) -> Iterator[Piece]:
    """Yield what follows the first points in pieces of bounded size."""
    times, values = piece.times, piece.values
    at, points = done, len(times)
    if not at and points <= SLICE_POINTS and not isinstance(values, list):
        yield piece
        return
    while at < points:
        end = min(points, at + SLICE_POINTS)
        if isinstance(values, list):
            chars, end = 0, at
            while end < points and end - at < SLICE_POINTS and chars < SLICE_CHARS:
                chars += len(values[end])
                end += 1
        yield Piece(piece.vtype, times[at:end], values[at:end])
        at = end


def _by_edge(parts: Sequence[Part]) -> dict[str, list[Part]]:
    edges: dict[str, list[Part]] = {}
    for part in parts:
        edges.setdefault(part.entry.edge, []).append(part)
    return edges


def _ids_of(parts: Sequence[Part]) -> Iterator[int]:
    for part in parts:
        for declared in part.content.declared:
            yield series_id(declared.entity, declared.key)
        for series, _ in part.content.pieces:
            yield series


def _update(known: Known, end: Tail) -> Update:
    return Update(
        edge=known.edge, series=known.series, entity=known.entity, key=known.key, unit=known.unit,
        time_ns=end.time_ns, points=end.points, value=from_bits(end.vtype, end.bits, end.text),
    )  # fmt: skip
