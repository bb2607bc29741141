"""Pages of points, against a list in plain Python."""

import array
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync.model import ValueType
from hubd.project.append import Tails, append
from hubd.state import State, open_state, points
from hubd.state.pieces import Piece
from hubd.state.points import NOWHERE, Point

TIMES = st.integers(-50, 50)


class Undo(Exception):
    """Ends a trial without leaving a trace in the database."""


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    state = open_state(tmp_path / "state.db", b"g" * 16)
    yield state
    state.close()


def store(connection: sa.Connection, batches: list[list[int]]) -> list[Point]:
    """Append batches of times, the value of each point being its place; return all points."""
    tails = Tails()
    stored: list[Point] = []
    for times in batches:
        start = len(stored)
        values = array.array("q", range(start, start + len(times)))
        piece = Piece(ValueType.I64, array.array("q", times), values)
        append(connection, tails, {1: [piece]}, {1: 99})
        stored += [Point(time, start + i, start + i) for i, time in enumerate(times)]
    return stored


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.lists(TIMES, min_size=1, max_size=30), min_size=1, max_size=12),
    TIMES, TIMES, st.integers(1, 20), st.integers(1, 40),
)  # fmt: skip
def test_pages_give_every_point_once_in_order(
    state: State, batches: list[list[int]], start: int, length: int, limit: int, seal: int
) -> None:
    end = start + abs(length)

    def trial(connection: sa.Connection) -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("hubd.project.append.SEAL_POINTS", seal)
            stored = store(connection, batches)
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

    with pytest.raises(Undo):
        state.write_now(trial)


def test_pieces_join_without_hole_or_overlap(state: State) -> None:
    def trial(connection: sa.Connection) -> None:
        store(connection, [list(range(n)) for n in (1, 1000, 30, 9000, 1, 1, 5)])
        at = 0
        sealed_sizes = []
        for n, piece in points.pieces_of(connection, 1):
            assert n == at
            at += len(piece.times)
            sealed_sizes.append(len(piece.times))
        assert at == 10_038
        assert sealed_sizes[-3:] == [1, 1, 5]  # still raw
        assert max(sealed_sizes) <= 4096

    state.write_now(trial)
