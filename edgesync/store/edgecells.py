"""The keys of an edge, the time they go by, and what passes between them and the hub."""

import bisect
import logging
import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from random import Random
from types import MappingProxyType
from typing import Final

import msgspec

from edgesync._native import batch
from edgesync._native import cells as codec
from edgesync._native.cells import Entry
from edgesync._native.commands import EvictedReply
from edgesync._native.edgekeys import NAMED_FROM, NAMED_TO, UNNAMED, EdgeKeys
from edgesync._native.resp import ReplyError
from edgesync._native.write import Write
from edgesync.cells.changes import Changes
from edgesync.cells.conflicts import Conflict, resolve
from edgesync.cells.guard import Savepoint
from edgesync.cells.parts import HELD, cut, goes_on, ops_of
from edgesync.cells.scope import narrowed
from edgesync.cells.scripts import CPU_S, Scripts
from edgesync.cells.settings import Flush
from edgesync.entities.keys import ROOT
from edgesync.errors import Evicted, StoreError
from edgesync.model import Lane, RecordKind
from edgesync.store.cells import EXPIRED_A_TURN, Disk
from edgesync.store.clock import MARK_EVERY_MS, WRONG_CLOCK_MS, ClockMark, Move, boot_id
from edgesync.store.commit import Tails
from edgesync.store.journal import EdgeStore
from edgesync.store.logged_cells import LoggedCells
from edgesync.store.retell import Teller, tagged

log = logging.getLogger(__name__)

# Operations given to the link in one go, and records of them the hub has not stored yet. What waits
# here can still be replaced by later operations on the same cell; what was given away cannot.
TOLD_OPS: Final = 2000
TOLD_BYTES: Final = 256 * 1024
TOLD_GROUPS_MAX: Final = 8
NOT_ALL: Final = 2**64 - 1
# More than the largest group has: a value of 64 MiB.
GROUP_RECORDS_MAX: Final = 1400
# Operations given another time in one go, when a clock was wrong.
RESTAMPED_A_TURN: Final = 500
# Keys looked at in one go for values to be left to the hub: a write may have to wait for that.
EVICTION_LOOKS: Final = 4096
# Conflicts kept here; the hub has all of them.
CONFLICTS_MAX: Final = 1000
CURSOR_ROW: Final = b"h"
CLOCK_ROW: Final = b"t"


class Cursor(msgspec.Struct, frozen=True):
    """The position up to which an edge knows the hub's keys.

    keyspace   the hub's, 16 bytes; zeros before the first contact
    base       the hub's state up to here is known in full
    position   ... and in the pass under way, of the keys changed up to here
    made       operations made here before `base` was reached
    conflicts  changes of conflicts up to here are known
    scope      which keys were asked for, see `EdgeKeys`
    start      of the hub that said so; 0: one that does not say
    telling    nothing is taken before the hub has carried out what it is told under this number; 0:
               it has what is here
    covers     of what is told: see `Opening`
    grant      prefixes of the keys the hub grants this edge; none: all
    """

    keyspace: bytes = bytes(16)
    base: int = 0
    position: int = 0
    made: int = 0
    conflicts: int = 0
    scope: tuple[tuple[bytes, bool], ...] = ()
    start: int = 0
    telling: int = 0
    covers: bool = False
    grant: tuple[bytes, ...] = ()


