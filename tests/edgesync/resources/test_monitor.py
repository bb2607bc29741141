"""The monitor of an edge: what the actions do to its store, keys and link, and who is told."""

import math
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from edgesync import EdgeNode, Lane
from edgesync._native.hubkeys import HubKeys
from edgesync._native.resp import ReplyError, encode
from edgesync._native.write import Write
from edgesync.cells import DATABASE
from edgesync.cells.guard import Guard
from edgesync.errors import CommandError, StoreFull
from edgesync.model import RecordKind
from edgesync.resources.disk import Disk
from edgesync.resources.edge import monitor_of
from edgesync.resources.monitor import ResourceMonitor
from edgesync.resources.policy import Action, Begun, Change, LevelChanged
from edgesync.resources.settings import ResourcesSection
from edgesync.serve.resp.session import House, Session
from edgesync.status import LinkStatus, Status, StoreStatus
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore, Retain
from tests.cells.memory import MemoryView
from tests.edgesync.resources.trees import GIB, MIB, battery, grow, meminfo, v2
from tests.sites import Sites, until

pytestmark = pytest.mark.feature("L8")

LIMIT = 100 * MIB


class Edge:
    """A store, keys and a link that notes what it is asked, on a machine of files."""

    def __init__(self, folder: Path, *, evicts: bool = False, **section: Any) -> None:
        self.system = grow(
            folder / "system",
            meminfo(16 * GIB, 12 * GIB)
            | {"proc/self/cgroup": "0::/e\n", "sys/fs/cgroup/cgroup.controllers": ""},
        )
        self.memory(10)
        self.store = EdgeStore(folder / "store", databases=(DATABASE,), map_bytes_max=16 << 20)
        self.now_ns = 1_700_000_000 * 10**9
        self.cells = EdgeCells(
            self.store, random=Random(1), may_pack=False, evicts=evicts, wall_ns=lambda: self.now_ns
        )
        self.cells.call.guard = Guard(self.cells.rows, self.cells.space)
        self.link = LinkStatus(state="Connected", endpoint="tcp://hub:1")
        self.asked = 0
        self.changes: list[Change] = []
        self.monitor = monitor_of(
            self.store,
            # This machine's own disk, however full, is beside the point unless it is the point.
            ResourcesSection(**{"disk_levels": (90, 95, 100), **section}),
            cells=lambda: self.cells,
            link=lambda: self.link,
            sync_now=self._sync_now,
            may_pack=False,
            may_evict=evicts,
            root=self.system,
        )
        self.monitor.on_change(self.changes.append)
        self.cell_sync = None
        self.session = Session(House(self.cells, site=self), 1, "test", lambda push: None)

    @property
    def resources(self) -> ResourceMonitor | None:
        return self.monitor

    def status(self) -> Status:
        return Status(
            edge="", version="", incarnation="", uptime_s=0, readings=0, events=0, series=0, dead=0,
            oldest_pending_s=None, lanes=(), link=self.link, resource_level=self.monitor.level,
            store=StoreStatus(path="", used_bytes=0, limit_bytes=0, commits=0, last_commit_s=0),
        )  # fmt: skip

    def options(self) -> dict[str, object]:
        return {}

    def _sync_now(self) -> None:
        self.asked += 1

    def memory(self, percent: float) -> None:
        grow(self.system, v2("/e", f"{LIMIT}\n", int(LIMIT * percent / 100)))

    def ask(self, request: str) -> Any:
        (reply,) = self.session.run([one.encode() for one in request.split()])
        return reply


@pytest.fixture
async def edge(tmp_path: Path, mock_clock: trio.testing.MockClock) -> Any:
    made = Edge(tmp_path)
    yield made
    made.store.close()


