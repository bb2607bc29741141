"""Fresh points come back as they were put in, in the order of their arrival."""

import array
import gc
import sys
import threading
from collections.abc import Sequence
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native import batch
from edgesync._native.memtable import Memtable
from edgesync.model import RecordKind, Value, ValueType
from edgesync_transport.messages import Lane
from tests.native.rowsmith import Draft, make_rows
from tests.native.tables import table as made

I64 = st.integers(-(1 << 63), (1 << 63) - 1)
VALUES: dict[ValueType, st.SearchStrategy[Value]] = {
    ValueType.F64: st.floats(allow_nan=True),
    ValueType.I64: I64,
    ValueType.BOOL: st.booleans(),
    ValueType.TEXT: st.text(max_size=5),
}
NEVER = -(1 << 63)


class Column(NamedTuple):
    series: int
    vtype: int
    points: list[tuple[int, Value]]


@st.composite
def columns(draw: st.DrawFn) -> Column:
    vtype = draw(st.sampled_from(ValueType))
    points = draw(st.lists(st.tuples(I64, VALUES[vtype]), min_size=1, max_size=20))
    return Column(draw(st.integers(0, 40)), vtype, points)


def plain(vtype: int, value: Value) -> str:
    return repr(int(value) if vtype == ValueType.BOOL else value)


def flat(runs: Sequence[tuple[int, int, "array.array[int]", object]]) -> list[tuple[int, int, str]]:
    found, at = [], None
    for n, vtype, times, values in runs:
        assert at in (None, n)  # they join
        at = n + len(times)
        found += [
            (vtype, time, repr(value))
            for time, value in zip(times, values, strict=True)  # type: ignore[call-overload]
        ]
    return found


@pytest.mark.slow
@given(st.lists(st.lists(columns(), max_size=8), max_size=8), st.sets(st.integers(0, 40)))
def test_points_come_back_in_order(batches: list[list[Column]], known: set[int]) -> None:
    table = Memtable()
    for series in known:
        table.add(series, 1000 - series, 7, NEVER)
    wanted: dict[int, list[tuple[int, int, str]]] = {series: [] for series in known}
    newest: dict[int, tuple[int, int, str]] = {}
    for some in batches:
        strangers = [one.series for one in some if one.series not in known]
        assert table.missing(made(some)) == strangers
        readings, refused, _ = table.append(made(some))
        assert readings + refused == sum(len(one.points) for one in some)
        for one in some:
            if one.series not in known:
                continue
            for time, value in one.points:
                point = (one.vtype, time, plain(one.vtype, value))
                wanted[one.series].append(point)
                if time >= newest.get(one.series, (0, NEVER, ""))[1]:
                    newest[one.series] = point
    assert {series: flat(table.runs(series)) for series in known} == wanted
    assert table.points == sum(map(len, wanted.values()))
    has_points = sorted((1000 - series, series) for series in known if wanted[series])
    assert table.fresh() == has_points
    for series in known:
        tail = table.tail(series)
        if not wanted[series]:
            assert tail is None
            continue
        assert tail is not None
        assert tail[0] == 7 + len(wanted[series])
        assert tail[2] is not None
        assert (tail[2], tail[1], plain(tail[2], tail[3])) == newest[series]
    emptied = table.emptied()
    assert (emptied.points, len(emptied), emptied.fresh()) == (0, len(known), [])
    for series, its_points in wanted.items():
        emptied.append(made([(series, ValueType.I64, [(NEVER, 1)])]))
        assert [n for n, *_ in emptied.runs(series)] == [7 + len(its_points)]
        # What is stored may be newer: only who stored it knows its value.
        is_newer = newest.get(series, (0, NEVER, ""))[1] > NEVER
        tail = emptied.tail(series)
        assert tail is not None
        assert (tail[1] is None) == is_newer
    assert {series: flat(table.runs(series)) for series in known} == wanted


