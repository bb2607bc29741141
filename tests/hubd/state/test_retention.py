"""What is old stays as hours, and says what the parts said."""

from random import Random
from typing import Any

import pytest
import sqlalchemy as sa
import trio

from edgesync._native.window import Window
from edgesync.units import Seconds
from hubd.settings import RetentionSection
from hubd.state import State, retention, tables
from hubd.state.retention import thin_out
from hubd.state.rollups import HOUR_NS, MINUTE_NS, Bucket, merge
from tests.hubd.conftest import refusing

pytestmark = pytest.mark.feature("L11")

START = 1_700_000_000 * 10**9 // HOUR_NS * HOUR_NS
HOURS = 5


def thin(state: State, keep: RetentionSection, now_ns: int) -> int:
    steps = 0
    while state.write_now(lambda c: thin_out(c, keep, now_ns)):
        steps += 1
    return steps


def fill(state: State) -> dict[tuple[int, int], Window]:
    """Windows of a minute of two series; returns what each hour comes to."""
    random = Random(1)
    rows, hours = [], dict[tuple[int, int], Window]()
    for series in (1, -2):
        for minute in range(HOURS * 60):
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
    thin(state, keep, START + HOURS * HOUR_NS + 5)
    found = stored(state)
    made = {key[::2]: one for key, one in found.items() if key[1] == HOUR_NS}
    assert made.keys() == {(s, START + n * HOUR_NS) for s in (1, -2) for n in range(HOURS - 2)}
    for key, window in made.items():
        whole = hours[key]
        assert (window.count, window.min, window.max) == (whole.count, whole.min, whole.max)
        assert (window.first, window.last) == (whole.first, whole.last)
        assert window.buckets() == whole.buckets()
        assert window.sum == pytest.approx(whole.sum, rel=1e-15)
    minutes = [start for _, width, start in found if width == MINUTE_NS]
    assert min(minutes) == START + (HOURS - 2) * HOUR_NS
    assert thin(state, keep, START + HOURS * HOUR_NS + 5) == 0


def test_what_comes_after_its_hour_was_made_is_not_counted_twice(state: State) -> None:
    fill(state)
    keep = RetentionSection(windows=Seconds(3600.0))
    now_ns = START + 2 * HOURS * HOUR_NS
    thin(state, keep, now_ns)
    before = stored(state)
    late = {"edge": "barn", "series": 1, "width_ns": MINUTE_NS, "start_ns": START, "revision": 9,
            "data": Window().encode()}  # fmt: skip
    state.write_now(lambda c: c.execute(tables.windows.insert(), late))
    thin(state, keep, now_ns)
    after = stored(state)
    assert after.keys() == before.keys() | {(1, MINUTE_NS, START)}
    assert after[1, HOUR_NS, START].count == before[1, HOUR_NS, START].count


def test_rollups_go_level_by_level(state: State) -> None:
    def buckets(width: int) -> list[Bucket]:
        starts = range(START, START + HOURS * HOUR_NS, width)
        return [Bucket(7, at, 1, 1.0, 1.0, 1.0, 1.0, 1.0, at, at) for at in starts]

    state.write_now(lambda c: merge(c, tables.rollup_1m, buckets(MINUTE_NS)))
    state.write_now(lambda c: merge(c, tables.rollup_1h, buckets(HOUR_NS)))
    now_ns = START + HOURS * HOUR_NS
    keep = RetentionSection(minutes=Seconds(3600.0), hours=Seconds(3 * 3600.0))
    thin(state, keep, now_ns)
    assert [len(rows_of(state, one)) for one in (tables.rollup_1m, tables.rollup_1h)] == [60, 3]
    assert thin(state, RetentionSection(), now_ns) == 0


async def test_while_the_database_refuses_nothing_is_thinned_and_nothing_ends(
    state: State, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(retention, "EVERY_S", 0.01)
    old = Bucket(7, START, 1, 1.0, 1.0, 1.0, 1.0, 1.0, START, START)
    state.write_now(lambda c: merge(c, tables.rollup_1m, [old]))
    refuse = refusing(state)
    refuse(True)
    async with trio.open_nursery() as nursery:
        keep = RetentionSection(minutes=Seconds(3600.0))
        nursery.start_soon(retention.keep_thinning, state, keep)
        while "nothing is thinned out for now" not in caplog.text:  # noqa: ASYNC110
            await trio.sleep(0.001)
        assert len(rows_of(state, tables.rollup_1m)) == 1
        refuse(False)
        while rows_of(state, tables.rollup_1m):  # noqa: ASYNC110
            await trio.sleep(0.001)
        nursery.cancel_scope.cancel()
