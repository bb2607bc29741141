"""How long batches take until the other side has stored them.                        [sans-IO]"""

from bisect import bisect_left
from collections import deque
from typing import Final

# Upper bounds in seconds, as a Prometheus histogram has them; the last bucket has none.
BOUNDS_S: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
RECENT_MAX: Final = 100
# Of fewer, one slow batch would be the hundredth part.
RECENT_MIN: Final = 20


class AckTimes:
    """Counts of a lane since it was made, and the newest times."""

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS_S) + 1)
        self.sum_s = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT_MAX)

    def note(self, took_s: float) -> None:
        self.counts[bisect_left(BOUNDS_S, took_s)] += 1
        self.sum_s += took_s
        self._recent.append(took_s)

    def p99_s(self) -> float | None:
        """Return what 99 of 100 of the newest batches stay under; None while they are few."""
        if len(self._recent) < RECENT_MIN:
            return None
        ordered = sorted(self._recent)
        return ordered[int(0.99 * (len(ordered) - 1))]
