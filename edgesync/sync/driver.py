"""Carries out what the sender decides: connects, reads, packs, sends, remembers.

Four kinds of task share one `Sender`, which is stepped only from Trio's thread: the session (one
link after the other), the readers (one a lane: journal to packed batch), the keeper (marks, rewinds
and forks, in order, into the store) and the clock. Taking in readings never waits for any of them.
"""

import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Mapping
from random import Random
from typing import Final, Protocol

import trio

from edgesync._native import batch
from edgesync.errors import StoreError
from edgesync.store.journal import EdgeStore
from edgesync.sync.inbound import Inbound, InboundQueue
from edgesync.sync.outbox import Outbox
from edgesync_transport import sender as core
from edgesync_transport.backoff import Backoff, BackoffSettings
from edgesync_transport.breaker import Breaker, BreakerSettings
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.link import Connect, Link, LinkClosed
from edgesync_transport.messages import (
    Codec,
    ConflictReport,
    Lane,
    Message,
    ObjectListing,
    ObjectPart,
    Page,
    Pull,
    TunnelClose,
    TunnelData,
    TunnelOpen,
)
from edgesync_transport.sender import Sender

log = logging.getLogger(__name__)

# Fewer records than this are read and packed faster than a thread is woken.
INLINE_RECORDS: Final = 64
# A drain walks through the whole map: pages that were read must not stay resident.
RELEASE_BYTES: Final = 256 * 1024
# Marks of the floor are stored together: losing one costs a resend, never a record.
MARK_INTERVAL_S: Final = 0.05
DISK_RETRY_S: Final = 0.5
# How often a hub that does not answer is looked for, at most twice as seldom.
LOOK_S: Final = 0.05
# Looking that goes on for less is not begun anew, however often somebody asks for a retry.
LOOK_AGAIN_S: Final = 1.0
# Something may be due that a Tick cannot change, such as a batch while the window is full.
TICK_MIN_S: Final = 0.001


Chore = core.Mark | core.Rewind | core.Fork


class Unanswered(LinkClosed):
    """Looking for the hub has ended without an answer."""

    retry_after_s = 0.0


class Watcher(Protocol):
    """Who is told what an operator should see."""

    def link_report(self, kind: str, facts: Mapping[str, str | int | float]) -> None: ...

    def record_dead(self, lane: Lane, seq: int, reason: str) -> None: ...

    def records_lost(self, lane: Lane, first: int, last: int, reason: str) -> None: ...

    def hub_forgot(self, generation: bytes) -> None: ...


class Tunnels(Protocol):
    """Who lets the hub connect to what this edge can reach."""

    def hear(self, message: TunnelOpen | TunnelData | TunnelClose) -> None: ...

    def session_over(self) -> None: ...


class Objects(Protocol):
    """Who holds large objects that the hub assigns."""

    def hear(self, message: ObjectListing | ObjectPart) -> None: ...

    def session_changed(self) -> None: ...


