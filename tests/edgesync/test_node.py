"""EdgeNode as a program that embeds it sees it."""

import asyncio
import inspect
import itertools
import json
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
import trio

import edgesync
from edgesync import EdgeNode, Event, EventType, Lane, Reading, events
from edgesync.errors import ConfigError, RecordError, StoreFull, StoreLocked
from edgesync.events import EventQuery
from edgesync.model import Action
from edgesync.node import STORE
from edgesync.recorder import Recorder
from edgesync.settings import from_mapping
from edgesync.sources.base import Sink, SourceStatus

if TYPE_CHECKING:
    from collections.abc import Callable

SECOND = 10**9


def node(folder: Path, **more: Any) -> EdgeNode:
    wall_ns = more.pop("wall_ns", None)
    settings = {"edge": {"name": "barn"}, "http": {"port": 0}, **more}
    return EdgeNode(settings, folder=folder, **({"wall_ns": wall_ns} if wall_ns else {}))


def reading(n: int, key: str = "Weight") -> Reading:
    return Reading("scale0", key, n / 10, n * SECOND, unit="kg")


@pytest.mark.feature("L13", "S2")
async def test_what_was_ingested_is_there_after_a_restart(tmp_path: Path) -> None:
    async with node(tmp_path) as first:
        await first.ingest([reading(1), reading(2)])
        tail = first.status().lanes[Lane.BULK].tail
        assert tail == 3  # the declaration of the series, and a record for each time
    async with node(tmp_path) as second:
        assert second.status().lanes[Lane.BULK].tail == tail
        assert second.status().series == 1


@pytest.mark.feature("L1")
@pytest.mark.parametrize(("before", "then"), [(0.005, 0.0002), (0.0001, 0.0001)])
async def test_a_node_that_runs_has_threads_take_turns_soon(
    tmp_path: Path, before: float, then: float
) -> None:
    usual = sys.getswitchinterval()
    sys.setswitchinterval(before)
    try:
        async with EdgeNode({"edge": {"name": "barn"}}, folder=tmp_path):
            assert sys.getswitchinterval() == pytest.approx(then, abs=2e-6)
    finally:
        sys.setswitchinterval(usual)


async def test_an_edge_without_a_hub_keeps_everything_and_says_so(tmp_path: Path) -> None:
    async with node(tmp_path) as alone:
        await alone.ingest([reading(1)])
        status = alone.status()
        assert status.link.state == "Disconnected"
        assert status.pending == sum(lane.tail for lane in status.lanes)
        with pytest.raises(ConfigError, match="edgesync init"):
            await alone.sync()


def test_a_plain_program_works_locally(tmp_path: Path) -> None:
    with EdgeNode.local(tmp_path / "data") as local:
        local.ingest_sync([reading(1)])
        local.emit_sync(Event(type=EventType.CUSTOM, body=b"{}", time_ns=1))
        assert [one.value for one in local.latest()] == [0.1]
        assert [one.type for one in local.events()] == ["CUSTOM", "SERIES"]


