"""The windows projector: what edges summed up themselves, the newest revision of each window."""

from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import sqlalchemy as sa

from edgesync._native import batch
from edgesync._native.window import unpack_windows
from edgesync.errors import RecordError
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec
from hubd.db.dialect import insert, insert_rows
from hubd.log.base import ENTRY_BYTES_MAX, Entry
from hubd.project.cursors import CommitsEach
from hubd.project.events import RECORD_COST, unreadable_row
from hubd.project.feed import PART_WORK, Part
from hubd.project.totals import Totals
from hubd.state import tables

# What an edge packs into a record, and some room.
BODY_BYTES_MAX: Final = 64 * 1024
WINDOW_COST: Final = 8
BYTES_A_UNIT: Final = 16


class Rows(msgspec.Struct, frozen=True):
    """What a part makes: rows of `windows`, and of `edge_events` for what cannot be read."""

    windows: list[dict[str, Any]]
    unreadable: list[dict[str, Any]]


class WindowsProjector(CommitsEach):
    name = "windows"

    def blank(self) -> "WindowsProjector":
        return WindowsProjector()

    def wants(self, records: Sequence[tuple[int, batch.Record]]) -> bool:
        return any(record.kind == RecordKind.WINDOWS for _, record in records)

    def parts(self, entry: Entry, done: int) -> Iterator[Part]:
        """Yield the windows by record; one that cannot be read is listed. See `Projector`."""
        rows, cost = Rows([], []), 1
        if entry.codec not in (Codec.ROWS, Codec.COLUMNS):
            yield Part(entry, rows, cost, 0, True)
            return
        records = batch.events(entry.codec, entry.payload, limit_bytes=ENTRY_BYTES_MAX)
        for nth in range(done, len(records)):
            if cost > PART_WORK:
                yield Part(entry, rows, cost, nth, False)
                rows, cost = Rows([], []), 1
            index, record = records[nth]
            if record.kind != RecordKind.WINDOWS:
                continue
            try:
                rows.windows.extend(made := _rows(entry.edge, record.body))
            except RecordError as error:
                rows.unreadable.append(unreadable_row(entry, index, record, str(error)))
                cost += RECORD_COST + len(record.body) // BYTES_A_UNIT
                continue
            cost += WINDOW_COST * len(made) + sum(len(row["data"]) for row in made) // BYTES_A_UNIT
        yield Part(entry, rows, cost, len(records), True)

    def apply(self, connection: sa.Connection, parts: Sequence[Part]) -> None:
        rows = [row for part in parts for row in part.content.windows]
        unreadable = [row for part in parts for row in part.content.unreadable]
        if rows:
            connection.execute(_UPSERT, rows)
        if unreadable:
            insert_rows(connection, tables.edge_events, unreadable)
            totals = Totals()
            for part in parts:
                totals.add(part.entry, events=len(part.content.unreadable))
            totals.store(connection)
        self.brought = bool(rows or unreadable)

    def committed(self) -> None:
        pass

    def undone(self) -> None:
        pass


def _rows(edge: str, body: bytes) -> list[dict[str, Any]]:
    if len(body) > BODY_BYTES_MAX:
        raise RecordError(f"windows of {len(body)} bytes; at most {BODY_BYTES_MAX}")
    width_ns, start_ns, revision, windows = unpack_windows(body)
    return [
        {
            "edge": edge, "series": tables.signed(series), "width_ns": width_ns,
            "start_ns": start_ns, "revision": revision, "data": window.encode(),
        }
        for series, window in windows
    ]  # fmt: skip


def _upsert() -> sa.Executable:
    """Put a window in place of one of a lower revision. Of the same one the later counts.

    An edge whose store was replaced counts its revisions anew.
    """
    statement = insert(tables.windows)
    old, new = tables.windows.c, statement.excluded
    return statement.on_conflict_do_update(
        index_elements=[old.edge, old.series, old.width_ns, old.start_ns],
        set_={"revision": new.revision, "data": new.data},
        where=new.revision >= old.revision,
    )


_UPSERT: Final = _upsert()
