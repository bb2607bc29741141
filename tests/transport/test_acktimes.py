"""How long batches take, as a histogram and of the newest ones."""

import pytest

from edgesync_transport.lanes.acktimes import BOUNDS_S, RECENT_MAX, RECENT_MIN, AckTimes

pytestmark = pytest.mark.feature("S27")


def test_each_is_counted_where_it_belongs() -> None:
    times = AckTimes()
    for took_s in (0.001, 0.01, 0.011, 10.0, 11.0):
        times.note(took_s)
    assert times.counts == [2, 1, *[0] * (len(BOUNDS_S) - 3), 1, 1]
    assert times.sum_s == pytest.approx(21.022)
    assert times.p99_s() is None  # of five, one would be the hundredth


def test_the_hundredth_is_of_the_newest() -> None:
    times = AckTimes()
    for _ in range(RECENT_MIN):
        times.note(9.0)
    assert times.p99_s() == 9.0
    for nth in range(RECENT_MAX):
        times.note(nth / 100)
    assert times.p99_s() == 0.98
