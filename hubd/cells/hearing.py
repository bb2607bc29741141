"""Carrying out what the records of edges hold: operations, and what an edge holds of keys.

In steps, between which others have their turn. Cut short after any of them, an entry may be begun
again: what is done is known by its number.

e | origin     the highest number of a record from that opening of a store: a copied disk tells
               again what its original has told, under another name perhaps
o | edge       operations of a record that is not the last of its group
l | edge       records of it are missing before its next operations
t | edge       how far what the edge holds has been told: see edgesync/cells/held.py
"""

from collections.abc import Callable, Iterator
from typing import Final, Protocol

import msgspec

from edgesync._native.batch import Record
from edgesync._native.cells import Entry, Op, decode_ops
from edgesync._native.edgekeys import NAMED_TO
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import is_in
from edgesync.cells.held import Opening, Piece, decode_piece
from edgesync.cells.parts import HELD, Tag, join, ops_of
from edgesync.cells.view import View
from edgesync.errors import RecordError, StoreError
from hubd.cells.conflicts import Conflicts
from hubd.cells.lineage import Lineage
from hubd.cells.replicas import Replica, Replicas
from hubd.log.base import Entry as LogEntry

# Carried out before other tasks get their turn.
OPS_A_TURN: Final = 256
RESTORED_A_TURN: Final = 64
DONE: Final = object()


class Keyspace(Protocol):
    """The name of the keys, and the position up to which they miss entries: see `Mark`."""

    @property
    def keyspace(self) -> bytes: ...
    @property
    def lacks(self) -> int: ...


class Retelling(msgspec.Struct, frozen=True, array_like=True):
    """Progress of an edge that tells all it holds."""

    token: int
    opening: Opening
    until: bytes


