"""The keys of the hub in a store of their own, projected from the log.

Each edge's operations are carried out in the order of its lane, with the cursor in the log in the
same transaction (I9); what the hub's own clients write goes into the same keys and is on disk
before it is answered. Numbers of the feed that were told to an edge never mean something else
later: they are told after the commit, and a log that was restored makes a new *keyspace*.

Besides the keys (native/hubkeys.pyx):

    p              the keyspace's id, the log's generation, the cursor in it, what was collected
    r | edge       the edge's replica: see Replica
    e | origin     the highest number of a record from that opening of a store: a copied disk tells
                   again what its original has told, under another name perhaps
    n | r u32 BE   the edge that replica is, or was
    o | edge       operations of a record that is not the last of its group
    l | edge       records of it are missing before its next operations
    t | edge       how far what the edge holds has been told: see edgesync/cells/held.py

Conflicts have rows of their own (conflicts.py), and what the hub knows of its past (lineage.py).
"""

import logging
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Final

import msgspec

from edgesync._native import batch
from edgesync._native.batch import Record
from edgesync._native.cells import Entry, Op, decode_ops, is_hub
from edgesync._native.edgekeys import NAMED_FROM, NAMED_TO
from edgesync._native.hubkeys import HubKeys
from edgesync._native.keyspace import is_in
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.cells import DATABASE, Reply
from edgesync.cells.conflicts import resolve
from edgesync.cells.held import Opening, Piece, decode_piece
from edgesync.cells.parts import HELD, Tag, join, ops_of
from edgesync.cells.scope import GRANT_MAX
from edgesync.errors import CommandError, RecordError, StoreError
from edgesync.model import RecordKind
from edgesync.store.cells import EXPIRED_A_TURN, CellStore
from edgesync.store.commit import GroupCommit, Tails
from edgesync_transport.messages import Codec, Lane, Pull
from hubd.cells.conflicts import Conflicts
from hubd.cells.lineage import Lineage
from hubd.log.base import ENTRY_BYTES_MAX
from hubd.log.base import Entry as LogEntry

log = logging.getLogger(__name__)

# Carried out before other tasks get their turn.
OPS_A_TURN: Final = 256
RESTORED_A_TURN: Final = 64
HOLES_MAX: Final = 1000
COLLECTED_A_TURN: Final = 256
PAGE_KEYS: Final = 500
PAGE_BYTES: Final = 256 * 1024
# Keys live this much longer here than at the edges: one that was given more time may say so late.
GRACE_MS: Final = 60_000
RULES_MAX: Final = 1000
MARK_ROW: Final = b"p"
# Entries of others that are passed by before the mark is stored: what a start reads once more.
PASSED_BY_MAX: Final = 10_000


class Mark(msgspec.Struct, frozen=True):
    """Where this keyspace stands; which start of the hub wrote so, as which replica, whose
    operations come after number `born`.

    lacks   of entries up to here some are not in these keys, for the log had dropped them
    """

    keyspace: bytes
    generation: bytes
    position: int = 0
    collected: int = 0
    start: int = 0
    r: int = 0
    born: int = 0
    lacks: int = 0


class Replica(msgspec.Struct, frozen=True):
    """What an edge is called, and what it has confirmed.

    acked     its operations up to this number are carried out
    base      it has all changes up to here
    seen_ms   when it last asked; wall clock, for giving up those that never come again
    holes     operations (first, last) up to `acked` that never came: their records were trimmed
    told      the state it told last that is carried out to its end
    """

    r: int
    incarnation: bytes
    acked: int = 0
    base: int = 0
    seen_ms: int = 0
    holes: tuple[tuple[int, int], ...] = ()
    told: int = 0

    def has(self, n: int) -> bool | None:
        """Whether operation `n` has come; None for one that was passed over."""
        if n > self.acked:
            return False
        return None if any(first <= n <= last for first, last in self.holes) else True

    def after(self, ops: Sequence[Op], *, is_gapped: bool) -> "Replica":
        """Return it with operations that have come, some of which may be missing before them."""
        holes = list(self.holes)
        if is_gapped and ops[0].n > self.acked + 1:
            holes.append((self.acked + 1, ops[0].n - 1))
        for op in ops if self.holes else ():
            holes = [
                part
                for first, last in holes
                for part in ((first, min(last, op.n - 1)), (max(first, op.n + 1), last))
                if part[0] <= part[1]
            ]
            holes = list(dict.fromkeys(holes))
        acked = max(self.acked, ops[-1].n)
        return msgspec.structs.replace(self, acked=acked, holes=tuple(holes[:HOLES_MAX]))

    @property
    def whole(self) -> int:
        """Up to which operation all have come."""
        return min([self.acked, *(first - 1 for first, _ in self.holes)])


