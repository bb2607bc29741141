"""Entries that bring a projector nothing cost it no transaction, and are safe with the next."""

import contextlib
import math
import tempfile
from collections.abc import Callable, Sequence, Set
from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.model import RecordKind
from hubd.log.base import Entry
from hubd.project import base, cursors
from hubd.project.cursors import read_cursor
from hubd.state import State, open_state, views
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


@pytest.mark.parametrize("watched", ["", "by a page", "by a stream"])
async def test_small_batches_of_known_series_take_no_transaction(
    state: State, monkeypatch: pytest.MonkeyPatch, watched: str
) -> None:
    monkeypatch.setattr(cursors, "REST_S", math.inf)
    edge = Edge("barn")
    edge.declare(NAME)
    shelf = Shelf(readings_of(edge, [1]))
    async with following(shelf, state) as projectors:
        await projectors.reach(1)
        applied = list[str]()
        for one in projectors.all:
            monkeypatch.setattr(one, "apply", partial(noting, applied, one.name, one.apply))
        live = projectors.all[0]._live  # type: ignore[attr-defined]
        is_told = watched == "by a stream"
        watch = live.watch("barn", readings=is_told)
        with watch if watched else contextlib.nullcontext() as watcher:
            for position in (2, 3):
                shelf.put(*readings_of(edge, [position]))
                await projectors.reach(position)
            if watcher is not None:
                told = [3.0] if is_told else []
                assert [one.value for one in watcher.take()[0]] == told
        # What a stream is told has a name, which is looked up.
        assert applied == (["telemetry"] * 2 if is_told else [])
        assert newest(state) == [("m", "P", 3.0, START_NS + 3)]
        assert state.read_now(views.totals)["barn"].readings == 3


@given(
    picked=st.lists(st.integers(0, 9), min_size=1, max_size=12),
    cuts=st.sets(st.integers(1, 12)),
)
@settings(max_examples=20, deadline=None)
def test_what_is_taken_without_a_transaction_is_what_one_would_make(
    picked: list[int], cuts: set[int]
) -> None:
    def made(light: int) -> object:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(base, "LIGHT_ENTRIES", light)
            return trio.run(projected, picked, cuts)

    assert made(16) == made(0)


def noting(applied: list[str], name: str, apply: Callable[..., None], *arguments: object) -> None:
    applied.append(name)
    apply(*arguments)


def newest(state: State) -> object:
    found = state.read_now(lambda c: views.series_of(c, "barn", 0, 100))
    return [(one.entity, one.key, one.value, one.time_ns) for one in found]


async def projected(picked: Sequence[int], cuts: Set[int]) -> object:
    """What a state makes of entries of all kinds that come in portions."""
    edge, shelf = Edge("barn"), Shelf()
    with tempfile.TemporaryDirectory() as folder:
        state = open_state(Path(folder) / "state.db", shelf.generation)
        try:
            async with following(shelf, state) as projectors:
                for position, kind in enumerate(picked, start=1):
                    shelf.put(entry_of(edge, position, kind))
                    if position in cuts:
                        await projectors.reach(position)
                await projectors.reach(len(picked))
                # Which projector comes first is no matter.
                events = state.read_now(lambda c: views.events(c, views.EventFilter(), None, 100))
                skips = state.read_now(lambda c: views.skips(c, 100))
                return (
                    state.read_now(views.totals),
                    newest(state),
                    sorted(msgspec.structs.astuple(one)[1:6] for one in events),
                    sorted(msgspec.structs.astuple(one) for one in skips),
                    [one.skipped for one in projectors.progress],
                )
        finally:
            state.close()


def entry_of(edge: Edge, position: int, kind: int) -> Entry:
    now = START_NS + position
    match kind:
        case 0:
            edge.event(100)
        case 1:
            edge.declare(NAME, "W")
        case 2:
            edge.readings(now, {("new", str(position)): 1, NAME: 0.5})
        case 3:
            edge.readings(now, {NAME: 1.5, ("m", "on"): True, ("m", "text"): "warm"})
            edge.event(100)
        case 4:
            edge.readings(now, {("m", "text"): "x" * 20_000})
        case 5:
            return edge.gap(position, 2, "given up")
        case 6:
            return edge.refused(position, b"\xff", "no batch")
        case 7:
            edge.readings(now, {NAME: 1.0})
            return msgspec.structs.replace(edge.entry(position), payload=b"\xff" * 40)
        case 8:
            edge.record(RecordKind.WINDOWS, b"no window")
        case _:
            edge.readings(now, {NAME: float(position)})
    return edge.entry(position)
