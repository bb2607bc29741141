"""A link without sockets that loses, delays, doubles, reorders and cuts, from one seed.

For tests, and for programs that run an edge and a hub in one process. Messages are the same structs
that ZeroMQ carries; what happens to them is drawn from a `Random`, so a run can be repeated.
"""

import contextlib
import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from random import Random
from typing import Final

import msgspec
import trio

from edgesync_transport.link import LinkClosed, Peer
from edgesync_transport.messages import Message

# What may wait at each end, as in a socket's queue; more is lost.
QUEUE_MESSAGES: Final = 256


class Weather(msgspec.Struct, frozen=True, kw_only=True):
    """How bad a link is: probabilities for each message, and the mean delay in seconds.

    Delays are drawn one by one, so messages overtake each other unless `delay_s` is 0.
    """

    loss: float = 0.0
    double: float = 0.0
    delay_s: float = 0.0

    def delays(self, random: Random) -> list[float]:
        """Return the delay of each copy of a message that arrives; empty if none does."""
        if random.random() < self.loss:
            return []
        copies = 2 if random.random() < self.double else 1
        return [
            random.expovariate(1 / self.delay_s) if self.delay_s else 0.0 for _ in range(copies)
        ]


FINE: Final = Weather()

Deliver = Callable[[Message], None]


async def _later(delay_s: float, deliver: Deliver, message: Message) -> None:
    await trio.sleep(delay_s)
    deliver(message)


class MemoryHub:
    """Both ends' meeting place; implements Hearing. Made by `open_memory_hub`."""

    def __init__(self, nursery: trio.Nursery, random: Random, weather: Weather) -> None:
        self.weather = weather
        self.is_up = True
        self.mended = trio.Event()
        self.random = random
        self._nursery = nursery
        self._links: dict[bytes, MemoryLink] = {}
        self._routes = itertools.count(1)
        self._heard, self._hears = trio.open_memory_channel[tuple[Peer, Message]](QUEUE_MESSAGES)

    # -- the hub's end ---------------------------------------------------------------------------

    async def send(self, peer: Peer, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        link = self._links.get(peer.route)
        if link is not None:
            self._carry(link.arrive, message)

    async def receive(self) -> tuple[Peer, Message]:
        try:
            return await self._hears.receive()
        except trio.ClosedResourceError:
            raise LinkClosed("the hub has stopped hearing") from None

    async def aclose(self) -> None:
        self.cut()
        await self._hears.aclose()

    # -- the network -----------------------------------------------------------------------------

    def connect_as(self, edge: str) -> "MemoryConnect":
        """Return what an edge of this name connects with; its name is its proven identity."""
        return MemoryConnect(self, edge)

    def cut(self) -> None:
        """End every link; those who connect now find nobody until `mend`."""
        self.is_up = False
        for link in list(self._links.values()):
            link.end("the connection was cut")

    def mend(self) -> None:
        self.is_up = True
        self.mended.set()
        self.mended = trio.Event()

    def open(self, edge: str, look_s: float | None = None) -> "MemoryLink":
        link = MemoryLink(self, Peer(route=next(self._routes).to_bytes(4, "big"), edge=edge))
        if self.is_up:
            self.join(link)
        elif look_s is None:
            link.end("nothing answers", retry_after_s=0.0)
        else:
            self._nursery.start_soon(link.look, look_s)
        return link

    def join(self, link: "MemoryLink") -> None:
        self._links[link.peer.route] = link
        link.joined()

    def forget(self, peer: Peer) -> None:
        self._links.pop(peer.route, None)

    def up(self, peer: Peer, message: Message) -> None:
        self._carry(lambda late: self._hear(peer, late), message)

    def _hear(self, peer: Peer, message: Message) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.BrokenResourceError):  # lost, as in a socket
            self._heard.send_nowait((peer, message))

    def _carry(self, deliver: Deliver, message: Message) -> None:
        for delay_s in self.weather.delays(self.random):
            if delay_s:
                self._nursery.start_soon(_later, delay_s, deliver, message)
            else:
                deliver(message)


class MemoryLink:
    """An edge's end; implements Link."""

    def __init__(self, hub: MemoryHub, peer: Peer) -> None:
        self._hub = hub
        self.peer = peer
        self._settled = trio.Event()
        self._arriving, self._arrived = trio.open_memory_channel[Message](QUEUE_MESSAGES)
        self._why = ""
        self._retry_after_s: float | None = None

    async def look(self, look_s: float) -> None:
        """Join the hub once it can be reached, at the next of the attempts a socket would make."""
        while not self._hub.is_up and not self._why:
            await self._hub.mended.wait()
            await trio.sleep(self._hub.random.uniform(0.0, 2 * look_s))
        if not self._why:
            self._hub.join(self)

    async def wait_up(self) -> None:
        await self._settled.wait()
        if self._why:
            raise self._lost()

    def joined(self) -> None:
        self._settled.set()

    def _lost(self) -> LinkClosed:
        lost = LinkClosed(self._why)
        lost.retry_after_s = self._retry_after_s
        return lost

    async def send(self, message: Message) -> None:
        await trio.lowlevel.checkpoint()
        if self._why:
            raise self._lost()
        self._hub.up(self.peer, message)

    async def receive(self) -> Message:
        try:
            return await self._arrived.receive()
        except (trio.ClosedResourceError, trio.EndOfChannel):
            raise self._lost() from None

    async def aclose(self) -> None:
        self.end("closed on this side")
        await trio.lowlevel.checkpoint()

    def arrive(self, message: Message) -> None:
        with contextlib.suppress(trio.WouldBlock, trio.ClosedResourceError):
            self._arriving.send_nowait(message)

    def end(self, why: str, retry_after_s: float | None = None) -> None:
        if not self._why:
            self._why, self._retry_after_s = why, retry_after_s
        self._settled.set()
        self._hub.forget(self.peer)
        self._arriving.close()


class MemoryConnect:
    """Implements Connect."""

    def __init__(self, hub: MemoryHub, edge: str) -> None:
        self._hub = hub
        self._edge = edge

    async def __call__(self, look_s: float | None = None) -> MemoryLink:
        await trio.lowlevel.checkpoint()
        return self._hub.open(self._edge, look_s)


@asynccontextmanager
async def open_memory_hub(
    *, random: Random | None = None, weather: Weather = FINE
) -> AsyncIterator[MemoryHub]:
    """Yield a hub's end; `random` decides about every message."""
    async with trio.open_nursery() as nursery:
        hub = MemoryHub(nursery, random or Random(0), weather)
        try:
            yield hub
        finally:
            with trio.CancelScope(shield=True):
                await hub.aclose()
            nursery.cancel_scope.cancel()
