"""One log line a minute for each thing that goes wrong again and again."""

import time
from collections.abc import Callable, Hashable
from typing import Final

# Keys may come from outside (addresses): past this many the oldest is forgotten, which can only
# cost a line more.
KEYS_MAX: Final = 1024


class Seldom:
    """Says when to log: the first time of a key, then once each `interval_s` with a count."""

    def __init__(
        self, interval_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._interval_s = interval_s
        self._clock = clock
        self._seen: dict[Hashable, tuple[float, int]] = {}

    def ask(self, key: Hashable) -> int | None:
        """Return how many were kept quiet since the last line, or None to keep quiet."""
        now = self._clock()
        last, quiet = self._seen.get(key, (float("-inf"), 0))
        if now - last < self._interval_s:
            self._seen[key] = (last, quiet + 1)
            return None
        self._seen.pop(key, None)
        self._seen[key] = (now, 0)
        if len(self._seen) > KEYS_MAX:
            del self._seen[next(iter(self._seen))]
        return quiet
