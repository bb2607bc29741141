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

from edgesync._native.memtable import Memtable
from edgesync.model import Value, ValueType
from hubd.state.pieces import new_piece

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
    times: "array.array[int]"
    values: "array.array[float] | array.array[int] | list[str]"


def column(series: int, vtype: int, points: list[tuple[int, Value]]) -> Column:
    piece = new_piece(vtype)
    piece.times.extend(time for time, _ in points)
    piece.values.extend(value for _, value in points)  # type: ignore[misc]  # of one kind
    return Column(series, vtype, piece.times, piece.values)


@st.composite
def columns(draw: st.DrawFn) -> Column:
    vtype = draw(st.sampled_from(ValueType))
    points = draw(st.lists(st.tuples(I64, VALUES[vtype]), min_size=1, max_size=20))
    return column(draw(st.integers(0, 40)), vtype, points)


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


@given(st.lists(st.lists(columns(), max_size=8), max_size=8), st.sets(st.integers(0, 40)))
def test_points_come_back_in_order(batches: list[list[Column]], known: set[int]) -> None:
    table = Memtable()
    for series in known:
        table.add(series, 1000 - series, 7, NEVER)
    wanted: dict[int, list[tuple[int, int, str]]] = {series: [] for series in known}
    newest: dict[int, tuple[int, int, str]] = {}
    for some in batches:
        strangers = [one.series for one in some if one.series not in known]
        assert table.missing(some) == strangers  # type: ignore[arg-type]
        readings, refused, _ = table.append(some)  # type: ignore[arg-type]
        assert readings + refused == sum(len(one.times) for one in some)
        for one in some:
            if one.series not in known:
                continue
            for time, value in zip(one.times, one.values, strict=True):
                point = (one.vtype, time, repr(value))
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
        points, time_ns, vtype, value = tail
        assert points == 7 + len(wanted[series])
        assert vtype is not None
        kept = int(value) if vtype == ValueType.BOOL else value  # type: ignore[arg-type]
        assert (vtype, time_ns, repr(kept)) == newest[series]
    emptied = table.emptied()
    assert (emptied.points, len(emptied), emptied.fresh()) == (0, len(known), [])
    for series, its_points in wanted.items():
        emptied.append([column(series, ValueType.I64, [(NEVER, 1)])])  # type: ignore[list-item]
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
        table.append([Column(1, ValueType.TEXT, array.array("q", [1, 2]), [text, text])])  # type: ignore[list-item]
        table.append([column(1, ValueType.I64, [(0, 1)])])  # type: ignore[list-item]
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
        table.append([column(1, ValueType.I64, [(n, n)])])  # type: ignore[list-item]
    is_over.set()
    reader.join()
    assert not problems
    assert table.points == 3000


def test_columns_that_are_none_are_refused() -> None:
    table = Memtable()
    table.add(1, 1, 0, NEVER)
    for bad in (
        Column(1, ValueType.I64, array.array("q", [1, 2]), array.array("q", [1])),
        Column(1, ValueType.TEXT, array.array("q", [1, 2]), ["x"]),
    ):
        with pytest.raises(ValueError, match="fewer values"):
            table.append([bad])  # type: ignore[list-item]
    assert table.points == 0
