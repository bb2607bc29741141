"""What of the log may go, when, and how the task that drops it gets on with those who read it."""

from collections.abc import Mapping
from random import Random

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from edgesync.model import RecordKind
from edgesync_transport.messages import LaneFloor
from hubd.log.base import Backup, EntrySize, LogFull
from hubd.log.memory import MemoryLog
from hubd.log.retention import (
    BACKUP,
    COPYING,
    STATE_BACKUP,
    Choice,
    Facts,
    Policy,
    Retention,
    choose,
    count_old,
    excess_bytes,
)
from tests.hubd.log.test_contract import NOWHERE, Lanes, begin, only
from tests.native.rowsmith import Draft

pytestmark = pytest.mark.feature("S32")


def sized(first: int, *sizes: int) -> list[EntrySize]:
    return [EntrySize(first + nth, nbytes) for nth, nbytes in enumerate(sizes)]


def facts(cursors: Mapping[str, int], **changes: object) -> Facts:
    standard = {"head": 99, "now_ns": 1000}
    return Facts(cursors=cursors, **(standard | changes))  # type: ignore[arg-type]


def a_backup(head: int, stored: int = 0) -> Backup:
    return Backup(at_ns=1, path="/backups/monday", head=head, stored=stored)


class TestExcess:
    def test_begins_above_the_upper_mark_and_goes_on_down_to_the_lower(self) -> None:
        assert excess_bytes(Policy(), 80, 100, is_dropping=False) == 0
        assert excess_bytes(Policy(), 81, 100, is_dropping=False) == 6
        assert excess_bytes(Policy(), 78, 100, is_dropping=True) == 3
        assert excess_bytes(Policy(), 75, 100, is_dropping=True) == 0

    def test_keep_bytes_is_the_mark_where_it_is_the_lower_one(self) -> None:
        policy = Policy(keep_bytes=16)
        assert excess_bytes(policy, 16, 100, is_dropping=False) == 0
        assert excess_bytes(policy, 17, 100, is_dropping=False) == 2
        assert excess_bytes(Policy(keep_bytes=100), 81, 100, is_dropping=False) == 6


class TestChoice:
    sizes = sized(1, 10, 10, 10)

    def test_what_a_backup_has_goes_as_far_as_room_is_wanted(self) -> None:
        known = facts({"keys": 50}, backup=a_backup(60, 40))
        assert choose(self.sizes, known, Policy(), 15, lambda _: 5) == Choice(2)
        assert choose(self.sizes, known, Policy(), 0, lambda _: 5) == Choice(0)

    def test_without_a_backup_of_the_state_nothing_goes_that_nobody_asked_to(self) -> None:
        known = facts({"keys": 50}, backup=a_backup(60, 1))
        assert choose(self.sizes, known, Policy(), 15, lambda _: 5) == Choice(1, STATE_BACKUP)
        assert choose(self.sizes, facts({}), Policy(), 15, lambda _: 5) == Choice(0, STATE_BACKUP)
        assert choose(self.sizes, facts({}), Policy(keep_bytes=80), 15, lambda _: 5) == Choice(2)

    def test_what_is_old_goes_without_a_backup_and_without_need(self) -> None:
        policy = Policy(keep_ns=100)  # now is 1000
        times = {1: 898, 2: 899, 3: 900}
        assert choose(self.sizes, facts({}), policy, 0, times.get) == Choice(2)

    def test_the_slowest_reader_holds_all_after_its_cursor(self) -> None:
        known = facts({"telemetry": 2, "events": 50, "keys": 3})
        assert choose(self.sizes, known, Policy(keep_bytes=1), 99, lambda _: 5) == Choice(
            2, "telemetry"
        )

    def test_where_backups_are_managed_old_entries_wait_for_one(self) -> None:
        policy = Policy(keep_ns=1, is_backed_up=True)
        known = facts({}, backup=a_backup(2))
        assert choose(self.sizes, known, policy, 0, lambda _: 5) == Choice(2, BACKUP)
        assert choose(self.sizes, facts({}), policy, 0, lambda _: 5) == Choice(0, BACKUP)

    def test_the_newest_entry_stays_and_is_held_by_nobody(self) -> None:
        known = facts({"keys": 3}, head=3)
        assert choose(self.sizes, known, Policy(keep_ns=1), 0, lambda _: 5) == Choice(2)


