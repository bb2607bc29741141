"""What each kind of bad device leads to: states, events, counters, recovery. Virtual time."""

import itertools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edgesync.errors import StoreError, StoreFull, StoreUnwritable, TooManySeries
from edgesync.sources.base import BreakerState, SourceState, SourceStatus
from edgesync.sources.modbus.settings import GroupSettings, PointSettings
from edgesync.sources.simulate.server import Faults
from edgesync.units import Period, Seconds
from tests.edgesync.sources.modbus.lab import Lab, device


@asynccontextmanager
async def running(lab: Lab) -> AsyncIterator[None]:
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        yield
        nursery.cancel_scope.cancel()


def status(lab: Lab, index: int = 0) -> SourceStatus:
    return lab.source.statuses()[index]


async def test_a_good_device_is_polled_once_a_period_under_one_time(
    autojump_clock: MockClock,
) -> None:
    lab = Lab(device(1))
    lab.server.devices[1].set({"P3": -42})
    async with running(lab):
        await trio.sleep(10.5)
        now = status(lab)
    assert lab.notes.states("d1") == ["online"]
    assert len(lab.notes.arrivals["d1"]) == 11
    assert {r.value for r in lab.notes.values if r.key == "P3"} == {-42}
    assert all(r.time_ns % 1_000_000 == 0 for r in lab.notes.values)
    assert (now.state, now.breaker) == (SourceState.ONLINE, BreakerState.CLOSED)
    assert (now.polls, now.readings, now.errors, now.connects) == (11, 55, 0, 1)
    assert now.age_s is not None
    assert now.age_s < 1.0
    assert now.last_success_ns == lab.notes.values[-1].time_ns


@pytest.mark.slow
@pytest.mark.parametrize(
    ("faults", "counter", "says"),
    [
        (Faults(silent=True), "timeouts", "no answer in 1 s"),
        (Faults(delay_s=1.5), "late", "no answer in 1 s"),
        (Faults(exception=4), "rejected", "device failure"),
        (Faults(exception=11), "rejected", "gateway target"),
        (Faults(drop=True), "errors", "closed the connection"),
        (Faults(garbage=True), "errors", ""),
        (Faults(wrong_unit=True), "malformed", "unit 2 answered for unit 1"),
        (Faults(wrong_count=True), "malformed", "announced"),
        (Faults(wrong_id=True), "late", "no answer"),
    ],
)
@pytest.mark.feature("C17")
async def test_a_bad_device_goes_away_with_an_event_and_comes_back_with_one(
    faults: Faults, counter: str, says: str, autojump_clock: MockClock
) -> None:
    lab = Lab(device(1))
    async with running(lab):
        await trio.sleep(3.5)
        lab.server.faults[1] = faults
        await trio.sleep(30)
        away = status(lab)
        lab.server.faults[1] = Faults()
        await trio.sleep(64)
        back = status(lab)
    assert lab.notes.states("d1") == ["online", "offline", "online"]
    assert away.state is SourceState.OFFLINE
    assert away.retry_in_s is not None
    assert away.retry_in_s <= 32
    assert getattr(away, counter) > 0
    assert says in lab.notes.events[1][1]["reason"]
    assert (back.state, back.breaker) == (SourceState.ONLINE, BreakerState.CLOSED)


@pytest.mark.feature("C17")
async def test_a_busy_device_is_waited_for_and_stays_connected(autojump_clock: MockClock) -> None:
    lab = Lab(device(1))
    async with running(lab):
        await trio.sleep(2.5)
        lab.server.faults[1] = Faults(busy=3)
        await trio.sleep(5)
        patient = status(lab)
        lab.server.faults[1] = Faults(busy=10**6)
        await trio.sleep(20)
        waiting = status(lab)
        lab.server.faults[1] = Faults()
        await trio.sleep(3)
        again = status(lab)
    assert (patient.state, patient.busy) == (SourceState.ONLINE, 3)
    assert (waiting.state, waiting.breaker) == (SourceState.BUSY, BreakerState.CLOSED)
    assert again.state is SourceState.ONLINE
    assert lab.notes.states("d1") == ["online"]


