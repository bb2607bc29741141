"""Keeps an edge's keys and the hub's the same, over the link of the driver.

Two tasks: one gives operations to the lane, as long as the hub keeps up; the other asks for what
has changed there, and the hub holds its answer back until there is something to tell. Commands on
keys wait for neither.
"""

import itertools
import logging
import secrets
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Final

import msgspec
import trio

from edgesync._native.cells import Entry
from edgesync._native.commands import EvictedReply
from edgesync.cells import Argument, Reply
from edgesync.cells.conflicts import Conflict
from edgesync.errors import RecordError, StoreError
from edgesync.store.cells import checked, request_of
from edgesync.store.edgecells import EdgeCells
from edgesync.sync.driver import SyncDriver
from edgesync.sync.puller import Puller, entries_of, told_digest
from edgesync_transport.messages import ConflictReport, Lane, Page, Pull
from edgesync_transport.seldom import Seldom
from edgesync_transport.wire import DEFAULT_LIMITS

log = logging.getLogger(__name__)

# The hub may hold an answer back so long; what is lost is asked for again a little later. Asking
# costs both ends, and a metered line, each time.
HOLD_S: Final = 50.0
ANSWER_S: Final = 10.0
RETRY_S: Final = 1.0
# The first answer to a ping comes with the session.
CLOCK_LOOK_S: Final = 0.01
# Operations written close together go together.
TELL_PAUSE_S: Final = 0.02
CROWDED_S: Final = 0.1
# The interval follows the battery and the network: a pause that has begun may have become too long.
INTERVAL_CHECK_S: Final = 5.0
# Whether the keys here are the hub's is looked at once a day, not by all of a fleet at once; sooner
# when the hub's changed while it counted.
CHECK_EVERY_S: Final = 86_400.0
FIRST_CHECK_S: Final = 3_600.0
CHECK_AGAIN_S: Final = 60.0
CHECKED_A_TURN: Final = 1000
# Keys of a page taken in without a pause, a quarter of a millisecond; or looked at, for some that
# the hub has not. The pause is so many times as long. With none, a reading waited 4 times as long
# for its ack while 20,000 keys came.
TAKEN_A_TURN: Final = 25
LOOKED_AT_A_TURN: Final = 200
REST: Final = 2.0
# What makes this edge tell all it has: so often at once, then once in so long.
REJOINS_BURST: Final = 5
REJOIN_EVERY_S: Final = 60.0
# A command waits so long for values that are at the hub; and so many keys may be waited for.
RESTORE_S: Final = 2.0
WANTED_MAX: Final = 1000