async def test_at_warning_the_link_is_asked_and_what_the_hub_has_is_deleted(
    edge: Edge, mock_clock: trio.testing.MockClock
) -> None:
    write = Write()
    for _ in range(100):
        write.append(Lane.BULK, RecordKind.EVENT, b"x" * 100)
    await edge.store.submit(write)
    edge.store.retain = Retain(nbytes=1 << 20)
    await edge.store.acknowledge(Lane.BULK, 90, 90)
    edge.store.retain = Retain()
    assert edge.store.state(Lane.BULK).trimmed == 0
    edge.memory(85)
    await edge.monitor.look()
    assert (edge.monitor.level, edge.monitor.worst) == ("warning", ("memory",))
    assert edge.asked == 1
    assert edge.store.state(Lane.BULK).trimmed == 90
    for _ in range(59):
        mock_clock.jump(1)
        await edge.monitor.look()
    assert edge.asked == 1
    mock_clock.jump(1)
    await edge.monitor.look()
    assert edge.asked == 2, "once a minute, while it lasts"


async def test_keys_past_their_deadline_go_when_memory_is_short(edge: Edge) -> None:
    edge.ask("SET a v PX 50")
    edge.ask("SET b v")
    edge.now_ns += 10**9
    assert edge.cells.space.keys == 2
    edge.memory(85)
    await edge.monitor.look()
    assert edge.cells.space.keys == 1


async def test_at_high_values_are_packed_and_not_any_more_when_it_is_over(
    edge: Edge, mock_clock: trio.testing.MockClock
) -> None:
    edge.memory(92)
    await edge.monitor.look()
    edge.ask("SET packed " + "x" * 200)
    edge.memory(10)
    for _ in range(30):
        mock_clock.jump(1)
        await edge.monitor.look()
    edge.ask("SET plain " + "x" * 200)
    assert edge.ask("OBJECT ENCODING packed") == b"lz4"
    assert edge.ask("OBJECT ENCODING plain") == b"raw"


async def test_at_critical_clients_are_told_how_critical_and_listeners_of_every_change(
    edge: Edge, mock_clock: trio.testing.MockClock
) -> None:
    edge.ask("RPUSH list a b c")
    edge.memory(95.6)  # and half a MiB of the kernel's
    await edge.monitor.look()
    assert str(edge.ask("SET k v")) == "OOM edge resource critical: memory 96.1%"
    edge.memory(98)
    await edge.monitor.look()
    mock_clock.jump(60)
    await edge.monitor.look()
    assert str(edge.ask("SET k v")) == "OOM edge resource critical: memory 98.5%"
    assert edge.ask("LPOP list") == b"a"
    with pytest.raises(CommandError, match=r"^OOM"):
        edge.cells.ask("SET", ("k", "v"))
    edge.memory(10)
    for _ in range(11):
        mock_clock.jump(1)
        await edge.monitor.look()
    assert edge.ask("SET k v") == "OK"
    kinds = [type(one) for one in edge.changes]
    assert kinds.count(LevelChanged) == 2
    assert Begun(Action.REFUSE_WRITES) in edge.changes


async def test_a_transaction_that_adds_is_refused_as_redis_refuses_it(edge: Edge) -> None:
    assert edge.ask("MULTI") == "OK"
    assert edge.ask("SET k v") == "QUEUED"
    edge.memory(99)
    await edge.monitor.look()
    reply = edge.ask("EXEC")
    assert str(reply).startswith("EXECABORT Transaction discarded because of: OOM edge resource")
    assert edge.ask("MULTI") == "OK"
    assert str(edge.ask("SET k v")).startswith("OOM edge resource critical")
    assert str(edge.ask("EXEC")).startswith("EXECABORT")
    assert edge.ask("MULTI") == "OK"
    assert edge.ask("DEL k") == "QUEUED"
    assert edge.ask("EXEC") == [0]


