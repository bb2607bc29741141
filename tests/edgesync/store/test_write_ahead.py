"""Keys that only the write-ahead log has are there after a crash, and in LMDB before long."""

import shutil
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from random import Random

import pytest
import trio

from edgesync import EdgeNode
from edgesync._native import batch
from edgesync._native.cells import decode_ops
from edgesync._native.hubkeys import HubKeys
from edgesync._native.wal import Wal, replay
from edgesync._native.write import Write
from edgesync.cells import DATABASE
from edgesync.cells.parts import ops_of
from edgesync.errors import StoreError, StoreFull, StoreUnwritable
from edgesync.model import Lane
from edgesync.store import logged_cells as module
from edgesync.store.cells import Disk
from edgesync.store.directory import DATA, WAL, make_wal
from edgesync.store.edgecells import Cursor, EdgeCells
from edgesync.store.journal import EdgeStore
from edgesync.store.logged_cells import LAP_ROW
from tests.cells.memory import MemoryView

pytestmark = pytest.mark.feature("S2", "L8", "L14")


def open_store(folder: Path) -> EdgeStore:
    return EdgeStore(folder, databases=(DATABASE,), map_bytes_max=64 << 20)


def open_cells(store: Disk) -> EdgeCells:
    return EdgeCells(store, random=Random(1), evicts=True, may_pack=False)


@asynccontextmanager
async def committing(cells: EdgeCells, every_s: float = 0.0) -> AsyncIterator[None]:
    """Let it commit, and end like a process that was killed: without a last commit."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(cells.keep_committing, every_s)
        await trio.testing.wait_all_tasks_blocked()
        while trio.to_thread.current_default_thread_limiter().borrowed_tokens:
            await trio.lowlevel.checkpoint()  # the log is being made
        await trio.testing.wait_all_tasks_blocked()
        yield
        nursery.cancel_scope.cancel()
    cells.close()


def confirm(cells: EdgeCells, hub: HubKeys) -> None:
    """Let the hub hear what it has not been told, and say so."""
    for op in cells.space.take():
        hub.hear(cells.space.r, op)
    cells.space.deliver(hub.page(0, 0)[0], cells.space.sent)
    cells._looked_in_vain = 0  # as when a page is taken in: values may go that could not before
    cells.note_changes()


async def written(cells: EdgeCells, *words: bytes | str) -> None:
    cells.run([word.encode() if isinstance(word, str) else word for word in words])
    await cells.wait_durable()


def in_lmdb(store: EdgeStore) -> dict[bytes, bytes]:
    return dict(store.store.scan(DATABASE, limit=100_000))


def shown(cells: EdgeCells) -> list[tuple[bytes, bytes]]:
    """Return all rows as commands see them, but for the lap, which may be on its way."""
    rows = cells.rows.scan(b"", b"\xff", limit=100_000)
    return [(row, raw) for row, raw in rows if row != LAP_ROW]


def logged(store: EdgeStore) -> dict[bytes, bytes | None]:
    """Return what only the log has."""
    lap = in_lmdb(store).get(LAP_ROW)
    return replay((Path(store.path) / WAL).read_bytes(), lap) if lap else {}


def copied(store: EdgeStore, folder: Path) -> Path:
    """Take the disk out of a gateway, and put it into another one."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for name in (DATA, WAL):
        shutil.copy(Path(store.path) / name, folder)
    return folder