class Hearing:
    """See the module. `mark` returns the keyspace as it is now."""

    def __init__(
        self, rows: View, space: HubKeys, names: Replicas, lineage: Lineage, conflicts: Conflicts,
        mark: Callable[[], Keyspace],
    ) -> None:  # fmt: skip
        self._rows = rows
        self._space = space
        self._names = names
        self._lineage = lineage
        self._conflicts = conflicts
        self._mark = mark

    def miss(self, edge: str, incarnation: bytes) -> None:
        """Records of the edge are missing before its next operations."""
        self._rows.put(b"l" + edge.encode(), incarnation)

    def is_new(self, record: Record) -> bool:
        """Return whether a record comes for the first time; numbers of one origin come in order."""
        raw = self._rows.get(b"e" + record.origin.to_bytes(8, "big"))
        return raw is None or record.number > int.from_bytes(raw, "big")

    def _note_heard(self, record: Record) -> None:
        number = record.number.to_bytes(8, "big")
        self._rows.put(b"e" + record.origin.to_bytes(8, "big"), number)

    def hear(self, entry: LogEntry, record: Record) -> Iterator[None]:
        row, body = b"o" + entry.edge.encode(), record.body
        before = self._rows.get(row) or b""
        try:
            data, is_last = join(before, body)
        except RecordError:
            self._rows.delete(row)
            raise
        if not is_last:
            self._rows.put(row, data)
            self._note_heard(record)
            return
        try:
            if data.startswith(HELD):
                steps = self._restore(entry, decode_piece(data[len(HELD) :]))
            else:
                steps = self._hear_ops(entry, *ops_of(data))
            while self._step(steps, entry, record):
                yield
        except StoreError:
            raise
        except Exception:
            self._rows.delete(row)
            raise
        # Not before: cut short, the last record of a group needs those before it once more.
        if before:
            self._rows.delete(row)
        self._note_heard(record)

    def _step(self, steps: Iterator[None], entry: LogEntry, record: Record) -> bool:
        """Do a step, and list what has met in it; returns whether there may be another.

        Nothing of it waits for whoever comes next: a client who reads, at another time, or nobody.
        """
        # When it came, not when it is read: reading the log again leads to the same (I9).
        self._space.now_ms = entry.stored_at_ns // 1_000_000
        stood = self._space.seq
        try:
            is_over = next(steps, DONE) is DONE
        except StoreError:
            raise
        except Exception:
            if self._space.seq != stood:
                self._note_heard(record)  # what it did before that is never done twice
            self._conflicts.note(self._space.now_ms)
            raise
        self._conflicts.note(self._space.now_ms)
        return not is_over

    def _hear_ops(self, entry: LogEntry, tag: Tag, data: bytes) -> Iterator[None]:
        written_as, ops = decode_ops(data)
        gap = b"l" + entry.edge.encode()
        for at in range(0, len(ops), OPS_A_TURN):
            wanted = tag.replica or written_as
            one = self._names.name(entry.edge, entry.incarnation, wanted, entry)
            part = ops[at : at + OPS_A_TURN]
            if written_as == one.r:
                is_known = self._mark().keyspace.startswith(tag.keyspace)
                for op in part:
                    if one.has(op.n) is not True:
                        self._space.hear(one.r, op, is_known=is_known)
                self._lineage.note_opening(one.r, part[0].n, tag.opening)
                # Keys that were begun where the log begins have missed what came before.
                is_gapped = self._rows.get(gap) is not None or (self._mark().lacks > 0 == one.acked)
                after = self._logged(entry.edge).after(part, is_gapped=is_gapped)
                self._names.put(entry.edge, after)
                self._rows.delete(gap)
            else:
                for op in part:
                    self._hear_earlier(entry.edge, one, written_as, op, tag.opening)
            yield

    def _hear_earlier(self, edge: str, one: Replica, r: int, op: Op, opening: int) -> None:
        """Carry out an operation made under another name than the edge has now.

        It may have come under that name, and so may another one, from a store that this one is an
        earlier state or a copy of. What another edge is called says nothing here (I12).
        """
        is_named = self.knows(r, op.n) is True
        is_same = is_named and self._lineage.opening_of(r, op.n) == opening
        if is_same or one.has(op.n) is True:
            return
        is_free = not self._names.is_named(r)
        if is_named or not (is_free or self._names.edge_of(r) == edge) or not 0 < r < NAMED_TO:
            self._space.hear(one.r, op, is_known=False)
            self._lineage.note_opening(one.r, op.n, opening)
            self._names.put(edge, self._logged(edge).after([op], is_gapped=False))
            return
        self._space.hear(r, op, is_known=False)
        if is_free:
            self._names.note_name(r, edge)
        self._lineage.note_opening(r, op.n, opening)
        self._lineage.note(r, op.n)

    # -- what edges hold -----------------------------------------------------------------------

    def _restore(self, entry: LogEntry, piece: Piece) -> Iterator[None]:
        """Take a piece of what an edge holds, told because this hub had lost it, or may have."""
        row = b"t" + entry.edge.encode()
        raw = self._rows.get(row)
        retelling = msgspec.msgpack.decode(raw, type=Retelling) if raw else None
        if piece.opening is not None:
            retelling = Retelling(piece.token, piece.opening, b"")
        elif retelling is None or (piece.token, piece.after) != (retelling.token, retelling.until):
            raise RecordError("a piece of what an edge holds, without those before it")
        opening = retelling.opening
        self._names.name(entry.edge, entry.incarnation, opening.r, entry)
        entries = piece.entries
        for nth, one in enumerate(entries):
            seen = opening.seen if one.is_whole and opening.covers else {}
            self._space.restore(one, seen, self.knows)
            if nth % RESTORED_A_TURN == 0:
                yield
        if opening.covers:
            yield from self._remove_unlisted(piece, opening, {one.key for one in entries})
        if piece.until is not None:
            self._rows.put(
                row, msgspec.msgpack.encode(Retelling(piece.token, opening, piece.until))
            )
        else:
            self._rows.delete(row)
            self._told_all(entry.edge, piece.token, opening)

    def _remove_unlisted(
        self, piece: Piece, opening: Opening, listed: set[bytes]
    ) -> Iterator[None]:
        """Remove what the edge has seen and does not have any more."""
        if all(self.knows(r, n) for r, n in opening.seen.items()):
            return  # this hub has seen it, too
        after = piece.after
        while names := self._space.names(after, limit=RESTORED_A_TURN):
            for name in names:
                if piece.until is not None and name > piece.until:
                    return
                if name not in listed and is_in(name, opening.scope):
                    self._space.restore(Entry(name, 0, True, [], []), opening.seen, self.knows)
            after = names[-1]
            yield

    def _told_all(self, edge: str, token: int, opening: Opening) -> None:
        """Take over what an edge has seen, now that all it holds is here."""
        one = self._logged(edge)
        acked = max(one.acked, opening.sent)
        self._names.forget_confirmed(edge)
        self._names.put(
            edge, msgspec.structs.replace(one, acked=acked, holes=(), base=0, told=token)
        )
        if opening.scope or not opening.covers:
            return
        for r, n in opening.seen.items():
            self._lineage.note(r, n)
            other = self._names.edge_of(r)
            found = self._names.logged(other)
            if found is not None and found.r == r and found.r != one.r:
                holes = tuple((max(a, n + 1), b) for a, b in found.holes if b > n)
                changed = msgspec.structs.replace(found, acked=max(found.acked, n), holes=holes)
                self._names.put(other, changed)

    def _logged(self, edge: str) -> Replica:
        one = self._names.logged(edge)
        assert one is not None, "it was named just now"
        return one

    def knows(self, r: int, n: int) -> bool | None:
        """Return whether operation `n` of a replica has come; None for one that was passed over."""
        if r == self._lineage.r:
            return n <= self._space.n
        one = self._names.logged(self._names.edge_of(r))
        if one is not None and one.r == r and n <= one.acked:
            return one.has(n)
        return n <= self._lineage.seen(r)
