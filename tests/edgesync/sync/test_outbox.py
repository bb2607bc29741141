"""What may be lost keeps back nothing that a session needs."""

import pytest
import trio

from edgesync.sync.outbox import EXTRAS_MAX, NEEDED_MAX, Outbox
from edgesync_transport.messages import Ping, TunnelClose, TunnelCode
from tests.edgesync.sync.test_driver import Hub, hub, readings, until

__all__ = ["hub"]

pytestmark = pytest.mark.feature("S33")


def ping(number: int, epoch: int = 1) -> Ping:
    return Ping(epoch=epoch, token=number, at_ns=0)


def close(number: int, epoch: int = 1) -> TunnelClose:
    return TunnelClose(epoch=epoch, tunnel=number, stream=0, code=TunnelCode.CLOSED)


async def test_what_is_needed_goes_first_and_each_row_keeps_its_order() -> None:
    outbox = Outbox()
    for number in range(3):
        assert outbox.put_extra(close(number))
        assert outbox.put_needed(ping(number))
    found = [await outbox.take() for _ in range(6)]
    assert found == [ping(0), ping(1), ping(2), close(0), close(1), close(2)]


async def test_both_rows_are_bounded_and_one_takes_no_room_of_the_other() -> None:
    outbox = Outbox()
    assert sum(outbox.put_extra(close(number)) for number in range(EXTRAS_MAX + 5)) == EXTRAS_MAX
    assert sum(outbox.put_needed(ping(number)) for number in range(NEEDED_MAX + 5)) == NEEDED_MAX
    assert await outbox.take() == ping(0)
    assert outbox.put_needed(ping(NEEDED_MAX))


async def test_who_waits_is_woken_by_either(nursery: trio.Nursery) -> None:
    outbox, found = Outbox(), list[object]()

    async def take() -> None:
        for _ in range(2):
            found.append(await outbox.take())

    nursery.start_soon(take)
    await trio.testing.wait_all_tasks_blocked()
    outbox.put_extra(close(1))
    await trio.testing.wait_all_tasks_blocked()
    outbox.put_needed(ping(1))
    await trio.testing.wait_all_tasks_blocked()
    assert found == [close(1), ping(1)]


@pytest.mark.slow
async def test_a_flood_of_what_may_be_lost_ends_no_session(hub: Hub) -> None:
    """So many messages of tunnels may be under way at once that they fill their row."""
    async with hub.running(), hub.node() as node:
        driver = node.part("link").driver
        await until(lambda: driver.epoch > 0)
        for number in range(2 * EXTRAS_MAX):
            driver.tell(close(number, driver.epoch))
        driver._transmit(ping(1, driver.epoch))
        await node.ingest(readings(0, 10))
        await node.sync(60)
        assert node.status().link.reconnects == 0
