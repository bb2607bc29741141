"""An edge that has nothing takes in all the hub has: readings go on meanwhile, and whatever stops
it, it goes on where it was.
"""

import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Lane, Reading
from edgesync.entities import records, relations
from edgesync.entities.model import entity
from edgesync.entities.relations import CONTAINS
from edgesync.entities.view import Command, SpaceView
from edgesync.sync.cells import TAKEN_A_TURN
from edgesync_transport.messages import FullSync, Message
from hubd.cells.store import PAGE_KEYS
from tests.sites import PATIENCE_S, Sites, settle, until

pytestmark = [pytest.mark.slow, pytest.mark.feature("S20", "S21", "L5")]

PAGES = 5
KEYS = PAGES * PAGE_KEYS - PAGE_KEYS // 2


@pytest.fixture
async def sites(tmp_path: Path) -> AsyncIterator[Sites]:
    """A hub that runs and has some pages of keys."""
    sites = Sites(tmp_path)
    async with sites.hub():
        words = [word for number in range(KEYS) for word in (b"key%d" % number, b"%d" % number)]
        await sites.answers.run_commands([[b"MSET", *words]])
        yield sites


class Gate:
    """Lets only so many pages of a full sync pass; what comes later is no answer."""

    def __init__(self, sites: Sites, pages: int) -> None:
        self.pages, self.passed, self.held = pages, 0, 0
        sites.spoiled = self

    def __call__(self, message: Message) -> Message:
        if not isinstance(message, FullSync) or not message.payload:
            return message
        if self.passed < self.pages:
            self.passed += 1
            return message
        self.held += 1
        return msgspec.structs.replace(message, token=0)

    async def until_held(self) -> None:
        await until(lambda: self.held > 0)

    def open(self) -> None:
        self.pages = PAGES * 10


def share(node: EdgeNode) -> float:
    found = node.status().keys
    assert found is not None
    return -1.0 if found.share is None else found.share


async def test_uplink_is_not_paused_by_a_full_sync_that_stands_still(sites: Sites) -> None:
    gate = Gate(sites, 3)
    async with sites.node("a") as a:
        a.part("keys")
        await gate.until_held()
        status = a.status().keys
        assert status is not None
        assert status.state == "full_sync"
        assert 0 < share(a) < 1
        # Of every lane, and more than once: the sync does not move, what is measured does.
        driver = a.part("link").driver
        for number in range(3):
            at_ns = time.time_ns()
            await a.ingest([Reading("scale", "kg", float(number), at_ns)])
            for lane in Lane:
                await a.emit(Event(type=EventType.CUSTOM, time_ns=at_ns), lane=lane)
            with trio.fail_after(PATIENCE_S):
                await driver.wait_durable(a.recorder.tails())
            assert 0 < share(a) < 1
        gate.open()
        a.part("keys").sync.hurry()
        await settle(a)
        assert share(a) == 1.0
        assert a.cells.space.keys == KEYS


async def test_others_have_their_turn_while_a_page_is_taken_in(sites: Sites) -> None:
    async with sites.node("a") as a:
        space, steps = a.cells.space, [0]
        while steps[-1] < KEYS:
            if steps[-1] != space.keys:
                steps.append(space.keys)
            await trio.lowlevel.checkpoint()
        assert max(after - before for before, after in pairwise(steps)) <= PAGE_KEYS // 5


