"""A tunnel at one end, with its connections: between their sockets and the messages of a link."""

import logging
from collections.abc import Awaitable, Callable

import trio

from edgesync_transport.messages import Message, TunnelClose, TunnelCode, TunnelData
from edgesync_transport.tunnel.stream import Stream, StreamFault
from edgesync_transport.tunnel.tunnel import End, Tunnel

log = logging.getLogger(__name__)

# For what either side puts on record of an end, when it stops.
FAREWELL_S = 2.0


class TunnelEnd:
    """See the module.

    send    hands a message to the link, without waiting; one that it drops ends its connection
    ended   why the tunnel is over; None while it is not
    """

    def __init__(self, tunnel: Tunnel, send: Callable[[Message], None]) -> None:
        self.tunnel = tunnel
        self.ended: End | None = None
        self._send = send
        self._scopes: dict[int, trio.CancelScope] = {}
        self._moved = trio.lowlevel.ParkingLot()
        self._turn = trio.Lock()
        self._nap = trio.CancelScope()

    # -- the tunnel ------------------------------------------------------------------------------

    async def run(self) -> End:
        """Keep its time; returns once it is over, with why."""
        while not (end := self.ended):
            with trio.CancelScope(deadline=self.tunnel.due_at()) as self._nap:
                await trio.sleep_forever()
            now = trio.current_time()
            if over := self.tunnel.over(now):
                self.end(over)
            for stream in self.tunnel.idle(now):
                self._close(stream, End(TunnelCode.IDLE, "nothing was sent for too long"))
        await trio.lowlevel.checkpoint()
        return end

    def end(self, end: End, *, is_told: bool = False) -> None:
        """End the tunnel and its connections; the other end is told unless it knows."""
        if self.ended is not None:
            return
        self.ended = end
        if not is_told:
            self._send(self._closing(0, end))
        for stream in list(self.tunnel.streams.values()):
            self._drop(stream)
        self._nap.cancel()

    def _closing(self, number: int, end: End) -> TunnelClose:
        return TunnelClose(
            epoch=self.tunnel.epoch, tunnel=self.tunnel.number, stream=number, code=end.code,
            reason=end.reason,
        )  # fmt: skip

    # -- connections -----------------------------------------------------------------------------

    def open(self) -> Stream:
        """Open a connection through the tunnel, and tell the other end; raises StreamFault."""
        stream = self.tunnel.open(trio.current_time())
        self._send(stream.message())
        return stream

    def hear(self, message: TunnelData | TunnelClose, *, accepts: bool = False) -> Stream | None:
        """Take a message for the tunnel; returns the connection that it opened.

        accepts   the other end may open connections
        """
        if self.ended is not None:
            return None
        now = trio.current_time()
        if isinstance(message, TunnelClose):
            if message.stream == 0:
                self.end(End(message.code, message.reason), is_told=True)
            elif message.stream in self.tunnel.streams:
                self._drop(self.tunnel.streams[message.stream])
            return None
        opened: Stream | None = None
        try:
            opened = self.tunnel.accept(message, now) if accepts else None
            is_open = self.tunnel.hear(message, now) is not None
            if not is_open and (message.payload or message.is_end):
                # What said so may have been lost, and the other end would wait.
                raise StreamFault(TunnelCode.LOST, "the connection is over")
        except StreamFault as fault:
            self._send(self._closing(message.stream, End(fault.code, str(fault))))
            if message.stream in self.tunnel.streams:
                self._drop(self.tunnel.streams[message.stream])
            return None
        self._moved.unpark_all()
        return opened

    async def serve(
        self, stream: Stream, connect: Callable[[], Awaitable[trio.SocketStream]]
    ) -> None:
        """Carry a connection both ways until it is over; `connect` raises StreamFault."""
        scope = self._scopes[stream.number] = trio.CancelScope()
        if self.tunnel.streams.get(stream.number) is not stream:
            scope.cancel()  # it was closed before this task had its turn
        try:
            with scope:
                await self._carry(stream, await connect())
        except StreamFault as fault:
            self._close(stream, End(fault.code, str(fault)))
        except Exception:  # What one connection brings must not end all the others (I8).
            log.exception("tunnel %x: connection %d failed", stream.tunnel, stream.number)
            self._close(stream, End(TunnelCode.RESET, "this end failed, see its log"))
        finally:
            self._drop(stream)
            del self._scopes[stream.number]

    async def _carry(self, stream: Stream, socket: trio.SocketStream) -> None:
        try:
            async with socket, trio.open_nursery() as nursery:
                nursery.start_soon(self._read, stream, socket)
                nursery.start_soon(self._write, stream, socket)
        except* (OSError, trio.BrokenResourceError) as broken:
            reason = str(broken.exceptions[0]) or "the connection was reset"
            self._close(stream, End(TunnelCode.RESET, reason))

    async def _read(self, stream: Stream, socket: trio.SocketStream) -> None:
        while not stream.is_sent:
            while not (room := stream.room(self.tunnel.share)):
                await self._moved.park()
            await trio.lowlevel.wait_readable(socket.socket)
            # One after the other: each takes of the credit, which is not for those without bytes.
            async with self._turn:
                data = bytes(await socket.receive_some(min(room, await self._credit())))
                self._send(self.tunnel.send(stream, data, trio.current_time()))

    async def _credit(self) -> int:
        """Wait until the link takes more; returns how many bytes."""
        pace = self.tunnel.pace
        while not (room := pace.room(trio.current_time())):
            with trio.move_on_at(pace.due_at()):
                await self._moved.park()
        return room

    async def _write(self, stream: Stream, socket: trio.SocketStream) -> None:
        while not stream.is_handed_on:
            if stream.buffer:
                data = bytes(stream.buffer)
                await socket.send_all(data)
                if told := self.tunnel.take(stream, len(data), trio.current_time()):
                    self._send(told)
            elif stream.is_received:
                await socket.send_eof()
                stream.hand_on_end()
            else:
                await self._moved.park()

    def _close(self, stream: Stream, end: End) -> None:
        """Close a connection that is still open, and tell the other end."""
        if self.tunnel.streams.get(stream.number) is stream and self.ended is None:
            log.debug("tunnel %x: connection %d: %s", stream.tunnel, stream.number, end.reason)
            self._send(self._closing(stream.number, end))
        self._drop(stream)

    def _drop(self, stream: Stream) -> None:
        self.tunnel.close(stream.number, trio.current_time())
        if stream.number in self._scopes:
            self._scopes[stream.number].cancel()
        self._moved.unpark_all()  # others have a larger share now
