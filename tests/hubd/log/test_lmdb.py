"""What the log on disk promises when a commit fails, a bit rots, or a backup is made meanwhile."""

import struct
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator, Iterable
from contextlib import closing
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing

from edgesync._native.store import Store
from edgesync._native.write import Write
from edgesync.errors import StoreFull
from edgesync.model import RecordKind
from edgesync.store.commit import Tails
from edgesync_transport.messages import Codec, Lane, LaneFloor
from hubd.log import lmdb
from hubd.log.base import Append, Appended, Backup, LogFull
from hubd.log.book import Changes, IdKey
from hubd.log.lmdb import (
    ENTRIES,
    FACTS,
    GENERATION,
    IDS,
    LANES,
    SESSIONS,
    LmdbLog,
    ids_key,
    lane_key,
    seal,
)
from hubd.log.retention import Policy, Retention
from hubd.state import open_state
from tests.hubd.log.dropper import LIMIT
from tests.hubd.log.test_contract import INCARNATION, NOWHERE, Lanes, begin, drafts, only
from tests.hubd.project.test_follow import following
from tests.native.rowsmith import Draft

ROOT = Path(__file__).parents[3]
DATABASES = (ENTRIES, LANES, SESSIONS, IDS, FACTS)


@pytest.fixture
async def log(tmp_path: Path) -> AsyncIterator[LmdbLog]:
    opened = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    yield opened
    await opened.aclose()


def noise(seq: int) -> Draft:
    """A record of 60 KB that nothing makes smaller."""
    return Draft(RecordKind.EVENT, Random(seq).randbytes(60_000), 7, seq)


async def test_a_batch_whose_commit_failed_is_not_stored_when_it_comes_again(
    tmp_path: Path,
) -> None:
    """Answered from memory it would be acknowledged, trimmed at the edge, and lost."""
    log = LmdbLog(tmp_path / "log", map_bytes_max=2 << 20)
    lane, epoch = Lanes([noise(n) for n in range(1, 101)]), await begin(log)
    floor = 0
    with pytest.raises(LogFull, match=r"`limit` under \[log\]") as caught:  # noqa: PT012
        while floor < 100:
            seq = floor + 1
            answer = await only(log, lane.cut(seq, seq, epoch=epoch))
            assert isinstance(answer, Appended)
            floor = answer.floor
    assert "store.limit" not in str(caught.value)
    assert 0 < floor < 100
    for _ in range(2):
        with pytest.raises(LogFull):
            await only(log, lane.cut(floor + 1, floor + 1, epoch=epoch))
    assert (await log.read(floor - 1))[-1].last == floor
    await log.aclose()
    # With room again, it goes on exactly where the disk stands.
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    assert session.floors[Lane.BULK].floor == floor
    answer = await only(log, lane.cut(floor + 1, 100, epoch=session.epoch))
    assert isinstance(answer, Appended)
    assert answer.floor == 100
    await log.aclose()


async def test_an_entry_that_cannot_be_written_leaves_memory_as_the_disk_is(log: LmdbLog) -> None:
    lane, epoch = Lanes(drafts(1, 2)), await begin(log)
    good = lane.cut(1, 1, epoch=epoch)
    unwritable = Append(
        edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=1, last=1,
        prev_chain=0, last_chain=1, codec=Codec.DEAD, payload=b"", reason="\ud800",
    )  # fmt: skip
    with pytest.raises(UnicodeEncodeError):
        await only(log, unwritable)
    assert await only(log, good) == Appended(position=1, floor=1, safe=1)


def flip(path: Path, db: str, key: bytes, at: int) -> None:
    """Change one bit of a stored value, as a disk may."""
    with Store(str(path), databases=DATABASES, map_bytes_max=64 << 20) as store:
        value = store.get(db, key)
        assert value is not None
        at %= len(value)
        write = Write()
        write.put(db, key, value[:at] + bytes([value[at] ^ 1]) + value[at + 1 :])
        store.apply(write)


@pytest.mark.parametrize("at", [0, 3, 4, 6, 20, -1])
async def test_a_damaged_entry_is_reported_and_its_neighbours_are_read(
    tmp_path: Path, at: int
) -> None:
    log = LmdbLog(tmp_path / "log")
    lane, epoch = Lanes(drafts(1, 6)), await begin(log)
    for seq in (1, 3, 5):
        await only(log, lane.cut(seq, seq + 1, epoch=epoch))
    await log.aclose()
    flip(tmp_path / "log", ENTRIES, (2).to_bytes(8, "big"), at)
    log = LmdbLog(tmp_path / "log")
    assert [entry.first for entry in await log.read(0)] == [1, 5]
    assert log.stats().damaged == 1
    await log.aclose()


