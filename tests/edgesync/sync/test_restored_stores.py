"""A store whose two files are of different states, damaged or gone tells nothing twice.

Whatever an edge is opened with, it ends up equal to the hub: what was told before counts once, and
what is written from there on counts as well, although the edge may have used the same numbers.
"""

import json
import logging
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode
from edgesync.store.directory import DATA, WAL
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L4", "L14")

# States of the store: before anything was told; told, and confirmed in the write-ahead log only;
# some more, written and not told; and the last one, in which the hub has all of it.
UNTOLD, TOLD, MORE, LAST = "untold", "told", "more", "last"


def keep(node: EdgeNode, folder: Path) -> None:
    """Copy the files as a power cut would leave them."""
    folder.mkdir()
    for name in (DATA, WAL):
        shutil.copy(Path(node.store.path) / name, folder)


def write(node: EdgeNode, amount: int, name: str) -> None:
    node.incr("n", amount)
    node.hset("h", name, name)
    node.rpush("l", name)


class History:
    """A hub and two edges with a past, and the states that one of the stores went through."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sites = Sites(folder / "sites")

    async def make(self) -> None:
        sites = self.sites
        async with sites.node("a") as a, sites.node("b") as b:
            write(b, 1000, "b")
            async with sites.hub():
                await settle(a, b)
                write(a, 1, "first")
                await settle(a, b)
            for name in ("second", "third"):
                write(a, 2, name)
            keep(a, self.folder / UNTOLD)
            async with sites.hub():
                await settle(a, b)
                keep(a, self.folder / TOLD)
                write(a, 10, "fourth")
                await settle(a, b)
            write(a, 20, "fifth")
            keep(a, self.folder / MORE)
            async with sites.hub():
                await settle(a, b)
                for name in ("sixth", "seventh"):
                    write(a, 50, name)
                    await settle(a, b)
                keep(a, self.folder / LAST)

    def again(self, folder: Path) -> Sites:
        """Return the same sites, as they were at the end."""
        shutil.copytree(self.folder / "sites", folder)
        sites = Sites(folder)
        sites.keys, sites.table = self.sites.keys, self.sites.table
        return sites


TOTAL = 1000 + 1 + 2 + 2 + 10 + 20 + 50 + 50
NAMES = ["b", "first", "second", "third", "fourth", "fifth", "sixth", "seventh"]


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Iterator[History]:
    made = History(tmp_path_factory.mktemp("history"))
    trio.run(made.make)
    yield made
    shutil.rmtree(made.folder)


def gone(wal: Path) -> None:
    wal.unlink()


def head_damaged(wal: Path) -> None:
    for head in (0, wal.stat().st_size // 2):
        spoil(wal, head + 30)


def middle_damaged(wal: Path) -> None:
    raw = wal.read_bytes()
    size = 24 + int.from_bytes(raw[4:8], "little")
    spoil(wal, size + 30)


def cut_short(wal: Path) -> None:
    raw = wal.read_bytes()
    wal.write_bytes(raw[: 40 + int.from_bytes(raw[4:8], "little")])


def emptied(wal: Path) -> None:
    wal.write_bytes(b"")


def spoil(path: Path, at: int) -> None:
    raw = bytearray(path.read_bytes())
    raw[at] ^= 0xFF
    path.write_bytes(raw)


async def check(history: History, folder: Path, put: Callable[[Path], None]) -> None:
    """Put files in place of a's store, write in two lives without the hub, and meet it."""
    sites = history.again(folder)
    put(folder / "a" / "data" / "store")
    for amount, name in ((100_000, "new"), (200_000, "newer")):
        async with sites.node("a") as a:
            write(a, amount, name)
            if name == "newer":
                async with sites.hub() as hub, sites.node("b") as b:
                    await settle(a, b)
                    write(a, 400_000, "newest")
                    await settle(a, b)
                    names = sorted([*NAMES, "new", "newer", "newest"])
                    total = b"%d" % (TOTAL + 700_000)
                    assert a.get("n") == b.get("n") == hub.ask("GET", ["n"]) == total
                    for node in (a, b):
                        assert sorted(name.decode() for name in node.lrange("l")) == names
                        assert sorted(name.decode() for name in node.hgetall("h")) == names
                        assert node.cells.space.pending == 0
                    assert a.cells.space.digest() == b.cells.space.digest()


