"""Doors let in so many and no more, and running out of descriptors ends nothing."""

import contextlib
import errno
import gc
import os
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterator
from typing import Any

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


def test_free_ones_are_counted_exactly(few: int) -> None:
    """Those that can be had: a thread in accept(), as of another test, holds a number unlisted."""
    gc.collect()
    free = descriptors.free()
    taken: list[int] = []
    with contextlib.suppress(OSError):
        while len(taken) <= free:
            taken.append(os.eventfd(0))
    for one in taken:
        os.close(one)
    assert len(taken) == free


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


async def test_a_door_keeps_no_place_free_for_a_socket_that_nobody_comes_to(
    listening: trio.socket.SocketType, nursery: trio.Nursery
) -> None:
    door = descriptors.Door("test", 1)
    with trio.socket.socket() as other:
        await other.bind(("127.0.0.1", 0))
        other.listen()
        nursery.start_soon(door.serve, other, echo, nursery)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(door.serve, listening, echo, nursery)
        async with await trio.open_tcp_stream(*listening.getsockname()) as stream:
            await stream.send_all(b"x")
            with trio.fail_after(60):
                assert await stream.receive_some(1) == b"x"
        nursery.cancel_scope.cancel()


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


def test_the_reserve_is_the_last_of_the_numbers(few: int) -> None:
    assert descriptors.reserve() == min(descriptors.RESERVE, few // 4)
    first = few - descriptors.reserve()
    assert not descriptors.is_reserved(first - 1)
    assert descriptors.is_reserved(first)


def test_a_process_with_few_descriptors_keeps_a_quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descriptors, "limit", lambda: 64)
    assert descriptors.reserve() == 16


def test_what_was_short_or_full_is_told_for_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(descriptors, "_full", {})
    monkeypatch.setattr(descriptors, "_short_at", float("-inf"))
    descriptors._full["test"] = now[0], 2
    descriptors.note_shortage("test")
    now[0] += descriptors.TOLD_S
    full, short = descriptors.problems()
    assert "test: 2 connections" in full
    assert "descriptors are short" in short
    now[0] += 0.1
    assert descriptors.problems() == []


async def test_a_door_that_is_full_for_long_is_told_until_a_minute_after(
    listening: trio.socket.SocketType, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(descriptors, "_full", {})
    monkeypatch.setattr(descriptors, "_short_at", float("-inf"))
    door = descriptors.Door("test", 1)
    nursery.start_soon(door.serve, listening, echo, nursery)
    async with await trio.open_tcp_stream(*listening.getsockname()) as stream:
        await stream.send_all(b"x")
        assert await stream.receive_some(1) == b"x"
        now[0] += 10 * descriptors.TOLD_S
        assert len(descriptors.problems()) == 1
    await eventually(lambda: door.connections == 0)
    await trio.testing.wait_all_tasks_blocked(0.01)
    now[0] += descriptors.TOLD_S
    assert len(descriptors.problems()) == 1
    now[0] += 0.1
    assert descriptors.problems() == []


async def test_a_few_who_ask_may_have_of_the_reserve(
    listening: trio.socket.SocketType, nursery: trio.Nursery, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(descriptors, "is_reserved", lambda _number: True)
    door = descriptors.Door("test", 9, reserved_max=1)
    nursery.start_soon(door.serve, listening, echo, nursery)
    address = listening.getsockname()
    with trio.fail_after(100):
        for _ in range(2):
            async with await trio.open_tcp_stream(*address) as first:
                await first.send_all(b"x")
                assert await first.receive_some(1) == b"x"
                async with await trio.open_tcp_stream(*address) as second:
                    assert await second.receive_some(1) == b"", "it was closed"
            await eventually(lambda: door.connections == 0)


class Refusing:
    """A listening socket whose accept always fails."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.asked = 0

    async def accept(self) -> None:
        await trio.lowlevel.checkpoint()
        self.asked += 1
        assert self.asked < 1000, "without a pause"
        raise OSError(self.number, os.strerror(self.number))


async def test_accepting_is_tried_again_after_a_pause_when_descriptors_are_out(
    autojump_clock: trio.testing.MockClock,
) -> None:
    listening: Any = Refusing(errno.EMFILE)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(descriptors.Door("test", 2).serve, listening, echo, nursery)
        await trio.sleep(10.5 * descriptors.PAUSE_S)
        nursery.cancel_scope.cancel()
    assert listening.asked == 11


async def test_a_listening_socket_that_is_broken_ends_its_door_and_takes_no_place() -> None:
    listening: Any = Refusing(errno.EBADF)
    door = descriptors.Door("test", 1)
    async with trio.open_nursery() as nursery:
        for _ in range(2):
            with trio.fail_after(100), pytest.raises(OSError, match="Bad file descriptor"):
                await door.serve(listening, echo, nursery)


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
