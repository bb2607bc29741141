"""One lane of a sender: where it stands, what is under way, how much may be.         [sans-IO]"""

import math
from collections import deque
from typing import TYPE_CHECKING

import msgspec

from edgesync_transport.messages import Lane, Limits, Nack

if TYPE_CHECKING:
    from edgesync_transport.lanes.acktimes import AckTimes

# Until the size of batches is found, and again where an ack took too long: so many are under way,
# for of small batches each record costs more. An ack that takes this part of the time it may lets
# the next one be so many times as large.
GROWING_BATCHES = 2
QUICK_GROWTH = 4
# A line by satellite takes 0.6 s, a bad mobile one a second; what takes longer is narrow, not long.
LATENCY_MAX_S = 1.0


class SenderSettings(msgspec.Struct, frozen=True, kw_only=True):
    """Limits and times of one side; seconds and counts.

    batch_records_min   size adapts between these two (S13)
    window_batches      unacknowledged batches a lane may have
    linger_s            how long a lane waits for more before it sends less than a full batch, at
                        most: with nothing under way it sends what there is
    """

    batch_records_min: int = 16
    batch_records_max: int = 16_384
    # Raw rows of one batch; what travels is smaller and bounded by the receiver's limits.
    # A megabyte is 50,000 readings; more gains no speed (bench/benchmarks/drain.py), only memory.
    batch_raw_bytes: int = 1024 * 1024
    window_batches: tuple[int, int, int] = (4, 8, 8)
    window_bytes: tuple[int, int, int] = (256 << 10, 1 << 20, 2 << 20)
    linger_s: tuple[float, float, float] = (0.0, 0.002, 0.005)
    ack_target_s: float = 0.25
    ack_timeout_s: float = 10.0
    greeting_timeout_s: float = 10.0
    # Three heartbeats without a word: 15 s, the design's bound for a dead peer (S17).
    heartbeat_s: float = 5.0
    heartbeats_missed_max: int = 3
    clock_offset_warn_s: float = 5.0
    software: str = ""


class LanePositions(msgspec.Struct, frozen=True, kw_only=True):
    """Where a lane of the journal stands when the sender is made, or after a fork."""

    tail: int
    floor: int
    safe: int
    trimmed: int
    start: int = 0
    start_chain: int = 0


class InFlight(msgspec.Struct, frozen=True):
    first: int
    last: int
    nbytes: int
    at: float
    last_chain: int


