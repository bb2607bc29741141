"""The receiving half of a link for one edge, without sockets, disk, clock or chance.     [sans-IO]

Events go in, effects come out. A session is born from a Hello, gets its epoch from durable storage
and ends when a newer Hello comes (I6, R7). Only the shell's answer Stored leads to an Ack: nothing
is acknowledged that is not on disk (I1, I4).
"""

import enum
import math
from typing import Final

import msgspec

from edgesync_transport.lanes import events as lane_events
from edgesync_transport.lanes.events import (
    Dead,
    DownFloors,
    Effect,
    Event,
    Grown,
    Load,
    Loaded,
    LoadedNothing,
    Lost,
    Mark,
    Report,
    Rewind,
    Store,
    Stored,
)
from edgesync_transport.lanes.receiver import FLOOR_NONE, LaneReceiver
from edgesync_transport.lanes.sender import LaneSender, Slowdown
from edgesync_transport.lanes.window import LanePositions, SenderSettings
from edgesync_transport.link import Peer
from edgesync_transport.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    Ack,
    Batch,
    Bye,
    Feature,
    Hello,
    Lane,
    LaneFloor,
    LaneOffer,
    Limits,
    Message,
    Nack,
    ObjectPull,
    ObjectReport,
    Ping,
    Pong,
    Pull,
    RefuseCode,
    Refused,
    TunnelClose,
    TunnelData,
    TunnelOpened,
    Welcome,
)

# Beats between two pings that only measure round trip and clock.
MEASURE_BEATS: Final = 4
OTHER_MACHINE: Final = (
    "another machine with this edge's key has begun a session: stop one (a copied folder?)"
)
FLOORS_NONE: Final = (FLOOR_NONE,) * 3

__all__ = [
    "FLOORS_NONE",
    "Asked",
    "Dead",
    "DownFloors",
    "DownOffer",
    "Effect",
    "Event",
    "Grown",
    "Load",
    "Loaded",
    "LoadedNothing",
    "Lost",
    "Mark",
    "ObjectsHeard",
    "Open",
    "OpenFailed",
    "Opened",
    "Received",
    "Receiver",
    "ReceiverSettings",
    "Regreet",
    "Report",
    "Revoked",
    "Rewind",
    "Session",
    "State",
    "Stopping",
    "Store",
    "Stored",
    "Tick",
    "Transmit",
    "Tunnelled",
]  # fmt: skip


# What a hub sends an edge is little, and what small gateways take.
DOWNLINK: Final = SenderSettings(
    batch_records_min=1,
    batch_records_max=256,
    batch_raw_bytes=256 * 1024,
    window_batches=(2, 2, 2),
    linger_s=(0.0, 0.0, 0.0),
)


class ReceiverSettings(msgspec.Struct, frozen=True, kw_only=True):
    """What is granted to one edge.

    takeovers_max       sessions that may replace a live one within `takeovers_window_s` before the
                        edge is held off: two gateways with one key fight otherwise (F21)
    start               random, of this start of the hub; 0: not told
    """

    limits: Limits = Limits()
    heartbeat_s: float = 5.0
    heartbeats_missed_max: int = 3
    takeovers_max: int = 3
    takeovers_window_s: float = 60.0
    holdoff_s: float = 10.0
    restore_safe: bool = False
    clock_offset_warn_s: float = 5.0
    start: int = 0
    downlink: SenderSettings = DOWNLINK


class State(enum.Enum):
    IDLE = "idle"
    OPENING = "opening"
    LIVE = "live"


class Received(Event, frozen=True):
    peer: Peer
    message: Message


class DownOffer(msgspec.Struct, frozen=True):
    """The hub's journal for an edge, for one session.

    floors   where the edge stands in it; of an incarnation that it does not know, the start
    trimmed_chains   the running hash at what is trimmed, of each lane
    """

    incarnation: bytes
    lanes: tuple[LanePositions, ...]
    floors: tuple[LaneFloor, ...]
    trimmed_chains: tuple[int, ...]


class Regreet(Event, frozen=True):
    """The edge shall greet anew: what its session lacks can be had now."""

    reason: str


