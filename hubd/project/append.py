"""Appending points to series: history, latest reading, rollups."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final, TypeAlias

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert

from hubd.project.rollups import WIDTHS, aggregate, merge
from hubd.state import StateDamaged, tables
from hubd.state.pieces import Piece, cut, load, to_bits, to_block, to_raw

# A series' raw points become blocks when there are so many: a block of 1024 is within a few
# percent of the best bytes per point, and a page reads at most so many raw pieces.
SEAL_POINTS: Final = 1024
# SQLite takes 32,766 parameters a statement; a few hundred are as quick as more.
REFS_A_QUERY: Final = 500
# Ends of series kept in memory, some 150 bytes each.
CACHED_MAX: Final = 100_000
# Rows of `history` held back for one statement.
FLUSH_BYTES: Final = 4 << 20
# Texts of one arrival that stay raw; what is longer is sealed at once, with what is before it.
RAW_CHARS_MAX: Final = 16 * 1024


Packer: TypeAlias = Callable[[Piece], bytes]


class Tail(msgspec.Struct):
    """The end of a series: its row in `latest`.

    text         of a reading that came in this transaction; a stored one stays where it is
    is_changed   the newest reading came in this transaction
    """

    ref: int
    points: int = 0
    sealed: int = 0
    time_ns: int = -(1 << 63)
    vtype: int = 0
    bits: int = 0
    text: str | None = None
    is_changed: bool = False


class Tails:
    """Remembers rows of `latest`, without their texts: one alone may have 64 KiB."""

    def __init__(self) -> None:
        self._known: dict[int, Tail] = {}

    def forget(self) -> None:
        self._known.clear()

    def trim(self) -> None:
        """Keep memory bounded; call it between transactions."""
        while len(self._known) > CACHED_MAX:
            del self._known[next(iter(self._known))]

    def load(self, connection: sa.Connection, refs: Iterable[int]) -> dict[int, Tail]:
        """Return the ends of series, none of them changed yet; new ones are empty."""
        table = tables.latest.c
        found = {ref: self._known.pop(ref, None) for ref in refs}
        missing = [ref for ref, end in found.items() if end is None]
        columns = (table.ref, table.points, table.sealed, table.time_ns, table.vtype, table.bits)
        for i in range(0, len(missing), REFS_A_QUERY):
            some = missing[i : i + REFS_A_QUERY]
            for row in connection.execute(sa.select(*columns).where(table.ref.in_(some))):
                found[row.ref] = Tail(*row)
        ends = {ref: end or Tail(ref) for ref, end in found.items()}
        for end in ends.values():
            end.text, end.is_changed = None, False
        self._known |= ends
        return ends


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
) -> dict[int, Tail]:
    """Append to each series its pieces in order, and return the ends of these series.

    `ids` gives the series id of each ref.
    """
    ends = tails.load(connection, arrived)
    joined = {ref: _joined(pieces) for ref, pieces in arrived.items()}
    blocks: list[Block] = []
    nbytes = 0
    for ref, pieces in joined.items():
        for block in _extend(connection, ends[ref], pieces, ids[ref]):
            blocks.append(block)
            nbytes += len(block.data)
            if nbytes > FLUSH_BYTES:
                _insert(connection, blocks)
                blocks, nbytes = [], 0
        for piece in pieces:
            _note_newest(ends[ref], piece)
    _insert(connection, blocks)
    _store_ends(connection, ends.values())
    for table, width_ns in WIDTHS:
        merge(
            connection,
            table,
            (
                bucket
                for ref, pieces in joined.items()
                for piece in pieces
                for bucket in aggregate(ref, piece, width_ns)
            ),
        )
    return ends


def _insert(connection: sa.Connection, blocks: list[Block]) -> None:
    if blocks:
        connection.execute(tables.history.insert(), [msgspec.structs.asdict(b) for b in blocks])


def _store_ends(connection: sa.Connection, ends: Iterable[Tail]) -> None:
    changed, longer = [], []
    for end in ends:
        row = msgspec.structs.asdict(end)
        if row.pop("is_changed"):
            changed.append(row)
        else:
            longer.append({"its_ref": end.ref, "points": end.points, "sealed": end.sealed})
    if changed:
        connection.execute(_SET_LATEST, changed)
    if longer:
        connection.execute(_SET_LENGTH, longer)


def _extend(
    connection: sa.Connection, end: Tail, pieces: list[Piece], series: int
) -> Iterator[Block]:
    """Move the end of the series behind `pieces`; yield the rows to be inserted."""
    at = end.points
    end.points += sum(len(piece.times) for piece in pieces)
    if end.points - end.sealed < SEAL_POINTS and not any(map(_is_large, pieces)):
        yield from _blocks(end.ref, at, pieces, 0, to_raw)
        return
    if end.sealed < at:
        at, pieces = end.sealed, _joined(_take_head(connection, end, at) + pieces)
    end.sealed = end.points
    cuts = [part for piece in pieces for part in cut(piece)]
    yield from _blocks(end.ref, at, cuts, 1, lambda piece: to_block(series, piece))


def _is_large(piece: Piece) -> bool:
    """Whether texts are so long that raw pieces of a series would not fit into memory together."""
    return isinstance(piece.values, list) and sum(map(len, piece.values)) > RAW_CHARS_MAX


def _take_head(connection: sa.Connection, end: Tail, at: int) -> list[Piece]:
    """Remove the raw pieces before `at` from the table and return their points."""
    table = tables.history
    is_head = (table.c.ref == end.ref) & (table.c.n >= end.sealed)
    rows = connection.execute(sa.select(table).where(is_head).order_by(table.c.n)).all()
    connection.execute(table.delete().where(is_head))
    pieces = [load(row.vtype, row.size, row.sealed == 1, row.data) for row in rows]
    if sum(len(piece.times) for piece in pieces) != at - end.sealed:
        raise StateDamaged(f"the raw pieces of series {end.ref} do not join")
    return pieces


def _joined(pieces: list[Piece]) -> list[Piece]:
    """The same points in as few pieces as types allow; what is given stays as it is."""
    joined: list[Piece] = []
    is_own = False
    for piece in pieces:
        if not joined or joined[-1].vtype != piece.vtype:
            joined.append(piece)
            is_own = False
            continue
        if not is_own:
            last = joined[-1]
            joined[-1] = Piece(last.vtype, last.times[:], last.values[:])
            is_own = True
        joined[-1].join(piece)
    return joined


def _blocks(
    ref: int, at: int, pieces: Iterable[Piece], sealed: int, pack: Packer
) -> Iterator[Block]:
    for piece in pieces:
        times = piece.times
        size = len(times)
        yield Block(ref, at, size, min(times), max(times), piece.vtype, sealed, pack(piece))
        at += size


def _note_newest(end: Tail, piece: Piece) -> None:
    times = piece.times
    newest = max(times)
    if newest < end.time_ns:
        return
    at = len(times) - 1
    while times[at] != newest:
        at -= 1
    end.time_ns, end.vtype, end.is_changed = newest, piece.vtype, True
    end.bits, end.text = to_bits(piece.vtype, piece.values[at])


def _upsert_latest() -> sa.Executable:
    statement = insert(tables.latest)
    names = [column.name for column in tables.latest.columns if column.name != "ref"]
    changes = {name: statement.excluded[name] for name in names}
    return statement.on_conflict_do_update(index_elements=[tables.latest.c.ref], set_=changes)


def _update_length() -> sa.Executable:
    table = tables.latest
    return (
        table.update()
        .where(table.c.ref == sa.bindparam("its_ref"))
        .values(points=sa.bindparam("points"), sealed=sa.bindparam("sealed"))
    )


_SET_LATEST: Final = _upsert_latest()
_SET_LENGTH: Final = _update_length()
