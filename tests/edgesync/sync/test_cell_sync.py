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
from edgesync.errors import StoreFull
from edgesync.sync import cells as cells_module
from edgesync.sync.cells import WANTED_MAX, CellSync
from edgesync.sync.puller import told_digest
from edgesync_transport.messages import ConflictReport, DeltaSync, Lane, Page, Pull
from hubd.cells import store as hub_module
from tests.sites import PATIENCE_S, Sites, settle, until
from tests.transport.samples import PULL, SAMPLES

pytestmark = pytest.mark.feature("L5")

PAGE = next(one for one in SAMPLES.values() if isinstance(one, DeltaSync))


class Driver:
    """What a CellSync asks of the driver; a session is there while `epoch` is not 0."""

    def __init__(self) -> None:
        self.epoch = 0
        self.asked: list[Pull] = []
        self.retries = 0
        lanes = dict.fromkeys(Lane, SimpleNamespace(floor=0))
        self.sender = SimpleNamespace(clock_stepped=lambda: None, clock_offset_s=None, lanes=lanes)

    def grown(self, _tails: object) -> None: ...

    def ask(self, pull: Pull) -> None:
        self.asked.append(pull)

    async def wait_session(self) -> int:
        await trio.lowlevel.checkpoint()
        return self.epoch

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
        driver, durable = a.part("link").driver, list[bool]()
        assert driver is not None
        ask = driver.ask

        def noting(pull: Pull) -> None:
            if pull.base or pull.after:
                durable.append(not a.cells.gate())
            ask(pull)

        driver.ask = noting
        await settle(a, b)
        for number in range(5):
            b.set(f"key{number}", number)
            await b.sync(PATIENCE_S)
            await until(lambda number=number: a.get(f"key{number}") is not None)  # type: ignore[misc]
        await settle(a)
    assert len(durable) > 5
    assert all(durable)


def page_for(node: EdgeNode, question: Pull, **fields: Any) -> Page:
    cells = node.cells
    made = msgspec.structs.replace(
        PAGE, epoch=question.epoch, token=question.token, keyspace=cells.cursor.keyspace,
        replica=cells.space.r, part=0, parts=1, payload=b"", told=0, seen=(), digest=0,
        is_all=True, position=5, applied=0, stable=0,
    )  # fmt: skip
    return msgspec.structs.replace(made, **fields)


