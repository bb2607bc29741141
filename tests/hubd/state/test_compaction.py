"""Compaction changes how points lie in pages, and no answer."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync.model import ValueType
from hubd.settings import RetentionSection
from hubd.state import State, compaction, points, tables
from hubd.state.compaction import GRACE_NS, Compaction, Leftover, Swap
from hubd.state.points import NOWHERE
from hubd.state.rollups import HOUR_NS, HOURS, MINUTES
from tests.hubd.conftest import kept_up
from tests.hubd.state.filled import HOURS_BEGIN, Barn, Batch, write_hours

DAY_NS = 24 * HOUR_NS


class Undo(Exception):
    """Ends a trial without leaving a trace in the database."""


def answers(connection: sa.Connection, series: int, begin: int, end: int) -> list[Any]:
    found: list[Any] = []
    for ref in range(1, series + 1):
        found.append(list(points.all_points(connection, ref)))
        found.append(points.page(connection, ref, begin, end, NOWHERE, 1000))
        for level in (HOURS, MINUTES):
            found.append(points.bucket_page(connection, level, ref, begin, end, NOWHERE[0], 1000))
    return found


def compacted(connection: sa.Connection, now_ns: int) -> list[Swap]:
    """Carry out all steps there are; returns them."""
    one, steps = Compaction({}, now_ns), []
    while not one.is_over:
        step = one.plan(connection)
        if step is not None:
            assert isinstance(step, Swap)
            step(connection)
            steps.append(step)
    return steps


@contextmanager
def small_scale(pages_a_step: int) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(points, "SPANS_NS", (8, 64, 512))
        patch.setattr(compaction, "DAY_NS", 24)
        patch.setattr(compaction, "GRACE_NS", 0)
        patch.setattr(compaction, "PAGES_MIN", 2)
        patch.setattr(compaction, "PAGES_A_STEP", pages_a_step)
        yield


BATCHES = st.lists(
    st.lists(
        st.tuples(
            st.integers(1, 4), st.sampled_from([ValueType.I64, ValueType.F64]),
            st.lists(st.integers(0, 7), min_size=1, max_size=5),
        ),
        min_size=1, max_size=4, unique_by=lambda one: one[0],
    ),
    min_size=1, max_size=20,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(BATCHES, st.lists(st.integers(-60, 60), min_size=20, max_size=20), st.integers(1, 9))
def test_answers_stay_the_same(
    state: State, batches: list[Batch], begins: list[int], pages_a_step: int
) -> None:
    def trial(connection: sa.Connection) -> None:
        barn = Barn(connection, 4)
        for batch, begin in zip(batches, begins, strict=False):
            later = [(ref, vtype, [begin + time for time in times]) for ref, vtype, times in batch]
            barn.store(connection, later)
        before = answers(connection, 4, -100, 100)
        for step in compacted(connection, 50):
            assert len(step.old) <= pages_a_step
            assert len(step.new) < len(step.old)
        assert answers(connection, 4, -100, 100) == before
        raise Undo

    with small_scale(pages_a_step), pytest.raises(Undo):
        state.write_now(trial)


def pages_of(state: State) -> int:
    counted = sa.select(sa.func.count()).select_from(tables.page)
    return int(state.read_now(lambda c: c.scalar(counted) or 0))


@pytest.mark.slow
def test_a_month_of_hours_is_read_from_a_page_a_day(state: State) -> None:
    write_hours(state, 5 * 24, 3)
    assert pages_of(state) == 5 * 24
    before = state.write_now(lambda c: answers(c, 3, HOURS_BEGIN, HOURS_BEGIN + 5 * DAY_NS))
    kept_up(state, RetentionSection(), HOURS_BEGIN + 6 * DAY_NS)
    assert pages_of(state) <= 6  # a day of an edge begins at some time of ours
    assert state.write_now(lambda c: answers(c, 3, HOURS_BEGIN, HOURS_BEGIN + 5 * DAY_NS)) == before


def test_a_day_that_is_not_over_is_left_alone(state: State) -> None:
    write_hours(state, 48, 1)
    phase_ns = zlib.crc32(b"barn") * DAY_NS >> 32
    end_ns = HOURS_BEGIN + DAY_NS - phase_ns
    kept_up(state, RetentionSection(), end_ns + GRACE_NS)
    assert kept_up(state, RetentionSection(), end_ns + DAY_NS + GRACE_NS - 1) == 0
    assert kept_up(state, RetentionSection(), end_ns + DAY_NS + GRACE_NS) == 1


def test_an_edge_with_nothing_new_is_passed_over(state: State) -> None:
    left: dict[str, Leftover] = {}

    def days_looked_at() -> int:
        one, days = Compaction(left, HOURS_BEGIN + 9 * DAY_NS), 0
        while not one.is_over:
            step = state.read_now(one.plan)
            if step is not None:
                state.write_now(step)
                days += 1
        return days

    write_hours(state, 12, 1)
    assert days_looked_at() in (1, 2)
    assert left["barn"].pages < compaction.PAGES_MIN
    assert days_looked_at() == 0
