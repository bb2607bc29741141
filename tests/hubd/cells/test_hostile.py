"""Operations that cannot be read, and files of the keys that rotted."""

import itertools
import random
import time
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
import trio
import trio.lowlevel
import trio.testing

from edgesync._native.resp import ReplyError
from edgesync._native.write import Write
from edgesync.errors import RecordError, StoreError
from edgesync.model import RecordKind
from edgesync.store.commit import Tails
from edgesync_transport.messages import Codec
from hubd.cells import Answers, HubCells, budget, conflicts
from hubd.cells import answers as module
from hubd.cells.budget import TOO_MANY, TOO_MUCH
from hubd.cells.hearing import OPS_A_TURN
from hubd.cells.keyspaces import CELLS
from hubd.cells.proposals import ExpireConflicts, GiveUp, Name, OutcomeUnknown, Run, Start, decode
from hubd.cells.replicas import Replica, Replicas
from hubd.log.base import Entry, LogFull
from hubd.log.lmdb import LmdbLog
from hubd.log.memory import MemoryLog
from hubd.serve import make_answers, open_cells
from hubd.settings import Settings
from tests.hubd.keys import Till, begun, meet, open_answers, proposed, running


@pytest.mark.parametrize(
    "body", [b"", b"\0", b"\7abc", b"\2goes on", b"\0" + b"\xff" * 40, b"\1never ends"]
)
def test_a_record_that_cannot_be_read_is_skipped_alone(tmp_path: Path, body: bytes) -> None:
    till = Till("till")
    with open_answers(tmp_path) as answers:
        cells = answers.cells
        till._edge.record(RecordKind.CELLS, body)
        till.do("SET", "honest", "1")
        for _ in cells.project(till.entry(1)):
            pass
        assert cells.run([b"GET", b"honest"]) == b"1"
        assert cells.position == 1
        assert cells.skipped == answers.skipped == (0 if body[:1] == b"\1" else 1)


async def test_an_entry_that_is_too_large_is_skipped_and_counted(tmp_path: Path) -> None:
    till = Till("till")
    with open_answers(tmp_path) as answers:
        till.do("SET", "k", "1")
        entry = till.entry(1)
        bad = msgspec.structs.replace(entry, codec=Codec.ROWS, payload=b"\xff\xff\xff\xff\1\0\0\0")
        await answers._project(bad, 0)
        assert answers.skipped == 1
        assert answers.cells.position == 1


def test_what_an_edge_says_is_no_proposal_of_the_hub(tmp_path: Path) -> None:
    """Who sent an entry is known by its key, not by what it claims to be (I12)."""
    with open_answers(tmp_path) as answers:
        forged = msgspec.structs.replace(proposed(GiveUp(("barn",))), edge="till")
        with pytest.raises(RecordError, match="till, which is no hub"):
            list(answers.cells.project(forged))


def test_a_proposal_of_a_later_version_is_skipped_alone(tmp_path: Path) -> None:
    with open_answers(tmp_path) as answers:
        later = msgspec.structs.replace(proposed(GiveUp(())), payload=msgspec.msgpack.encode(["X"]))
        with pytest.raises(RecordError, match="cannot be read"):
            list(answers.cells.project(later))


async def test_a_bad_entry_of_an_edge_is_no_answer_to_the_proposal_of_that_number(
    tmp_path: Path,
) -> None:
    """Else a client is told that nothing was stored, and then it is carried out."""
    log = MemoryLog()
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        answers = Answers(cells, log)
        till = Till("till")
        till.do("SET", "k", "1")
        entry = till.entry(1)
        bad = {"codec": Codec.ROWS, "payload": b"\xff\xff\xff\xff\1\0\0\0"}
        async with running(answers):
            while not cells.is_started:  # noqa: ASYNC110  # it says so by being so
                await trio.sleep(0.01)

            async def read_badly(after: int, *, limit_bytes: int = 0) -> list[Entry]:
                (own,) = await MemoryLog.read(log, after)
                numbers = {"first": own.first, "last": own.last, "position": own.position}
                return [msgspec.structs.replace(entry, **bad, **numbers), own]

            log.read = read_badly  # type: ignore[method-assign]
            assert await answers.run_commands([[b"SET", b"k", b"v"]]) == ["OK"]
        assert answers.skipped == 1


