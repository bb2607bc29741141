"""A network cable that can be pulled: a TCP relay between an edge and its hub.

The relay is the only thing between them, so what it does to bytes is what a bad network does:
`cut` resets every connection and refuses new ones, `hush` leaves connections open and delivers
nothing (the half-open case that only heartbeats find), `plug` lets bytes through again.
"""

import enum
import math
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio

CHUNK_BYTES = 64 * 1024


class CableState(enum.Enum):
    PLUGGED = "plugged"
    CUT = "cut"
    HUSHED = "hushed"


class Cable:
    """Relays connections from `address` to `target`; see `open_cable`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.state = CableState.PLUGGED
        self.address: tuple[str, int] = ("", 0)
        # What went through, to the target and back: handshakes, heartbeats, all of it.
        self.bytes_to = self.bytes_back = 0
        self._hush_at = math.inf  # bytes that came back
        self._connections: set[trio.CancelScope] = set()
        self._plugged = trio.Event()
        self._plugged.set()

    def cut(self) -> None:
        self.state = CableState.CUT
        for scope in list(self._connections):
            scope.cancel()

    def hush(self) -> None:
        self.state = CableState.HUSHED
        self._plugged = trio.Event()

    def plug(self, back: float = math.inf) -> None:
        """Let bytes through again. Connections that were hushed go on where they stopped.

        After `back` more bytes from the target, or a chunk more, it is hushed.
        """
        self._hush_at = self.bytes_back + back
        self.state = CableState.PLUGGED
        self._plugged.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                if self.state is not CableState.CUT:
                    await self._relay(client)
            except OSError:
                pass  # The hub is not there: the edge sees its connection end, as in real life.
            finally:
                self._connections.discard(scope)
                _reset(client)

    async def _relay(self, client: trio.SocketStream) -> None:
        server = await trio.open_tcp_stream(*self.target)
        try:
            async with trio.open_nursery() as nursery:
                both = nursery.cancel_scope
                nursery.start_soon(self._pump, client, server, False, both)
                nursery.start_soon(self._pump, server, client, True, both)
        finally:
            _reset(server)

    async def _pump(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        is_back: bool,
        both: trio.CancelScope,
    ) -> None:
        try:
            while data := await source.receive_some(CHUNK_BYTES):
                await self._plugged.wait()
                await sink.send_all(data)
                if is_back:
                    self.bytes_back += len(data)
                    if self.bytes_back >= self._hush_at:
                        self._hush_at = math.inf
                        self.hush()
                else:
                    self.bytes_to += len(data)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass
        finally:
            both.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close with RST instead of FIN: a pulled plug says no goodbye."""
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def open_cable(target: tuple[str, int]) -> AsyncIterator[Cable]:
    """Yield a plugged cable to `target`, listening on a free loopback port."""
    cable = Cable(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    name = listeners[0].socket.getsockname()
    cable.address = (name[0], name[1])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, cable._serve, listeners)
        yield cable
        nursery.cancel_scope.cancel()