class Answer(msgspec.Struct, frozen=True):
    """What a question leads to: the edge's name, and unless that is new to it, a page."""

    replica: int
    entries: list[Entry]
    position: int
    stable: int
    is_all: bool
    told: int = 0
    seen: tuple[int, ...] = ()


class Told(msgspec.Struct, frozen=True, array_like=True):
    """How far what an edge holds has been told."""

    token: int
    opening: Opening
    until: bytes


class Disk:
    """The store and its writer."""

    def __init__(self, path: Path, map_bytes_max: int) -> None:
        self.store = Store(
            str(path), databases=(DATABASE,), map_bytes=16 << 20, map_bytes_max=map_bytes_max
        )
        self.commit = GroupCommit(self.store)

    async def submit(self, write: Write) -> Tails:
        return await self.commit.submit(write)

    def submit_sync(self, write: Write) -> Tails:
        return self.commit.submit_sync(write)

    def close(self) -> None:
        self.commit.close()
        self.store.close()


def operations_of(entry: LogEntry) -> list[Record]:
    """Return the records of an entry that hold operations; raises RecordError."""
    records = batch.events(entry.codec, entry.payload, limit_bytes=ENTRY_BYTES_MAX)
    return [record for _, record in records if record.kind == RecordKind.CELLS]


