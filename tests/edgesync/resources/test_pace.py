"""How the network is measured, and how often an edge talks to the hub because of it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.resources.cpu import CpuCounts
from edgesync.resources.levels import STALLS, Level, Thresholds, judge
from edgesync.resources.meters import CpuMeter, NetworkMeter, NetworkQuality
from edgesync.resources.pace import CAP_S, FLOOR_S, next_interval_s, paced

pytestmark = pytest.mark.feature("L8")


def quality(meter: NetworkMeter) -> NetworkQuality:
    assert meter.quality is not None
    return meter.quality


def test_round_trips_are_smoothed_as_rfc_6298_says() -> None:
    meter = NetworkMeter()
    meter.done(0.100)
    assert (quality(meter).srtt_s, quality(meter).rttvar_s) == (0.100, 0.050)
    meter.done(0.180)
    assert quality(meter).rttvar_s == pytest.approx(0.75 * 0.050 + 0.25 * 0.080)
    assert quality(meter).srtt_s == pytest.approx(7 / 8 * 0.100 + 1 / 8 * 0.180)


def test_lost_rounds_are_a_level_of_the_network() -> None:
    meter, thresholds = NetworkMeter(), Thresholds(20, 50, 101)
    meter.done(0.1)
    assert judge(quality(meter).sample(), thresholds) is Level.NORMAL
    for _ in range(2):
        meter.lost()
    assert judge(quality(meter).sample(), thresholds) is Level.WARNING
    for _ in range(6):
        meter.lost()
    assert judge(quality(meter).sample(), thresholds) is Level.HIGH
    for _ in range(30):
        meter.done(0.1)
    assert judge(quality(meter).sample(), thresholds) is Level.NORMAL
    meter.done(0.5)
    assert judge(quality(meter).sample(), thresholds) is Level.WARNING


def test_the_pause_grows_on_a_bad_network_and_falls_to_the_floor_on_three_good_rounds() -> None:
    meter, interval_s = NetworkMeter(), FLOOR_S
    for _ in range(3):
        meter.lost()
        interval_s = next_interval_s(interval_s, quality(meter))
    assert interval_s == pytest.approx(FLOOR_S * 1.5**3)
    for _ in range(2):
        meter.done(0.1)
        interval_s = next_interval_s(interval_s, quality(meter))
    assert interval_s == pytest.approx(FLOOR_S * 1.5**3)
    meter.done(0.1)
    assert next_interval_s(interval_s, quality(meter)) == FLOOR_S


def test_a_round_trip_of_four_times_the_best_counts_as_bad() -> None:
    meter = NetworkMeter()
    for _ in range(5):
        meter.done(0.1)
    meter.done(0.41)
    assert next_interval_s(10.0, quality(meter)) == 15.0


@given(st.lists(st.one_of(st.none(), st.floats(0, 100)), max_size=80))
def test_the_pause_stays_between_floor_and_cap(rounds: list[float | None]) -> None:
    meter, interval_s = NetworkMeter(), FLOOR_S
    for rtt_s in rounds:
        if rtt_s is None:
            meter.lost()
        else:
            meter.done(rtt_s)
        interval_s = next_interval_s(interval_s, quality(meter))
        assert FLOOR_S <= interval_s <= CAP_S
        assert 0 <= quality(meter).success <= 1


@pytest.mark.parametrize(
    ("battery", "pace"),
    [
        (Level.NORMAL, 30.0),
        (Level.WARNING, 60.0),
        (Level.HIGH, 240.0),
        (Level.CRITICAL, math.inf),
    ],
)
def test_a_battery_slows_it_down(battery: Level, pace: float) -> None:
    assert paced(30.0, battery) == pace
    assert paced(CAP_S, Level.HIGH) == CAP_S


def test_processors_used_are_a_share_of_those_allowed() -> None:
    meter = CpuMeter(share=0.5)
    assert meter.sample(CpuCounts(4.0), 10.0, 100.0) is None
    found = None
    for second in range(1, 60):
        found = meter.sample(CpuCounts(4.0), 10.0 + second, 100.0 + second)
    assert found is not None
    assert found.limit == 2.0
    assert found.value == pytest.approx(1.0)
    assert found.percent == pytest.approx(50.0)
    assert found.stall is None


def test_periods_held_up_count_as_waiting() -> None:
    meter = CpuMeter(share=1.0)
    meter.sample(CpuCounts(0.5, 100, 10), 1.0, 1.0)
    found = meter.sample(CpuCounts(0.5, 200, 60), 1.0, 2.0)
    assert found is not None
    assert found.stall == 50.0
    assert STALLS.rank(found.stall) is Level.HIGH
