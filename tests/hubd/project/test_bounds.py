"""What an entry of the log stands for is bounded in work and memory, and so are names.

A kilobyte of packed columns may be a million readings. Parts of it are committed one by one, with
the cursor inside the entry; what is too large alone is skipped and shown.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio

from hubd.project import Live, TelemetryProjector, apply_entries
from hubd.project.base import read_cursor
from hubd.project.directory import Directory
from hubd.project.feed import PART_WORK, WORK_MAX, Feed
from hubd.project.feed import Cursor as FeedCursor
from hubd.state import State, open_state, points, views
from tests.hubd.batches import START_NS, Edge, Shelf
from tests.hubd.project.bombs import hours, texts
from tests.hubd.project.test_follow import following

ROOT = Path(__file__).parents[3]
SECOND, HOUR = 10**9, 3600 * 10**9


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", b"g" * 16)
    yield state
    state.close()


async def test_an_entry_is_committed_in_parts_and_continued_inside_after_a_restart(
    tmp_path: Path,
) -> None:
    count = 70_000
    shelf = Shelf([hours(1, 10, count // 10), hours(2, 1, 3, edge="shed")])
    state = open_state(tmp_path / "state.db", b"g" * 16)
    async with following(shelf, state) as projectors:
        cursor = FeedCursor()
        while not cursor.done:
            await trio.sleep(0.001)
            cursor = state.read_now(lambda c: read_cursor(c, "telemetry"))
            assert cursor.position < 2, "an entry of this size has to be committed in parts"
        assert cursor.part_of == 1
        assert projectors.progress[0].position == 0
    state.close()
    state = open_state(tmp_path / "state.db", b"g" * 16)
    held = state.read_now(views.totals)["barn"].readings
    assert 0 < held < count
    async with following(shelf, state) as projectors:
        await projectors.reach(2)
        assert [one.skipped for one in projectors.progress] == [0, 0, 0]
    assert state.read_now(lambda c: read_cursor(c, "telemetry")) == FeedCursor(2)
    totals = state.read_now(views.totals)
    assert (totals["barn"].readings, totals["shed"].readings) == (count, 3)
    for row in state.read_now(lambda c: views.series_of(c, "barn", 0, 99)):
        ref = row.ref
        found = state.read_now(lambda c, ref=ref: list(points.all_points(c, ref)))  # type: ignore[misc]
        assert [point.time_ns for point in found] == [
            START_NS + nth * HOUR for nth in range(count // 10)
        ]
    state.close()


@pytest.mark.parametrize("columns", [True, False])
def test_parts_are_bounded_and_begin_anywhere(columns: bool) -> None:
    entry = hours(1, 7, 20_000, columns=columns)
    projector = TelemetryProjector(Live())
    whole = list(projector.parts(entry, 0))
    assert len(whole) > 5
    assert all(part.cost <= PART_WORK + 5 * 16384 for part in whole)
    assert [part.is_last for part in whole] == [False] * (len(whole) - 1) + [True]
    wanted = [(series, *piece) for part in whole for series, piece in part.content.pieces]

    def flat(pieces: list[tuple[int, int, object, object]]) -> list[tuple[int, int, object]]:
        return [
            (series, time, value)
            for series, _, times, values in pieces
            for time, value in zip(times, values, strict=True)  # type: ignore[call-overload]
        ]

    points_of_all = flat(wanted)
    for done in (1, 19_999, 20_000, 20_001, 65_536, 139_999):
        rest = [
            (s, *piece) for part in projector.parts(entry, done) for s, piece in part.content.pieces
        ]
        assert flat(rest) == points_of_all[done:]


def test_a_transaction_takes_parts_up_to_its_bound() -> None:
    feed = Feed(
        TelemetryProjector(Live()), [hours(n, 1, 20_000) for n in (1, 2, 5, 9)], FeedCursor()
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
    projector = TelemetryProjector(Live(), series_max=5)
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
    fresh = TelemetryProjector(Live(), series_max=5)
    state.write_now(lambda c: apply_entries(fresh, c, [again]))
    totals = state.read_now(views.totals)
    assert (totals["noisy"].readings, totals["noisy"].refused) == (6, 4)
    assert (totals["noisy"].series, totals["quiet"].series) == (5, 5)
    assert totals["quiet"].refused == 0
    assert len(state.read_now(lambda c: views.series_of(c, "noisy", 0, 99))) == 5


def test_caches_hold_what_was_needed_lately(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    from hubd.project import append, directory

    monkeypatch.setattr(directory, "CACHED_MAX", 4)
    monkeypatch.setattr(append, "CACHED_MAX", 4)
    projector = TelemetryProjector(Live())
    edge = Edge("barn")
    for position in (1, 2, 3):
        edge.readings(START_NS + position, {("meter", f"P{n}"): float(n) for n in range(9)})
        entry = edge.entry(position)
        state.write_now(lambda c, entry=entry: apply_entries(projector, c, [entry]))  # type: ignore[misc]
        projector.committed()
        assert len(projector._directory._known) == 4
        assert len(projector._tails._known) == 4
    rows = state.read_now(lambda c: views.series_of(c, "barn", 0, 99))
    assert [row.points for row in rows] == [3] * 9


def test_a_directory_counts_what_others_have_entered(state: State) -> None:
    entered = 2
    for _ in range(2):
        directory = Directory(2)
        found, entered = state.write_now(lambda c, d=directory: d.find(c, "barn", [7, 8, 9]))  # type: ignore[misc]
        assert sorted(found) == [7, 8]
    assert entered == 0


def test_hostile_shapes_take_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own: its peak is what `VmHWM` says, not that of tests before."""
    command = [sys.executable, "-m", "tests.hubd.project.bombs", str(tmp_path / "state.db")]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    grown = {shape: int(mib) for shape, mib in lines}
    assert set(grown) == {"hours", "series", "texts", "sealed", "windows", "events"}
    assert max(grown.values()) < 80, grown
