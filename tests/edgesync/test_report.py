"""What a deadband holds back, and what it never may."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.model import Reading, Value
from edgesync.report import Reporter, ReportRule, parse_deadband


def reading(value: Value, key: str = "P") -> Reading:
    return Reading("meter0", key, value, 0)


def feed(rule: ReportRule, *values: tuple[Value, float]) -> list[Value]:
    """Return what is reported of (value, at second) pairs."""
    reporter = Reporter({"P": rule})
    reported: list[Value] = []
    for value, now_s in values:
        due = reporter.select([reading(value)], now_s)
        reporter.reported(due, now_s)
        reported += [r.value for r in due]
    return reported


def test_without_a_rule_everything_is_reported() -> None:
    assert feed(ReportRule(), (1, 0.0), (1, 1.0), (1, 2.0)) == [1, 1, 1]


def test_an_absolute_deadband_compares_with_the_last_reported_value_not_the_last_seen() -> None:
    rule = ReportRule(absolute=1.0)
    slow_drift: list[tuple[Value, float]] = [(i * 0.4, float(i)) for i in range(10)]
    assert feed(rule, *slow_drift) == [0.0, pytest.approx(1.2), pytest.approx(2.4), 9 * 0.4]


def test_a_step_of_exactly_the_deadband_is_reported() -> None:
    assert feed(ReportRule(absolute=0.1), (0.2, 0.0), (0.3, 1.0)) == [0.2, 0.3]


def test_a_percent_deadband_is_a_share_of_the_last_reported_value() -> None:
    rule = ReportRule(percent=2.0)
    assert feed(rule, (100.0, 0.0), (101.9, 1.0), (102.0, 2.0), (103.0, 3.0)) == [100.0, 102.0]
    assert feed(rule, (0.0, 0.0), (0.001, 1.0)) == [0.0, 0.001]
    assert feed(rule, (-100.0, 0.0), (-101.0, 1.0), (-97.0, 2.0)) == [-100.0, -97.0]


def test_zero_means_any_change() -> None:
    assert feed(ReportRule(absolute=0.0), (1, 0.0), (1, 1.0), (2, 2.0), (2, 3.0)) == [1, 2]


def test_an_unchanged_value_is_reported_again_after_its_maximal_age() -> None:
    rule = ReportRule(absolute=5.0, max_age_s=60.0)
    seconds: list[tuple[Value, float]] = [(1.0, float(s)) for s in range(0, 181, 30)]
    assert len(feed(rule, *seconds)) == 4


@pytest.mark.parametrize("values", [("a", "b"), (True, False), (1, 1.0), (1.0, math.nan)])
def test_text_states_and_types_have_no_deadband(values: tuple[Value, Value]) -> None:
    assert len(feed(ReportRule(absolute=100.0), (values[0], 0.0), (values[1], 1.0))) == 2


def test_what_was_not_stored_is_offered_again() -> None:
    reporter = Reporter({"P": ReportRule(absolute=0.0)})
    assert reporter.select([reading(1)], 0.0)
    assert reporter.select([reading(1)], 1.0), "nobody said that it was stored"
    reporter.reported([reading(1)], 1.0)
    assert not reporter.select([reading(1)], 2.0)


def test_keys_are_apart_and_forgotten_together() -> None:
    reporter = Reporter({"P": ReportRule(absolute=0.0)})
    both = [reading(1), reading(1, "Q")]
    reporter.reported(both, 0.0)
    assert [r.key for r in reporter.select(both, 1.0)] == ["Q"]
    reporter.forget()
    assert len(reporter.select(both, 2.0)) == 2


def test_a_deadband_is_a_number_or_a_share() -> None:
    assert parse_deadband(0.5) == ReportRule(absolute=0.5)
    assert parse_deadband(" 2.5% ") == ReportRule(percent=2.5)


@pytest.mark.parametrize("bad", [-1, "2", "x%", "-1%", True, math.inf, math.nan])
def test_a_wrong_deadband_says_what_is_allowed(bad: float | str) -> None:
    with pytest.raises(ValueError, match="a deadband is a number"):
        parse_deadband(bad)


@given(st.lists(st.floats(-1e6, 1e6), max_size=60), st.floats(0, 1e3))
def test_the_reported_value_is_never_further_off_than_the_deadband(
    values: list[float], deadband: float
) -> None:
    reporter = Reporter({"P": ReportRule(absolute=deadband)})
    last = None
    for second, value in enumerate(values):
        due = reporter.select([reading(value)], float(second))
        reporter.reported(due, float(second))
        last = value if due else last
        assert last is not None
        assert abs(value - last) <= deadband
