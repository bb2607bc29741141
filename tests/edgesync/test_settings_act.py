"""A key that is read and then ignored: what a file says must reach the part that does it.

`@pytest.mark.setting("sync.heartbeat")` names the keys a test shows to act, and every key that a
file may hold is named by some test. tests/ignored.py runs each of them without its key: it is red.
"""

import ast
import contextlib
import itertools
import logging
import os
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
from click.testing import CliRunner

from edgesync import EdgeNode, Event, EventType, Reading, SensorIngestion, daemon
from edgesync._native import batch
from edgesync.cli import main as edgesync_command
from edgesync.demo.site import free_ports
from edgesync.entities.keys import ROOT
from edgesync.errors import CommandError, ConfigError, RecordError, StoreFull
from edgesync.model import RecordKind, Strategy
from edgesync.node import STORE
from edgesync.resources import disk
from edgesync.settings import SyncSection
from edgesync.settings import from_table as edge_settings
from edgesync_transport.keys import new_key_pair, write_keys
from edgesync_transport.messages import Lane
from hubd import serve
from hubd.log.lmdb import LmdbLog
from hubd.settings import from_table
from tests.edgesync.resources.trees import GIB, battery, grow, meminfo
from tests.faults.forward import open_forward
from tests.hubd.keys import proposed
from tests.ignored import keys
from tests.sites import PATIENCE_S, Sites, until

TESTS = Path(__file__).parent.parent
# For whoever reads the file.
SAID_ONLY = {
    "modbus.points.label", "profile.version", "profile.vendor", "profile.models",
    "profile.description",
    "sync.lanes.critical.overflow",  # has one value only
}  # fmt: skip


def named() -> set[str]:
    """Return the names in every `@pytest.mark.setting(…)`, in whatever file."""
    return {
        arg.value
        for path in TESTS.rglob("test_*.py")
        if "mark.setting(" in (text := path.read_text())
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.Call)
        if isinstance(node.func, ast.Attribute) and node.func.attr == "setting"
        for arg in node.args
        if isinstance(arg, ast.Constant) and isinstance(arg.value, str)
    }


@pytest.mark.slow
def test_every_key_a_file_may_hold_is_shown_to_act() -> None:
    optional = [name for name, (_, _, is_optional) in keys().items() if is_optional]
    assert sorted(named() - set(keys())) == []
    assert sorted(set(optional) - named() - SAID_ONLY) == []


# Each differs from its default.
SYNC: dict[str, Any] = {
    "batch_size": 77,
    "batch_timeout": "7ms",
    "ack_timeout": "17s",
    "heartbeat": "2s",
    "heartbeats_missed_max": 4,
    "reconnect_base": "7s",
    "reconnect_factor": 3.5,
    "reconnect_jitter": 0.07,
    "reconnect_cap": "77s",
    "breaker_failures": 7,
    "breaker_open": "177s",
    "interval": "3s",
    "lanes": {"bulk": {"capacity": 777}},
}


def made_of(sync: SyncSection) -> tuple[object, ...]:
    """Return all that the link is made of."""
    return (
        sync.backoff(), sync.breaker(), sync.sender("x"), float(sync.interval), sync.policies(),
    )  # fmt: skip


@pytest.mark.feature("S3")
@pytest.mark.setting("sync.batch_size", "sync.batch_timeout", "sync.ack_timeout", "sync.heartbeat")
@pytest.mark.setting("sync.heartbeats_missed_max", "sync.reconnect_base", "sync.reconnect_factor")
@pytest.mark.setting("sync.reconnect_jitter", "sync.reconnect_cap", "sync.breaker_failures")
@pytest.mark.setting("sync.breaker_open")
def test_every_key_of_the_link_changes_what_it_is_made_of() -> None:
    assert set(SYNC) == set(SyncSection.__struct_fields__)
    for key, value in SYNC.items():
        changed = edge_settings({"sync": {key: value}}, file="edge.toml", environment={}).sync
        assert made_of(changed) != made_of(SyncSection()), f"sync.{key} is read and ignored"


