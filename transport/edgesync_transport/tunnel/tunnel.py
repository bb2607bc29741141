"""What one end knows of a tunnel: its connections, and when it is over.                [sans-IO]

The hub's end opens connections, the edge's accepts them; all else is the same. Both count the time
by their own monotonic clock, so a tunnel ends where the other end hangs, too.
"""

import math

import msgspec

from edgesync_transport.messages import CONNECTIONS_MAX, TunnelCode, TunnelData
from edgesync_transport.tunnel.pace import Pace
from edgesync_transport.tunnel.stream import SHARE_LEAST, WINDOW_BYTES, Stream, StreamFault


class End(msgspec.Struct, frozen=True):
    """Why a tunnel, or a connection in it, is over."""

    code: TunnelCode
    reason: str


class Tunnel:
    """See the module.

    epoch         the session that it belongs to, and ends with
    idle_s        a connection on which nothing moves for so long is closed; a tunnel without one
                  is over
    connections   at a time; CONNECTIONS_MAX at most, whatever the other end grants
    opened        how many there have been
    sent, received   bytes, of connections that are over, too
    pace          of what it sends
    """

    def __init__(
        self,
        epoch: int,
        number: int,
        *,
        now: float,
        for_s: float,
        connections: int,
        idle_s: float = math.inf,
    ) -> None:
        self.epoch = epoch
        self.number = number
        self.for_s = for_s
        self.idle_s = idle_s
        self.connections = min(max(1, connections), CONNECTIONS_MAX)
        self.opened_at = now
        self.streams: dict[int, Stream] = {}
        self.pace = Pace()
        self.opened = 0
        self.sent = 0
        self.received = 0
        self._newest = 0
        self._moved_at = now

    @property
    def expires_at(self) -> float:
        return self.opened_at + self.for_s

    @property
    def share(self) -> int:
        """Bytes that each connection may have under way."""
        return max(SHARE_LEAST, WINDOW_BYTES // max(1, len(self.streams)))

    def open(self, now: float) -> Stream:
        """Return a new connection, to be told by its first message; raises StreamFault."""
        return self._add(self._newest + 1, now)

    def hear(self, message: TunnelData, now: float) -> Stream | None:
        """Take a message for a connection; returns it, None if it is over. Raises StreamFault."""
        stream = self.streams.get(message.stream)
        if stream is None:
            return None
        before = stream.received
        stream.receive(message, now)
        self.received += stream.received - before
        self._moved_at = max(self._moved_at, stream.moved_at)
        return stream

    def accept(self, message: TunnelData, now: float) -> Stream | None:
        """Return the connection that a message opens; None if it opens none.

        Raises StreamFault when there are as many as may be.
        """
        return self._add(message.stream, now) if message.stream > self._newest else None

    def _add(self, number: int, now: float) -> Stream:
        self._newest = number
        if len(self.streams) >= self.connections:
            raise StreamFault(
                TunnelCode.FULL, f"{self.connections} connections are open, as many as may be"
            )
        self.opened += 1
        self._moved_at = now
        stream = self.streams[number] = Stream(self.epoch, self.number, number, now, self.pace)
        return stream

    def send(self, stream: Stream, data: bytes, now: float) -> TunnelData:
        self.sent += len(data)
        self._moved_at = now
        return stream.send(data, now)

    def take(self, stream: Stream, count: int, now: float) -> TunnelData | None:
        self._moved_at = now
        return stream.take(count, now)

    def close(self, number: int, now: float) -> None:
        """Forget a connection; what still comes for it is dropped."""
        if self.streams.pop(number, None) is not None:
            self._moved_at = now

    def idle(self, now: float) -> list[Stream]:
        """Return the connections on which nothing has moved for too long."""
        return [one for one in self.streams.values() if now - one.moved_at >= self.idle_s]

    def over(self, now: float) -> End | None:
        """Return why the tunnel is over by now, if it is."""
        if now >= self.expires_at:
            return End(TunnelCode.EXPIRED, f"its {self.for_s:g} s are over")
        if not self.streams and now - self._moved_at >= self.idle_s:
            return End(TunnelCode.IDLE, f"no connection in it for {self.idle_s:g} s")
        return None

    def due_at(self) -> float:
        """Return when `idle` or `over` has to be asked next."""
        moved_at = min((one.moved_at for one in self.streams.values()), default=self._moved_at)
        return min(self.expires_at, moved_at + self.idle_s)
