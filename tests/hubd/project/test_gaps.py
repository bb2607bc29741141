"""A log that has dropped its oldest entries, and a state that has not read them."""

import os
import time

import msgspec
import pytest
import sqlalchemy as sa
import trio
import trio.testing

from hubd.project.cursors import read_cursor
from hubd.project.gaps import read_gaps
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.project.readers import ProjectorReaders
from hubd.state import State, views
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.conftest import Opener
from tests.hubd.project.test_follow import entries_of, following

pytestmark = pytest.mark.feature("S32")

NAMES = ["events", "telemetry", "windows"]


def gaps_of(state: State) -> list[tuple[str, int, int, int]]:
    return [
        (gap.projector, gap.after, gap.until, gap.before_ns) for gap in state.read_now(read_gaps)
    ]


async def test_a_state_made_anew_begins_where_the_log_begins_and_says_so(
    opener: Opener,
) -> None:
    state = opener()
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3, 4, 5]))
    shelf.drop(3)
    async with following(shelf, state) as projectors:
        await projectors.reach(5)
    wanted = [(name, 0, 3, START_NS + 4) for name in NAMES]
    assert gaps_of(state) == wanted
    totals = state.read_now(views.totals)["barn"]
    assert (totals.readings, totals.events) == (2, 2)
    # It is known after a restart, and told once.
    state.close()
    again = opener()
    async with following(shelf, again) as projectors:
        await projectors.reach(5)
    assert gaps_of(again) == wanted


async def test_a_state_that_is_behind_the_log_lacks_what_lies_between(state: State) -> None:
    """As one that was put back from a copy, or a view that a newer version has added."""
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3, 4, 5]))
    head = Shelf(await shelf.read(0))
    head.cut(2)
    async with following(head, state) as projectors:
        await projectors.reach(2)
        press(state, projectors, 2)
        await stored(state, 2)
    shelf.drop(4)
    async with following(shelf, state) as projectors:
        await projectors.reach(5)
    assert gaps_of(state) == [(name, 2, 4, START_NS + 5) for name in NAMES]
    assert state.read_now(views.totals)["barn"].events == 3


async def test_where_nothing_is_missing_there_is_no_gap(state: State) -> None:
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3, 4]))
    async with following(shelf, state) as projectors:
        await projectors.reach(4)
        press(state, projectors, 4)
        await stored(state, 4)
    shelf.drop(3)
    async with following(shelf, state) as projectors:
        await projectors.reach(4)
    assert gaps_of(state) == []


def press(state: State, projectors: Projectors, position: int) -> None:
    ProjectorReaders(state, projectors).press(position)


async def stored(state: State, position: int) -> None:
    """Return once every projector has stored the log so far."""
    with trio.fail_after(20):
        while True:
            cursors = [state.read_now(lambda c, name=name: read_cursor(c, name)) for name in NAMES]  # type: ignore[misc]
            if min(cursor.position for cursor in cursors) >= position:
                return
            await trio.sleep(0.01)  # that is on another thread


async def test_readings_in_memory_are_stored_when_the_log_is_to_drop_them(state: State) -> None:
    """They would be for an hour; a quiet edge must not keep the log so long."""
    entries = [*entries_of(Edge("barn"), [1, 2, 3]), *entries_of(Edge("shop"), [4, 5, 6])]
    later_ns = time.time_ns() + 10**15  # not old yet, by any clock
    shelf = Shelf([msgspec.structs.replace(entry, stored_at_ns=later_ns) for entry in entries])
    async with following(shelf, state) as projectors:
        readers = ProjectorReaders(state, projectors)
        await projectors.reach(6)
        assert await readers.cursors() == {
            "projector telemetry": 0, "projector events": 6, "projector windows": 0
        }  # fmt: skip
        await trio.testing.wait_all_tasks_blocked()
        readers.press(2)
        await stored(state, 3)
        assert await readers.cursors() == {
            "projector telemetry": 3, "projector events": 6, "projector windows": 6
        }  # fmt: skip
        assert state.read_now(views.totals)["barn"].readings == 3


async def test_a_log_without_readings_does_not_wait_for_the_telemetry(state: State) -> None:
    edge, shelf = Edge("barn"), Shelf()
    for position in range(1, 9):
        edge.event(100)
        shelf.put(edge.entry(position))
    async with following(shelf, state) as projectors:
        await projectors.reach(8)
        press(state, projectors, 5)
        await stored(state, 8)


async def test_the_next_life_of_a_damaged_state_has_the_gap(state: State) -> None:
    shelf = Shelf(entries_of(Edge("barn"), [1, 2, 3, 4]))
    projectors = Projectors(Live())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_projectors, shelf, state, projectors)
        await projectors.reach(4)
        shelf.drop(2)
        began_ns, life = time.time_ns(), state.life
        state.report_damage(Exception("rotten"))
        await state.replaced(life)
        with trio.fail_after(20):
            while len(state.read_now(read_gaps)) < len(NAMES):  # noqa: ASYNC110  # in a thread
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()
    gaps = state.read_now(read_gaps)
    assert [(gap.projector, gap.until) for gap in gaps] == [(name, 2) for name in NAMES]
    assert all(gap.found_ns >= began_ns for gap in gaps)


async def test_a_cursor_counts_once_a_power_cut_cannot_take_it_back(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Commits of the state are not synced; what they have of the log would be gone with it."""
    synced: list[str] = []
    sync = os.fsync

    def recorded(descriptor: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
        sync(descriptor)

    monkeypatch.setattr("hubd.state.sync.os.fsync", recorded)
    state = opener()

    @sa.event.listens_for(state.engines.writer, "before_cursor_execute")
    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        if "synchronous_commit" in statement or statement.startswith("UPDATE meta"):
            synced.append(statement)

    async with following(Shelf(entries_of(Edge("barn"), [1])), state) as projectors:
        await projectors.reach(1)
        synced.clear()
        assert (await ProjectorReaders(state, projectors).cursors())["projector events"] == 1
    if opener.is_file:
        assert [path.rpartition("/")[2] for path in synced] == ["state.db-wal"]
    else:
        assert synced[0] == "SET LOCAL synchronous_commit = on"
        assert synced[1].startswith("UPDATE meta")  # a commit of nothing waits for nothing
