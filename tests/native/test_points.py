"""Columns taken apart are what the plain path makes of the same readings."""

import array
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native import batch
from edgesync._native.intake import stage
from edgesync._native.points import latest, parts
from edgesync._native.write import Write
from edgesync.errors import RecordError
from edgesync.model import Lane, ValueType
from edgesync.store.journal import EdgeStore
from tests.native.journalled import bodies

pytestmark = pytest.mark.feature("L10")

SERIES = 5
INT64 = st.integers(-(1 << 63), (1 << 63) - 1)
TIMES = st.one_of(st.integers(0, 4), INT64)
ROWS = st.lists(st.tuples(st.integers(0, SERIES - 1), TIMES, st.floats()), max_size=60)
Rows = list[tuple[int, int, float]]


def columns(rows: Rows) -> tuple["array.array[int]", "array.array[int]", "array.array[float]"]:
    return (
        array.array("I", [row[0] for row in rows]),
        array.array("q", [row[1] for row in rows]),
        array.array("d", [row[2] for row in rows]),
    )


@given(st.lists(INT64, max_size=9))
def test_the_latest_of_times_is_their_maximum(times: list[int]) -> None:
    assert latest(array.array("q", times)) == max(times, default=-(1 << 63))


@given(ROWS)
def test_each_series_gets_its_readings_in_order(rows: Rows) -> None:
    wanted: dict[int, Rows] = defaultdict(list)
    for row in rows:
        wanted[row[0]].append(row)
    found = parts(*columns(rows), SERIES)
    assert [part.place for part in found] == sorted(wanted)
    for part in found:
        _, times, values = columns(wanted[part.place])
        assert part.times == times
        assert part.values.tobytes() == values.tobytes()
        assert (part.earliest, part.latest, len(part)) == (min(times), max(times), len(times))
        assert part.newest == max(range(len(times)), key=lambda i: (times[i], i))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[EdgeStore]:
    with EdgeStore(tmp_path / "store", sync="none") as opened:
        yield opened


@given(ROWS, st.integers(1, 7))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_records_are_those_of_the_plain_path(store: EdgeStore, rows: Rows, limit: int) -> None:
    ids = array.array("Q", [(1 << 63) + 7 * n for n in range(SERIES)])
    groups: dict[int, tuple[list[int], list[float]]] = {}
    for place, time_ns, value in rows:
        numbers, values = groups.setdefault(time_ns, ([], []))
        numbers.append(ids[place])
        values.append(value)
    wanted = [
        batch.readings(
            time_ns, ValueType.F64, numbers[at : at + limit], values[at : at + limit]
        )
        for time_ns, (numbers, values) in groups.items()
        for at in range(0, len(numbers), limit)
    ]  # fmt: skip
    places, times, column = columns(rows)
    write = Write()
    stage(write, Lane.BULK, places, ids, times, column, limit)
    assert write.appends == (0, 0, len(wanted))
    assert write.nbytes == sum(map(len, wanted))
    assert bodies(store, write) == wanted


def test_columns_that_do_not_belong_together_are_refused() -> None:
    places, times, values = columns([(0, 1, 1.0), (1, 2, 2.0)])
    with pytest.raises(RecordError, match="2 series, 1 times and 2 values"):
        parts(places, times[:1], values, 2)
    with pytest.raises(RecordError, match="series 1 of 1"):
        parts(places, times, values, 1)
    with pytest.raises(RecordError, match="0 readings in a record"):
        stage(Write(), Lane.BULK, places, array.array("Q", [1, 2]), times, values, 0)