class EdgeCells(LoggedCells):
    """The keys of an edge, and what passes between them and the hub.

    Operations become records of the `normal` lane in the commit that counts them as sent (I2). The
    hub says up to which seq it has carried them out, and `told` knows up to which operation that
    is: exactly, for one that is wrongly taken for unheard is carried out twice in what is shown.

    told      (seq, operation) of the records the hub may not have, see `told_since`; no operation
              for the last means all that were sent
    scope     which keys the hub is asked for (keyspace.is_in): those wanted that it grants
    applied   operations up to this number are in what the hub has delivered
    evicts    whether values may be left to the hub
    """

    def __init__(
        self,
        disk: Disk,
        *,
        told: Sequence[tuple[int, int | None]] = (),
        scope: Sequence[tuple[bytes, bool]] = (),
        writable: Sequence[tuple[bytes, bool]] = (),
        strategies: Iterable[tuple[bytes, int]] = (),
        may_pack: bool = True,
        evicts: bool = False,
        value_max: int = 1 << 20,
        script_cpu_s: float = CPU_S,
        flush: Flush = "refuse",
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] | None = None,
    ) -> None:
        super().__init__(
            disk, partial(EdgeKeys, strategies=strategies, may_pack=may_pack),
            value_max=value_max, writable=writable, random=random, wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
        )  # fmt: skip
        rows, space = self.rows, self.space
        self.call.flush = flush
        self.changes = Changes(rows, space, self._arm_changes)
        savepoint = partial(Savepoint, rows, space)
        self.call.scripts = Scripts(self.call, savepoint, cpu_s=script_cpu_s)
        space.open_as(int.from_bytes(os.urandom(4), "big") | 1)
        if space.n == 0 and space.r == UNNAMED:
            space.call_yourself(random.randrange(NAMED_FROM, NAMED_TO))
        self._monotonic_ns = monotonic_ns
        self.on_clock_step: Callable[[float], None] = lambda _: None
        self._resume_clock()
        self._wish = tuple(scope)
        self.evicts = evicts
        self._looked_in_vain = 0  # for values that may go, since the hub last told something
        if evicts:
            space.remember()
        self.cursor = self._stored_cursor()
        self.scope = narrowed(self._wish, self.cursor.grant)
        self.applied = 0
        self.on_told: Callable[[Tails], None] = lambda _: None
        self._told = [(seq, space.sent if n is None else n) for seq, n in told]
        self._fresh: list[bytes] = []  # bodies of records for the next commit
        self._under_way: list[bytes] = []  # … of the one under way
        self._sent = self._next_sent = space.sent  # … up to this operation, and the next one
        self._teller: Teller | None = None
        self.told_at = 0  # seq by which a hub that lost it has been told all; 0: not yet
        self._sent_before = 0  # … of the one it overtook, if it did
        if self.cursor.scope != self.scope:
            self.refetch()  # what is known of the hub's keys is not all that is wanted now

    def _arm_changes(self, is_listened_to: bool) -> None:
        self.on_change = self.changes.by_command if is_listened_to else None

    def refetch(self) -> None:
        """Take nothing that is known of the hub's keys for granted: ask for all of them again."""
        if self.cursor.base or self.cursor.position:
            self.space.rejoin(self.space.r)
        # It was seen of other keys than those that are asked for from here on.
        for row, _ in self.space.walk(b"q", b"r"):
            self.rows.delete(row)
        self._move(
            msgspec.structs.replace(
                self.cursor, base=0, position=0, made=0, conflicts=0, scope=self.scope
            )
        )

    def set_grant(self, grant: tuple[bytes, ...]) -> None:
        """Ask for no other keys than those with one of these prefixes, none: for all wanted.

        What is here already stays; the hub does not tell of it any more.
        """
        self._move(msgspec.structs.replace(self.cursor, grant=grant))
        self.scope = narrowed(self._wish, grant)
        if self.cursor.scope != self.scope:
            self.refetch()

    def _stored_cursor(self) -> Cursor:
        raw = self.rows.get(CURSOR_ROW)
        return msgspec.msgpack.decode(raw, type=Cursor) if raw else Cursor()

    # -- room --------------------------------------------------------------------------------

    def make_room(self, nbytes: int, looks: int = EVICTION_LOOKS) -> int:
        """Leave values to the hub until so many bytes are free; returns how many are.

        looks   keys looked at, at most

        What none of the keys has, is not looked for again before the hub has confirmed something:
        a write that is refused costs no walk through all keys.
        """
        if not self.evicts or self._looked_in_vain >= 3 * self.space.keys:
            return 0
        # What the edge itself goes by has to be here.
        scope = [(prefix, is_in and not prefix.startswith(ROOT)) for prefix, is_in in self.scope]
        freed = self.space.evict(nbytes, looks, scope)
        self._looked_in_vain = 0 if freed else self._looked_in_vain + looks
        self.note_changes()
        return freed

    # -- to the hub --------------------------------------------------------------------------

    @property
    def has_untold(self) -> bool:
        """True if the link has not been given everything."""
        return self.is_telling or self.space.has_untaken()

    @property
    def is_telling(self) -> bool:
        """True while a hub that lost its keys has not been told all of them."""
        return bool(self.cursor.telling) and not self.told_at

    def has_pending(self, made: int) -> bool:
        """Return whether an operation up to number `made` has not come back from the hub."""
        oldest = self.space.oldest_pending()
        return oldest != 0 and oldest <= made

    def pending_bytes(self) -> int:
        """Return about how many bytes the pending operations are, from the first thousand."""
        rows = self.rows.scan(b"d", b"e", limit=1000)
        sample = sum(len(row) + len(raw) for row, raw in rows)
        return sample * self.space.pending // len(rows) if rows else 0

    def tell(self, floor: int) -> bool:
        """Give operations to the link, with the next commit; False when there are none.

        floor   seq of the lane the hub has; beyond it only so much may be under way
        """
        if self._shift is not None:
            return False  # what is given away keeps its time
        waiting = sum(seq > floor for seq, _ in self._told)
        if waiting + bool(self._fresh) + bool(self._under_way) > TOLD_GROUPS_MAX:
            return False
        if self.is_telling and (self._teller is None or not self._teller.is_over):
            return self._tell_held()
        ops = self.space.take(TOLD_OPS, TOLD_BYTES)
        if not ops:
            return False
        data = codec.encode_ops(self.space.taken_as, ops)
        self._fresh += cut(tagged(self.space, self.cursor.keyspace, data))
        self._next_sent = self.space.sent
        # Taking may change nothing but a counter, and what is taken must be stored all the same.
        self.space.save_counters()
        self.note_changes()
        return True

    def _tell_held(self) -> bool:
        """Give the link the next part of all that is here."""
        if self._teller is None:
            if self._fresh or self._under_way:
                return False  # what is on its way was for the hub as it was
            cursor = self.cursor
            self._told.clear()
            self._teller = Teller(
                self.space, self.scope,
                keyspace=cursor.keyspace, token=cursor.telling, covers=cursor.covers,
            )  # fmt: skip
        step = self._teller.step()
        if step is None:
            return False
        data, self._next_sent = step
        self._fresh += cut(data)
        self._move(self.cursor)  # nothing else changes, and what is told must be stored
        return True

    def made_at(self) -> int:
        """Return the seq by which all operations made before `base` are in the lane."""
        if self.cursor.made <= self.applied:
            return 0
        for seq, n in self._told:
            if n >= self.cursor.made:
                return seq
        if self._fresh or self._under_way or self.space.has_untaken():
            return NOT_ALL
        return self._told[-1][0] if self._told else 0

    # -- commits -----------------------------------------------------------------------------

    async def _commit_changes(self) -> None:
        self._sent_before = 0
        await super()._commit_changes()
        if self._shift is not None:
            self._restamp_some()

    def _may_log(self) -> bool:
        return not self._fresh and not self._under_way and super()._may_log()

    def _complete(self) -> None:
        if self._monotonic_ms() - self._mark.monotonic_ms >= MARK_EVERY_MS:
            self._put_mark()
        super()._complete()

    def _freeze(self, layers: Callable[[], Write]) -> Write:
        write = super()._freeze(layers)
        if self._under_way:
            # This commit overtakes another, and tells once more what that one told: the hub knows
            # doubles.
            self._sent_before = self._sent
        self._under_way += self._fresh
        self._fresh, self._sent = [], self._next_sent
        for body in self._under_way:
            # No lane is too full for them: the link is given few at a time (TOLD_GROUPS_MAX).
            write.append(Lane.NORMAL, RecordKind.CELLS, body, essential=True)
        return write

    def _stored(self, tails: Tails) -> None:
        if self._under_way:
            self._under_way = []
            self._told.append((tails[Lane.NORMAL], self._sent))
            if self._teller is not None and self._teller.is_over and not self._fresh:
                self.told_at = self.told_at or tails[Lane.NORMAL]
            self.on_told(tails)
        super()._stored(tails)

    def _stored_twice(self, tails: Tails) -> None:
        # It came first: what it told was told already there, whatever became of the other.
        if self._sent_before:
            bisect.insort(self._told, (tails[Lane.NORMAL], self._sent_before))
            self.on_told(tails)

    def _refused(self, error: StoreError) -> None:
        self._fresh, self._under_way = [], []
        super()._refused(error)
        self.cursor = self._stored_cursor()
        self._next_sent = self.space.sent
        if not self.told_at:
            self._teller = None  # from the beginning: what was given to the link is not there
        self._resume_clock()

    # -- clocks ------------------------------------------------------------------------------

    def _resume_clock(self) -> None:
        """Let the time of keys go on where the store has it."""
        self._set_shift(None)
        raw = self.rows.get(CLOCK_ROW)
        mark = msgspec.msgpack.decode(raw, type=ClockMark) if raw else None
        if mark is not None and mark.move is not None:
            mark = self._after_move(mark, mark.move)
        self._mark = mark or ClockMark()
        self._boot = boot_id()
        self.is_clock_known = self._mark.is_known and self._mark.boot == self._boot
        # Up to this operation, deadlines are by a clock that was known.
        self._sure = self.space.n if self._mark.is_known else self._mark.sure
        if mark is not None and self._monotonic_ns is not None:
            wall_ms = self.wall_ns() // 1_000_000
            behind_ms, later_ms = mark.resumed(self._boot, self._monotonic_ms(), wall_ms)
            self.behind_ms = behind_ms - later_ms
            self._move_time(later_ms)

    def _after_move(self, mark: ClockMark, move: Move | None) -> ClockMark:
        """Carry out what was under way when the store was closed; returns the mark from then on."""
        self.behind_ms = mark.behind_ms
        while move is not None:
            move, self.behind_ms = self._moved(move, self.behind_ms)
        mark = msgspec.structs.replace(mark, move=None, behind_ms=self.behind_ms)
        self.rows.put(CLOCK_ROW, msgspec.msgpack.encode(mark))
        return mark

    def clock_measured(self, behind_ms: int) -> None:
        """Take it from the hub how much this machine's clock is behind its own.

        What was written by another time than that, and not told, keeps the seconds it has left.
        """
        if self._shift is not None:
            return  # until then nothing is told, and it is measured again
        later_ms = behind_ms - self.behind_ms
        is_wrong = abs(later_ms) >= WRONG_CLOCK_MS
        if self.is_clock_known and not is_wrong:
            return
        self.is_clock_known = True
        self._move_time(later_ms if is_wrong else 0)

    def clock_stepped(self, by_ms: int) -> None:
        """Keep the seconds that keys have left: the machine's clock has just been set.

        Where the hub's time is known, it is gone by; otherwise by what the clock shows from now on.
        """
        self.on_clock_step(by_ms / 1000)
        self.behind_ms -= by_ms
        while self._shift is not None:
            self._restamp_some()
        self._move_time(0 if self.is_clock_known else -self.behind_ms)

    def _move_time(self, later_ms: int) -> None:
        """Begin another reckoning of time, by so much later, with what was made by the one before.

        Commits of changes take turns with it; who does not keep committing waits for all.
        """
        if later_ms:
            log.warning("keys: what was not told moves by %d s", round(later_ms / 1000))
            self.space.advance_clock(max(0, later_ms))
            first = max(self._sure, self.space.sent)
            self._set_shift(Move(first, first, self.space.n, later_ms))
            self.behind_ms += min(0, later_ms)
        while self._shift is not None:
            self._restamp_some()
            if self._is_kept:
                break
        self._put_mark()
        self.note_changes()

    def _restamp_some(self) -> None:
        """Move some more operations; what is stored of that goes with them."""
        assert self._shift is not None
        move, self.behind_ms = self._moved(self._shift, self.behind_ms)
        self._set_shift(move)
        self._put_mark()
        self.note_changes()

    def _set_shift(self, move: Move | None) -> None:
        self._shift = move
        if move is None:
            self.space.show_shift(0, 0, 0, 0)
        else:
            self.space.show_shift(move.first, move.after, move.last, move.later_ms)

    def _moved(self, move: Move, behind_ms: int) -> tuple[Move | None, int]:
        after = self.space.restamp(move.after, move.last, move.later_ms, RESTAMPED_A_TURN)
        self.space.save_counters()
        if after:
            return msgspec.structs.replace(move, after=after), behind_ms
        return None, behind_ms + max(0, move.later_ms)

    def _monotonic_ms(self) -> int:
        return (self._monotonic_ns or time.monotonic_ns)() // 1_000_000

    def _put_mark(self) -> None:
        """Note the time that keys go by: with what is committed, at most once a second."""
        self._mark = ClockMark(
            boot=self._boot,
            monotonic_ms=self._monotonic_ms(),
            wall_ms=self.wall_ns() // 1_000_000,
            behind_ms=self.behind_ms,
            is_known=self.is_clock_known,
            sure=self._sure,
            move=self._shift,
        )
        self.rows.put(CLOCK_ROW, msgspec.msgpack.encode(self._mark))

    # -- from the hub ------------------------------------------------------------------------

    def deliver(self, entries: list[Entry], applied: int) -> int:
        """Take keys of a page that `take_in` ends; until then all of it is asked for again.

        Returns up to which operation the hub had carried ours out.
        """
        done = self.applied = max(self.applied, self._done(applied))
        self.space.now_ms = self.now_ms()
        before = self.changes.before(entries)
        self.space.deliver(entries, done)
        self.changes.after(entries, before)
        return done

    def forget_unlisted(self, after: bytes | None = None, limit: int = 1000) -> bytes | None:
        """End a pass from the beginning: what the hub did not list, it does not have.

        For once all pages are delivered, before `take_in` says that they are. Looks at `limit` keys
        behind `after`, and returns where to go on; None at the end.
        """
        before = self.changes.before(())
        after = self.space.forget_unlisted(self.applied, self.scope, after, limit)
        self.changes.after((), before)
        self.note_changes()
        return after

    def take_in(
        self,
        cursor: Cursor,
        entries: list[Entry],
        *,
        applied: int,
        stable: int,
        is_all: bool,
        seen: Mapping[int, int] = MappingProxyType({}),
    ) -> None:
        """Take a page of the hub's state, or the rest of it, which leads to `cursor`.

        The last page of a pass from the beginning comes after `forget_unlisted`.

        applied   seq of the lane up to which our operations are in it
        seen      operations that are in it or were replaced, up to which number of each replica
        """
        self._looked_in_vain = 0
        done = self.deliver(entries, applied)
        before = self.changes.before(())
        if is_all:
            cursor = msgspec.structs.replace(cursor, base=cursor.position, made=self.space.n)
            self.space.note_seen(dict(seen))
        if self.scope:
            self.space.let_go(done, self.scope)
        self.changes.after((), before)
        self.space.settle(stable)  # rows of keys that were gone before: no change of theirs
        self._move(cursor)

    def rejoin(
        self, keyspace: bytes, r: int, *, start: int = 0, telling: int = 0, covers: bool = True
    ) -> None:
        """Be the replica `r` of that keyspace from here on, and know nothing of it yet.

        start     of the hub, as far as it says
        telling   a number never used, when the hub is to be told all before anything is taken
        covers    ... and what is not here any more is gone; not if this edge may be wrong itself
        """
        self.space.rejoin(r)
        for row, _ in self.rows.scan(b"v", b"w", limit=2 * CONFLICTS_MAX):
            self.rows.delete(row)
        self._teller, self.told_at = None, 0
        if telling:
            self.applied = 0
        self._move(
            Cursor(
                keyspace=keyspace,
                scope=self.scope,
                start=start,
                telling=telling,
                covers=covers,
                grant=self.cursor.grant,
            )
        )

    def take_conflicts(self, changed: Sequence[Conflict], last: int) -> None:
        """Take what the hub says of conflicts this edge has a part in, up to change `last`."""
        for one in changed:
            self.rows.put(b"v" + one.id.to_bytes(8, "big"), msgspec.msgpack.encode(one))
        rows = self.rows.scan(b"v", b"w", limit=2 * CONFLICTS_MAX) if changed else []
        for row, _ in rows[: max(0, len(rows) - CONFLICTS_MAX)]:
            self.rows.delete(row)
        self._move(msgspec.structs.replace(self.cursor, conflicts=last))

    def conflicts(
        self, *, status: str = "", prefix: bytes = b"", after: int = 0, limit: int = 100
    ) -> list[Conflict]:
        """Return conflicts this edge has a part in, as far as the hub has told, by id."""
        start = b"v" + (after + 1).to_bytes(8, "big")
        rows = self.rows.scan(start, b"w", limit=CONFLICTS_MAX)
        found = (msgspec.msgpack.decode(raw, type=Conflict) for _, raw in rows)
        wanted = (one for one in found if status in ("", one.status))
        return [one for one in wanted if one.key.startswith(prefix)][:limit]

    def resolve(self, number: int, choice: Sequence[bytes]) -> None:
        """Resolve a conflict by a write of our own; raises ReplyError."""
        raw = self.rows.get(b"v" + number.to_bytes(8, "big"))
        if raw is None:
            raise ReplyError(f"ERR no conflict {number} is known here")
        one = msgspec.msgpack.decode(raw, type=Conflict)
        self.space.now_ms = self.now_ms()
        try:
            resolve(self.space, one, choice, value_max=self.call.value_max)
        except Evicted as error:
            self.on_evicted([one.key])
            raise EvictedReply([one.key]) from error
        self.note_changes()
        self.changes.by_command("resolve", [])

    def _done(self, applied: int) -> int:
        """Return up to which operation the hub has carried ours out."""
        done = self.applied
        while self._told and self._told[0][0] <= applied:
            done = max(done, self._told.pop(0)[1])
        return done

    def _move(self, cursor: Cursor) -> None:
        self.cursor = cursor
        self.rows.put(CURSOR_ROW, msgspec.msgpack.encode(cursor))
        self.note_changes()

    def _expire_some(self) -> int:
        gone = self.space.reclaim(EXPIRED_A_TURN)
        self.changes.expired(gone)
        return len(gone)


def told_since(store: EdgeStore) -> list[tuple[int, int | None]]:
    """Return where the lane's groups of operations end that the hub may not have yet.

    The operation that goes with each is the one before the first of the next group.
    """
    state = store.state(Lane.NORMAL)
    # The group the floor may be in the middle of is looked at from its beginning.
    at = max(state.trimmed, state.floor - GROUP_RECORDS_MAX) + 1
    ends, firsts, is_ops = [at - 1], list[int](), True
    while at <= state.tail:
        rows = store.read(Lane.NORMAL, at)
        for seq, record in enumerate(batch.records(rows.data), start=rows.first):
            if record.kind != RecordKind.CELLS:
                continue
            if not goes_on(record.body):
                data = record.body[1:]
                is_ops = not data.startswith(HELD)
                if is_ops:
                    firsts.append(codec.first_op(ops_of(data)[1]))
                    ends.append(seq)
            if is_ops:
                ends[-1] = seq
        at = rows.last + 1
    heard = [*(first - 1 for first in firsts), None]
    found = list(zip(ends, heard, strict=True))
    # Of what is below the floor, the last says it all.
    below = sum(seq <= state.floor for seq in ends)
    return found[max(0, below - 1) :]
