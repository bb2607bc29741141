"""What every log must do, whatever it is made of."""

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio
import trio.testing

from edgesync._native import batch
from edgesync.model import RecordKind, ValueType
from edgesync_transport.messages import Codec, Lane, LaneFloor, NackCode
from hubd.log.base import Append, Appended, Log, LogFull, NotAppended
from hubd.log.lmdb import LmdbLog
from hubd.log.memory import MemoryLog
from tests.native.rowsmith import Draft, make_rows

pytestmark = pytest.mark.feature("S5", "F6", "S32")

INCARNATION = b"first incarnation"[:16]
NOWHERE = (LaneFloor(floor=0, chain=0, safe=0),) * 3

LOGS: dict[str, Callable[[Path], Log]] = {
    "memory": lambda _path: MemoryLog(),
    "lmdb": lambda path: LmdbLog(path / "log", map_bytes_max=256 << 20),
}


@pytest.fixture(params=LOGS)
async def log(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Log]:
    opened = LOGS[request.param](tmp_path)
    yield opened
    await opened.aclose()


def drafts(first: int, last: int, *, origin: int = 7) -> list[Draft]:
    """Records whose event ids are (origin, seq)."""
    return [
        Draft(RecordKind.READINGS, batch.readings(n, ValueType.F64, [1], [n / 10]), origin, n)
        for n in range(first, last + 1)
    ]


class Lanes:
    """A lane's records, from which batches are cut with the chains they have."""

    def __init__(self, records: list[Draft], lane: Lane = Lane.BULK, start: int = 0) -> None:
        self.lane = lane
        self.start = start
        self.records = records
        self.rows = batch.records(make_rows(records, lane, start + 1))

    def chain(self, seq: int) -> int:
        return self.rows[seq - self.start - 1].chain if seq > self.start else 0

    def cut(self, first: int, last: int, *, epoch: int, incarnation: bytes = INCARNATION) -> Append:
        some = self.records[first - self.start - 1 : last - self.start]
        rows = make_rows(some, self.lane, first, self.chain(first - 1))
        codec, payload = batch.pack(rows)
        return Append(
            edge="barn", epoch=epoch, incarnation=incarnation, lane=self.lane,
            first=first, last=last, prev_chain=self.chain(first - 1), last_chain=self.chain(last),
            codec=Codec(codec), payload=payload,
        )  # fmt: skip


async def numbers_in(log: Log) -> list[tuple[int, int]]:
    """(seq, number) of every record in the log, in its order."""
    found: list[tuple[int, int]] = []
    for entry in await log.read(0):
        rows = batch.unpack(entry.codec, entry.payload, entry.lane, entry.first, 0)
        found += [(entry.first + nth, one.number) for nth, one in enumerate(batch.records(rows))]
    return found


async def begin(log: Log, incarnation: bytes = INCARNATION) -> int:
    return (await log.open_session("barn", incarnation, NOWHERE)).epoch


async def only(log: Log, asked: Append) -> Appended | NotAppended:
    (answer,) = await log.append([asked])
    return answer


async def test_a_batch_moves_the_floor_and_can_be_read(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 5)), await begin(log)
    answer = await only(log, lane.cut(1, 5, epoch=epoch))
    assert answer == Appended(position=1, floor=5, safe=5)
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    # Without backups of its own what is durable is safe, in a new session as well.
    assert session.floors[Lane.BULK] == LaneFloor(floor=5, chain=lane.chain(5), safe=5)
    assert await numbers_in(log) == [(n, n) for n in range(1, 6)]
    assert log.head == 1


async def test_a_resend_changes_nothing(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 5)), await begin(log)
    await only(log, lane.cut(1, 5, epoch=epoch))
    assert await only(log, lane.cut(2, 4, epoch=epoch)) == Appended(position=0, floor=5, safe=5)
    assert log.head == 1