@given(
    times=st.lists(st.one_of(st.none(), st.integers(0, 20)), max_size=12),
    before=st.integers(0, 21),
)
def test_entries_are_old_up_to_the_first_that_is_not(times: list[int | None], before: int) -> None:
    """Of times in order, which is what a clock that is not set back gives."""
    known = sorted(one for one in times if one is not None)
    ordered = [None if one is None else known.pop(0) for one in times]
    sizes = sized(1, *[1] * len(times))
    count = count_old(sizes, before, lambda position: ordered[position - 1])
    assert all(one is None or one < before for one in ordered[:count])
    assert not any(one is not None and one < before for one in ordered[count:])


@given(
    sizes=st.lists(st.integers(1, 50), max_size=15),
    first=st.integers(1, 5),
    beyond=st.integers(0, 3),
    cursors=st.dictionaries(st.sampled_from("abc"), st.integers(0, 25)),
    backup=st.one_of(st.none(), st.tuples(st.integers(0, 25), st.integers(0, 25))),
    policy=st.builds(
        Policy,
        keep_ns=st.sampled_from([0, 1, 10, 500]),
        keep_bytes=st.sampled_from([0, 60, 1000]),
        is_backed_up=st.booleans(),
    ),
    excess=st.integers(0, 300),
)
def test_nothing_goes_that_is_needed_and_what_stays_has_a_reason(
    sizes: list[int],
    first: int,
    beyond: int,
    cursors: dict[str, int],
    backup: tuple[int, int] | None,
    policy: Policy,
    excess: int,
) -> None:
    entries = sized(first, *sizes)
    head = first + len(sizes) - 1 + beyond
    copied = a_backup(*backup) if backup else None
    known = facts(cursors, head=head, backup=copied)
    choice = choose(entries, known, policy, excess, lambda position: 985 + position)
    gone = [size for size in entries if size.position <= choice.upto]

    def is_old(position: int) -> bool:
        return bool(policy.keep_ns) and 985 + position < 1000 - policy.keep_ns

    def is_wanted(position: int) -> bool:
        freed = sum(size.nbytes for size in entries if size.position < position)
        return is_old(position) or freed < excess

    def holders(position: int) -> set[str]:
        found = {name for name, cursor in cursors.items() if cursor < position}
        if policy.is_backed_up and position > (copied.head if copied else 0):
            found.add(BACKUP)
        by_operator = is_old(position) or policy.keep_bytes
        if not by_operator and position > (copied.stored if copied else 0):
            found.add(STATE_BACKUP)
        return found

    for size in gone:
        assert size.position < head
        assert is_wanted(size.position)
        assert not holders(size.position)
    rest = entries[len(gone) :]
    if rest and rest[0].position < head and is_wanted(rest[0].position):
        assert choice.held_by in holders(rest[0].position)
    else:
        assert choice.held_by == ""


class Reading:
    """Readers that come as far as they are let, and store it when they are pressed."""

    def __init__(self, **stored: int) -> None:
        self.stored = stored
        self.read = dict(stored)
        self.pressed = trio.Event()

    async def cursors(self) -> Mapping[str, int]:
        await trio.lowlevel.checkpoint()
        return dict(self.stored)

    def press(self, position: int) -> None:
        self.stored = {
            name: max(self.stored[name], min(position, self.read[name])) for name in self.stored
        }
        self.pressed.set()


async def a_log(entries: int, kind: type[MemoryLog] = MemoryLog) -> MemoryLog:
    """Each entry takes a hundredth of it."""
    log = kind(limit_bytes=100 * 10_040)
    records = [Draft(RecordKind.EVENT, Random(n).randbytes(10_000), 7, n) for n in range(entries)]
    lane, epoch = Lanes(records), await begin(log)
    for seq in range(1, entries + 1):
        await only(log, lane.cut(seq, seq, epoch=epoch))
    return log


async def test_a_log_above_its_mark_is_brought_down_to_the_lower_one() -> None:
    log = await a_log(90)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [Reading(keys=90)])
    await retention.drop_what_may_go()
    stats = log.stats()
    assert 0.74 < stats.used_bytes / stats.limit_bytes <= 0.75
    assert retention.standing.held_by == ""


async def test_a_stuck_reader_keeps_what_it_has_not_stored_and_is_named() -> None:
    log = await a_log(90)
    reading = Reading(keys=90, events=3)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [reading], clock_ns=lambda: 77)
    await retention.drop_what_may_go()
    assert log.oldest == 4
    assert retention.standing.held_by == "events"
    assert retention.standing.held_since_ns == 77
    assert retention.standing.cursors == {"keys": 90, "events": 3}


