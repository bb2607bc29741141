"""Chaos must be the same from the same seed, and must not forget a kind of fault."""

from random import Random

from hypothesis import given
from hypothesis import strategies as st

from edgesync.demo.chaos import Fault, plan


@given(st.integers(0, 2**32), st.floats(0, 120))
def test_a_plan_fits_its_time_and_repeats_from_its_seed(seed: int, seconds: float) -> None:
    strikes = list(plan(Random(seed), seconds))
    assert strikes == list(plan(Random(seed), seconds))
    assert sum(strike.calm_s + strike.outage_s for strike in strikes) <= seconds


@given(st.integers(0, 2**32))
def test_a_minute_brings_every_fault(seed: int) -> None:
    assert {strike.fault for strike in plan(Random(seed), 60)} == set(Fault)
