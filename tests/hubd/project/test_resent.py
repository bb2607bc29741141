"""Readings that an edge sends once more: what the state has is counted, what it lacks is added."""

import array
import math
from collections.abc import Mapping, Sequence

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync import resend
from edgesync.errors import RecordError
from edgesync.model import RecordKind, Value, ValueType, series_id
from edgesync.resend import Run
from hubd.project.base import apply_entries
from hubd.project.events import EventsProjector
from hubd.project.feed import WORK_MAX, Cursor, Feed, Part
from hubd.project.limits import SeriesLimits
from hubd.project.live import Live
from hubd.project.resent import Count
from hubd.project.telemetry import TelemetryProjector
from hubd.state import State, open_state, views
from tests.hubd.batches import START_NS, Edge, Name, type_of
from tests.hubd.project.test_telemetry import (
    HOW,
    RECORDS,
    SECOND,
    Readings,
    compare,
    project,
    start,
    store_all,
)

pytestmark = pytest.mark.feature("S30")

POWER = ("meter", "Power")


def run_of(name: Name, points: Sequence[tuple[int, Value]], *, as_floats: bool = False) -> Run:
    """Readings of one type as a run; the point store of an edge makes floats of all numbers."""
    kind = type_of(points[0][1])
    times = array.array("q", [time_ns for time_ns, _ in points])
    values = [value for _, value in points]
    if kind is ValueType.TEXT:
        return Run(series_id(*name), kind, times, list(map(str, values)))
    if as_floats or kind is ValueType.F64:
        return Run(series_id(*name), ValueType.F64, times, array.array("d", map(float, values)))
    return Run(series_id(*name), kind, times, array.array("q", map(int, values)))


def bodies(records: Sequence[tuple[int, Mapping[Name, Value]]], *, as_floats: bool) -> list[bytes]:
    """RESENT records of all these readings: each within a day, so one for each time here."""
    found = []
    for time_ns, values in records:
        if values:
            runs = [
                run_of(name, [(time_ns, value)], as_floats=as_floats and not isinstance(value, str))
                for name, value in values.items()
            ]
            found.append(resend.encode(runs))
    return found


def once(records: Readings) -> Readings:
    """The records, without readings that equal an earlier one."""
    seen: set[tuple[int, Name, str]] = set()
    found: Readings = []
    for time_ns, values in records:
        new = {}
        for name, value in values.items():
            key = time_ns, name, value if isinstance(value, str) else repr(float(value) + 0.0)
            if key not in seen:
                seen.add(key)
                new[name] = value
        found.append((time_ns, new))
    return found


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=list(HealthCheck))
@given(
    st.lists(RECORDS, min_size=1, max_size=4),
    RECORDS,
    st.lists(st.tuples(st.integers(1, 4), st.sampled_from(HOW)), max_size=12),
    st.booleans(),
)
def test_whatever_is_sent_again_is_there_once_whatever_crashes(
    tmp_path_factory: pytest.TempPathFactory,
    batches: list[Readings],
    lacking: Readings,
    steps: list[tuple[int, str]],
    as_floats: bool,
) -> None:
    state = open_state(tmp_path_factory.mktemp("state") / "state.db", b"g" * 16)
    edge, log = Edge("barn"), []
    known: Readings = []
    for position, records in enumerate(batches, 1):
        for time_ns, values in once([*known, *records])[len(known) :]:
            known.append((time_ns, values))
            edge.readings(time_ns, values)
        edge.event(100)
        log.append(edge.entry(position))
    # All that is there, twice and with other readings between, and what the hub has never had.
    new = once([*known, *lacking])[len(known) :]
    for again in (bodies(known, as_floats=as_floats), bodies([*new, *known], as_floats=False)):
        for body in again:
            edge.record(RecordKind.RESENT, body)
        edge.event(100)
        log.append(edge.entry(len(log) + 1))
    projector = start(state, Live())
    for limit, how in steps:
        if how == "restarts":
            projector = start(state, Live())
        if how in ("stores", "stores and dies"):
            store_all(state, projector, dies=how == "stores and dies")
        else:
            project(state, projector, log, limit, dies=how == "dies")
    while project(state, projector, log, 2):
        pass
    try:
        expected = [*known, *new]
        state.read_now(lambda c: compare(c, expected))
        store_all(state, projector)
        state.read_now(lambda c: compare(c, expected))
    finally:
        state.close()


def some(edge: Edge, count: int) -> Readings:
    records: Readings = [(START_NS + n * SECOND, {POWER: float(n)}) for n in range(count)]
    for time_ns, values in records:
        edge.readings(time_ns, values)
    return records


