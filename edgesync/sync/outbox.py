"""What waits for the link at an edge, in two rows: what a session needs, and what may be lost."""

from collections import deque
from typing import Final

import trio

from edgesync_transport.messages import Message

NEEDED_MAX: Final = 256
# 16 tunnels of 16 connections: 8 messages of each under way, and 3 that say what became of others.
# Their bytes are bounded by the windows of the tunnels.
EXTRAS_MAX: Final = 16 * 16 * 11


class Outbox:
    """Both rows are bounded (I7), and no extra is taken while something needed waits.

    So no batch, heartbeat or ack waits behind bytes of tunnels and objects, nor does a session end
    because those fill their row.
    """

    def __init__(self) -> None:
        self._needed = deque[Message]()
        self._extras = deque[Message]()
        self._news = trio.Event()

    def put_needed(self, message: Message) -> bool:
        """Queue a message; returns False, and it is not queued, when its row is full."""
        return self._put(self._needed, NEEDED_MAX, message)

    def put_extra(self, message: Message) -> bool:
        return self._put(self._extras, EXTRAS_MAX, message)

    def _put(self, row: deque[Message], most: int, message: Message) -> bool:
        if len(row) >= most:
            return False
        row.append(message)
        self._news.set()
        return True

    async def take(self) -> Message:
        """Return what is sent next; waits until there is something."""
        await trio.lowlevel.checkpoint()
        while not (row := self._needed or self._extras):
            self._news = trio.Event()
            await self._news.wait()
        return row.popleft()
