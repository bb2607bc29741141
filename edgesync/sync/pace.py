"""How soon the link hears that there is more to send.

With an interval, what is not critical waits and travels together: fewer and fuller batches, for
links that are paid by the connection or the byte. Nothing waits on its way into the journal.
"""

from collections.abc import Callable

import trio

from edgesync.model import Lane

Tails = tuple[int, int, int]


class Pace:
    """Passes the tails of the lanes on to `tell`: at once, or every `interval_s` seconds."""

    def __init__(self, interval_s: float, tell: Callable[[Tails], None]) -> None:
        self._interval_s = interval_s
        self._tell = tell
        self._tails: Tails = (0, 0, 0)

    def grown(self, tails: Tails) -> None:
        self._tails = tails
        if self._interval_s:
            self._tell((tails[Lane.CRITICAL], 0, 0))
        else:
            self._tell(tails)

    def flush(self) -> None:
        """Let everything go that was heard of."""
        self._tell(self._tails)

    async def run(self) -> None:
        while self._interval_s:
            await trio.sleep(self._interval_s)
            self.flush()