async def test_a_proposal_that_rots_in_the_log_is_not_waited_for(tmp_path: Path) -> None:
    log = LmdbLog(tmp_path / "log")
    with closing(HubCells(tmp_path / "c", log.generation, 0, random=random.Random(1))) as cells:
        async with running(Answers(cells, log)) as answers:
            entries = log._entries
            log._entries = lambda rows: (  # type: ignore[method-assign]
                one for one in entries(rows) if b"rot" not in one.payload
            )
            with trio.fail_after(5):
                with pytest.raises(StoreError, match="cannot be read, and is skipped"):
                    await answers.run_commands([[b"SET", b"rot", b"v"]])
                assert await answers.run_commands([[b"DBSIZE"]]) == [0]
    await log.aclose()


async def test_a_hub_that_stops_does_not_say_that_nothing_was_stored(tmp_path: Path) -> None:
    log = MemoryLog()
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        answers = Answers(cells, log)
        caught: list[Exception] = []

        async def write() -> None:
            try:
                await answers.run_commands([[b"SET", b"k", b"v"]])
            except StoreError as error:
                caught.append(error)

        async with trio.open_nursery() as nursery, running(answers):
            while not cells.is_started:  # noqa: ASYNC110  # it says so by being so
                await trio.sleep(0.01)
            head = log.head
            # It never gets to its end, and lets others have their turn.
            cells.project = lambda *_: itertools.repeat(None)  # type: ignore[method-assign]
            nursery.start_soon(write)
            await log.wait_beyond(head)
            await trio.sleep(0.05)
        assert [type(error) for error in caught] == [OutcomeUnknown]


