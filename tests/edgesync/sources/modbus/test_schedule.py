"""Fixed rate without drift or bursts, and growing pauses for a silent device."""

from hypothesis import given
from hypothesis import strategies as st

from edgesync.sources.base import BreakerState
from edgesync.sources.modbus.breaker import Breaker
from edgesync.sources.modbus.schedule import Schedule
from edgesync.sources.modbus.source import spread


def test_both_groups_are_due_at_the_start_and_then_at_their_own_rate() -> None:
    schedule = Schedule([("fast", 1.0), ("slow", 60.0)], 100.0)
    assert schedule.next_s == 100.0
    assert schedule.take(100.0) == {"fast", "slow"}
    assert schedule.take(100.5) == frozenset()
    assert [schedule.take(100.0 + s) for s in range(1, 60)] == [{"fast"}] * 59
    assert schedule.take(160.0) == {"fast", "slow"}
    assert schedule.overruns == 0


def test_a_late_poll_does_not_shift_the_next_one() -> None:
    schedule = Schedule([("fast", 1.0)], 0.0)
    for n in range(1000):
        assert schedule.next_s == float(n)
        assert schedule.take(n + 0.3)
    assert schedule.overruns == 0


def test_missed_turns_are_counted_and_not_caught_up() -> None:
    schedule = Schedule([("fast", 1.0)], 0.0)
    schedule.take(0.0)
    assert schedule.take(4.5) == {"fast"}
    assert schedule.overruns == 3  # the turns at 1, 2 and 3
    assert schedule.next_s == 5.0
    assert schedule.take(4.9) == frozenset()


def test_a_restart_is_no_overrun() -> None:
    schedule = Schedule([("fast", 1.0)], 0.0)
    schedule.take(0.0)
    schedule.restart(100.25)
    assert schedule.take(100.25) == {"fast"}
    assert (schedule.next_s, schedule.overruns) == (101.0, 0)


@given(st.sampled_from([0.1, 0.3, 1.0, 7.0]), st.lists(st.floats(0.0, 5.0), max_size=50))
def test_every_turn_is_taken_or_counted(period: float, waits: list[float]) -> None:
    schedule, now, taken = Schedule([("g", period)], 0.0), 0.0, 0
    for wait in waits:
        now += wait
        taken += len(schedule.take(now))
        assert schedule.next_s > now - 1e-6
    turns = round(schedule.next_s / period)
    assert taken + schedule.overruns == turns


def test_the_breaker_waits_2_4_8_up_to_300_seconds() -> None:
    breaker, now, waits = Breaker(), 0.0, []
    assert breaker.fail(now)
    for _ in range(12):
        at = breaker.probe_at_s
        assert at is not None
        waits.append(at - now)
        now = at
        breaker.probe()
        assert breaker.state() is BreakerState.PROBING
        assert not breaker.fail(now)
    assert waits == [2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300, 300]


def test_a_success_closes_the_breaker_and_starts_over() -> None:
    breaker = Breaker()
    assert not breaker.succeed()
    breaker.fail(0.0)
    breaker.fail(2.0)
    assert breaker.state() is BreakerState.OPEN
    assert breaker.succeed()
    assert breaker.state() is BreakerState.CLOSED
    assert breaker.probe_at_s is None
    breaker.fail(10.0)
    assert breaker.probe_at_s == 12.0


def test_an_operator_can_hurry_an_open_breaker_only() -> None:
    breaker = Breaker()
    breaker.hurry(5.0)
    assert breaker.probe_at_s is None
    breaker.fail(0.0)
    breaker.hurry(0.5)
    assert breaker.probe_at_s == 0.5


def test_devices_are_spread_over_the_period_and_read_at_once_after_the_start() -> None:
    periods = [("fast", 1.0), ("slow", 60.0)]
    schedule = Schedule(periods, 100.0, phase=0.5)
    assert schedule.next_s == 100.5
    assert schedule.take(100.5) == {"fast", "slow"}
    turns = [(second, schedule.take(100.5 + second)) for second in range(1, 120)]
    assert all("fast" in groups for _, groups in turns)
    assert [second for second, groups in turns if "slow" in groups] == [30, 90]
    assert schedule.overruns == 0
    late = Schedule([("slow", 60.0)], 0.0, phase=0.5)
    assert late.next_s == 0.5, "not half a minute after the start"
    assert late.take(0.5) == {"slow"}
    assert late.next_s == 30.0


def test_a_group_that_is_still_read_is_left_out_and_counted() -> None:
    schedule = Schedule([("fast", 1.0), ("slow", 10.0)], 0.0)
    assert schedule.take(0.0) == {"fast", "slow"}
    assert schedule.take(10.0, running={"slow"}) == {"fast"}
    assert schedule.overruns == 9 + 1
    assert schedule.take(20.0) == {"fast", "slow"}


def test_thirty_devices_take_turns() -> None:
    assert set(spread(10)) == {0.0}
    assert sorted(set(spread(30))) == [0.0, 0.5]
    phases = list(spread(100))
    assert max(phases.count(phase) for phase in phases) <= 15
    assert max(phases) < 1
