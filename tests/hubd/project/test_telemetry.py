"""The telemetry projector against plain Python, with crashes in between."""

import contextlib
import math
from collections import defaultdict
from collections.abc import Sequence
from functools import partial

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync.model import Value, series_id
from hubd.log.base import Entry
from hubd.project.base import apply_entries
from hubd.project.cursors import read_cursor
from hubd.project.feed import Cursor
from hubd.project.live import Live, Update, Watcher
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, open_state, points, views
from hubd.state.rollups import HOUR_NS, HOURS, MINUTES, Bucket
from tests.hubd.batches import START_NS, Edge, Name

SERIES: dict[Name, st.SearchStrategy[Value]] = {
    ("meter", "Power"): st.floats(-1e6, 1e6, width=32) | st.just(math.nan) | st.just(math.inf),
    ("meter", "Count"): st.integers(-(1 << 40), 1 << 40),
    ("door", "IsOpen"): st.booleans(),
    ("door", "Note"): st.sampled_from(["", "left open", "€"]),
}
SECOND = 10**9
Readings = list[tuple[int, dict[Name, Value]]]
RECORDS = st.lists(
    st.tuples(
        # Late, early and equal times, across minutes and hours, also before 1970.
        st.integers(-200, 200).map(lambda n: n * 27 * SECOND)
        | st.integers(0, 5).map(lambda n: START_NS + n * SECOND),
        st.fixed_dictionaries({}, optional=SERIES),
    ),
    max_size=30,
)
BATCHES = st.lists(st.tuples(RECORDS, st.booleans()), max_size=8)


HOW = ["ok", "ok", "dies", "restarts", "stores", "stores and dies"]
# By then an hour is over for every edge.
LATER_NS = START_NS + 3 * HOUR_NS


class Crash(Exception):
    """The process dies before the transaction is committed."""


def project(
    state: State,
    projector: TelemetryProjector,
    log: Sequence[Entry],
    limit: int,
    *,
    dies: bool = False,
) -> bool:
    """One transaction of a projector; returns whether there was anything to do."""

    def change(connection: sa.Connection) -> bool:
        entries = [entry for entry in log if entry.position > projector.position][:limit]
        if entries:
            apply_entries(projector, connection, entries)
            projector.move(connection, Cursor(entries[-1].position))
        if dies:
            raise Crash
        return bool(entries)

    try:
        has_more = state.write_now(change)
    except Crash:
        projector.undone()
        return True
    projector.committed()
    return has_more


def store_all(state: State, projector: TelemetryProjector, *, dies: bool = False) -> None:
    """Write out all that is fresh."""

    def change(connection: sa.Connection) -> None:
        projector.store(connection, is_idle=True)
        if dies:
            raise Crash

    with contextlib.suppress(Crash):
        state.write_now(change)


def start(state: State, live: Live) -> TelemetryProjector:
    """A projector of a hub that starts: nothing is in memory."""
    projector = TelemetryProjector(live, clock_ns=lambda: LATER_NS)
    state.write_now(projector.begin)
    return projector


@settings(max_examples=60, suppress_health_check=list(HealthCheck))
@given(
    BATCHES,
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(HOW)), max_size=12),
    st.integers(1, 12),
    st.sampled_from([1, 3, 1 << 40]),
)
def test_whatever_crashes_every_reading_is_there_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[tuple[Readings, bool]],
    steps: list[tuple[int, str]],
    chunk: int,
    dense: int,
) -> None:
    state = open_state(tmp_path_factory.mktemp("state") / "state.db", b"g" * 16)
    edge, log = Edge("barn"), []
    for position, (records, is_declared) in enumerate(batches, 1):
        if is_declared:
            for name in SERIES:
                edge.declare(name, "unit")
        for time_ns, values in records:
            edge.readings(time_ns, values)
        edge.event(100)  # a batch is never empty
        log.append(edge.entry(position * 3))
    live = Live()
    projector = start(state, live)
    with pytest.MonkeyPatch.context() as patch:
        # Pages of few runs, runs of few points, and aggregates as rows of some series.
        patch.setattr("hubd.state.pages.RUNS_MAX", 2)
        patch.setattr("hubd.state.points.CHUNK_POINTS", chunk)
        patch.setattr("hubd.project.flush.RUN_POINTS", chunk)
        patch.setattr("hubd.state.rollups.HOURS", HOURS._replace(dense=dense))
        patch.setattr("hubd.state.rollups.MINUTES", MINUTES._replace(dense=dense))
        for limit, how in steps:
            if how == "restarts":
                projector = start(state, live)
            if how in ("stores", "stores and dies"):
                store_all(state, projector, dies=how == "stores and dies")
            else:
                project(state, projector, log, limit, dies=how == "dies")
        while project(state, projector, log, 3):
            pass
        try:
            records = [one for some, _ in batches for one in some]
            state.read_now(lambda c: compare(c, records))
            store_all(state, projector)
            state.read_now(lambda c: compare(c, records))
            assert state.read_now(lambda c: read_cursor(c, "telemetry").position) == (
                projector.position
            )
            start(state, live)
            state.read_now(lambda c: compare(c, records))
        finally:
            state.close()


