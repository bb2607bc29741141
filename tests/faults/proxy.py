"""A bad network as an object: a TCP relay whose every fault can be switched on and off.

It sees only bytes, as a network does. What it can do to them: delay (`latency_s`), throttle
(`bytes_per_s`), hold them while connections stay open (`open_hole`: the half-open case; `heal`
lets them go on, as TCP's retransmission would), end connections with a reset (`cut`), end one in
the middle of a frame (`cut_after_bytes`), and turn away new ones (`is_refusing`).
"""

import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress

import trio

CHUNK_BYTES = 64 * 1024


class Proxy:
    """Relays each connection to `address` on to `target`; see `open_proxy`."""

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.address: tuple[str, int] = ("", 0)
        self.latency_s = 0.0
        self.bytes_per_s = float("inf")
        self.cut_after_bytes: int | None = None
        self.is_refusing = False
        self.accepted = self.refused = 0
        self.relayed_bytes = 0
        self.closed_by_target = 0
        self._connections: set[trio.CancelScope] = set()
        self._passable = trio.Event()
        self._passable.set()

    @property
    def endpoint(self) -> str:
        host, port = self.address
        return f"tcp://{host}:{port}"

    def cut(self) -> None:
        """Reset every open connection; new ones are still welcome."""
        for scope in list(self._connections):
            scope.cancel()

    def open_hole(self) -> None:
        """Let nothing through, on connections open and new, without ending any."""
        self._passable = trio.Event()

    def heal(self) -> None:
        self._passable.set()

    async def serve(self, client: trio.SocketStream) -> None:
        if self.is_refusing:
            self.refused += 1
            _reset(client)
            return
        self.accepted += 1
        with trio.CancelScope() as scope:
            self._connections.add(scope)
            try:
                await self._relay(client, scope)
            except OSError:
                pass  # Nothing listens there: the client sees its connection end.
            finally:
                self._connections.discard(scope)
                _reset(client)

    async def _relay(self, client: trio.SocketStream, scope: trio.CancelScope) -> None:
        server = await trio.open_tcp_stream(*self.target)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, client, server, scope, False)
                await self._carry(server, client, scope, True)
        finally:
            _reset(server)

    async def _carry(
        self,
        source: trio.SocketStream,
        sink: trio.SocketStream,
        both: trio.CancelScope,
        is_target: bool,
    ) -> None:
        # Latency is a queue between two tasks: bytes on the way do not hold back those behind.
        send, receive = trio.open_memory_channel[tuple[float, bytes]](1024)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._deliver, receive, sink, both)
            async with send:
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._accept(source, send)
                self.closed_by_target += is_target

    async def _accept(
        self, source: trio.SocketStream, send: trio.MemorySendChannel[tuple[float, bytes]]
    ) -> None:
        while data := await source.receive_some(CHUNK_BYTES):
            data, is_last = self._shorten(data)
            self.relayed_bytes += len(data)
            await trio.sleep(len(data) / self.bytes_per_s)
            await send.send((trio.current_time() + self.latency_s, data))
            if is_last:
                return

    def _shorten(self, data: bytes) -> tuple[bytes, bool]:
        """Return what of `data` comes before the cut, and whether the cut is there."""
        if self.cut_after_bytes is None:
            return data, False
        kept = data[: self.cut_after_bytes]
        self.cut_after_bytes -= len(kept)
        if self.cut_after_bytes > 0:
            return data, False
        self.cut_after_bytes = None
        return kept, True

    async def _deliver(
        self,
        receive: trio.MemoryReceiveChannel[tuple[float, bytes]],
        sink: trio.SocketStream,
        both: trio.CancelScope,
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for due, data in receive:
                await trio.sleep_until(due)
                await self._passable.wait()
                await sink.send_all(data)
        # Not even the end of a connection gets through a hole.
        await self._passable.wait()
        both.cancel()


def _reset(stream: trio.SocketStream) -> None:
    """Close with RST instead of FIN: a pulled plug says no goodbye."""
    with suppress(OSError):
        stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


@asynccontextmanager
async def open_proxy(target: tuple[str, int]) -> AsyncIterator[Proxy]:
    """Yield a faultless proxy to `target` on a free loopback port."""
    proxy = Proxy(target)
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    host, port = listeners[0].socket.getsockname()[:2]
    proxy.address = (host, port)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, proxy.serve, listeners)
        yield proxy
        nursery.cancel_scope.cancel()
