"""A real hub's link and log, and an edge moved by hand: what it sends may be anything."""

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random

import msgspec
import trio

from edgesync_transport.memory import MemoryHub, MemoryLink, open_memory_hub
from edgesync_transport.messages import (
    Ack,
    Batch,
    Codec,
    Hello,
    LaneOffer,
    Limits,
    Message,
    Nack,
    Refused,
    Welcome,
)
from edgesync_transport.receiver import ReceiverSettings
from hubd.link.rates import Rates
from hubd.link.sessions import HubLink, Projection
from hubd.log.base import Append
from hubd.log.lmdb import LmdbLog
from hubd.presence import Presence
from hubd.registry import RegisteredEdge
from tests.hubd.log.test_contract import Lanes


class Site:
    """A hub whose link runs."""

    link: HubLink

    def __init__(self, net: MemoryHub, log: LmdbLog, rates: Rates | None = None) -> None:
        self.net = net
        self.log = log
        self.presence = Presence(log, address_of=lambda edge: f"{edge}.example", rates=rates)
        self.presence.set_registered(
            [
                RegisteredEdge(name=name, tenant="t", created_ns=0, is_revoked=False, keys=("key",))
                for name in ("barn", "shed")
            ]
        )

    def edge(self, name: str = "barn") -> "HandEdge":
        return HandEdge(self.net, name)


@asynccontextmanager
async def open_site(
    folder: Path,
    *,
    limits: Limits | None = None,
    map_bytes_max: int = 256 << 20,
    takeovers_max: int = 3,
    heartbeat_s: float = 60.0,
    rates: Rates | None = None,
    projection: Projection | None = None,
) -> AsyncIterator[Site]:
    log = LmdbLog(folder / "log", map_bytes_max=map_bytes_max)
    granted = ReceiverSettings(
        limits=limits or Limits(), heartbeat_s=heartbeat_s, takeovers_max=takeovers_max
    )
    async with open_memory_hub(random=Random(1)) as net, trio.open_nursery() as nursery:
        site = Site(net, log, rates)
        site.link = HubLink(net, log, site.presence, granted, rates=rates, projection=projection)
        nursery.start_soon(site.link.run)
        yield site
        nursery.cancel_scope.cancel()
    await log.aclose()


class HandEdge:
    """An edge's end of the link, without any of an edge's good manners."""

    def __init__(self, net: MemoryHub, name: str) -> None:
        self._net = net
        self._name = name
        self.incarnation = os.urandom(16)
        self.nonce = 0
        self.link: MemoryLink = net.open(name)
        self.epoch = 0

    async def greet(self, *, tail: int = 0, again: bool = False) -> Welcome | Refused:
        """Open a session; over a new connection if `again`."""
        if again:
            self.link = self._net.open(self._name)
        self.nonce += 1
        offers = (LaneOffer(tail=0, trimmed=0),) * 2 + (LaneOffer(tail=tail, trimmed=0),)
        await self.link.send(
            Hello(
                nonce=self.nonce, incarnation=self.incarnation, lanes=offers, clock_ns=0,
                software="by hand",
            )
        )  # fmt: skip
        answer = await self.next(Welcome, Refused)
        assert isinstance(answer, Welcome | Refused)
        if isinstance(answer, Welcome):
            self.epoch = answer.epoch
        return answer

    async def next(self, *kinds: type[Message]) -> Message:
        while True:
            message = await self.link.receive()
            if isinstance(message, kinds):
                return message

    async def send(self, lane: Lanes, first: int, last: int, /, **changes: object) -> None:
        cut = lane.cut(first, last, epoch=self.epoch, incarnation=self.incarnation)
        await self.link.send(msgspec.structs.replace(as_batch(cut), **changes))

    async def answer(self) -> Ack | Nack:
        found = await self.next(Ack, Nack)
        assert isinstance(found, Ack | Nack)
        return found


def as_batch(one: Append) -> Batch:
    return Batch(
        epoch=one.epoch, incarnation=one.incarnation, lane=one.lane, first=one.first,
        last=one.last, prev_chain=one.prev_chain, last_chain=one.last_chain,
        codec=Codec(one.codec), payload=one.payload,
    )  # fmt: skip
