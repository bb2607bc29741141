"""One lane of a sender: batches out, acknowledgements in, from a journal to a receiver.  [sans-IO]

What is in flight is not kept in memory: a lost batch is read again from the journal. After a doubt
of any kind the lane goes back to the floor, which is always right because a receiver answers a
batch at or below its floor with an acknowledgement and nothing else (I4).
"""

import math
from collections.abc import Callable
from typing import Final

from edgesync_transport.lanes.events import (
    Dead,
    Effect,
    Hangup,
    Load,
    Loaded,
    Lost,
    Mark,
    Report,
    Rewind,
    Transmit,
)
from edgesync_transport.lanes.window import InFlight, LanePositions, LaneWindow, SenderSettings
from edgesync_transport.messages import Ack, Batch, Codec, Lane, Limits, Nack, NackCode

# What a receiver that slows this side down may ask for in one answer.
PAUSE_MAX_S: Final = 60.0
# A pause shows for so long after it is over: the next one is near, mostly.
PAUSE_SHOWN_S: Final = 5.0

NOT_RETAINED: Final = "the hub was restored from a backup older than what this edge retains"
# A policy has left a loss record of its own; the gap says which records of it are missing here.
GIVEN_WAY: Final = "given way at the edge, where a lane was full; its loss records say to what"


class Slowdown:
    """Why the receiver wanted nothing for a while the last time, and until when that was."""

    def __init__(self) -> None:
        self._reason, self._until = "", -math.inf

    def reason(self, now: float) -> str:
        return self._reason if now < self._until + PAUSE_SHOWN_S else ""

    def note(self, reason: str, until: float) -> None:
        self._reason, self._until = reason or "the hub is busy", max(until, self._until)


