"""The sending half of a link, without sockets, disk, clock or chance.                   [sans-IO]

Events go in, effects come out; the shell carries them out. On every lane

    safe <= floor <= sent <= tail                                                            # I3

    floor   highest seq the receiver has made durable
    sent    highest seq handed to the link since the session began
    tail    highest seq in the journal

The session is here: who greets, who is believed, when a link is dead. What happens on a lane
(`lanes/sender.py`) knows nothing of it, and serves either direction.

Rules R1 to R12, and D1 to D12 of the lanes from the hub, are explained in docs/protocol.md.
"""

import enum
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from edgesync_transport.lanes.acktimes import AckTimes
from edgesync_transport.lanes.events import (
    Dead,
    DownFloors,
    Effect,
    Event,
    Grown,
    Hangup,
    Load,
    Loaded,
    LoadedNothing,
    Lost,
    Mark,
    Report,
    Rewind,
    Store,
    Stored,
    Transmit,
    Trimmed,
)
from edgesync_transport.lanes.receiver import LaneReceiver
from edgesync_transport.lanes.sender import PAUSE_MAX_S, LaneSender, Slowdown
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    Ack,
    Batch,
    Bye,
    ConflictReport,
    Feature,
    Hello,
    Lane,
    LaneFloor,
    LaneOffer,
    Limits,
    Message,
    Nack,
    ObjectListing,
    ObjectPart,
    Page,
    Ping,
    Pong,
    RefuseCode,
    Refused,
    TunnelClose,
    TunnelData,
    TunnelOpen,
    Welcome,
)

if TYPE_CHECKING:
    from random import Random

__all__ = [
    "PAUSE_MAX_S",
    "Dead",
    "DownBegun",
    "DownFloors",
    "Effect",
    "Event",
    "Forgotten",
    "Fork",
    "Forked",
    "Grown",
    "Hangup",
    "Hear",
    "LinkDown",
    "LinkStatus",
    "LinkUp",
    "Load",
    "Loaded",
    "LoadedNothing",
    "Lost",
    "Mark",
    "ObjectsHeard",
    "Received",
    "Report",
    "Rewind",
    "Sender",
    "State",
    "Stop",
    "Store",
    "Stored",
    "Tick",
    "Transmit",
    "Trimmed",
    "Tunnelled",
]  # fmt: skip


class State(enum.Enum):
    DOWN = "down"
    GREETING = "greeting"
    STREAMING = "streaming"
    FORKING = "forking"  # a new incarnation is being stored
    STOPPED = "stopped"


class LinkStatus(enum.Enum):
    """What an operator is shown (S12)."""

    CONNECTED = "Connected"
    PROCESSING = "Processing"
    DISCONNECTED = "Disconnected"
    QUEUING = "Queuing"
    RECONNECTING = "Reconnecting"
    DRAINING = "Draining"


class LinkUp(Event, frozen=True):
    """There is a link to talk over; whether anybody answers is not known yet."""


class LinkDown(Event, frozen=True):
    reason: str = ""


class Received(Event, frozen=True):
    message: Message


class Forked(Event, frozen=True):
    """The answer to Fork: the new incarnation is durable."""

    incarnation: bytes
    lanes: tuple[LanePositions, LanePositions, LanePositions]


class Tick(Event, frozen=True):
    """Time has passed. Due at `Sender.due_at`."""


class Stop(Event, frozen=True):
    """Say goodbye; nothing more is sent."""


class Fork(Effect, frozen=True):
    """The receiver knows another history: take a new incarnation, durably, answer Forked (R4)."""

    reason: str


class DownBegun(Effect, frozen=True):
    """Batches of the hub's journal `incarnation` follow on `floors`: those told, or its start."""

    incarnation: bytes
    floors: tuple[LaneFloor, ...]


class Hear(Effect, frozen=True):
    """The hub tells of its keys: the business of whoever keeps them (edgesync/sync/cells.py)."""

    message: Page | ConflictReport


class ObjectsHeard(Effect, frozen=True):
    """The hub tells of large objects, or sends a part of one (edgesync/objects/part.py)."""

    message: ObjectListing | ObjectPart


class Tunnelled(Effect, frozen=True):
    """The hub wants a tunnel, or sends something through one (edgesync/tunnel/part.py)."""

    message: TunnelOpen | TunnelData | TunnelClose


class Forgotten(Effect, frozen=True):
    """The receiver has lost something it once had, or is met first: what is told once is due."""

    generation: bytes


