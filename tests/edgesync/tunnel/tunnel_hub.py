"""A hub with tunnels beside an edge in one process, over real sockets, and targets for them."""

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import trio

from edgesync import EdgeNode, units
from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.model import RecordKind
from edgesync.tunnel.settings import TunnelSection
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from hubd.link.sessions import HubLink
from hubd.presence import Presence
from hubd.tunnel.service import NewTunnel, Tunnels
from tests.edgesync.sync.test_driver import Hub, entries, until

Target = Callable[[trio.SocketStream], Awaitable[None]]


class TunnelHub(Hub):
    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.audit: list[dict[str, Any]] = []
        self.clients: list[trio.SocketStream] = []
        self.link: HubLink

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Tunnels]:
        service = Tunnels(lambda **entry: self.audit.append(entry))
        settings = ReceiverSettings(heartbeat_s=1.0)
        async with open_hearing([self.address], server_keys=self.keys, edges=self.table) as hearing:
            self.link = HubLink(hearing, self.log, Presence(self.log), settings, tunnels=service)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self.link.run)
                await nursery.start(service.run, self.link)
                yield service
                nursery.cancel_scope.cancel()

    def edge(self, *allow: str, **more: Any) -> EdgeNode:
        """Return an edge that lets the hub connect there."""
        section = msgspec.convert({"allow": allow, **more}, TunnelSection, dec_hook=units.dec_hook)
        settings = msgspec.structs.replace(self.node().settings, tunnel=section)
        return EdgeNode(settings, folder=self.folder / "edge")

    async def session(self, node: EdgeNode) -> None:
        """Wait until edge and hub are in one session."""
        await until(lambda: 0 < node.part("link").driver.epoch == self._epoch())

    def _epoch(self) -> int:
        session = self.link.session("barn")
        return session.epoch if session is not None else 0

    async def dial(self, address: str) -> trio.SocketStream:
        host, _, port = address.rpartition(":")
        client = await trio.open_tcp_stream(host, int(port))
        self.clients.append(client)
        return client

    async def events(self, node: EdgeNode, count: int) -> list[dict[str, Any]]:
        """Return what the edge has told of its tunnels, as the hub has it, once it is so much."""
        with trio.fail_after(60):
            while len(found := await self._events()) < count:
                await node.sync(60)
        return found

    async def _events(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for entry in await entries(self.log):
            if entry.payload and entry.codec.value < 2:
                for _, record in batch.events(entry.codec, entry.payload):
                    if record.kind == RecordKind.EVENT:
                        body = msgspec.json.decode(event_codec.decode(record.body)[4] or b"{}")
                        found += [body] if body.get("what", "").startswith("tunnel_") else []
        return found


@asynccontextmanager
async def target(handle: Target) -> AsyncIterator[int]:
    """Serve at the edge's site; yields the port."""
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(trio.serve_tcp, handle, 0)
        yield listeners[0].socket.getsockname()[1]
        nursery.cancel_scope.cancel()


async def echo(stream: trio.SocketStream) -> None:
    async for data in stream:
        await stream.send_all(data)


def wanted(port: int, *, for_s: float = 600.0, **more: Any) -> NewTunnel:
    asked = {"edge": "barn", "tenant": "default", "host": "127.0.0.1", "by": "ana", **more}
    return NewTunnel(port=port, for_s=for_s, **asked)


async def read_all(stream: trio.SocketStream) -> bytes:
    """Return what comes until the end, or until it breaks."""
    found = b""
    try:
        async for data in stream:
            found += data
    except trio.BrokenResourceError:
        pass
    return found