class Opened(Event, frozen=True):
    """The answer to Open: the epoch is durable, and this is where each lane stands.

    window_bytes   what this session is granted to have under way; 0: as the settings say
    down           None: no lanes to the edge in this session
    """

    token: int
    epoch: int
    generation: bytes
    floors: tuple[LaneFloor, LaneFloor, LaneFloor]
    spread_s: float = 0.0
    window_bytes: int = 0
    down: DownOffer | None = None


class OpenFailed(Event, frozen=True):
    token: int
    reason: str
    retry_after_s: float = 3.0


class Tick(Event, frozen=True):
    """Time has passed; due about once a second."""


class Stopping(Event, frozen=True):
    """The hub stops: whoever comes back later shall take `spread_s` for it, all together."""

    spread_s: float


class Revoked(Event, frozen=True):
    """The edge's key is no longer good: the session ends now."""


class Open(Effect, frozen=True):
    """Draw a new epoch durably, look the floors up, answer Opened or OpenFailed.

    An incarnation never seen begins at `starts`: a fork keeps its seqs (R4).
    down   of an edge that takes lanes from the hub: where it stands in them
    """

    token: int
    incarnation: bytes
    starts: tuple[LaneFloor, LaneFloor, LaneFloor]
    down: DownFloors | None = None


class Transmit(Effect, frozen=True):
    peer: Peer
    message: Message


class Asked(Effect, frozen=True):
    """The edge asks for the hub's keys; whoever keeps them answers `peer` in this session."""

    peer: Peer
    pull: Pull


class ObjectsHeard(Effect, frozen=True):
    """The edge tells of large objects, or asks for a part of one (hubd/objects/service.py)."""

    message: ObjectReport | ObjectPull


class Tunnelled(Effect, frozen=True):
    """The edge answers for a tunnel, or sends something through one (hubd/tunnel/service.py)."""

    message: TunnelOpened | TunnelData | TunnelClose


class DownLane(LaneSender):
    """A lane to the edge: the hub forgets what the edge has, so nothing is sent it twice."""

    not_retained = "had by this edge before its store was restored or replaced: not sent again"
    given_way = "given up at the hub, which kept it for too long"


class Session:
    """What a granted Hello has led to.

    down_known   the hub's journal that the edge knew; of another than the one there is, nobody can
                 say what the edge has had
    unproven     what the floors of the Hello mean, if that is not an old one which came late: it
                 counts once the edge has said something in this session (D11)
    """

    def __init__(self, peer: Peer, hello: Hello, epoch: int, now: float) -> None:
        self.peer = peer
        self.incarnation = hello.incarnation
        self.epoch = epoch
        self.opened_at = now
        self.heartbeat_s = hello.heartbeat_s
        self.wants_downlink = bool(hello.features & Feature.DOWNLINK)
        self.has_tunnels = bool(hello.features & Feature.TUNNEL)
        self.has_objects = bool(hello.features & Feature.OBJECTS)
        self.down: tuple[LaneSender, ...] = ()
        self.down_incarnation = b""
        self.down_known = hello.down_incarnation
        self.unproven: list[Effect] = []