class CellSync:
    """See the module.

    interval_s      pause between two times of telling, asked anew for each

    last_round_ns   wall clock when the hub's newest state had arrived; 0 for never
    rounds          passes that reached it; `full_rounds` of them from the beginning
    pages, keys     taken in
    checks          times the keys here were compared with the hub's
    refetches       ... and were not the same: they were asked for again, all of them
    restored        keys whose values the hub has given back because somebody asked for them
    """

    def __init__(
        self,
        cells: EdgeCells,
        driver: SyncDriver,
        *,
        interval_s: Callable[[], float] = lambda: 0.0,
        first_check_s: float = FIRST_CHECK_S,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._cells = cells
        self._driver = driver
        self._interval_s = interval_s
        self._wall_ns = wall_ns
        self._puller = Puller()
        self._answer: Page | None = None
        self._answered = trio.Event()
        self._news = trio.Event()
        self._commit_over = trio.Event()
        self._round_over = trio.Event()
        self._hurried = self._asks_soon = False
        self._asked = self._reached = 0  # questions, and the one whose answer ended the last round
        self._question = trio.CancelScope()
        self._first_check_s = first_check_s
        self._check_at = 0.0
        self.checks = self.refetches = self.restored = 0
        self._wanted: dict[bytes, None] = {}  # keys whose values are at the hub, the oldest first
        self._asked_for: Sequence[bytes] = ()  # … of them, by the question under way
        self._given = trio.Event()  # … or refused
        self.last_round_ns = 0
        self.rounds = self.full_rounds = self.pages = self.keys = 0
        self._head = 0  # the hub's newest change, as it told last
        self.last_problem = ""
        self._seldom = Seldom()
        self._rejoins = Seldom(REJOIN_EVERY_S, trio.current_time, burst=REJOINS_BURST)
        driver.on_hear = self._heard
        driver.on_session = self._session_changed
        cells.on_told = driver.grown
        cells.on_evicted = self.want
        cells.on_clock_step = driver.sender.clock_stepped
        cells.on_commit(self._committed)

    async def run(self) -> None:
        """Last until cancelled."""
        self._check_at = trio.current_time() + self._first_check_s
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_telling)
            nursery.start_soon(self._keep_pulling)

    def state(self) -> str:
        """Return offline, full_sync, syncing, degraded or idle."""
        if not self._driver.epoch:
            return "offline"
        if self.last_problem:
            return "degraded"
        if not self._cells.cursor.base and not self.rounds:
            return "full_sync"
        share = self.share()
        is_behind = share is not None and share < 1.0
        return "syncing" if self._cells.space.pending or is_behind else "idle"

    def share(self) -> float | None:
        """Return how much of what changed at the hub the pass under way has brought, 0 to 1.

        None while that is not known: before its first page, or of a hub that does not tell.
        """
        cursor = self._cells.cursor
        if not self._head:
            return None
        coming = self._head - cursor.base
        come = max(0, cursor.position - cursor.base)
        return min(1.0, come / coming) if coming > 0 else 1.0

    async def sync(self) -> None:
        """Return once the hub has what was written here, and its newest state has arrived."""
        await self._cells.wait_durable()
        made, asked = self._cells.space.n, self._asked
        self.hurry()
        # An answer to a question asked before now may not know what is at the hub now.
        while self._reached <= asked or self._cells.has_pending(made):
            await self._round_over.wait()

    async def wait_heard(self) -> None:
        """Return once the hub has carried out what was written here."""
        made = self._cells.space.n
        while self._cells.has_pending(made):
            await self._round_over.wait()

    def hurry(self) -> None:
        """Begin a round now, whatever the interval says."""
        self._hurried = self._asks_soon = True
        self._driver.retry_now()
        self._news.set()
        self._question.cancel()

    # -- values that are at the hub ----------------------------------------------------------

    def want(self, keys: Iterable[bytes]) -> bool:
        """Ask the hub for values that were evicted, of these keys; False when that is no use."""
        if not self._driver.epoch:
            return False
        room = WANTED_MAX - len(self._wanted)
        fresh = [key for key in keys if key not in self._wanted]
        self._wanted |= dict.fromkeys(fresh[:room])
        if not self._asked_for:
            self._asks_soon = True
            self._question.cancel()  # of the next one they are part
        return len(fresh) <= room

    async def retry(self, request: list[bytes], refused: EvictedReply) -> Reply:
        """Carry a command out once the values it needs are here; `refused` if they do not come."""
        reply: Reply = refused
        with trio.move_on_after(RESTORE_S):
            while isinstance(reply, EvictedReply) and self.want(reply.keys):
                keys = reply.keys
                while any(key in self._wanted for key in keys):
                    await self._given.wait()
                reply = self._cells.run(request)
                if isinstance(reply, EvictedReply) and list(reply.keys) == list(keys):
                    break  # the hub has not got them, or is too old to be asked
        return reply

    async def ask(self, name: str, args: Sequence[Argument]) -> Reply:
        """Do as `CellStore.ask` does, and wait for values that are at the hub."""
        request = request_of(name, args)
        reply = self._cells.run(request)
        if isinstance(reply, EvictedReply):
            reply = await self.retry(request, reply)
        return checked(reply)

    def _give(self, entries: Sequence[Entry]) -> None:
        """A question for values is over: those that came are here, and as long as some come the
        rest is asked for again.
        """
        came = {one.key for one in entries}.intersection(self._asked_for)
        for key in came or self._asked_for:
            self._wanted.pop(key, None)
        self.restored += len(came)
        self._asked_for = ()
        self._given.set()
        self._given = trio.Event()

    # -- to the hub --------------------------------------------------------------------------

    async def _keep_telling(self) -> None:
        while True:
            await self._driver.wait_session()
            self._news = trio.Event()
            try:
                if not await self._mind_clock():
                    continue
                told = self._cells.tell(self._driver.sender.lanes[Lane.NORMAL].floor)
                if told:
                    await self._cells.wait_durable()
            except Exception as error:  # A full disk, a damaged row: the site goes on (I8).
                await self._pause(error)
                continue
            if told:
                await trio.sleep(TELL_PAUSE_S)
            elif self._cells.has_untold:
                await trio.sleep(CROWDED_S)  # the hub does not keep up
            else:
                self._hurried = False  # there is nothing to hurry with
                await self._news.wait()
                await self._wait_interval()

    async def _mind_clock(self) -> bool:
        """Wait for the hub's time, before anything is told; False when the session has ended."""
        while self._driver.epoch:
            ahead_s = self._driver.sender.clock_offset_s
            if ahead_s is not None:
                self._cells.clock_measured(round(-ahead_s * 1000))
                return True
            await trio.sleep(CLOCK_LOOK_S)
        return False

    async def _wait_interval(self) -> None:
        """Wait as long as the interval is by now, unless somebody is in a hurry."""
        begun = trio.current_time()
        while not self._hurried:
            left_s = begun + self._interval_s() - trio.current_time()
            if left_s <= 0:
                break
            self._news = trio.Event()
            with trio.move_on_after(min(left_s, INTERVAL_CHECK_S)):
                await self._news.wait()
        self._hurried = False

    def _committed(self, _generation: int, error: StoreError | None) -> None:
        self._commit_over.set()
        if error is None and self._cells.has_untold:
            self._news.set()

    async def _pause(self, error: Exception) -> None:
        self.last_problem = str(error)
        if (again := self._seldom.ask("pause")) is not None:
            told = "keys: not the same as the hub's for now: %s; %d more before"
            log.error(told, error, again)
        await trio.sleep(RETRY_S)

    # -- from the hub ------------------------------------------------------------------------

    async def _keep_pulling(self) -> None:
        wait_s = 0.0  # the first answer is due at once
        while True:
            epoch = await self._driver.wait_session()
            if self._cells.is_telling:
                # I15: first the hub is told all.
                await self._told_all()
                continue
            if self._cells.told_at:
                await self._driver.wait_floor(Lane.NORMAL, self._cells.told_at)
            stood = self._cells.refusals
            page = await self._ask(epoch, wait_s)
            if page is None:
                wait_s = 0.0
                if not self._asks_soon:
                    self._give(())  # no answer: what asks for much may be why
                continue
            try:
                await self._take(page, stood)
                if page.digest:
                    await self._compare(page)
                # What is confirmed with the next question must not be forgotten by a power cut.
                await self._cells.wait_durable(stood)
            except Exception as error:  # Whatever the hub has sent, this site goes on: I8.
                self._give(())
                await self._pause(error)
                continue
            wait_s = HOLD_S if self._is_over(page) else 0.0

    async def _told_all(self) -> None:
        """Return when the link may have been given all that is here, for a hub that lost it."""
        committed = self._commit_over = trio.Event()
        self._news.set()
        await committed.wait()

    def check_soon(self) -> None:
        """Compare the keys here with the hub's at the next occasion."""
        self._check_at = 0.0
        self.hurry()

    def _is_check_due(self) -> bool:
        """Whether to ask for the digest now: only of a state the hub and this edge agree on."""
        now = trio.current_time()
        if now < self._check_at or self._cells.space.pending or not self._cells.cursor.base:
            return False
        self._check_at = now + CHECK_AGAIN_S  # should there be no answer
        return True

    async def _compare(self, page: Page) -> None:
        """Are these the hub's keys, all of them and no others? If not, know nothing of them.

        What is written here meanwhile has no part in it. What waits for the hub may keep a key
        that the hub has forgotten: there is nothing to be compared then.
        """
        cells = self._cells
        if not page.is_all or page.replica != cells.space.r or cells.space.pending:
            return
        total, after = 0, None
        while True:
            part, after = cells.space.digest(after, CHECKED_A_TURN, cells.scope)
            total += part
            if after is None:
                break
            await trio.lowlevel.checkpoint()
        self.checks += 1
        self._check_at = trio.current_time() + CHECK_EVERY_S
        if told_digest(total) != page.digest:
            self.refetches += 1
            log.warning("keys: not the hub's, which should not be: each tells the other all it has")
            self._rejoin(page, covers=False)

    def _is_over(self, page: Page) -> bool:
        """Whether the page ended a pass; tells those who wait for one."""
        if not page.is_all or page.replica != self._cells.space.r:
            return False
        self.rounds += 1
        self._reached = self._asked
        self.last_round_ns = self._wall_ns()
        self.last_problem = ""
        self._round_over.set()
        self._round_over = trio.Event()
        return True

    async def _ask(self, epoch: int, wait_s: float) -> Page | None:
        """Return the answer; None when there is none in time, or somebody is in a hurry."""
        cells = self._cells
        self._answered, self._answer = trio.Event(), None
        wants_digest = self._is_check_due()
        self._asked_for = tuple(itertools.islice(self._wanted, DEFAULT_LIMITS.keys))
        if self._asks_soon or wants_digest or self._asked_for:
            self._asks_soon, wait_s = False, 0.0
        question = Pull(
            epoch=epoch, token=0, keyspace=cells.cursor.keyspace, replica=cells.space.r,
            base=cells.cursor.base, after=cells.cursor.position, made=cells.made_at(),
            conflicts=cells.cursor.conflicts, wait_s=wait_s, wants_digest=wants_digest,
            wants=self._asked_for, start=cells.cursor.start,
            knows_grants=True, grant=cells.cursor.grant,
            payload=msgspec.msgpack.encode(cells.scope) if cells.scope else b"",
        )  # fmt: skip
        self._asked += 1
        with trio.move_on_after(wait_s + ANSWER_S) as self._question:
            self._driver.ask(self._puller.ask(question))
            await self._answered.wait()
        return self._answer

    def _session_changed(self) -> None:
        self._answered.set()

    def _heard(self, message: Page | ConflictReport) -> None:
        if isinstance(message, ConflictReport):
            self._take_report(message)
            return
        found = self._puller.heard(message)
        if isinstance(found, Pull):
            self._question.deadline = trio.current_time() + ANSWER_S
            self._driver.ask(found)
        elif found is not None:
            self._answer = found
            self._answered.set()

    def _take_report(self, report: ConflictReport) -> None:
        """What the hub says of conflicts comes before the page it belongs to, or again later."""
        try:
            changed = msgspec.msgpack.decode(report.payload or b"\x90", type=list[Conflict])
        except msgspec.DecodeError as error:
            self.last_problem = f"conflicts the hub told of cannot be read: {error}"
            log.error("keys: %s", self.last_problem)
            return
        self._cells.take_conflicts(changed, report.last)

    async def _take(self, page: Page, stood: int) -> None:
        """Take an answer; raises StoreError when what it goes on from, or some of it, is gone.

        stood   `EdgeCells.refusals` before it was asked for
        """
        cells = self._cells
        cells.check_refusals(stood)
        if page.grant != cells.cursor.grant:
            prefixes = [prefix.decode(errors="replace") for prefix in page.grant]
            log.info("keys: the hub grants those with %s", prefixes or "any prefix")
            cells.set_grant(page.grant)
            return
        if page.replica != cells.space.r or page.keyspace != cells.cursor.keyspace:
            log.info("keys: the hub calls this edge replica %d", page.replica)
            self._rejoin(page, covers=True)
            return
        if page.told != cells.cursor.telling and cells.cursor.telling:
            if page.applied >= cells.told_at:
                self._rejoin(page, covers=cells.cursor.covers)
                raise RecordError("the hub did not take all that it was told")
            return  # it has not come to it
        entries = entries_of(page)
        rest = await self._deliver(entries, page.applied, stood)
        if page.is_all and page.start and not cells.cursor.base:
            cells.deliver(rest, page.applied)
            rest = []
            await self._forget_unlisted(stood)
        cursor = msgspec.structs.replace(
            cells.cursor, position=page.position, start=page.start, telling=0
        )
        self.pages += 1
        self.keys += len(entries)
        self._head = page.head
        self.full_rounds += page.is_all and cursor.base == 0
        cells.take_in(
            cursor, rest,
            applied=page.applied, stable=page.stable, is_all=page.is_all,
            seen=dict(zip(page.seen[::2], page.seen[1::2], strict=False)),
        )  # fmt: skip
        self._give(entries)

    async def _deliver(self, entries: list[Entry], applied: int, stood: int) -> list[Entry]:
        """Take the keys of a page but the last of them, which are returned; others work between.

        bench/benchmarks/syncing.py says how much later readings are meanwhile.
        """
        last = max(0, len(entries) - 1) // TAKEN_A_TURN * TAKEN_A_TURN
        for start in range(0, last, TAKEN_A_TURN):
            begun = trio.current_time()
            self._cells.deliver(entries[start : start + TAKEN_A_TURN], applied)
            await self._rest(begun, stood)
        return entries[last:]

    async def _forget_unlisted(self, stood: int) -> None:
        """End a pass from the beginning; an older hub, which tells no start, was not told all."""
        after = None
        while True:
            begun = trio.current_time()
            after = self._cells.forget_unlisted(after, LOOKED_AT_A_TURN)
            if after is None:
                return
            await self._rest(begun, stood)

    async def _rest(self, begun: float, stood: int) -> None:
        """Let others work after a turn; raises StoreError if what was taken is gone by then."""
        await trio.sleep(REST * (trio.current_time() - begun))
        self._cells.check_refusals(stood)

    def _rejoin(self, page: Page, *, covers: bool) -> None:
        """Take the name the hub gives; it is told all that is here, if it ever knew any of it.

        covers   what is not here any more is gone, unless the hub has heard of it since

        Raises RecordError, and changes nothing, for a hub that has that done again and again.
        """
        if self._rejoins.ask("all") is None:
            raise RecordError(
                "the hub has lost all again and again, or has other keys than it says; it is told "
                f"what is here once in {REJOIN_EVERY_S:.0f} s"
            )
        cells = self._cells
        knew_a_hub = any(cells.cursor.keyspace)
        if knew_a_hub and page.keyspace != cells.cursor.keyspace:
            log.warning("keys: the hub has lost what it had; it is told all that is here")
        cells.rejoin(
            page.keyspace, page.replica, start=page.start, covers=covers,
            telling=secrets.randbits(63) | 1 if knew_a_hub and page.start else 0,
        )  # fmt: skip
        self._give(())
