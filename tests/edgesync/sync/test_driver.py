"""An edge and a hub in one process, over real sockets: what arrives, and in which order."""

import contextlib
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Lane, Reading
from edgesync._native import batch
from edgesync._native import event as event_codec
from edgesync.demo.site import free_ports
from edgesync.errors import StoreFull, StoreUnwritable
from edgesync.events import EventQuery
from edgesync.model import RecordKind
from edgesync.parts.link import REPORTS_BURST
from edgesync.store.declare import HubNotes, hub_notes, note_hub
from edgesync_transport.keys import KeyPair, new_key_pair, write_keys
from edgesync_transport.receiver import ReceiverSettings
from edgesync_transport.router import open_hearing
from edgesync_transport.zap import KeyTable
from hubd.link.rates import Rate, Rates, RateSettings
from hubd.link.sessions import HubLink
from hubd.log.base import Append, Appended, Entry, Log, NotAppended
from hubd.log.lmdb import LmdbLog
from hubd.log.memory import MemoryLog
from hubd.presence import Presence
from hubd.registry import RegisteredEdge

SECOND = 10**9
PATIENCE_S = 120


class Hub:
    """A hub's link over a log of the test's choice, on a port that stays."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.keys = new_key_pair()
        self.edge_keys = new_key_pair()
        self.table = KeyTable({self.edge_keys.public: "barn"})
        (port,) = free_ports(1)
        self.address = f"tcp://127.0.0.1:{port}"
        self.log: Log = MemoryLog()

    @asynccontextmanager
    async def running(
        self, log: Log | None = None, start: int = 0, rates: Rates | None = None
    ) -> AsyncIterator[Presence]:
        self.log = log or self.log
        presence = Presence(self.log, rates=rates)
        settings = ReceiverSettings(heartbeat_s=1.0, start=start)
        async with open_hearing([self.address], server_keys=self.keys, edges=self.table) as hearing:
            link = HubLink(hearing, self.log, presence, settings, rates=rates)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(link.run)
                yield presence
                nursery.cancel_scope.cancel()

    def node(
        self, name: str = "edge", *, keys: KeyPair | None = None, retain: str = "8mb"
    ) -> EdgeNode:
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        if not (folder / "edge.keys").exists():
            write_keys(folder / "edge.keys", keys or self.edge_keys)
        return EdgeNode(self.settings(retain), folder=folder)

    def settings(self, retain: str = "8mb") -> dict[str, Any]:
        """Return those of an edge that belongs to this hub."""
        return {
            "edge": {"name": "barn"},
            "hub": {"endpoint": self.address, "server_key": self.keys.public},
            "store": {"retain": retain},
            "sync": {
                "heartbeat": "1s", "reconnect_base": "50ms", "reconnect_cap": "200ms",
                "breaker_failures": 1000,
            },
        }  # fmt: skip


BARN = RegisteredEdge(name="barn", tenant="t", created_ns=0, is_revoked=False, keys=("key",))


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


def readings(first: int, count: int) -> list[Reading]:
    return [Reading("m", "P", float(n), n * SECOND) for n in range(first, first + count)]


async def entries(log: Log) -> list[Entry]:
    found: list[Entry] = []
    while page := await log.read(found[-1].position if found else 0):
        found += page
    return found


async def values(log: Log) -> list[float]:
    """Every reading in the log, in its order."""
    found: list[float] = []
    for entry in await entries(log):
        if entry.payload and entry.codec.value < 2:
            columns, _ = batch.columns(entry.codec, entry.payload)
            found += [float(value) for column in columns for value in column.values]
    return found


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(PATIENCE_S * 50):
        if is_so():
            return
        await trio.sleep(0.02)
    raise TimeoutError("it never became so")


@pytest.mark.slow
@pytest.mark.feature("S4", "S5", "S12")
async def test_an_edge_that_sends_more_than_it_may_keeps_the_rest_and_says_why(hub: Hub) -> None:
    rates = Rates(RateSettings(edge=Rate(readings=2000), burst_s=0.5))
    async with hub.running(rates=rates) as presence, hub.node() as edge:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(edge.ingest, readings(0, 3000))
            await until(lambda: "`edge_readings` under [limits]" in edge.status().link.slowed)
            presence.set_registered([BARN])
            assert [one.slowed for one in presence.edges()] == [edge.status().link.slowed]
            assert presence.slowed().counts["barn"] > 0
        await edge.sync(PATIENCE_S)
        assert await values(hub.log) == [float(n) for n in range(3000)]
        assert edge.status().pending == 0


@pytest.mark.feature("S4", "S5", "K3")
async def test_everything_arrives_once_and_in_order(hub: Hub) -> None:
    async with hub.running(), hub.node() as edge:
        for first in range(0, 1000, 100):
            await edge.ingest(readings(first, 100))
        await edge.sync(PATIENCE_S)
        assert await values(hub.log) == [float(n) for n in range(1000)]
        status = edge.status()
        assert status.link.state == "Connected"
        assert status.pending == 0


@pytest.mark.feature("S13")
async def test_the_clock_is_set_anew_when_something_is_due_earlier(hub: Hub) -> None:
    async with hub.running(), hub.node() as edge:
        await edge.sync(PATIENCE_S)
        driver = edge.part("link").driver
        assert driver is not None
        await edge.ingest(readings(0, 1))
        # What lingers for others is sent when its time is over: not at the next beat.
        assert driver.tick_at <= driver.sender.due_at(trio.current_time())


class HeldLog(MemoryLog):
    """A log whose disk takes its time."""

    def __init__(self) -> None:
        super().__init__()
        self.may_go_on = trio.Event()

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        await self.may_go_on.wait()
        return await super().append(batches)


@pytest.mark.feature("S5", "S12")
async def test_what_the_hub_has_not_stored_is_in_flight(hub: Hub) -> None:
    hub.log = log = HeldLog()
    alarm = Event(type=EventType.ALARM, entity_id="m", body=b"{}", time_ns=1)

    def states(edge: EdgeNode) -> tuple[str, set[str]]:
        return edge.status().link.state, {one.state for one in edge.events()}

    async with hub.node() as edge:
        await edge.emit(alarm)
        await until(lambda: states(edge) == ("Queuing", {"PENDING"}))
        async with hub.running():
            await until(lambda: states(edge) == ("Processing", {"IN_FLIGHT"}))
            assert edge.events(EventQuery(state="pending")) == []
            assert [one.type for one in edge.events(EventQuery(state="in_flight", type="alarm"))]
            log.may_go_on.set()
            await until(lambda: states(edge) == ("Connected", {"DEPLOYED"}))
        await until(lambda: edge.status().link.state != "Connected")
        assert edge.status().link.state in ("Reconnecting", "Disconnected")


@pytest.mark.feature("L1", "S12")
async def test_intake_goes_on_without_a_hub_and_drains_when_it_comes(hub: Hub) -> None:
    async with hub.node() as edge:
        await edge.ingest(readings(0, 500))
        await until(lambda: edge.status().link.state == "Queuing")
        async with hub.running():
            await edge.sync(PATIENCE_S)
            assert await values(hub.log) == [float(n) for n in range(500)]


@pytest.mark.feature("S26")
async def test_a_hub_that_restarts_is_found_again(hub: Hub) -> None:
    async with hub.node() as edge:
        for turn in range(3):
            async with hub.running():
                await edge.ingest(readings(turn * 100, 100))
                await edge.sync(PATIENCE_S)
            await edge.ingest(readings(turn * 100 + 1000, 10))
        async with hub.running():
            await edge.sync(PATIENCE_S)
    found = await values(hub.log)
    assert len(found) == len(set(found)) == 330


@pytest.mark.feature("S2")
async def test_an_edge_that_restarts_goes_on_where_the_hub_is(hub: Hub) -> None:
    async with hub.running():
        for turn in range(3):
            async with hub.node() as edge:
                await edge.ingest(readings(turn * 100, 100))
                await edge.sync(PATIENCE_S)
        assert await values(hub.log) == [float(n) for n in range(300)]


@pytest.mark.feature("S32")
async def test_a_hub_restored_from_an_older_backup_is_sent_the_rest_again(hub: Hub) -> None:
    log = LmdbLog(hub.folder / "log", map_bytes_max=64 << 20)
    async with hub.node() as edge:
        async with hub.running(log):
            await edge.ingest(readings(0, 100))
            await edge.sync(PATIENCE_S)
        await log.aclose()
        shutil.copytree(hub.folder / "log", hub.folder / "backup")
        log = LmdbLog(hub.folder / "log", map_bytes_max=64 << 20)
        async with hub.running(log):
            await edge.ingest(readings(100, 100))
            await edge.sync(PATIENCE_S)
        await log.aclose()
        log = LmdbLog(hub.folder / "backup", map_bytes_max=64 << 20)
        async with hub.running(log):
            await until(lambda: edge.status().link.epoch > 0)
            await edge.ingest(readings(200, 100))
            await edge.sync(PATIENCE_S)
            await until(lambda: edge.status().pending == 0)
            assert await values(log) == [float(n) for n in range(300)]
        await until(lambda: any("rewind" in event.body for event in edge.events()))
        await log.aclose()


async def events_of(log: Log) -> list[tuple[int, str, dict[str, object]]]:
    """Every event in the log: its type, what it is of, and its body."""
    found = []
    for entry in await entries(log):
        if entry.payload and entry.codec.value < 2:
            _, records = batch.columns(entry.codec, entry.payload)
            for _, record in records:
                if record.kind == RecordKind.EVENT:
                    kind, _, _, entity, body, *_ = event_codec.decode(record.body)
                    found.append((kind, entity, msgspec.json.decode(body)))
    return found


@pytest.mark.feature("S32")
@pytest.mark.parametrize("restarts", [False, True])
async def test_a_hub_that_begins_anew_is_told_what_series_are(hub: Hub, restarts: bool) -> None:
    """Also those whose declarations were trimmed, and that have no readings any more."""

    def told(found: list[tuple[int, str, dict[str, object]]]) -> set[str]:
        return {entity for kind, entity, _ in found if kind == EventType.SERIES}

    async with contextlib.AsyncExitStack() as stack:
        edge = await stack.enter_async_context(hub.node(retain="0b"))
        async with hub.running():
            await edge.ingest([Reading(f"m{n}", "P", 1.0, SECOND) for n in range(3)])
            await edge.sync(PATIENCE_S)
            await until(lambda: edge.store.state(Lane.BULK).trimmed > 0)
        if restarts:
            await stack.aclose()
            edge = await stack.enter_async_context(hub.node(retain="0b"))
        async with hub.running(MemoryLog()):
            await until(lambda: edge.status().link.epoch > 0)
            await edge.ingest([Reading("m0", "P", 2.0, 2 * SECOND)])
            # Once: what is known is not declared by later sessions.
            noted = HubNotes(hub.log.generation, is_owed=False)
            await until(lambda: hub_notes(edge.store) == noted)
            await edge.sync(PATIENCE_S)
            assert told(await events_of(hub.log)) == {"m0", "m1", "m2"}


@pytest.mark.feature("S32")
async def test_two_hubs_with_one_identity_are_noticed_by_all(hub: Hub) -> None:
    """As behind a balancer: sessions alternate, which a restart or a restored hub never does."""
    logs = [MemoryLog(), MemoryLog()]
    async with hub.node() as edge:
        assert edge.part("link").driver is not None
        sender = edge.part("link").driver.sender
        for turn in range(3):
            start = 1 + turn % 2
            async with hub.running(logs[turn % 2], start=start):
                await until(lambda start=start: sender.last_start == start)  # type: ignore[misc]
                assert edge.status().link.two_hubs == (turn == 2)
        await until(lambda: any("two_hubs" in event.body for event in edge.events()))


@pytest.mark.feature("S32")
async def test_a_copied_edge_forks_and_nothing_is_lost_or_doubled(hub: Hub) -> None:
    async with hub.node() as edge:
        await edge.ingest(readings(0, 50))
    shutil.copytree(hub.folder / "edge", hub.folder / "copy")
    async with hub.running():
        async with hub.node() as edge:
            await edge.ingest(readings(100, 50))
            await edge.sync(PATIENCE_S)
        async with hub.node("copy") as copy:
            await copy.ingest(readings(200, 50))
            await copy.sync(PATIENCE_S)
            await until(lambda: copy.status().pending == 0)
            assert any("fork" in event.body for event in copy.events())
        found = await values(hub.log)
    wanted = [*range(50), *range(100, 150), *range(200, 250)]
    assert sorted(found) == [float(n) for n in wanted]


@pytest.mark.feature("S6")
async def test_an_unknown_key_gets_nothing_in_and_is_told_why(hub: Hub) -> None:
    async with hub.running(), hub.node("stranger", keys=new_key_pair()) as edge:
        await edge.ingest(readings(0, 10))
        await until(lambda: "not enrolled" in edge.status().link.problem)
        assert hub.log.head == 0


@pytest.mark.feature("S6")
@pytest.mark.slow
async def test_a_key_revoked_while_connected_is_heard_no_more(hub: Hub) -> None:
    async with hub.running(), hub.node() as edge:
        await edge.ingest(readings(0, 10))
        await edge.sync(PATIENCE_S)
        head = hub.log.head
        hub.table.remove(hub.edge_keys.public)
        await edge.ingest(readings(10, 10))
        await until(lambda: "not enrolled" in edge.status().link.problem)
        assert hub.log.head == head
        hub.table.add(hub.edge_keys.public, "barn")
        await edge.sync(PATIENCE_S)
        assert await values(hub.log) == [float(n) for n in range(20)]


@pytest.mark.feature("S14")
async def test_a_poison_record_stands_alone_and_its_neighbours_arrive(hub: Hub) -> None:
    async with hub.node() as edge:
        await edge.ingest(readings(0, 200))
        await _append_nonsense(edge)
        await edge.ingest(readings(200, 200))
        async with hub.running():
            await edge.sync(PATIENCE_S)
            await until(lambda: len(edge.dead()) == 1)
            assert await values(hub.log) == [float(n) for n in range(400)]
            kept = [entry for entry in await entries(hub.log) if entry.codec.name == "DEAD"]
            assert len(kept) == 1


async def _append_nonsense(edge: EdgeNode) -> None:
    """Store a READINGS record that no hub can read, as a broken program might have."""
    from edgesync._native.write import Write
    from edgesync.model import RecordKind

    write = Write()
    write.append(Lane.BULK, RecordKind.READINGS, b"no readings at all")
    await edge.store.submit(write)


@pytest.mark.feature("S1")
async def test_an_alarm_does_not_wait_behind_the_bulk(hub: Hub) -> None:
    async with hub.node() as edge:
        for first in range(0, 20_000, 1000):
            await edge.ingest(readings(first, 1000))
        alarm = Event(type=EventType.ALARM, entity_id="m", body=b"{}", time_ns=1)
        await edge.emit(alarm, Lane.CRITICAL)
        async with hub.running():
            await edge.sync(PATIENCE_S)
        lanes = [entry.lane for entry in await entries(hub.log)]
    assert lanes.index(Lane.CRITICAL) < len(lanes) - 1


@pytest.mark.feature("S1")
@pytest.mark.parametrize(
    "refusal",
    [
        StoreUnwritable(path="store", problem="input/output error"),
        StoreFull(used_bytes=9, limit_bytes=9), OSError(5, "input/output error"),
    ],
    ids=lambda one: type(one).__name__,
)  # fmt: skip
async def test_what_a_failing_disk_refuses_ends_no_link(
    hub: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture,
    refusal: Exception,
) -> None:  # fmt: skip
    """Reports of the link and of parts, dead letters and loss records."""

    async def refuse(*_: object) -> None:
        raise refusal

    def refused(count: int) -> bool:
        return sum("not stored: " in one.getMessage() for one in caplog.records) == count

    async with hub.node() as edge, hub.running():
        link = edge.part("link")
        await edge.sync(PATIENCE_S)
        with monkeypatch.context() as patched:
            patched.setattr(edge.store, "submit", refuse)
            link.link_report("clock_skew", {"offset_s": 9})
            link.record_dead(Lane.BULK, 1, "nonsense")
            link.records_lost(Lane.BULK, 1, 1, "gone")
            assert not await edge.recorder.report("resources", {})
            await until(lambda: refused(4))
        epoch = edge.status().link.epoch
        await edge.ingest(readings(0, 1))
        await edge.sync(PATIENCE_S)
        assert edge.status().link.epoch == epoch


async def test_a_hub_that_had_lost_series_is_told_them_after_a_restart(hub: Hub) -> None:
    async with hub.node() as edge:
        await edge.ingest([Reading("m0", "P", 1.0, SECOND)])
        await note_hub(edge.store, b"a" * 16, is_owed=True)
    async with hub.node() as edge:
        await until(lambda: hub_notes(edge.store) == HubNotes(b"a" * 16, is_owed=False))
        assert len(edge.events(EventQuery(type="series"))) == 2


async def test_what_a_hub_says_again_and_again_is_seldom_stored(hub: Hub) -> None:
    """A clock that is wrong and right by turns, and a hub that has forgotten all each time."""
    async with hub.node() as node:
        await node.ingest([Reading(f"m{n}", "P", 1.0, 10**18) for n in range(3)])
        link = node.part("link")
        for n in range(3 * REPORTS_BURST):
            link.link_report("clock_skew", {"offset_s": n})
            link.hub_forgot(n.to_bytes(16, "big"))
            await trio.lowlevel.checkpoint()
        # Owed still, or told already if the disk was slow at first.
        newest = (3 * REPORTS_BURST - 1).to_bytes(16, "big")
        await until(lambda: hub_notes(node.store).generation == newest)
        await until(lambda: len(lifecycle(node)) >= REPORTS_BURST)
        assert len(lifecycle(node)) == REPORTS_BURST
        declared = node.events(EventQuery(type="series", limit=1000))
        assert len(declared) <= 2 * 3  # when they were new, and once again


def lifecycle(node: EdgeNode) -> list[str]:
    found = node.events(EventQuery(type="lifecycle", text="clock_skew", limit=1000))
    return [one.body for one in found]