async def test_a_batch_that_starts_inside_keeps_only_its_new_tail(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 9)), await begin(log)
    await only(log, lane.cut(1, 5, epoch=epoch))
    answer = await only(log, lane.cut(4, 9, epoch=epoch))
    assert isinstance(answer, Appended)
    assert answer.floor == 9
    assert await numbers_in(log) == [(n, n) for n in range(1, 10)]


async def test_a_gap_is_refused_by_naming_the_floor(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 9)), await begin(log)
    await only(log, lane.cut(1, 2, epoch=epoch))
    answer = await only(log, lane.cut(4, 9, epoch=epoch))
    assert isinstance(answer, NotAppended)
    assert (answer.code, answer.floor) == (NackCode.GAP, 2)
    assert log.head == 1


@pytest.mark.parametrize("first", [3, 2])
async def test_another_history_is_refused(log: Log, first: int) -> None:
    lane, epoch = Lanes(drafts(1, 4)), await begin(log)
    await only(log, lane.cut(1, 2, epoch=epoch))
    other = Lanes(drafts(1, 4, origin=8))
    answer = await only(log, other.cut(first, 4, epoch=epoch))
    assert isinstance(answer, NotAppended)
    assert answer.code is NackCode.CHAIN
    assert log.head == 1


@pytest.mark.feature("S26")
async def test_an_older_epoch_can_write_nothing_any_more(log: Log) -> None:
    lane, old = Lanes(drafts(1, 4)), await begin(log)
    new = await begin(log)
    assert new > old
    answer = await only(log, lane.cut(1, 4, epoch=old))
    assert isinstance(answer, NotAppended)
    assert answer.code is None
    assert isinstance(await only(log, lane.cut(1, 4, epoch=new)), Appended)


async def test_a_fork_keeps_its_seqs_and_stores_nothing_twice(log: Log) -> None:
    before = Lanes(drafts(1, 6))
    await only(log, before.cut(1, 6, epoch=await begin(log)))
    # The disk was restored to seq 4, whose records 3 and 4 are still retained, then wrote 5 and 6.
    forked = Lanes([*drafts(3, 4), *drafts(1, 2, origin=9)], start=2)
    start = LaneFloor(floor=2, chain=0, safe=2)
    session = await log.open_session("barn", b"another one here", (NOWHERE[0], NOWHERE[1], start))
    assert session.floors[Lane.BULK].floor == 2
    asked = forked.cut(3, 6, epoch=session.epoch, incarnation=b"another one here")
    answer = await only(log, asked)
    assert isinstance(answer, Appended)
    assert answer.floor == 6
    assert await numbers_in(log) == [*((n, n) for n in range(1, 7)), (5, 1), (6, 2)]


async def test_a_batch_of_nothing_but_doubles_moves_only_the_floor(log: Log) -> None:
    lane = Lanes(drafts(1, 6))
    await only(log, lane.cut(1, 6, epoch=await begin(log)))
    epoch = await begin(log, b"another one here")
    again = lane.cut(1, 6, epoch=epoch, incarnation=b"another one here")
    assert await only(log, again) == Appended(position=0, floor=6, safe=6)
    assert log.head == 1


async def test_a_declared_gap_moves_the_floor_and_stays_visible(log: Log) -> None:
    epoch = await begin(log)
    gap = Append(
        edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=1, last=40,
        prev_chain=0, last_chain=99, codec=Codec.GAP, payload=b"", reason="not retained",
    )  # fmt: skip
    assert isinstance(await only(log, gap), Appended)
    (entry,) = await log.read(0)
    assert (entry.codec, entry.first, entry.last, entry.reason) == (
        Codec.GAP,
        1,
        40,
        "not retained",
    )


async def test_a_dead_letter_is_kept_as_it_came(log: Log) -> None:
    epoch = await begin(log)
    dead = Append(
        edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.NORMAL, first=1, last=1,
        prev_chain=0, last_chain=5, codec=Codec.DEAD, payload=b"\xffnonsense", reason="no record",
    )  # fmt: skip
    assert isinstance(await only(log, dead), Appended)
    (entry,) = await log.read(0)
    assert entry.payload == b"\xffnonsense"


