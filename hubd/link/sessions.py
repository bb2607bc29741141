"""The shell around the receivers: hears edges, stores their batches, answers.

One task a lane of an edge stores its batches in order, for as long as there are any; the log
commits all edges together. So a slow or hostile edge has queues of its own, bounded, and the others
do not wait for it (I7, I8), nor does an alarm for the backlog of its own edge.
"""

import heapq
import itertools
import logging
import math
import time
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, Protocol

import trio

from edgesync._native import batch
from edgesync.errors import BatchTooLarge, RecordError, StoreError
from edgesync_transport import descriptors
from edgesync_transport import receiver as core
from edgesync_transport.link import Hearing, LinkClosed, Peer
from edgesync_transport.messages import (
    Codec,
    Lane,
    Message,
    NackCode,
    ObjectPull,
    ObjectReport,
    TunnelClose,
    TunnelData,
    TunnelOpened,
)
from edgesync_transport.receiver import Receiver, ReceiverSettings
from hubd.cells import Answers, Keyspaces
from hubd.downlink.delivery import Delivery
from hubd.link.lead import Lead, Stream
from hubd.link.rates import Rates
from hubd.log.base import ENTRY_BYTES_MAX, Append, Appended, Log, LogFull, NotAppended
from hubd.presence import Presence

log = logging.getLogger(__name__)

TICK_S: Final = 1.0
# Batches stored together for one lane of an edge; the log groups across edges by itself.
TOGETHER_MAX: Final = 16
# Below this a payload is checked faster than a thread is woken; so many rows it may stand for.
CHECK_INLINE_BYTES: Final = 8 * 1024
CHECK_INLINE_ROWS: Final = 64 * 1024
# Larger ones are unpacked so many at a time: each takes up to some 100 MB for a moment (I7).
CHECKS_AT_A_TIME: Final = 2
# What it takes to let one edge in, a handshake, a session, a question for keys, is 2 ms of a core
# (bench/fleet.py). Edges that come back together take twice as long for it: they shall find neither
# each other nor the data of those who are back in the way.
SESSION_S: Final = 0.004
# A log that is full refuses every batch of every edge: one line says so.
COMPLAIN_EVERY_S: Final = 60.0


# Batches of all edges that wait here: a large fleet is granted smaller windows, and who has one
# batch waiting no more beyond this (I7).
QUEUED_MAX: Final = 256 << 20
WINDOW_MIN: Final = 64 << 10
# Work that is stored together: what comes meanwhile from other edges goes in between.
TOGETHER_WORK: Final = 1 << 16
# What it takes to project a record that is no readings, an event say, in readings.
OTHER_WORK: Final = 64
# A projection that has not come so far by then does not keep the log back (`Lead.give_up`).
PROJECTION_WAIT_S: Final = 5.0

# Why a batch is not stored.
Problem = tuple[NackCode, str]


class Projection(Protocol):
    """Follows the log and shows it."""

    @property
    def position(self) -> int: ...
    async def changed(self) -> None: ...


class Tunnels(Protocol):
    """Takes messages of tunnels."""

    def hear(self, edge: str, message: TunnelOpened | TunnelData | TunnelClose) -> None: ...
    def session_over(self, edge: str) -> None: ...


class Objects(Protocol):
    """Takes messages about large objects."""

    def hear(self, edge: str, message: ObjectReport | ObjectPull) -> None: ...
    def session_over(self, edge: str) -> None: ...


class _Sound(NamedTuple):
    """A batch that is as it says, how many readings it holds, and other records."""

    asked: core.Store
    readings: int
    others: int

    @property
    def work(self) -> int:
        return self.readings + OTHER_WORK * self.others


class LaneQueue:
    """Batches of one lane that are to be stored, in their order."""

    def __init__(self) -> None:
        self.batches: list[core.Store] = []
        self.is_storing = False