def test_texts_are_held_once_and_given_back() -> None:
    text = "a text of its own".join(map(str, range(3)))
    before = sys.getrefcount(text)
    table = Memtable()
    table.add(1, 1, 0, NEVER)
    for _ in range(2):
        table.append(made([(1, ValueType.TEXT, [(1, text), (2, text)])]))
        table.append(made([(1, ValueType.I64, [(0, 1)])]))
    assert table.tail(1) == (6, 2, ValueType.TEXT, text)
    del table
    gc.collect()
    assert sys.getrefcount(text) == before


def test_a_reader_sees_whole_points_while_the_table_grows() -> None:
    table = Memtable()
    table.add(1, 1, 0, NEVER)
    problems: list[object] = []
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            for _, _, times, values in table.runs(1):
                if list(times) != list(range(len(times))) or list(values) != list(times):
                    problems.append(times)

    reader = threading.Thread(target=read)
    reader.start()
    for n in range(3000):
        table.append(made([(1, ValueType.I64, [(n, n)])]))
    is_over.set()
    reader.join()
    assert not problems
    assert table.points == 3000


def test_arrays_that_do_not_belong_together_are_refused() -> None:
    table = Memtable()
    table.add(1, 1, 0, NEVER)
    good = made([(1, ValueType.TEXT, [(1, "x"), (2, "y")])])
    for field, bad in (
        ("counts", array.array("I", [3])), ("counts", array.array("I")),
        ("times", array.array("q", [1])), ("vtypes", array.array("B", [9])), ("texts", ["x"]),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=r"as many|unknown value type|text 1 of 1"):
            table.append(good._replace(**{field: bad}))  # type: ignore[attr-defined]


@pytest.mark.slow
@given(st.lists(columns(), min_size=1, max_size=8), st.booleans())
def test_a_batch_gives_the_same_as_its_columns(some: list[Column], in_columns: bool) -> None:
    drafts = [
        Draft(RecordKind.READINGS, batch.readings(time, one.vtype, [one.series], [value]))
        for one in some
        for time, value in one.points
    ]
    codec, payload = batch.pack(make_rows(drafts, Lane.BULK, 1), columns=in_columns)
    wanted, _ = batch.columns(codec, payload)
    found, _ = batch.table(codec, payload)
    assert list(found.series) == [one.series for one in wanted]
    assert list(found.vtypes) == [one.vtype for one in wanted]
    table = Memtable()
    for series in {one.series for one in some}:
        table.add(series, series, 0, NEVER)
    table.append(found)
    for series in {one.series for one in some}:
        given_points = [
            (one.vtype, time, repr(value))
            for one in wanted
            if one.series == series
            for time, value in zip(one.times, one.values, strict=True)
        ]
        assert flat(table.runs(series)) == given_points


def test_a_time_that_is_still_to_come_is_not_the_newest_for_years() -> None:
    """A clock ten years ahead has told one value; then it is right, and that is what counts."""
    fresh = Memtable()
    fresh.add(1, 1, 0, NEVER)

    def newest_after(time: int, value: float, until: int) -> tuple[object, object]:
        fresh.append(made([(1, ValueType.F64, [(time, value)])]), until)
        found = fresh.tail(1)
        assert found is not None
        return found[1], found[3]

    assert newest_after(100, 1.0, 150) == (100, 1.0)
    assert newest_after(9000, 2.0, 160) == (9000, 2.0)
    assert newest_after(110, 3.0, 170) == (110, 3.0)
    assert newest_after(105, 4.0, 180) == (110, 3.0)  # late is not newer
    assert newest_after(8000, 5.0, 190) == (8000, 5.0)
    assert newest_after(9000, 6.0, 190) == (9000, 6.0)
    # As it is after a restart, with what was stored.
    again = Memtable()
    again.add(1, 1, 7, 9000)
    again.append(made([(1, ValueType.F64, [(120, 7.0)])]), 200)
    assert again.tail(1) == (8, 120, ValueType.F64, 7.0)
