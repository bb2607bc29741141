"""What an entry of the log stands for is bounded in work and memory, and so are names.

A kilobyte of packed columns may be a million readings. Parts of it are committed one by one, with
the cursor inside the entry; what is too large alone is skipped and shown.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hubd.project.base import apply_entries
from hubd.project.events import EventsProjector
from hubd.project.feed import PART_WORK, WORK_MAX, Feed
from hubd.project.feed import Cursor as FeedCursor
from hubd.project.flush import flush
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, open_state, views
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.project.bombs import events, hours, texts
from tests.hubd.project.test_follow import following

ROOT = Path(__file__).parents[3]
SECOND, HOUR = 10**9, 3600 * 10**9


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", b"g" * 16)
    yield state
    state.close()


def test_parts_are_bounded_and_begin_anywhere() -> None:
    entry = events(1, 20_000)
    projector = EventsProjector(Live())

    def numbers(done: int) -> list[int]:
        return [row["nth"] for part in projector.parts(entry, done) for row in part.content.events]

    whole = list(projector.parts(entry, 0))
    assert len(whole) > 3
    assert all(part.cost <= PART_WORK + 64 for part in whole)
    assert [part.is_last for part in whole] == [False] * (len(whole) - 1) + [True]
    assert numbers(0) == list(range(20_000))
    for done in (1, 9_999, 19_999, 20_000):
        assert numbers(done) == list(range(done, 20_000))


def test_a_transaction_takes_parts_up_to_its_bound() -> None:
    feed = Feed(
        TelemetryProjector(Live()), [hours(n, 5, 20_000) for n in (1, 2, 5, 9)], FeedCursor()
    )
    transactions, last = [], FeedCursor()
    while not feed.is_empty:
        transactions.append(sum(part.cost for part in feed.take()))
        last = feed.done()
    assert last == FeedCursor(9)
    assert 1 < len(transactions) < 8
    assert max(transactions) <= WORK_MAX


async def test_what_is_too_large_alone_is_skipped_with_its_reason(state: State) -> None:
    edge = Edge("shed")
    edge.readings(START_NS, {("meter", "Power"): 1.0})
    async with following(Shelf([texts(1, 500), edge.entry(2)]), state) as projectors:
        await projectors.reach(2)
    skips = state.read_now(lambda c: views.skips(c, 10))
    assert {(one.name, one.position) for one in skips} == {
        ("telemetry", 1), ("events", 1), ("windows", 1),
    }  # fmt: skip
    assert all("BatchTooLarge: batch payload passes its limits" in one.error for one in skips)
    assert state.read_now(views.totals)["shed"].readings == 1


def test_series_beyond_the_limit_are_refused_and_counted(state: State) -> None:
    projector = TelemetryProjector(Live(), limits=SeriesLimits(5))
    noisy, quiet = Edge("noisy"), Edge("quiet")
    for n in range(8):
        noisy.declare(("meter", f"P{n}"))
    noisy.readings(START_NS, {("meter", f"P{n}"): float(n) for n in range(8)})
    quiet.readings(START_NS, {("meter", f"P{n}"): float(n) for n in range(5)})
    entries = [noisy.entry(1), quiet.entry(2)]
    state.write_now(lambda c: apply_entries(projector, c, entries))
    noisy.readings(START_NS + 1, {("meter", "P0"): 1.0, ("meter", "P7"): 1.0})
    again = noisy.entry(3)
    # The limit is kept by the table, not by what one process remembers.
    restarted = TelemetryProjector(Live(), limits=SeriesLimits(5))
    state.write_now(restarted.begin)
    state.write_now(lambda c: apply_entries(restarted, c, [*entries, again]))
    totals = state.read_now(views.totals)
    assert (totals["noisy"].readings, totals["noisy"].refused) == (6, 4)
    assert (totals["noisy"].series, totals["quiet"].series) == (5, 5)
    assert totals["quiet"].refused == 0
    assert len(state.read_now(lambda c: views.series_of(c, "noisy", 0, 99))) == 5


def test_a_series_that_waited_enters_with_its_name_once_there_is_room(state: State) -> None:
    """It is declared once, and that was when there was none."""
    names = [("meter", f"P{n}") for n in range(8)]
    edge = Edge("barn")
    for name in names:
        edge.declare(name, "W")
    edge.readings(START_NS, dict.fromkeys(names, 1.0))
    declared = edge.entry(1)
    crowded = TelemetryProjector(Live(), limits=SeriesLimits(5))
    for projector in (crowded, EventsProjector(Live())):
        state.write_now(lambda c, p=projector: apply_entries(p, c, [declared]))  # type: ignore[misc]
    state.write_now(lambda c: flush(c, "barn", state.fresh.edges["barn"]))
    assert state.read_now(views.totals)["barn"].refused > 0
    roomy = TelemetryProjector(Live(), limits=SeriesLimits(10))
    state.write_now(roomy.begin)
    edge.readings(START_NS + 1, {names[7]: 2.0})
    later = edge.entry(2)
    state.write_now(lambda c: apply_entries(roomy, c, [later]))
    row = state.read_now(lambda c: views.find_series(c, "barn", *names[7]))
    assert row is not None
    assert (row.value, row.unit) == (2.0, "W")


def test_a_tenants_series_are_bounded_together_and_known_ones_go_on(state: State) -> None:
    def begin() -> TelemetryProjector:
        limits = SeriesLimits(10, 7, tenant_of=lambda edge: edge[0])
        projector = TelemetryProjector(Live(), limits=limits)
        state.write_now(projector.begin)
        return projector

    edges = {name: Edge(name) for name in ("a1", "a2", "b1")}
    projector, entries = begin(), []
    for position, edge in enumerate(edges.values(), 1):
        edge.readings(START_NS, {("meter", f"P{n}"): float(n) for n in range(5)})
        entries.append(edge.entry(position))
    state.write_now(lambda c: apply_entries(projector, c, entries))
    assert projector.limits.tenants == {"a": 7, "b": 5}
    assert [crowd.name for crowd in projector.limits.crowds()] == ["a"]
    edges["a2"].readings(START_NS + 1, {("meter", "P0"): 1.0, ("meter", "P4"): 1.0})
    entries.append(edges["a2"].entry(4))
    restarted = begin()
    state.write_now(lambda c: apply_entries(restarted, c, entries))
    totals = state.read_now(views.totals)
    assert {name: (one.series, one.refused) for name, one in totals.items()} == {
        "a1": (5, 0), "a2": (2, 4), "b1": (5, 0),
    }  # fmt: skip


def test_series_that_came_before_their_edge_was_known_count_as_its_tenants() -> None:
    owners: dict[str, str] = {}
    limits = SeriesLimits(10, 5, tenant_of=lambda edge: owners.get(edge, "default"))
    limits.load({"barn": 4})
    assert limits.tenants == {"default": 4}
    owners["barn"] = "north"
    assert limits.room("barn", 4, {}) == 1
    assert limits.room("shed", 0, {}) == 5
    assert +limits.tenants == {"north": 4}


def test_hostile_shapes_take_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own: its peak is what `VmHWM` says, not that of tests before."""
    command = [sys.executable, "-m", "tests.hubd.project.bombs", str(tmp_path / "state.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    grown = {shape: int(mib) for shape, mib in lines}
    assert set(grown) == {"hours", "series", "texts", "sealed", "windows", "events"}
    assert max(grown.values()) < 80, grown
