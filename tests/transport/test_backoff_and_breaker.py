"""Delays grow, spread and stop growing; a breaker stops trying and probes (S3)."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync_transport.backoff import Backoff, BackoffSettings
from edgesync_transport.breaker import Breaker, BreakerSettings, BreakerState

pytestmark = pytest.mark.feature("S3")


@given(st.integers(), st.integers(0, 200))
def test_delays_double_up_to_the_cap_within_the_jitter(seed: int, attempts: int) -> None:
    backoff = Backoff(BackoffSettings(), Random(seed))
    for attempt in range(attempts):
        plain_s = min(3.0 * 2.0**attempt, 60.0)
        assert 0.8 * plain_s <= backoff.next_s() <= 1.2 * plain_s


def test_a_success_begins_again() -> None:
    backoff = Backoff(BackoffSettings(jitter=0.0), Random(1))
    assert [backoff.next_s() for _ in range(6)] == [3, 6, 12, 24, 48, 60]
    backoff.reset()
    assert backoff.next_s() == 3


def test_five_failures_in_a_row_open_the_breaker_for_five_minutes() -> None:
    breaker = Breaker(BreakerSettings())
    for _ in range(4):
        assert breaker.attempt(0.0)
        breaker.failed(0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
    breaker.failed(10.0)
    assert breaker.state(10.0) is BreakerState.OPEN
    assert not breaker.attempt(309.9)
    assert breaker.wait_s(110.0) == 200.0


def test_half_open_lets_one_probe_through() -> None:
    breaker = Breaker(BreakerSettings(failures_max=1, open_s=10))
    breaker.failed(0.0)
    assert breaker.state(10.0) is BreakerState.HALF_OPEN
    assert breaker.attempt(10.0)
    assert not breaker.attempt(10.0)
    breaker.failed(11.0)
    assert breaker.state(11.0) is BreakerState.OPEN
    assert breaker.attempt(21.0)
    breaker.succeeded()
    assert breaker.state(21.0) is BreakerState.CLOSED


def test_a_success_between_failures_forgets_them() -> None:
    breaker = Breaker(BreakerSettings(failures_max=2))
    breaker.failed(0.0)
    breaker.succeeded()
    breaker.failed(0.0)
    assert breaker.state(0.0) is BreakerState.CLOSED
