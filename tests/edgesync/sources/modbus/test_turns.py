"""Turns go to the most urgent, once, and survive cancellation."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import wait_all_tasks_blocked

from edgesync.sources.modbus.turns import Turns


@asynccontextmanager
async def holding(turns: Turns, urgency: float) -> AsyncIterator[None]:
    await turns.acquire(urgency)
    try:
        yield
    finally:
        turns.release()


async def test_the_most_urgent_is_next_whatever_the_order_of_arrival() -> None:
    turns, order = Turns(), list[float]()

    async def speak(urgency: float) -> None:
        async with holding(turns, urgency):
            order.append(urgency)
            await wait_all_tasks_blocked()

    async with trio.open_nursery() as nursery:
        for urgency in (5.0, 1.0, 4.0, 2.0, 3.0):
            nursery.start_soon(speak, urgency)
    assert order == [1.0, 2.0, 3.0, 4.0, 5.0], "even the first waits for those due with it"


async def test_equals_are_served_in_the_order_they_came() -> None:
    turns, order = Turns(), list[int]()
    async with trio.open_nursery() as nursery, holding(turns, 0.0):
        for number in range(5):

            async def speak(number: int = number) -> None:
                async with holding(turns, 1.0):
                    order.append(number)

            nursery.start_soon(speak)
            await wait_all_tasks_blocked()
    assert order == list(range(5))


async def test_a_cancelled_waiter_leaves_no_gap() -> None:
    turns, order = Turns(), list[str]()

    async def speak(name: str, urgency: float, scope: trio.CancelScope) -> None:
        with scope:
            async with holding(turns, urgency):
                await trio.lowlevel.checkpoint()
                order.append(name)
                await wait_all_tasks_blocked()

    first, second, third = (trio.CancelScope() for _ in range(3))
    async with trio.open_nursery() as nursery:
        async with holding(turns, 0.0):
            nursery.start_soon(speak, "waits", 1.0, first)
            nursery.start_soon(speak, "is given the turn and cancelled", 0.5, second)
            nursery.start_soon(speak, "gets it", 2.0, third)
            await wait_all_tasks_blocked()
            first.cancel()
            await wait_all_tasks_blocked()
        second.cancel()
    assert order == ["gets it"]
    with trio.CancelScope() as at_once:
        at_once.cancel()
        async with holding(turns, 0.0):
            order.append("never")
    async with holding(turns, 0.0):
        order.append("free")
    assert order == ["gets it", "free"]