@pytest.mark.feature("C17")
async def test_late_answers_are_never_taken_for_another_request(autojump_clock: MockClock) -> None:
    far = tuple(PointSettings(name=f"P{i}", address=1000 * i, group="fast") for i in range(5))
    lab = Lab(device(1, points=far, retries=3))
    lab.server.devices[1].set({f"P{i}": 100 + i for i in range(5)})
    async with running(lab):
        for delay_s in (0.0, 1.2, 0.0, 1.9, 0.4, 1.01, 0.0):
            lab.server.faults[1] = Faults(delay_s=delay_s)
            await trio.sleep(11)
    assert len(lab.notes.values) > 50
    assert all(r.value == 100 + int(r.key[1:]) for r in lab.notes.values)


async def test_an_answer_later_than_its_patience_still_counts(autojump_clock: MockClock) -> None:
    lab = Lab(device(1, overlap=True), device(2, overlap=True))
    lab.server.faults[1] = Faults(delay_s=0.9)  # far beyond its share of the turn
    async with running(lab):
        await trio.sleep(20.5)
    assert status(lab).timeouts == 0
    assert len(lab.notes.arrivals["d1"]) == 20
    assert len(lab.notes.arrivals["d2"]) == 21


@pytest.mark.feature("C17")
async def test_illegal_addresses_heal_in_the_same_poll(autojump_clock: MockClock) -> None:
    lab = Lab(device(1), has_holes=True)
    async with running(lab):
        await trio.sleep(10.5)
        now = status(lab)
    assert len(lab.notes.arrivals["d1"]) == 11
    assert lab.notes.states("d1") == ["online"]
    assert (now.readings, now.rejected, now.invalid_points) == (55, 1, {})


async def test_a_point_the_device_has_not_is_named_and_the_others_go_on(
    autojump_clock: MockClock,
) -> None:
    lab = Lab(device(1))
    there = lab.server.devices[1].read

    def read(request: Any) -> list[int]:
        if request.address <= 20 < request.address + request.count:
            lab.server.devices[1]._holes = True
            request = type(request)(request.unit_id, "input", 0, 1)
        return there(request)

    lab.server.devices[1].read = read  # type: ignore[method-assign]
    async with running(lab):
        await trio.sleep(10.5)
        now = status(lab)
    assert {r.key for r in lab.notes.values} == {"P0", "P1", "P3", "P4"}
    assert len(lab.notes.arrivals["d1"]) == 11
    assert list(now.invalid_points) == ["P2"]
    assert lab.notes.events[0][1]["invalid"] == ["P2"]


async def test_a_marker_for_not_available_makes_no_reading_and_one_event(
    autojump_clock: MockClock,
) -> None:
    points = (
        PointSettings(name="Soc", address=0, scale=0.1, invalid=(0xFFFF,), group="fast"),
        PointSettings(name="Volts", address=1, scale=0.1, group="fast"),
    )
    lab = Lab(device(1, points=points))
    async with running(lab):
        await trio.sleep(5.5)
        lab.server.devices[1].set_words("holding", 0, [0xFFFF])
        await trio.sleep(10)
        now = status(lab)
    assert [r.value for r in lab.notes.values if r.key == "Soc"] == [0.0] * 6
    assert list(now.invalid_points) == ["Soc"]
    assert [body.get("invalid") for _, body in lab.notes.events] == [None, ["Soc"]]


@pytest.mark.feature("C17")
async def test_a_power_cut_is_found_out_and_the_return_too(autojump_clock: MockClock) -> None:
    lab = Lab(device(1), device(2))
    async with running(lab):
        await trio.sleep(3.5)
        lab.is_reachable = False
        await lab.server.drop_all()
        await trio.sleep(100)
        lab.is_reachable = True
        await trio.sleep(130)
        assert [s.state for s in lab.source.statuses()] == [SourceState.ONLINE] * 2
    for name in ("d1", "d2"):
        assert lab.notes.states(name) == ["online", "offline", "online"]
        # Both come back with the first probe of either.
        back_s = next(t for t in lab.notes.arrivals[name] if t > 103.5)
        assert abs(back_s - next(t for t in lab.notes.arrivals["d1"] if t > 103.5)) < 1.0


