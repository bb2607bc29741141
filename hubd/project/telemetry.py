"""The telemetry projector: every reading of the log into history, latest and rollups."""

from collections.abc import Sequence
from typing import Final

import sqlalchemy as sa

from edgesync._native import batch
from edgesync_transport.messages import Codec
from hubd.log.base import Entry
from hubd.project.append import Tails, append
from hubd.project.directory import Directory, Known, read_declaration
from hubd.project.live import Live, Update
from hubd.project.totals import Totals
from hubd.state.pieces import Piece, from_bits

UNPACKED_LIMIT_BYTES: Final = 64 << 20


class TelemetryProjector:
    name = "telemetry"

    def __init__(self, live: Live) -> None:
        self._live = live
        self._directory = Directory()
        self._tails = Tails()
        self._updates: list[Update] = []

    def apply(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        arrived: dict[int, list[Piece]] = {}
        touched: dict[int, Known] = {}
        totals = Totals()
        for entry in entries:
            if entry.codec not in (Codec.ROWS, Codec.COLUMNS):
                continue
            readings = 0
            for known, piece in self._unpack(connection, entry):
                touched[known.ref] = known
                _add(arrived.setdefault(known.ref, []), piece)
                readings += len(piece.times)
            totals.add(entry, readings=readings)
        if arrived:
            ids = {ref: known.series for ref, known in touched.items()}
            append(connection, self._tails, arrived, ids)
        totals.store(connection)
        self._updates = self._newest(connection, touched)

    def committed(self) -> None:
        self._live.publish(self._updates)
        self._updates = []

    def undone(self) -> None:
        self._directory.forget()
        self._tails.forget()
        self._updates = []

    def _unpack(self, connection: sa.Connection, entry: Entry) -> list[tuple[Known, Piece]]:
        """The pieces of one batch, in the order of its columns; raises RecordError."""
        columns, events = batch.columns(
            entry.codec, entry.payload, limit_bytes=UNPACKED_LIMIT_BYTES
        )
        for _, record in events:
            if declared := read_declaration(record.body):
                self._directory.declare(connection, entry.edge, declared)
        return [
            (
                self._directory.find(connection, entry.edge, column.series),
                Piece(column.vtype, column.times, column.values),
            )
            for column in columns
        ]

    def _newest(self, connection: sa.Connection, touched: dict[int, Known]) -> list[Update]:
        ends = self._tails.load(connection, touched)
        return [
            Update(
                edge=known.edge, series=known.series, entity=known.entity, key=known.key,
                unit=known.unit, time_ns=ends[ref].time_ns, points=ends[ref].points,
                value=from_bits(ends[ref].vtype, ends[ref].bits, ends[ref].text),
            )
            for ref, known in touched.items()
        ]  # fmt: skip


def _add(pieces: list[Piece], piece: Piece) -> None:
    """Append to the last piece if it is of the same type: fewer rows, the same order."""
    if pieces and pieces[-1].vtype == piece.vtype:
        pieces[-1].join(piece)
    else:
        pieces.append(piece)