def compare(connection: sa.Connection, records: Readings) -> None:
    arrived: dict[Name, list[tuple[int, Value]]] = defaultdict(list)
    for time_ns, values in records:
        for name, value in values.items():
            arrived[name].append((time_ns, value))
    rows = {row.series: row for row in views.series_of(connection, "barn", 0, 100)}
    assert set(rows) == {series_id(*name) for name in arrived}
    for name, wanted in arrived.items():
        row = rows[series_id(*name)]
        found = [(p.time_ns, p.value) for p in points.all_points(connection, row.ref)]
        assert list(map(repr, found)) == list(map(repr, wanted))
        assert row.points == len(wanted)
        newest = max(time for time, _ in wanted)
        last = [value for time, value in wanted if time == newest][-1]
        assert (row.time_ns, repr(row.value)) == (newest, repr(last))
        compare_rollups(connection, row.ref, wanted)
    total = views.totals(connection).get("barn", views.Totals(edge="barn"))
    assert total.readings == sum(map(len, arrived.values()))


def compare_rollups(connection: sa.Connection, ref: int, arrived: list[tuple[int, Value]]) -> None:
    for level in (MINUTES, HOURS):
        width = level.width_ns
        buckets: dict[int, list[tuple[int, float]]] = defaultdict(list)
        for time_ns, value in arrived:
            if not isinstance(value, str) and math.isfinite(value):
                buckets[time_ns - time_ns % width].append((time_ns, float(value)))
        rows: list[Bucket] = []
        while page := points.bucket_page(
            connection, level, ref, -(1 << 63), (1 << 63) - 1, rows[-1].start_ns if rows else
            -(1 << 63), 3,
        ):  # fmt: skip
            rows += page
        assert [row.start_ns for row in rows] == sorted(buckets)
        for row in rows:
            inside = buckets[row.start_ns]
            by_time = sorted(inside, key=lambda one: one[0])
            values = [value for _, value in inside]
            assert row.points == len(inside)
            assert (row.min, row.max) == (min(values), max(values))
            assert row.sum == pytest.approx(math.fsum(values), abs=1e-3)
            assert (row.first_ns, row.first) == by_time[0]
            assert (row.last_ns, row.last) == by_time[-1]


def test_a_series_may_change_its_type_and_keeps_its_order(state: State) -> None:
    edge = Edge("barn")
    name = ("plc", "Register")
    log = []
    given_values: list[Value] = [1, 2, 2.5, "n/a", True, 3]
    for position, value in enumerate(given_values, 1):
        edge.readings(START_NS + position, {name: value})
        log.append(edge.entry(position))
    project(state, start(state, Live()), log, 99)
    (row,) = state.read_now(lambda c: views.series_of(c, "barn", 0, 9))
    found = state.read_now(lambda c: list(points.all_points(c, row.ref)))
    assert list(map(repr, given_values)) == [repr(point.value) for point in found]
    state.close()


def test_readings_are_kept_before_their_series_has_a_name(state: State) -> None:
    edge = Edge("barn")
    name = ("scale", "Weight")
    edge.readings(START_NS, {name: 412.5})
    projector = start(state, Live())
    log = [edge.entry(1)]
    project(state, projector, log, 9)
    (row,) = state.read_now(lambda c: views.series_of(c, "barn", 0, 9))
    assert (row.entity, row.key, row.value) == ("", "", 412.5)
    edge.declare(name, "kg")
    log.append(edge.entry(2))
    project(state, projector, log, 9)
    found = state.read_now(lambda c: views.find_series(c, "barn", *name))
    assert found is not None
    assert (found.ref, found.unit, found.value) == (row.ref, "kg", 412.5)
    state.close()


def test_equal_names_on_two_edges_are_two_series(state: State) -> None:
    log = []
    for position, (edge_name, value) in enumerate([("barn", 1.0), ("shop", 2.0)], 1):
        edge = Edge(edge_name)
        edge.declare(("meter", "Power"))
        edge.readings(START_NS, {("meter", "Power"): value})
        log.append(edge.entry(position))
    project(state, start(state, Live()), log, 9)
    for edge_name, value in (("barn", 1.0), ("shop", 2.0)):
        (row,) = state.read_now(partial(views.series_of, edge=edge_name, after=0, limit=9))
        assert row.value == value
    state.close()


def test_a_watcher_hears_the_newest_reading_after_the_commit(state: State) -> None:
    live = Live()
    projector = start(state, live)
    edge = Edge("barn")
    edge.declare(("meter", "Power"), "W")
    for second in range(5):
        edge.readings(START_NS + second, {("meter", "Power"): float(second)})
    log = [edge.entry(1)]
    with live.watch("barn") as watcher, live.watch("shop") as elsewhere:
        project(state, projector, log, 9, dies=True)
        assert watcher.take() == ([], set())
        project(state, projector, log, 9)
        ((update,), _) = watcher.take()
        assert (update.value, update.points, update.unit) == (4.0, 5, "W")
        assert elsewhere.take() == ([], set())
    state.close()


def test_a_reading_is_offered_to_watchers_of_its_edge_and_made_once_for_all(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    offered = []
    offer = Watcher.offer

    def noting(watcher: Watcher, update: Update) -> None:
        offered.append(watcher)
        offer(watcher, update)

    monkeypatch.setattr(Watcher, "offer", noting)
    live = Live()
    projector = start(state, live)
    edge = Edge("barn")
    edge.declare(("meter", "Power"), "W")
    edge.readings(START_NS, {("meter", "Power"): 1.5})
    with contextlib.ExitStack() as stack:
        barn, fleet = stack.enter_context(live.watch("barn")), stack.enter_context(live.watch())
        for other in ("shop", "mill"):
            stack.enter_context(live.watch(other))
        stack.enter_context(live.watch("barn", readings=False))
        project(state, projector, [edge.entry(1)], 9)
        assert set(offered) == {barn, fleet}
        assert len(offered) == 2
        ((mine,), _), ((everyones,), _) = barn.take(), fleet.take()
        assert b'"value":1.5' in mine.json
        assert mine.json is everyones.json
    assert not live.watchers
    assert not live.watches("barn")
    state.close()