@pytest.mark.slow
async def test_a_reader_that_has_read_further_is_asked_to_store_it(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = await a_log(90)
    reading = Reading(keys=90, telemetry=3)
    reading.read["telemetry"] = 90
    retention = Retention(log, Policy(keep_bytes=1 << 40), [reading])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        with trio.fail_after(60):
            while log.stats().used_bytes > 0.75 * log.stats().limit_bytes:  # noqa: ASYNC110
                await trio.sleep(1)
        nursery.cancel_scope.cancel()
    assert reading.pressed.is_set()


async def test_entries_go_by_age_although_the_log_stands_still(
    autojump_clock: trio.testing.MockClock,
) -> None:
    log = await a_log(5)
    last_ns = log.stored_at_ns(5)
    assert last_ns is not None
    clock_ns = last_ns
    retention = Retention(log, Policy(keep_ns=10**9), [Reading(keys=5)], clock_ns=lambda: clock_ns)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        await trio.testing.wait_all_tasks_blocked()
        assert log.oldest == 1
        clock_ns = last_ns + 2 * 10**9
        await trio.sleep(61)
        assert log.oldest == log.head == 5
        nursery.cancel_scope.cancel()


async def test_nothing_is_dropped_while_a_backup_is_made() -> None:
    log = await a_log(90)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [Reading(keys=90)])
    async with trio.open_nursery() as nursery, retention.hold():
        nursery.start_soon(retention.drop_what_may_go)
        await trio.testing.wait_all_tasks_blocked()
        assert log.oldest == 1
        assert retention.standing.held_by == COPYING
    assert log.oldest > 1
    assert retention.standing.held_by == ""


async def test_readers_that_cannot_be_asked_hold_everything(
    autojump_clock: trio.testing.MockClock,
) -> None:
    class Broken(Reading):
        async def cursors(self) -> Mapping[str, int]:
            raise OSError("no such table")

    log = await a_log(90)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [Broken()])
    async with trio.open_nursery() as nursery:
        nursery.start_soon(retention.run)
        await trio.sleep(5)
        nursery.cancel_scope.cancel()
    assert log.oldest == 1
    assert "no such table" in retention.standing.held_by


@pytest.mark.slow
async def test_an_append_that_found_no_room_makes_some_more_go() -> None:
    """There may be room in pieces only: a share of the limit goes for each such time, not all."""
    log = await a_log(60)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [Reading(keys=60)])
    await retention.drop_what_may_go()
    assert log.oldest == 1
    large = Lanes([Draft(RecordKind.EVENT, Random(0).randbytes(500_000), 8, 1)])
    epoch = (await log.open_session("barn", b"another one here", NOWHERE)).epoch
    asked = large.cut(1, 1, epoch=epoch, incarnation=b"another one here")
    with pytest.raises(LogFull):
        await only(log, asked)
    for _ in range(3):
        await retention.drop_what_may_go()
    assert 5 < log.oldest < 9
    with pytest.raises(LogFull):
        await only(log, asked)
    await retention.drop_what_may_go()
    assert 10 < log.oldest < 14


async def test_what_goes_after_a_refusal_does_not_depend_on_what_comes_meanwhile() -> None:
    """Appends as fast as the drops would else let it go on to the newest entry."""

    class BusyLog(MemoryLog):
        """Takes in a batch with each step of dropping."""

        taken = 60

        async def drop(self, upto: int) -> None:
            await super().drop(upto)
            records = [
                Draft(RecordKind.EVENT, Random(n).randbytes(10_000), 9, n)
                for n in range(self.taken, self.taken + 8)
            ]
            self.taken += 8
            lane = Lanes(records, start=self.taken)
            start = LaneFloor(floor=self.taken, chain=0, safe=0)
            life = self.taken.to_bytes(16, "big")
            session = await self.open_session("shop", life, (start, start, start))
            asked = lane.cut(
                self.taken + 1, self.taken + 8, epoch=session.epoch, incarnation=life
            )  # fmt: skip
            await only(self, msgspec.structs.replace(asked, edge="shop"))

    log = await a_log(60, BusyLog)
    retention = Retention(log, Policy(keep_bytes=1 << 40), [Reading(keys=60)])
    log._refused += 1
    await retention.drop_what_may_go()
    assert 5 < log.oldest < 9