async def test_a_payload_that_is_none_is_poison_and_moves_nothing(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 3)), await begin(log)
    sound = lane.cut(1, 3, epoch=epoch)
    for payload in (b"", b"\0" * 50):
        asked = Append(
            edge="barn", epoch=epoch, incarnation=INCARNATION, lane=Lane.BULK, first=1, last=3,
            prev_chain=0, last_chain=5, codec=Codec.ROWS, payload=payload,
        )  # fmt: skip
        answer = await only(log, asked)
        assert isinstance(answer, NotAppended)
        assert (answer.code, answer.floor) == (NackCode.POISON, 0)
    assert isinstance(await only(log, sound), Appended)


async def test_one_bad_batch_does_not_hurt_its_neighbours(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 6)), await begin(log)
    answers = await log.append(
        [lane.cut(1, 3, epoch=epoch), lane.cut(5, 6, epoch=epoch), lane.cut(4, 6, epoch=epoch)]
    )
    assert [type(answer) for answer in answers] == [Appended, NotAppended, Appended]
    assert await numbers_in(log) == [(n, n) for n in range(1, 7)]


async def test_numbers_that_begin_anew_do_not_hurt_who_shares_the_commit(log: Log) -> None:
    """No store gives so many; a range of them ends beyond what 64 bits hold."""
    top = 1 << 64
    records = [Draft(RecordKind.EVENT, b"", 7, n % top) for n in range(top - 2, top + 2)]
    lane, epoch = Lanes(records), await begin(log)
    shed = (await log.open_session("shed", INCARNATION, NOWHERE)).epoch
    other = msgspec.structs.replace(Lanes(drafts(1, 2)).cut(1, 2, epoch=shed), edge="shed")
    answers = await log.append([lane.cut(1, 4, epoch=epoch), other])
    assert [type(answer) for answer in answers] == [Appended, Appended]


async def test_many_edges_share_commits(log: Log) -> None:
    lane = Lanes(drafts(1, 20))

    async def edge(name: str) -> None:
        epoch = (await log.open_session(name, INCARNATION, NOWHERE)).epoch
        for first in range(1, 20, 2):
            cut = lane.cut(first, first + 1, epoch=epoch)
            asked = Append(**{f: getattr(cut, f) for f in cut.__struct_fields__} | {"edge": name})
            assert isinstance(await only(log, asked), Appended)

    async with trio.open_nursery() as nursery:
        for nth in range(10):
            nursery.start_soon(edge, f"edge{nth}")
    entries = await log.read(0)
    assert [entry.position for entry in entries] == list(range(1, 101))
    for nth in range(10):
        mine = [entry.last for entry in entries if entry.edge == f"edge{nth}"]
        assert mine == list(range(2, 21, 2))


async def test_waiting_ends_when_the_log_grows(log: Log) -> None:
    lane, epoch = Lanes(drafts(1, 2)), await begin(log)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(log.wait_beyond, 0)
        await trio.testing.wait_all_tasks_blocked()
        await only(log, lane.cut(1, 2, epoch=epoch))
    assert log.head == 1


async def fill(log: Log, records: int) -> Lanes:
    """One record an entry, so that record n is at position n."""
    lane, epoch = Lanes(drafts(1, records)), await begin(log)
    await log.append([lane.cut(n, n, epoch=epoch) for n in range(1, records + 1)])
    return lane


async def test_an_empty_log_has_no_oldest_entry_and_drops_nothing(log: Log) -> None:
    assert (log.head, log.oldest, list(log.sizes())) == (0, 1, [])
    await log.drop(7)
    assert (log.head, log.oldest) == (0, 1)
    await fill(log, 1)
    assert (log.head, log.oldest) == (1, 1)