@pytest.mark.feature("S3")
@pytest.mark.setting("sync.reconnect_cap", "sync.breaker_open", "sync.heartbeat", "sync.interval")
async def test_what_the_file_says_of_the_link_reaches_it(tmp_path: Path) -> None:
    write_keys(tmp_path / "edge.keys", new_key_pair())
    hub = {"endpoint": "tcp://127.0.0.1:1", "server_key": new_key_pair().public}
    async with EdgeNode({"hub": hub, "sync": SYNC}, folder=tmp_path) as node:
        driver = node.part("link").driver
        assert driver is not None
        sender, backoff = driver.sender.settings, driver._backoff._settings
        breaker = driver.breaker._settings
        assert node.part("keys").interval_s() == 3
        assert (backoff.base_s, backoff.factor, backoff.jitter, backoff.cap_s) == (7, 3.5, 0.07, 77)
        assert (breaker.failures_max, breaker.open_s) == (7, 177)
        assert (sender.batch_records_max, sender.linger_s[Lane.BULK]) == (77, 0.007)
        assert (sender.ack_timeout_s, sender.heartbeat_s, sender.heartbeats_missed_max) == (
            17,
            2,
            4,
        )


@pytest.mark.feature("S19", "L2")
@pytest.mark.setting("hub.toml cells.strategy", "hub.toml cells.prefix")
@pytest.mark.setting("hub.toml cells.prefix.strategy")
def test_a_strategy_in_the_hubs_file_decides_what_met(tmp_path: Path) -> None:
    table = {
        "cells": {"strategy": "edge_wins", "prefix": [{"prefix": "n:", "strategy": "crdt_merge"}]}
    }
    settings = from_table(table, file="hub.toml", environment={})
    with (
        contextlib.closing(LmdbLog(tmp_path / "log")) as hub_log,
        contextlib.closing(serve.open_cells(settings, tmp_path, hub_log)) as cells,
    ):
        for _ in cells.project(proposed(cells.start_proposal(), 1, 1)):  # it goes through the log
            pass
        said = [one for one in cells.space.strategies() if not one[0].startswith(ROOT)]
        assert said == [(b"n:", Strategy.CRDT_MERGE), (b"", Strategy.EDGE_WINS)]


@pytest.mark.feature("S19", "L2")
@pytest.mark.setting("cells.strategy", "cells.prefix", "cells.prefix.strategy")
def test_a_strategy_in_the_edges_file_decides_there(tmp_path: Path) -> None:
    cells = {"strategy": "cloud_wins", "prefix": [{"prefix": "n:", "strategy": "edge_wins"}]}
    with EdgeNode({"cells": cells}, folder=tmp_path) as node:
        assert node.cells.space.strategies() == [
            (b"n:", Strategy.EDGE_WINS),
            (b"", Strategy.CLOUD_WINS),
        ]


# -- [edge], [hub], [store] ----------------------------------------------------------------------


@pytest.mark.setting("edge.name", "edge.data_dir")
def test_an_edge_has_its_name_and_its_folder(tmp_path: Path) -> None:
    with EdgeNode({"edge": {"name": "barn", "data_dir": "there"}}, folder=tmp_path) as node:
        assert node.status().edge == "barn"
        assert (tmp_path / "there" / STORE).exists()


