"""Pages of points, against a list in plain Python."""

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native.memtable import Memtable
from edgesync.model import ValueType
from hubd.project.flush import flush
from hubd.state import State, points, tables
from hubd.state.fresh import EdgeFresh, fresh_of
from hubd.state.points import NOWHERE, Point
from tests.native.tables import table as made_table

TIMES = st.integers(-50, 50)


class Undo(Exception):
    """Ends a trial without leaving a trace in the database."""


def store(connection: sa.Connection, batches: list[list[int]], stored: int) -> list[Point]:
    """Append batches of times, the value of each point being its place; return all points.

    So many of the batches are in pages, a page each; the rest is in memory.
    """
    row = {"ref": 1, "edge": "barn", "series": 99, "unit": ""}
    connection.execute(tables.series.insert(), row)
    table = Memtable()
    table.add(99, 1, 0, -(1 << 63))
    made: list[Point] = []
    for nth, times in enumerate(batches):
        start = len(made)
        column = [(time, start + i) for i, time in enumerate(times)]
        table.append(made_table([(99, ValueType.I64, column)]))
        made += [Point(time, start + i, start + i) for i, time in enumerate(times)]
        if nth < stored:
            flush(connection, "barn", EdgeFresh(table, position=nth + 1))
            table = table.emptied()
    fresh_of(connection).enter("barn", EdgeFresh(table))
    return made


@pytest.mark.slow
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(TIMES, min_size=1, max_size=30), min_size=1, max_size=12),
    TIMES, TIMES, st.integers(1, 20), st.integers(1, 40), st.integers(0, 12), st.booleans(),
)  # fmt: skip
def test_pages_give_every_point_once_in_order(
    state: State,
    batches: list[list[int]],
    start: int,
    length: int,
    limit: int,
    chunk: int,
    in_pages: int,
    has_spans: bool,
) -> None:
    end = start + abs(length)

    def trial(connection: sa.Connection) -> None:
        stored = store(connection, batches, in_pages)
        assert list(points.all_points(connection, 1)) == stored
        wanted = sorted(p for p in stored if start <= p.time_ns < end)
        found: list[Point] = []
        after = NOWHERE
        while page := points.page(connection, 1, start, end, after, limit):
            assert len(page) <= limit
            found += page
            after = page[-1][:2]
        assert found == wanted
        assert points.has_more_than(connection, 1, start, end, limit) == (len(wanted) > limit)
        raise Undo

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hubd.state.points.CHUNK_POINTS", chunk)
        if has_spans:
            patch.setattr("hubd.state.points.SPANS_NS", (1, 8, 64))
        with pytest.raises(Undo):
            state.write_now(trial)


def test_pieces_join_without_hole_or_overlap(state: State) -> None:
    def trial(connection: sa.Connection) -> None:
        store(connection, [list(range(n)) for n in (1, 1000, 30, 9000, 1, 1, 5)], 4)
        at = 0
        sizes = []
        for n, piece in points.pieces_of(connection, 1):
            assert n == at
            at += len(piece.times)
            sizes.append(len(piece.times))
        assert at == 10_038
        assert sizes[-1] == 7  # still in memory
        assert max(sizes) <= 4096

    state.write_now(trial)