class EdgePort:
    """One edge: its receiver, the batches to be stored, and the newest greeting not yet granted.

    The queues outlive a session: an edge that greets again and again while the disk is slow fills
    them with batches of sessions that are over. So they have limits of their own (I7).
    """

    def __init__(self, receiver: Receiver) -> None:
        limits = receiver.settings.limits
        self.receiver = receiver
        self.batches_max = 4 * limits.window_batches
        self.queues = tuple(LaneQueue() for _ in Lane)
        self.queued_bytes = 0
        self.is_connected = False
        self.wanted: core.Open | None = None
        self.is_opening = False
        self.due_at = math.inf  # when it is told the time next

    def has_room(self, nbytes: int) -> bool:
        return (
            sum(len(queue.batches) for queue in self.queues) < self.batches_max
            and self.queued_bytes + nbytes <= 2 * self.receiver.settings.limits.window_bytes
        )


class HubLink:
    """See the module. `run` lasts until cancelled or the hearing is closed.

    projection   how far the newest readings are shown: the log does not run away from it
    downlink     what edges are to be told; None: nothing is
    tunnels      to what edges can reach; None: there are none
    objects      that edges are to hold; None: there are none
    """

    def __init__(
        self,
        hearing: Hearing,
        hub_log: Log,
        presence: Presence,
        settings: ReceiverSettings,
        *,
        answers: Answers | Keyspaces | None = None,
        rates: Rates | None = None,
        projection: Projection | None = None,
        downlink: Delivery | None = None,
        tunnels: Tunnels | None = None,
        objects: Objects | None = None,
        wall_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._hearing = hearing
        self._answers = answers
        self._log = hub_log
        self._presence = presence
        self._settings = settings
        self._wall_ns = wall_ns
        self.rates = rates or Rates()
        self._projection = projection
        self.downlink = downlink
        self._tunnels = tunnels
        self._objects = objects
        self._lead = Lead()
        self._ports: dict[str, EdgePort] = {}
        # When ports are to be told the time, the next first.
        self._due: list[tuple[float, int, EdgePort]] = []
        self._nth = itertools.count()
        self._turnstile = trio.Lock()
        self._checks = trio.CapacityLimiter(CHECKS_AT_A_TIME)
        self._queued_bytes = 0
        self._quiet_until = 0.0
        self._refusals = 0
        self._nursery: trio.Nursery | None = None

    async def run(self) -> None:
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._tick)
            if self.downlink is not None:
                nursery.start_soon(self.downlink.run, self._step_edge)
            try:
                while True:
                    peer, message = await self._hearing.receive()
                    await self._heard(peer, message)
            except LinkClosed:
                nursery.cancel_scope.cancel()

    async def _step_edge(self, edge: str, event: core.Event) -> None:
        """Tell the receiver of an edge what came of its lanes, if it was ever here."""
        if edge in self._ports:
            await self._step(self._ports[edge], event)
            self._time(self._ports[edge])

    async def _heard(self, peer: Peer, message: Message) -> None:
        self._presence.seen(peer.edge)
        await self._step(self._port(peer.edge), core.Received(peer, message))

    def _port(self, edge: str) -> EdgePort:
        """Return the edge's port; only edges with a registered key get here, so they are few."""
        port = self._ports.get(edge)
        if port is None:
            port = EdgePort(Receiver(edge, self._settings))
            self._ports[edge] = port
            self._presence.watch(port.receiver)
        return port

    def session(self, edge: str) -> core.Session | None:
        """Return the live session of an edge."""
        return self._ports[edge].receiver.session if edge in self._ports else None

    async def tell(self, peer: Peer, message: Message) -> None:
        """Send what may be lost."""
        await self._hearing.send(peer, message)

    async def revoke(self, edge: str) -> None:
        """End the session of an edge whose key is no longer good."""
        self.rates.forget(edge)
        if edge in self._ports:
            await self._step(self._ports[edge], core.Revoked())

    @property
    def spread_s(self) -> float:
        """The time the fleet should take to come back, were it to lose this hub now."""
        return SESSION_S * max(len(self._ports), self._presence.registered)

    @property
    def window_bytes(self) -> int:
        """The bytes an edge may have under way, so that all of them together stay within bounds."""
        return max(WINDOW_MIN, QUEUED_MAX // max(1, len(self._ports), self._presence.registered))

    async def farewell(self) -> None:
        """Tell everybody that the hub stops, and how to come back."""
        spread_s = self.spread_s
        for port in list(self._ports.values()):
            await self._step(port, core.Stopping(spread_s))

    async def _tick(self) -> None:
        """Tell receivers the time when that is due: a heartbeat costs as much in any fleet."""
        while True:
            await trio.sleep(TICK_S)
            if descriptors.are_short():  # libzmq lets peers in and does not say what failed
                descriptors.note_shortage("link")
            now = trio.current_time()
            due: list[EdgePort] = []
            while self._due and self._due[0][0] <= now:
                due_at, _, port = heapq.heappop(self._due)
                if due_at == port.due_at:  # else it has been put forward since
                    port.due_at = math.inf
                    due.append(port)
            for port in due:  # each once: one that is due again at once waits for the next tick
                if port.receiver.due_at() <= now:
                    await self._step(port, core.Tick())
                self._time(port)

    def _time(self, port: EdgePort) -> None:
        """Let the port be looked at when something may be due; what it hears only delays that."""
        due_at = port.receiver.due_at()
        if due_at < port.due_at:
            port.due_at = due_at
            heapq.heappush(self._due, (due_at, next(self._nth), port))

    async def _step(self, port: EdgePort, event: core.Event) -> None:
        now = trio.current_time()
        effects = port.receiver.step(event, now, self._wall_ns())
        self._count(port)
        for effect in effects:
            match effect:
                case core.Transmit(peer, message):
                    await self._hearing.send(peer, message)
                case core.Store():
                    await self._enqueue(port, effect)
                case core.Open():
                    self._want(port, effect)
                case core.Asked(peer, pull):
                    if self._answers is not None:
                        self._answers.ask(peer, pull, port.receiver, self._hearing.send)
                case core.Tunnelled(message):
                    if self._tunnels is not None:
                        self._tunnels.hear(port.receiver.edge, message)
                case core.ObjectsHeard(message):
                    if self._objects is not None:
                        self._objects.hear(port.receiver.edge, message)
                case core.Load() | core.Mark() | core.Lost() | core.Rewind() | core.Dead():
                    assert self.downlink is not None
                    self.downlink.take(port.receiver.edge, effect)
                case core.Report(kind, facts):
                    edge = port.receiver.edge
                    told = self._presence.note(edge, kind, facts, now)
                    if told is not None:
                        level = logging.ERROR if kind == "two_hubs" else logging.INFO
                        log.log(level, "link: edge=%s %s %s", edge, kind, told)

    def _count(self, port: EdgePort) -> None:
        """Keep count of sessions as they begin and end: nobody goes through the fleet for it."""
        is_connected = port.receiver.session is not None
        if is_connected != port.is_connected:
            port.is_connected = is_connected
            note = self.rates.connected if is_connected else self.rates.disconnected
            note(port.receiver.edge)
            if self._tunnels is not None and not is_connected:
                self._tunnels.session_over(port.receiver.edge)
            if self._objects is not None and not is_connected:
                self._objects.session_over(port.receiver.edge)

    async def _enqueue(self, port: EdgePort, asked: core.Store) -> None:
        nbytes = len(asked.batch.payload)
        if port.queued_bytes and self._queued_bytes + nbytes > QUEUED_MAX:
            busy = _refused(asked, NackCode.BUSY, "too many edges wait for the hub at once")
            await self._step(port, busy)
        elif port.has_room(nbytes):
            port.queued_bytes += nbytes
            self._queued_bytes += nbytes
            queue = port.queues[asked.batch.lane]
            queue.batches.append(asked)
            if not queue.is_storing:
                queue.is_storing = True
                assert self._nursery is not None
                self._nursery.start_soon(self._keep_storing, port, queue)
        else:
            busy = _refused(asked, NackCode.BUSY, "too much of this edge waits for the disk")
            await self._step(port, busy)

    def _want(self, port: EdgePort, asked: core.Open) -> None:
        """Open one session at a time: of greetings that come meanwhile only the newest counts."""
        port.wanted = asked
        if not port.is_opening:
            port.is_opening = True
            assert self._nursery is not None
            self._nursery.start_soon(self._keep_opening, port)

    async def _keep_opening(self, port: EdgePort) -> None:
        while port.wanted is not None:
            # One a turn of the loop: of a fleet that comes back those who are here already, and
            # handshakes, which time out, wait for a few others and not for hundreds.
            async with self._turnstile:
                await trio.lowlevel.checkpoint()
            asked, port.wanted = port.wanted, None
            await self._open(port, asked)
        port.is_opening = False

    async def _open(self, port: EdgePort, asked: core.Open) -> None:
        edge = port.receiver.edge
        try:
            session = await self._log.open_session(edge, asked.incarnation, asked.starts)
        except StoreError as error:
            log.error("no session: edge=%s %s", edge, error)
            await self._step(port, core.OpenFailed(asked.token, "the hub cannot store now"))
            return
        down = None
        if asked.down is not None and self.downlink is not None:
            down = await self.downlink.begin(edge, asked.down)
        opened = core.Opened(
            asked.token, session.epoch, self._log.generation, session.floors, self.spread_s,
            self.window_bytes, down,
        )  # fmt: skip
        await self._step(port, opened)
        if self.downlink is not None:
            await self.downlink.begun(edge)
        self._time(port)

    async def _keep_storing(self, port: EdgePort, queue: LaneQueue) -> None:
        while asked := queue.batches[:TOGETHER_MAX]:
            del queue.batches[:TOGETHER_MAX]
            await self._store(port, asked)
            nbytes = sum(len(one.batch.payload) for one in asked)
            port.queued_bytes -= nbytes
            self._queued_bytes -= nbytes
        queue.is_storing = False

    async def _store(self, port: EdgePort, asked: Sequence[core.Store]) -> None:
        """Check and store batches in order, and answer them. What follows a bad one is a gap."""
        refused: list[core.Stored] = []
        sound: list[_Sound] = []
        for one in asked:
            session = port.receiver.session
            if session is None or session.epoch != one.batch.epoch:
                continue  # nobody waits for the answer, and the next session finds the floor
            checked = await self._check(port.receiver.edge, one)
            if isinstance(checked, core.Stored):
                refused.append(checked)
                continue
            sound.append(checked)
            if sum(one.work for one in sound) >= TOGETHER_WORK:
                await self._append(port, sound)
                sound = []
        await self._append(port, sound)
        for answer in refused:
            await self._step(port, answer)

    async def _check(self, edge: str, asked: core.Store) -> _Sound | core.Stored:
        """Return the batch if it is to be stored; what is refused for now is not looked at."""
        lane, now = asked.batch.lane, trio.current_time()
        pause = self.rates.pause(edge, lane, now)
        if pause is not None and self.rates.refuses(pause):
            return _refused(asked, NackCode.BUSY, pause.reason, pause.seconds)
        found = await _look_at(asked, self._checks)
        readings = found.readings if isinstance(found, _Sound) else 0
        self.rates.take(edge, readings, len(asked.batch.payload), trio.current_time())
        return found if isinstance(found, _Sound) else _refused(asked, *found)

    async def _append(self, port: EdgePort, sound: Sequence[_Sound]) -> None:
        """Store batches once the log may go on, and answer them."""
        if not sound:
            return
        edge = port.receiver.edge
        stream = edge, sound[0].asked.batch.lane
        await self._wait_for_projection(stream, sum(one.work for one in sound))
        try:
            results = await self._log.append([_append(edge, one.asked) for one in sound])
        except StoreError as error:
            self._complain(edge, error)
            reason = str(error) if isinstance(error, LogFull) else "the hub cannot store now"
            answers = [_refused(one.asked, NackCode.BUSY, reason) for one in sound]
        except Exception:  # A bug of ours; what one edge sends may not end the others' link: I8.
            log.exception("batches not stored: edge=%s", edge)
            reason = "the hub failed, see its log"
            answers = [_refused(one.asked, NackCode.BUSY, reason) for one in sound]
        else:
            self._note_lead(stream, sound, results)
            answers = [
                self._stored(edge, one.asked, result)
                for one, result in zip(sound, results, strict=True)
            ]
        for answer in answers:
            await self._step(port, answer)

    def _stored(self, edge: str, asked: core.Store, result: Appended | NotAppended) -> core.Stored:
        if isinstance(result, NotAppended):
            return core.Stored(
                asked.token, result.floor, 0, code=result.code, is_stale=result.code is None,
                reason=result.reason,
            )  # fmt: skip
        pause = self.rates.pause(edge, asked.batch.lane, trio.current_time())
        if pause is None:
            return core.Stored(asked.token, result.floor, result.safe)
        return core.Stored(
            asked.token, result.floor, result.safe, reason=pause.reason, pause_s=pause.seconds
        )

    def _note_lead(
        self, stream: Stream, sound: Sequence[_Sound], results: Sequence[Appended | NotAppended]
    ) -> None:
        if self._projection is None:
            return
        for one, result in zip(sound, results, strict=True):
            if isinstance(result, Appended) and result.position:
                self._lead.add(result.position, stream, one.work, trio.current_time())

    async def _wait_for_projection(self, stream: Stream, work: int) -> None:
        """Return when so much may go into the log without that others are shown late (I8).

        What is made again from its beginning moves, and does not come to what was added for long.
        """
        if self._projection is None:
            return
        lead, done = self._lead, self._lead.done
        lead.reached(self._projection.position, trio.current_time())
        with trio.move_on_after(PROJECTION_WAIT_S) as patience:
            while not lead.has_room(stream, work):
                await self._projection.changed()
                lead.reached(self._projection.position, trio.current_time())
        if patience.cancelled_caught and lead.done == done:
            lead.give_up()

    def _complain(self, edge: str, error: StoreError) -> None:
        """Log why batches are refused, once in a while."""
        self._refusals += 1
        now = trio.current_time()
        if now >= self._quiet_until:
            log.error("batches not stored: edge=%s refused=%d %s", edge, self._refusals, error)
            self._quiet_until, self._refusals = now + COMPLAIN_EVERY_S, 0


async def _look_at(asked: core.Store, checks: trio.CapacityLimiter) -> Problem | _Sound:
    """Return the batch with what its payload holds, or why it cannot be applied."""
    payload = asked.batch.payload
    if asked.batch.codec in (Codec.DEAD, Codec.GAP):
        return _Sound(asked, 0, 1)
    try:
        rows = batch.raw_size(payload)
    except RecordError as error:
        return NackCode.POISON, str(error)
    if rows > ENTRY_BYTES_MAX:
        return NackCode.TOO_LARGE, f"records of {rows} bytes; at most {ENTRY_BYTES_MAX} in a batch"
    if len(payload) <= CHECK_INLINE_BYTES and rows <= CHECK_INLINE_ROWS:
        return _decode(asked)
    return await trio.to_thread.run_sync(_decode, asked, limiter=checks)


def _decode(asked: core.Store) -> Problem | _Sound:
    one = asked.batch
    try:
        table, others = batch.table(one.codec, one.payload, limit_bytes=ENTRY_BYTES_MAX)
        count = sum(count for _, _, count in batch.ids(one.codec, one.payload))
        chain = batch.last_chain(one.codec, one.payload, one.prev_chain)
    except BatchTooLarge as error:
        return NackCode.TOO_LARGE, str(error)
    except RecordError as error:
        return NackCode.POISON, str(error)
    if count != one.last - one.first + 1:
        return NackCode.POISON, f"{count} records in a batch of {one.last - one.first + 1}"
    if chain != one.last_chain:
        return NackCode.CHAIN, "the records do not lead to the running hash they came with"
    return _Sound(asked, len(table.times), len(others))


def _append(edge: str, asked: core.Store) -> Append:
    one = asked.batch
    return Append(
        edge=edge,
        epoch=one.epoch,
        incarnation=one.incarnation,
        lane=one.lane,
        first=one.first,
        last=one.last,
        prev_chain=one.prev_chain,
        last_chain=one.last_chain,
        codec=one.codec,
        payload=one.payload,
        reason=one.reason,
    )


def _refused(asked: core.Store, code: NackCode, reason: str, pause_s: float = 0.0) -> core.Stored:
    return core.Stored(asked.token, 0, 0, code=code, reason=reason, pause_s=pause_s)