async def test_what_is_written_while_pages_are_taken_in_counts_once(sites: Sites) -> None:
    async with sites.node("a") as a:
        space, counted = a.cells.space, set[int]()
        a.part("keys")
        while space.keys < KEYS:  # of keys that have come, and of some that are still to come
            number = space.keys
            if number not in counted and number < KEYS:
                counted.add(number)
                for near in (number // 2, number, min(KEYS - 1, number + TAKEN_A_TURN // 2)):
                    a.cells.ask("INCRBY", (f"count{near}", 1))
                    a.cells.ask("APPEND", (f"key{near}", "."))
            await trio.lowlevel.checkpoint()
        assert len(counted) >= KEYS // TAKEN_A_TURN
        await settle(a)
        hub = sites.cells
        for number in range(KEYS):
            assert a.get(f"key{number}") == hub.ask("GET", [f"key{number}"])
            assert a.get(f"count{number}") == hub.ask("GET", [f"count{number}"])
        made = sum(int(a.get(f"count{number}") or 0) for number in range(KEYS))
        assert made == 3 * len(counted)


async def test_a_page_ends_before_more_of_the_edges_own_is_in_it(sites: Sites) -> None:
    """What a page says of that is exact, or the edge would do it once more on top."""
    async with sites.node("a") as a:
        hub, turns = sites.cells, 0

        async def between_turns(_took_s: float) -> None:
            nonlocal turns
            turns += 1
            a.cells.ask("RPUSH", ("list", str(turns)))
            a.cells.ask("INCR", ("count",))
            with trio.fail_after(PATIENCE_S):
                while hub.ask("GET", ["count"]) != b"%d" % turns:  # noqa: ASYNC110
                    await trio.sleep(0.001)

        sites.answers.between_turns = between_turns
        a.part("keys")
        await a.cells.wait_durable()
        while a.cells.space.keys < KEYS + 2:
            assert a.get("count") == (b"%d" % turns if turns else None)
            assert a.command("LLEN", "list") == turns
            await trio.lowlevel.checkpoint()
        assert turns > PAGES
        sites.answers.between_turns = trio.sleep
        await settle(a)
        assert a.get("count") == hub.ask("GET", ["count"]) == b"%d" % turns


async def test_a_first_sync_goes_on_where_the_edge_was_stopped(sites: Sites) -> None:
    """And what was removed at the hub meanwhile goes here as well, though it had come before."""
    gate = Gate(sites, 1)  # a page in each life
    for life in range(1, PAGES):
        async with sites.node("a") as a:
            a.part("keys")
            await gate.until_held()
            assert a.cells.space.keys == life * PAGE_KEYS
            assert a.cell_sync is not None
            assert a.cell_sync.keys == PAGE_KEYS
        gate = Gate(sites, 1)
    await sites.answers.run_commands([[b"DEL", b"key0", b"key%d" % (KEYS - 1)]])
    gate.open()
    async with sites.node("a") as a:
        await settle(a)
        assert a.get("key0") is a.get(f"key{KEYS - 1}") is None
        assert a.get(f"key{KEYS - 2}") == b"%d" % (KEYS - 2)
        assert a.cells.space.keys == KEYS - 2
        assert a.cell_sync is not None
        assert a.cell_sync.keys <= KEYS - (PAGES - 1) * PAGE_KEYS + 1


Named = tuple[str, str, dict[str, str]]


async def create(sites: Sites, names: list[Named], building: str) -> None:
    """Create entities at the hub in that order, each in the building."""
    view = SpaceView(sites.cells.space, sites.cells.now_ms)
    for at in range(0, len(names), 500):
        plan: list[Command] = []
        for kind, name, fields in names[at : at + 500]:
            one = entity("a", kind, name)
            plan += records.plan_save(view, one, fields, sites.cells.now_ms())
            if kind == "device":
                plan += relations.plan_relate(
                    view, entity("a", "asset", f"{building} {name}"), CONTAINS, one, None
                )
        await sites.answers.run_commands(plan)


async def test_children_that_come_before_their_parents_wait_by_name_and_then_are_whole(
    tmp_path: Path,
) -> None:
    """The worst order: all dashboards and devices come pages before their profile and assets.

    No order of stages is needed: how far it is, is told by the page, and so it goes on.
    """
    sites = Sites(tmp_path)
    count = PAGE_KEYS * 3 // 2
    devices: list[Named] = [("device", f"Pump {n}", {"profile": "pumps"}) for n in range(count)]
    assets: list[Named] = [("asset", f"Room Pump {n}", {}) for n in range(count)]
    async with sites.hub():
        await create(sites, [*devices, *assets, ("device_profile", "pumps", {})], "Room")
        gate, seen = Gate(sites, 1), list[tuple[int, float]]()
        for _ in range(2):
            async with sites.node("a") as a:
                a.part("keys")
                await gate.until_held()
                held = len(a.entities.records("device", limit=2 * count))
                assert 0 < held < count
                waiting = {(one.what, one.lacks) for one in a.entities.waiting()}
                assert ("device/Pump 0", "device_profile/pumps") in waiting
                assert ("asset/Room Pump 0 Contains device/Pump 0", "asset/Room Pump 0") in waiting
                seen.append((held, share(a)))
                # What waits is there all the same, and its device is measured.
                await a.ingest([Reading("Pump 0", "bar", 1.0, time.time_ns())])
            gate = Gate(sites, 1)
        assert seen == sorted(seen)
        assert 0 < seen[0][1] < seen[1][1] < 1
        gate.open()
        async with sites.node("a") as a:
            await settle(a)
            assert a.entities.waiting() == []
            assert len(a.entities.records("device", limit=2 * count)) == count
            assert share(a) == 1.0