def test_what_was_known_is_counted(state: State) -> None:
    edge, projector = Edge("barn"), start(state, Live())
    records = some(edge, 10)
    first = edge.entry(1)
    new: tuple[int, dict[Name, Value]] = (START_NS + 60 * SECOND, {POWER: 60.0})
    for body in bodies([*records, new], as_floats=True):
        edge.record(RecordKind.RESENT, body)
    assert project(state, projector, [first, edge.entry(2)], 9)
    known = [*records, new]
    state.read_now(lambda c: compare(c, known))
    assert projector.resent["barn"] == Count(readings=11, known=10)


def test_readings_refused_for_want_of_room_are_taken_when_they_come_again(state: State) -> None:
    edge = Edge("barn")
    edge.declare(("door", "Note"), "")
    edge.declare(POWER, "W")
    edge.readings(START_NS, {("door", "Note"): "open"})
    edge.readings(START_NS + SECOND, {POWER: 1.0})
    log = [edge.entry(1)]
    state.write_now(lambda c: apply_entries(EventsProjector(Live()), c, log))
    projector = TelemetryProjector(Live(), limits=SeriesLimits(edge_max=1))
    state.write_now(projector.begin)
    project(state, projector, log, 9)
    store_all(state, projector)
    state.read_now(lambda c: compare(c, [(START_NS, {("door", "Note"): "open"})]))
    projector = start(state, Live())  # with room for more
    edge.record(RecordKind.RESENT, bodies([(START_NS + SECOND, {POWER: 1.0})], as_floats=False)[0])
    project(state, projector, [*log, edge.entry(2)], 9)
    records: Readings = [
        (START_NS, {("door", "Note"): "open"}), (START_NS + SECOND, {POWER: 1.0})
    ]  # fmt: skip
    state.read_now(lambda c: compare(c, records))
    names = state.read_now(lambda c: [row.key for row in views.series_of(c, "barn", 0, 9)])
    assert sorted(names) == ["Note", "Power"]


def test_one_that_cannot_be_read_is_listed_and_costs_nothing_else(state: State) -> None:
    edge, projector = Edge("barn"), start(state, Live())
    records = some(edge, 3)
    edge.record(RecordKind.RESENT, b"\x93\x01\x00\x91\x92\x01\xc4\x01\x00")
    entry = edge.entry(1)
    project(state, projector, [entry], 9)
    state.read_now(lambda c: compare(c, records))
    events = EventsProjector(Live())
    state.write_now(lambda c: apply_entries(events, c, [entry]))
    found = state.read_now(lambda c: views.totals(c))["barn"]
    assert found.events == 1


def test_an_entry_full_of_them_is_taken_in_several_transactions(state: State) -> None:
    """Each record has history looked up; others wait for one transaction at most."""
    edge, projector = Edge("barn"), start(state, Live())
    for nth in range(12):
        edge.record(RecordKind.RESENT, resend.encode([
            run_of(("m", f"K{key}"), [(START_NS + nth, 1.0)]) for key in range(resend.SERIES_MAX)
        ]))  # fmt: skip
    entry = edge.entry(1)
    feed, transactions = Feed(projector, [entry], Cursor()), 0
    while not feed.is_empty:
        parts = feed.take()
        assert sum(part.cost for part in parts) <= WORK_MAX

        def change(connection: sa.Connection, parts: Sequence[Part] = parts) -> None:
            projector.apply(connection, parts)
            projector.move(connection, feed.after())

        state.write_now(change)
        assert feed.after().part_of == 0 or not projector.is_due(is_idle=True)
        feed.done()
        transactions += 1
    assert transactions >= 3
    assert projector.resent["barn"] == Count(readings=12 * resend.SERIES_MAX)


RUN = run_of(POWER, [(0, 1.0)])
BAD = {
    "no runs": [],
    "too many series": [RUN] * (resend.SERIES_MAX + 1),
    "too many points": [run_of(POWER, [(0, 1.0)] * (resend.POINTS_MAX + 1))],
    "a span of days": [run_of(POWER, [(0, 1.0), (resend.SPAN_NS + 1, 1.0)])],
    "no such type": [RUN._replace(vtype=9)],
}


@pytest.mark.parametrize("name", BAD)
def test_a_record_has_bounds(name: str) -> None:
    with pytest.raises(RecordError):
        resend.encode(BAD[name])


def test_a_record_comes_back_as_it_was() -> None:
    runs = [
        run_of(POWER, [(5, 1.5), (-5, math.inf)]),
        run_of(("door", "Note"), [(1, "€"), (2, "")]),
        run_of(("door", "IsOpen"), [(1, True)]),
        run_of(("meter", "Count"), [(1, -(1 << 62))]),
    ]
    assert resend.decode(resend.encode(runs)) == runs
    whole = resend.encode(runs)
    for nth in range(len(whole)):
        with pytest.raises(RecordError):
            resend.decode(whole[:nth])
    with pytest.raises(RecordError, match="version 2"):
        resend.decode(whole.replace(b"\x93\x01", b"\x93\x02", 1))
