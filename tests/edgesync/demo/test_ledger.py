"""The ledger must see each kind of difference: a check that cannot fail proves nothing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.demo.ledger import Finding, Places, Point, RecordRow, compare


def rows(*seqs: int, lane: int = 2) -> list[RecordRow]:
    return [RecordRow(lane, seq, f"id{seq}", f"digest{seq}") for seq in seqs]


def points(*times: int) -> list[Point]:
    return [Point(time, float(time)) for time in times]


def places(
    *,
    journal: list[RecordRow] | None = None,
    log: list[RecordRow] | None = None,
    state: list[Point] | None = None,
    witnessed: list[Point] | None = None,
) -> Places:
    truth = rows(1, 2, 3)
    return Places(
        journal=truth if journal is None else journal,
        log=truth if log is None else log,
        journal_points={7: points(10, 20, 20, 30)},
        state_points={7: points(10, 20, 20, 30) if state is None else state},
        witnessed={7: points(10, 30) if witnessed is None else witnessed},
    )


def test_equal_places_have_no_findings() -> None:
    assert compare(places()) == []


@pytest.mark.parametrize(
    ("log", "problem"),
    [
        (rows(1, 3), "missing"),
        (rows(1, 2, 2, 3), "doubled"),
        (rows(1, 3, 2), "out of order"),
        ([*rows(1, 2), RecordRow(2, 3, "id3", "other")], "changed"),
    ],
)
def test_a_log_that_differs_is_named(log: list[RecordRow], problem: str) -> None:
    assert problem in {finding.problem for finding in compare(places(log=log))}


@pytest.mark.parametrize(
    ("state", "problem"),
    [
        (points(10, 20, 30), "missing"),
        (points(10, 20, 20, 20, 30), "doubled"),
        (points(20, 10, 20, 30), "out of order"),
        (points(10, 20, 20, 30, 31), "changed"),
    ],
)
def test_a_state_that_differs_is_named(state: list[Point], problem: str) -> None:
    assert [finding.problem for finding in compare(places(state=state))] == [problem]


def test_what_was_witnessed_must_be_in_the_journal_in_that_order() -> None:
    assert compare(places(witnessed=points(30, 10))) == [
        Finding("journal", "missing", "series 0000000000000007", 1)
    ]


@given(st.lists(st.integers(0, 5), max_size=12))
def test_any_change_to_a_series_is_found(times: list[int]) -> None:
    wanted = points(*times)
    changed = [*wanted, Point(99, 99.0)]
    held = Places(
        journal=[],
        log=[],
        witnessed={},
        journal_points={1: wanted},
        state_points={1: changed},
    )
    assert compare(held)
