"""A node is made of the parts in its table: how they are opened, run and closed."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.parts import table
from edgesync.parts.part import Life
from edgesync.parts.table import PartRow, SourceRow
from tests.edgesync import spare_parts
from tests.edgesync.spare_parts import Noted
from tests.sites import until

Register = Callable[..., None]


@pytest.fixture
def register(monkeypatch: pytest.MonkeyPatch) -> Register:
    """Add a part of spare_parts.py to the table, as a line in it would."""
    monkeypatch.setattr(Noted, "log", [])

    def add(name: str, life: Life = Life.RUNNING, module: str = spare_parts.__name__) -> None:
        row = PartRow(name.lower(), f"{module}:{name}", life)
        monkeypatch.setattr(table, "PARTS", (*table.PARTS, row))

    return add


def node(folder: Path, **more: Any) -> EdgeNode:
    settings = {"edge": {"name": "barn"}, "http": {"port": 0}, **more}
    return EdgeNode(settings, folder=folder)


def check_is_whole(folder: Path) -> None:
    """Everything was closed, and a node opens again."""
    with node(folder) as again:
        again.ingest_sync([Reading("scale0", "Weight", 1.5, 1)])


async def test_a_door_is_one_row(tmp_path: Path, register: Register) -> None:
    register("CountDoor", Life.SERVING)
    async with node(tmp_path) as edge, edge.serving():
        await edge.ingest([Reading("scale0", "Weight", 1.5, 1)])
        async with await trio.open_unix_socket(tmp_path / "data" / "count") as client:
            assert await client.receive_some() == b"1\n"


async def test_a_door_that_cannot_listen_stops_no_other(
    tmp_path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register("CountDoor", Life.SERVING)
    register("Noted", Life.SERVING)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "count").touch()
    async with node(tmp_path) as edge, edge.serving():
        assert f"no counts: {tmp_path / 'data' / 'count'}: " in caplog.text
        await edge.ingest([Reading("scale0", "Weight", 1.5, 1)])
        assert Noted.log == ["open noted"]
        [door] = [one for one in edge.status().indicators if one.name == "door"]
        assert door.text.startswith("no counts: ")


async def test_a_door_opens_once_it_can(
    tmp_path: Path, register: Register, caplog: pytest.LogCaptureFixture
) -> None:
    register("CountDoor", Life.SERVING)
    path = tmp_path / "data" / "count"
    path.parent.mkdir()
    path.touch()
    async with node(tmp_path) as edge, edge.serving():
        assert edge.status().closed_doors
        path.unlink()
        await until(lambda: not edge.status().closed_doors)
        async with await trio.open_unix_socket(path) as client:
            assert await client.receive_some() == b"0\n"
        assert caplog.text.count("no counts: ") == 1


async def test_a_source_is_one_row(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    row = SourceRow("edge", f"{spare_parts.__name__}:thermometers")
    monkeypatch.setattr(table, "SOURCES", (*table.SOURCES, row))
    config = tmp_path / "edge.toml"
    config.write_text('[edge]\nname = "barn"\n')
    async with EdgeNode(config) as edge:
        await until(lambda: len(edge.latest()) == 1)
        config.write_text('[edge]\nname = "stable"\n')
        assert await edge.reload_devices() == (1, 1)
        assert edge.settings.edge.name == "stable"
        await until(lambda: len(edge.latest()) == 2)
        assert [one.name for one in edge.status().sources] == ["thermometer of stable"]


async def test_parts_end_and_close_in_the_reverse_order(tmp_path: Path, register: Register) -> None:
    register("Noted")
    register("Other")
    async with node(tmp_path):
        assert Noted.log == ["open noted", "open other"]
    ends = {"end noted", "end other"}  # all tasks have ended before the first part is closed
    assert {*Noted.log[2:4]} == ends
    assert Noted.log[4:] == ["close other", "close noted"]


async def test_parts_are_closed_in_the_reverse_order_when_one_cannot_be_opened(
    tmp_path: Path, register: Register
) -> None:
    for name in ("Noted", "Other", "Unopenable"):
        register(name)
    with pytest.raises(OSError, match="no such bus"):
        async with node(tmp_path):
            raise AssertionError("opened")
    assert Noted.log == ["open noted", "open other", "close other", "close noted"]
    check_is_whole(tmp_path)


def test_a_plain_program_closes_what_it_opened(tmp_path: Path, register: Register) -> None:
    for name in ("Noted", "Unopenable"):
        register(name, Life.LOCAL)
    with pytest.raises(OSError, match="no such bus"):
        node(tmp_path).__enter__()
    assert Noted.log == ["open noted", "close noted"]


@pytest.mark.feature("K2")
async def test_a_part_that_crashes_ends_the_node_and_leaves_it_whole(
    tmp_path: Path, register: Register
) -> None:
    """What is not understood is not retried: the service manager starts a clean process."""
    register("Noted")
    register("Crashing")
    with pytest.RaisesGroup(ZeroDivisionError):
        async with node(tmp_path) as edge:
            await edge.ingest([Reading("scale0", "Weight", 1.5, 1)])
            await trio.sleep_forever()
    assert Noted.log[-2:] == ["close crashing", "close noted"]
    check_is_whole(tmp_path)


def test_an_unknown_part_is_named(tmp_path: Path) -> None:
    with node(tmp_path) as edge:
        with pytest.raises(LookupError, match=r"no part 'toaster'.*table\.py lists recorder, link"):
            edge.part("toaster")
        with pytest.raises(RuntimeError, match=r"'sources' needs tasks.*async with"):
            edge.part("sources")
        with pytest.raises(RuntimeError, match=r"'http' is a door.*serving"):
            edge.part("http")
    with pytest.raises(RuntimeError, match=r"the node is not open; use `async with`"):
        edge.part("recorder")


def test_a_node_is_opened_once(tmp_path: Path) -> None:
    with node(tmp_path) as edge:
        with pytest.raises(RuntimeError, match="the node is open already"):
            edge.__enter__()
        edge.ingest_sync([Reading("scale0", "Weight", 1.5, 1)])  # which is open as before


@pytest.mark.parametrize(
    ("name", "module", "problem"),
    [
        ("Toaster", spare_parts.__name__, "spare_parts has no 'Toaster'"),
        ("Toaster", "edgesync.parts.toaster", r"there is no module edgesync\.parts\.toaster"),
    ],
)
async def test_a_row_that_names_nothing_is_told(
    tmp_path: Path, register: Register, name: str, module: str, problem: str
) -> None:
    register("Noted")
    register(name, module=module)
    with pytest.raises(LookupError, match=problem):
        async with node(tmp_path):
            raise AssertionError("opened")
    assert Noted.log == ["open noted", "close noted"]
    check_is_whole(tmp_path)


def test_every_row_names_a_part(tmp_path: Path) -> None:
    """A factory is imported when it is used: a typing error in a row would be found late."""
    factories = [row.factory for row in table.PARTS] + [row.factory for row in table.SOURCES]
    for factory in factories:
        assert callable(table.load(factory)), factory
    assert len({row.name for row in table.PARTS}) == len(table.PARTS)


async def test_what_is_not_wanted_is_not_imported(tmp_path: Path) -> None:
    """An edge pays for what it uses: no ZeroMQ, keys, points, Modbus or doors without a setting."""
    program = (
        "import sys, trio\n"
        "from edgesync import EdgeNode, Reading\n"
        "async def main():\n"
        "    async with EdgeNode({'edge': {'data_dir': sys.argv[1]}}) as node:\n"
        "        await node.ingest([Reading('scale0', 'Weight', 1.5, 1)])\n"
        "        node.status()\n"
        "trio.run(main)\n"
        "ours = ('edgesync', 'zmq', 'h11')\n"
        "print(*sorted(name for name in sys.modules if name.startswith(ours)))\n"
    )
    done = await trio.run_process(
        [sys.executable, "-c", program, str(tmp_path)], capture_stdout=True
    )
    loaded = done.stdout.decode().split()
    assert "edgesync.recorder" in loaded
    unused = (
        "zmq", "edgesync.store.edgecells", "edgesync.store.points", "edgesync.sync.driver",
        "edgesync.resources.edge", "edgesync.sources.modbus.source", "edgesync.serve.answers",
        "edgesync.serve.http", "edgesync.serve.resp", "edgesync.serve.mqtt.door",
        "edgesync.serve.mqtt.server", "edgesync.serve.mqtt.connection",
        "edgesync.serve.device_http.door", "edgesync.serve.device_http.server", "h11",
    )  # fmt: skip
    assert [name for name in loaded if name.startswith(unused)] == []
