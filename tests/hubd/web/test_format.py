"""How numbers, times and values look."""

import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubd.web import format

SPACE = format.NARROW_SPACE


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "–"),
        (True, "on"),
        (False, "off"),
        (0.0, "0"),
        (-0.0, "0"),
        (49.98, "49.98"),
        (99.9999, "100"),
        (230.456, "230.46"),
        (3077.94, f"3{SPACE}077.9"),
        (-12345.6, f"-12{SPACE}346"),
        (1234567, f"1{SPACE}234{SPACE}567"),
        (2.5e9, "2.5e+09"),
        (0.00012, "0.00012"),
        (math.nan, "n/a"),
        (math.inf, "inf"),
        ("mpp tracking", "mpp tracking"),
    ],
)
def test_values_have_the_digits_that_matter(value: Any, text: str) -> None:
    assert format.value(value) == text


@pytest.mark.parametrize(
    ("span", "text"),
    [
        (None, "–"), (0.0, "0.0 ms"), (0.0123, "12.3 ms"), (-0.0021, "−2.1 ms"), (0.31, "310 ms"),
        (59.94, "59.9 s"), (90, "1.5 min"), (7200, "2.0 h"), (200_000, "2.3 d"),
    ],
)  # fmt: skip
def test_spans_have_a_unit_that_fits(span: float | None, text: str) -> None:
    assert format.seconds(span) == text


def test_ages_are_whole_seconds() -> None:
    now = 10**18
    assert format.age(None, now) == "never"
    assert format.age(now, now) == "now"
    assert format.age(now - 5_900_000_000, now) == "5 s ago"
    assert format.age(now - 120 * 10**9, now) == "2.0 min ago"
    assert format.age(now + 5 * 10**9, now) == "in 5.0 s"


def test_moments_are_utc_to_the_millisecond() -> None:
    assert format.moment(1_767_225_600_123_456_789) == "2026-01-01 00:00:00.123"


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_any_time_can_be_shown(time_ns: int) -> None:
    assert format.moment(time_ns)
    assert format.age(time_ns, 0)


@given(st.floats() | st.integers() | st.text() | st.booleans())
def test_any_value_can_be_shown(value: Any) -> None:
    assert isinstance(format.value(value), str)


def test_long_bodies_are_cut() -> None:
    assert format.body(None) == ""
    assert format.body({"a": [1, "ü"]}) == '{"a":[1,"ü"]}'
    assert len(format.body("x" * 5000)) == format.BODY_CHARS + 1


def test_names_break_between_their_words_and_stay_text() -> None:
    assert format.breakable("CellTemperatureMax") == "Cell<wbr>Temperature<wbr>Max"
    assert format.breakable("Warnings.NearlyFull") == "Warnings.<wbr>Nearly<wbr>Full"
    assert format.breakable("<b>") == "&lt;b&gt;"


def test_sizes_are_what_an_edge_may_say() -> None:
    assert [format.size(n) for n in (None, "x", 12, 4.2e7, 1.5e9)] == [
        "–",
        "–",
        "12 B",
        "42 MB",
        "1.5 GB",
    ]