def test_a_plain_program_may_use_threads(tmp_path: Path) -> None:
    with EdgeNode.local(tmp_path / "data") as local:
        local.ingest_sync([reading(0)])
        threads = [
            threading.Thread(target=lambda n=n: local.ingest_sync([reading(n)]))
            for n in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert local.store.state(Lane.BULK).tail == 10


class Once:
    """A source that writes one reading and remembers what came of it."""

    def __init__(self, name: str, value: float) -> None:
        self.name = name
        self.value = value
        self.done = trio.Event()
        self.problem: Exception | None = None

    async def run(self, sink: Sink) -> None:
        try:
            await sink.readings([Reading(self.name, "P", self.value, SECOND)])
        except RecordError as problem:
            self.problem = problem
        self.done.set()

    def statuses(self) -> list[SourceStatus]:
        return []

    def retry_now(self, name: str) -> bool:
        return False


async def test_readings_of_devices_that_come_together_are_one_commit(tmp_path: Path) -> None:
    sources = [Once(f"d{number}", number) for number in range(40)]
    settings = {"edge": {"name": "barn"}, "http": {"port": 0}}
    async with EdgeNode(settings, folder=tmp_path, sources=sources) as one:
        for source in sources:
            await source.done.wait()
        status = one.status()
        assert status.store.commits <= 4
        assert status.readings == len(one.latest()) == 40


async def test_a_reading_that_cannot_be_stored_fails_its_own_device_only(tmp_path: Path) -> None:
    sources = [Once("good", 1), Once("bad", 1 << 70), Once("better", 2)]
    settings = {"edge": {"name": "barn"}, "http": {"port": 0}}
    async with EdgeNode(settings, folder=tmp_path, sources=sources) as one:
        for source in sources:
            await source.done.wait()
        assert [source.problem is None for source in sources] == [True, False, True]
        assert "bad/P" in str(sources[1].problem)
        assert {(r.entity, r.value) for r in one.latest()} == {("good", 1), ("better", 2)}


async def test_events_carry_a_state_computed_from_positions(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        await one.emit(Event(type=EventType.ALARM, entity_id="m1", body=b"hot", time_ns=1))
        await one.store.acknowledge(Lane.NORMAL, 1, 1)
        found = {event.type: event.state for event in one.events(EventQuery(lane="normal"))}
        assert found == {"LIFECYCLE": "DEPLOYED", "ALARM": "PENDING"}
        assert [e.entity for e in one.events(EventQuery(text="hot"))] == ["m1"]
        assert one.events(EventQuery(type="RELATION")) == []


@pytest.mark.feature("S5", "S10")
def test_events_are_found_by_what_they_are(tmp_path: Path) -> None:
    with EdgeNode.local(tmp_path) as one:
        for n, action in enumerate((Action.ADDED, Action.UPDATED, Action.DELETED, Action.UPDATED)):
            one.emit_sync(
                Event(type=EventType.ENTITY, action=action, entity_id=f"m{n}", body=b"", time_ns=n)
            )
        one.emit_sync(Event(type=EventType.ALARM, entity_id="m0", body=b"hot", time_ns=9))

        def found(**query: Any) -> list[str]:
            floors, sent = (0, 1, 0), (0, 3, 0)
            asked = EventQuery(lane="normal", **query)
            return [
                f"{view.entity} {view.state}"
                for view in events.find(one.store, asked, floors, sent, {("normal", 3)})
            ]

        assert found() == ["m0 PENDING", "m3 PENDING", "m2 DEAD", "m1 IN_FLIGHT", "m0 DEPLOYED"]
        assert found(action="updated") == ["m3 PENDING", "m1 IN_FLIGHT"]
        assert found(state="in_flight") == ["m1 IN_FLIGHT"]
        assert found(state="dead", action="deleted") == ["m2 DEAD"]
        assert found(type="alarm") == found(text="hot") == ["m0 PENDING"]
        assert found(entity="m0", before=5) == ["m0 DEPLOYED"]
        assert found(limit=2) == found()[:2]


async def test_all_of_a_group_is_stored_or_none(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        before = one.status().lanes[Lane.BULK].tail
        with pytest.raises(RecordError):
            await one.ingest([reading(1), Reading("", "x", 1.0, 1)])
        assert one.status().lanes[Lane.BULK].tail == before
        await one.ingest([])
        assert one.status().lanes[Lane.BULK].tail == before


async def ingest_for_ever(edge: EdgeNode) -> None:
    for n in itertools.count():
        await edge.ingest([reading(n, str(key)) for key in range(100)])


@pytest.mark.slow
async def test_a_full_store_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    async with node(tmp_path, store={"limit": "2mb", "retain": "0b"}) as one:
        with pytest.raises(StoreFull, match=r"store\.limit"):
            await ingest_for_ever(one)
        assert one.status().lanes[Lane.BULK].tail > 100


async def test_a_directory_belongs_to_one_process(tmp_path: Path) -> None:
    async with node(tmp_path):
        with pytest.raises((StoreLocked, RuntimeError)):
            async with node(tmp_path):
                pass


async def test_an_unreadable_store_is_moved_aside_and_told(tmp_path: Path) -> None:
    async with node(tmp_path) as first:
        await first.ingest([reading(1)])
        path = first.data_dir / STORE / "data.mdb"
    path.write_bytes(b"\xa5" * path.stat().st_size)
    async with node(tmp_path) as second:
        told = [event.body for event in second.events(EventQuery(text="store_replaced"))]
        assert len(told) == 1
        await second.ingest([reading(2)])
    assert list((tmp_path / "data").glob("store.damaged-*"))


@pytest.mark.feature("S25")
async def test_a_stepped_clock_is_an_event_and_nothing_else(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    offset_s = [0.0]

    def wall_ns() -> int:
        import time

        return int((time.monotonic() + 1e9 + offset_s[0]) * 1e9)

    async with node(tmp_path, wall_ns=wall_ns) as one:
        await trio.sleep(2)
        offset_s[0] = -315_360_000.0
        await trio.sleep(2)
        await one.ingest([reading(1)])  # commits come in order: the event is stored by now
        told = [event.body for event in one.events(EventQuery(text="clock_stepped"))]
        assert len(told) == 1
        assert "-315360000" in told[0]


async def test_dead_records_are_listed_and_can_be_tried_again(tmp_path: Path) -> None:
    async with node(tmp_path) as one:
        await one.emit(Event(type=EventType.CUSTOM, body=b"odd", time_ns=1))
        one.part("link").record_dead(Lane.NORMAL, 2, "refused")
        for _ in range(500):
            if one.dead():
                break
            await trio.sleep(0.02)
        (dead,) = one.dead()
        assert (dead.lane, dead.seq, dead.reason) == ("normal", 2, "refused")
        assert [e.state for e in one.events(EventQuery(text="odd"))] == ["DEAD"]
        counts: list[int] = []

        async def replay() -> None:
            counts.append(await one.replay_dead())

        async with trio.open_nursery() as nursery:
            for _ in range(2):  # two who ask at once
                nursery.start_soon(replay)
        assert sorted(counts) == [0, 1]
        assert one.dead() == []
        assert len(one.events(EventQuery(text="odd"))) == 2


def test_a_plain_program_is_told_which_method_is_its_own(tmp_path: Path) -> None:
    """What nobody awaits would store nothing and say nothing."""
    with EdgeNode.local(tmp_path) as node:
        calls: list[tuple[Callable[[], object], str]] = [
            (lambda: node.ingest([Reading("scale", "Weight", 1.5, 1)]), "ingest_sync"),
            (lambda: node.emit(Event(type=EventType.LIFECYCLE, time_ns=1)), "emit_sync"),
            (lambda: node.execute("SET", "k", "v"), "command"),
            (node.sync, "async with"),
            (node.replay_dead, "async with"),
        ]
        for call, instead in calls:
            with pytest.raises(RuntimeError, match=instead):
                call()
        node.ingest_sync([Reading("scale", "Weight", 1.5, 1)])
        assert [view.value for view in node.latest()] == [1.5]


def test_asyncio_is_told_where_it_belongs(tmp_path: Path) -> None:
    async def main() -> None:
        async with EdgeNode({}, folder=tmp_path / "edge"):
            raise AssertionError("opened")

    with pytest.raises(RuntimeError, match=r"needs Trio, and this is asyncio.*EdgeNode\.local"):
        asyncio.run(main())
    assert not (tmp_path / "edge").exists()

    async def plain() -> None:
        with EdgeNode.local(tmp_path / "plain") as node:
            node.ingest_sync([Reading("scale", "Weight", 1.5, 1)])

    asyncio.run(plain())


async def test_what_is_stored_is_read_beside_the_daemon(tmp_path: Path) -> None:
    settings = from_mapping({"edge": {"data_dir": str(tmp_path)}})
    async with EdgeNode(settings) as node:
        await node.ingest([Reading("scale", "Weight", 1.5, 1, unit="kg")])
        script = (
            "import json, sys, msgspec\n"
            "from edgesync import EdgeNode\n"
            "from edgesync.settings import from_mapping\n"
            "with EdgeNode.stored(from_mapping({'edge': {'data_dir': sys.argv[1]}})) as node:\n"
            "    print(json.dumps(msgspec.to_builtins(node.latest())))\n"
        )
        done = await trio.run_process(
            [sys.executable, "-c", script, str(tmp_path)], capture_stdout=True
        )
        assert json.loads(done.stdout) == msgspec.to_builtins(node.latest()) != []


def test_the_names_of_the_package_are_those_it_offers() -> None:
    assert {*edgesync.__all__} <= {*dir(edgesync)}
    assert all(inspect.getdoc(getattr(edgesync, name)) for name in edgesync.__all__)
    bare = [
        name
        for name, method in vars(EdgeNode).items()
        if callable(method) and not name.startswith("_") and not inspect.getdoc(method)
    ]
    assert bare == []


async def test_the_hub_is_told_how_full_the_edge_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesync.parts.upkeep.REPORT_FIRST_S", 0.01)
    query = EventQuery(text='"what":"resources"')
    async with node(tmp_path) as open_node:
        with trio.fail_after(100):
            while not (found := open_node.events(query)):  # noqa: ASYNC110
                await trio.sleep(0.01)
        await trio.sleep(0.1)
        assert len(open_node.events(query)) == 1  # and then every ten minutes
    report = json.loads(found[0].body)
    assert 0 < report["store_used_bytes"] < report["store_limit_bytes"] == 1 << 30
    assert report["rss_bytes"] > 1 << 20
    assert report["level"] == "unwatched"


async def test_a_level_that_the_store_had_no_room_for_is_told_with_the_next_look(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesync.parts.upkeep.REPORT_FIRST_S", 0.01)
    emit, refused = Recorder.emit, trio.Event()

    async def refuse(self: Recorder, event: Event, lane: Lane = Lane.NORMAL) -> None:
        if b'"what":"resources"' in event.body and not refused.is_set():
            refused.set()
            raise StoreFull(used_bytes=9, limit_bytes=9)
        await emit(self, event, lane)

    monkeypatch.setattr(Recorder, "emit", refuse)
    async with node(tmp_path) as open_node:
        with trio.fail_after(100):
            await refused.wait()
            while not open_node.events(EventQuery(text='"what":"resources"')):  # noqa: ASYNC110
                await trio.sleep(0.01)
