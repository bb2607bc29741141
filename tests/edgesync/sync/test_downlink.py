"""What the hub tells an edge, over real sockets: once, in order, and seen when it cannot be."""

import shutil
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Lane
from edgesync._native import event as event_codec
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.events import EventQuery
from edgesync.sync import inbound
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from hubd.downlink.delivery import Delivery
from hubd.downlink.journal import Journal
from hubd.link.sessions import HubLink
from hubd.owned.dump import load_dump, write_dump
from hubd.presence import Presence
from hubd.registry import Registry, open_registry
from tests.edgesync.sync.test_driver import PATIENCE_S, Hub, until

pytestmark = [pytest.mark.feature("S1", "S8"), pytest.mark.slow]


class DownHub(Hub):
    """... with a registry, and so a journal for its edge."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.open(folder)
        self.registry.enrolments.invite("barn", valid_s=900)

    def open(self, folder: Path) -> None:
        self.registry: Registry = open_registry(folder)
        self.journal = Journal(self.registry.owned)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Delivery]:
        settings = ReceiverSettings(heartbeat_s=1.0)
        delivery = Delivery(self.journal)
        async with open_hearing([self.address], server_keys=self.keys, edges=self.table) as hearing:
            link = HubLink(hearing, self.log, Presence(self.log), settings, downlink=delivery)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                yield delivery
                nursery.cancel_scope.cancel()

    def append(self, *texts: str, type: int = EventType.CUSTOM, lane: Lane = Lane.NORMAL) -> int:
        raws = [event_codec.encode(type, 0, 2, "pump", text.encode(), 1, 2, 0) for text in texts]
        with self.registry.owned.change() as connection:
            return self.journal.append(connection, "barn", lane, raws)

    async def tell(self, delivery: Delivery, *texts: str, lane: Lane = Lane.NORMAL) -> None:
        await delivery.grown("barn", lane, self.append(*texts, lane=lane))

    def waiting(self) -> int:
        return self.journal.view("barn").records


class Taker:
    """Takes CUSTOM events: each leaves a row, as an effect does."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.fails: set[str] = set()
        self.is_full = False

    def stage(self, write: Write, event: Event) -> Callable[[], None]:
        text = event.body.decode()
        if self.is_full:
            raise inbound.NoRoom("no room for more")
        if text in self.fails:
            raise RecordError(f"{text} cannot be taken")
        write.put("meta", b"taken " + event.body, b"")
        return lambda: self.taken.append(text)


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[DownHub]:
    made = DownHub(tmp_path)
    yield made
    made.registry.close()


def taking(node: EdgeNode, taker: Taker) -> EdgeNode:
    node.part("link").handlers[EventType.CUSTOM] = taker
    return node


@asynccontextmanager
async def running(hub: DownHub, taker: Taker) -> AsyncIterator[EdgeNode]:
    node = hub.node()
    async with node:
        taking(node, taker)
        yield node


def lifecycle(node: EdgeNode, what: str) -> list[dict[str, object]]:
    found = node.events(EventQuery(type="LIFECYCLE"))
    bodies = [msgspec.json.decode(one.body) for one in found]
    return [body for body in bodies if body["what"] == what]


async def test_what_the_hub_tells_arrives_in_order_and_is_forgotten_there(hub: DownHub) -> None:
    taker = Taker()
    hub.append("before")
    async with hub.serving() as delivery, running(hub, taker):
        await hub.tell(delivery, "a", "b")
        await hub.tell(delivery, "c")
        await until(lambda: taker.taken == ["before", "a", "b", "c"])
        await until(lambda: hub.waiting() == 0)


async def test_what_was_told_while_the_edge_was_away_waits_for_it(hub: DownHub) -> None:
    taker = Taker()
    async with hub.serving() as delivery:
        async with running(hub, taker):
            await hub.tell(delivery, "a")
            await until(lambda: hub.waiting() == 0)
        await hub.tell(delivery, *map(str, range(600)))
        async with running(hub, taker):
            await until(lambda: taker.taken == ["a", *map(str, range(600))])
            await until(lambda: hub.waiting() == 0)


async def test_an_event_that_cannot_be_taken_costs_itself_alone_and_is_seen(hub: DownHub) -> None:
    taker = Taker()
    taker.fails = {"2"}
    hub.append(*map(str, range(5)))
    async with hub.serving(), running(hub, taker) as node:
        await until(lambda: taker.taken == ["0", "1", "3", "4"])
        await until(lambda: len(lifecycle(node, "downlink_refused")) == 1)
        (refused,) = lifecycle(node, "downlink_refused")
        assert (refused["first"], refused["reason"]) == (3, "2 cannot be taken")


async def test_an_edge_without_room_is_waited_for(hub: DownHub) -> None:
    taker = Taker()
    taker.is_full = True
    hub.append("a")
    async with hub.serving(), running(hub, taker):
        await trio.sleep(1)
        assert (taker.taken, hub.waiting()) == ([], 1)
        taker.is_full = False
        await until(lambda: taker.taken == ["a"])