class LateDisk:
    """A disk that has stored what it is given a while before it says so, or refuses it."""

    def __init__(self, store: EdgeStore, random: Random) -> None:
        self.store, self._disk, self._random = store.store, store, random
        self.is_well = False

    def _refuse(self) -> None:
        if not self.is_well and self._random.random() < 0.2:
            self._disk.submit_sync(Write())  # what was given before is done before
            raise StoreFull(used_bytes=9, limit_bytes=9)

    def submit_sync(self, write: Write) -> tuple[int, int, int]:
        self._refuse()
        return self._disk.submit_sync(write)

    async def submit(self, write: Write) -> tuple[int, int, int]:
        self._refuse()
        tails = await self._disk.submit(write)
        for _ in range(self._random.choice((0, 1, 3, 10))):
            await trio.lowlevel.checkpoint()
        return tails


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
async def test_what_was_answered_is_found_after_a_crash_at_any_moment(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    random = Random(seed)
    monkeypatch.setattr(module, "WAL_ROWS", random.choice((20, 60, 500)))
    monkeypatch.setattr(module, "WAL_S", random.choice((0.02, 5.0)))
    monkeypatch.setattr(module, "WAL_BYTES", random.choice((2000, 20_000)))
    folder, seen, evicted = tmp_path / "s", set[bool](), 0
    hub = HubKeys(MemoryView())
    for life in range(4):
        with open_store(folder) as store:
            disk = LateDisk(store, random)
            cells = open_cells(disk)
            if not life:
                cells.space.rejoin(1)
            async with committing(cells):
                for step in range(60):
                    for _ in range(random.randrange(1, 4)):
                        key = b"k%d" % random.randrange(9)
                        cells.run(random.choice((
                            [b"SET", key, random.randbytes(random.randrange(300))],
                            [b"DEL", key], [b"INCR", b"n"], [b"SADD", b"s", key],
                            [b"SREM", b"s", key], [b"EXPIRE", key, b"1000"],
                        )))  # fmt: skip
                    if random.random() < 0.1 or step == 40:
                        disk.is_well = True  # the hub hears of what is stored
                        cells.commit()
                        confirm(cells, hub)
                        cells.commit()
                        disk.is_well = False
                        evicted += cells.make_room(1 << random.randrange(4, 12))
                    if random.random() < 0.05:
                        with suppress(StoreFull):
                            cells.commit()
                    if random.random() < 0.3 and step < 59:
                        for _ in range(random.randrange(4)):
                            await trio.lowlevel.checkpoint()
                        continue  # the next ones are made while these are on their way
                    with suppress(StoreFull):
                        await cells.wait_durable()
                    meant = shown(cells)
                    seen.add(bool(logged(store)))
                    if step % 5 and step < 59:
                        continue
                    with open_store(copied(store, tmp_path / "copy")) as other:
                        again = open_cells(other)
                        assert shown(again) == meant
                        assert again.run([b"INCR", b"n"]) == cells.run([b"INCR", b"n"])
        if life == 1:
            shutil.rmtree(folder)
            shutil.copytree(tmp_path / "copy", folder)
    assert True in seen, "the log was of use"
    assert evicted > 0


@pytest.mark.parametrize("can_wait", [True, False])
async def test_the_log_goes_to_lmdb_when_it_is_old(
    can_wait: bool, tmp_path: Path, mock_clock: trio.testing.MockClock
) -> None:
    with open_store(tmp_path / "s") as store:
        cells = open_cells(store)
        async with committing(cells):
            await written(cells, "SET", "k", "0")
            lap = in_lmdb(store)[LAP_ROW]
            await written(cells, "SET", "k", "1")
            groups = store.commit.stats().groups
            for number in range(2, 100):
                if can_wait:
                    await written(cells, "SET", "k", str(number))
                else:
                    cells.run([b"SET", b"k", b"%d" % number])
                    cells.commit()
            await trio.testing.wait_all_tasks_blocked(0.01)
            assert store.commit.stats().groups == groups
            assert logged(store)
            assert cells.run([b"GET", b"k"]) == b"99"
            mock_clock.jump(module.WAL_S + 0.1)
            while logged(store):
                await trio.lowlevel.checkpoint()
            assert in_lmdb(store)[LAP_ROW] != lap
            # One commit for all, and then the disk is left alone.
            mock_clock.jump(100)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert store.commit.stats().groups == groups + 1
            assert cells.run([b"GET", b"k"]) == b"99"
    with open_store(tmp_path / "s") as store:
        assert open_cells(store).run([b"GET", b"k"]) == b"99"


async def test_what_is_written_without_the_log_is_newer_than_what_it_has(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        cells = open_cells(store)
        async with committing(cells):
            await written(cells, "SET", "k", "first")
            await written(cells, "SET", "k", "logged")
            assert logged(store)
    for value in (b"local", b"every second"):
        with open_store(tmp_path / "s") as store:
            cells = open_cells(store)
            if value == b"local":
                assert cells.run([b"GET", b"k"]) == b"logged"
                cells.run([b"SET", b"k", value])
                cells.commit()
                continue
            async with committing(cells, every_s=0.01):
                await written(cells, "SET", "k", value)
    with open_store(tmp_path / "s") as store:
        assert open_cells(store).run([b"GET", b"k"]) == b"every second"


async def test_a_log_that_is_gone_is_told_of_and_made_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path / "s") as store:
        cells = open_cells(store)
        cells.run([b"SET", b"k", b"stored"])
        cells.commit()
        assert not in_lmdb(store).get(LAP_ROW), "nobody has used a log"
        async with committing(cells):
            await written(cells, "SET", "k", "stored")
            await written(cells, "SET", "k", "logged")
    (tmp_path / "s" / WAL).unlink()
    with open_store(tmp_path / "s") as store:
        assert "what was written in the 5 s before the last end may be, too" not in caplog.text
        cells = open_cells(store)
        assert "what was written in the 5 s before the last end may be, too" in caplog.text
        async with committing(cells):
            assert cells.run([b"GET", b"k"]) == b"stored"
            await written(cells, "SET", "k", "again")
            await written(cells, "SET", "k", "logged")
            assert logged(store)
    (tmp_path / "s" / WAL).unlink()
    (tmp_path / "s" / WAL).mkdir()
    with (
        open_store(tmp_path / "s") as store,
        pytest.raises(StoreUnwritable, match=r"wal.*Is a directory"),
    ):
        open_cells(store)


class BadDisk:
    """A disk that refuses what goes to LMDB as long as `problem` is set."""

    def __init__(self, store: EdgeStore) -> None:
        self.store = store.store
        self.problem: StoreError | None = None
        self.asked = 0

    def submit_sync(self, write: Write) -> tuple[int, int, int]:
        self.asked += 1
        if self.problem is not None:
            raise self.problem
        return self.store.apply(write)

    async def submit(self, write: Write) -> tuple[int, int, int]:
        await trio.lowlevel.checkpoint()
        return self.submit_sync(write)


@pytest.mark.parametrize(
    "problem",
    [StoreFull(used_bytes=9, limit_bytes=9), StoreUnwritable(path="s", problem="no")],
    ids=["full", "unwritable"],
)
async def test_what_is_logged_outlives_a_store_that_refuses_it(
    problem: StoreError, tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    with open_store(tmp_path / "s") as store:
        disk = BadDisk(store)
        cells = EdgeCells(disk, random=Random(1))
        async with committing(cells):
            await written(cells, "SET", "k", "first")
            await written(cells, "SET", "k", "logged")
            disk.problem = problem
            await trio.sleep(20 * module.WAL_S)
            assert 10 < disk.asked < 30, "it is tried again, and not all the time"
            assert cells.run([b"GET", b"k"]) == b"logged"
            # The log may be of another lap than LMDB by now, so that writes are refused too.
            cells.run([b"SET", b"k", b"refused"])
            with pytest.raises(type(problem)):
                await cells.wait_durable()
            assert cells.run([b"GET", b"k"]) == b"logged"
            with open_store(copied(store, tmp_path / "copy")) as other:
                assert open_cells(other).run([b"GET", b"k"]) == b"logged"
            disk.problem = None
            await trio.sleep(2 * module.WAL_S)
            assert not logged(store)
            await written(cells, "SET", "k", "again")
            assert logged(store)
        assert open_cells(store).run([b"GET", b"k"]) == b"again"


class BadWal:
    """A log whose disk refuses the second entry, and all after it until the next lap."""

    def __init__(self, path: str) -> None:
        self._wal, self.count = Wal(path), 0
        self.begin, self.fileno, self.close = self._wal.begin, self._wal.fileno, self._wal.close
        self.spoil = self._wal.spoil

    @property
    def is_usable(self) -> bool:
        return self._wal.is_usable

    def append(self, rows: dict[bytes, bytes | None]) -> bool:
        self.count += 1
        return self._wal.append(rows)

    def landed(self) -> bool:
        if self.count == 2:
            self._wal.spoil()
        return self._wal.landed() and self.count != 2


async def test_a_log_that_cannot_be_written_delays_an_answer_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "Wal", BadWal)
    with open_store(tmp_path / "s") as store:
        cells = open_cells(store)
        async with committing(cells):
            for number in range(8):
                await written(cells, "SET", "k", str(number))
                await written(cells, "INCR", "n")
                with open_store(copied(store, tmp_path / "copy")) as other:
                    assert shown(open_cells(other)) == shown(cells)
            assert cells.run([b"MGET", b"k", b"n"]) == [b"7", b"8"]
    assert caplog.text.count("the write-ahead log could not be written") == 1


@pytest.mark.parametrize("is_refused", [False, True])
async def test_a_commit_waits_for_an_entry_of_the_log(is_refused: bool, tmp_path: Path) -> None:
    """It does not let others run, who would answer those who wait for the entry: it does itself."""
    with open_store(tmp_path / "s") as store:
        disk = BadDisk(store)
        cells = EdgeCells(disk, random=Random(1))
        async with committing(cells):
            await written(cells, "SET", "k", "first")
            met, asked = 0, disk.asked
            for number in range(20):
                cells.run([b"SET", b"k", b"%d" % number])
                while not cells.rows.is_committing and cells.rows.is_changed:
                    await trio.lowlevel.checkpoint()
                assert not cells.rows.is_committing or cells.busy_s() > 0
                met += cells.rows.is_committing
                cells.run([b"INCR", b"n"])
                cells.commit()
                assert cells.gate() == 0
                assert len(logged(store)) > 0
                if number % 3:
                    await trio.sleep(0.002)
                    await written(cells, "INCR", "n")
                    cells.run([b"DECR", b"n"])
                    cells.commit()
            assert disk.asked == asked, "nothing else had to go to LMDB"
            assert met > 0
            assert cells.run([b"MGET", b"k", b"n"]) == [b"19", b"20"]
            if is_refused:
                disk.problem = StoreFull(used_bytes=9, limit_bytes=9)
                cells.run([b"SET", b"k", b"20"])
                while not cells.rows.is_committing and cells.rows.is_changed:
                    await trio.lowlevel.checkpoint()
                cells.run([b"INCR", b"n"])
                cells.tell(0)  # so that it goes to LMDB
                with pytest.raises(StoreFull):
                    cells.commit()
                assert cells.run([b"MGET", b"k", b"n"]) == [b"20", b"20"]
            with open_store(copied(store, tmp_path / "copy")) as other:
                assert shown(open_cells(other)) == shown(cells)


class HeldDisk(BadDisk):
    """A disk that does not say what it has stored as long as `told` is not set."""

    def __init__(self, store: EdgeStore) -> None:
        super().__init__(store)
        self.told = trio.Event()
        self.told.set()

    async def submit(self, write: Write) -> tuple[int, int, int]:
        tails = self.submit_sync(write)
        await self.told.wait()
        return tails


@asynccontextmanager
async def held(store: EdgeStore) -> AsyncIterator[tuple[EdgeCells, HeldDisk]]:
    """Have a counter `n` at 3, in the log, and a commit of that under way, stored and not told."""
    disk = HeldDisk(store)
    cells = EdgeCells(disk, random=Random(1))
    async with committing(cells):
        for _ in range(3):
            await written(cells, "INCR", "n")
        assert logged(store)
        disk.told = trio.Event()
        await trio.sleep(2 * module.WAL_S)
        while logged(store):
            await trio.lowlevel.checkpoint()
        try:
            yield cells, disk
        finally:
            disk.told.set()
        await trio.testing.wait_all_tasks_blocked()


async def test_a_commit_overtakes_what_goes_from_the_log_to_lmdb(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """Rows that only the log had are in LMDB by then, and have to be deleted there."""
    with open_store(tmp_path / "s") as store:
        async with held(store) as (cells, _):
            cells.run([b"INCR", b"n"])
            cells.commit()
            meant = shown(cells)
    with open_store(tmp_path / "s") as store:
        again = open_cells(store)
        assert shown(again) == meant
        assert len(again.space.take()) == 1


async def test_what_overtakes_a_commit_is_refused(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """What was stored stays, and the log, which that commit had in it, counts no more."""
    with open_store(tmp_path / "s") as store:
        async with held(store) as (cells, disk):
            disk.told.set()
            await written(cells, "INCR", "n")
            assert logged(store)
            disk.told = trio.Event()
            told: list[tuple[int, int, int]] = []
            cells.on_told = told.append
            cells.run([b"INCR", b"n"])
            cells.tell(0)  # so that it goes to LMDB
            await trio.testing.wait_all_tasks_blocked()
            assert not logged(store)
            cells.run([b"INCR", b"n"])
            disk.problem = StoreFull(used_bytes=9, limit_bytes=9)
            with pytest.raises(StoreFull):
                cells.commit()
            disk.problem = None
            assert cells.run([b"GET", b"n"]) == b"5"
            assert cells.space.take() == []
            disk.told.set()
            await trio.testing.wait_all_tasks_blocked()
            assert [tails[Lane.NORMAL] for tails in told] == [store.state(Lane.NORMAL).tail]
            assert cells.run([b"INCR", b"n"]) == 6
            cells.commit()
            meant = shown(cells)
    with open_store(tmp_path / "s") as store:
        again = open_cells(store)
        assert shown(again) == meant
        assert again.run([b"GET", b"n"]) == b"6"
        assert len(again.space.take()) == 1


async def test_a_commit_that_told_operations_is_overtaken_twice(
    tmp_path: Path, autojump_clock: trio.abc.Clock
) -> None:
    """The hub may have done those of the first only: then these wait for it no longer."""
    hub = HubKeys(MemoryView())
    with open_store(tmp_path / "s") as store:
        disk = HeldDisk(store)
        cells = EdgeCells(disk, random=Random(1))
        cells.space.rejoin(1)
        async with committing(cells):
            disk.told = trio.Event()
            cells.run([b"INCR", b"n"])
            cells.tell(0)
            await trio.testing.wait_all_tasks_blocked()
            tail = store.state(Lane.NORMAL).tail
            for _ in range(2):
                cells.run([b"INCR", b"other"])
                cells.commit()
                cells.tell(0)
            disk.told.set()
            await trio.testing.wait_all_tasks_blocked()
        first = batch.records(store.read(Lane.NORMAL, tail).data)[0]
        for op in decode_ops(ops_of(first.body[1:])[1])[1]:
            hub.hear(1, op)
        entries, position, is_all = hub.page(0, 0)
        cursor = Cursor(keyspace=bytes(16), position=position, scope=cells.scope)
        cells.take_in(cursor, entries, applied=tail, stable=0, is_all=is_all)
        assert not cells.has_pending(1)
        assert cells.has_pending(2)
        assert cells.run([b"MGET", b"n", b"other"]) == [b"1", b"2"]


async def test_a_log_is_made_while_a_commit_is_under_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, made = threading.Event(), threading.Event()

    class SlowDisk(BadDisk):
        def submit_sync(self, write: Write) -> tuple[int, int, int]:
            begun.set()
            assert made.wait(100)
            return super().submit_sync(write)

    def make_late(path: Path, nbytes: int, *, is_needed: bool) -> None:
        begun.wait()
        make_wal(path, nbytes, is_needed=is_needed)
        made.set()

    monkeypatch.setattr(module, "make_wal", make_late)
    with open_store(tmp_path / "s") as store:
        cells = EdgeCells(SlowDisk(store), random=Random(1))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(cells.keep_committing)
            await trio.sleep(0.01)
            cells.run([b"SET", b"k", b"1"])
            cells.commit()
            assert (tmp_path / "s" / WAL).exists()
            assert not in_lmdb(store).get(LAP_ROW)
            while cells._wal is None:  # noqa: ASYNC110 - nobody else waits for it
                await trio.sleep(0.01)
            await written(cells, "SET", "k", "2")
            await written(cells, "SET", "k", "3")
            assert logged(store)
            nursery.cancel_scope.cancel()
        cells.close()


async def test_operations_are_told_in_the_commit_that_counts_them(tmp_path: Path) -> None:
    with open_store(tmp_path / "s") as store:
        cells = open_cells(store)
        async with committing(cells):
            await written(cells, "SET", "k", "1")
            await written(cells, "SET", "k", "2")
            tail = store.state(Lane.NORMAL).tail
            assert logged(store)
            assert cells.tell(0)
            await cells.wait_durable()
            assert not logged(store)
            assert store.state(Lane.NORMAL).tail == tail + 1
            assert cells.space.sent == cells.space.n


class GatedDisk:
    """A disk that takes what comes from the log only when it is let."""

    def __init__(self, store: EdgeStore) -> None:
        self.store, self._disk = store.store, store
        self.submit_sync = store.submit_sync
        self.gate = trio.Event()
        self.problem: StoreError | None = None
        self.held = 0

    async def submit(self, write: Write) -> tuple[int, int, int]:
        self.held += 1
        await self.gate.wait()
        if self.problem is not None:
            raise self.problem
        return await self._disk.submit(write)


@pytest.mark.parametrize("problem", [None, StoreFull(used_bytes=9, limit_bytes=9)])
async def test_the_next_lap_is_written_while_one_goes_to_lmdb(
    problem: StoreError | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAL_ROWS", 15)
    with open_store(tmp_path / "s") as store:
        disk = GatedDisk(store)
        disk.gate.set()
        cells = open_cells(disk)
        async with committing(cells):
            await written(cells, "SET", "k", "0")  # begins a lap
            lap = in_lmdb(store)[LAP_ROW]
            disk.gate, disk.held = trio.Event(), 0
            for number in range(12):
                await written(cells, "SET", f"k{number}", str(number))
            await written(cells, "DEL", "k3")
            assert disk.held == 1, "the first lap is on its way"
            assert in_lmdb(store)[LAP_ROW] == lap
            assert cells.run([b"GET", b"k11"]) == b"11"
            meant = shown(cells)
            with open_store(copied(store, tmp_path / "copy")) as other:
                again = open_cells(other)
                assert shown(again) == meant
                again.commit()
                assert again.run([b"DBSIZE"]) == 12
            disk.problem = problem
            disk.gate.set()
            while in_lmdb(store)[LAP_ROW] == lap:
                with suppress(StoreFull):
                    await written(cells, "SET", "k", "1")
                disk.problem = None
            meant = shown(cells)
            with open_store(copied(store, tmp_path / "copy")) as other:
                assert shown(open_cells(other)) == meant


@pytest.mark.slow
async def test_both_laps_full_make_writers_wait_and_a_commit_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "WAL_ROWS", 10)
    with open_store(tmp_path / "s") as store:
        disk = GatedDisk(store)
        disk.gate.set()
        cells = open_cells(disk)
        async with committing(cells):
            await written(cells, "SET", "k", "0")
            disk.gate = trio.Event()
            with trio.move_on_after(1) as full:
                for number in range(40):
                    await written(cells, "SET", f"k{number}", str(number))
            assert full.cancelled_caught
            done = cells.space.keys
            cells.commit()  # takes all of it
            assert not logged(store)
            disk.gate.set()
            await written(cells, "SET", "last", "1")
            assert logged(store)
            await cells.wait_durable()
        again = open_cells(store)
        assert again.space.keys == done + 1
        assert again.run([b"GET", b"k1"]) == b"1"


async def test_a_store_with_little_room_has_no_log_in_use(tmp_path: Path) -> None:
    with EdgeStore(tmp_path / "s", databases=(DATABASE,), map_bytes_max=3 << 20) as store:
        cells = open_cells(store)
        async with committing(cells):
            await written(cells, "SET", "k", "1")
            await written(cells, "SET", "k", "2")
            assert not logged(store)


async def test_a_store_that_was_closed_has_all_that_was_logged(tmp_path: Path) -> None:
    async with EdgeNode({"http": {"port": 0}}, folder=tmp_path) as node:
        path = Path(node.store.path)
        for number in range(3):
            await node.execute("SET", "k", number)
        assert node.cells.logged > 0
        node.set("k", "last")
    (path / WAL).unlink()
    async with EdgeNode({"http": {"port": 0}}, folder=tmp_path) as node:
        assert node.get("k") == b"last"


async def test_a_full_store_is_closed_and_keeps_its_log(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with open_store(tmp_path / "s") as store:
        disk = BadDisk(store)
        cells = EdgeCells(disk, random=Random(1))
        async with committing(cells):
            await written(cells, "SET", "k", "first")
            await written(cells, "SET", "k", "logged")
            disk.problem = StoreFull(used_bytes=9, limit_bytes=9)
        cells.settle()
        assert "stay in the write-ahead log for now: " in caplog.text
        cells.run([b"SET", b"k", b"refused"])
        with pytest.raises(StoreFull):
            cells.settle()
    with open_store(tmp_path / "s") as store:
        assert open_cells(store).run([b"GET", b"k"]) == b"logged"


@pytest.mark.slow
async def test_a_lap_has_more_rows_where_they_share_pages_and_there_is_room_for_both(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What LMDB takes for two laps is never more than there had to be room for."""
    with EdgeStore(tmp_path / "s", databases=(DATABASE,), map_bytes_max=24 << 20) as store:
        page_bytes = store.store.page_bytes
        pages = store.store.map_bytes_max // page_bytes
        value_bytes = page_bytes // 100  # as many share a page on each machine
        random, seen = Random(1), list[int]()
        wal_bytes = 1 << 17
        for turn in range(60):
            plan = module.plan_laps(store.store, wal_bytes)
            if not store.store.room_bytes >= plan.room_bytes:
                break
            seen.append(plan.rows)
            before = store.store.room_bytes
            for _ in range(2):
                rows: dict[bytes, bytes | None] = {}
                size = 0
                while len(rows) <= plan.rows and size < wal_bytes // 2:
                    key, value = (
                        b"k%07d" % random.randrange(turn * 2000 + 2000),
                        random.randbytes(value_bytes),
                    )
                    rows[key] = value
                    size += len(key) + len(value) + 2
                write = Write()
                write.put_all(DATABASE, rows, essential=True)
                store.store.apply(write)
            assert before - store.store.room_bytes <= plan.room_bytes
        assert turn > 10
        assert seen[0] == pages // module.STORE_PAGES_A_ROW
        assert seen[-1] < seen[0] / 2
        assert seen[-1] >= pages // module.LAP_SHARE_MIN * 8 // 9


def test_a_log_of_another_size_is_made_anew_once_it_is_of_no_use(tmp_path: Path) -> None:
    make_wal(tmp_path, 1000)
    (tmp_path / WAL).write_bytes(b"x" * 1000)
    make_wal(tmp_path, 2000)
    make_wal(tmp_path, 1000, is_needed=False)
    assert (tmp_path / WAL).read_bytes() == b"x" * 1000
    make_wal(tmp_path, 2000, is_needed=False)
    assert (tmp_path / WAL).read_bytes() == bytes(2000)


async def test_a_larger_log_follows_a_smaller_one_that_was_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    for life, size in enumerate((4000, 9000, 9000)):
        monkeypatch.setattr(module, "WAL_BYTES", size)
        with open_store(tmp_path / "s") as store:
            cells = open_cells(store)
            assert cells.run([b"GET", b"k"]) == (b"%d" % (life - 1) if life else None)
            async with committing(cells):
                await written(cells, "SET", "k", "first")
                await written(cells, "SET", "k", str(life))
                assert logged(store)
            sizes.append((tmp_path / "s" / WAL).stat().st_size)
            if life == 1:
                open_cells(store).settle()  # nothing is in the log alone
    assert sizes == [4000, 4000, 9000]