async def test_a_damaged_row_costs_its_key_and_no_entries(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that is past its deadline was first in the list for ever: an entry a second, and no
    other key was removed (I8).
    """
    monkeypatch.setattr(module, "CARE_S", 0.01)
    now_ns = [time.time_ns()]
    log = MemoryLog(clock_ns=lambda: now_ns[0])
    with closing(
        HubCells(tmp_path, log.generation, 0, random=random.Random(1), wall_ns=lambda: now_ns[0])
    ) as cells:
        async with running(Answers(cells, log)) as answers:
            await answers.run_commands([[b"SET", b"k%d" % n, b"v", b"PX", b"1"] for n in range(5)])
            cells.rows.put(b"kk2", b"\xff rubbish")
            now_ns[0] += 200_000_000_000
            with trio.fail_after(5):
                while cells.space.keys > 1 or cells.mark.collected < cells.space.seq:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            head = log.head
            await trio.sleep(0.2)
            assert log.head == head


async def test_many_edges_are_looked_at_less_often(
    tmp_path: Path, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of a fleet each second were some per cent of a core, in steps of many milliseconds."""
    log, looks = MemoryLog(), list[float]()
    unseen = Replicas.unseen

    def look(names: Replicas, since_ms: int) -> list[str]:
        looks.append(trio.current_time())
        return unseen(names, since_ms)

    monkeypatch.setattr(Replicas, "unseen", look)
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        async with running(Answers(cells, log)) as answers:
            await answers.run_commands([[b"SET", b"k", b"v"]])
            for n in range(5000):
                cells.names.put(f"edge{n}", Replica(n, bytes(16), seen_ms=cells.now_ms()))
            looks.clear()
            await trio.sleep(60.0)
            assert 1 <= len(looks) <= 7


async def test_care_that_fails_does_not_fill_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CARE_S", 0.01)
    log = MemoryLog()
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:

        def fail(*_: object) -> None:
            raise RecordError("damaged")

        cells._collect = fail  # type: ignore[method-assign, assignment]
        async with running(Answers(cells, log)) as answers:
            await answers.run_commands([[b"SET", b"k", b"v"]])
            await trio.sleep(0.3)
            assert log.head == 3  # the start, the write, and one attempt to collect


def test_an_entry_writes_so_much_and_no_more(tmp_path: Path) -> None:
    """One that needs more memory than there is would end each start of the hub (I16)."""
    with open_answers(tmp_path) as answers:
        cells = begun(answers.cells)
        cells.run([b"SET", b"large", bytes(1 << 20)])
        cells.run([b"DEL", b"copy"])
        copies = tuple((b"COPY", b"large", b"copy", b"REPLACE") for _ in range(100))
        (*replies, last) = cells.run_all([*copies, (b"STRLEN", b"copy")])
        assert replies == [1] * 64 + [TOO_MUCH] * 36
        assert last == 1 << 20  # what only reads goes on
        # The next entry has as much again.
        assert cells.carry_out(Run(copies), proposed(Run(copies)))[0] == 1


async def test_an_edge_that_is_forgotten_while_the_log_is_full_is_given_up_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else removals are kept for it until it counts as gone, a month later."""
    monkeypatch.setattr(module, "CARE_S", 0.01)
    log = MemoryLog()
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        async with running(Answers(cells, log)) as answers:
            await answers.propose(Name("barn", b"i" * 16, 0))
            limit, log._limit_bytes = log._limit_bytes, 0
            answers.forget("barn")
            await trio.sleep(0.05)
            assert list(cells.replicas()) == ["barn"]
            log._limit_bytes = limit
            with trio.fail_after(5):
                while cells.replicas():  # noqa: ASYNC110  # until it is carried out
                    await trio.sleep(0.01)


def test_one_entry_expires_so_many_conflicts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conflicts, "EXPIRED_A_TURN", 2)
    with open_answers(tmp_path) as answers:
        cells = begun(answers.cells)
        for number in range(5):
            key = f"k{number}"
            meet(cells, (f"a{key}", ("SET", key, "1")), (f"b{key}", ("SET", key, "2")))
        now_ms, counts = cells.now_ms() + 1, list[int]()
        while (due := cells.due(0, now_ms)) == ExpireConflicts(now_ms):
            cells.carry_out(due, proposed(due))
            counts.append(cells.conflicts.open_count)
        assert counts == [3, 1, 0]


def test_commands_look_at_so_many_elements_and_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand intersections of large sets held everybody up for minutes (I16)."""
    monkeypatch.setattr(budget, "LOOKED_AT_MAX", 500)
    with open_answers(tmp_path) as answers:
        cells = begun(answers.cells)
        for name, command in ((b"a", b"SADD"), (b"l", b"RPUSH")):
            cells.run([command, name, *(b"%d" % number for number in range(20))])
        empty = [b"SINTERCARD", b"2", b"a", b"none"]
        assert cells.run_all([empty] * 5) == [0] * 3 + [TOO_MANY] * 2
        assert cells.run_all([[b"LPOS", b"l", b"x"]] * 30) == [None] * 25 + [TOO_MANY] * 5
        assert cells.run_all([empty] * 4 + [[b"SCARD", b"a"]]) == [0] * 3 + [TOO_MANY, 20]
        # Each is carried out alone, however much there is.
        monkeypatch.setattr(budget, "LOOKED_AT_MAX", 1)
        assert cells.run_all([empty]) == [0]
        odd = [[b"SINTERCARD"], [b"SINTERCARD", b"9" * 99, b"a"], [b"SORT"], [b"LPOS", b"a", b"x"]]
        assert all(isinstance(reply, ReplyError) for reply in cells.run_all(odd))


async def test_what_was_answered_is_seen_though_its_commit_was_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log has it. What could not be stored in the keys' files is carried out again."""
    monkeypatch.setattr(module, "RETRY_S", 0.05)
    log, refused = MemoryLog(), trio.Event()
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        submit = cells._own.submit

        async def refuse(write: Write) -> Tails:
            cells._own.submit = submit  # type: ignore[method-assign]
            refused.set()
            await trio.lowlevel.checkpoint()
            raise StoreError("no space left on the device")

        async with running(Answers(cells, log)) as answers:
            await answers.run_commands([[b"SET", b"k", b"v"]])
            await cells.wait_durable()
            cells._own.submit = refuse  # type: ignore[method-assign]
            assert await answers.run_commands([[b"SET", b"k", b"w"]]) == ["OK"]
            await refused.wait()
            while cells.run([b"GET", b"k"]) == b"w":  # until it is taken back
                await trio.lowlevel.checkpoint()
            await answers.reach_told()
            assert cells.run([b"GET", b"k"]) == b"w"


@pytest.mark.parametrize("entries", [1, 5])
async def test_a_refused_commit_takes_back_entries_that_are_carried_out_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, entries: int
) -> None:
    """Also the first half of the entry that is carried out just then."""
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    till, log = Till("till"), MemoryLog()
    for position in range(1, entries + 1):
        for number in range(3 * OPS_A_TURN):
            till.do("SET", f"k{position}/{number}", "v")
        log._entries.append(till.entry(position))
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        submit = cells._own.submit

        async def refuse(write: Write) -> Tails:
            cells._own.submit = submit  # type: ignore[method-assign]
            await trio.lowlevel.checkpoint()
            raise StoreError("no space left on the device")

        cells._own.submit = refuse  # type: ignore[method-assign]
        async with running(Answers(cells, log)):
            with trio.fail_after(20):
                while not cells.is_started:  # noqa: ASYNC110  # behind the entries in the log
                    await trio.sleep(0.01)
            assert cells.space.keys == entries * 3 * OPS_A_TURN


