"""What every link must do, whatever carries it."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from edgesync_transport.link import Connect, Hearing, LinkClosed
from edgesync_transport.memory import open_memory_hub
from edgesync_transport.messages import Bye, Ping
from tests.transport.hub import open_hub
from tests.transport.samples import HELLO, SAMPLES, WELCOME

pytestmark = pytest.mark.feature("K3")

Admit = Callable[[str], AbstractAsyncContextManager[Connect]]


@asynccontextmanager
async def over_zmq() -> AsyncIterator[tuple[Hearing, Admit]]:
    async with open_hub() as hub:
        yield hub.hearing, lambda edge: hub.connect(hub.admit(edge))


@asynccontextmanager
async def over_memory() -> AsyncIterator[tuple[Hearing, Admit]]:
    async with open_memory_hub() as hub:

        @asynccontextmanager
        async def admit(edge: str) -> AsyncIterator[Connect]:
            yield hub.connect_as(edge)

        yield hub, admit


@pytest.fixture(params=[over_zmq, over_memory], ids=["zmq", "memory"])
async def ends(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Hearing, Admit]]:
    async with request.param() as found:
        yield found


async def test_every_message_passes_both_ways_unchanged(ends: tuple[Hearing, Admit]) -> None:
    hearing, admit = ends
    async with admit("plant-7") as connect:
        link = await connect()
        for sample in SAMPLES.values():
            await link.send(sample)
            peer, heard = await hearing.receive()
            assert (peer.edge, heard) == ("plant-7", sample)
            await hearing.send(peer, sample)
            assert await link.receive() == sample
        await link.aclose()


async def test_answers_go_to_the_one_who_asked(ends: tuple[Hearing, Admit]) -> None:
    hearing, admit = ends
    async with admit("one") as connect_one, admit("two") as connect_two:
        links = {"one": await connect_one(), "two": await connect_two()}
        for name, link in links.items():
            await link.send(HELLO)
            peer, _ = await hearing.receive()
            assert peer.edge == name
            await hearing.send(peer, Bye(epoch=1, reason=name))
        for name, link in links.items():
            assert await link.receive() == Bye(epoch=1, reason=name)
            await link.aclose()


async def test_each_attempt_is_a_link_of_its_own(ends: tuple[Hearing, Admit]) -> None:
    hearing, admit = ends
    async with admit("plant-7") as connect:
        first = await connect()
        await first.send(HELLO)
        old, _ = await hearing.receive()
        await first.aclose()
        second = await connect()
        await second.send(HELLO)
        new, _ = await hearing.receive()
        assert old.route != new.route
        await hearing.send(old, WELCOME)  # nobody's: must not reach the second link
        await hearing.send(new, Ping(epoch=1, token=2, at_ns=3))
        assert await second.receive() == Ping(epoch=1, token=2, at_ns=3)
        await second.aclose()


async def test_a_closed_link_says_so(ends: tuple[Hearing, Admit]) -> None:
    hearing, admit = ends
    async with admit("plant-7") as connect:
        link = await connect()
        await link.send(HELLO)
        await hearing.receive()
        await link.aclose()
        with pytest.raises(LinkClosed):
            await link.send(HELLO)
        with pytest.raises(LinkClosed):
            await link.receive()


async def test_who_waits_hears_of_the_end(ends: tuple[Hearing, Admit]) -> None:
    hearing, admit = ends
    async with admit("plant-7") as connect:
        link = await connect()
        await link.send(HELLO)
        await hearing.receive()

        async def wait() -> None:
            with pytest.raises(LinkClosed):
                await link.receive()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(wait)
            await trio.testing.wait_all_tasks_blocked()
            await hearing.aclose()
            await link.aclose()
        with pytest.raises(LinkClosed):
            await hearing.receive()


async def test_what_is_answered_after_the_end_is_dropped(ends: tuple[Hearing, Admit]) -> None:
    """As to a peer that has gone: the hub's other tasks may still be at it when it stops."""
    hearing, admit = ends
    async with admit("plant-7") as connect:
        link = await connect()
        await link.send(HELLO)
        peer, _ = await hearing.receive()
        await hearing.aclose()
        await hearing.send(peer, WELCOME)
        await link.aclose()
