"""What is old stays as hours, and says what the parts said."""

from functools import partial
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from edgesync._native.window import Window
from edgesync.units import Seconds
from hubd.settings import RetentionSection
from hubd.state import State, StateDamaged, points, retention, tables, upkeep
from hubd.state.points import NOWHERE
from hubd.state.rollups import HOUR_NS, HOURS, MINUTE_NS, Bucket, Level, merge
from hubd.state.upkeep import passes
from hubd.state.windows import WindowQuery, page
from tests.hubd.conftest import kept_up, refusing
from tests.hubd.state.filled import HOURS_BEGIN, write_hours

pytestmark = pytest.mark.feature("L11")

START = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
SPAN = 5


def fill(state: State) -> dict[tuple[int, int], Window]:
    """Windows of a minute of two series; returns what each hour comes to."""
    random = Random(1)
    rows, hours = [], dict[tuple[int, int], Window]()
    for series in (1, -2):
        for minute in range(SPAN * 60):
            start = START + minute * MINUTE_NS
            window = Window()
            for second in range(0, 60, 7):
                at, value = start + second * 10**9, random.gauss(20, 5)
                window.add(at, value)
                hours.setdefault((series, start // HOUR_NS * HOUR_NS), Window()).add(at, value)
            rows.append(
                {"edge": "barn", "series": series, "width_ns": MINUTE_NS, "start_ns": start,
                 "revision": 1 + minute % 3, "data": window.encode()}
            )  # fmt: skip
    state.write_now(lambda c: c.execute(tables.windows.insert(), rows))
    return hours


def rows_of(state: State, table: sa.Table) -> list[Any]:
    return list(state.read_now(lambda c: c.execute(sa.select(table)).all()))


def stored(state: State) -> dict[tuple[int, int, int], Window]:
    rows = rows_of(state, tables.windows)
    return {(row.series, row.width_ns, row.start_ns): Window.decode(row.data) for row in rows}


def test_windows_older_than_that_are_hours(state: State) -> None:
    hours = fill(state)
    keep = RetentionSection(windows=Seconds(7200.0))
    kept_up(state, keep, START + SPAN * HOUR_NS + 5)
    found = stored(state)
    made = {key[::2]: one for key, one in found.items() if key[1] == HOUR_NS}
    assert made.keys() == {(s, START + n * HOUR_NS) for s in (1, -2) for n in range(SPAN - 2)}
    for key, window in made.items():
        whole = hours[key]
        assert (window.count, window.min, window.max) == (whole.count, whole.min, whole.max)
        assert (window.first, window.last) == (whole.first, whole.last)
        assert window.buckets() == whole.buckets()
        assert window.sum == pytest.approx(whole.sum, rel=1e-15)
    minutes = [start for _, width, start in found if width == MINUTE_NS]
    assert min(minutes) == START + (SPAN - 2) * HOUR_NS
    assert kept_up(state, keep, START + SPAN * HOUR_NS + 5) == 0


def test_what_comes_after_its_hour_was_made_is_not_counted_twice(state: State) -> None:
    fill(state)
    keep = RetentionSection(windows=Seconds(3600.0))
    now_ns = START + 2 * SPAN * HOUR_NS
    kept_up(state, keep, now_ns)
    before = stored(state)
    late = {"edge": "barn", "series": 1, "width_ns": MINUTE_NS, "start_ns": START, "revision": 9,
            "data": Window().encode()}  # fmt: skip
    state.write_now(lambda c: c.execute(tables.windows.insert(), late))
    kept_up(state, keep, now_ns)
    after = stored(state)
    assert after.keys() == before.keys() | {(1, MINUTE_NS, START)}
    assert after[1, HOUR_NS, START].count == before[1, HOUR_NS, START].count


def test_rollups_go_level_by_level(state: State) -> None:
    def buckets(width: int) -> list[Bucket]:
        starts = range(START, START + SPAN * HOUR_NS, width)
        return [Bucket(7, at, 1, 1.0, 1.0, 1.0, 1.0, 1.0, at, at) for at in starts]

    state.write_now(lambda c: merge(c, tables.rollup_1m, buckets(MINUTE_NS)))
    state.write_now(lambda c: merge(c, tables.rollup_1h, buckets(HOUR_NS)))
    now_ns = START + SPAN * HOUR_NS
    keep = RetentionSection(minutes=Seconds(3600.0), hours=Seconds(3 * 3600.0))
    kept_up(state, keep, now_ns)
    assert [len(rows_of(state, one)) for one in (tables.rollup_1m, tables.rollup_1h)] == [60, 3]
    assert kept_up(state, RetentionSection(), now_ns) == 0


def answers(state: State, series: int, level: Level) -> list[list[Bucket]]:
    def ask(connection: sa.Connection, ref: int) -> list[Bucket]:
        end = HOURS_BEGIN + 1000 * HOUR_NS
        return points.bucket_page(connection, level, ref, HOURS_BEGIN, end, NOWHERE[0], 1000)

    return [state.read_now(partial(ask, ref=ref)) for ref in range(1, series + 1)]


def times_of(state: State, ref: int) -> list[int]:
    return [one.time_ns for one in state.read_now(lambda c: list(points.all_points(c, ref)))]


@pytest.mark.slow
@pytest.mark.parametrize("are_compacted", [False, True])
def test_readings_that_go_leave_their_hours(state: State, are_compacted: bool) -> None:
    write_hours(state, 72, 3)
    if are_compacted:
        kept_up(state, RetentionSection(), HOURS_BEGIN + 96 * HOUR_NS)
    before = answers(state, 3, HOURS)
    assert len(before[0]) == 72
    keep = RetentionSection(readings=Seconds(36 * 3600.0))
    kept_up(state, keep, HOURS_BEGIN + 72 * HOUR_NS)
    assert answers(state, 3, HOURS) == before
    oldest = min(times_of(state, 2))
    if are_compacted:  # whole pages go
        assert HOURS_BEGIN < oldest <= HOURS_BEGIN + 36 * HOUR_NS
    else:
        assert oldest == HOURS_BEGIN + 36 * HOUR_NS
    assert kept_up(state, keep, HOURS_BEGIN + 72 * HOUR_NS) == 0


def test_readings_leave_no_hours_that_are_not_kept_longer(state: State) -> None:
    write_hours(state, 10, 1)
    keep = RetentionSection(readings=Seconds(3600.0), hours=Seconds(3600.0))
    kept_up(state, keep, HOURS_BEGIN + 10 * HOUR_NS)
    assert len(times_of(state, 1)) == 60
    assert not rows_of(state, tables.rollup_1h)


def test_a_page_goes_when_all_of_it_is_old(state: State) -> None:
    write_hours(state, 2, 2)
    keep = RetentionSection(readings=Seconds(3600.0))
    kept_up(state, keep, HOURS_BEGIN + 3 * HOUR_NS - 2 * 60 * 10**9)
    assert len(times_of(state, 1)) == 60


def test_a_step_is_bounded_by_work(state: State, monkeypatch: pytest.MonkeyPatch) -> None:
    """However much is to go: of rows of aggregates, of pages, and of the hours that they leave."""
    monkeypatch.setattr(retention, "ROWS_A_STEP", 10)
    monkeypatch.setattr(retention, "PAGES_A_STEP", 7)
    monkeypatch.setattr(retention, "SERIES_A_LOOK", 2)
    write_hours(state, 30, 3)
    starts = range(START, START + 25 * HOUR_NS, HOUR_NS)
    old = [Bucket(ref, at, 1, 1.0, 1.0, 1.0, 1.0, 1.0, at, at) for ref in (7, 8) for at in starts]
    young = [
        Bucket(ref, START + 1000 * HOUR_NS, 1, 1.0, 1.0, 1.0, 1.0, 1.0, 0, 0)
        for ref in range(10, 20)
    ]
    state.write_now(lambda c: merge(c, tables.rollup_1m, [*old, *young]))
    now_ns = HOURS_BEGIN + 60 * HOUR_NS
    assert now_ns < START + 1000 * HOUR_NS
    keep = RetentionSection(readings=Seconds(3600.0), minutes=Seconds(3600.0))
    counts = []
    for one in passes(keep, {}, now_ns):
        while not one.is_over:
            step = state.read_now(one.plan)
            if step is not None:
                before = counted(state)
                state.write_now(step)
                after = counted(state)
                counts.append([old - new for old, new in zip(before, after, strict=True)])
    assert counted(state) == (0, 10, 30 * 3)
    assert max(pages for pages, _, _ in counts) <= 7
    assert sum(minutes > 0 for _, minutes, _ in counts) == 5
    assert max(minutes for _, minutes, _ in counts) == 10
    assert max(-hours for _, _, hours in counts) <= 10 + 3 * 2


def counted(state: State) -> tuple[int, int, int]:
    """Return rows: pages, minutes, hours."""
    return (
        len(rows_of(state, tables.page)),
        len(rows_of(state, tables.rollup_1m)),
        len(rows_of(state, tables.rollup_1h)),
    )


async def test_while_the_database_refuses_nothing_is_thinned_and_nothing_ends(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(upkeep, "EVERY_S", 0.01)
    old = Bucket(7, START, 1, 1.0, 1.0, 1.0, 1.0, 1.0, START, START)
    state.write_now(lambda c: merge(c, tables.rollup_1m, [old]))
    refuse = refusing(state)
    refuse(True)
    async with trio.open_nursery() as nursery:
        keep = RetentionSection(minutes=Seconds(3600.0))
        nursery.start_soon(upkeep.keep_up, state, keep)
        while "no upkeep of the state for now" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert len(rows_of(state, tables.rollup_1m)) == 1
        refuse(False)
        while rows_of(state, tables.rollup_1m):  # noqa: ASYNC110
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()


def test_a_damaged_window_is_damage_of_the_state(state: State) -> None:
    """It is made again then. As what a record holds it ended upkeep, and the hub, at each start."""
    fill(state)
    rotten = tables.windows.update().where(tables.windows.c.start_ns == START)
    state.write_now(lambda c: c.execute(rotten.values(data=b"\xc1 rubbish")))
    with pytest.raises(StateDamaged, match="a window of 9 bytes"):
        kept_up(state, RetentionSection(windows=Seconds(7200.0)), START + SPAN * HOUR_NS + 5)
    wanted = WindowQuery(
        edge="barn", series=1, width_ns=MINUTE_NS, merge_ns=HOUR_NS, from_ns=START,
        to_ns=START + HOUR_NS,
    )  # fmt: skip
    with pytest.raises(StateDamaged, match="a window of 9 bytes"):
        state.read_now(lambda c: page(c, wanted, 10))