@pytest.mark.setting("hub.endpoint", "hub.server_key", "hub.keys")
async def test_an_edge_talks_to_the_hub_of_the_file_with_its_key(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    pair = new_key_pair()
    write_keys(tmp_path / "my.keys", pair)
    sites.table.add(pair.public, "barn")
    hub = {"endpoint": sites.address, "server_key": sites.keys.public, "keys": "my.keys"}
    async with sites.hub(), EdgeNode({"hub": hub}, folder=tmp_path) as node:
        await node.sync(PATIENCE_S)


@pytest.mark.feature("K3")
@pytest.mark.setting("hub.proxy")
@pytest.mark.parametrize("scheme", ["http", "socks5"])
async def test_an_edge_talks_to_its_hub_through_the_proxy_of_the_file(
    tmp_path: Path, scheme: str
) -> None:
    sites = Sites(tmp_path)
    hub = sites.settings("barn")["hub"]
    async with open_forward(scheme, "ana", "secret/1") as forward, sites.hub():
        hub["proxy"] = forward.url("ana:secret%2F1")
        async with sites.node("barn", hub=hub) as node:
            await node.ingest([Reading("scale", "kg", 1.0, 0)])
            await node.sync(PATIENCE_S)
            assert node.status().link.via == node.options()["hub.proxy"] == forward.url()
            assert "secret" not in str((node.status(), node.options()))
    assert [f"tcp://{host}:{port}" for host, port in forward.asked] == [sites.address]


def test_a_proxy_that_is_none_is_refused_without_its_credentials() -> None:
    with pytest.raises(ConfigError, match=r"hub\.proxy.*is no proxy.*http://host:port") as refused:
        edge_settings(
            {"hub": {"proxy": "https://ana:secret@proxy:3128"}}, file="edge.toml", environment={}
        )
    assert "secret" not in str(refused.value)


@pytest.mark.setting("hub.url")
async def test_a_hub_that_is_to_be_joined_is_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with EdgeNode({"hub": {"url": "tcp://hub.example:7400"}}, folder=tmp_path):
        assert "working alone" in caplog.text
        assert "tcp://hub.example:7400" in caplog.text


def event(n: int, size: int = 10) -> Event:
    return Event(type=EventType.CUSTOM, body=b"%0*d" % (size, n), time_ns=n)


@pytest.mark.setting("store.limit")
def test_a_store_takes_as_much_as_the_file_says(tmp_path: Path) -> None:
    with EdgeNode({"store": {"limit": "2mb"}}, folder=tmp_path) as node, pytest.raises(StoreFull):
        write(node, Lane.NORMAL, 100, size=60_000)


@pytest.mark.setting("store.retain")
async def test_what_the_hub_has_is_kept_as_long_as_the_file_says(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with sites.hub(), sites.node("barn", store={"retain": "0b"}) as node:
        for n in range(100):
            await node.emit(event(n))
        await node.sync(PATIENCE_S)
        await until(lambda: node.status().lanes[Lane.NORMAL].trimmed >= 100)


# -- [sync.lanes] --------------------------------------------------------------------------------


def in_lane(lane: Lane, folder: Path, **section: Any) -> EdgeNode:
    return EdgeNode({"sync": {"lanes": {lane.name.lower(): section}}}, folder=folder)


def write(node: EdgeNode, lane: Lane, count: int, size: int = 10) -> None:
    for n in range(count):
        if lane is Lane.BULK:
            node.ingest_sync([Reading("m", "P", float(n), n)])
        else:
            node.emit_sync(event(n, size), lane)


@pytest.mark.feature("L1")
@pytest.mark.setting("sync.lanes.critical.capacity", "sync.lanes.normal.capacity")
@pytest.mark.setting("sync.lanes.bulk.capacity", "sync.lanes.critical.capacity_bytes")
@pytest.mark.setting("sync.lanes.normal.capacity_bytes", "sync.lanes.bulk.capacity_bytes")
def test_a_lane_holds_what_the_file_says(tmp_path: Path) -> None:
    limits: list[dict[str, Any]] = [{"capacity": 20}, {"capacity_bytes": "2kb"}]
    for lane, limit in itertools.product(Lane, limits):
        folder = tmp_path / f"{lane.name}-{next(iter(limit))}"
        with in_lane(lane, folder, **limit) as node, pytest.raises(StoreFull):
            write(node, lane, 2000 if "capacity_bytes" in limit else 21)


@pytest.mark.feature("L1")
@pytest.mark.setting("sync.lanes.normal.overflow", "sync.lanes.bulk.overflow")
@pytest.mark.setting("sync.lanes.bulk.keep_every")
def test_a_lane_gives_way_as_the_file_says(tmp_path: Path) -> None:
    with in_lane(Lane.NORMAL, tmp_path / "a", overflow="drop_oldest", capacity=20) as node:
        write(node, Lane.NORMAL, 100)
        assert node.status().lanes[Lane.NORMAL].dropped >= 80
    thinned = {"overflow": "downsample", "capacity": 200, "keep_every": 50}
    with in_lane(Lane.BULK, tmp_path / "b", **thinned) as node:
        write(node, Lane.BULK, 300)
        first = node.status().lanes[Lane.BULK].trimmed + 1
        rows = batch.records(node.store.read(Lane.BULK, first).data)
        held = [row.body for row in rows if row.kind == RecordKind.READINGS]
        times = [batch.parse_readings(body)[0] for body in held]
        assert [time for time in times if time < 100] == [0, 50]


# -- [cells] -------------------------------------------------------------------------------------


def ask(node: EdgeNode, *request: Any) -> Any:
    try:
        return node.command(*request)
    except CommandError as refused:
        return str(refused)


@pytest.mark.feature("L4")
@pytest.mark.setting("cells.prefix", "cells.prefix.direction")
def test_keys_go_the_way_the_file_says(tmp_path: Path) -> None:
    rules = [{"prefix": "prices/", "direction": "down"}, {"prefix": "site/", "direction": "up"}]
    with EdgeNode({"cells": {"prefix": rules}}, folder=tmp_path) as node:
        assert ask(node, "SET", "prices/a", "1").startswith("READONLY")
        assert ask(node, "SET", "site/a", "1") == "OK"
        assert (b"site/", False) in node.settings.cells.scope()


@pytest.mark.feature("L6", "L7")
@pytest.mark.setting("cells.compression", "cells.value_limit", "cells.preset")
def test_values_are_kept_as_the_file_says(tmp_path: Path) -> None:
    with EdgeNode({"cells": {"compression": False}}, folder=tmp_path / "a") as node:
        node.set("a", "x" * 4000)
        assert ask(node, "OBJECT", "ENCODING", "a") == b"raw"
    with EdgeNode({"cells": {"value_limit": "1kb"}}, folder=tmp_path / "b") as node:
        assert "value_limit" in ask(node, "SET", "a", "x" * 2000)
    with EdgeNode({"cells": {"preset": "iot"}}, folder=tmp_path / "c") as node:
        assert "(4096 bytes)" in ask(node, "SET", "a", "x" * 5000)


@pytest.mark.setting("cells.flush")
def test_a_flush_removes_what_the_file_says(tmp_path: Path) -> None:
    rules = [{"prefix": "prices/", "direction": "down"}]
    for flush, reply, left in (("local-scope", "OK", 1), ("everywhere", "OK", 0)):
        with EdgeNode({"cells": {"prefix": rules}}, folder=tmp_path / flush) as node:
            node.set("a", "1")
        with EdgeNode({"cells": {"flush": flush}}, folder=tmp_path / flush) as node:
            node.set("prices/a", "1")
        cells = {"flush": flush, "prefix": rules}
        with EdgeNode({"cells": cells}, folder=tmp_path / flush) as node:
            assert ask(node, "FLUSHALL") == reply
            assert ask(node, "DBSIZE") == left


@contextlib.asynccontextmanager
async def served(settings: dict[str, Any], folder: Path) -> AsyncIterator[EdgeNode]:
    """Run a daemon in this process."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        run = partial(daemon.run, lambda: EdgeNode(settings, folder=folder), stop=stop)
        node = await nursery.start(run)
        try:
            with trio.fail_after(PATIENCE_S):
                yield node
        finally:
            stop.set()


async def told(client: trio.SocketStream, request: str, end: bytes = b"\r\n") -> bytes:
    """Send a line, and return what comes until `end`."""
    await client.send_all(f"{request}\r\n".encode())
    found = b""
    while not found.endswith(end):
        part = await client.receive_some()
        assert part, found
        found += part
    return found


@pytest.mark.feature("L9")
@pytest.mark.setting("cells.host", "cells.port", "cells.password", "cells.durability")
@pytest.mark.setting("cells.clients_max", "cells.notify_keyspace_events")
async def test_redis_clients_find_the_door_of_the_file(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    cells = {
        "host": "127.0.0.2", "port": port, "password": "secret", "durability": "no",
        "clients_max": 2, "notify_keyspace_events": "Kg",
    }  # fmt: skip
    async with (
        served({"cells": cells, "http": {"port": 0}}, tmp_path) as node,
        await trio.open_tcp_stream("127.0.0.2", port) as client,
        await trio.open_tcp_stream("127.0.0.2", port) as listener,
    ):
        assert (await told(client, "SET a 1")).startswith(b"-NOAUTH")
        assert await told(client, "AUTH secret") == b"+OK\r\n"
        assert await told(listener, "AUTH secret") == b"+OK\r\n"
        async with await trio.open_tcp_stream("127.0.0.2", port) as third:
            assert (await third.receive_some()).startswith(b"-ERR max number of clients")
        commits = node.status().store.commits
        for n in range(20):
            assert await told(client, f"SET key{n} 1") == b"+OK\r\n"
        assert node.status().store.commits - commits < 20, "each was waited for"
        await told(listener, "PSUBSCRIBE __key*", b":1\r\n")
        await told(client, "SET key0 2")
        await told(client, "DEL key0")
        assert b"__keyspace@0__:key0" in await told(listener, "", b"del\r\n")


# -- [http], [logging] ---------------------------------------------------------------------------


@pytest.mark.feature("F11")
@pytest.mark.setting("http.host", "http.port")
async def test_metrics_are_where_the_file_says(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    async with (
        served({"http": {"host": "127.0.0.3", "port": port}}, tmp_path),
        await trio.open_tcp_stream("127.0.0.3", port) as client,
    ):
        request = f"GET /healthz HTTP/1.1\r\nHost: 127.0.0.3:{port}\r\n"
        assert (await told(client, request, b"}")).startswith(b"HTTP/1.1 200 ")


@pytest.mark.feature("F11")
@pytest.mark.setting("logging.level", "logging.json")
def test_the_log_is_as_the_file_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(daemon, "run_blocking", lambda path: None)
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", [])
    monkeypatch.setattr(root, "level", root.level)
    path = tmp_path / "edge.toml"
    path.write_text('[logging]\nlevel = "error"\njson = false\n')
    assert CliRunner().invoke(edgesync_command, ["--config", str(path), "run"]).exit_code == 0
    record = logging.LogRecord("edgesync", logging.ERROR, "", 1, "broken", (), None)
    assert root.level == logging.ERROR
    assert not root.handlers[0].format(record).startswith("{")


# -- [series] ------------------------------------------------------------------------------------


@pytest.mark.feature("L10")
@pytest.mark.setting("series.keep", "series.age", "series.max")
def test_series_are_kept_as_the_file_says(tmp_path: Path) -> None:
    now_s = 1_700_000_000
    series = {"keep": 5, "age": "10s", "max": 2}
    with EdgeNode({"series": series}, folder=tmp_path, wall_ns=lambda: now_s * 10**9) as node:
        sensors = SensorIngestion(node)
        times = [(now_s - back) * 10**9 for back in range(8, -1, -1)]
        sensors.ingest_columns_sync(["a"] * 9, times, [1.0] * 9)
        assert len(sensors.readings("a")) == 5
        sensors.ingest_columns_sync(["b"] * 3, [(now_s - back) * 10**9 for back in (60, 30, 5)],
                                    [1.0] * 3)  # fmt: skip
        assert len(sensors.readings("b")) == 1
        with pytest.raises(RecordError):
            sensors.ingest_columns_sync(["c"], [now_s * 10**9], [1.0])


@pytest.mark.feature("C17")
@pytest.mark.setting("modbus")
async def test_the_devices_of_the_file_are_polled(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    meter = {
        "name": "m",
        "host": "127.0.0.1",
        "port": port,
        "points": [{"name": "P", "address": 0}],
    }
    async with EdgeNode({"modbus": [meter]}, folder=tmp_path) as node:
        assert [one.name for one in node.status().sources] == ["m"]


# -- [resources] ---------------------------------------------------------------------------------


@pytest.mark.feature("L8")
@pytest.mark.setting("resources.memory_limit", "resources.storage_limit", "resources.cpu_budget")
@pytest.mark.setting("resources.interval", "resources.memory_levels", "resources.disk_levels")
@pytest.mark.setting("resources.cpu_levels", "resources.battery_levels")
async def test_resources_are_judged_as_the_file_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The fuller of store and disk is judged, and this machine's disk may be nearly full.
    monkeypatch.setattr(disk, "read_filesystem", lambda _folder: None)
    system = grow(
        tmp_path / "system",
        meminfo(16 * GIB, 12 * GIB)
        | battery(65, "Discharging")
        | {"proc/self/status": "RssAnon:\t 61440 kB\nRssShmem:\t 0 kB\nVmSwap:\t 0 kB\n"},
    )
    section: dict[str, Any] = {
        "memory_limit": "100 MiB", "storage_limit": "2 MiB", "cpu_budget": "low",
        "interval": "40ms", "memory_levels": [50, 80, 90], "disk_levels": [30, 90, 96],
        "cpu_levels": [0, 50, 90], "battery_levels": [90, 70, 10],
    }  # fmt: skip
    async with EdgeNode({"resources": section}, folder=tmp_path, system=system) as node:
        assert node.resources is not None
        for n in range(20):
            await node.emit(event(n, 60_000))
        assert node.resources._interval_s == 0.04
        resources = node.resources
        judged = ("cpu", "disk", "memory", "battery")  # each is first sampled at a time of its own
        await until(lambda: all(resources.report()[name].level != "normal" for name in judged))
        found = resources.report()
        assert found["memory"].limit == 100 << 20
        assert found["disk"].limit == 2 << 20
        assert found["cpu"].limit == 0.25 * len(os.sched_getaffinity(0))
        assert found["memory"].level == "warning"
        assert found["disk"].level == "warning"
        assert found["battery"].level == "high"