# What may happen when; everything else is late news of a link already given up, and dropped.
TRANSITIONS: Final[dict[tuple[State, type[Event]], State]] = {
    (State.DOWN, LinkUp): State.GREETING,
    (State.GREETING, LinkDown): State.DOWN,
    (State.STREAMING, LinkDown): State.DOWN,
    (State.FORKING, LinkDown): State.FORKING,
    (State.FORKING, Forked): State.DOWN,
    (State.DOWN, Stop): State.STOPPED,
    (State.GREETING, Stop): State.STOPPED,
    (State.STREAMING, Stop): State.STOPPED,
    (State.FORKING, Stop): State.STOPPED,
}

# Refusals that a quick retry cannot heal wait this long at least.
REFUSED_RETRY_S: Final[dict[RefuseCode, float]] = {
    RefuseCode.BAD_CREDENTIALS: 60.0,
    RefuseCode.UNSUPPORTED_VERSION: 300.0,
    RefuseCode.SUPERSEDED: 10.0,
    RefuseCode.RATE_LIMITED: 10.0,
    RefuseCode.UNAVAILABLE: 3.0,
    RefuseCode.STALE_EPOCH: 0.0,
}


# What a receiver may ask for at most: a fleet of 15,000.
SPREAD_MAX_S: Final = 60.0
# Of batches from the hub that are being stored.
DOWN_IN_STORE_MAX: Final = 24
# Starts of the receiver that are remembered, to notice one that comes back.
STARTS_MAX: Final = 8


