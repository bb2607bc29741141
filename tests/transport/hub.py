"""A hub and its edges on loopback, with keys, for the tests of the ZeroMQ link."""

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import msgspec
import trio

from edgesync_transport.dealer import LinkLost, ZmqConnect, ZmqLink, open_connect
from edgesync_transport.keys import KeyPair, new_key_pair
from edgesync_transport.link import Peer
from edgesync_transport.messages import Message, Ping
from edgesync_transport.router import ZmqHearing, open_hearing
from edgesync_transport.sockets import LinkSettings
from edgesync_transport.zap import KeyTable

# Patience of a test.
QUICK: Final = LinkSettings(vanished_s=2.0, handshake_s=3.0, connect_s=2.0)
# … that waits for a handshake which will never come.
MUTE: Final = msgspec.structs.replace(QUICK, handshake_s=0.5)


class Hub:
    """A bound hearing, the keys it knows, and ways to reach it."""

    def __init__(self, hearing: ZmqHearing, keys: KeyPair, edges: KeyTable) -> None:
        self.hearing = hearing
        self.keys = keys
        self.edges = edges
        self.address = hearing.addresses[0]

    @property
    def target(self) -> tuple[str, int]:
        host, _, port = self.address.removeprefix("tcp://").rpartition(":")
        return host, int(port)

    def admit(self, edge: str) -> KeyPair:
        """Return the keys of a newly enrolled edge."""
        keys = new_key_pair()
        self.edges.add(keys.public, edge)
        return keys

    @asynccontextmanager
    async def connect(
        self,
        keys: KeyPair,
        *,
        address: str | None = None,
        server_key: str | None = None,
        settings: LinkSettings = QUICK,
    ) -> AsyncIterator[ZmqConnect]:
        async with open_connect(
            address or self.address,
            server_key=server_key or self.keys.public,
            keys=keys,
            settings=settings,
        ) as connect:
            yield connect

    @asynccontextmanager
    async def edge(self, name: str) -> AsyncIterator[ZmqLink]:
        """Yield a link of a newly enrolled edge that has been heard."""
        async with self.connect(self.admit(name)) as connect:
            link = await connect()
            peer = await self.hears(link)
            assert peer.edge == name
            yield link

    async def hears(self, link: ZmqLink, token: int = 1) -> Peer:
        """Send a ping up `link` and return who the hub says sent it."""
        await link.send(Ping(epoch=0, token=token, at_ns=0))
        peer, message = await self.hearing.receive()
        assert message == Ping(epoch=0, token=token, at_ns=0)
        return peer


@asynccontextmanager
async def open_hub(
    settings: LinkSettings = QUICK, *, bind: str = "tcp://127.0.0.1:*", keys: KeyPair | None = None
) -> AsyncIterator[Hub]:
    keys, edges = keys or new_key_pair(), KeyTable()
    async with open_hearing([bind], server_keys=keys, edges=edges, settings=settings) as hearing:
        yield Hub(hearing, keys, edges)


async def end_of(link: ZmqLink) -> LinkLost:
    """Read `link` to its end and return how it ended."""
    try:
        while True:
            await link.receive()
    except LinkLost as lost:
        return lost


async def run_hub(
    stop: trio.Event, *, task_status: trio.TaskStatus[Hub] = trio.TASK_STATUS_IGNORED
) -> None:
    """A hub that lives until `stop`: shorter than the edges around it."""
    async with open_hub() as hub:
        task_status.started(hub)
        await stop.wait()


async def collect(link: ZmqLink, count: int) -> list[Message]:
    return [await link.receive() for _ in range(count)]


async def eventually(claim: Callable[[], bool]) -> None:
    """Wait until `claim()` holds; the test's timeout is the limit."""
    while not claim():  # noqa: ASYNC110 - the claim is about sockets, which have no event for it
        await trio.sleep(0.01)