@pytest.mark.feature("L9")
async def test_edge_resources_over_both_protocols(edge: Edge) -> None:
    grow(edge.system, battery(40, "Discharging"))
    edge.memory(85)
    await edge.monitor.look()
    asked = [edge.ask("EDGE RESOURCES"), edge.ask("edge.resources")]
    for reply in asked:
        assert list(reply) == [b"memory", b"disk", b"io", b"cpu", b"network", b"battery"]
        memory = reply[b"memory"]
        assert (memory[b"limit"], memory[b"percent"]) == (LIMIT, 85.5)
        assert memory[b"level"] == b"warning"
        assert memory[b"actions"] == [b"sync_now", b"offload", b"compact"]
        assert reply[b"battery"][b"level"] == b"warning"
        assert reply[b"network"][b"level"] == b"unknown"
    assert encode(asked[:1], 3).startswith(b"%6\r\n$6\r\nmemory\r\n%6\r\n")
    assert encode(asked[:1], 2).startswith(b"*12\r\n$6\r\nmemory\r\n*12\r\n")
    assert edge.ask("EDGE STATUS")[b"resource_level"] == b"warning"
    edge.session.house.site = None
    assert isinstance(edge.ask("EDGE RESOURCES"), ReplyError)


async def test_an_action_that_fails_is_tried_again_and_ends_nothing(
    edge: Edge, mock_clock: trio.testing.MockClock
) -> None:
    tries = 0

    async def fail(is_on: bool) -> None:
        nonlocal tries
        tries += 1
        raise StoreFull(used_bytes=1, limit_bytes=1)

    doors = dict.fromkeys(Action, fail)
    looks = {"memory": lambda: edge.monitor._looks["memory"]()}
    monitor = ResourceMonitor(edge.monitor.watch, looks, doors)
    edge.memory(85)
    await monitor.look()
    assert tries == 3
    mock_clock.jump(61)
    await monitor.look()
    assert tries == 6


async def test_the_pace_follows_the_link_and_the_battery(
    edge: Edge, mock_clock: trio.testing.MockClock
) -> None:
    await edge.monitor.look()
    assert edge.monitor.pace_s() == 1.0
    for number in range(5):
        edge.link = LinkStatus(state="Reconnecting", endpoint="", reconnects=number)
        await edge.monitor.look()
    assert edge.monitor.interval_s(0.0) == 0.0, "a hub that is away is no bad network"
    for number in range(1, 5):
        edge.link = LinkStatus(state="Connected", endpoint="", epoch=number)
        await edge.monitor.look()
        await edge.monitor.look()  # nothing new: nothing counted twice
    assert edge.monitor.pace_s() == pytest.approx(1.5**3)
    assert edge.monitor.report()["network"].level == "high"
    grow(edge.system, battery(15, "Discharging"))
    await edge.monitor.look()
    assert edge.monitor.pace_s() == pytest.approx(8 * 1.5**3)
    assert edge.monitor.interval_s(0.0) == edge.monitor.pace_s()
    assert edge.monitor.interval_s(30.0) == 240.0
    for number in range(1, 4):
        edge.link = LinkStatus(state="Connected", endpoint="", epoch=4, rtt_s=number / 100)
        await edge.monitor.look()
    assert edge.monitor.pace_s() == 8.0
    grow(edge.system, battery(5, "Discharging"))
    await edge.monitor.look()
    assert edge.monitor.interval_s(0.0) == math.inf
    grow(edge.system, battery(5, "Charging"))
    for number in range(100):
        mock_clock.jump(1)
        rtt_s = 0.01 + number / 10_000
        edge.link = LinkStatus(state="Connected", endpoint="", epoch=4, rtt_s=rtt_s)
        await edge.monitor.look()
    assert edge.monitor.level == "normal"
    assert edge.monitor.interval_s(0.5) == 0.5


