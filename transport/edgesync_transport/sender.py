"""The sending half of a link, without sockets, disk, clock or chance.                   [sans-IO]

Events go in, effects come out; the shell carries them out. On every lane

    safe <= floor <= sent <= tail                                                            # I3

    floor   highest seq the receiver has made durable
    sent    highest seq handed to the link since the session began
    tail    highest seq in the journal

What is in flight is not kept in memory: a lost batch is read again from the journal, so a window is
a few positions and the journal stays the only copy. After a doubt of any kind the lane goes back to
the floor, which is always right because a receiver answers a batch at or below its floor with an
acknowledgement and nothing else (I4).

Rules R1 to R12 are explained in docs/protocol.md.
"""

import enum
import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Final

import msgspec

from edgesync_transport.messages import (
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_OLDEST,
    Ack,
    Batch,
    Bye,
    Codec,
    ConflictReport,
    Hello,
    Lane,
    LaneOffer,
    Limits,
    Message,
    Nack,
    NackCode,
    Page,
    Ping,
    Pong,
    RefuseCode,
    Refused,
    Welcome,
)
from edgesync_transport.window import InFlight, LanePositions, LaneWindow, SenderSettings

if TYPE_CHECKING:
    from random import Random


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


class Event(msgspec.Struct, frozen=True):
    """Base of what can happen to a sender."""


class LinkUp(Event, frozen=True):
    """There is a link to talk over; whether anybody answers is not known yet."""


class LinkDown(Event, frozen=True):
    reason: str = ""


class Received(Event, frozen=True):
    message: Message


class Grown(Event, frozen=True):
    """The journal has records up to `tail` now."""

    lane: Lane
    tail: int


class Loaded(Event, frozen=True):
    """The answer to Load: records `first .. last`, packed."""

    lane: Lane
    first: int
    last: int
    prev_chain: int
    last_chain: int
    codec: Codec
    payload: bytes


class LoadedNothing(Event, frozen=True):
    """The answer to Load when the journal has nothing at `first`."""

    lane: Lane
    first: int


class Trimmed(Event, frozen=True):
    lane: Lane
    up_to: int


class Forked(Event, frozen=True):
    """The answer to Fork: the new incarnation is durable."""

    incarnation: bytes
    lanes: tuple[LanePositions, LanePositions, LanePositions]


class Tick(Event, frozen=True):
    """Time has passed. Due at `Sender.due_at`."""


class Stop(Event, frozen=True):
    """Say goodbye; nothing more is sent."""


class Effect(msgspec.Struct, frozen=True):
    """Base of what a sender wants done."""


class Transmit(Effect, frozen=True):
    message: Message


class Load(Effect, frozen=True):
    """Read records from `first` on, none beyond `last_max` or the limits, pack, answer Loaded."""

    lane: Lane
    first: int
    last_max: int
    limit_records: int
    limit_bytes: int


class Mark(Effect, frozen=True):
    """The receiver has everything up to `floor`; store that, trim what is safe. May be delayed."""

    lane: Lane
    floor: int
    safe: int


class Rewind(Effect, frozen=True):
    """The receiver has lost what was above `floor`; it is going to be sent again (S32)."""

    lane: Lane
    floor: int


class Fork(Effect, frozen=True):
    """The receiver knows another history: take a new incarnation, durably, answer Forked (R4)."""

    reason: str


class Dead(Effect, frozen=True):
    """One record was refused for good; it is on its way as a dead letter (S14)."""

    lane: Lane
    seq: int
    reason: str


class Lost(Effect, frozen=True):
    """Records `first .. last` are neither here nor there; the receiver is told (R8)."""

    lane: Lane
    first: int
    last: int
    reason: str


class Hear(Effect, frozen=True):
    """The hub tells of its keys: the business of whoever keeps them (edgesync/sync/cells.py)."""

    message: Page | ConflictReport


class Forgotten(Effect, frozen=True):
    """The receiver has lost something it once had, or is met first: what is told once is due."""

    generation: bytes


class Report(Effect, frozen=True):
    """Something an operator should see once: `kind` is a word, `facts` its values."""

    kind: str
    facts: Mapping[str, str | int | float]


class Hangup(Effect, frozen=True):
    """Close this link; `retry_after_s` is a lower bound for the next attempt, 0 for "as usual"."""

    reason: str
    retry_after_s: float = 0.0
    is_success: bool = False  # the session had been granted: the attempt counts as a good one


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
# What a receiver that slows this side down may ask for in one answer.
PAUSE_MAX_S: Final = 60.0
# A pause shows for so long after it is over: the next one is near, mostly.
PAUSE_SHOWN_S: Final = 5.0
# Starts of the receiver that are remembered, to notice one that comes back.
STARTS_MAX: Final = 8