def test_a_conflict_that_is_forgotten_leaves_a_later_one_of_its_cell_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In memory as in the rows: a restart made another list of it."""
    monkeypatch.setattr(conflicts, "CONFLICTS_MAX", 2)
    with open_answers(tmp_path) as answers:
        cells = begun(answers.cells)
        meet(cells, ("a", ("SET", "k", "1")), ("b", ("SET", "k", "2")))
        cells.run([b"SET", b"k", b"both"])
        meet(cells, ("c", ("SET", "k", "3")), ("d", ("SET", "k", "4")))
        meet(cells, ("e", ("SET", "m", "3")), ("f", ("SET", "m", "4")))  # 1 is forgotten
        assert [one.id for one in cells.conflicts.find()] == [2, 3]
        assert cells.conflicts.open_count == 2
        cells.run([b"SET", b"k", b"both"])
        assert [one.id for one in cells.conflicts.find(status="resolved")] == [2]


async def test_a_write_that_the_log_has_no_room_for_has_not_happened(tmp_path: Path) -> None:
    log = MemoryLog(limit_bytes=4096)
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        async with running(Answers(cells, log)) as answers:
            assert await answers.run_commands([[b"SET", b"k", b"small"]]) == ["OK"]
            with pytest.raises(LogFull):
                await answers.run_commands([[b"SET", b"k", bytes(5000)]])
            assert await answers.run_commands([[b"GET", b"k"]]) == [b"small"]


async def test_what_comes_before_the_start_is_behind_it_in_the_log(tmp_path: Path) -> None:
    """It would be written as the hub's replica of before, which may have used its numbers."""
    log = MemoryLog(limit_bytes=0)
    with closing(HubCells(tmp_path, log.generation, 0, random=random.Random(1))) as cells:
        answers = Answers(cells, log)
        answers._begin = trio.sleep_forever  # type: ignore[method-assign]
        replies: list[object] = []

        async def write() -> None:
            try:
                replies.append(await answers.run_commands([[b"SET", b"k", b"v"]]))
            except LogFull as error:
                replies.append(error)

        async with running(answers), trio.open_nursery() as nursery:
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            assert log.head == 0
            with pytest.raises(LogFull):
                await answers.propose(cells.start_proposal())
            await trio.testing.wait_all_tasks_blocked()
            assert [type(one) for one in replies] == [LogFull]
            log._limit_bytes = 1 << 20
            nursery.start_soon(write)
            await trio.testing.wait_all_tasks_blocked()
            await answers.propose(cells.start_proposal())
        assert replies[1:] == [["OK"]]
        (start, run) = [decode(entry) for entry in await log.read(0)]
        assert isinstance(start, Start)
        assert isinstance(run, Run)


async def fill(answers: Answers) -> None:
    """Write until the log takes no more."""
    with pytest.raises(LogFull):  # noqa: PT012  # which of them is refused, nobody knows
        while True:
            await answers.run_commands([[b"SET", b"k", bytes(100_000)]])


@pytest.mark.slow
async def test_a_hub_with_a_full_log_serves_its_keys_when_it_starts_again(tmp_path: Path) -> None:
    """That it is there has to go in; what its clients want to add has not."""
    log = LmdbLog(tmp_path / "log", map_bytes_max=2 << 20)
    for starts in range(3):
        cells = HubCells(tmp_path / "cells", log.generation, log.head, random=random.Random(starts))
        with closing(cells):
            async with running(Answers(cells, log)) as answers:
                await fill(answers)
                while not cells.is_started:  # noqa: ASYNC110  # it says so by being so
                    await trio.sleep(0.01)
                assert cells.run([b"STRLEN", b"k"]) == 100_000
    log.close()


async def test_damaged_files_of_the_keys_are_made_again(tmp_path: Path) -> None:
    """Of the log, with what the hub's own clients wrote: nobody has to tell anything again."""
    log, settings = LmdbLog(tmp_path / "log"), Settings()
    with closing(open_cells(settings, tmp_path, log)) as cells:
        async with running(make_answers(settings, cells, log)) as answers:
            assert await answers.run_commands([[b"SET", b"k", b"v"]]) == ["OK"]
            assert cells.is_started
        keyspace = cells.mark.keyspace
    (file,) = [path for path in (tmp_path / CELLS).iterdir() if path.stat().st_size > 8192]
    file.write_bytes(random.Random(1).randbytes(file.stat().st_size))
    with closing(open_cells(settings, tmp_path, log)) as cells:
        assert cells.position == 0
        async with running(make_answers(settings, cells, log)) as answers:
            assert await answers.run_commands([[b"GET", b"k"]]) == [b"v"]
        assert cells.mark.keyspace == keyspace
    assert (tmp_path / f"{CELLS}.damaged" / file.name).exists()
    await log.aclose()
