"""A log line or a record a minute for each thing that happens again and again."""

import time
from collections.abc import Callable, Hashable
from typing import Final

# Keys may come from outside (addresses): past this many the oldest is forgotten, which can only
# cost a line more.
KEYS_MAX: Final = 1024


class Seldom:
    """Says when to log: `burst` times of a key, then once each `interval_s` with a count.

    What a peer can make this side store goes by it as well: a count stands for what was left out.
    """

    def __init__(
        self,
        interval_s: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
        *,
        burst: int = 1,
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._burst = burst
        # Until when what was said fills its intervals, and what was kept quiet since.
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def ask(self, key: Hashable) -> int | None:
        """Return how many were kept quiet since the last line, or None to keep quiet."""
        now = self._clock()
        filled_at, quiet = self._seen.get(key, (float("-inf"), 0))
        if filled_at - now > (self._burst - 1) * self._interval_s:
            self._seen[key] = (filled_at, quiet + 1)
            return None
        self._seen.pop(key, None)
        self._seen[key] = (max(now, filled_at) + self._interval_s, 0)
        if len(self._seen) > KEYS_MAX:
            del self._seen[next(iter(self._seen))]
        return quiet
