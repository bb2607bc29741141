"""Entries that bring a projector nothing cost it no transaction, and are safe with the next."""

import math
from collections.abc import Sequence

import pytest
import trio
import trio.testing

from hubd.log.base import Entry
from hubd.project import cursors
from hubd.project.cursors import read_cursor
from hubd.state import State, views
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.project.test_follow import following

pytestmark = pytest.mark.feature("S32")

NAME = ("m", "P")


def readings_of(edge: Edge, positions: Sequence[int]) -> list[Entry]:
    made = []
    for position in positions:
        edge.readings(START_NS + position, {NAME: float(position)})
        made.append(edge.entry(position))
    return made


def position_of(state: State, name: str) -> int:
    return state.read_now(lambda c: read_cursor(c, name)).position


async def stored(state: State, name: str, position: int) -> None:
    with trio.fail_after(60):
        while position_of(state, name) < position:  # noqa: ASYNC110 - that is on another thread
            await trio.sleep(0.01)


async def test_readings_bring_events_nothing_until_the_log_rests(state: State) -> None:
    edge = Edge("barn")
    shelf = Shelf(readings_of(edge, [1, 2, 3]))
    async with following(shelf, state) as projectors:
        await projectors.reach(3)
        shelf.put(*readings_of(edge, [4]))
        await projectors.reach(4)
        assert (
            state.read_now(views.totals)["barn"].stored_at_ns
            == (await shelf.read(3))[0].stored_at_ns
        )
        await stored(state, "events", 4)
        await stored(state, "windows", 4)


async def test_the_next_event_brings_the_cursor_along(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "REST_S", math.inf)
    edge = Edge("barn")
    shelf = Shelf(readings_of(edge, [1, 2, 3]))
    async with following(shelf, state) as projectors:
        await projectors.reach(3)
        await trio.testing.wait_all_tasks_blocked()
        assert (position_of(state, "events"), position_of(state, "windows")) == (0, 0)
        edge.event(100)
        shelf.put(edge.entry(4))
        await projectors.reach(4)
        await trio.testing.wait_all_tasks_blocked()
        assert (position_of(state, "events"), position_of(state, "windows")) == (4, 0)
    # Whoever goes on reads them again, and nothing comes of it.
    async with following(shelf, state) as projectors:
        await projectors.reach(4)
        totals = state.read_now(views.totals)["barn"]
        assert (totals.readings, totals.events) == (3, 1)


async def test_a_log_that_never_rests_is_stored_all_the_same(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cursors, "REST_S", math.inf)
    monkeypatch.setattr(cursors, "UNSTORED_MAX", 3)
    edge = Edge("barn")
    shelf = Shelf(readings_of(edge, [1, 2]))
    async with following(shelf, state) as projectors:
        await projectors.reach(2)
        await trio.testing.wait_all_tasks_blocked()
        assert position_of(state, "windows") == 0
        shelf.put(*readings_of(edge, [3, 4]))
        await stored(state, "windows", 3)
        await stored(state, "events", 3)