async def test_a_peer_that_vanished_without_a_word_gets_a_new_connection(
    autojump_clock: MockClock,
) -> None:
    lab = Lab(device(1))
    async with running(lab):
        await trio.sleep(3.5)
        lab.server.faults[1] = Faults(silent=True)
        await trio.sleep(10)
        assert status(lab).connects >= 2


async def test_an_idle_connection_closed_by_the_device_costs_nothing(
    autojump_clock: MockClock,
) -> None:
    lab = Lab(device(1))
    async with running(lab):
        for _ in range(5):
            await trio.sleep(1.5)
            await lab.server.drop_all()
        await trio.sleep(1.5)
    assert lab.notes.states("d1") == ["online"]
    assert lab.notes.oldest("d1", 0.0, 9.0) <= 2.0


async def test_an_operator_can_ask_for_a_retry_now(autojump_clock: MockClock) -> None:
    lab = Lab(device(1))
    lab.server.faults[1] = Faults(silent=True)
    async with running(lab):
        await trio.sleep(200)
        lab.server.faults[1] = Faults()
        assert lab.source.retry_now("d1")
        assert not lab.source.retry_now("d2")
        await trio.sleep(1)
        assert status(lab).state is SourceState.ONLINE


@pytest.mark.feature("S25")
async def test_steps_of_the_wall_clock_move_times_and_nothing_else(
    autojump_clock: MockClock,
) -> None:
    lab = Lab(device(1, max_age=Period(5), deadband=1.0))
    steady_ns, step_ns = lab._wall_ns, 0
    lab.source._units[0]._wall_ns = lambda: steady_ns() + step_ns
    async with running(lab):
        for step_s in (0, -3600, 10 * 365 * 86400, -10 * 365 * 86400):
            step_ns += step_s * 10**9
            await trio.sleep(20)
        now = status(lab)
    assert now.overruns == 0
    assert len(lab.notes.arrivals["d1"]) == 16, "every 5 s by the monotonic clock"
    assert lab.notes.oldest("d1", 0.0, 80.0) <= 5.01
    times = [r.time_ns for r in lab.notes.values]
    assert times != sorted(times)


async def test_groups_keep_their_own_rates(autojump_clock: MockClock) -> None:
    points = (
        PointSettings(name="F", address=0, group="fast"),
        PointSettings(name="S", address=1, group="slow"),
    )
    groups = {"fast": GroupSettings(every=Period(0.5)), "slow": GroupSettings(every=Period(10))}
    lab = Lab(device(1, points=points, poll_groups=groups))
    async with running(lab):
        await trio.sleep(60.2)
    keys = [r.key for r in lab.notes.values]
    assert (keys.count("F"), keys.count("S")) == (121, 7)


async def test_a_deadband_holds_back_and_max_age_lets_through(autojump_clock: MockClock) -> None:
    lab = Lab(device(1, deadband=5.0, max_age=Period(10)))
    async with running(lab):
        await trio.sleep(30.5)
        now = status(lab)
    assert len(lab.notes.arrivals["d1"]) == 4
    assert now.readings == 20
    assert now.unchanged == 27 * 5


async def test_what_did_not_change_over_an_outage_is_reported_again(
    autojump_clock: MockClock,
) -> None:
    """Else nobody could tell a value that is the same from one that is not read any more."""
    lab = Lab(device(1, deadband=5.0))
    async with running(lab):
        await trio.sleep(3.5)
        before = len(lab.notes.arrivals["d1"])
        lab.is_reachable = False
        await lab.server.drop_all()
        await trio.sleep(30)
        lab.is_reachable = True
        await trio.sleep(64)
    assert lab.notes.states("d1") == ["online", "offline", "online"]
    assert (before, len(lab.notes.arrivals["d1"])) == (1, 2)