class Sender:
    """See the module.

    chain_at    looks the running hash at (lane, seq) up in the journal; None if it is not known
    wall_ns     wall clock, which only travels to be compared (I5)
    generation  of the receiver's store, as it was known last
    down        returns where the lanes from the hub stand on disk; None: none are wanted
    tunnels     whether the hub may ask for tunnels
    objects     whether the edge holds large objects of the hub

    One link at a time: after LinkDown everything in flight is forgotten.
    """

    lane_sender = LaneSender

    def __init__(
        self,
        lanes: tuple[LanePositions, LanePositions, LanePositions],
        *,
        incarnation: bytes,
        chain_at: Callable[[Lane, int], int | None],
        wall_ns: Callable[[], int],
        random: "Random",
        settings: SenderSettings | None = None,
        generation: bytes = b"",
        down: Callable[[], DownFloors] | None = None,
        tunnels: bool = False,
        objects: bool = False,
    ) -> None:
        self.state = State.DOWN
        self.incarnation = incarnation
        self.epoch = 0
        self.generation = generation
        self.two_hubs = False
        self.called = ""  # what the receiver calls this sender; "": it has not told
        self._starts: list[int] = []
        self.restore_safe = False
        self.rtt_s: float | None = None
        self.clock_offset_s: float | None = None
        # How long edges take that come back to this receiver together, as it told.
        self.spread_s = 0.0
        self.settings = settings or SenderSettings()
        self.limits = Limits()
        self._chain_at = chain_at
        self._wall_ns = wall_ns
        self._random = random
        self._nonce = 0
        self._token = 0
        self._pings: dict[int, float] = {}
        self._since = 0.0  # of the present state
        self._heard_at = 0.0
        self._pinged_at = 0.0
        self._heartbeat_s = self.settings.heartbeat_s
        self._was_connected = False
        self._is_skewed = False
        self._slowdown = Slowdown()
        self._ack_times = tuple(AckTimes() for _ in Lane)  # a fork makes the lanes anew
        self.lanes = self._windows(lanes)
        self._down = down
        self._tunnels = tunnels
        self._objects = objects
        self.has_downlink = False
        self.features = Feature(0)
        self.down_lanes = tuple(LaneReceiver(lane, Limits().batch_bytes) for lane in Lane)

    def _windows(
        self, lanes: tuple[LanePositions, LanePositions, LanePositions]
    ) -> tuple[LaneSender, LaneSender, LaneSender]:
        critical, normal, bulk = (
            self.lane_sender(lane, positions, self.settings, self._chain_at, self._slowdown)
            for lane, positions in zip(Lane, lanes, strict=True)
        )
        for window, times in zip((critical, normal, bulk), self._ack_times, strict=True):
            window.ack_times = times
        return (critical, normal, bulk)

    @property
    def backlog(self) -> int:
        """Records not yet known to be durable at the receiver."""
        return sum(lane.tail - lane.floor for lane in self.lanes)

    @property
    def last_start(self) -> int:
        """The start of the hub that the last session was with; 0 for none that said."""
        return self._starts[-1] if self._starts else 0

    def slowed(self, now: float) -> str:
        """Return why the receiver takes less than there is; empty when it takes all."""
        return self._slowdown.reason(now) if self.epoch else ""

    def status(self) -> LinkStatus:
        """Return the state of S12; Draining is a backlog larger than what may be in flight."""
        if self.state is State.STREAMING:
            in_flight = sum(len(lane.in_flight) for lane in self.lanes)
            if any(lane.sent < lane.tail for lane in self.lanes):
                return LinkStatus.DRAINING
            return LinkStatus.PROCESSING if in_flight else LinkStatus.CONNECTED
        if self.state is State.GREETING and self._was_connected:
            return LinkStatus.RECONNECTING
        return LinkStatus.QUEUING if self.backlog else LinkStatus.DISCONNECTED

    def step(self, event: Event, now: float) -> list[Effect]:
        """Take one event at monotonic time `now` (seconds), return what to do about it."""
        target = TRANSITIONS.get((self.state, type(event)))
        effects: list[Effect] = []
        match event:
            case LinkUp() if target:
                effects = self._greet(now)
            case LinkDown() if target:
                self._drop_session()
            case Forked() if target:
                self._forked(event)
            case Stop() if target:
                if self.state is State.STREAMING:
                    effects = [Transmit(Bye(epoch=self.epoch, reason="stopping"))]
                self._drop_session()
            case Received(message) if self.state in (State.GREETING, State.STREAMING):
                self._heard_at = now
                effects = self._received(message, now)
            case Grown(lane, tail):
                effects = self.lanes[lane].grown(tail, now)
            case Trimmed(lane, up_to):
                effects = self.lanes[lane].trim(up_to, now)
            case Loaded():
                effects = self.lanes[event.lane].loaded(event, now)
            case LoadedNothing(lane, first):
                effects = self.lanes[lane].loaded_nothing(first, now)
            case Stored():
                effects = self._stored(event)
            case Tick():
                effects = self._tick(now)
            case _:
                pass
        if target:
            self.state = target
            self._since = now
        for window in self.lanes:
            window.check()
        return effects

    # -- session ---------------------------------------------------------------------------------

    def _greet(self, now: float) -> list[Effect]:
        self._nonce = self._random.getrandbits(63) + 1
        self._heard_at = self._pinged_at = now
        known = self._down() if self._down is not None else None
        features = Feature.RESENT
        features |= Feature.DOWNLINK if known is not None else Feature(0)
        features |= Feature.TUNNEL if self._tunnels else Feature(0)
        features |= Feature.OBJECTS if self._objects else Feature(0)
        return [Transmit(Hello(
            nonce=self._nonce,
            incarnation=self.incarnation,
            lanes=(self._offer(0), self._offer(1), self._offer(2)),
            clock_ns=self._wall_ns(),
            software=self.settings.software,
            heartbeat_s=self.settings.heartbeat_s,
            last_start=self.last_start,
            features=int(features),
            down_incarnation=known.incarnation if known is not None else b"",
            down_floors=known.lanes if known is not None else (),
        ))]  # fmt: skip

    def _offer(self, lane: int) -> LaneOffer:
        window = self.lanes[lane]
        return LaneOffer(
            tail=window.tail,
            trimmed=window.trimmed,
            start=window.start,
            start_chain=window.start_chain,
        )

    def _drop_session(self) -> None:
        self._nonce = 0  # R3: a welcome for a link given up is nobody's
        self.epoch = 0
        self._pings.clear()
        self.has_downlink = False
        self.features = Feature(0)
        for lane in self.lanes:
            lane.end()
        for down in self.down_lanes:
            down.end()

    def _forked(self, event: Forked) -> None:
        self.incarnation = event.incarnation
        self.lanes = self._windows(event.lanes)
        self._drop_session()

    def _received(self, message: Message, now: float) -> list[Effect]:
        match message:
            case Welcome() if self.state is State.GREETING:
                return self._welcomed(message, now)
            case Refused():
                return self._refused(message)
            case Ack() if self._is_ours(message.epoch, message.incarnation):
                return self.lanes[message.lane].ack(message, now)
            case Nack() if self._is_ours(message.epoch, message.incarnation):
                return self.lanes[message.lane].nack(message, now)
            case Pong() if message.epoch == self.epoch:
                return self._ponged(message, now)
            case Ping() if message.epoch == self.epoch:
                return [Transmit(Pong(
                    epoch=self.epoch, token=message.token,
                    asked_at_ns=message.at_ns, at_ns=self._wall_ns(),
                ))]  # fmt: skip
            case Batch() if message.epoch == self.epoch and self.has_downlink:
                return self._take(message)
            case Page() | ConflictReport() if message.epoch == self.epoch:
                return [Hear(message)]
            case TunnelOpen() | TunnelData() | TunnelClose() if (
                message.epoch == self.epoch and Feature.TUNNEL in self.features
            ):
                return [Tunnelled(message)]
            case ObjectListing() | ObjectPart() if (
                message.epoch == self.epoch and Feature.OBJECTS in self.features
            ):
                return [ObjectsHeard(message)]
            case Bye() if message.epoch == self.epoch:
                self._note_spread(message.spread_s)
                pause_s = self._random.uniform(0.0, self.spread_s)
                return [Hangup(f"the hub said goodbye: {message.reason}", pause_s, is_success=True)]
        return []

    def _is_ours(self, epoch: int, incarnation: bytes) -> bool:
        """R2: an answer counts only in the session and for the incarnation it was given to."""
        return (
            self.state is State.STREAMING
            and epoch == self.epoch
            and incarnation == self.incarnation
        )

    def _note_spread(self, spread_s: float) -> None:
        self.spread_s = min(max(spread_s, 0.0), SPREAD_MAX_S)

    def _welcomed(self, welcome: Welcome, now: float) -> list[Effect]:
        if not self._nonce or welcome.nonce != self._nonce:
            return []  # R3: an answer to an older Hello
        self._nonce = 0
        if not PROTOCOL_VERSION_OLDEST <= welcome.protocol <= PROTOCOL_VERSION:
            return [Hangup(
                f"the hub chose protocol {welcome.protocol}, this edge speaks "
                f"{PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}: upgrade one of them",
                REFUSED_RETRY_S[RefuseCode.UNSUPPORTED_VERSION],
            )]  # fmt: skip
        for lane, theirs in zip(self.lanes, welcome.lanes, strict=True):
            reason = lane.divergence(theirs.floor, theirs.chain)
            if reason:
                return self._fork(reason)
        self.state = State.STREAMING
        self.epoch = welcome.epoch
        self.limits = welcome.limits
        self.restore_safe = welcome.restore_safe
        self.called = welcome.edge
        self._heartbeat_s = min(self.settings.heartbeat_s, max(welcome.heartbeat_s, 0.1))
        self._was_connected = True
        self._note_spread(welcome.spread_s)
        effects: list[Effect] = []
        is_other = bool(self.generation) and welcome.generation != self.generation
        if is_other:
            effects.append(Report("hub_generation", {"generation": welcome.generation.hex()}))
        stand = zip(self.lanes, welcome.lanes, strict=True)
        is_behind = any(theirs.floor < lane.floor for lane, theirs in stand)
        if is_other or is_behind or not self.generation:
            effects.append(Forgotten(welcome.generation))
        effects += self._note_start(welcome.start)
        self.generation, self.features = welcome.generation, Feature(welcome.features)
        effects.append(Report("connected", {"epoch": welcome.epoch, "called": welcome.edge}))
        for lane, theirs in zip(self.lanes, welcome.lanes, strict=True):
            lane.begin(self.epoch, self.incarnation, self.limits)
            effects += lane.resume(theirs.floor, theirs.chain, theirs.safe)
        effects += self._begin_downlink(welcome)
        return [*effects, self._ping(now), *self._fill_all(now)]

    # -- from the hub ----------------------------------------------------------------------------

    def _begin_downlink(self, welcome: Welcome) -> list[Effect]:
        """Take batches of the hub's journal; of one that is not known here, from its start on."""
        if self._down is None or not welcome.features & Feature.DOWNLINK:
            return []
        self.has_downlink = True
        known, incarnation = self._down(), welcome.down_incarnation
        floors = known.lanes
        if known.incarnation != incarnation:
            floors = tuple(
                LaneFloor(floor=offer.start, chain=offer.start_chain, safe=offer.start)
                for offer in welcome.down_offers
            )
        for lane, floor, offer in zip(self.down_lanes, floors, welcome.down_offers, strict=True):
            lane.begin(self.epoch, incarnation, floor, offer.tail)
        return [DownBegun(incarnation, floors)]

    def _take(self, batch: Batch) -> list[Effect]:
        self._token += 1
        has_room = sum(len(lane.in_store) for lane in self.down_lanes) < DOWN_IN_STORE_MAX
        taken = self.down_lanes[batch.lane].batch(batch, self._token, has_room=has_room)
        return [taken if isinstance(taken, Store) else Transmit(taken)]

    def _stored(self, event: Stored) -> list[Effect]:
        for lane in self.down_lanes:
            if event.token in lane.in_store:
                return [Transmit(answer) for answer in lane.stored(event)]
        return []  # stored for a session that is over: the next one will tell the floor

    def _note_start(self, start: int) -> list[Effect]:
        """Notice a start that comes back after another: two hubs have one identity."""
        if not start or self._starts[-1:] == [start]:
            return []
        is_back = start in self._starts
        self._starts = [*(one for one in self._starts if one != start), start][-STARTS_MAX:]
        if not is_back or self.two_hubs:
            return []
        self.two_hubs = True
        facts = {"start": f"{start:016x}", "before": f"{self._starts[-2]:016x}"}
        return [Report("two_hubs", facts)]

    def _fork(self, reason: str) -> list[Effect]:
        self.state = State.FORKING
        return [
            Report("fork", {"reason": reason}),
            Fork(reason),
            Hangup(f"another history at the hub: {reason}", is_success=True),
        ]

    def _refused(self, refused: Refused) -> list[Effect]:
        greeting = self.state is State.GREETING and refused.nonce == self._nonce != 0
        running = self.state is State.STREAMING and refused.epoch == self.epoch
        if not greeting and not running:
            return []
        floor_s = REFUSED_RETRY_S.get(refused.code, REFUSED_RETRY_S[RefuseCode.UNAVAILABLE])
        report = Report("refused", {"code": refused.code.name.lower(), "reason": refused.reason})
        retry_s = max(floor_s, refused.retry_after_s)
        return [report, Hangup(f"refused: {refused.reason}", retry_s)]

    # -- liveness --------------------------------------------------------------------------------

    def _ping(self, now: float) -> Effect:
        self._token += 1
        self._pinged_at = now
        self._pings[self._token] = now
        while len(self._pings) > 2 * self.settings.heartbeats_missed_max:
            del self._pings[next(iter(self._pings))]
        return Transmit(Ping(epoch=self.epoch, token=self._token, at_ns=self._wall_ns()))

    def _ponged(self, pong: Pong, now: float) -> list[Effect]:
        sent_at = self._pings.pop(pong.token, None)
        if sent_at is None:
            return []
        rtt_s = now - sent_at
        # The offset is read off the fastest answers: a queue on the way distorts it.
        if self.rtt_s is None or rtt_s <= self.rtt_s * 1.5:
            ours_ns = self._wall_ns() - int(rtt_s * 5e8)
            self.clock_offset_s = (ours_ns - pong.at_ns) / 1e9
        self.rtt_s = rtt_s if self.rtt_s is None else min(rtt_s, self.rtt_s * 0.9 + rtt_s * 0.1)
        return self._judge_clock()

    def clock_stepped(self, by_s: float) -> None:
        """Keep the offset right although the wall clock was just set."""
        if self.clock_offset_s is not None:
            self.clock_offset_s += by_s

    def _judge_clock(self) -> list[Effect]:
        """S25: a wrong clock is shown, never a reason to refuse anything."""
        assert self.clock_offset_s is not None or not self._is_skewed
        if self.clock_offset_s is None:
            return []
        skewed = abs(self.clock_offset_s) > self.settings.clock_offset_warn_s
        if skewed == self._is_skewed:
            return []
        self._is_skewed = skewed
        kind = "clock_skew" if skewed else "clock_good"
        return [Report(kind, {"offset_s": round(self.clock_offset_s, 3)})]

    def _tick(self, now: float) -> list[Effect]:
        if self.state is State.GREETING:
            if now - self._since >= self.settings.greeting_timeout_s:
                return [Hangup("the hub did not answer the greeting")]
            return []
        if self.state is not State.STREAMING:
            return []
        silent_s = now - self._heard_at
        if silent_s >= self._heartbeat_s * self.settings.heartbeats_missed_max:
            return [Hangup(f"nothing heard from the hub for {silent_s:.0f} s", is_success=True)]
        effects: list[Effect] = []
        if now - self._pinged_at >= self._heartbeat_s:
            effects.append(self._ping(now))
        for lane in self.lanes:
            effects += lane.expire(now)
        return [*effects, *self._fill_all(now)]

    def due_at(self, now: float) -> float:
        """Return the monotonic time by which a Tick is useful; infinity if none is."""
        if self.state is State.GREETING:
            return max(now, self._since + self.settings.greeting_timeout_s)
        if self.state is not State.STREAMING:
            return math.inf
        due = min(now + 1.0, self._pinged_at + self._heartbeat_s)
        due = min(due, *(lane.due_at(now) for lane in self.lanes))
        return max(due, now)

    def _fill_all(self, now: float) -> list[Effect]:
        # Critical first; each lane has a window of its own, so none can starve another.
        return [effect for lane in self.lanes for effect in lane.fill(now)]
