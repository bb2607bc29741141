"""Proposals on their way into the log: together, bounded, and each told what came of it."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from edgesync.errors import StoreError
from hubd.cells import proposals
from hubd.cells.proposals import LIFE, GiveUp, Proposal, Proposer, Start, hub_of
from hubd.log.base import Append, Appended, NotAppended
from hubd.log.memory import MemoryLog
from tests.hubd.log.test_contract import NOWHERE

pytestmark = pytest.mark.feature("S32")

START = Start(1, 1 << 30, bytes(16), bytes(16), False, 0, (), 1)


class GatedLog(MemoryLog):
    """A log that appends while its gate is open, and notes how much at once."""

    def __init__(self) -> None:
        super().__init__()
        self.gate = trio.Event()
        self.gate.set()
        self.groups: list[int] = []

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        await self.gate.wait()
        self.groups.append(len(batches))
        return await super().append(batches)


@asynccontextmanager
async def running(log: MemoryLog) -> AsyncIterator[Proposer]:
    """A proposer whose start is in the log, and who carries out what is."""
    proposer = Proposer(log, "default")

    async def follow() -> None:
        position = 0
        while True:
            await log.wait_beyond(position)
            for entry in await log.read(position):
                proposer.carried_out(entry, entry.position)
                position = entry.position
            proposer.passed(position)

    async with trio.open_nursery() as nursery:
        await nursery.start(proposer.run)
        nursery.start_soon(follow)
        await proposer.propose(START)
        yield proposer
        nursery.cancel_scope.cancel()


class Asking:
    """Those who propose, and what each was told."""

    def __init__(self, proposer: Proposer, nursery: trio.Nursery) -> None:
        self.results: list[int] = []
        self.errors: list[str] = []
        self._proposer, self._nursery = proposer, nursery

    async def propose(self, proposal: Proposal) -> None:
        self._nursery.start_soon(self._ask, proposal)
        await trio.testing.wait_all_tasks_blocked()

    async def _ask(self, proposal: Proposal) -> None:
        try:
            self.results.append(await self._proposer.propose(proposal))
        except StoreError as error:
            self.errors.append(str(error))


async def test_those_that_come_meanwhile_go_together_as_far_as_a_commit_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    log = GatedLog()
    one = GiveUp(("x" * 100,))
    monkeypatch.setattr(proposals, "GROUP_MAX", 3)
    async with running(log) as proposer, trio.open_nursery() as nursery:
        for most, groups in ((1 << 20, [1, 3, 3, 1]), (250, [1, 2, 2, 2, 1]), (10, [1] * 8)):
            monkeypatch.setattr(proposals, "GROUP_BYTES_MAX", most)
            log.gate, log.groups = trio.Event(), []
            asking = Asking(proposer, nursery)
            for _ in range(8):
                await asking.propose(one)
            log.gate.set()
            await trio.testing.wait_all_tasks_blocked()
            assert log.groups == groups
            assert sorted(asking.results) == list(range(log.head - 7, log.head + 1))


async def test_only_so_many_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proposals, "WAITING_MAX", 2)
    log = GatedLog()
    async with running(log) as proposer, trio.open_nursery() as nursery:
        log.gate = trio.Event()
        asking = Asking(proposer, nursery)
        for _ in range(4):  # one of them is under way
            await asking.propose(GiveUp(()))
        assert asking.errors == ["too many writes wait for the log; try again"]
        log.gate.set()
        await trio.testing.wait_all_tasks_blocked()
        assert len(asking.results) == 3


async def test_a_hub_that_another_one_has_taken_the_place_of_is_told_and_begins_anew() -> None:
    log = MemoryLog()
    async with running(log) as proposer:
        assert await proposer.propose(GiveUp(())) == 2
        await log.open_session(hub_of("default"), LIFE, NOWHERE)
        with pytest.raises(StoreError, match="a newer session has begun"):
            await proposer.propose(GiveUp(()))
        assert await proposer.propose(GiveUp(())) == 3


async def test_a_number_that_another_entry_has_is_not_waited_for() -> None:
    log = MemoryLog()
    async with running(log) as proposer:
        assert await proposer.propose(GiveUp(())) == 2
        proposer._floor -= 1
        with pytest.raises(StoreError, match="another entry has that number"):
            await proposer.propose(GiveUp(()))
        assert await proposer.propose(GiveUp(())) == 3


async def test_what_is_in_the_log_is_not_refused_with_the_rest_of_its_group() -> None:
    log = GatedLog()
    async with running(log) as proposer, trio.open_nursery() as nursery:
        assert await proposer.propose(GiveUp(())) == 2
        proposer._floor -= 1  # of the two that follow the first has a number that is taken
        asking, log.groups = Asking(proposer, nursery), []
        for _ in range(2):
            nursery.start_soon(asking.propose, GiveUp(()))
        await trio.testing.wait_all_tasks_blocked()
        assert log.groups == [2]
        assert asking.results == [3]
        (error,) = asking.errors
        assert "another entry has that number" in error
        assert await proposer.propose(GiveUp(())) == 4


async def test_one_that_was_passed_by_before_its_append_returned_is_told() -> None:
    log = MemoryLog()
    async with running(log) as proposer:
        append = log.append

        async def append_slowly(batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
            proposer._edge = "another"  # its entry cannot be read
            answers = await append(batches)
            await trio.testing.wait_all_tasks_blocked()
            return answers

        log.append = append_slowly  # type: ignore[method-assign]
        with trio.fail_after(5), pytest.raises(StoreError, match="cannot be read, and is skipped"):
            await proposer.propose(GiveUp(()))


async def test_nobody_waits_for_a_proposer_that_does_not_run() -> None:
    with pytest.raises(StoreError, match="it starts or stops"):
        await Proposer(MemoryLog(), "default").propose(START)
