"""Doors let in so many and no more, and running out of descriptors ends nothing."""

import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator

import pytest
import trio
import trio.testing

from edgesync_transport import descriptors
from edgesync_transport.dealer import Cause, LinkLost
from tests.transport.hub import eventually, open_hub

pytestmark = pytest.mark.feature("F24")


@pytest.fixture
def few() -> Iterator[int]:
    """A limit of descriptors a little above what this process has."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    limit = highest + 120
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    descriptors._full.clear()
    yield limit
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
async def listening() -> AsyncIterator[trio.socket.SocketType]:
    with trio.socket.socket() as listening:
        await listening.bind(("127.0.0.1", 0))
        listening.listen(100)
        yield listening


async def echo(connection: trio.socket.SocketType) -> None:
    while data := await connection.recv(100):
        await connection.send(data)


async def test_others_wait_until_there_is_room(
    listening: trio.socket.SocketType, nursery: trio.Nursery
) -> None:
    door = descriptors.Door("test", 2)
    nursery.start_soon(door.serve, listening, echo, nursery)
    address = listening.getsockname()
    first, second, third = [await trio.open_tcp_stream(*address) for _ in range(3)]
    for stream in (first, second):
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
    await third.send_all(b"y")
    await trio.testing.wait_all_tasks_blocked(0.05)
    assert door.connections == 2
    assert "test: 2 connections" in descriptors.problems()[0]
    await first.aclose()
    assert await third.receive_some(1) == b"y"
    assert door.connections == 2
    for stream in (second, third):
        await stream.aclose()


async def test_one_that_fails_costs_the_others_nothing(
    listening: trio.socket.SocketType, nursery: trio.Nursery, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(connection: trio.socket.SocketType) -> None:
        if await connection.recv(1) == b"!":
            raise RuntimeError("a mistake of ours")
        await connection.send(b"ok")

    door = descriptors.Door("test", 2)
    nursery.start_soon(door.serve, listening, fail, nursery)
    for said, answer in ((b"!", b""), (b"!", b""), (b"!", b""), (b"x", b"ok")):
        async with await trio.open_tcp_stream(*listening.getsockname()) as stream:
            await stream.send_all(said)
            assert await stream.receive_some(2) == answer
    assert "a mistake of ours" in caplog.text


async def test_peers_never_get_the_reserve(
    listening: trio.socket.SocketType,
    nursery: trio.Nursery,
    few: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    door = descriptors.Door("test", 1000)
    nursery.start_soon(door.serve, listening, echo, nursery)
    peers = list[socket.socket]()
    address = listening.getsockname()
    # Each takes two descriptors here: this process is both sides.
    while "nobody is let in" not in caplog.text:
        peers.append(socket.create_connection(address))
        await trio.sleep(0.001)
    assert descriptors.free() >= descriptors.reserve() - 1
    assert str(few) in descriptors.problems()[0]
    assert caplog.text.count("nobody is let in") == 1
    for peer in peers:
        peer.close()
    await eventually(lambda: door.connections == 0)
    async with await trio.open_tcp_stream(*address) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"


async def test_a_link_is_not_tried_without_descriptors(few: int) -> None:
    async with open_hub() as hub, hub.connect(hub.admit("barn")) as connect:
        taken = [os.eventfd(0) for _ in range(descriptors.free() - 8)]
        try:
            with pytest.raises(LinkLost) as lost:
                await connect()
            assert lost.value.cause is Cause.EXHAUSTED
        finally:
            for number in taken:
                os.close(number)
        link = await connect()
        assert (await hub.hears(link)).edge == "barn"
        await link.aclose()


def test_the_soft_limit_is_raised() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (256, hard))
    try:
        assert descriptors.raise_limit() == min(hard, descriptors.WANTED)
        assert descriptors.raise_limit(10) == min(hard, descriptors.WANTED)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
