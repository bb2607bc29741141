"""The pump against real sockets without encryption: queues, limits, wake-ups, ends."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

import pytest
import trio
import trio.testing
import zmq

from edgesync_transport.pump import (
    BUDGET,
    PARTS_MAX,
    Pump,
    PumpClosed,
    PumpLimits,
    WhenStuck,
    serve,
)

pytestmark = pytest.mark.feature("K3")

Socket = zmq.Socket[bytes]


@contextmanager
def sockets(
    left: int = zmq.DEALER, right: int = zmq.DEALER, *, queue: int = 1000
) -> Iterator[tuple[Socket, Socket]]:
    """Two connected sockets over TCP on loopback."""
    context: zmq.Context[Socket] = zmq.Context()
    one, two = context.socket(left), context.socket(right)
    for socket in (one, two):
        socket.linger = 0
        socket.sndhwm = socket.rcvhwm = queue
    try:
        two.connect(f"tcp://127.0.0.1:{one.bind_to_random_port('tcp://127.0.0.1')}")
        yield one, two
    finally:
        one.close()
        two.close()
        context.term()


@asynccontextmanager
async def running(*pumps: Pump) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        for pump in pumps:
            nursery.start_soon(pump.run)
        yield
        nursery.cancel_scope.cancel()


@pytest.mark.slow
async def test_no_message_waits_for_another_one() -> None:
    """Ping-pong: each message is alone, so an edge that is missed is never made good."""
    with sockets() as (one, two):
        left, right = Pump(one), Pump(two)
        async with running(left, right):
            for number in range(2_000):
                message = [b"%d" % number]
                await left.send(message)
                assert await right.receive() == message
                await right.send(message)
                assert await left.receive() == message


async def test_bursts_in_both_directions_end_completely() -> None:
    """Bursts that are longer than the budget, then silence: whatever is left must still come."""
    with sockets() as (one, two):
        left, right = Pump(one), Pump(two)
        got: dict[Pump, int] = {left: 0, right: 0}

        async def read(pump: Pump, count: int) -> None:
            for _ in range(count):
                await pump.receive()
                got[pump] += 1

        async def write(pump: Pump, count: int) -> None:
            for _ in range(count):
                await pump.send([b"burst", b"of two"])

        async with running(left, right):
            for burst in (1, 2, BUDGET - 1, BUDGET, BUDGET + 1, 5 * BUDGET, 1) * 5:
                async with trio.open_nursery() as nursery:
                    for pump in (left, right):
                        nursery.start_soon(read, pump, burst)
                        nursery.start_soon(write, pump, burst)
        assert got[left] == got[right] > 0


@pytest.mark.slow
async def test_other_tasks_run_during_a_flood() -> None:
    with sockets() as (one, two):
        left, right = Pump(one), Pump(two)
        turns = 0

        async def bystander() -> None:
            nonlocal turns
            while True:
                await trio.lowlevel.checkpoint()
                turns += 1

        async def write() -> None:
            for _ in range(20_000):
                await left.send([b"flood"])

        async with running(left, right), trio.open_nursery() as nursery:
            nursery.start_soon(bystander)
            nursery.start_soon(write)
            for _ in range(20_000):
                await right.receive()
            nursery.cancel_scope.cancel()
        assert turns >= 20_000 // BUDGET


async def test_a_full_outbox_says_no_and_then_yes_again() -> None:
    with sockets() as (one, two):
        left = Pump(one, limits=PumpLimits(outbox_messages=3))
        right = Pump(two)
        assert [left.send_soon([b"%d" % n]) for n in range(5)] == [True, True, True, False, False]
        async with running(left, right):
            assert [await right.receive() for _ in range(3)] == [[b"0"], [b"1"], [b"2"]]
            assert left.send_soon([b"3"])
            assert await right.receive() == [b"3"]


async def test_a_queue_is_full_by_bytes_too() -> None:
    with sockets() as (one, _):
        left = Pump(one, limits=PumpLimits(outbox_bytes=100))
        assert left.send_soon([bytes(60), bytes(39)])
        assert left.send_soon([bytes(1_000)]), "one message may exceed the limit"
        assert not left.send_soon([b"x"])


async def test_a_full_inbox_stops_receiving_until_it_is_read() -> None:
    with sockets() as (one, two):
        left, right = Pump(one), Pump(two, limits=PumpLimits(inbox_messages=4))
        async with running(left, right):
            for number in range(100):
                await left.send([b"%d" % number])
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert len(right._inbox.items) == 4
            assert [await right.receive() for _ in range(100)] == [[b"%d" % n] for n in range(100)]


async def test_waiting_readers_and_writers_learn_of_the_end() -> None:
    with sockets() as (one, _):
        left = Pump(one, limits=PumpLimits(outbox_messages=1))
        assert left.send_soon([b"fills the outbox"])
        ended = 0

        async def wait_for(call: str) -> None:
            nonlocal ended
            with pytest.raises(PumpClosed):
                await (left.receive() if call == "receive" else left.send([b"no room"]))
            ended += 1

        async with trio.open_nursery() as nursery:
            for call in ("receive", "receive", "send"):
                nursery.start_soon(wait_for, call)
            await trio.testing.wait_all_tasks_blocked()
            left.close()
        assert ended == 3
        with pytest.raises(PumpClosed):
            left.send_soon([b"late"])


async def test_what_has_arrived_can_be_read_after_the_end() -> None:
    with sockets() as (one, two):
        left, right = Pump(one), Pump(two)
        async with running(left, right):
            await left.send([b"first"])
            await left.send([b"second"])
            assert await right.receive() == [b"first"]
            while not right._inbox.items:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert await right.receive() == [b"second"]
        with pytest.raises(PumpClosed):
            await right.receive()


async def test_a_message_to_nobody_is_dropped_and_the_next_one_goes() -> None:
    with sockets(zmq.ROUTER) as (router, dealer):
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        many, one = Pump(router, when_stuck=WhenStuck.DROP), Pump(dealer)
        async with running(many, one):
            await one.send([b"here I am"])
            route, _ = await many.receive()
            await many.send([b"nobody", b"lost"])
            await many.send([route, b"found"])
            assert await one.receive() == [b"found"]
        assert many.dropped == 1


async def test_a_peer_whose_queue_is_full_delays_nobody() -> None:
    with sockets(zmq.ROUTER, queue=1) as (router, dealer):
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        many, one = Pump(router, when_stuck=WhenStuck.DROP), Pump(dealer)
        async with running(many):
            dealer.send(b"here I am")
            route, _ = await many.receive()
            for _ in range(200):
                await many.send([route, bytes(100_000)])
            while many._outbox.items:
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert 0 < many.dropped < 200
        assert not one._inbox.items


async def test_too_many_parts_are_thrown_away_not_kept() -> None:
    with sockets() as (one, two):
        pump = Pump(two)
        async with running(pump):
            one.send_multipart([b"part"] * 1_000)
            one.send_multipart([b"next"])
            assert await pump.receive() == [b"part"] * PARTS_MAX
            assert await pump.receive() == [b"next"]


async def test_a_socket_that_dies_ends_the_pump_loudly() -> None:
    with sockets() as (one, _):
        pump = Pump(one)
        one.close()
        with pytest.raises(zmq.ZMQError):
            await pump.run()
        with pytest.raises(PumpClosed):
            await pump.receive()


async def test_serve_answers_in_order_and_yields_in_a_flood() -> None:
    with sockets(zmq.REP, zmq.DEALER) as (rep, dealer):
        answered = 0

        def answer(frames: list[bytes]) -> None:
            nonlocal answered
            answered += 1
            rep.send(frames[-1])

        async with trio.open_nursery() as nursery:
            nursery.start_soon(serve, rep, answer)
            for number in range(500):
                dealer.send_multipart([b"", b"%d" % number])
            while answered < 500:
                await trio.testing.wait_all_tasks_blocked(0.01)
            nursery.cancel_scope.cancel()
        dealer.rcvtimeo = 100_000  # ms: the last answers are on their way
        received = [dealer.recv_multipart()[1] for _ in range(500)]
        assert received == [b"%d" % n for n in range(500)]


async def test_what_waits_when_the_pump_starts_goes_out_without_another_event() -> None:
    """More than its budget, all at once: nothing arrives that would wake it for the rest."""
    with sockets() as (one, two):
        left = Pump(one)
        for number in range(3 * BUDGET):
            assert left.send_soon([b"%d" % number])
        async with running(left, right := Pump(two)):
            with trio.fail_after(100):
                for number in range(3 * BUDGET):
                    assert await right.receive() == [b"%d" % number]