class LaneWindow:
    """One lane's positions and what is under way on it."""

    def __init__(self, lane: Lane, positions: LanePositions, settings: SenderSettings) -> None:
        self.lane = lane
        self.settings = settings
        self.tail = positions.tail
        self.floor = positions.floor
        self.safe = positions.safe
        self.trimmed = positions.trimmed
        self.start = positions.start
        self.start_chain = positions.start_chain
        self.sent = positions.floor
        self.reached = positions.floor  # highest seq sent in this session, resent or not
        self.batch_records = max(settings.batch_records_min, min(256, settings.batch_records_max))
        # Nothing tells yet how large batches may be: the next size is tried before many are sent.
        self.is_growing = self.batch_records < settings.batch_records_max
        # While a refused range is bisected: the bad record is in floor+1 .. suspect_last, and no
        # batch reaches beyond the ceiling.
        self.suspect_last = 0
        self.ceiling: int | None = None
        self.refused: tuple[int, str] | None = None  # seq and reason of a record refused alone
        self.floor_chain = 0  # the receiver's chain at the floor; 0 when it is not known
        self.lost = 0  # highest seq the receiver had once and that is trimmed here
        self.loading: int | None = None
        self.in_flight: deque[InFlight] = deque()
        self.hold_until = 0.0
        self.grown_at: float | None = None
        self.quickest_s = math.inf  # of all acks of this session
        self.shrunk_at = -math.inf  # the last time that an ack took too long
        self.ack_times: AckTimes | None = None  # for whoever shows them

    @property
    def in_flight_bytes(self) -> int:
        return sum(batch.nbytes for batch in self.in_flight)

    @property
    def sent_chain(self) -> int:
        """The chain a gap after `sent` follows on, of records that may be gone here."""
        return self.in_flight[-1].last_chain if self.in_flight else self.floor_chain

    def go_back(self) -> None:
        """Forget what is under way; go on after the floor."""
        self.sent = self.floor
        self.in_flight.clear()
        self.loading = None

    def skip_to_floor(self) -> None:
        """Records up to the floor need not be sent any more."""
        if self.sent < self.floor:
            self.sent = self.floor
            self.loading = None

    def forget_refusal(self) -> None:
        self.suspect_last = 0
        self.ceiling = None
        self.refused = None

    def narrow(self) -> None:
        """Halve what is left of a refused range after its good front was stored."""
        if self.ceiling is None or self.refused or self.floor < self.ceiling:
            return
        if self.floor >= self.suspect_last:
            self.forget_refusal()
        else:
            self.ceiling = self.floor + max(1, (self.suspect_last - self.floor) // 2)

    def check(self) -> None:
        assert self.floor <= self.sent <= self.tail, self.lane  # I3

    def has_room(self, limits: Limits) -> bool:
        """Whether one more batch may be under way; `limits` are the receiver's."""
        batches = min(self.settings.window_batches[self.lane], limits.window_batches)
        nbytes = min(self.settings.window_bytes[self.lane], limits.window_bytes)
        # A batch of a size that is still growing costs more bytes a record than the next one.
        if self.is_growing and self.tail - self.sent >= self.batch_records:
            batches = min(batches, GROWING_BATCHES)
        # While a refused range is bisected, one batch at a time keeps the answers apart.
        if self.ceiling is not None:
            batches = 1
        return len(self.in_flight) < batches and self.in_flight_bytes < nbytes

    def acked(self, floor: int, now: float) -> None:
        """Drop what is not under way any more, and learn from how long it took."""
        while self.in_flight and self.in_flight[0].last <= floor:
            batch = self.in_flight.popleft()
            self.floor_chain = batch.last_chain if batch.last == floor else 0
            if self.ack_times is not None:
                self.ack_times.note(now - batch.at)
            self._adapt(batch, now)

    def _adapt(self, batch: InFlight, now: float) -> None:
        """AIMD on the time to the ack (S13); only full batches tell what a larger one would do."""
        settings, took_s = self.settings, now - batch.at
        self.quickest_s = min(self.quickest_s, took_s)
        # What the way itself takes, no smaller batch would save.
        waited_s = took_s - min(self.quickest_s, LATENCY_MAX_S)
        if waited_s > 2 * settings.ack_target_s:
            # What was under way when that was found waited for the same reason: that is told once.
            if batch.at >= self.shrunk_at:
                self.shrink(min(self.batch_records, settings.batch_records_min))
                self.shrunk_at, self.is_growing = now, True
        elif waited_s <= settings.ack_target_s and (
            batch.last - batch.first + 1 >= self.batch_records
        ):
            step = max(64, self.batch_records // 2)
            if self.is_growing and took_s <= settings.ack_target_s / QUICK_GROWTH:
                step = (QUICK_GROWTH - 1) * self.batch_records
            self.batch_records = min(self.batch_records + step, settings.batch_records_max)
            self.is_growing &= self.batch_records < settings.batch_records_max

    def shrink(self, least: int = 1) -> None:
        self.is_growing = False
        # To one record only refusals and silence lead: it may be that large.
        self.batch_records = max(least, self.batch_records // 2)

    def bisect(self, nack: Nack) -> None:
        """S14: halve the refused range until the bad record stands alone.

        The good half in front is stored on the way, so the next refusal is about a shorter range.
        """
        if nack.first == nack.last:
            self.refused = (nack.first, nack.reason or "refused")
            self.ceiling = self.suspect_last = nack.first
        else:
            self.suspect_last = nack.last
            self.ceiling = self.floor + max(1, (nack.last - self.floor) // 2)