class SyncDriver:
    """See the module. `run` lasts until cancelled."""

    def __init__(
        self,
        store: EdgeStore,
        connect: Connect,
        watcher: Watcher,
        *,
        settings: SenderSettings,
        backoff: BackoffSettings,
        breaker: BreakerSettings,
        random: Random,
        wall_ns: Callable[[], int] = time.time_ns,
        generation: bytes = b"",
        inbound: Inbound | None = None,
        tunnels: Tunnels | None = None,
        objects: Objects | None = None,
    ) -> None:
        self._store = store
        self._connect = connect
        self._watcher = watcher
        self._random = random
        self._backoff = Backoff(backoff, random)
        # A session that lasts less, and takes nothing, is begun anew as if it had been refused.
        self._stable_s = backoff.base_s
        self.breaker = Breaker(breaker)
        self.sender = Sender(
            lane_positions(store),
            incarnation=store.incarnation,
            chain_at=store.journal.chain_at,
            wall_ns=wall_ns,
            random=random,
            settings=settings,
            generation=generation,
            down=None if inbound is None else inbound.floors,
            tunnels=tunnels is not None,
            objects=objects is not None,
        )
        self._tunnels = tunnels
        self._objects = objects
        self.inbound = inbound
        self._inbound_queue = None if inbound is None else InboundQueue(inbound, self._step)
        self.last_problem = ""
        self.reconnects = 0
        # Who keeps the keys; without any, nobody asks the hub for them.
        self.on_hear: Callable[[Page | ConflictReport], None] = lambda _message: None
        self.on_session: Callable[[], None] = lambda: None
        self._outbox: Outbox | None = None
        self._session: trio.CancelScope | None = None
        self._hangup: core.Hangup | None = None
        self._loads: dict[Lane, core.Load] = {}
        self._wanted = {lane: trio.Event() for lane in Lane}
        self._chores: deque[Chore] = deque()
        self._has_chores = trio.Event()
        self._settled = trio.Event()
        self._settled.set()
        self._moved = trio.Event()
        self._session_changed = trio.Event()
        self._poke = trio.Event()
        self._is_hub_away = False  # nobody answered the last attempt
        self._was_cut_short = False  # the last session, before anything came of it
        self._was_hung_up_on = False  # the last link, by the other side and without a word
        self._look = trio.CancelScope()
        self._look_since = 0.0
        self._nap = trio.CancelScope()

    @property
    def tick_at(self) -> float:
        """When the sender is next told the time, on Trio's clock."""
        return self._nap.deadline

    # -- what the node calls ---------------------------------------------------------------------

    def grown(self, tails: tuple[int, int, int]) -> None:
        """The journal has grown to `tails`."""
        for lane in Lane:
            if tails[lane] > self.sender.lanes[lane].tail:
                self._step(core.Grown(lane, tails[lane]))

    def gone(self, lane: Lane, up_to: int) -> None:
        """The journal has lost its records up to `up_to` to a policy."""
        if up_to > self.sender.lanes[lane].trimmed:
            self._step(core.Trimmed(lane, up_to))

    def retry_now(self) -> None:
        """Try to connect at once, whatever backoff and breaker say."""
        self._poke.set()
        if self._is_hub_away and trio.current_time() - self._look_since >= LOOK_AGAIN_S:
            self._look.cancel()

    @property
    def epoch(self) -> int:
        """Number of the session; 0 while there is none."""
        return self.sender.epoch if self.sender.state is core.State.STREAMING else 0

    async def wait_session(self, beside: int = 0) -> int:
        """Return the number of the session once there is one, other than `beside`."""
        while self.epoch in (0, beside):
            await self._session_changed.wait()
        return self.epoch

    def ask(self, pull: Pull) -> None:
        """Send a question; it is lost when its session is over."""
        if pull.epoch == self.epoch:
            self._transmit(pull)

    def tell(self, message: Message) -> bool:
        """Send what may be lost: with its session, or because the link does not move.

        Returns whether it is on its way.
        """
        is_of_now = getattr(message, "epoch", 0) == self.epoch
        return self._outbox is not None and is_of_now and self._outbox.put_extra(message)

    async def wait_durable(self, tails: tuple[int, int, int]) -> None:
        """Return once the hub has everything up to `tails`."""
        while any(self.sender.lanes[lane].floor < tails[lane] for lane in Lane):
            await self._moved.wait()

    async def wait_floor(self, lane: Lane, seq: int) -> None:
        """Return once the hub has the records of a lane up to `seq`."""
        while self.sender.lanes[lane].floor < seq:
            await self._moved.wait()

    # -- tasks -----------------------------------------------------------------------------------

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            for lane in Lane:
                nursery.start_soon(self._keep_reading, lane)
            nursery.start_soon(self._keep_chores)
            nursery.start_soon(self._keep_time)
            if self._inbound_queue is not None:
                nursery.start_soon(self._inbound_queue.run)
            await self._keep_connected()

    async def _keep_connected(self) -> None:
        while True:
            wait_s = self.breaker.wait_s(trio.current_time())
            if wait_s:
                await self._pause(wait_s)
            self.breaker.attempt(trio.current_time())
            try:
                link = await self._reach()
            except LinkClosed as closed:
                pause_s = self._failed(closed)
            else:
                self._is_hub_away = False
                began, had = trio.current_time(), self._durable()
                hangup = await self._one_session(link)
                is_stable = trio.current_time() - began >= self._stable_s
                pause_s = self._judge(hangup, has_served=is_stable or self._durable() > had)
            self._poke = trio.Event()  # whoever asks from here on wants no pause
            while not self._settled.is_set():
                await self._settled.wait()  # a fork must be durable before the next greeting
            if self._inbound_queue is not None:
                await self._inbound_queue.empty()  # and so must what the hub told (D9)
            if pause_s:
                await self._pause(pause_s)

    async def _reach(self) -> Link:
        """Return a link to a hub that answers; raises LinkClosed.

        The first attempt is made once; a hub that is not there is looked for until it is.
        """
        look_s = max(LOOK_S, self.sender.spread_s / 2) if self._is_hub_away else None
        link = await self._connect(look_s)
        self._look_since = trio.current_time()
        try:
            with trio.CancelScope() as self._look:
                await link.wait_up()
                return link
        except BaseException:
            await self._drop(link)
            raise
        await self._drop(link)
        raise Unanswered("asked to try again")

    async def _drop(self, link: Link) -> None:
        with trio.CancelScope(shield=True):
            await link.aclose()

    def _failed(self, closed: LinkClosed) -> float:
        """Return how long to wait after an attempt that led to no session.

        Back-off and breaker spare a hub that answers and refuses; looking for one that does not
        answer costs nobody anything, and it is to be found at once when it comes back. But those
        who lose a hub together begin to look at times of their own, or they would go on together.
        """
        self._note_problem(str(closed))
        if closed.retry_after_s is None:
            return self._refused(0.0)
        first_s = 0.0 if self._is_hub_away else self._random.uniform(0.0, self.sender.spread_s)
        self._is_hub_away = True
        self.breaker.unanswered()
        return max(first_s, closed.retry_after_s)

    def _refused(self, retry_after_s: float) -> float:
        self._is_hub_away = False
        self.reconnects += 1
        self.breaker.failed(trio.current_time())
        return max(self._backoff.next_s(), retry_after_s)

    def _durable(self) -> int:
        """Return how many records the hub has, as far as is known."""
        return sum(lane.floor for lane in self.sender.lanes)

    def _judge(self, hangup: core.Hangup, *, has_served: bool) -> float:
        """Return how long to wait after a session, or a greeting that led to none.

        has_served   it took something or lasted a while: what ended it is worth no pause

        Nor is what ended one session, or its greeting, too early: a hub may be stopped just when it
        is found.
        """
        self._note_problem(hangup.reason)
        if not hangup.is_success and (self._was_cut_short or not self._was_hung_up_on):
            return self._refused(hangup.retry_after_s)
        self.reconnects += 1
        if hangup.is_success:
            self.breaker.succeeded()
        else:
            self.breaker.unanswered()
        pauses = self._was_cut_short and not has_served
        self._was_cut_short = not has_served
        if not pauses:
            self._backoff.reset()
        return max(self._backoff.next_s() if pauses else 0.0, hangup.retry_after_s)

    async def _pause(self, seconds: float) -> None:
        with trio.move_on_after(seconds):
            await self._poke.wait()

    def _note_problem(self, reason: str) -> None:
        if reason != self.last_problem:
            log.info("link: %s", reason)
        self.last_problem = reason

    async def _one_session(self, link: Link) -> core.Hangup:
        """Run one link until it ends; returns why, and whether the attempt counts as good."""
        self._hangup, self._was_hung_up_on = None, False
        try:
            with trio.CancelScope() as self._session:
                await self._talk(link)
        except* LinkClosed as closed:
            self._was_hung_up_on = self._hangup is None
            self._carry_out(core.Hangup(str(closed.exceptions[0])))
        finally:
            self._outbox = None
            was_granted = self.sender.state is core.State.STREAMING
            with trio.CancelScope(shield=True):
                await self._part(link)
        hangup = self._ended()
        self._step(core.LinkDown(hangup.reason))
        if was_granted and not hangup.is_success:
            return core.Hangup(hangup.reason, hangup.retry_after_s, is_success=True)
        return hangup

    def _ended(self) -> core.Hangup:
        return self._hangup or core.Hangup("the link ended")

    async def _part(self, link: Link) -> None:
        """Close the link; say goodbye when it is we who stop."""
        if self.sender.state is core.State.STREAMING and self._hangup is None:
            with trio.move_on_after(1.0), contextlib.suppress(LinkClosed):
                await self._farewell(link)
        await link.aclose()

    async def _farewell(self, link: Link) -> None:
        for effect in self.sender.step(core.Stop(), trio.current_time()):
            if isinstance(effect, core.Transmit):
                await link.send(effect.message)

    async def _talk(self, link: Link) -> None:
        self._outbox = Outbox()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._keep_sending, link, self._outbox)
            self._step(core.LinkUp())
            while True:
                self._step(core.Received(await link.receive()))

    async def _keep_sending(self, link: Link, outbox: Outbox) -> None:
        while True:
            await link.send(await outbox.take())

    async def _keep_time(self) -> None:
        while True:
            due = self.sender.due_at(trio.current_time())
            with trio.CancelScope(deadline=due) as self._nap:
                await trio.sleep_forever()
            self._step(core.Tick())
            await trio.sleep(TICK_MIN_S)

    async def _keep_reading(self, lane: Lane) -> None:
        """Answer Load effects of one lane: journal to packed batch."""
        while True:
            await self._wanted[lane].wait()
            self._wanted[lane] = trio.Event()
            asked = self._loads.pop(lane, None)
            if asked is None:
                continue
            try:
                if min(asked.limit_records, asked.last_max - asked.first + 1) <= INLINE_RECORDS:
                    answer = self._read(asked)
                    await trio.lowlevel.checkpoint()
                else:
                    answer = await trio.to_thread.run_sync(self._read, asked)
            except StoreError as error:
                await self._wait_for_disk(error)
                self._loads.setdefault(lane, asked)
                self._wanted[lane].set()
            else:
                self._step(answer)

    async def _wait_for_disk(self, error: StoreError) -> None:
        """A disk that refuses delays the link; taking in readings says so for itself (I8)."""
        log.error("link waits for the disk: %s", error)
        await trio.sleep(DISK_RETRY_S)

    def _read(self, asked: core.Load) -> core.Loaded | core.LoadedNothing:
        rows = self._store.read(
            asked.lane,
            asked.first,
            limit_records=min(asked.limit_records, asked.last_max - asked.first + 1),
            limit_bytes=asked.limit_bytes,
        )
        if rows.first > rows.last:
            return core.LoadedNothing(asked.lane, asked.first)
        if len(rows.data) >= RELEASE_BYTES:
            self._store.store.release_pages()
        codec, payload = batch.pack(rows.data, prev_chain=rows.prev_chain)
        return core.Loaded(
            lane=asked.lane,
            first=rows.first,
            last=rows.last,
            prev_chain=rows.prev_chain,
            last_chain=rows.last_chain,
            codec=Codec(codec),
            payload=payload,
        )

    async def _keep_chores(self) -> None:
        """Store marks, rewinds and forks in the order in which they were decided."""
        while True:
            await self._has_chores.wait()
            while self._chores:
                chore = self._chores[0]
                try:
                    await self._do(chore)
                except StoreError as error:
                    await self._wait_for_disk(error)
                    continue
                # While it was done a newer mark may have taken its place, to be done as well.
                if self._chores and self._chores[0] is chore:
                    self._chores.popleft()
            self._has_chores = trio.Event()
            self._settled.set()
            await trio.sleep(MARK_INTERVAL_S)

    async def _do(self, chore: Chore) -> None:
        match chore:
            case core.Mark(lane, floor, safe):
                await self._store.acknowledge(lane, floor, safe)
                self._step(core.Trimmed(lane, self._store.state(lane).trimmed))
            case core.Rewind(lane, floor):
                await trio.to_thread.run_sync(self._store.rewind, lane, floor)
            case core.Fork():
                incarnation = await self._store.fork()
                self._step(core.Forked(incarnation, lane_positions(self._store)))

    # -- effects ---------------------------------------------------------------------------------

    def _step(self, event: core.Event) -> None:
        now, epoch = trio.current_time(), self.epoch
        for effect in self.sender.step(event, now):
            self._carry_out(effect)
        if self.epoch != epoch:
            self._session_changed.set()
            self._session_changed = trio.Event()
            self.on_session()
            if self._tunnels is not None:
                self._tunnels.session_over()
            if self._objects is not None:
                self._objects.session_changed()
        # What has just happened may be due before what the clock was set to.
        self._nap.deadline = min(self._nap.deadline, self.sender.due_at(now))

    def _carry_out(self, effect: core.Effect) -> None:
        match effect:
            case core.Transmit(message):
                self._transmit(message)
            case core.Load():
                self._loads[effect.lane] = effect
                self._wanted[effect.lane].set()
            case core.Store(token, batch):
                assert self._inbound_queue is not None
                self._inbound_queue.put(token, batch)
            case core.DownBegun(incarnation, floors):
                assert self.inbound is not None
                self.inbound.begin(incarnation, floors)
            case core.Mark():
                self._moved.set()
                self._moved = trio.Event()
                self._add_chore(effect)
            case core.Rewind() | core.Fork():
                self._add_chore(effect)
            case core.Dead(lane, seq, reason):
                self._watcher.record_dead(lane, seq, reason)
            case core.Lost(lane, first, last, reason):
                self._watcher.records_lost(lane, first, last, reason)
            case core.Forgotten(generation):
                self._watcher.hub_forgot(generation)
            case core.Hear(message):
                self.on_hear(message)
            case core.Tunnelled(message):
                if self._tunnels is not None:
                    self._tunnels.hear(message)
            case core.ObjectsHeard(message):
                if self._objects is not None:
                    self._objects.hear(message)
            case core.Report(kind, facts):
                self._watcher.link_report(kind, facts)
            case core.Hangup():
                self._hangup = self._hangup or effect
                if self._session is not None:
                    self._session.cancel()

    def _transmit(self, message: Message) -> None:
        if self._outbox is not None and not self._outbox.put_needed(message):
            # The windows keep far fewer under way: the link does not move at all.
            self._carry_out(core.Hangup("the link takes no more messages"))

    def _add_chore(self, chore: Chore) -> None:
        if isinstance(chore, core.Mark):
            for nth, waiting in enumerate(self._chores):
                if isinstance(waiting, core.Mark) and waiting.lane == chore.lane:
                    self._chores[nth] = chore
                    return
        else:
            lane = getattr(chore, "lane", None)
            kept = [
                one
                for one in self._chores
                if not (isinstance(one, core.Mark) and lane in (None, one.lane))
            ]
            self._chores = deque(kept)
        if self._settled.is_set():  # who waits for one that is not set must be woken by it
            self._settled = trio.Event()
        self._chores.append(chore)
        self._has_chores.set()


def lane_positions(store: EdgeStore) -> tuple[LanePositions, LanePositions, LanePositions]:
    """Where the lanes of the store stand, as the sender wants to know it."""
    found: list[LanePositions] = []
    for lane in Lane:
        state, start = store.state(lane), store.start(lane)
        found.append(
            LanePositions(
                tail=state.tail,
                floor=state.floor,
                safe=state.safe,
                trimmed=state.trimmed,
                start=start.seq,
                start_chain=start.chain,
            )
        )
    return (found[0], found[1], found[2])