NOT_RETAINED: Final = "the hub was restored from a backup older than what this edge retains"
# A policy has left a loss record of its own; the gap says which records of it are missing here.
GIVEN_WAY: Final = "given way at the edge, where a lane was full; its loss records say to what"


class Sender:
    """See the module.

    chain_at    looks the running hash at (lane, seq) up in the journal; None if it is not known
    wall_ns     wall clock, which only travels to be compared (I5)
    generation  of the receiver's store, as it was known last

    One link at a time: after LinkDown everything in flight is forgotten.
    """

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
    ) -> None:
        self.state = State.DOWN
        self.incarnation = incarnation
        self.epoch = 0
        self.generation = generation
        self.two_hubs = False
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
        # Why the receiver wanted nothing for a while the last time, and until when that was.
        self._pause = ("", -math.inf)
        self.lanes = self._windows(lanes)

    def _windows(
        self, lanes: tuple[LanePositions, LanePositions, LanePositions]
    ) -> tuple[LaneWindow, LaneWindow, LaneWindow]:
        critical, normal, bulk = (
            LaneWindow(lane, positions, self.settings)
            for lane, positions in zip(Lane, lanes, strict=True)
        )
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
        reason, until = self._pause
        return reason if self.epoch and now < until + PAUSE_SHOWN_S else ""

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
                effects = self._grown(self.lanes[lane], tail, now)
            case Trimmed(lane, up_to):
                self.lanes[lane].trimmed = max(self.lanes[lane].trimmed, up_to)
                effects = self._fill(self.lanes[lane], now)
            case Loaded():
                effects = self._loaded(event, now)
            case LoadedNothing(lane, first):
                effects = self._loaded_nothing(self.lanes[lane], first, now)
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
        return [Transmit(Hello(
            nonce=self._nonce,
            incarnation=self.incarnation,
            lanes=(self._offer(0), self._offer(1), self._offer(2)),
            clock_ns=self._wall_ns(),
            software=self.settings.software,
            heartbeat_s=self.settings.heartbeat_s,
            last_start=self.last_start,
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
        for lane in self.lanes:
            lane.go_back()
            # Asked anew, as the hub may be another; the range stays narrow, or a record refused in
            # sessions shorter than a bisection would hold the lane up for ever.
            lane.refused = None

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
                return self._acked(message, now)
            case Nack() if self._is_ours(message.epoch, message.incarnation):
                return self._nacked(message, now)
            case Pong() if message.epoch == self.epoch:
                return self._ponged(message, now)
            case Ping() if message.epoch == self.epoch:
                return [Transmit(Pong(
                    epoch=self.epoch, token=message.token,
                    asked_at_ns=message.at_ns, at_ns=self._wall_ns(),
                ))]  # fmt: skip
            case Page() | ConflictReport() if message.epoch == self.epoch:
                return [Hear(message)]
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
            reason = self._divergence(lane, theirs.floor, theirs.chain)
            if reason:
                return self._fork(reason)
        self.state = State.STREAMING
        self.epoch = welcome.epoch
        self.limits = welcome.limits
        self.restore_safe = welcome.restore_safe
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
        self.generation = welcome.generation
        effects.append(Report("connected", {"epoch": welcome.epoch}))
        for lane, theirs in zip(self.lanes, welcome.lanes, strict=True):
            effects += self._resume(lane, theirs.floor, theirs.chain, theirs.safe)
        return [*effects, self._ping(now), *self._fill_all(now)]

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

    def _divergence(self, lane: LaneWindow, floor: int, chain: int) -> str:
        """R4: why the receiver's history cannot be a beginning of ours; empty if it can."""
        if floor > lane.tail:
            return f"lane {lane.lane}: the hub has {floor}, this edge only {lane.tail}"
        if floor < lane.start:
            return f"lane {lane.lane}: the hub is at {floor}, before this incarnation's start"
        ours = lane.start_chain if floor == lane.start else self._chain_at(lane.lane, floor)
        if ours is not None and ours != chain:
            return f"lane {lane.lane}: the hub has another history at {floor}"
        return ""

    def _fork(self, reason: str) -> list[Effect]:
        self.state = State.FORKING
        return [
            Report("fork", {"reason": reason}),
            Fork(reason),
            Hangup(f"another history at the hub: {reason}", is_success=True),
        ]

    def _resume(self, lane: LaneWindow, floor: int, chain: int, safe: int) -> list[Effect]:
        effects: list[Effect] = []
        # What the hub once had and was trimmed; above it only a policy takes records away.
        lane.lost = min(lane.floor, lane.trimmed)
        if floor < lane.floor:
            effects.append(Rewind(lane.lane, floor))
            effects.append(
                Report("rewind", {"lane": int(lane.lane), "from": lane.floor, "to": floor})
            )
            lane.forget_refusal()
        lane.floor = floor
        lane.safe = min(safe, floor)
        lane.reached = floor
        lane.hold_until = 0.0
        lane.go_back()
        lane.narrow()
        lane.floor_chain = chain
        if floor < lane.lost:
            facts = {"lane": int(lane.lane), "first": floor + 1, "last": lane.lost}
            effects.append(Lost(lane.lane, floor + 1, lane.lost, NOT_RETAINED))
            effects.append(Report("loss", facts))
        else:
            effects.append(Mark(lane.lane, floor, lane.safe))
        return effects

    def _gap(self, lane: LaneWindow, now: float) -> list[Effect]:
        """R8: what neither side has any more is declared, never passed over in silence."""
        first, last = lane.sent + 1, lane.trimmed
        prev_chain, last_chain = lane.sent_chain, self._chain_at(lane.lane, last) or 0
        lane.sent = last
        lane.reached = max(lane.reached, last)
        lane.in_flight.append(InFlight(first, last, 0, now, last_chain))
        return [Transmit(Batch(
            epoch=self.epoch, incarnation=self.incarnation, lane=lane.lane, first=first, last=last,
            prev_chain=prev_chain, last_chain=last_chain,
            codec=Codec.GAP, payload=b"", reason=NOT_RETAINED if first <= lane.lost else GIVEN_WAY,
        ))]  # fmt: skip

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
            if lane.in_flight and now - lane.in_flight[0].at >= self.settings.ack_timeout_s:
                effects.append(Report("resend", {"lane": int(lane.lane), "after": lane.floor}))
                lane.shrink()
                lane.go_back()
        return [*effects, *self._fill_all(now)]

    def due_at(self, now: float) -> float:
        """Return the monotonic time by which a Tick is useful; infinity if none is."""
        if self.state is State.GREETING:
            return max(now, self._since + self.settings.greeting_timeout_s)
        if self.state is not State.STREAMING:
            return math.inf
        due = min(now + 1.0, self._pinged_at + self._heartbeat_s)
        for lane in self.lanes:
            is_waiting = lane.loading is None and lane.sent < lane.tail
            if lane.hold_until > now:  # nothing before that helps
                due = min(due, lane.hold_until)
            elif lane.grown_at is not None and is_waiting and lane.has_room(self.limits):
                due = min(due, lane.grown_at + self.settings.linger_s[lane.lane])
        return max(due, now)

    # -- batches ---------------------------------------------------------------------------------

    def _grown(self, lane: LaneWindow, tail: int, now: float) -> list[Effect]:
        if tail <= lane.tail:
            return []
        lane.tail = tail
        if lane.grown_at is None:
            lane.grown_at = now
        return self._fill(lane, now)

    def _fill_all(self, now: float) -> list[Effect]:
        # Critical first; each lane has a window of its own, so none can starve another.
        return [effect for lane in self.lanes for effect in self._fill(lane, now)]

    def _fill(self, lane: LaneWindow, now: float) -> list[Effect]:
        """Ask for the next batch of a lane if its window is open; one load at a time."""
        waiting = lane.tail - lane.sent
        if self.state is not State.STREAMING or lane.loading is not None or not waiting:
            return []
        if now < lane.hold_until or not lane.has_room(self.limits):
            return []
        if lane.sent < lane.trimmed:
            return self._gap(lane, now)
        lingering = lane.grown_at is not None and (
            now - lane.grown_at < self.settings.linger_s[lane.lane]
        )
        if lingering and waiting < lane.batch_records and lane.ceiling is None:
            return []
        lane.loading = lane.sent + 1
        return [Load(
            lane.lane,
            first=lane.sent + 1,
            last_max=lane.tail if lane.ceiling is None else max(lane.ceiling, lane.sent + 1),
            limit_records=min(lane.batch_records, self.limits.batch_records),
            limit_bytes=self.settings.batch_raw_bytes,
        )]  # fmt: skip

    def _loaded_nothing(self, lane: LaneWindow, first: int, now: float) -> list[Effect]:
        if lane.loading == first:
            lane.loading = None
        # Gone while it was asked for: the gap can be declared now.
        return self._fill(lane, now) if lane.sent < lane.trimmed else []

    def _loaded(self, event: Loaded, now: float) -> list[Effect]:
        lane = self.lanes[event.lane]
        if lane.loading != event.first:
            return []  # of a session or an attempt already given up
        lane.loading = None
        if self.state is not State.STREAMING or event.first != lane.sent + 1:
            return []
        if len(event.payload) > self.limits.batch_bytes and event.first < event.last:
            lane.shrink()
            return self._fill(lane, now)
        if event.last < lane.tail and event.last - event.first + 1 < lane.batch_records:
            lane.is_growing = False  # bytes bound it, not records
        lane.sent = event.last
        lane.reached = max(lane.reached, lane.sent)
        if lane.sent == lane.tail:
            lane.grown_at = None
        codec, payload, reason, effects = event.codec, event.payload, "", list[Effect]()
        if lane.refused and event.first == event.last == lane.refused[0]:
            # R12: refused while standing alone; the receiver keeps it as a dead letter.
            codec, reason = Codec.DEAD, lane.refused[1]
            lane.refused = None  # it stays alone until the answer, however often that is lost
            effects.append(Dead(event.lane, event.first, reason))
            effects.append(Report("dead", {"lane": int(event.lane), "seq": event.first}))
        sent = InFlight(event.first, event.last, len(payload), now, event.last_chain)
        lane.in_flight.append(sent)
        effects.append(Transmit(Batch(
            epoch=self.epoch, incarnation=self.incarnation, lane=event.lane,
            first=event.first, last=event.last,
            prev_chain=event.prev_chain, last_chain=event.last_chain,
            codec=codec, payload=payload, reason=reason,
        )))  # fmt: skip
        return [*effects, *self._fill(lane, now)]

    def _acked(self, ack: Ack, now: float) -> list[Effect]:
        lane = self.lanes[ack.lane]
        if not lane.floor <= ack.floor <= lane.reached:
            return []  # late, or a claim about records this session never sent
        advanced = ack.floor > lane.floor or ack.safe > lane.safe
        lane.acked(ack.floor, now)
        lane.floor = ack.floor
        # After a resend was begun, the answer to the first sending may still come.
        lane.skip_to_floor()
        lane.safe = max(lane.safe, min(ack.safe, ack.floor))
        lane.narrow()
        effects: list[Effect] = [Mark(lane.lane, lane.floor, lane.safe)] if advanced else []
        if ack.pause_s:
            effects += self._pause_lane(lane, ack.pause_s, ack.reason, now)
        return [*effects, *self._fill(lane, now)]

    def _pause_lane(
        self, lane: LaneWindow, pause_s: float, reason: str, now: float
    ) -> list[Effect]:
        """Send nothing more on the lane for a while; that it begins is reported."""
        is_news = not self.slowed(now)
        lane.hold_until = now + min(max(pause_s, 0.1), PAUSE_MAX_S)
        self._pause = (reason or "the hub is busy", max(lane.hold_until, self._pause[1]))
        facts: dict[str, str | int | float]
        facts = {"lane": int(lane.lane), "pause_s": round(pause_s, 1), "reason": reason}
        return [Report("slowed", facts)] if is_news else []

    def _nacked(self, nack: Nack, now: float) -> list[Effect]:
        lane = self.lanes[nack.lane]
        if not any(batch.first == nack.first for batch in lane.in_flight):
            return []  # already gone back for another reason
        if nack.code is NackCode.CHAIN or not lane.floor <= nack.floor <= lane.reached:
            return [Hangup(f"the hub's floor does not fit: {nack.reason}", is_success=True)]
        effects: list[Effect] = []
        if nack.floor > lane.floor:
            effects.append(Mark(lane.lane, nack.floor, lane.safe))
            lane.floor_chain = 0
        lane.floor = nack.floor
        lane.go_back()
        match nack.code:
            case NackCode.POISON:
                lane.bisect(nack)
            case NackCode.TOO_LARGE if nack.first == nack.last:
                lane.bisect(nack)
            case NackCode.TOO_LARGE:
                lane.shrink()
            case NackCode.BUSY:
                effects += self._pause_lane(lane, nack.retry_after_s, nack.reason, now)
        return [*effects, *self._fill(lane, now)]