class Receiver:
    """Sessions of one edge; see the module."""

    down_lane: type[LaneSender] = DownLane

    def __init__(self, edge: str, settings: ReceiverSettings | None = None) -> None:
        self.edge = edge
        self.settings = settings or ReceiverSettings()
        self.state = State.IDLE
        self.session: Session | None = None
        batch_bytes = self.settings.limits.batch_bytes
        self.lanes = tuple(LaneReceiver(lane, batch_bytes) for lane in Lane)
        self.incarnation = b""
        self.software = ""
        self.rtt_s: float | None = None
        self.clock_offset_s: float | None = None
        self.heard_at: float | None = None
        self.fenced = 0
        self._token = 0
        self._opening: tuple[int, Peer, Hello] | None = None
        self._pings: dict[int, float] = {}
        self._pinged_at = 0.0
        self._takeovers: list[float] = []
        self._hold_until = 0.0
        self._is_skewed = False
        self._granted = False
        self.two_hubs = False  # the edge was with another hub of the same identity meanwhile

    @property
    def floors(self) -> list[LaneFloor]:
        return [lane.floor for lane in self.lanes]

    @property
    def tails(self) -> list[int]:
        return [lane.tail for lane in self.lanes]

    @property
    def duplicates(self) -> int:
        """Batches that came again after they had been stored."""
        return sum(lane.duplicates for lane in self.lanes)

    def step(self, event: Event, now: float, wall_ns: int) -> list[Effect]:
        """Take one event at monotonic `now` (seconds) and wall time `wall_ns` (data only, I5)."""
        match event:
            case Received(peer, message):
                return self._received(peer, message, now, wall_ns)
            case Opened():
                return self._opened(event, now, wall_ns)
            case OpenFailed():
                return self._open_failed(event)
            case Stored():
                return self._stored(event)
            case Tick():
                return self._tick(now, wall_ns)
            case Stopping(spread_s):
                return self._say_goodbye(spread_s)
            case Grown() | Loaded() | LoadedNothing():
                return self._step_downlink(event, now)
            case Regreet(reason):
                return self._say_goodbye(0.0, reason)
            case Revoked():
                return self._end("revoked", RefuseCode.BAD_CREDENTIALS, "the key was revoked")
        return []

    # -- session ---------------------------------------------------------------------------------

    def _received(self, peer: Peer, message: Message, now: float, wall_ns: int) -> list[Effect]:
        if isinstance(message, Hello):
            return self._greeted(peer, message, now)
        session = self.session
        epoch = getattr(message, "epoch", 0)
        if session is None or peer != session.peer or epoch != session.epoch:
            return self._fence(peer, message, epoch)
        self.heard_at = now
        proven, session.unproven = session.unproven, []
        return [*proven, *self._spoken(session, message, now, wall_ns)]

    def _spoken(self, session: Session, message: Message, now: float, wall_ns: int) -> list[Effect]:
        """Take what an edge says in its live session."""
        peer = session.peer
        match message:
            case Batch():
                return self._batch(session, message)
            case Ack() | Nack() if session.down:
                return self._answered(session, message, now)
            case Ping():
                pong = Pong(
                    epoch=session.epoch, token=message.token,
                    asked_at_ns=message.at_ns, at_ns=wall_ns,
                )  # fmt: skip
                return [Transmit(peer, pong)]
            case Pong():
                return self._ponged(message, now, wall_ns)
            case Pull():
                return [Asked(peer, message)]
            case TunnelOpened() | TunnelData() | TunnelClose() if session.has_tunnels:
                return [Tunnelled(message)]
            case ObjectReport() | ObjectPull() if session.has_objects:
                return [ObjectsHeard(message)]
            case Bye():
                self._forget()
                return [Report("disconnected", {"reason": message.reason})]
        return []

    def _fence(self, peer: Peer, message: Message, epoch: int) -> list[Effect]:
        """R7: a session that is over can write nothing; its peer is told, once per message."""
        self.fenced += 1
        if not isinstance(message, Batch | Ping | Pull):
            return []
        refused = Refused(
            nonce=0, epoch=epoch, code=RefuseCode.STALE_EPOCH, reason="this session is over"
        )
        return [Transmit(peer, refused)]

    def _greeted(self, peer: Peer, hello: Hello, now: float) -> list[Effect]:
        def refuse(code: RefuseCode, reason: str, retry_s: float = 0.0) -> list[Effect]:
            refused = Refused(
                nonce=hello.nonce, epoch=0, code=code, reason=reason, retry_after_s=retry_s
            )
            return [Transmit(peer, refused), Report("refused", {"reason": reason})]

        if (
            hello.protocol_newest < PROTOCOL_VERSION_OLDEST
            or hello.protocol_oldest > PROTOCOL_VERSION
        ):
            return refuse(
                RefuseCode.UNSUPPORTED_VERSION,
                f"this hub speaks protocol {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION}, "
                f"the edge {hello.protocol_oldest} to {hello.protocol_newest}: upgrade one of them",
            )
        if now < self._hold_until:
            return refuse(
                RefuseCode.RATE_LIMITED,
                "another gateway uses this edge's key",
                self._hold_until - now,
            )
        if self._opening and self._opening[1] == peer and self._opening[2].nonce == hello.nonce:
            return []  # the same Hello again, doubled on the way
        effects = self._supersede(peer, hello, now)
        self._token += 1
        self._opening = (self._token, peer, hello)
        self.state = State.OPENING
        critical, normal, bulk = (
            LaneFloor(floor=offer.start, chain=offer.start_chain, safe=offer.start)
            for offer in hello.lanes
        )
        down = None
        if hello.features & Feature.DOWNLINK:
            down = DownFloors(hello.down_incarnation, hello.down_floors)
        return [*effects, Open(self._token, hello.incarnation, (critical, normal, bulk), down)]

    def _supersede(self, peer: Peer, hello: Hello, now: float) -> list[Effect]:
        """End the live session for a newer one, and notice two gateways fighting (F21)."""
        old = self.session
        if old is None:
            return []
        self._forget()
        effects: list[Effect] = []
        is_other = old.incarnation != hello.incarnation
        if old.peer != peer:
            refused = Refused(
                nonce=0, epoch=old.epoch, code=RefuseCode.SUPERSEDED,
                reason=OTHER_MACHINE if is_other else "a newer session of this edge has begun",
            )  # fmt: skip
            effects = [
                Transmit(old.peer, refused),
                Report("superseded", {"epoch": old.epoch}),
            ]
        if is_other:
            since = now - self.settings.takeovers_window_s
            self._takeovers = [*(at for at in self._takeovers if at >= since), now]
            if len(self._takeovers) > self.settings.takeovers_max:
                self._hold_until = now + self.settings.holdoff_s
                self._takeovers.clear()
                effects.append(
                    Report("duplicate_identity", {"incarnation": hello.incarnation.hex()})
                )
        return effects

    def _opened(self, event: Opened, now: float, wall_ns: int) -> list[Effect]:
        if self._opening is None or self._opening[0] != event.token:
            return []  # a newer Hello has come meanwhile
        _, peer, hello = self._opening
        self._opening = None
        session = Session(peer, hello, event.epoch, now)
        for lane, floor, offer in zip(self.lanes, event.floors, hello.lanes, strict=True):
            lane.begin(event.epoch, hello.incarnation, floor, offer.tail)
        self.session = session
        self.state = State.LIVE
        self.incarnation, self.software = hello.incarnation, hello.software
        self.heard_at = self._pinged_at = now
        self._pings.clear()
        welcome = Welcome(
            nonce=hello.nonce,
            protocol=min(hello.protocol_newest, PROTOCOL_VERSION),
            epoch=event.epoch,
            generation=event.generation,
            lanes=event.floors,
            limits=self._limits(event.window_bytes),
            clock_ns=wall_ns,
            heartbeat_s=self.settings.heartbeat_s,
            restore_safe=self.settings.restore_safe,
            start=self.settings.start,
            spread_s=event.spread_s,
            features=int(
                hello.features & (Feature.RESENT | Feature.TUNNEL | Feature.OBJECTS)
                | (Feature.DOWNLINK if event.down else 0)
            ),
            down_incarnation=event.down.incarnation if event.down else b"",
            down_offers=_offers(event.down) if event.down else (),
            edge=peer.edge,
        )
        facts: dict[str, str | int | float] = {
            "epoch": event.epoch,
            "incarnation": hello.incarnation.hex(),
        }
        effects: list[Effect] = [Transmit(peer, welcome), Report("connected", facts)]
        was_elsewhere = self._granted and hello.last_start not in (0, self.settings.start)
        self._granted = True
        if was_elsewhere and not self.two_hubs:
            self.two_hubs = True
            effects.append(Report("two_hubs", {"other": f"{hello.last_start:016x}"}))
        return [*effects, *self._begin_downlink(session, event.down, now)]

    def _limits(self, window_bytes: int) -> Limits:
        limits = self.settings.limits
        if not window_bytes:
            return limits
        return msgspec.structs.replace(limits, window_bytes=min(limits.window_bytes, window_bytes))

    def _open_failed(self, event: OpenFailed) -> list[Effect]:
        if self._opening is None or self._opening[0] != event.token:
            return []
        _, peer, hello = self._opening
        self._opening = None
        self.state = State.IDLE
        refused = Refused(
            nonce=hello.nonce, epoch=0, code=RefuseCode.UNAVAILABLE, reason=event.reason,
            retry_after_s=event.retry_after_s,
        )  # fmt: skip
        return [Transmit(peer, refused)]

    def _forget(self) -> None:
        for lane in self.lanes:
            lane.end()
        self.session = None
        self.state = State.OPENING if self._opening else State.IDLE

    def _end(self, kind: str, code: RefuseCode, reason: str) -> list[Effect]:
        session = self.session
        self._opening = None
        self._forget()
        if session is None:
            return []
        refused = Refused(nonce=0, epoch=session.epoch, code=code, reason=reason)
        return [Transmit(session.peer, refused), Report(kind, {"reason": reason})]

    def _say_goodbye(self, spread_s: float, reason: str = "the hub stops") -> list[Effect]:
        """The edge need not wait for a timeout, nor come back at once."""
        session = self.session
        if session is None:
            return []
        self._forget()
        bye = Bye(epoch=session.epoch, reason=reason, spread_s=spread_s)
        return [Transmit(session.peer, bye)]

    def due_at(self) -> float:
        """Return the monotonic time by which a Tick is useful; infinity if none is."""
        session = self.session
        if session is None or self.heard_at is None:
            return math.inf
        heartbeat_s = self._heartbeat_s(session)
        lost_at = self.heard_at + heartbeat_s * self.settings.heartbeats_missed_max
        down_at = min((_due_at(lane) for lane in session.down), default=math.inf)
        return min(self._ping_at(self.heard_at, heartbeat_s), lost_at, down_at)

    def _ping_at(self, heard_at: float, heartbeat_s: float) -> float:
        """Return when to ping: after a beat of silence, and now and then to measure the link.

        An edge pings by itself, so that both ends need not ask at each beat.
        """
        if self.rtt_s is None:
            return self._pinged_at + heartbeat_s
        silent_at = max(self._pinged_at, heard_at) + heartbeat_s
        return min(silent_at, self._pinged_at + heartbeat_s * MEASURE_BEATS)

    def _heartbeat_s(self, session: Session) -> float:
        return min(session.heartbeat_s, self.settings.heartbeat_s)

    def _tick(self, now: float, wall_ns: int) -> list[Effect]:
        session = self.session
        if session is None or self.heard_at is None:
            return []
        heartbeat_s = self._heartbeat_s(session)
        silent_s = now - self.heard_at
        if silent_s >= heartbeat_s * self.settings.heartbeats_missed_max:
            self._forget()
            return [Report("lost", {"silent_s": round(silent_s, 1)})]
        effects: list[Effect] = []
        for lane in session.down:
            effects += self._addressed(session, [*lane.expire(now), *lane.fill(now)])
        if now < self._ping_at(self.heard_at, heartbeat_s):
            return effects
        self._pinged_at = now
        self._token += 1
        self._pings[self._token] = now
        while len(self._pings) > 2 * self.settings.heartbeats_missed_max:
            del self._pings[next(iter(self._pings))]
        ping = Ping(epoch=session.epoch, token=self._token, at_ns=wall_ns)
        return [*effects, Transmit(session.peer, ping)]

    def _ponged(self, pong: Pong, now: float, wall_ns: int) -> list[Effect]:
        sent_at = self._pings.pop(pong.token, None)
        if sent_at is None:
            return []
        self.rtt_s = now - sent_at
        self.clock_offset_s = (pong.at_ns - (wall_ns - int(self.rtt_s * 5e8))) / 1e9
        skewed = abs(self.clock_offset_s) > self.settings.clock_offset_warn_s
        if skewed == self._is_skewed:
            return []
        self._is_skewed = skewed
        kind = "clock_skew" if skewed else "clock_good"
        return [Report(kind, {"offset_s": round(self.clock_offset_s, 3)})]

    # -- to the edge -----------------------------------------------------------------------------

    def _begin_downlink(
        self, session: Session, offer: DownOffer | None, now: float
    ) -> list[Effect]:
        if offer is None:
            return []
        chains = {
            (lane, positions.trimmed): chain
            for lane, positions, chain in zip(Lane, offer.lanes, offer.trimmed_chains, strict=True)
        }
        slowdown = Slowdown()
        session.down = tuple(
            self.down_lane(
                lane, positions, self.settings.downlink,
                lambda lane, seq: chains.get((lane, seq)), slowdown,
            )
            for lane, positions in zip(Lane, offer.lanes, strict=True)
        )  # fmt: skip
        effects: list[Effect] = []
        for lane, floor in zip(session.down, offer.floors, strict=True):
            lane.begin(session.epoch, offer.incarnation, Limits())
            stands = lane.resume(floor.floor, floor.chain, floor.safe)
            effects += [one for one in stands if isinstance(one, Mark)]
            if session.down_known in (b"", offer.incarnation):
                session.unproven += [one for one in stands if not isinstance(one, Mark)]
            effects += lane.fill(now)
        session.down_incarnation = offer.incarnation
        return self._addressed(session, effects)

    def _step_downlink(self, event: Grown | Loaded | LoadedNothing, now: float) -> list[Effect]:
        session = self.session
        if session is None or not session.down:
            return []
        lane = session.down[event.lane]
        match event:
            case Grown():
                effects = lane.grown(event.tail, now)
            case Loaded():
                effects = lane.loaded(event, now)
            case _:
                if event.trimmed > lane.trimmed and event.first == lane.loading:
                    # The journal let go of it after this session had read how far it goes, as for
                    # an ack of the one before that was noted late: the next session declares it.
                    return self._say_goodbye(0.0, "what was to be told next is not kept any more")
                effects = lane.loaded_nothing(event.first, now)
        return self._addressed(session, effects)

    def _answered(self, session: Session, answer: Ack | Nack, now: float) -> list[Effect]:
        """Take the edge's answer to a batch (R2)."""
        if answer.incarnation != session.down_incarnation:
            return []
        lane = session.down[answer.lane]
        effects = lane.ack(answer, now) if isinstance(answer, Ack) else lane.nack(answer, now)
        return self._addressed(session, effects)

    def _addressed(self, session: Session, effects: list[Effect]) -> list[Effect]:
        found: list[Effect] = []
        for effect in effects:
            match effect:
                case lane_events.Transmit(message):
                    found.append(Transmit(session.peer, message))
                case lane_events.Hangup(reason):
                    found += self._say_goodbye(0.0, reason)
                case _:
                    found.append(effect)
        return found

    # -- batches ---------------------------------------------------------------------------------

    def _batch(self, session: Session, batch: Batch) -> list[Effect]:
        self._token += 1
        in_store = sum(len(lane.in_store) for lane in self.lanes)
        has_room = in_store < 3 * self.settings.limits.window_batches
        taken = self.lanes[batch.lane].batch(batch, self._token, has_room=has_room)
        return [taken if isinstance(taken, Store) else Transmit(session.peer, taken)]

    def _stored(self, event: Stored) -> list[Effect]:
        session = self.session
        lane = next((lane for lane in self.lanes if event.token in lane.in_store), None)
        if session is None or lane is None:
            return []  # stored for a session that is over: the next one will find the floor
        if event.is_stale:
            return self._end(
                "fenced", RefuseCode.SUPERSEDED, "a newer session of this edge has begun"
            )
        return [Transmit(session.peer, answer) for answer in lane.stored(event)]


def _offers(down: DownOffer) -> tuple[LaneOffer, ...]:
    return tuple(
        LaneOffer(
            tail=lane.tail, trimmed=lane.trimmed, start=lane.start, start_chain=lane.start_chain
        )
        for lane in down.lanes
    )


def _due_at(lane: LaneSender) -> float:
    """Return when a lane to the edge has something to do that only time brings."""
    if lane.in_flight:
        return lane.in_flight[0].at + lane.settings.ack_timeout_s
    # What is being loaded comes by itself.
    is_waiting = lane.sent < lane.tail and lane.loading is None
    return lane.hold_until if is_waiting else math.inf
