"""Decisions of the task that keeps keys the same: what is asked for, confirmed, told and shown."""

from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

from edgesync import EdgeNode
from edgesync.sync import cells as cells_module
from edgesync.sync.cells import WANTED_MAX, CellSync
from edgesync_transport.messages import ConflictReport, Pull
from tests.sites import PATIENCE_S, Sites, settle, until

pytestmark = pytest.mark.feature("L5")


class Driver:
    """What a CellSync asks of the driver; a session is there while `epoch` is not 0."""

    def __init__(self) -> None:
        self.epoch = 0
        self.asked: list[Pull] = []
        self.retries = 0
        self.sender = SimpleNamespace(clock_stepped=lambda: None, clock_offset_s=None)

    def grown(self, _tails: object) -> None: ...

    def ask(self, pull: Pull) -> None:
        self.asked.append(pull)

    def retry_now(self) -> None:
        self.retries += 1


@pytest.fixture
async def parts(tmp_path: Path) -> AsyncIterator[tuple[EdgeNode, CellSync, Driver]]:
    driver: Any = Driver()
    with EdgeNode.local(tmp_path) as node:
        yield node, CellSync(node.cells, driver), driver


async def test_the_state_of_keys_has_five_words(parts: tuple[EdgeNode, CellSync, Driver]) -> None:
    node, sync, driver = parts
    assert sync.state() == "offline"
    driver.epoch = 1
    assert sync.state() == "full_sync"
    sync.rounds = 1
    assert sync.state() == "idle"
    node.set("k", 1)
    assert sync.state() == "syncing"
    sync.last_problem = "the disk is full"
    assert sync.state() == "degraded"
    driver.epoch = 0
    assert sync.state() == "offline"


async def test_so_many_values_may_be_waited_for(parts: tuple[EdgeNode, CellSync, Driver]) -> None:
    _, sync, driver = parts
    names = [b"key%d" % number for number in range(WANTED_MAX + 5)]
    assert not sync.want(names[:1]), "there is nobody to ask"
    assert sync._wanted == {}
    driver.epoch = 1
    assert sync.want(names[: WANTED_MAX - 1])
    assert sync.want(names[: WANTED_MAX - 1]), "they are waited for already"
    assert not sync.want(names[WANTED_MAX - 1 :])
    assert list(sync._wanted) == names[:WANTED_MAX]


async def test_what_the_hub_has_not_got_is_asked_for_once(
    parts: tuple[EdgeNode, CellSync, Driver],
) -> None:
    _, sync, driver = parts
    driver.epoch = 1

    def entry(key: bytes) -> Any:
        return SimpleNamespace(key=key)

    sync.want([b"a", b"b", b"c"])
    sync._asked_for = (b"a", b"b")
    given = sync._given
    sync._give([entry(b"a"), entry(b"other")])
    assert given.is_set()
    # One came: the other may have had no room in that page.
    assert list(sync._wanted) == [b"b", b"c"]
    sync._asked_for = (b"b",)
    sync._give([])
    assert list(sync._wanted) == [b"c"]
    assert sync.restored == 1
    assert not sync._asked_for


async def test_conflicts_that_cannot_be_read_are_told(
    parts: tuple[EdgeNode, CellSync, Driver],
) -> None:
    node, sync, _ = parts
    sync._heard(ConflictReport(epoch=1, last=5, count=1, payload=b"\xc1"))
    assert "conflicts the hub told of cannot be read" in sync.last_problem
    assert node.cells.cursor.conflicts == 0
    sync._heard(ConflictReport(epoch=1, last=5, count=0, payload=msgspec.msgpack.encode([])))
    assert node.cells.cursor.conflicts == 5


async def test_an_interval_that_becomes_shorter_is_noticed(
    parts: tuple[EdgeNode, CellSync, Driver], autojump_clock: trio.testing.MockClock
) -> None:
    _, sync, driver = parts
    wanted_s = [3600.0]
    sync._interval_s = lambda: wanted_s[0]
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync._wait_interval)
        await trio.sleep(7)
        wanted_s[0] = 8.0
    assert trio.current_time() - begun == pytest.approx(10)
    wanted_s[0] = 3600.0
    begun = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync._wait_interval)
        await trio.sleep(2)
        sync.hurry()
    assert trio.current_time() - begun == pytest.approx(2)
    assert driver.retries == 1


async def test_a_check_is_due_once_and_only_of_what_both_agree_on(
    parts: tuple[EdgeNode, CellSync, Driver], autojump_clock: trio.testing.MockClock
) -> None:
    node, sync, _ = parts
    cells = node.cells
    sync._check_at = trio.current_time() + 5
    await trio.sleep(6)
    assert not sync._is_check_due(), "the hub has told nothing yet"
    cells.cursor = msgspec.structs.replace(cells.cursor, base=9)
    sync._check_at = trio.current_time() + 5
    assert not sync._is_check_due()
    await trio.sleep(5)
    assert sync._is_check_due()
    assert not sync._is_check_due(), "asked a moment ago"
    await trio.sleep(cells_module.CHECK_AGAIN_S)
    node.set("k", 1)
    assert not sync._is_check_due(), "the hub does not know of k"


@pytest.mark.feature("L4")
async def test_what_is_confirmed_is_on_disk(tmp_path: Path) -> None:
    """The hub may forget what an edge says it has: a power cut must not take it from the edge."""
    sites = Sites(tmp_path)
    async with sites.hub(), sites.node("a") as a, sites.node("b") as b:
        driver, durable = a._driver, list[bool]()
        assert driver is not None
        ask = driver.ask

        def noting(pull: Pull) -> None:
            if pull.base or pull.after:
                durable.append(not a.cells.gate())
            ask(pull)

        driver.ask = noting  # type: ignore[method-assign]
        await settle(a, b)
        for number in range(5):
            b.set(f"key{number}", number)
            await b.sync(PATIENCE_S)
            await until(lambda number=number: a.get(f"key{number}") is not None)  # type: ignore[misc]
        await settle(a)
    assert len(durable) > 5
    assert all(durable)
