"""The windows projector: what edges summed up themselves, the newest revision of each window."""

from collections.abc import Sequence
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from edgesync._native import batch
from edgesync._native.window import unpack_windows
from edgesync.model import RecordKind
from edgesync_transport.messages import Codec
from hubd.log.base import Entry
from hubd.state import tables

UNPACKED_LIMIT_BYTES: Final = 64 << 20


class WindowsProjector:
    name = "windows"

    def apply(self, connection: sa.Connection, entries: Sequence[Entry]) -> None:
        rows = [row for entry in entries for row in _rows(entry)]
        if rows:
            connection.execute(_UPSERT, rows)

    def committed(self) -> None:
        pass

    def undone(self) -> None:
        pass


def _rows(entry: Entry) -> list[dict[str, Any]]:
    """The windows of one batch, in order; raises RecordError."""
    if entry.codec not in (Codec.ROWS, Codec.COLUMNS):
        return []
    _, records = batch.columns(entry.codec, entry.payload, limit_bytes=UNPACKED_LIMIT_BYTES)
    rows = []
    for _, record in records:
        if record.kind != RecordKind.WINDOWS:
            continue
        width_ns, start_ns, revision, windows = unpack_windows(record.body)
        rows += [
            {
                "edge": entry.edge, "series": tables.signed(series), "width_ns": width_ns,
                "start_ns": start_ns, "revision": revision, "data": window.encode(),
            }
            for series, window in windows
        ]  # fmt: skip
    return rows


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
