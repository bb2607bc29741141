"""Appending points to series: history, latest reading, rollups."""

from collections.abc import Callable, Iterable, Mapping
from typing import Final, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from hubd.project.rollups import WIDTHS, aggregate, merge
from hubd.state import tables
from hubd.state.pieces import Piece, cut, load, to_bits, to_block, to_raw

# A series' raw points become blocks when there are so many: a block of 1024 is within a few
# percent of the best bytes per point, and a page reads at most so many raw pieces.
SEAL_POINTS: Final = 1024
# SQLite takes 32,766 parameters a statement; a few hundred are as quick as more.
REFS_A_QUERY: Final = 500


Packer: TypeAlias = Callable[[Piece], bytes]


class Tail(msgspec.Struct):
    """The end of a series: its row in `latest`."""

    ref: int
    points: int = 0
    sealed: int = 0
    time_ns: int = -(1 << 63)
    vtype: int = 0
    bits: int = 0
    text: str | None = None


class Tails:
    """Remembers the rows of `latest` that were needed."""

    def __init__(self) -> None:
        self._known: dict[int, Tail] = {}

    def forget(self) -> None:
        self._known.clear()

    def load(self, connection: sa.Connection, refs: Iterable[int]) -> dict[int, Tail]:
        refs = list(refs)
        missing = [ref for ref in refs if ref not in self._known]
        table = tables.latest
        for i in range(0, len(missing), REFS_A_QUERY):
            some = missing[i : i + REFS_A_QUERY]
            for row in connection.execute(sa.select(table).where(table.c.ref.in_(some))):
                self._known[row.ref] = Tail(*row)
        return {ref: self._known.setdefault(ref, Tail(ref)) for ref in refs}


class Block(msgspec.Struct, frozen=True):
    """A row of `history` to be."""

    ref: int
    n: int
    size: int
    t_min: int
    t_max: int
    vtype: int
    sealed: int
    data: bytes


def append(
    connection: sa.Connection,
    tails: Tails,
    arrived: Mapping[int, list[Piece]],
    ids: Mapping[int, int],
) -> None:
    """Append to each series its pieces in order; `ids` gives the series id of each ref."""
    blocks: list[Block] = []
    ends = tails.load(connection, arrived)
    for ref, pieces in arrived.items():
        blocks += _extend(connection, ends[ref], pieces, ids[ref])
        for piece in pieces:
            _note_newest(ends[ref], piece)
    connection.execute(tables.history.insert(), [msgspec.structs.asdict(b) for b in blocks])
    connection.execute(_SET_LATEST, [msgspec.structs.asdict(end) for end in ends.values()])
    for table, width_ns in WIDTHS:
        merge(
            connection,
            table,
            (
                bucket
                for ref, pieces in arrived.items()
                for piece in pieces
                for bucket in aggregate(ref, piece, width_ns)
            ),
        )


def _extend(connection: sa.Connection, end: Tail, pieces: list[Piece], series: int) -> list[Block]:
    """Move the end of the series behind `pieces`; return the rows to be inserted."""
    at = end.points
    end.points += sum(len(piece.times) for piece in pieces)
    if end.points - end.sealed < SEAL_POINTS:
        return _blocks(end.ref, at, pieces, 0, to_raw)
    if end.sealed < at:
        at, pieces = end.sealed, _take_head(connection, end) + pieces
    end.sealed = end.points
    return _blocks(end.ref, at, _joined(pieces), 1, lambda piece: to_block(series, piece))


def _take_head(connection: sa.Connection, end: Tail) -> list[Piece]:
    """Remove the raw pieces from the table and return their points."""
    table = tables.history
    is_head = (table.c.ref == end.ref) & (table.c.n >= end.sealed)
    rows = connection.execute(sa.select(table).where(is_head).order_by(table.c.n)).all()
    connection.execute(table.delete().where(is_head))
    return [load(row.vtype, row.size, row.sealed == 1, row.data) for row in rows]


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The same points in as few pieces as types and the size of a block allow."""
    joined: list[Piece] = []
    for piece in pieces:
        if joined and joined[-1].vtype == piece.vtype:
            joined[-1].join(piece)
        else:
            joined.append(Piece(piece.vtype, piece.times[:], piece.values[:]))
    return [part for piece in joined for part in cut(piece)]


def _blocks(ref: int, at: int, pieces: list[Piece], sealed: int, pack: Packer) -> list[Block]:
    blocks = []
    for piece in pieces:
        times = piece.times
        size = len(times)
        blocks.append(
            Block(ref, at, size, min(times), max(times), piece.vtype, sealed, pack(piece))
        )
        at += size
    return blocks


def _note_newest(end: Tail, piece: Piece) -> None:
    times = piece.times
    newest = max(times)
    if newest < end.time_ns:
        return
    at = len(times) - 1
    while times[at] != newest:
        at -= 1
    end.time_ns, end.vtype = newest, piece.vtype
    end.bits, end.text = to_bits(piece.vtype, piece.values[at])


def _upsert_latest() -> sa.Executable:
    statement = insert(tables.latest)
    changes = {name: statement.excluded[name] for name in Tail.__struct_fields__ if name != "ref"}
    return statement.on_conflict_do_update(index_elements=[tables.latest.c.ref], set_=changes)


_SET_LATEST: Final = _upsert_latest()