@pytest.mark.parametrize("state", [UNTOLD, TOLD, MORE])
async def test_a_store_put_back_to_an_earlier_state(
    state: str, history: History, tmp_path: Path
) -> None:
    def put(data: Path) -> None:
        for name in (DATA, WAL):
            shutil.copy(history.folder / state / name, data)

    await check(history, tmp_path / "again", put)


@pytest.mark.parametrize(
    ("state", "damage"),
    [
        (UNTOLD, gone), (UNTOLD, middle_damaged), (TOLD, gone), (TOLD, head_damaged),
        (TOLD, emptied), (MORE, middle_damaged), (MORE, cut_short), (LAST, gone),
    ],
)  # fmt: skip
async def test_a_log_that_was_damaged(
    state: str,
    damage: Callable[[Path], None],
    history: History,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def put(data: Path) -> None:
        for name in (DATA, WAL):
            shutil.copy(history.folder / state / name, data)
        damage(data / WAL)

    await check(history, tmp_path / "again", put)
    told = [record.getMessage() for record in caplog.records if str(WAL) in record.getMessage()]
    assert told


@pytest.mark.parametrize(
    ("state", "wal"),
    [(UNTOLD, TOLD), (UNTOLD, LAST), (TOLD, LAST), (MORE, UNTOLD), (LAST, TOLD)],
)
async def test_a_log_of_another_state_than_the_store(
    state: str, wal: str, history: History, tmp_path: Path
) -> None:
    def put(data: Path) -> None:
        shutil.copy(history.folder / state / DATA, data)
        shutil.copy(history.folder / wal / WAL, data)

    await check(history, tmp_path / "again", put)


async def test_a_log_of_another_store(
    history: History, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def put(data: Path) -> None:
        shutil.copy(history.folder / LAST / DATA, data)
        shutil.copy(history.folder / "other" / WAL, data)

    sites = Sites(tmp_path / "other")
    async with sites.node("other") as other:
        for number in range(100):
            write(other, 1, str(number))
        await until((Path(other.store.path) / WAL).exists)
        await until(lambda: other.cells.logged > 0 or not other.incr("n"))
        keep(other, history.folder / "other")
    caplog.set_level(logging.ERROR)
    await check(history, tmp_path / "again", put)
    assert "are not of one state of this store" in caplog.text


WRITER = """
import json, sys, trio
from pathlib import Path
from edgesync import EdgeNode

async def main():
    async with EdgeNode(json.loads(sys.argv[1]), folder=Path(sys.argv[2])) as node:
        for _ in range(3):
            node.incr("n", 100)
            await node.sync(100)
        print(node.cells.logged, flush=True)
        await trio.sleep_forever()

trio.run(main)
"""


@pytest.mark.parametrize("damage", [gone, head_damaged])
async def test_a_process_that_was_killed_and_its_log_damaged(
    damage: Callable[[Path], None], tmp_path: Path
) -> None:
    sites = Sites(tmp_path)
    async with sites.hub() as hub, sites.node("a") as a:
        settings = json.dumps(sites.settings("a"))
        await settle(a)
    async with sites.hub() as hub:
        command = [sys.executable, "-c", WRITER, settings, str(tmp_path / "a")]
        process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE)
        try:
            assert process.stdout is not None
            assert int(await process.stdout.receive_some()) > 0
        finally:
            process.kill()
            await process.wait()
        damage(tmp_path / "a" / "data" / "store" / WAL)
        async with sites.node("a") as a:
            await settle(a)
            a.incr("n", 2)
            await settle(a)
            assert a.get("n") == hub.ask("GET", ["n"]) == b"302"
