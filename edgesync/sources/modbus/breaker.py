"""When a silent device is asked again: after 2 s, 4 s … at most 5 minutes.   [sans-IO]

Unlike a circuit breaker of many callers there is one caller and one probe, so the next probe's
time is the whole state. Times are monotonic seconds.
"""

from typing import Final

from edgesync.sources.base import BreakerState

FIRST_S: Final = 2.0
MOST_S: Final = 300.0


class Breaker:
    """Opens with the first failed poll (its retries are used up by then)."""

    def __init__(self) -> None:
        self.failures = 0
        self._probe_at_s: float | None = None
        self._is_probing = False

    def state(self) -> BreakerState:
        if self._probe_at_s is None:
            return BreakerState.CLOSED
        return BreakerState.PROBING if self._is_probing else BreakerState.OPEN

    @property
    def probe_at_s(self) -> float | None:
        """When to probe next; None while closed."""
        return self._probe_at_s

    def probe(self) -> None:
        """Note that the probe is under way."""
        self._is_probing = True

    def succeed(self) -> bool:
        """Close; True if it was open, that is: the device is back."""
        was_open = self._probe_at_s is not None
        self.failures, self._probe_at_s, self._is_probing = 0, None, False
        return was_open

    def fail(self, now_s: float) -> bool:
        """Wait twice as long as before; True if it was closed, that is: the device went away."""
        was_closed = self._probe_at_s is None
        wait_s = min(FIRST_S * 2 ** min(self.failures, 20), MOST_S)
        self.failures += 1
        self._probe_at_s, self._is_probing = now_s + wait_s, False
        return was_closed

    def hurry(self, now_s: float) -> None:
        """Probe now: an operator asks, or the connection all units share is back."""
        if self._probe_at_s is not None:
            self._probe_at_s = now_s