class HubCells(CellStore):
    """See the module. One process, one object per directory; call from Trio's thread.

    generation, head, oldest   of the log whose operations are carried out here
    is_again                   there were keys before, that are not in `path` any more
    """

    space: HubKeys

    def __init__(
        self,
        path: Path,
        generation: bytes,
        head: int,
        *,
        map_bytes_max: int = 16 << 30,
        strategies: Iterable[tuple[bytes, int]] = (),
        value_max: int = 1 << 20,
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
        start: int = 0,
        oldest: int = 1,
        is_again: bool = False,
    ) -> None:
        self._own = Disk(path, map_bytes_max)
        rows = Overlay(self._own.store, DATABASE)
        space = HubKeys(rows, strategies=strategies)
        super().__init__(
            self._own, rows, space, value_max=value_max, random=random, wall_ns=wall_ns
        )
        self._replicas: dict[str, Replica] = {}
        self._names: dict[int, str] = {}
        self._heard: dict[str, tuple[bytes, int]] = {}
        self.position = 0  # in the log: what is up to here is carried out, or no business of these
        self.stored_position = self._frozen_position = 0  # … and on disk
        self._heard_of_late: set[str] = set()
        self.namings = 0  # how often an edge's name, or the keyspace's, became void
        self.skipped = 0
        self.conflicts = Conflicts(rows, space, self.edge_of)
        self.lineage = Lineage(rows, space, start or secrets.randbits(63) | 1)
        try:
            self._load()
            self._begin()
            self._belong(generation, head, oldest, is_again=is_again)
            self.commit()
            self.stored_position = self.mark.position
        except BaseException:
            self._own.close()  # or nobody could open these files again, on a disk that has room
            raise

    def _load(self) -> None:
        raw = self.rows.get(MARK_ROW)
        none = Mark(keyspace=secrets.token_bytes(16), generation=b"")
        self.mark = msgspec.msgpack.decode(raw, type=Mark) if raw else none
        self._replicas = {
            row[1:].decode(): msgspec.msgpack.decode(value, type=Replica)
            for row, value in self.space.walk(b"r", b"s")
        }
        self._names = {
            int.from_bytes(row[1:], "big"): name.decode()
            for row, name in self.space.walk(b"n", b"o")
        }
        self.conflicts.load()
        self.lineage.load()

    def _begin(self) -> None:
        """Begin another start: with a name of its own, and whatever is lost of the one before."""
        if self.space.n > self.mark.born:
            self.lineage.note(self.mark.r, self.space.n)
        for one in self._replicas.values():
            self.lineage.note(one.r, one.whole)
        if self.mark.start:
            self.lineage.end(self.mark.start)
        self._set_mark(start=self.lineage.start, r=self.lineage.r, born=self.space.n)

    def _belong(self, generation: bytes, head: int, oldest: int, *, is_again: bool) -> None:
        """Follow this log. After a restore what edges know of us means nothing any more.

        Nor does it where the log goes on beyond what was read of it.
        """
        mark = self.mark
        is_ours = mark.generation == generation and mark.position <= head
        is_behind = mark.position + 1 < oldest
        if mark.generation and (not is_ours or is_behind):
            self._renew()
        if is_behind and (mark.generation or is_again):
            log.error(
                "keys: the log begins at %d and they had come to %d: edges tell again what they "
                "hold", oldest, mark.position,
            )  # fmt: skip
            self._set_mark(lacks=oldest - 1)
            for edge, one in self._replicas.items():
                self.rows.put(b"l" + edge.encode(), one.incarnation)
        if not is_ours:
            self._set_mark(generation=generation, position=min(mark.position, head))
        self.position = self.mark.position

    def _renew(self) -> None:
        """Begin another keyspace: edges tell all they have, and are waited for until they did."""
        self._set_mark(keyspace=secrets.token_bytes(16), collected=0)
        self.namings += 1
        now_ms = self.now_ms()
        for edge, one in list(self._replicas.items()):
            self._put_replica(edge, msgspec.structs.replace(one, base=0, told=0, seen_ms=now_ms))
            self.rows.delete(b"o" + edge.encode())
            self.rows.delete(b"t" + edge.encode())

    def _set_mark(self, **changes: bytes | int) -> None:
        self.mark = msgspec.structs.replace(self.mark, **changes)
        self.rows.put(MARK_ROW, msgspec.msgpack.encode(self.mark))

    def copy(self, path: str) -> None:
        """Write a consistent copy of the keys' store into the folder `path`; thread-safe."""
        self._own.store.copy(path)

    def close(self) -> None:
        """Store what has changed, and close."""
        try:
            self.save_position()
            self.commit()
        finally:
            self._own.close()

    @property
    def used_bytes(self) -> int:
        return self._own.store.used_bytes

    def _refused(self, error: StoreError) -> None:
        super()._refused(error)
        self._load()
        self.position = self.mark.position

    def run(self, request: list[bytes]) -> Reply:
        reply = super().run(request)
        self.conflicts.note(self.space.now_ms)
        return reply

    def resolve(self, number: int, choice: Sequence[bytes]) -> None:
        """Resolve a conflict: WINNER, DOT r n or VALUE v; raises CommandError."""
        one = self.conflicts.get(number)
        if one is None:
            raise CommandError(f"ERR there is no conflict {number}")
        self.space.now_ms = self.now_ms()
        try:
            resolve(self.space, one, choice, value_max=self.call.value_max)
        except ReplyError as error:
            raise CommandError(str(error)) from error
        self.conflicts.note(self.space.now_ms)
        self.note_changes()

    # -- replicas ----------------------------------------------------------------------------

    def replicas(self) -> dict[str, Replica]:
        """Return the edges that have a name, by their own."""
        return dict(self._replicas)

    def replica_of(self, edge: str, incarnation: bytes, wanted: int = 0) -> Replica:
        """Return what the edge is called in this life of its store: a new name for a new one.

        wanted   as which it has written, before it came here
        """
        found = self._replicas.get(edge)
        if found is not None and found.incarnation == incarnation:
            return found
        r = wanted
        while not 0 < r < NAMED_TO or r in self._names:
            r = NAMED_FROM + secrets.randbelow(NAMED_TO - NAMED_FROM)
        acked = self.lineage.seen(r)
        found = Replica(r, incarnation, acked=acked, seen_ms=self.now_ms())
        self._name(found.r, edge)
        self._put_replica(edge, found)
        return found

    def _name(self, r: int, edge: str) -> None:
        self._names[r] = edge
        self.rows.put(b"n" + r.to_bytes(4, "big"), edge.encode())

    def edge_of(self, r: int) -> str:
        """Return which edge a replica is or was; `hub` for the hub's own clients."""
        return "hub" if is_hub(r) else self._names.get(r, "")

    def give_up(self, edge: str) -> None:
        """Wait for this edge no longer; should it come back, it begins anew under another name."""
        if self._replicas.pop(edge, None) is not None:
            self.namings += 1
            self.rows.delete(b"r" + edge.encode())
            for row in (b"o", b"l", b"t"):
                self.rows.delete(row + edge.encode())
            self.note_changes()

    def give_up_unseen(self, since_ms: int) -> list[str]:
        """Give up edges that have not asked since; returns their names."""
        gone = [edge for edge, one in self._replicas.items() if one.seen_ms < since_ms]
        for edge in gone:
            self.give_up(edge)
        return gone

    def _put_replica(self, edge: str, one: Replica) -> None:
        self._replicas[edge] = one
        self.lineage.note(one.r, one.whole)
        self.rows.put(b"r" + edge.encode(), msgspec.msgpack.encode(one))
        self.note_changes()

    # -- from the log ------------------------------------------------------------------------

    def project(self, entry: LogEntry, records: Sequence[Record] | None = None) -> Iterator[None]:
        """Carry out the operations of an entry of the log, in steps; raises RecordError.

        `records` are what `operations_of` returns, if it has been asked already. One of them that
        cannot be carried out is skipped, counted and logged.

        Cut short after any of them, it may be begun again: what is done is known by its number.
        """
        if entry.position <= self.mark.position:
            return
        has_ops = False
        if entry.lane is Lane.NORMAL and entry.codec is Codec.GAP:
            self.rows.put(b"l" + entry.edge.encode(), entry.incarnation)
        if entry.lane is Lane.NORMAL and entry.codec in (Codec.ROWS, Codec.COLUMNS):
            for record in operations_of(entry) if records is None else records:
                if self._is_new(record):
                    yield from self._hear_alone(entry, record)
                    has_ops = True
        if has_ops:
            self._heard[entry.edge] = (entry.incarnation, entry.last)
            self._heard_of_late.add(entry.edge)
        self.pass_over(entry.position)

    def heard_of(self, edge: str, incarnation: bytes) -> int:
        """Return the seq up to which the edge's operations have been carried out of late, or 0."""
        life, seq = self._heard.get(edge, (b"", 0))
        return seq if life == incarnation else 0

    def take_heard(self) -> set[str]:
        """Return the edges whose operations were carried out since this was asked last."""
        taken, self._heard_of_late = self._heard_of_late, set()
        return taken

    def changed_since(self, seq: int, limit: int) -> list[bytes] | None:
        """Return the keys that changed after `seq`; None if those are more than `limit`."""
        rows = self.rows.scan(b"f" + (seq + 1).to_bytes(8, "big"), b"g", limit=limit + 1)
        return None if len(rows) > limit else [name for _, name in rows]

    def pass_over(self, position: int) -> None:
        """Go on behind the entry at `position`.

        Its place is stored with what it has changed (I9). Where it changed nothing, as readings do,
        that can wait: it costs a commit, and after a crash the entry is passed over again.
        """
        self.position = position
        if self.rows.is_changed or self.position - self.mark.position >= PASSED_BY_MAX:
            self.save_position()

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        self._frozen_position = self.mark.position
        return super()._freeze(layers)

    def _stored(self, tails: Tails) -> None:
        self.stored_position = self._frozen_position
        super()._stored(tails)

    def save_position(self) -> None:
        """Let the place in the log be committed."""
        if self.position > self.mark.position:
            self._set_mark(position=self.position)
        self.note_changes()

    def _hear_alone(self, entry: LogEntry, record: Record) -> Iterator[None]:
        try:
            yield from self._hear(entry, record)
        except StoreError:
            raise
        except Exception as error:  # What one record holds may stop no other: I8.
            self.skipped += 1
            log.error(
                "keys: skipped a record of entry %d (%s): %s", entry.position, entry.edge, error
            )

    def _is_new(self, record: Record) -> bool:
        """Whether it comes for the first time; numbers of one origin come in order."""
        raw = self.rows.get(b"e" + record.origin.to_bytes(8, "big"))
        return raw is None or record.number > int.from_bytes(raw, "big")

    def _note_heard(self, record: Record) -> None:
        number = record.number.to_bytes(8, "big")
        self.rows.put(b"e" + record.origin.to_bytes(8, "big"), number)

    def _hear(self, entry: LogEntry, record: Record) -> Iterator[None]:
        row, body = b"o" + entry.edge.encode(), record.body
        before = self.rows.get(row) or b""
        try:
            data, is_last = join(before, body)
        except RecordError:
            self.rows.delete(row)
            raise
        if not is_last:
            self.rows.put(row, data)
            self._note_heard(record)
            return
        if before:
            self.rows.delete(row)
        # When it came, not when it is read: reading the log again must lead to the same (I9).
        self.space.now_ms = entry.stored_at_ns // 1_000_000
        if data.startswith(HELD):
            yield from self._restore(entry, decode_piece(data[len(HELD) :]))
        else:
            yield from self._hear_ops(entry, *ops_of(data))
        self._note_heard(record)

    def _hear_ops(self, entry: LogEntry, tag: Tag, data: bytes) -> Iterator[None]:
        written_as, ops = decode_ops(data)
        gap = b"l" + entry.edge.encode()
        for at in range(0, len(ops), OPS_A_TURN):
            one = self.replica_of(entry.edge, entry.incarnation, tag.replica or written_as)
            part = ops[at : at + OPS_A_TURN]
            if written_as == one.r:
                is_known = self.mark.keyspace.startswith(tag.keyspace)
                for op in part:
                    if one.has(op.n) is not True:
                        self.space.hear(one.r, op, is_known=is_known)
                self.lineage.note_opening(one.r, part[0].n, tag.opening)
                # Keys that were begun where the log begins have missed what came before.
                is_gapped = self.rows.get(gap) is not None or (self.mark.lacks > 0 == one.acked)
                self._put_replica(entry.edge, one.after(part, is_gapped=is_gapped))
                self.rows.delete(gap)
            else:
                for op in part:
                    self._hear_earlier(entry.edge, one, written_as, op, tag.opening)
            self.conflicts.note(self.space.now_ms)
            yield

    def _hear_earlier(self, edge: str, one: Replica, r: int, op: Op, opening: int) -> None:
        """Carry out an operation made under another name than the edge has now.

        It may have come under that name, and so may another one, from a store that this one is an
        earlier state or a copy of. What another edge is called says nothing here (I12).
        """
        is_named = self.knows(r, op.n) is True
        is_same = is_named and self.lineage.opening_of(r, op.n) == opening
        if is_same or one.has(op.n) is True:
            return
        if is_named or self._names.get(r, edge) != edge or not 0 < r < NAMED_TO:
            self.space.hear(one.r, op, is_known=False)
            self.lineage.note_opening(one.r, op.n, opening)
            self._put_replica(edge, self._replicas[edge].after([op], is_gapped=False))
            return
        self.space.hear(r, op, is_known=False)
        if r not in self._names:
            self._name(r, edge)
        self.lineage.note_opening(r, op.n, opening)
        self.lineage.note(r, op.n)

    # -- what edges hold -----------------------------------------------------------------------

    def _restore(self, entry: LogEntry, piece: Piece) -> Iterator[None]:
        """Take a piece of what an edge holds, told because this hub had lost it, or may have."""
        row = b"t" + entry.edge.encode()
        raw = self.rows.get(row)
        told = msgspec.msgpack.decode(raw, type=Told) if raw else None
        if piece.opening is not None:
            told = Told(piece.token, piece.opening, b"")
        elif told is None or (piece.token, piece.after) != (told.token, told.until):
            raise RecordError("a piece of what an edge holds, without those before it")
        opening = told.opening
        self.replica_of(entry.edge, entry.incarnation, opening.r)
        entries = piece.entries
        for nth, one in enumerate(entries):
            seen = opening.seen if one.is_whole and opening.covers else {}
            self.space.restore(one, seen, self.knows)
            if nth % RESTORED_A_TURN == 0:
                yield
        if opening.covers:
            yield from self._remove_unlisted(piece, opening, {one.key for one in entries})
        self.conflicts.note(self.space.now_ms)
        if piece.until is not None:
            self.rows.put(row, msgspec.msgpack.encode(Told(piece.token, opening, piece.until)))
        else:
            self.rows.delete(row)
            self._told_all(entry.edge, piece.token, opening)
        self.note_changes()

    def _remove_unlisted(
        self, piece: Piece, opening: Opening, listed: set[bytes]
    ) -> Iterator[None]:
        """Remove what the edge has seen and does not have any more."""
        if all(self.knows(r, n) for r, n in opening.seen.items()):
            return  # this hub has seen it, too
        after = piece.after
        while names := self.space.names(after, limit=RESTORED_A_TURN):
            for name in names:
                if piece.until is not None and name > piece.until:
                    return
                if name not in listed and is_in(name, opening.scope):
                    self.space.restore(Entry(name, 0, True, [], []), opening.seen, self.knows)
            after = names[-1]
            yield

    def _told_all(self, edge: str, token: int, opening: Opening) -> None:
        """What an edge has seen has been seen here, too, now that all it has is here."""
        one = self._replicas[edge]
        acked = max(one.acked, opening.sent)
        self._put_replica(
            edge, msgspec.structs.replace(one, acked=acked, holes=(), base=0, told=token)
        )
        if opening.scope or not opening.covers:
            return
        for r, n in opening.seen.items():
            self.lineage.note(r, n)
            other = self._names.get(r, "")
            found = self._replicas.get(other)
            if found is not None and found.r == r and found.r != one.r:
                holes = tuple((max(a, n + 1), b) for a, b in found.holes if b > n)
                changed = msgspec.structs.replace(found, acked=max(found.acked, n), holes=holes)
                self._put_replica(other, changed)

    def knows(self, r: int, n: int) -> bool | None:
        """Whether operation `n` of a replica has come; None for one that was passed over."""
        if r == self.lineage.r:
            return n <= self.space.n
        one = self._replicas.get(self._names.get(r, ""))
        if one is not None and one.r == r and n <= one.acked:
            return one.has(n)
        return n <= self.lineage.seen(r)

    # -- to the edges ------------------------------------------------------------------------

    def answer(self, edge: str, incarnation: bytes, pull: Pull, applied: int) -> Answer:
        """Note what the edge confirms, and return what it asks for; on disk later (I1).

        applied   seq of its `normal` lane up to which its operations are carried out here
        """
        is_ours = pull.keyspace == self.mark.keyspace
        if is_ours and pull.base and not self.lineage.has_told(pull.start, pull.base):
            log.error(
                "keys: %s knows of changes that this hub does not: it was put back to an older "
                "state, or another hub has its identity; edges tell all they have", edge,
            )  # fmt: skip
            self._renew()
        one = self.replica_of(edge, incarnation, pull.replica)
        if pull.replica == one.r and pull.keyspace == self.mark.keyspace and pull.base < one.base:
            # It knew more before: its disk was put back to an older state.
            self.give_up(edge)
            one = self.replica_of(edge, incarnation)
        if pull.replica != one.r or pull.keyspace != self.mark.keyspace:
            return Answer(one.r, [], 0, 0, is_all=False)
        base = pull.base if applied >= pull.made else one.base
        now_ms = self.now_ms()
        if base != one.base or now_ms - one.seen_ms > GRACE_MS:
            self._put_replica(edge, msgspec.structs.replace(one, base=base, seen_ms=now_ms))
        entries, position, is_all = self.space.page(
            pull.base, pull.after, PAGE_KEYS, PAGE_BYTES, scope_of(pull)
        )
        entries += self.space.whole(pull.wants, PAGE_BYTES)
        seen = self.lineage.seen_since(pull.base) if is_all else []
        return Answer(
            one.r, entries, position, self.mark.collected, is_all,
            told=one.told, seen=tuple(number for pair in seen for number in pair),
        )  # fmt: skip

    def stands(self) -> tuple[int, int]:
        """Return two numbers that are others when the keys of any edge may be."""
        return self.space.seq, self.mark.collected

    # -- care --------------------------------------------------------------------------------

    def stable(self) -> int:
        """Return the number up to which every edge has confirmed to know all changes."""
        return min((one.base for one in self._replicas.values()), default=self.space.seq)

    def collect(self) -> bool:
        """Forget some of what no edge needs any more; whether there is more to forget."""
        stable = self.stable()
        if stable <= self.mark.collected:
            return False
        reached = self.space.collect(self.mark.collected, stable, COLLECTED_A_TURN)
        self._set_mark(collected=reached)
        self.note_changes()
        return reached < stable

    def _expire_some(self) -> int:
        """Only the hub removes what is past its time: it alone knows who gave it more."""
        self.space.now_ms = self.now_ms() - GRACE_MS
        gone = self.space.expired(EXPIRED_A_TURN)
        self.space.now_ms += GRACE_MS
        for key in gone:
            self.space.delete(key)
        self.conflicts.note(self.now_ms())
        return len(gone)


def scope_of(pull: Pull) -> list[tuple[bytes, bool]]:
    """Return which keys the edge wants; raises RecordError."""
    if not pull.payload:
        return []
    try:
        found = msgspec.msgpack.decode(pull.payload, type=list[tuple[bytes, bool]])
    except msgspec.DecodeError as error:
        raise RecordError(f"which keys are wanted cannot be read: {error}") from error
    if len(found) > RULES_MAX + GRANT_MAX + 1:  # narrowed, a wish has some more
        raise RecordError(f"{len(found)} prefixes of wanted keys; at most {RULES_MAX}")
    return found