REFUSALS = [
    StoreFull(used_bytes=1, limit_bytes=1),
    TooManySeries("d1", "P0", 1),
    StoreError("what was changed is taken back"),
]


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: type(one).__name__)
async def test_a_refusal_stops_no_polling_and_loses_the_deadband_memory_of_nothing(
    autojump_clock: MockClock, refusal: Exception
) -> None:
    lab = Lab(device(1, deadband=0.0))
    lab.notes.refuse = refusal
    async with running(lab):
        await trio.sleep(5.5)
        refused = status(lab)
        lab.notes.refuse = None
        await trio.sleep(3)
    assert (refused.refused, refused.readings, refused.state) == (30, 0, SourceState.ONLINE)
    assert refused.last_error == str(refusal)
    assert len(lab.notes.arrivals["d1"]) == 1, "offered again once there is room, then unchanged"


@pytest.mark.parametrize("refusal", REFUSALS, ids=lambda one: type(one).__name__)
async def test_a_device_that_goes_away_while_events_are_refused_is_told_of_later(
    autojump_clock: MockClock, refusal: Exception
) -> None:
    lab = Lab(device(1))
    async with running(lab):
        await trio.sleep(3.5)
        lab.notes.refuse = refusal
        lab.is_reachable = False
        await lab.server.drop_all()
        await trio.sleep(30)
        lab.notes.refuse = None
        await trio.sleep(64)
    assert lab.notes.states("d1") == ["online", "offline"]


async def test_a_disk_that_refuses_ends_the_source(autojump_clock: MockClock) -> None:
    lab = Lab(device(1))
    lab.notes.refuse = StoreUnwritable(path="store", problem="read-only")
    with pytest.RaisesGroup(StoreUnwritable, flatten_subgroups=True):
        async with running(lab):
            await trio.sleep(5)


async def test_pauses_between_requests_are_kept(autojump_clock: MockClock) -> None:
    far = tuple(PointSettings(name=f"P{i}", address=1000 * i, group="fast") for i in range(3))
    asked: list[tuple[int, float]] = []
    pauses = {"min_gap": Seconds(0.05), "unit_switch": Seconds(0.1), "connect_delay": Seconds(0.3)}
    lab = Lab(device(1, points=far, **pauses), device(2, points=far, **pauses))
    for simulated in lab.server.devices.values():

        def read(request: Any, there: Callable[[Any], list[int]] = simulated.read) -> list[int]:
            asked.append((request.unit_id, trio.current_time()))
            return there(request)

        simulated.read = read  # type: ignore[method-assign]
    async with running(lab):
        await trio.sleep(5)
    assert asked[0][1] >= 0.3
    for (unit, before_s), (following, after_s) in itertools.pairwise(asked):
        assert after_s - before_s >= (0.1 if unit != following else 0.05) - 1e-9
    assert len(asked) == 5 * 2 * 3


async def test_a_flood_of_answers_to_nothing_ends_the_connection(autojump_clock: MockClock) -> None:
    lab = Lab(device(1))
    answer = lab.server._answer
    lab.server._answer = lambda frame, faults: (  # type: ignore[method-assign]
        bytes.fromhex("ffff00000003018302") * 100 + answer(frame, faults)
    )
    async with running(lab):
        await trio.sleep(10)
        assert status(lab).state is SourceState.OFFLINE
        assert status(lab).late >= 64


async def test_stopping_closes_the_connection_and_says_so(autojump_clock: MockClock) -> None:
    lab = Lab(device(1))
    async with trio.open_nursery() as devices:
        lab._nursery = devices
        with trio.move_on_after(2.5):
            await lab.source.run(lab.notes)
        assert status(lab).state is SourceState.STOPPED
        await trio.sleep(0.1)
        assert not lab.server._open