async def test_values_the_hub_has_too_go_when_the_disk_is_short(
    tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    made = Edge(tmp_path, evicts=True, storage_limit=1 << 20, disk_levels=(70, 85, 95))
    hub = HubKeys(MemoryView())
    with made.store:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(made.cells.keep_committing)
            space = made.cells.space
            space.rejoin(1)
            for number in range(45):
                made.cells.ask("SET", (f"key{number:02}", "x" * 20_000))
            for op in space.take():
                hub.hear(1, op)
            space.deliver(hub.page(0, 0)[0], space.n)
            made.cells.ask("SET", ("key00", "y" * 20_000))
            made.cells.commit()
            await made.monitor.look()
            assert Begun(Action.EVICT) in made.changes
            left = [key for key in space.names() if not space.is_evicted(key)]
            assert left == [b"key00"], "what the hub has not confirmed stays"
            for _ in range(30):
                mock_clock.jump(1)
                await made.monitor.look()
            assert made.monitor.level == "normal"
            nursery.cancel_scope.cancel()


async def test_storage_limit_is_a_limit_of_the_store(tmp_path: Path) -> None:
    made = Edge(tmp_path, storage_limit=1 << 20, disk_levels=(70, 85, 95))
    with made.store:
        for number in range(40):
            made.cells.ask("SET", (f"key{number}", "x" * 20_000))
        made.cells.commit()
        await made.monitor.look()
        assert made.monitor.report()["disk"].limit == 1 << 20
        assert made.monitor.level != "normal"


def test_of_nothing_known_the_disk_that_is_known_counts() -> None:
    assert Disk(1, 0).percent == 100


# -- as part of a node -----------------------------------------------------------------------


async def test_a_node_watches_when_it_uses_keys_or_is_told_to(tmp_path: Path) -> None:
    base = {"http": {"port": 0}}
    async with EdgeNode(base, folder=tmp_path / "one") as plain:
        assert plain.resources is None
        assert plain.status().resource_level == "unwatched"
        plain.set("key", "value")
        assert plain.resources is not None
        await plain.resources.look()
        assert plain.resources.report()["disk"].is_known
        assert plain.status().resource_level in ("normal", "warning", "high", "critical")
    told = base | {"resources": {"memory_limit": "1GiB"}}
    async with EdgeNode(told, folder=tmp_path / "two") as watched:
        assert watched.resources is not None


def test_an_edge_that_does_not_ask_for_it_does_not_load_it(tmp_path: Path) -> None:
    program = (
        "import sys, trio\n"
        "from edgesync import EdgeNode\n"
        "async def main():\n"
        f"    async with EdgeNode({{'edge': {{'data_dir': {str(tmp_path)!r}}}}}) as node:\n"
        "        node.status()\n"
        "trio.run(main)\n"
        "print(sorted(one for one in sys.modules if one.startswith('edgesync.resources')))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout == "['edgesync.resources', 'edgesync.resources.settings']\n", done.stderr


@pytest.mark.slow
async def test_on_an_empty_battery_the_hub_hears_of_keys_when_somebody_asks(tmp_path: Path) -> None:
    system = grow(tmp_path / "system", meminfo(16 * GIB, 12 * GIB) | battery(5, "Discharging"))
    sites = Sites(tmp_path)
    plain = sites.node(
        "till", http={"port": 0}, resources={"interval": "50ms", "disk_levels": [90, 95, 100]}
    )
    async with (
        sites.hub() as hub,
        EdgeNode(plain.settings, folder=plain.folder, system=system) as node,
    ):
        space, monitor, sync = node.cells.space, node.resources, node.cell_sync
        assert monitor is not None
        assert sync is not None
        await until(lambda: monitor.interval_s(0.0) == math.inf)
        await node.sync(100)
        await until(lambda: not sync._hurried)
        node.set("key", "1")
        await trio.sleep(1.0)
        assert space.pending == 1
        await node.sync(100)
        assert (space.pending, hub.space.get_string(b"key")) == (0, b"1")
        node.set("key", "2")
        grow(system, battery(5, "Charging"))
        await until(lambda: hub.space.get_string(b"key") == b"2")