async def test_a_kind_from_the_future_is_kept_as_an_event(hub: DownHub) -> None:
    hub.append("what is it?", type=4711)
    async with hub.serving(), running(hub, Taker()) as node:
        await until(lambda: len(lifecycle(node, "downlink_unknown")) == 1)
        (found,) = lifecycle(node, "downlink_unknown")
        assert (found["type"], found["body"]) == (4711, "what is it?")


async def test_an_edge_with_an_old_store_does_nothing_twice_and_tells_of_the_gap(
    hub: DownHub, tmp_path: Path
) -> None:
    taker = Taker()
    async with hub.serving() as delivery:
        async with running(hub, taker):
            await hub.tell(delivery, "a")
            await until(lambda: hub.waiting() == 0)
        shutil.copytree(tmp_path / "edge", tmp_path / "image")
        async with running(hub, taker):
            await hub.tell(delivery, "b", "c")
            await until(lambda: hub.waiting() == 0)
        shutil.rmtree(tmp_path / "edge")
        (tmp_path / "image").rename(tmp_path / "edge")
        async with running(hub, taker) as node:
            await hub.tell(delivery, "d")
            await until(lambda: taker.taken == ["a", "b", "c", "d"])
            (gap,) = lifecycle(node, "downlink_gap")
            assert (gap["first"], gap["last"]) == (2, 3)
            assert "before its store was restored" in str(gap["reason"])


async def test_an_edge_with_a_new_store_is_told_what_is_new_and_of_the_gap(
    hub: DownHub, tmp_path: Path
) -> None:
    taker = Taker()
    async with hub.serving() as delivery:
        async with running(hub, taker):
            await hub.tell(delivery, "a")
            await until(lambda: hub.waiting() == 0)
        shutil.rmtree(tmp_path / "edge")
        async with running(hub, taker) as node:
            await hub.tell(delivery, "b")
            await until(lambda: taker.taken == ["a", "b"])
            (gap,) = lifecycle(node, "downlink_gap")
            assert (gap["first"], gap["last"]) == (1, 1)


async def test_a_hub_restored_from_a_backup_forks_and_tells_what_it_has(
    hub: DownHub, tmp_path: Path
) -> None:
    """What it told after the backup took effect once; what follows is not lost in its place."""
    taker = Taker()
    async with hub.serving() as delivery, running(hub, taker):
        await hub.tell(delivery, "a")
        await until(lambda: hub.waiting() == 0)
    write_dump(hub.registry.owned, tmp_path / "dump")
    async with hub.serving() as delivery, running(hub, taker):
        await hub.tell(delivery, "b")
        await until(lambda: hub.waiting() == 0)
    hub.registry.close()
    (tmp_path / "restored").mkdir()
    with closing(open_registry(tmp_path / "restored")) as other:
        load_dump(other.owned, tmp_path / "dump")
    hub.open(tmp_path / "restored")
    async with hub.serving() as delivery, running(hub, taker):
        await hub.tell(delivery, "x", "y")
        await until(lambda: taker.taken == ["a", "b", "x", "y"])
        await until(lambda: hub.waiting() == 0)
        assert hub.journal.view("barn").forks == 1


class SlowTaker(Taker):
    """... after it has written a file, which takes until `may_write` is set."""

    def __init__(self) -> None:
        super().__init__()
        self.is_writing, self.may_write = threading.Event(), threading.Event()

    def has_file(self, event: Event) -> bool:
        return True

    def write_files(self, events: Sequence[Event]) -> None:
        self.is_writing.set()
        assert self.may_write.wait(PATIENCE_S)


@pytest.mark.feature("S32")
async def test_what_an_edge_is_storing_is_on_disk_before_it_greets_a_restored_hub(
    hub: DownHub, tmp_path: Path
) -> None:
    """Else the hub would take what it lost for what it has told since, and delete that."""
    taker = SlowTaker()
    hub.journal.begin("barn", inbound.NOWHERE)
    write_dump(hub.registry.owned, tmp_path / "dump")
    (tmp_path / "restored").mkdir()
    with closing(open_registry(tmp_path / "restored")) as other:
        load_dump(other.owned, tmp_path / "dump")
    async with running(hub, taker) as node:
        async with hub.serving() as delivery:
            await hub.tell(delivery, "a")
            await until(taker.is_writing.is_set)
            driver = node.part("link").driver
            epoch = driver.epoch
        hub.registry.close()
        hub.open(tmp_path / "restored")
        hub.append("x")
        async with hub.serving():
            lane = driver.sender.down_lanes[Lane.NORMAL]
            with trio.move_on_after(1.0):  # it would greet, and have the other batch waiting
                await until(lambda: driver.epoch not in (0, epoch) and len(lane.in_store) > 0)
            taker.may_write.set()
            await until(lambda: hub.waiting() == 0)
            assert taker.taken == ["a", "x"]


async def test_an_edge_and_a_hub_without_the_feature_work_as_before(hub: DownHub) -> None:
    """A hub of before offers nothing; an edge of before asks for nothing."""
    taker = Taker()
    hub.append("a")
    async with hub.running(), running(hub, taker) as node:
        await node.emit(Event(type=EventType.CUSTOM, time_ns=1))
        await node.sync(PATIENCE_S)
    assert (taker.taken, hub.waiting()) == ([], 1)
    async with hub.serving(), running(hub, taker):
        await until(lambda: taker.taken == ["a"])
