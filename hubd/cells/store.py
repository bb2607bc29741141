"""The keys of the hub in a store of their own: a function of the log.

Operations of edges, and what the hub proposes itself (proposals.py), are carried out in the order
of the log, with the cursor in it in the same transaction (I9). Clocks, chance and settings come
from the log as well: whoever reads it reaches the same bytes. Numbers of the feed that were told to
an edge never mean something else later: a log that was restored makes a new *keyspace*, and so do
keys that are made again by other rules than they were made by (PROJECTION_VERSION).

Besides the keys (native/hubkeys.pyx) the cursor in the log and the settings that count (mark.py),
names of edges (replicas.py), what was heard of them (hearing.py), conflicts (conflicts.py) and the
hub's past (lineage.py) have rows of their own.
"""

import hashlib
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any, Final

import msgspec

from edgesync._native import batch
from edgesync._native.batch import Record
from edgesync._native.cells import Entry
from edgesync._native.hubkeys import HubKeys
from edgesync._native.overlay import Overlay
from edgesync._native.resp import ReplyError
from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.cells import DATABASE, Reply
from edgesync.cells.conflicts import resolve
from edgesync.cells.guard import Savepoint
from edgesync.cells.scope import GRANT_MAX
from edgesync.entities.keys import ROOMS
from edgesync.entities.view import SpaceView
from edgesync.errors import CommandError, RecordError, StoreError
from edgesync.model import RecordKind
from edgesync.store.cells import EXPIRED_A_TURN, CellStore
from edgesync.store.commit import GroupCommit, Tails
from edgesync_transport.messages import Codec, Lane, Pull
from hubd.cells import proposals
from hubd.cells.budget import Budget
from hubd.cells.conflicts import Conflicts
from hubd.cells.hearing import Hearing
from hubd.cells.lineage import HUB, Lineage
from hubd.cells.mark import FIRST_RULES, LOST, MARK_ROW, PROJECTION_VERSION, RULES_ROW, Mark, Rules
from hubd.cells.proposals import Proposal
from hubd.cells.replicas import Replica, Replicas
from hubd.log.base import ENTRY_BYTES_MAX
from hubd.log.base import Entry as LogEntry

log = logging.getLogger(__name__)

COLLECTED_A_TURN: Final = 256
# A page is made in so many turns, and others have theirs between.
PAGE_TURNS: Final = 10
PAGE_KEYS: Final = 500
PAGE_BYTES: Final = 256 * 1024
# Keys live this much longer here than at the edges: one that was given more time may say so late.
GRACE_MS: Final = 60_000
RULES_MAX: Final = 1000
# What edges confirm is in the log so often.
CONFIRMED_EVERY_MS: Final = 3_600_000
# Entries of others that are passed by before the mark is stored: what a start reads once more.
PASSED_BY_MAX: Final = 10_000