async def test_what_is_dropped_is_read_no_more_and_the_rest_is_as_before(log: Log) -> None:
    await fill(log, 6)
    kept = (await log.read(4))[0]
    await log.drop(2)
    await log.drop(1)  # again, or less: nothing happens
    await log.drop(4)
    assert (log.head, log.oldest) == (6, 5)
    assert [entry.position for entry in await log.read(0)] == [5, 6]
    assert (await log.read(4))[0] == kept
    assert [entry.position for entry in await log.read(5)] == [6]
    assert await log.read(6) == []
    stats = log.stats()
    assert (stats.entries, stats.oldest, stats.dropped) == (2, 5, 4)
    assert stats.oldest_at_ns == kept.stored_at_ns


async def test_the_newest_entry_stays_and_positions_go_on_from_it(log: Log) -> None:
    lane = await fill(log, 3)
    await log.drop(99)
    assert (log.head, log.oldest) == (3, 3)
    await log.wait_beyond(2)
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    more = Lanes([*lane.records, *drafts(4, 4)])
    answer = await only(log, more.cut(4, 4, epoch=session.epoch))
    assert answer == Appended(position=4, floor=4, safe=4)


async def test_what_was_dropped_is_known_when_it_comes_again(log: Log) -> None:
    """Floors and event ids outlive the entries: a resend and a fork double nothing."""
    lane = await fill(log, 6)
    await log.drop(5)
    session = await log.open_session("barn", INCARNATION, NOWHERE)
    assert session.floors[Lane.BULK] == LaneFloor(floor=6, chain=lane.chain(6), safe=6)
    resent = await only(log, lane.cut(2, 6, epoch=session.epoch))
    assert resent == Appended(position=0, floor=6, safe=6)
    forked = Lanes([*drafts(3, 4), *drafts(1, 2, origin=9)], start=2)
    start = LaneFloor(floor=2, chain=0, safe=2)
    session = await log.open_session("barn", b"another one here", (NOWHERE[0], NOWHERE[1], start))
    asked = forked.cut(3, 6, epoch=session.epoch, incarnation=b"another one here")
    assert isinstance(await only(log, asked), Appended)
    assert await numbers_in(log) == [(6, 6), (5, 1), (6, 2)]


async def test_the_oldest_entries_are_told_with_sizes_and_times(log: Log) -> None:
    await fill(log, 5)
    await log.drop(2)
    assert [size.position for size in log.sizes()] == [3, 4, 5]
    assert [size.position for size in log.sizes(limit=2)] == [3, 4]
    assert [size.position for size in log.sizes(limit_bytes=1)] == [3]
    assert all(size.nbytes > 0 for size in log.sizes())
    times = [entry.stored_at_ns for entry in await log.read(0)]
    assert [log.stored_at_ns(position) for position in (3, 4, 5)] == times
    assert log.stored_at_ns(2) is None
    assert log.stored_at_ns(6) is None


@pytest.mark.slow
async def test_a_full_log_takes_batches_again_once_something_was_dropped(tmp_path: Path) -> None:
    for name, log in (
        ("memory", MemoryLog(limit_bytes=1 << 20)),
        ("lmdb", LmdbLog(tmp_path / "log", map_bytes_max=2 << 20)),
    ):
        records = [Draft(RecordKind.EVENT, Random(n).randbytes(60_000), 7, n) for n in range(50)]
        lane, epoch, floor = Lanes(records), await begin(log), 0
        with pytest.raises(LogFull):  # noqa: PT012  # at whichever the log is full
            for floor in range(50):
                await only(log, lane.cut(floor + 1, floor + 1, epoch=epoch))
        assert log.stats().is_full, name
        await log.drop(floor // 2)
        assert isinstance(await only(log, lane.cut(floor + 1, floor + 1, epoch=epoch)), Appended)
        assert not log.stats().is_full
        await log.aclose()
