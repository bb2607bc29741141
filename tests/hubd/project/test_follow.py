"""Following the log: bad entries are skipped and shown, a refusing database is waited for."""

import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import msgspec
import pytest
import trio

from hubd.log.base import Entry
from hubd.project import base
from hubd.project.base import Health, Source
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.state import State, views
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.conftest import refusing

NAME = ("meter", "Power")


def entries_of(edge: Edge, positions: Sequence[int]) -> list[Entry]:
    made = []
    for position in positions:
        edge.readings(START_NS + position, {NAME: float(position)})
        edge.event(100)
        made.append(edge.entry(position))
    return made


@asynccontextmanager
async def following(shelf: Source, state: State) -> AsyncIterator[Projectors]:
    projectors = Projectors(Live())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_projectors, shelf, state, projectors)
        yield projectors
        nursery.cancel_scope.cancel()


async def test_each_projector_follows_what_is_there_and_what_comes(state: State) -> None:
    edge = Edge("barn")
    shelf = Shelf(entries_of(edge, [1, 2, 5]))
    async with following(shelf, state) as projectors:
        await projectors.reach(5)
        shelf.put(*entries_of(edge, [9]))
        await projectors.reach(9)
    totals = state.read_now(views.totals)["barn"]
    assert (totals.readings, totals.events) == (4, 4)
    # A second life goes on where the first ended.
    shelf.put(*entries_of(edge, [10]))
    async with following(shelf, state) as projectors:
        await projectors.reach(10)
    totals = state.read_now(views.totals)["barn"]
    assert (totals.readings, totals.events) == (5, 5)


async def test_a_poisoned_entry_is_skipped_and_its_neighbours_are_not(state: State) -> None:
    edge = Edge("barn")
    first, second, third = entries_of(edge, [1, 2, 3])
    poison = msgspec.structs.replace(second, payload=b"\xff" * 40)
    async with following(Shelf([first, poison, third]), state) as projectors:
        await projectors.reach(3)
        for progress in projectors.progress:
            assert progress.skipped == 1
            assert progress.health is Health.FOLLOWING
            assert "RecordError" in progress.error
    assert state.read_now(views.totals)["barn"].readings == 2
    skips = state.read_now(lambda c: views.skips(c, 10))
    assert {(skip.name, skip.position, skip.edge) for skip in skips} == {
        ("telemetry", 2, "barn"),
        ("events", 2, "barn"),
        ("windows", 2, "barn"),
    }
    # What was skipped is known after a restart, too.
    async with following(Shelf([first, poison, third]), state) as projectors:
        await projectors.reach(3)
        assert [one.skipped for one in projectors.progress] == [1, 1, 1]


async def test_a_database_that_refuses_is_waited_for_and_nothing_is_skipped(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "RETRY_DELAYS_S", (0.01,))
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3]))
    refuse = refusing(state)
    refuse(True)
    async with following(shelf, state) as projectors:
        for one in projectors.progress:
            await one.until(Health.FAILING)
            assert re.search("read-?only", one.error)
        refuse(False)
        await projectors.reach(3)
        assert [one.skipped for one in projectors.progress] == [0, 0, 0]
    assert state.read_now(views.totals)["barn"].readings == 3