class Answer(msgspec.Struct, frozen=True):
    """The answer to a question: the edge's name, and unless that is new to it, a page."""

    replica: int
    entries: list[Entry]
    position: int
    stable: int
    is_all: bool
    told: int = 0
    seen: tuple[int, ...] = ()
    head: int = 0


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
    strategies, value_max      count from the next `Start` on
    on_carried_out             is told of each proposal what came of it
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
        self._wanted_rules = Rules(tuple(sorted(strategies)), value_max)
        space = HubKeys(rows)
        super().__init__(
            self._own, rows, space, value_max=value_max, random=random, wall_ns=wall_ns
        )
        self.view = SpaceView(space, self.now_ms)  # the entities in them
        self._at_ms = 0  # of the entry that is carried out
        self._generation = generation
        self._is_lost, self._lacks = False, 0  # for the next start to tell
        self._random = random
        self.start = start or random.getrandbits(63) | 1
        self.on_carried_out: Callable[[LogEntry, Any], None] = _nobody
        self._heard: dict[str, tuple[bytes, int]] = {}
        self.position = 0  # in the log: what is up to here is carried out, or no business of these
        self.stored_position = self._frozen_position = 0  # … and on disk
        self._heard_of_late: set[str] = set()
        self.namings = 0  # how often an edge's name, or the keyspace's, became void
        self.skipped = 0
        self.lineage = Lineage(rows, space)
        self.names = Replicas(rows, space, self.lineage)
        self.conflicts = Conflicts(rows, space, self.edge_of)
        self.hearing = Hearing(
            rows, space, self.names, self.lineage, self.conflicts, lambda: self.mark
        )
        try:
            self._load()
            self._belong(generation, head, oldest, is_again=is_again)
            self.commit()
            self.stored_position = self.mark.position
        except BaseException:
            self._own.close()  # or nobody could open these files again, on a disk that has room
            raise

    def _load(self) -> None:
        raw = self.rows.get(MARK_ROW)
        none = Mark(keyspace=self._keyspace_of(b"", 0), generation=b"")
        self.mark = msgspec.msgpack.decode(raw, type=Mark) if raw else none
        rules = self.rows.get(RULES_ROW)
        self._follow(msgspec.msgpack.decode(rules, type=Rules) if rules else FIRST_RULES)
        self.names.load()
        self.conflicts.load()
        self.lineage.load(self.mark.start, self.mark.r)

    def _follow(self, rules: Rules) -> None:
        self.space.choose(rules.strategies)
        self.call.value_max = rules.value_max

    def _belong(self, generation: bytes, head: int, oldest: int, *, is_again: bool) -> None:
        """See whether these are the keys of this log. If they are not, the next start says so."""
        mark = self.mark
        self._is_lost = mark.position > head or mark.generation not in (b"", generation)
        if mark.position > head:
            self._set_mark(position=head)
        is_behind = self.mark.position + 1 < oldest
        if is_behind and (mark.start or mark.position or is_again):
            log.error(
                "keys: the log begins at %d and they had come to %d: edges tell again what they "
                "hold", oldest, mark.position,
            )  # fmt: skip
            self._is_lost = True
            self._miss(oldest - 1)
        if self._is_lost:
            self._lacks = self.mark.lacks
            self._set_mark(generation=LOST)
        self.position = self.mark.position

    def _miss(self, lacks: int) -> None:
        """Note that entries up to this position are missing, of every edge."""
        self._set_mark(lacks=lacks)
        for edge, one in self.names.all().items():
            self.hearing.miss(edge, one.incarnation)

    def _keyspace_of(self, chosen: bytes, lacks: int) -> bytes:
        """Return what keys are called that were made by these rules, of what the log has."""
        made_by = b"%d %d " % (PROJECTION_VERSION, lacks)
        return hashlib.blake2b(made_by + chosen, digest_size=16).digest()

    def _renew(self, chosen: bytes) -> None:
        """Begin another keyspace: edges tell all they have, and are waited for until they did."""
        self._set_mark(keyspace=self._keyspace_of(chosen, self.mark.lacks), collected=0)
        self.namings += 1
        now_ms = self.now_ms()
        self.names.forget_confirmed()
        for edge, one in self.names.all().items():
            self.names.put(edge, msgspec.structs.replace(one, base=0, told=0, seen_ms=now_ms))
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

    def now_ms(self) -> int:
        """Return the time: where an entry is carried out, when that was stored (I9)."""
        return self._at_ms or super().now_ms()

    def run(self, request: list[bytes]) -> Reply:
        """Carry out a command; one that writes belongs into the log (proposals.Run)."""
        reply = super().run(request)
        self.conflicts.note(self.space.now_ms)
        return reply

    def run_all(self, requests: Iterable[Sequence[bytes]]) -> list[Reply]:
        """Carry out commands; those that go beyond the budget of all of them are not: TooLarge."""
        budget, replies = Budget(self.space), list[Reply]()
        self.space.now_ms = self.now_ms()
        for request in requests:
            if (refusal := budget.refusal(request)) is not None:
                replies.append(refusal)
                continue
            self.call.reply_max = budget.reply_bytes
            replies.append(budget.taken(request, self.run(list(request))))
        return replies

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
        return self.names.all()

    def edge_of(self, r: int) -> str:
        """Return which edge a replica is or was; `hub` for the hub's own clients."""
        return self.names.edge_of(r)

    def give_up(self, edge: str) -> None:
        """Wait for this edge no longer; should it come back, it begins anew under another name."""
        if self.names.remove(edge):
            self.namings += 1
            self.note_changes()

    # -- proposals ---------------------------------------------------------------------------

    def start_proposal(self) -> proposals.Start:
        """Return what says that these keys are served from here on.

        As another replica than any before it: a copy that is put back would use numbers again.
        """
        return proposals.Start(
            start=self.start, r=HUB | self._random.getrandbits(30), generation=self._generation,
            keyspace=self._random.randbytes(16), is_lost=self._is_lost, lacks=self._lacks,
            strategies=self._wanted_rules.strategies, value_max=self._wanted_rules.value_max,
        )  # fmt: skip

    @property
    def is_started(self) -> bool:
        """True if this start of the hub is in the log and carried out."""
        return self.mark.start == self.start

    def _carry_out_entry(self, entry: LogEntry) -> None:
        """Carry out a proposal, all of it or nothing; raises RecordError."""
        if proposals.tenant_of(entry.edge) is None:  # I12
            raise RecordError(f"a proposal of {entry.edge}, which is no hub")
        proposal = proposals.decode(entry)
        savepoint, random = Savepoint(self.rows, self.space), self.call.random
        self._at_ms = self.space.now_ms = max(1, entry.stored_at_ns // 1_000_000)
        self.call.random = Random(entry.seed)
        try:
            result = self.carry_out(proposal, entry)
            self.conflicts.note(self.space.now_ms)
        except BaseException:
            savepoint.undo()
            self._load()
            raise
        finally:
            self._at_ms, self.call.random = 0, random
        savepoint.keep()
        self.pass_over(entry.position)
        self.on_carried_out(entry, result)

    def carry_out(self, proposal: Proposal, entry: LogEntry) -> Any:
        """Do what is proposed in an entry; returns what came of it, an error of the caller too."""
        match proposal:
            case proposals.Start():
                self._begin(proposal)
            case proposals.Run(requests):
                return self.run_all(requests)
            case proposals.Resolve(number, choice):
                try:
                    self.resolve(number, choice)
                except CommandError as error:
                    return error
            case proposals.Name(edge, incarnation, wanted, instead_of):
                one = self.names.logged(edge)
                if one is not None and one.r == instead_of:
                    self.give_up(edge)
                self.names.name(edge, incarnation, wanted, entry)
            case proposals.GiveUp(edges):
                for edge in edges:
                    self.give_up(edge)
            case proposals.Renew(keyspace, following):
                if self.mark.keyspace == keyspace:
                    self._renew(following)
            case proposals.Expire():
                self._expire_some()
            case proposals.ExpireConflicts(before_ms):
                self.conflicts.expire(before_ms)
            case proposals.Confirm(confirmed):
                self.names.take_confirmed(confirmed)
            case proposals.Collect(stable):
                self._collect(stable)
        return None

    def _begin(self, start: proposals.Start) -> None:
        """Begin another start: with a name of its own, and whatever is lost of the one before."""
        is_first = not self.mark.start
        if self.space.n > self.mark.born:
            self.lineage.note(self.mark.r, self.space.n)
        for one in self.names.all().values():
            self.lineage.note(one.r, one.whole)
        if self.mark.start:
            self.lineage.end(self.mark.start)
        self.lineage.begin(start.start, start.r)
        if start.lacks > self.mark.lacks:
            self._miss(start.lacks)
        if is_first or start.is_lost or self.mark.generation != start.generation:
            self._renew(start.keyspace)
        rules = Rules(start.strategies, start.value_max)
        self._follow(rules)
        self.rows.put(RULES_ROW, msgspec.msgpack.encode(rules))
        self._set_mark(start=start.start, r=start.r, born=self.space.n, generation=start.generation)
        if start.start == self.start:
            self._is_lost, self._lacks = False, 0

    # -- from the log ------------------------------------------------------------------------

    def project(self, entry: LogEntry, records: Sequence[Record] | None = None) -> Iterator[None]:
        """Carry out the operations of an entry of the log, in steps; raises RecordError.

        `records` are what `operations_of` returns, if it has been asked already. One of them that
        cannot be carried out is skipped, counted and logged.

        Cut short after any of them, it may be begun again: what is done is known by its number.
        """
        if entry.position <= self.mark.position:
            return
        if entry.codec is Codec.PROPOSAL:
            self._carry_out_entry(entry)
            return
        has_ops = False
        if entry.lane is Lane.NORMAL and entry.codec is Codec.GAP:
            self.hearing.miss(entry.edge, entry.incarnation)
        if entry.lane is Lane.NORMAL and entry.codec in (Codec.ROWS, Codec.COLUMNS):
            for record in operations_of(entry) if records is None else records:
                if self.hearing.is_new(record):
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
        that can wait: it costs a commit, and after a crash the entry is passed over again. Not on
        top of what comes after it, though: see `_freeze`.
        """
        self.position = position
        if self.rows.is_changed or self.position - self.mark.position >= PASSED_BY_MAX:
            self.save_position()

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        # A part of an entry is never stored without the place of those before it: one that changed
        # nothing then, as the answer to a conflict there is not yet, would do so when carried out
        # again behind that part.
        self._save_mark()
        self._frozen_position = self.mark.position
        return super()._freeze(layers)

    def _stored(self, tails: Tails) -> None:
        self.stored_position = self._frozen_position
        super()._stored(tails)

    def save_position(self) -> None:
        """Let the place in the log be committed."""
        self._save_mark()
        self.note_changes()

    def _save_mark(self) -> None:
        if self.position > self.mark.position:
            self._set_mark(position=self.position)

    def _hear_alone(self, entry: LogEntry, record: Record) -> Iterator[None]:
        try:
            for _ in self.hearing.hear(entry, record):
                self.note_changes()
                yield
        except StoreError:
            raise
        except Exception as error:  # What one record holds may stop no other: I8.
            self.skipped += 1
            log.error(
                "keys: skipped a record of entry %d (%s): %s", entry.position, entry.edge, error
            )

    # -- to the edges ------------------------------------------------------------------------

    def lacking(self, edge: str, incarnation: bytes, pull: Pull) -> Proposal | None:
        """Return what has to be in the log before a question can be answered; None: nothing."""
        is_ours = pull.keyspace == self.mark.keyspace
        if is_ours and pull.base and not self.lineage.has_told(pull.start, pull.base):
            log.error(
                "keys: %s knows of changes that this hub does not: it was put back to an older "
                "state, or another hub has its identity; edges tell all they have", edge,
            )  # fmt: skip
            return proposals.Renew(pull.keyspace, self._random.randbytes(16))
        one = self.names.get(edge)
        if one is None or one.incarnation != incarnation:
            return proposals.Name(edge, incarnation, pull.replica)
        if is_ours and pull.replica == one.r and pull.base < self._told_up_to(one):
            # It knew more before: its disk was put back to an older state.
            return proposals.Name(edge, incarnation, 0, instead_of=one.r)
        return None

    def _told_up_to(self, one: Replica) -> int:
        """Return what an edge knew at least, unless it never confirmed anything."""
        return max(one.base, self.mark.collected) if one.base else 0

    def answer(self, edge: str, pull: Pull, applied: int) -> Answer:
        """Note what the edge confirms, and return the first of what it asks for, nothing of which
        is `lacking`: a turn's share of a page.

        applied   seq of its `normal` lane up to which its operations are carried out here
        """
        one = self.names.get(edge)
        assert one is not None, "it is named"
        if pull.replica != one.r or pull.keyspace != self.mark.keyspace:
            return Answer(one.r, [], 0, 0, is_all=False)
        base = pull.base if applied >= pull.made else one.base
        self.names.confirm(edge, base, self.now_ms())
        entries, position, is_all = self.space.page(
            pull.base, pull.after, PAGE_KEYS // PAGE_TURNS, PAGE_BYTES // PAGE_TURNS,
            scope_of(pull),
        )  # fmt: skip
        entries += self.space.whole(pull.wants, PAGE_BYTES)
        seen = self.lineage.seen_since(pull.base) if is_all else []
        return Answer(
            one.r, entries, position, self.mark.collected, is_all,
            told=one.told, seen=tuple(number for pair in seen for number in pair),
            head=self.space.seq,
        )  # fmt: skip

    def stands(self) -> tuple[int, int]:
        """Return two numbers that are others when the keys of any edge may be."""
        return self.space.seq, self.mark.collected

    # -- care --------------------------------------------------------------------------------

    def stable(self) -> int:
        """Return the number up to which every edge has confirmed to know all changes."""
        return self.names.stable()

    def due(
        self, unseen_ms: int, unresolved_ms: int, *, looks_at_edges: bool = True
    ) -> Proposal | None:
        """Return something that the log is to be told, if only because time has passed.

        unseen_ms       edges that have not asked since are waited for no more
        unresolved_ms   nor are conflicts to be resolved that were found before
        looks_at_edges  whether all that keep a copy are looked at, too
        """
        self.space.now_ms = self.now_ms() - GRACE_MS
        if self.space.expired(1):
            return proposals.Expire()
        if self.conflicts.has_open(unresolved_ms):
            return proposals.ExpireConflicts(unresolved_ms)
        if not looks_at_edges:
            return None
        if gone := self.names.unseen(unseen_ms):
            log.warning("keys: waiting no more for edges that have not asked for long: %s", gone)
            return proposals.GiveUp(tuple(gone))
        period_ms = min(CONFIRMED_EVERY_MS, (self.now_ms() - unseen_ms) // 4)
        if confirmed := self.names.unlogged(self.now_ms() - period_ms):
            return proposals.Confirm(tuple(confirmed))
        if (stable := self.stable()) > self.mark.collected:
            return proposals.Collect(stable)
        return None

    def _collect(self, stable: int) -> None:
        """Forget some of what no edge needs any more."""
        if stable > self.mark.collected:
            reached = self.space.collect(self.mark.collected, stable, COLLECTED_A_TURN)
            self._set_mark(collected=reached)
            self.note_changes()

    def _expire_some(self) -> int:
        """Only the hub removes what is past its time: it alone knows who gave it more."""
        self.space.now_ms = self.now_ms() - GRACE_MS
        gone = self.space.expired(EXPIRED_A_TURN)
        self.space.now_ms += GRACE_MS
        for key in gone:
            try:
                self.space.delete(key)
            except RecordError:  # A damaged row costs its key, not the others: I8.
                self.space.give_up_deadline(key)
        self.conflicts.note(self.now_ms())
        return len(gone)


def _nobody(_entry: LogEntry, _result: Any) -> None:
    pass


def scope_of(pull: Pull) -> list[tuple[bytes, bool]]:
    """Return which keys the edge wants; raises RecordError."""
    if not pull.payload:
        return []
    try:
        found = msgspec.msgpack.decode(pull.payload, type=list[tuple[bytes, bool]])
    except msgspec.DecodeError as error:
        raise RecordError(f"which keys are wanted cannot be read: {error}") from error
    # Narrowed, a wish has some more; and of its own entities an edge asks, and is told, anyway.
    if len(found) > RULES_MAX + GRANT_MAX + 2 * len(ROOMS) + 2:
        raise RecordError(f"{len(found)} prefixes of wanted keys; at most {RULES_MAX}")
    return found