async def test_a_value_under_another_key_is_damage(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    lane, epoch = Lanes(drafts(1, 4)), await begin(log)
    for seq in (1, 3):
        await only(log, lane.cut(seq, seq + 1, epoch=epoch))
    await log.aclose()
    with Store(str(tmp_path / "log"), databases=DATABASES) as store:
        value = store.get(ENTRIES, (1).to_bytes(8, "big"))
        assert value is not None
        write = Write()
        write.put(ENTRIES, (2).to_bytes(8, "big"), value)
        store.apply(write)
    log = LmdbLog(tmp_path / "log")
    assert [entry.position for entry in await log.read(0)] == [1]
    assert log.stats().damaged == 1
    await log.aclose()


@pytest.mark.parametrize(
    ("db", "key"), [(LANES, lane_key(("barn", INCARNATION, Lane.BULK))), (FACTS, GENERATION)]
)
async def test_a_damaged_fact_is_never_taken_for_another(
    tmp_path: Path, db: str, key: bytes
) -> None:
    """A floor that rotted may be lower (the edge tells again), never another number."""
    log = LmdbLog(tmp_path / "log")
    generation, epoch = log.generation, await begin(log)
    await only(log, Lanes(drafts(1, 4)).cut(1, 4, epoch=epoch))
    await log.aclose()
    flip(tmp_path / "log", db, key, 5)
    log = LmdbLog(tmp_path / "log")
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    if db == LANES:
        assert session.floors[Lane.BULK].floor == 0
        assert log.stats().damaged == 1
    else:
        assert log.generation != generation
        assert session.floors[Lane.BULK].floor == 4
    await log.aclose()


class SlowCopy:
    """The log's store, whose copies take until they are let go on."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.begun = trio.Event()
        self.may_end = threading.Event()

    def __getattr__(self, name: str) -> object:
        return getattr(self._store, name)

    def copy(self, path: str) -> None:
        trio.from_thread.run_sync(self.begun.set)
        self.may_end.wait()
        self._store.copy(path)


async def test_appends_go_on_while_a_backup_is_copied(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", has_backups=True)
    slow = SlowCopy(log._store)
    log._store = slow  # type: ignore[assignment]
    lane, epoch = Lanes(drafts(1, 8)), await begin(log)
    await only(log, lane.cut(1, 4, epoch=epoch))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.backup, tmp_path / "copy")
        await slow.begun.wait()
        answer = await only(log, lane.cut(5, 8, epoch=epoch))
        assert answer == Appended(position=2, floor=8, safe=0)
        slow.may_end.set()
    # Safe is what was there before the copy began, whatever else the copy may hold.
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    assert session.floors[Lane.BULK] == LaneFloor(floor=8, chain=lane.chain(8), safe=4)
    await log.aclose()
    copied = LmdbLog(tmp_path / "copy")
    assert (await copied.read(0))[0].last == 4
    await copied.aclose()


async def test_a_commit_writes_ids_by_what_is_new_and_not_by_what_is_known(log: LmdbLog) -> None:
    """Odd numbers never join: 500 more a batch, for as long as an edge likes."""
    touched: list[set[IdKey]] = []
    write_out = log._written_out

    def counted(changes: Changes) -> Write:
        touched.append(changes.ids)
        return write_out(changes)

    log._written_out = counted  # type: ignore[method-assign]
    records = [Draft(RecordKind.EVENT, b"", 7, 2 * n + 1) for n in range(20_000)]
    lane, epoch = Lanes(records), await begin(log)
    for first in range(1, 20_000, 500):
        await only(log, lane.cut(first, first + 499, epoch=epoch))
        rows = [log._store.get(IDS, ids_key(key)) or b"" for key in touched[-1]]
        assert 0 < sum(map(len, rows)) < 300
    assert max(map(len, touched)) <= 2


async def test_forty_thousand_ranges_of_ids_are_a_row_for_each_block_of_them(log: LmdbLog) -> None:
    """Each range sorted into the others by itself would hold all edges for minutes."""
    records = [Draft(RecordKind.EVENT, b"", 7, 100_000 - 2 * n) for n in range(40_000)]
    lane, epoch = Lanes(records), await begin(log)
    answer = await only(log, lane.cut(1, 40_000, epoch=epoch))
    assert answer == Appended(position=1, floor=40_000, safe=40_000)
    assert sum(bits.bit_count() for bits in log._book.ids.values()) == 40_000
    assert 40_000 / 512 <= log._store.count(IDS) <= 40_000 / 512 + 2


async def test_records_in_sequence_leave_three_rows_of_ids_however_many(log: LmdbLog) -> None:
    lanes = [Lanes(drafts(first, first + 1999)) for first in range(1, 20_000, 2000)]
    epoch = await begin(log)
    floor = chain = 0
    for lane in lanes:
        cut = lane.cut(1, 2000, epoch=epoch)
        floor += 2000
        asked = msgspec.structs.replace(cut, first=floor - 1999, last=floor, prev_chain=chain)
        assert isinstance(await only(log, asked), Appended)
        chain = asked.last_chain
    # The first block, as there is no number 0; the last one; and the block of those between.
    assert log._store.count(IDS) == 3


def known(log: LmdbLog, numbers: Iterable[int], origin: int = 7) -> list[int]:
    return [n for n in numbers if log._book._is_known("barn", (origin, n, n))]


async def test_ids_that_an_earlier_version_has_noted_are_known(tmp_path: Path) -> None:
    """Its rows were all intervals of an origin, the longest far beyond a block."""
    log = LmdbLog(tmp_path / "log")
    lane = Lanes(drafts(1, 6))
    await only(log, lane.cut(1, 6, epoch=await begin(log)))
    await log.aclose()
    intervals = [(1, 6), (9, 1024), (2047, 2047), (3000, 1 << 32), ((1 << 64) - 1, (1 << 64) - 1)]
    with Store(str(tmp_path / "log"), databases=DATABASES) as store:
        write = Write()
        for key, _ in store.scan(IDS):
            write.delete(IDS, key)
        for origin in (7, 8, 1 << 63):
            key = b"barn\0" + origin.to_bytes(8, "big")
            row = b"".join(struct.pack("<2Q", *one) for one in intervals)
            write.put(IDS, key, seal(key, row))
        damaged = b"barn\0" + bytes(8)
        write.put(IDS, damaged, bytes(20))
        store.apply(write)
    LmdbLog(tmp_path / "log", readonly=True).close()  # nothing is written by whoever looks only
    log = LmdbLog(tmp_path / "log")
    assert log.stats().damaged == 1
    assert log._store.scan(IDS, b"barn") == []
    ends = [end + step for one in intervals for end in one for step in (-1, 0, 1)]
    asked = sorted({n for n in ends if 0 <= n < 1 << 64})
    expected = [n for n in asked if any(first <= n <= last for first, last in intervals)]
    for _ in range(2):
        for origin in (7, 8, 1 << 63):
            stored = [8] if origin == 7 and log.head == 2 else []
            assert known(log, asked, origin) == sorted([*expected, *stored])
        assert known(log, asked, 0) == []
        # A fork tells all once more, and one record that is new: only that is stored.
        forked = Lanes([*lane.records, *drafts(8, 8)])
        session = await log.open_session("barn", b"another one here", NOWHERE)
        asked_again = forked.cut(1, 7, epoch=session.epoch, incarnation=b"another one here")
        assert isinstance(await only(log, asked_again), Appended)
        assert log.head == 2
        await log.aclose()
        log = LmdbLog(tmp_path / "log")
        assert log.stats().damaged == 0
    await log.aclose()


async def test_a_full_log_of_an_earlier_version_says_so_and_opens_with_more_room(
    tmp_path: Path,
) -> None:
    """Rows of the new form may take three times as much; no id is given up for that."""
    LmdbLog(tmp_path / "log", map_bytes_max=1 << 20).close()
    with Store(str(tmp_path / "log"), databases=DATABASES, map_bytes_max=1 << 20) as store:
        write = Write()
        for origin in range(3000):
            key = b"barn\0" + origin.to_bytes(8, "big")
            row = struct.pack("<2Q", 1, 5000)
            write.put(IDS, key, seal(key, row))
        store.apply(write)
        with pytest.raises(StoreFull):  # noqa: PT012  # at whichever it is full
            for n in range(1000):
                write = Write()
                write.put(ENTRIES, (n + 1).to_bytes(8, "big"), bytes(5000))
                store.apply(write)
    for _ in range(2):
        with pytest.raises(LogFull, match=r"`limit` under \[log\]"):
            LmdbLog(tmp_path / "log", map_bytes_max=1 << 20)
    log = LmdbLog(tmp_path / "log", map_bytes_max=16 << 20)
    for origin in (0, 1500, 2999):
        assert known(log, [0, 1, 1023, 1024, 5000, 5001], origin) == [1, 1023, 1024, 5000]
    await log.aclose()


async def test_ids_that_were_noted_are_in_a_backup(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    lane = Lanes(drafts(1, 3000))
    await only(log, lane.cut(1, 3000, epoch=await begin(log)))
    await log.backup(tmp_path / "copy")
    await log.aclose()
    copied = LmdbLog(tmp_path / "copy")
    copied.renew_generation()
    assert known(copied, range(4000)) == list(range(1, 3001))
    epoch = await begin(copied, b"another one here")
    again = lane.cut(1, 3000, epoch=epoch, incarnation=b"another one here")
    assert await only(copied, again) == Appended(position=0, floor=3000, safe=3000)
    await copied.aclose()


async def test_a_fleet_that_comes_back_is_let_in_together(tmp_path: Path) -> None:
    """Sessions that are asked for during a commit share the next one, and differ all the same."""
    log = LmdbLog(tmp_path / "log")
    submitted = 0
    submit = log._commit.submit

    async def counted(write: Write) -> Tails:
        nonlocal submitted
        submitted += 1
        return await submit(write)

    log._commit.submit = counted  # type: ignore[method-assign]
    epochs: dict[str, int] = {}

    async def come(edge: str) -> None:
        epochs[edge] = (await log.open_session(edge, INCARNATION, NOWHERE)).epoch

    for epoch in (1, 2):
        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(come, f"edge{number}")
        assert set(epochs.values()) == {epoch}
        assert len(epochs) == 50
    assert submitted <= 4
    await log.aclose()
    again = LmdbLog(tmp_path / "log")
    assert (await again.open_session("edge7", INCARNATION, NOWHERE)).epoch == 3
    await again.aclose()


async def test_a_restored_log_gives_no_session_a_number_that_was_used(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    edges = [f"edge{number}" for number in range(1100)]  # more than one page of a scan
    async with trio.open_nursery() as nursery:
        for edge in edges:
            nursery.start_soon(log.open_session, edge, INCARNATION, NOWHERE)
    log.renew_generation()
    assert (
        min([(await log.open_session(edge, INCARNATION, NOWHERE)).epoch for edge in edges]) > 1000
    )
    assert (await log.open_session("new", INCARNATION, NOWHERE)).epoch == 1
    await log.aclose()


async def test_a_backup_is_known_after_opening_again(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log", clock_ns=lambda: 7)
    lane, epoch = Lanes(drafts(1, 4)), await begin(log)
    await only(log, lane.cut(1, 4, epoch=epoch))
    assert log.newest_backup is None
    await log.backup(tmp_path / "copy", stored=1)
    known = Backup(at_ns=7, path=str(tmp_path / "copy"), head=1, stored=1)
    assert log.newest_backup == known
    await log.aclose()
    log = LmdbLog(tmp_path / "log")
    assert log.stats().backup == known
    await log.aclose()


async def test_a_trimmed_log_is_as_trimmed_after_opening_again(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    lane, epoch = Lanes(drafts(1, 4)), await begin(log)
    await log.append([lane.cut(n, n, epoch=epoch) for n in range(1, 5)])
    await log.drop(4)
    await log.aclose()
    log = LmdbLog(tmp_path / "log")
    assert (log.oldest, log.head) == (4, 4)
    await log.aclose()


async def test_pages_of_what_was_dropped_are_used_again(tmp_path: Path) -> None:
    """Ten times its limit goes through a log; entries may be as large as a batch is."""
    limit = 16 << 20
    log = LmdbLog(tmp_path / "log", map_bytes_max=limit)
    random, epoch = Random(1), await begin(log)
    noise = random.randbytes(1 << 20)
    retention = Retention(log, Policy(keep_bytes=limit), [])
    total = seq = 0
    while total < 10 * limit:
        batches: list[Append] = []
        for last in range(seq + 1, seq + 9):
            size = min(len(noise), 5000 + int(random.expovariate(1 / 60_000)))
            asked = Append(
                edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=last,
                last=last, prev_chain=last - 1, last_chain=last, codec=Codec.DEAD,
                payload=noise[:size],
            )  # fmt: skip
            batches.append(asked)
        try:
            await log.append(batches)
        except LogFull:
            assert log.stats().used_bytes > limit // 2
        else:
            seq, total = seq + 8, total + sum(len(asked.payload) for asked in batches)
        await retention.drop_what_may_go(by_age=False)
    assert (await log.read(log.head - 1))[0].last == seq
    assert limit * 0.5 < log.stats().used_bytes < limit * 0.9
    assert (tmp_path / "log" / "data.mdb").stat().st_size <= limit
    await log.aclose()


def drop_for(folder: Path, commits: int, seconds: float) -> tuple[int, int]:
    """Let the process fill and drop so often, and a moment longer; return what it told last."""
    command = [sys.executable, "-m", "tests.hubd.log.dropper", str(folder / "log")]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(commits)]
        time.sleep(seconds)
        process.kill()
        whole = [line for line in [*lines, *process.stdout] if line.endswith("\n")]
    told, dropped = map(int, whole[-1].split())
    return told, dropped


async def test_killed_while_it_drops_a_log_is_whole(tmp_path: Path) -> None:
    """What was told to be stored is there, up to the oldest entry without a hole."""
    random = Random(3)
    for _ in range(4):
        told, dropped = drop_for(tmp_path, random.randint(100, 200), random.uniform(0, 0.003))
        log = LmdbLog(tmp_path / "log", map_bytes_max=LIMIT)
        assert log.head >= told
        assert log.oldest >= dropped > 1
        positions: list[int] = []
        while page := await log.read(positions[-1] if positions else 0):
            positions += [entry.position for entry in page]
        assert positions == list(range(log.oldest, log.head + 1))
        assert log.stats().damaged == 0
        session = await log.open_session("barn", INCARNATION, NOWHERE)
        assert session.floors[Lane.BULK].floor == log.head
        await log.aclose()


async def test_who_follows_a_log_waits_behind_a_damaged_newest_entry(tmp_path: Path) -> None:
    """Else it would read it again and again, with a whole core."""
    log = LmdbLog(tmp_path / "log")
    lane, epoch = Lanes(drafts(1, 6)), await begin(log)
    for seq in (1, 3):
        await only(log, lane.cut(seq, seq + 1, epoch=epoch))
    await log.aclose()
    flip(tmp_path / "log", ENTRIES, (2).to_bytes(8, "big"), 20)
    log = LmdbLog(tmp_path / "log")
    with closing(open_state(tmp_path / "state.db", log.generation, lambda: log.head)) as state:
        async with following(log, state) as projectors:
            await projectors.reach(1)
            with trio.fail_after(20):
                await trio.testing.wait_all_tasks_blocked(0.05)
            epoch = await begin(log)
            await only(log, lane.cut(5, 6, epoch=epoch))
            await projectors.reach(3)
    await log.aclose()


def letter(edge: str, epoch: int, first: int, size: int = 1) -> Append:
    return Append(
        edge=edge, epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=first, last=first,
        prev_chain=0, last_chain=0, codec=Codec.DEAD, payload=bytes(size),
    )  # fmt: skip


async def test_in_a_full_log_sessions_are_opened_beside_what_finds_no_room(tmp_path: Path) -> None:
    """And each of those who share a commit is told of it for himself."""
    log = LmdbLog(tmp_path / "log", map_bytes_max=2 << 20)
    epoch, first = await begin(log), 1
    with pytest.raises(LogFull):  # noqa: PT012  # which of them is refused, nobody knows
        while True:
            await log.append([letter("barn", epoch, first, 50_000)])
            first += 1
    epochs: list[int] = []
    refusals: list[LogFull] = []

    async def write() -> None:
        try:
            await log.append([letter("barn", epoch, first, 500_000)])
        except LogFull as error:
            refusals.append(error)

    async def come(edge: str) -> None:
        epochs.append((await log.open_session(edge, INCARNATION, NOWHERE)).epoch)

    async with trio.open_nursery() as nursery:
        for number in range(5):
            nursery.start_soon(write)
            nursery.start_soon(come, f"edge{number}")
    assert epochs == [1] * 5
    assert len(refusals) == 5
    await log.aclose()


async def test_who_was_cancelled_leaves_nobody_behind_without_an_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their batches may be more than one commit takes."""
    monkeypatch.setattr(lmdb, "GROUP_BATCHES_MAX", 2)
    log = LmdbLog(tmp_path / "log")
    epochs = {
        edge: (await log.open_session(edge, INCARNATION, NOWHERE)).epoch for edge in "abcdefgh"
    }
    async with trio.open_nursery() as nursery:
        for edge in "abcdefg":
            nursery.start_soon(log.append, [letter(edge, epochs[edge], 1)])
        await trio.lowlevel.checkpoint()
        await trio.lowlevel.checkpoint()
        nursery.cancel_scope.cancel()
    (answer,) = await log.append([letter("h", epochs["h"], 1)])
    assert isinstance(answer, Appended)
    assert [entry.edge for entry in await log.read(answer.position - 1)] == ["h"]
    await log.aclose()
