"""One lane of a receiver: batches in, acknowledgements of what is durable out.      [sans-IO]

Only the shell's answer Stored leads to an Ack: nothing is acknowledged that is not on disk
(I1, I4).
"""

from typing import Final

from edgesync_transport.lanes.events import Store, Stored
from edgesync_transport.messages import Ack, Batch, Lane, LaneFloor, Nack, NackCode

# After a refusal the sender waits so long at least.
RETRY_S: Final = 0.5
FLOOR_NONE: Final = LaneFloor(floor=0, chain=0, safe=0)


class LaneReceiver:
    """See the module.

    floor   where the lane stands; stays when its session ends
    tail    highest seq the sender has, as far as it told
    taken   highest seq taken for storing: pipelined batches follow on it
    """

    def __init__(self, lane: Lane, batch_bytes: int) -> None:
        self.lane = lane
        self.floor = FLOOR_NONE
        self.tail = self.taken = 0
        self.duplicates = 0
        self.in_store: dict[int, Batch] = {}
        self._batch_bytes = batch_bytes
        self._epoch = 0
        self._incarnation = b""

    def begin(self, epoch: int, incarnation: bytes, floor: LaneFloor, tail: int) -> None:
        """Take batches of a session that was granted; they follow on `floor`."""
        self._epoch, self._incarnation = epoch, incarnation
        self.floor, self.tail, self.taken = floor, tail, floor.floor
        self.in_store.clear()

    def end(self) -> None:
        """Forget what is being stored: the next session will find the floor."""
        self._epoch = 0
        self.in_store.clear()

    def batch(self, batch: Batch, token: int, *, has_room: bool) -> Store | Ack | Nack:
        """Take a batch for storing under `token`, or answer it."""
        self.tail = max(self.tail, batch.last)
        if batch.incarnation != self._incarnation:
            return self._nack(batch, NackCode.CHAIN, "another incarnation than greeted with")
        if len(batch.payload) > self._batch_bytes:
            return self._nack(batch, NackCode.TOO_LARGE, f"over {self._batch_bytes} bytes")
        if batch.last <= self.floor.floor:
            self.duplicates += 1
            return self._ack()
        if batch.first > self.taken + 1:
            return self._nack(batch, NackCode.GAP, f"expected {self.taken + 1}")
        if not has_room:
            return self._nack(batch, NackCode.BUSY, "more batches than the window allows", RETRY_S)
        self.taken = max(self.taken, batch.last)
        self.in_store[token] = batch
        return Store(token, batch)

    def stored(self, event: Stored) -> list[Ack | Nack]:
        """Answer what was in store under the event's token."""
        batch = self.in_store.pop(event.token)
        if event.code is not None:
            # What follows in the pipe stands on this batch, so it is refused by the gap it leaves.
            if event.floor > self.floor.floor:
                self._note_floor(event.floor, self.floor.safe, 0)
            self.taken = self.floor.floor
            retry_s = max(RETRY_S, event.pause_s)
            return [self._nack(batch, event.code, event.reason, retry_s)]
        self._note_floor(event.floor, event.safe, batch.last_chain)
        # A refusal before this answer had put `taken` back.
        self.taken = max(self.taken, event.floor)
        if self.in_store:
            return []  # cumulative: the last one under way answers for all (R2)
        return [self._ack(event)]

    def _note_floor(self, floor: int, safe: int, chain: int) -> None:
        if floor >= self.floor.floor:
            self.floor = LaneFloor(floor=floor, chain=chain, safe=safe)

    def _ack(self, stored: Stored | None = None) -> Ack:
        return Ack(
            epoch=self._epoch, incarnation=self._incarnation, lane=self.lane,
            floor=self.floor.floor, safe=self.floor.safe,
            pause_s=stored.pause_s if stored else 0.0,
            reason=stored.reason if stored and stored.pause_s else "",
        )  # fmt: skip

    def _nack(self, batch: Batch, code: NackCode, reason: str, retry_s: float = 0.0) -> Nack:
        return Nack(
            epoch=self._epoch, incarnation=self._incarnation, lane=self.lane,
            first=batch.first, last=batch.last, floor=self.floor.floor,
            code=code, reason=reason, retry_after_s=retry_s,
        )  # fmt: skip
