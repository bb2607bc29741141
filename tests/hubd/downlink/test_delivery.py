"""What one edge wants of its journal is bounded, whatever it does."""

from typing import Any

import pytest
import trio

from edgesync_transport import receiver as core
from edgesync_transport.messages import Lane
from hubd.downlink.delivery import Delivery

pytestmark = pytest.mark.feature("S1")


class Journal:
    """Notes what is read."""

    def __init__(self) -> None:
        self.loaded: list[tuple[str, int]] = []

    def load(self, edge: str, asked: core.Load) -> core.LoadedNothing:
        self.loaded.append((edge, asked.first))
        return core.LoadedNothing(asked.lane, asked.first)

    def give_up_old(self) -> dict[str, int]:
        return {}


def load(first: int, lane: Lane = Lane.NORMAL) -> core.Load:
    return core.Load(lane, first=first, last_max=first, limit_records=1, limit_bytes=1)


async def test_an_edge_that_greets_without_end_waits_for_its_newest_load_alone() -> None:
    journal: Any = Journal()
    delivery, told = Delivery(journal), list[str]()

    async def step(edge: str, _event: core.Event) -> None:
        told.append(edge)
        if len(told) == 3:
            nursery.cancel_scope.cancel()

    for first in range(1, 1001):  # of a session each
        delivery.take("barn", load(first))
    delivery.take("barn", load(7, Lane.CRITICAL))
    delivery.take("mill", load(1))
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(delivery.run, step)
    assert journal.loaded == [("barn", 1000), ("barn", 7), ("mill", 1)]