async def test_a_sync_is_over_when_a_later_question_is_answered_and_all_has_arrived(
    parts: tuple[EdgeNode, CellSync, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, sync, _ = parts
    waiting = [True]
    monkeypatch.setattr(node.cells, "has_pending", lambda _made: waiting[0])
    page, done = page_for(node, PULL), list[str]()
    node.cells.commit()  # what the start wrote: a sync would wait for it first

    async def run(name: str, what: Any) -> None:
        await what()
        done.append(name)

    async with trio.open_nursery() as nursery:
        sync._asked = 3  # on its way already: its answer may not know what is there now
        nursery.start_soon(run, "sync", sync.sync)
        nursery.start_soon(run, "heard", sync.wait_heard)
        await trio.testing.wait_all_tasks_blocked()
        waiting[0] = False
        assert sync._is_over(page)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["heard"]
        sync._asked, waiting[0] = 4, True
        assert sync._is_over(page)
        await trio.testing.wait_all_tasks_blocked()
        assert done == ["heard"]
        waiting[0] = False
        for not_over in ({"is_all": False}, {"replica": page.replica + 1}):
            assert not sync._is_over(msgspec.structs.replace(page, **not_over))
        assert sync._is_over(page)
    assert done == ["heard", "sync"]


async def test_keys_are_compared_when_nothing_waits_for_the_hub(
    parts: tuple[EdgeNode, CellSync, Driver],
) -> None:
    node, sync, _ = parts
    total, rest = node.cells.space.digest(None, 1000, node.cells.scope)
    assert rest is None
    right = page_for(node, PULL, digest=told_digest(total))
    await sync._compare(right)
    assert (sync.checks, sync.refetches) == (1, 0)
    for fields in ({"is_all": False}, {"replica": right.replica + 1}):
        await sync._compare(msgspec.structs.replace(right, digest=7, **fields))
    node.set("k", 1)
    await sync._compare(msgspec.structs.replace(right, digest=7))
    assert (sync.checks, sync.refetches) == (1, 0)


async def test_the_hub_may_hold_back_only_the_answer_that_tells_nothing_new(
    parts: tuple[EdgeNode, CellSync, Driver], monkeypatch: pytest.MonkeyPatch
) -> None:
    node, sync, driver = parts

    async def stored(_since: int) -> None:
        await trio.lowlevel.checkpoint()

    monkeypatch.setattr(node.cells, "wait_durable", stored)
    driver.epoch = 1
    sync._check_at = trio.current_time() + 1000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(sync._keep_pulling)
        for is_all in (False, False, True, False, True):
            await trio.testing.wait_all_tasks_blocked()
            sync._heard(page_for(node, driver.asked[-1], is_all=is_all))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    hold_s = cells_module.HOLD_S
    assert [one.wait_s for one in driver.asked] == [0, 0, 0, hold_s, 0, hold_s]


async def test_what_cannot_be_stored_is_told_and_tried_again(
    parts: tuple[EdgeNode, CellSync, Driver],
    monkeypatch: pytest.MonkeyPatch,
    autojump_clock: trio.testing.MockClock,
) -> None:
    node, sync, driver = parts
    driver.epoch, driver.sender.clock_offset_s = 1, 0.0
    tried = list[float]()

    async def full() -> None:
        tried.append(trio.current_time())
        raise StoreFull(used_bytes=1, limit_bytes=1)

    monkeypatch.setattr(node.cells, "tell", lambda _floor: True)
    monkeypatch.setattr(node.cells, "wait_durable", full)
    with trio.move_on_after(2.5):
        await sync._keep_telling()
    assert tried == pytest.approx([0, 1, 2])
    assert "full" in sync.last_problem


@pytest.mark.feature("S21")
async def test_how_far_a_pass_is_is_known_and_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub_module, "PAGE_KEYS", 10)
    shares: list[float | None] = []
    take = CellSync._take

    async def noted(sync: CellSync, page: Page, stood: int) -> None:
        await take(sync, page, stood)
        if sync._cells is later.cells:
            shares.append(sync.share())
            # The hub has told what has come.
            told = sites.answers.shares["shop"].share
            assert told == pytest.approx(shares[-1], abs=0.05)

    sites = Sites(tmp_path)
    async with sites.hub(), sites.node("barn") as node:
        for number in range(45):
            node.set(f"k{number}", number)
        await settle(node)
        later = sites.node("shop")
        monkeypatch.setattr(CellSync, "_take", noted)
        async with later:
            assert later.get("k0") is None  # from here on it has keys
            await settle(later)
            found = later.status().keys
            assert found is not None
            assert (found.state, found.keys, found.pending, found.share) == ("idle", 45, 0, 1.0)
            assert found.received >= 45
            known = [one for one in shares if one is not None]
            assert known == sorted(known)
            assert 0 < known[0] < 0.5
            assert known[-1] == 1.0
            assert sites.answers.shares["shop"].share == 1.0
            node.set("more", 1)
            await settle(node)
            await settle(later)
            found = later.status().keys
            assert found is not None
            assert (found.state, found.keys, found.share) == ("idle", 46, 1.0)


async def test_a_hub_that_does_not_tell_its_newest_change_leaves_it_unknown(
    parts: tuple[EdgeNode, CellSync, Driver],
) -> None:
    _, sync, driver = parts
    driver.epoch, sync.rounds = 1, 1
    assert sync.share() is None
    sync._head = 10
    assert (sync.share(), sync.state()) == (0.0, "syncing")
    sync._head = 0
    assert (sync.share(), sync.state()) == (None, "idle")
