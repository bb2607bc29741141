"""Questions of edges about the hub's keys, at the hub."""

from contextlib import closing
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio
import trio.testing

from edgesync._native.write import Write
from edgesync.errors import StoreError
from edgesync.store.commit import Tails
from edgesync.sync.puller import entries_of
from edgesync_transport.link import Peer
from edgesync_transport.messages import DeltaSync, FullSync, Message, Pull
from edgesync_transport.receiver import Receiver
from hubd.cells import Answers, HubCells
from hubd.cells import answers as module
from hubd.cells.store import PAGE_KEYS, PAGE_TURNS
from hubd.log.memory import MemoryLog
from tests.hubd.keys import open_answers, running
from tests.sites import until

pytestmark = pytest.mark.feature("L8")


async def test_a_question_that_comes_while_the_hub_stops_is_not_answered(tmp_path: Path) -> None:
    told: list[Message] = []

    async def send(_peer: Peer, message: Message) -> None:
        told.append(message)

    def ask() -> None:
        pull = Pull(epoch=1, token=1, keyspace=bytes(16), replica=1, base=0, after=0, made=0)
        answers.ask(Peer(route=b"r", edge="till"), pull, Receiver("till"), send)

    with open_answers(tmp_path) as answers:
        async with trio.open_nursery() as nursery:
            await nursery.start(answers.run)
            ask()
            while not told:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
            ask()
        count = len(told)
        ask()
        await trio.testing.wait_all_tasks_blocked()
    assert len(told) == count


async def test_edges_are_told_nothing_before_the_start_is_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What they would confirm is of a start that nobody will know of: has_told."""
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    log = MemoryLog()
    told: list[FullSync | DeltaSync] = []

    async def send(_peer: Peer, message: Message) -> None:
        assert isinstance(message, FullSync | DeltaSync)
        told.append(message)

    def ask(answers: Answers, replica: int, keyspace: bytes) -> None:
        pull = Pull(epoch=1, token=1, keyspace=keyspace, replica=replica, base=0, after=0, made=0)
        answers.ask(Peer(route=b"r", edge="till"), pull, Receiver("till"), send)

    async def until_told(count: int) -> None:
        with trio.fail_after(5):
            while len(told) < count:  # noqa: ASYNC110  # a message comes when it comes
                await trio.sleep(0.01)

    for start in (1, 2):
        cells = HubCells(tmp_path, log.generation, log.head, random=Random(start))
        with closing(cells):
            limit, log._limit_bytes = log._limit_bytes, 0 if start == 2 else log._limit_bytes
            async with running(Answers(cells, log)) as answers:
                named = told[-1] if told else None
                ask(answers, *(named.replica, named.keyspace) if named else (7, bytes(16)))
                if start == 2:  # it has a name, and nothing is lacking
                    await trio.sleep(0.1)
                    assert len(told) == 1
                    log._limit_bytes = limit
                await until_told(start)
                assert told[-1].start == cells.start


async def test_what_an_edge_has_taken_is_not_kept_while_it_waits_for_more(tmp_path: Path) -> None:
    """A large value would be in memory once for each edge of a fleet."""
    told: list[FullSync | DeltaSync] = []

    async def send(_peer: Peer, message: Message) -> None:
        assert isinstance(message, FullSync | DeltaSync)
        told.append(message)

    with open_answers(tmp_path) as answers:
        async with running(answers):
            await answers.run_commands([[b"set", b"k", Random(1).randbytes(600_000)]])

            async def ask(count: int, **more: Any) -> FullSync | DeltaSync:
                named = told[-1] if told else None
                whose = (named.replica, named.keyspace) if named else (7, bytes(16))
                facts = {"token": 1, "base": 0, "after": 0, "made": 0, **more}
                pull = Pull(epoch=1, replica=whose[0], keyspace=whose[1], **facts)
                answers.ask(Peer(route=b"r", edge="till"), pull, Receiver("till"), send)
                await until(lambda: len(told) == count)
                return told[-1]

            await ask(1)
            first = await ask(2, token=2)
            assert first.parts == 3
            for part in (1, 2):
                assert (await ask(2 + part, token=2, part=part)).parts == 3
            assert answers._asking["till"].page is not None  # it may have been lost on the way
            at = {"base": first.position, "after": first.position}
            async with trio.open_nursery() as nursery:
                nursery.start_soon(partial(ask, 5, token=3, wait_s=60.0, **at))
                await until(lambda: answers._asking["till"].page is None)
                assert len(told) == 4
                nursery.cancel_scope.cancel()


async def test_a_page_is_made_of_keys_that_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A key that a refused commit took back in the middle of a page was not told: as if removed."""
    monkeypatch.setattr(module, "RETRY_S", 0.01)
    told: list[FullSync | DeltaSync] = []
    turned, taken_back = trio.Event(), trio.Event()

    async def send(_peer: Peer, message: Message) -> None:
        assert isinstance(message, FullSync | DeltaSync)
        told.append(message)

    with open_answers(tmp_path) as answers:
        cells = answers.cells
        submit = cells._own.submit

        async def refuse(write: Write) -> Tails:
            cells._own.submit = submit  # type: ignore[method-assign]
            await turned.wait()
            raise StoreError("no space left on the device")

        async def wait_for_refusal(_took_s: float) -> None:
            turned.set()
            await taken_back.wait()

        def note(_generation: int, error: StoreError | None) -> None:
            if error is not None:
                taken_back.set()

        def ask(token: int, **named: Any) -> None:
            pull = Pull(epoch=1, token=token, base=0, after=0, made=0, **named)
            answers.ask(Peer(route=b"r", edge="till"), pull, Receiver("till"), send)

        async with running(answers):
            names = [b"%d" % number for number in range(2 * PAGE_KEYS // PAGE_TURNS)]
            await answers.run_commands([[b"SET", name, b"v"] for name in names])
            ask(1, keyspace=bytes(16), replica=7)
            await until(lambda: bool(told))
            named = {"keyspace": told[-1].keyspace, "replica": told.pop().replica}
            answers.between_turns = wait_for_refusal
            cells.on_commit(note)
            cells._own.submit = refuse  # type: ignore[method-assign]
            await answers.run_commands([[b"SET", names[0], b"w"]])
            ask(2, **named)
            await taken_back.wait()
            await answers.reach_told()
            if not told:  # it asks again
                ask(3, **named)
            await until(lambda: bool(told))
            assert {one.key for one in entries_of(told[-1])} == set(names)