class LaneSender(LaneWindow):
    """See the module. Between `begin` and `end` there is a session, and outside it nothing is sent.

    chain_at   looks the running hash at (lane, seq) up in the journal; None if it is not known
    slowdown   shared by the lanes of one receiver
    """

    not_retained = NOT_RETAINED
    given_way = GIVEN_WAY

    def __init__(
        self,
        lane: Lane,
        positions: LanePositions,
        settings: SenderSettings,
        chain_at: Callable[[Lane, int], int | None],
        slowdown: Slowdown,
    ) -> None:
        super().__init__(lane, positions, settings)
        self._chain_at = chain_at
        self._slowdown = slowdown
        self._epoch = 0
        self._incarnation = b""
        self._limits = Limits()

    # -- session ---------------------------------------------------------------------------------

    def divergence(self, floor: int, chain: int) -> str:
        """R4: why the receiver's history cannot be a beginning of ours; empty if it can."""
        if floor > self.tail:
            return f"lane {self.lane}: the receiver has {floor}, the sender only {self.tail}"
        if floor < self.start:
            return f"lane {self.lane}: the receiver is at {floor}, before the incarnation's start"
        ours = self.start_chain if floor == self.start else self._chain_at(self.lane, floor)
        if ours is not None and ours != chain:
            return f"lane {self.lane}: the receiver has another history at {floor}"
        return ""

    def begin(self, epoch: int, incarnation: bytes, limits: Limits) -> None:
        """Let batches go, of a session that was granted; `resume` says from where on."""
        self._epoch, self._incarnation, self._limits = epoch, incarnation, limits
        self.quickest_s = math.inf

    def end(self) -> None:
        self._epoch = 0
        self.go_back()
        # Asked anew, as the receiver may be another; the range stays narrow, or a record refused in
        # sessions shorter than a bisection would hold the lane up for ever.
        self.refused = None

    def resume(self, floor: int, chain: int, safe: int) -> list[Effect]:
        """Go on after the receiver's floor, whatever was believed of it."""
        effects: list[Effect] = []
        # What the receiver once had and was trimmed; above it only a policy takes records away.
        self.lost = min(self.floor, self.trimmed)
        if floor < self.floor:
            effects.append(Rewind(self.lane, floor))
            effects.append(
                Report("rewind", {"lane": int(self.lane), "from": self.floor, "to": floor})
            )
            self.forget_refusal()
        self.floor = floor
        self.safe = min(safe, floor)
        self.reached = floor
        self.hold_until = 0.0
        self.go_back()
        self.narrow()
        self.floor_chain = chain
        if floor < self.lost:
            facts = {"lane": int(self.lane), "first": floor + 1, "last": self.lost}
            effects.append(Lost(self.lane, floor + 1, self.lost, self.not_retained))
            effects.append(Report("loss", facts))
        else:
            effects.append(Mark(self.lane, floor, self.safe))
        return effects

    # -- time ------------------------------------------------------------------------------------

    def expire(self, now: float) -> list[Effect]:
        """Send again what was not answered in time."""
        if not self.in_flight or now - self.in_flight[0].at < self.settings.ack_timeout_s:
            return []
        report = Report("resend", {"lane": int(self.lane), "after": self.floor})
        self.shrink()
        self.go_back()
        return [report]

    def due_at(self, now: float) -> float:
        """Return when time alone lets a batch go; infinity if it does not."""
        if self.hold_until > now:  # nothing before that helps
            return self.hold_until
        is_waiting = self.loading is None and self.sent < self.tail
        if self.grown_at is not None and is_waiting and self.has_room(self._limits):
            return self.grown_at + self.settings.linger_s[self.lane]
        return math.inf

    # -- batches ---------------------------------------------------------------------------------

    def grown(self, tail: int, now: float) -> list[Effect]:
        if tail <= self.tail:
            return []
        self.tail = tail
        if self.grown_at is None:
            self.grown_at = now
        return self.fill(now)

    def trim(self, up_to: int, now: float) -> list[Effect]:
        """Note that the journal has nothing up to `up_to` any more."""
        self.trimmed = max(self.trimmed, up_to)
        return self.fill(now)

    def fill(self, now: float) -> list[Effect]:
        """Ask for the next batch if the window is open; one load at a time."""
        waiting = self.tail - self.sent
        if not self._epoch or self.loading is not None or not waiting:
            return []
        if now < self.hold_until or not self.has_room(self._limits):
            return []
        if self.sent < self.trimmed:
            return self.declare_gap(now)
        lingering = self.grown_at is not None and (
            now - self.grown_at < self.settings.linger_s[self.lane]
        )
        # An ack lets the next go: while one is awaited, more may come, and costs fewer bytes then.
        lingering = lingering and bool(self.in_flight)
        if lingering and waiting < self.batch_records and self.ceiling is None:
            return []
        self.loading = self.sent + 1
        return [Load(
            self.lane,
            first=self.sent + 1,
            last_max=self.tail if self.ceiling is None else max(self.ceiling, self.sent + 1),
            limit_records=min(self.batch_records, self._limits.batch_records),
            limit_bytes=self.settings.batch_raw_bytes,
        )]  # fmt: skip

    def declare_gap(self, now: float) -> list[Effect]:
        """R8: what neither side has any more is declared, never passed over in silence."""
        first, last = self.sent + 1, self.trimmed
        prev_chain, last_chain = self.sent_chain, self._chain_at(self.lane, last) or 0
        self.sent = last
        self.reached = max(self.reached, last)
        self.in_flight.append(InFlight(first, last, 0, now, last_chain))
        reason = self.not_retained if first <= self.lost else self.given_way
        return [Transmit(Batch(
            epoch=self._epoch, incarnation=self._incarnation, lane=self.lane,
            first=first, last=last, prev_chain=prev_chain, last_chain=last_chain,
            codec=Codec.GAP, payload=b"", reason=reason,
        ))]  # fmt: skip

    def loaded_nothing(self, first: int, now: float) -> list[Effect]:
        if self.loading == first:
            self.loading = None
        # Gone while it was asked for: the gap can be declared now.
        return self.fill(now) if self.sent < self.trimmed else []

    def loaded(self, event: Loaded, now: float) -> list[Effect]:
        """Send what was asked for, if it is still what comes next."""
        if self.loading != event.first:
            return []  # of a session or an attempt already given up
        self.loading = None
        if not self._epoch or event.first != self.sent + 1:
            return []
        if len(event.payload) > self._limits.batch_bytes and event.first < event.last:
            self.shrink()
            return self.fill(now)
        if event.last < self.tail and event.last - event.first + 1 < self.batch_records:
            self.is_growing = False  # bytes bound it, not records
        self.sent = event.last
        self.reached = max(self.reached, self.sent)
        if self.sent == self.tail:
            self.grown_at = None
        codec, payload, reason, effects = event.codec, event.payload, "", list[Effect]()
        if self.refused and event.first == event.last == self.refused[0]:
            # R12: refused while standing alone; the receiver keeps it as a dead letter.
            codec, reason = Codec.DEAD, self.refused[1]
            self.refused = None  # it stays alone until the answer, however often that is lost
            effects.append(Dead(self.lane, event.first, reason))
            effects.append(Report("dead", {"lane": int(self.lane), "seq": event.first}))
        sent = InFlight(event.first, event.last, len(payload), now, event.last_chain)
        self.in_flight.append(sent)
        effects.append(Transmit(Batch(
            epoch=self._epoch, incarnation=self._incarnation, lane=self.lane,
            first=event.first, last=event.last,
            prev_chain=event.prev_chain, last_chain=event.last_chain,
            codec=codec, payload=payload, reason=reason,
        )))  # fmt: skip
        return [*effects, *self.fill(now)]

    # -- answers ---------------------------------------------------------------------------------

    def ack(self, ack: Ack, now: float) -> list[Effect]:
        if not self.floor <= ack.floor <= self.reached:
            return []  # late, or a claim about records this session never sent
        advanced = ack.floor > self.floor or ack.safe > self.safe
        self.acked(ack.floor, now)
        self.floor = ack.floor
        # After a resend was begun, the answer to the first sending may still come.
        self.skip_to_floor()
        self.safe = max(self.safe, min(ack.safe, ack.floor))
        self.narrow()
        effects: list[Effect] = [Mark(self.lane, self.floor, self.safe)] if advanced else []
        if ack.pause_s:
            effects += self._pause(ack.pause_s, ack.reason, now)
        return [*effects, *self.fill(now)]

    def nack(self, nack: Nack, now: float) -> list[Effect]:
        if not any(batch.first == nack.first for batch in self.in_flight):
            return []  # already gone back for another reason
        if nack.code is NackCode.CHAIN or not self.floor <= nack.floor <= self.reached:
            return [Hangup(f"the receiver's floor does not fit: {nack.reason}", is_success=True)]
        effects: list[Effect] = []
        if nack.floor > self.floor:
            effects.append(Mark(self.lane, nack.floor, self.safe))
            self.floor_chain = 0
        self.floor = nack.floor
        self.go_back()
        match nack.code:
            case NackCode.POISON:
                self.bisect(nack)
            case NackCode.TOO_LARGE if nack.first == nack.last:
                self.bisect(nack)
            case NackCode.TOO_LARGE:
                self.shrink()
            case NackCode.BUSY:
                effects += self._pause(nack.retry_after_s, nack.reason, now)
        return [*effects, *self.fill(now)]

    def _pause(self, pause_s: float, reason: str, now: float) -> list[Effect]:
        """Send nothing more for a while; that it begins is reported."""
        is_news = not self._slowdown.reason(now)
        self.hold_until = now + min(max(pause_s, 0.1), PAUSE_MAX_S)
        self._slowdown.note(reason, self.hold_until)
        facts: dict[str, str | int | float]
        facts = {"lane": int(self.lane), "pause_s": round(pause_s, 1), "reason": reason}
        return [Report("slowed", facts)] if is_news else []
