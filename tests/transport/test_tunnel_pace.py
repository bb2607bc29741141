"""What is under way in a tunnel follows the link."""

import math

import pytest

from edgesync_transport.tunnel.pace import (
    CREDIT_FIRST,
    CREDIT_MAX,
    CREDIT_MIN,
    FAST_S,
    SLOW_S,
    STALE_S,
    Pace,
)

pytestmark = pytest.mark.feature("S33")


def test_more_may_be_under_way_while_it_is_taken_soon_and_less_when_that_takes_long() -> None:
    pace, now = Pace(), 0.0
    assert pace.room(now) == CREDIT_FIRST
    for took_s, end in ((FAST_S / 2, CREDIT_MAX), (SLOW_S * 1.1, CREDIT_MIN)):
        for _ in range(10):
            sent = pace.send(pace.room(now), now)
            assert pace.room(now) == 0
            now += took_s
            pace.take(sent, now)
        assert pace.room(now) == end
    for _ in range(10):  # neither soon nor late
        sent = pace.send(100, now)
        now += (FAST_S + SLOW_S) / 2
        pace.take(sent, now)
    assert pace.room(now) == CREDIT_MIN


def test_a_target_that_does_not_read_holds_up_the_others_for_a_moment() -> None:
    pace = Pace()
    assert pace.due_at() == math.inf
    stuck = pace.send(CREDIT_FIRST - 10, 0.0)
    pace.send(10, 1.0)
    assert (pace.room(1.0), pace.due_at()) == (0, STALE_S)
    assert pace.room(STALE_S) == CREDIT_FIRST - 10
    pace.take(stuck, 100.0)  # late, and not once more
    assert pace.room(100.0) == pace.credit
