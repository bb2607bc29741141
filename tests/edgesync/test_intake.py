"""Readings become records: grouped, declared once, refused whole."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.errors import RecordError, TooManySeries
from edgesync.intake import READINGS_PER_RECORD, Intake
from edgesync.model import EventType, Lane, Reading, RecordKind, Value, ValueType, series_id
from edgesync.store.journal import EdgeStore
from edgesync.store.series import Series, SeriesTable

pytestmark = pytest.mark.feature("F4", "S2")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    with EdgeStore(tmp_path / "store") as opened:
        yield opened


def ingest(store: EdgeStore, intake: Intake, *readings: Reading) -> None:
    write = Write()
    staged = intake.stage(write, readings)
    store.submit_sync(write)
    intake.confirm(staged.declared)


def records(store: EdgeStore) -> list[batch.Record]:
    return batch.records(store.read(Lane.BULK, 1).data)


def points(store: EdgeStore) -> list[tuple[int, int, Value]]:
    found: list[tuple[int, int, Value]] = []
    for record in records(store):
        if record.kind == RecordKind.READINGS:
            time_ns, _, series, values = batch.parse_readings(record.body)
            found += [(one, time_ns, value) for one, value in zip(series, values, strict=True)]
    return found


def declared(store: EdgeStore) -> list[str]:
    return [
        event.decode(record.body)[4].decode()
        for record in records(store)
        if record.kind == RecordKind.EVENT and event.decode(record.body)[0] == EventType.SERIES
    ]


def test_readings_of_one_time_and_type_share_a_record(store: EdgeStore) -> None:
    readings = [Reading(f"m{n}", "P", float(n), 5) for n in range(READINGS_PER_RECORD + 1)]
    ingest(store, Intake(store.series), *readings)
    kinds = [record.kind for record in records(store)]
    assert kinds.count(RecordKind.READINGS) == 2
    assert len(points(store)) == READINGS_PER_RECORD + 1


def test_a_series_is_declared_once_and_before_its_first_use(store: EdgeStore) -> None:
    intake = Intake(store.series)
    for n in range(3):
        ingest(store, intake, Reading("m", "P", float(n), n, unit="W"))
    assert len(declared(store)) == 1
    assert '"unit":"W"' in declared(store)[0]
    assert records(store)[0].kind == RecordKind.EVENT
    again = Intake(store.series)
    ingest(store, again, Reading("m", "P", 4.0, 4, unit="W"))
    ingest(store, again, Reading("m", "P", 5.0, 5))
    assert len(declared(store)) == 1


def test_a_whole_number_joins_a_series_of_floats(store: EdgeStore) -> None:
    intake = Intake(store.series)
    ingest(store, intake, Reading("m", "P", 1.5, 1), Reading("m", "P", 2, 2))
    assert [value for _, _, value in points(store)] == [1.5, 2.0]
    assert len(declared(store)) == 1


@pytest.mark.parametrize(
    ("reading", "words"),
    [
        (Reading("", "P", 1.0, 1), "1 to 255 characters"),
        (Reading("m", "k" * 256, 1.0, 1), "1 to 255 characters"),
        (Reading("m", "P", 1 << 63, 1), "64-bit"),
        (Reading("m", "P", 1.0, 1 << 63), "time_ns"),
        (Reading("m", "P", "x" * 17_000, 1), "16384 bytes"),
        (Reading("m", "P", None, 1), "not NoneType"),  # type: ignore[arg-type]
    ],
)
def test_a_reading_that_cannot_be_stored_is_named(
    store: EdgeStore, reading: Reading, words: str
) -> None:
    with pytest.raises(RecordError, match=words):
        Intake(store.series).stage(Write(), [Reading("m", "good", 1.0, 1), reading])


NAMES = st.sampled_from(["a", "b", "ü", "x y"])
VALUES: st.SearchStrategy[Value] = st.one_of(
    st.floats(), st.integers(-(1 << 63), (1 << 63) - 1), st.booleans(), st.text(max_size=50)
)
READINGS = st.builds(Reading, NAMES, NAMES, VALUES, st.integers(0, 5))


@pytest.mark.slow
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(READINGS, max_size=40))
def test_what_goes_in_comes_out(tmp_path: Path, readings: list[Reading]) -> None:
    with EdgeStore(tmp_path / str(len(list(tmp_path.iterdir())))) as store:
        ingest(store, Intake(store.series), *readings)
        found = points(store)
    expected = [(series_id(r.entity, r.key), r.time_ns, r.value) for r in readings]

    def plain(rows: list[tuple[int, int, Value]]) -> list[tuple[int, int, str]]:
        # As text: nan equals itself, True is 1, and 2 in a series of floats is 2.0.
        return sorted(
            (series, at, value if isinstance(value, str) else repr(_number(value)))
            for series, at, value in rows
        )

    assert plain(found) == plain(expected)


def _number(value: float | int | bool) -> float | int:
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value) if math.copysign(1, value) > 0 or value else value
    return int(value) if isinstance(value, bool) else value


def test_types_of_records_are_those_of_the_values(store: EdgeStore) -> None:
    values: list[Value] = [1.5, 7, True, "on"]
    readings = [Reading("m", f"k{n}", value, 1) for n, value in enumerate(values)]
    ingest(store, Intake(store.series), *readings)
    kinds = [
        batch.parse_readings(record.body)[1]
        for record in records(store)
        if record.kind == RecordKind.READINGS
    ]
    assert kinds == [ValueType.F64, ValueType.I64, ValueType.BOOL, ValueType.TEXT]


def test_names_are_limited_and_known_ones_go_on(store: EdgeStore) -> None:
    intake = Intake(store.series, series_max=3)
    ingest(store, intake, *(Reading("m", f"k{n}", 1.0, n) for n in range(3)))
    with pytest.raises(TooManySeries, match=r"m/k3: this edge has 3 series.*\[series\] max"):
        intake.stage(Write(), [Reading("m", "k0", 2.0, 9), Reading("m", "k3", 1.0, 9)])
    ingest(store, intake, Reading("m", "k0", 2.0, 9))
    mixed = [Reading("m", f"k{n}", 3.0, 10) for n in range(6)]
    assert [one.key for one in intake.within_limit(mixed)] == ["k0", "k1", "k2"]
    assert intake.refused == 3
    assert len(store.series) == 3


def test_a_call_that_is_refused_takes_up_no_room(store: EdgeStore) -> None:
    intake = Intake(store.series, series_max=3)
    with pytest.raises(TooManySeries):
        intake.stage(Write(), [Reading("m", f"k{n}", 1.0, n) for n in range(4)])
    with pytest.raises(RecordError):
        intake.stage(Write(), [Reading("m", "a", 1.0, 1), Reading("m", "b", None, 1)])  # type: ignore[arg-type]
    ingest(store, intake, *(Reading("n", f"k{n}", 1.0, n) for n in range(3)))
    assert len(store.series) == 3


def test_a_series_that_is_known_is_neither_declared_again_nor_mistaken(store: EdgeStore) -> None:
    first = Intake(store.series)
    ingest(store, first, Reading("m", "P", 1.5, 1, "W"), Reading("m", "N", 1, 1))
    again = Intake(store.series)  # as after a restart: known, but nothing was declared here
    for intake in (first, again):
        for time_ns in (2, 3):
            ingest(store, intake, *(
                Reading("m", key, value, time_ns, unit)
                for key, value, unit in [("P", 2.5, "W"), ("P", 2, ""), ("N", 3, ""), ("P", 9.0, "")]  # noqa: E501
            ))  # fmt: skip
    assert len(declared(store)) == 2
    numbers = {series_id("m", "P"), series_id("m", "N")}
    assert {number for number, _, _ in points(store)} == numbers
    assert all(type(v) is float for n, _, v in points(store) if n == series_id("m", "P"))
    write = Write()
    with pytest.raises(RecordError, match="64-bit"):
        first.stage(write, [Reading("m", "N", 3, 4), Reading("m", "N", 1 << 63, 4)])
    ingest(store, first, Reading("m", "P", 1.0, 5, "kW"))
    assert len(declared(store)) == 3, "another unit is told"


SERIES_KINDS = {"f": ValueType.F64, "i": ValueType.I64, "b": ValueType.BOOL}
OF_KIND: dict[str, st.SearchStrategy[Value]] = {
    "f": st.floats() | st.integers(-(1 << 53), 1 << 53),
    "i": st.integers(-(1 << 63), (1 << 63) - 1),
    "b": st.booleans(),
}
KNOWN = st.sampled_from(["f", "i", "b"]).flatmap(
    lambda key: st.builds(
        Reading, st.sampled_from(["m", "n"]), st.just(key), OF_KIND[key],
        st.integers(0, 3) | st.integers(-(1 << 63), (1 << 63) - 1), st.sampled_from(["", "W"]),
    )
)  # fmt: skip


def knowing(table: SeriesTable) -> Intake:
    intake = Intake(table)
    for entity in ("m", "n"):
        for key, kind in SERIES_KINDS.items():
            intake.confirm([Series(entity, key, "W", kind)])
    return intake


@pytest.mark.slow
@given(st.lists(KNOWN, max_size=40))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_readings_that_need_no_look_make_the_records_of_those_that_do(
    store: EdgeStore, readings: list[Reading]
) -> None:
    intake = knowing(store.series)
    fast, plain = Write(), Write()
    declared, newest = intake.stage(fast, readings)
    assert newest is not None
    assert len(newest) == len(readings)
    assert declared == ()
    assert intake._stage_each(plain, readings) == []
    assert (fast.nbytes, fast.appends) == (plain.nbytes, plain.appends)
    before = store.state(Lane.BULK).tail
    store.submit_sync(fast)
    store.submit_sync(plain)
    bodies = [one.body for one in batch.records(store.read(Lane.BULK, before + 1).data)]
    half = len(bodies) // 2
    assert bodies[:half] == bodies[half:]
    assert len(bodies) == sum(fast.appends) * 2


@pytest.mark.parametrize(
    "reading",
    [
        Reading("m", "new", 1.0, 1),
        Reading("m", "f", 1.0, 1, unit="kW"),
        Reading("m", "f", True, 1),
        Reading("m", "f", (1 << 53) + 1, 1),
        Reading("m", "f", 1 << 64, 1),
        Reading("m", "f", "1", 1),
        Reading("m", "i", 1.0, 1),
        Reading("m", "i", True, 1),
        Reading("m", "i", 1 << 63, 1),
        Reading("m", "b", 1, 1),
        Reading("m", "f", 1.0, 1 << 63),
        Reading("m", "f", 1.0, True),
        Reading("m", "f", 1.0, 1.5),  # type: ignore[arg-type]
    ],
)
def test_what_is_not_stored_as_it_is_needs_a_look(store: EdgeStore, reading: Reading) -> None:
    ready, write = knowing(store.series).ready, Write()
    assert ready.stage(write, Lane.BULK, [Reading("m", "f", 1.0, 1), reading], 120) is None
    assert len(write) == 0
    assert ready.stage(write, Lane.BULK, [Reading("m", "f", 1.0, 1)], 120) is not None
    assert len(write) == 1


def test_after_a_fork_every_series_is_declared_again(store: EdgeStore) -> None:
    intake = knowing(store.series)
    reading = Reading("m", "f", 1.0, 1, unit="W")
    write = Write()
    assert intake.stage(write, [reading]).declared == ()
    store.series.forget_told(b"another")
    staged = intake.stage(write, iter([reading]))
    assert staged == ([Series("m", "f", "W", ValueType.F64)], None)
