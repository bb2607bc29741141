"""A circuit breaker: after enough failures in a row, stop trying for a while.  [sans-IO]"""

import enum

import msgspec


class BreakerSettings(msgspec.Struct, frozen=True, kw_only=True):
    failures_max: int = 5
    open_s: float = 300.0


class BreakerState(enum.Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half open"


class Breaker:
    """CLOSED lets attempts through; OPEN lets none through for open_s; HALF_OPEN lets one probe."""

    def __init__(self, settings: BreakerSettings) -> None:
        self._settings = settings
        self._failures = 0
        self._opened_at: float | None = None
        self._is_probing = False

    def state(self, now: float) -> BreakerState:
        if self._opened_at is None:
            return BreakerState.CLOSED
        if self._is_probing or now - self._opened_at >= self._settings.open_s:
            return BreakerState.HALF_OPEN
        return BreakerState.OPEN

    def wait_s(self, now: float) -> float:
        """Return how long to wait before the next attempt; 0 when one may start now."""
        if self._opened_at is None:
            return 0.0
        return max(0.0, self._opened_at + self._settings.open_s - now)

    def attempt(self, now: float) -> bool:
        """Ask to start an attempt; answer it with `succeeded` or `failed`."""
        match self.state(now):
            case BreakerState.CLOSED:
                return True
            case BreakerState.HALF_OPEN if not self._is_probing:
                self._is_probing = True
                return True
        return False

    def succeeded(self) -> None:
        self._failures = 0
        self._opened_at = None
        self._is_probing = False

    def failed(self, now: float) -> None:
        self._failures += 1
        if self._is_probing or self._failures >= self._settings.failures_max:
            self._opened_at = now
        self._is_probing = False

    def unanswered(self) -> None:
        """Nobody was there to be spared, or to have recovered: another attempt may be made."""
        self._is_probing = False
