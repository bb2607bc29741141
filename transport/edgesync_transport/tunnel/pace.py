"""How much of one direction of a tunnel may be under way: little where the link is slow. [sans-IO]

Batches, acks and heartbeats wait behind what is under way. So it has a *credit*, which grows while
what was sent is told as taken soon, and shrinks when that takes long.
"""

import math
from collections import deque
from typing import Final

CREDIT_MIN: Final = 8 * 1024
CREDIT_FIRST: Final = 16 * 1024
CREDIT_MAX: Final = 64 * 1024
FAST_S: Final = 0.5
SLOW_S: Final = 1.0
# What is not taken by then counts no more: its target does not read, and others are not to wait.
STALE_S: Final = 2.0


class Sent:
    """Bytes that were sent at a time; `counts` as long as they are of the credit."""

    __slots__ = ("at", "counts", "nbytes")

    def __init__(self, nbytes: int, at: float) -> None:
        self.nbytes = nbytes
        self.at = at
        self.counts = True


class Pace:
    """See the module."""

    def __init__(self) -> None:
        self.credit = CREDIT_FIRST
        self._sent = deque[Sent]()
        self._under_way = 0

    def room(self, now: float) -> int:
        """Return how many bytes may be sent now."""
        while self._sent and (not self._sent[0].counts or self._sent[0].at <= now - STALE_S):
            self._settle(self._sent.popleft())
        return max(0, self.credit - self._under_way)

    def due_at(self) -> float:
        """Return when time alone makes room; infinity if it does not."""
        return self._sent[0].at + STALE_S if self._sent else math.inf

    def send(self, nbytes: int, now: float) -> Sent:
        sent = Sent(nbytes, now)
        self._sent.append(sent)
        self._under_way += nbytes
        return sent

    def take(self, sent: Sent, now: float) -> None:
        """Note that the other end has handed these on."""
        self._settle(sent)
        if now - sent.at < FAST_S:
            self.credit = min(CREDIT_MAX, self.credit + sent.nbytes)
        elif now - sent.at > SLOW_S:
            self.credit = max(CREDIT_MIN, self.credit // 2)

    def _settle(self, sent: Sent) -> None:
        if sent.counts:
            sent.counts = False
            self._under_way -= sent.nbytes
