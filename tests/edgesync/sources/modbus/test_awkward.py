"""Devices that answer part of what they are asked, late, never or wrongly: what is read anyway."""

import itertools
import struct
from collections.abc import Mapping
from typing import Any

import pytest
from trio.testing import MockClock

from edgesync.model import Reading
from edgesync.sources.base import SourceState
from edgesync.sources.modbus.settings import GroupSettings, PointSettings
from edgesync.units import Period
from tests.edgesync.sources.modbus.gateway import Asked, Gateway, Script
from tests.edgesync.sources.modbus.lab import device


def points(**addresses: int) -> tuple[PointSettings, ...]:
    return points_in("fast", addresses)


def points_in(group: str, addresses: Mapping[str, int]) -> tuple[PointSettings, ...]:
    return tuple(
        PointSettings(name=name, address=address, group=group)
        for name, address in addresses.items()
    )


def silent(gateway: Gateway, asked: Asked) -> Script:
    """Answer nothing at all where a register is not there."""
    answer = gateway.answer(asked)
    return [] if answer[7] & 0x80 else [(0.0, answer)]


def saying(code: int) -> Any:
    return lambda gateway, asked: [(0.0, gateway.answer(asked, code=code))]


def seconds_between(gateway: Gateway, key: str, after_s: float) -> list[float]:
    """Return the times between readings of `key` that came after `after_s`."""
    times = [(r.time_ns - gateway.start_ns) / 1e9 for r in gateway.notes.values if r.key == key]
    return [b - a for a, b in itertools.pairwise(t for t in times if t > after_s)]


@pytest.mark.slow
@pytest.mark.feature("C17")
@pytest.mark.parametrize("bad", [("X",), ("X", "Y"), ("X", "Y", "Z")])
async def test_silent_blocks_are_left_alone_and_told_while_the_others_keep_their_rate(
    bad: tuple[str, ...], autojump_clock: MockClock
) -> None:
    places = {"A": 0, "X": 100, "B": 200, "Y": 300, "C": 400, "Z": 500}
    addresses = {name: at for name, at in places.items() if name in "ABC" or name in bad}
    gateway = Gateway([0, 200, 400], device(1, points=points(**addresses)), hook=silent)
    status = await gateway.run(120.0)
    assert status.state is SourceState.ONLINE
    assert gateway.connections == 1
    assert gateway.notes.states("d1").count("offline") == 0
    assert set(status.invalid_points) == set(bad)
    assert all("no answer in 1 s" in reason for reason in status.invalid_points.values())
    for key in "ABC":
        gaps = seconds_between(gateway, key, 15.0)
        assert len(gaps) >= 95, "full rate but for a time-out now and then"
        assert max(gaps) <= 2.0 + 0.05
    assert len(gateway.times(100)) <= 12, "asked again, but ever more seldom"
    told = [body for _, body in gateway.notes.events if "invalid" in body]
    assert told[-1]["invalid"] == sorted(bad)
    assert "no answer" in told[-1]["reasons"]["X"]


async def test_a_silent_register_hides_none_of_its_block(autojump_clock: MockClock) -> None:
    there = [*range(20), *range(21, 40)]
    wanted = points(**{f"P{i}": i for i in range(40)})
    gateway = Gateway(there, device(1, points=wanted), hook=silent)
    status = await gateway.run(90.0)
    assert list(status.invalid_points) == ["P20"]
    assert {r.key for r in gateway.notes.values} == {f"P{i}" for i in there}
    assert max(seconds_between(gateway, "P39", 45.0)) <= 2.05


async def test_the_first_block_alone_silent_leaves_the_device_online(
    autojump_clock: MockClock,
) -> None:
    gateway = Gateway([100], device(1, points=points(X=0, A=100)), hook=silent)
    status = await gateway.run(30.0)
    assert gateway.notes.states("d1").count("offline") == 0
    assert list(status.invalid_points) == ["X"]


async def test_a_silent_block_that_answers_again_is_read_again(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [] if asked.address == 100 and asked.at_s < 60 else [(0.0, gateway.answer(asked))]

    gateway = Gateway([0, 100], device(1, points=points(A=0, X=100)), hook=hook)
    status = await gateway.run(300.0)
    assert status.invalid_points == {}
    assert len(gateway.values("X")) > 100


@pytest.mark.feature("C17")
async def test_a_refused_point_is_asked_again(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        refuses = asked.address >= 100 and asked.at_s < 8
        return [(0.0, gateway.refuse(asked, 2) if refuses else gateway.answer(asked))]

    gateway = Gateway([0, 100], device(1, points=points(A=0, C=100)), hook=hook)
    status = await gateway.run(25.0)
    assert status.invalid_points == {}
    assert len(gateway.values("C")) >= 10


@pytest.mark.slow
async def test_what_is_refused_for_good_is_asked_every_five_minutes(
    autojump_clock: MockClock,
) -> None:
    gateway = Gateway([0], device(1, points=points(A=0, C=100)))
    await gateway.run(3600.0)
    asked = gateway.times(100)
    waits = [round(b - a) for a, b in itertools.pairwise(asked)]
    assert waits[:5] == [10, 20, 40, 80, 160]
    assert set(waits[5:]) == {300}
    assert len(gateway.values("A")) == 3600


@pytest.mark.slow
async def test_a_thousand_refused_points_are_a_few_requests_a_poll(
    autojump_clock: MockClock,
) -> None:
    many = {f"P{i}": 10 + 2 * i for i in range(1000)}
    gateway = Gateway([0], device(1, points=points(A=0, **many), max_gap=0))
    await gateway.run(20.5)
    polls = [0] * 21
    for asked in gateway.asked:
        polls[int(asked.at_s)] += 1
    assert max(polls[1:]) <= 1 + 4


@pytest.mark.feature("C17")
async def test_readings_carry_the_time_of_their_answer(autojump_clock: MockClock) -> None:
    wanted = device(1, points=points(A=0, X=300), timeout=Period(3))
    gateway = Gateway([0], wanted, hook=silent)
    await gateway.run(60.0)
    assert len(gateway.lags_s("A")) >= 40
    assert max(map(abs, gateway.lags_s("A"))) <= 0.1, "a tenth is what the register shows"


async def test_each_block_has_the_time_of_its_own_answer(autojump_clock: MockClock) -> None:
    def slowly(gateway: Gateway, asked: Asked) -> Script:
        times.append(asked.at_s + 0.15)
        return [(0.15, gateway.answer(asked))]

    times: list[float] = []
    far = {f"P{i}": 200 * i for i in range(20)}
    slow = {"fast": GroupSettings(every=Period(5))}
    gateway = Gateway(far.values(), device(1, points=points(**far), poll_groups=slow), hook=slowly)
    await gateway.run(4.0)
    stamps = [(r.time_ns - gateway.start_ns) / 1e9 for r in gateway.notes.values]
    assert len(stamps) == 20
    for stamp, answered in zip(stamps, times, strict=False):
        assert -1e-6 <= answered - stamp <= 0.021


@pytest.mark.feature("C17")
async def test_a_fast_group_does_not_wait_for_a_slow_one(autojump_clock: MockClock) -> None:
    def slowly(gateway: Gateway, asked: Asked) -> Script:
        return [(0.15, gateway.answer(asked))]

    slow = {f"S{i}": 1000 + 20 * i for i in range(20)}
    groups = {
        "fast": GroupSettings(every=Period(1)),
        "slow": GroupSettings(every=Period(10)),
    }
    wanted = (*points(A=0), *points_in("slow", slow))
    unit = device(1, points=wanted, poll_groups=groups)
    gateway = Gateway([0, *slow.values()], unit, hook=slowly)
    status = await gateway.run(60.5)
    assert len(gateway.values("A")) == 61
    assert max(seconds_between(gateway, "A", 0.0)) <= 1.35
    assert {len(gateway.values(name)) for name in slow} <= {6, 7}
    assert status.overruns == 0


async def test_a_fast_group_that_takes_all_the_time_does_not_starve_the_slow_one(
    autojump_clock: MockClock,
) -> None:
    def slowly(gateway: Gateway, asked: Asked) -> Script:
        return [(0.6, gateway.answer(asked))]

    wanted = (*points(A=0, B=200), *points_in("slow", {"S": 1000, "T": 1200}))
    groups = {"fast": GroupSettings(every=Period(1)), "slow": GroupSettings(every=Period(10))}
    unit = device(1, points=wanted, poll_groups=groups)
    gateway = Gateway([0, 200, 1000, 1200], unit, hook=slowly)
    await gateway.run(60.5)
    assert len(gateway.values("S")) >= 5
    assert len(gateway.values("T")) >= 5
    assert len(gateway.values("A")) >= 25


@pytest.mark.parametrize("code", [1, 2, 3, 4])
@pytest.mark.feature("C17")
async def test_every_exception_costs_only_the_points_it_is_about(
    code: int, autojump_clock: MockClock
) -> None:
    gateway = Gateway([0, 1, 3, 200], device(1, points=points(A=0, B=1, D=3, E=300)),
                      hook=saying(code))  # fmt: skip
    status = await gateway.run(10.5)
    for key in "ABD":
        assert len(gateway.values(key)) >= 10
    assert set(status.invalid_points) == {"E"}
    assert f"exception {code}" in status.invalid_points["E"]
    assert any(body.get("invalid") == ["E"] for _, body in gateway.notes.events)


async def test_reads_that_are_too_long_for_the_device_are_parted(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(0.0, gateway.refuse(asked, 3) if asked.count > 4 else gateway.answer(asked))]

    eight = points(**{f"P{i}": i for i in range(8)})
    gateway = Gateway(range(8), device(1, points=eight), hook=hook)
    status = await gateway.run(10.5)
    assert status.invalid_points == {}
    assert {len(gateway.values(f"P{i}")) for i in range(8)} == {11}


async def test_a_device_that_refuses_everything_for_a_while_is_not_asked_hundreds_of_times(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(0.0, gateway.refuse(asked, 4) if asked.at_s < 5 else gateway.answer(asked))]

    many = points(**{f"P{i}": i for i in range(125)})
    gateway = Gateway(range(125), device(1, points=many), hook=hook)
    await gateway.run(60.0)
    early = [asked for asked in gateway.asked if asked.at_s < 1.0]
    late = [asked for asked in gateway.asked if asked.at_s > 30.0]
    assert len(early) <= 130
    assert all(asked.count == 125 for asked in late), "it has learnt nothing wrong from that"


async def test_a_flapping_device_is_one_event_a_minute(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [] if int(asked.at_s / 3) % 2 else [(0.0, gateway.answer(asked))]

    gateway = Gateway([0], device(1, points=points(A=0)), hook=hook)
    await gateway.run(600.0)
    events = [body for _, body in gateway.notes.events]
    assert 5 <= len(events) <= 12
    assert any(body.get("changes", 0) > 2 for body in events)


async def test_a_gateway_that_needs_a_new_connection_gets_one(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        stuck = asked.connection == 1 and asked.at_s > 8
        return [(0.0, gateway.refuse(asked, 11) if stuck else gateway.answer(asked))]

    gateway = Gateway([0], device(1, points=points(A=0)), hook=hook)
    status = await gateway.run(40.0)
    assert status.state is SourceState.ONLINE
    assert gateway.connections == 2
    assert len(gateway.values("A")) >= 25


async def test_a_gateway_keeps_its_connection_while_another_unit_answers(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        away = asked.unit_id == 1
        return [(0.0, gateway.refuse(asked, 11) if away else gateway.answer(asked))]

    units = [device(unit, points=points(A=0)) for unit in (1, 2)]
    gateway = Gateway([0], *units, hook=hook)
    await gateway.run(100.0)
    assert gateway.connections == 1


def scaled(name: str, address: int, sf: str = "S") -> PointSettings:
    return PointSettings(name=name, address=address, type="int16", sf=sf, group="fast")


FACTOR = PointSettings(name="S", address=101, type="int16", group="fast")


async def test_a_hole_between_value_and_factor_takes_no_neighbours(
    autojump_clock: MockClock,
) -> None:
    wanted = (scaled("A", 0), scaled("B", 100), FACTOR)
    fixed = {0: 5, 100: 7, 101: 1}
    gateway = Gateway([0, 100, 101], device(1, points=wanted), fixed=fixed)
    status = await gateway.run(10.5)
    assert status.invalid_points == {}
    assert {(r.key, r.value) for r in gateway.notes.values} == {("A", 50.0), ("B", 70.0), ("S", 1)}
    assert len(gateway.values("A")) >= 10


@pytest.mark.parametrize("table", ["holding", "input"])
async def test_a_factor_may_come_from_another_request(
    table: str, autojump_clock: MockClock
) -> None:
    slow = PointSettings(name="S", address=900, type="int16", group="slow", table=table)  # type: ignore[arg-type]
    wanted = (scaled("A", 0), slow)
    gateway = Gateway([0, 900], device(1, points=wanted, max_words=32), fixed={0: 5, 900: 1})
    status = await gateway.run(10.5)
    assert status.invalid_points == {}
    assert gateway.values("A") == [50.0] * 11
    assert len(gateway.values("S")) == 1, "read for A each time, stored with its own group"


async def test_value_and_factor_come_from_one_poll_or_not_at_all(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        if asked.address == 900:
            # The exponent is 0, later 1; for some polls it is not told at all.
            gateway.fixed[900] = 1 if asked.at_s > 20 else 0
            gateway.fixed[0] = 5 if asked.at_s > 20 else 50
            if 10 < asked.at_s < 15:
                return [(0.0, gateway.refuse(asked, 4))]
        return [(0.0, gateway.answer(asked))]

    slow = PointSettings(name="S", address=900, type="int16", group="fast")
    wanted = (scaled("A", 0), slow)
    gateway = Gateway([0, 900], device(1, points=wanted), fixed={0: 50, 900: 0}, hook=hook)
    await gateway.run(40.0)
    assert set(gateway.values("A")) == {50.0}
    assert len(gateway.values("A")) >= 25


@pytest.mark.parametrize(
    ("marker", "shown"),
    [
        (-9999.9, struct.pack(">f", -9999.9)),
        (-999.25, struct.pack(">f", -999.25)),
        (9.96921e36, struct.pack(">f", 9.96921e36)),
        (-9999, struct.pack(">f", -9999.0)),
        (0x7F7FFFFF, bytes.fromhex("7F7FFFFF")),
    ],
)
async def test_markers_of_floats_are_numbers_or_registers(
    marker: float, shown: bytes, autojump_clock: MockClock
) -> None:
    wanted = PointSettings(name="A", address=0, type="float32", invalid=(marker,), group="fast")
    words = struct.unpack(">HH", shown)
    gateway = Gateway([0, 1], device(1, points=(wanted,)), fixed=dict(enumerate(words)))
    status = await gateway.run(3.0)
    assert gateway.notes.values == []
    assert "not available" in status.invalid_points["A"]


@pytest.mark.parametrize(("kind", "value"), [("bits", 1), ("enum", "1"), ("bcd", 1)])
async def test_three_registers_with_the_low_word_first(
    kind: Any, value: object, autojump_clock: MockClock
) -> None:
    wanted = PointSettings(
        name="A", address=0, type=kind, length=3, word_order="little", group="fast"
    )
    gateway = Gateway([0, 1, 2], device(1, points=(wanted,)), fixed={0: 1, 1: 0, 2: 0})
    await gateway.run(1.5)
    assert set(gateway.values("A")) == {value}


def readings_of(gateway: Gateway, key: str) -> list[Reading]:
    return [reading for reading in gateway.notes.values if reading.key == key]


async def test_what_a_restarting_device_shows_is_no_reading(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        gateway.fixed[0] = 0 if 10 < asked.at_s < 20 else 5000 + int(asked.at_s)
        gateway.fixed[1] = 0 if 10 < asked.at_s < 20 else 230
        return [(0.0, gateway.answer(asked))]

    wanted = (
        PointSettings(name="Energy", address=0, never_falls=True, group="fast"),
        PointSettings(name="Volts", address=1, max_step=50, group="fast"),
    )
    gateway = Gateway([0, 1], device(1, points=wanted), hook=hook, fixed={})
    status = await gateway.run(30.5)
    assert 0 not in gateway.values("Energy")
    energy = gateway.values("Energy")
    assert energy == sorted(energy, key=float)  # type: ignore[arg-type]
    assert status.implausible >= 9
    assert status.invalid_points == {}
    told = [body["reasons"] for _, body in gateway.notes.events if body.get("reasons")]
    assert "never falls" in told[0]["Energy"]


async def test_a_new_level_is_taken_after_five_minutes(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        gateway.fixed[0] = int(asked.at_s) + (0 if asked.at_s > 10 else 9000)
        return [(0.0, gateway.answer(asked))]

    wanted = (PointSettings(name="Energy", address=0, never_falls=True, group="fast"),)
    gateway = Gateway([0], device(1, points=wanted), hook=hook, fixed={})
    status = await gateway.run(400.0)
    taken = [value for value in gateway.values("Energy") if isinstance(value, int)]
    assert taken[-1] < 9000
    assert 295 <= status.implausible <= 305


@pytest.mark.slow
async def test_many_unread_points_make_an_event_of_bounded_size(
    autojump_clock: MockClock,
) -> None:
    many = {f"Point{i:04}": 2 * i for i in range(500)}
    wanted = (*points(A=3000), *points(**many))
    gateway = Gateway([3000], device(1, points=wanted, max_gap=0))
    status = await gateway.run(130.0)
    assert len(status.invalid_points) == 500
    told = [body for _, body in gateway.notes.events if body.get("invalid")]
    assert all(len(body["invalid"]) <= 100 for body in told)
    assert told[-1]["more"] == 400


async def test_an_offline_device_names_every_point(autojump_clock: MockClock) -> None:
    gateway = Gateway([], device(1, points=points(A=0, B=100)), hook=silent)
    status = await gateway.run(30.0)
    assert status.state is SourceState.OFFLINE
    assert set(status.invalid_points) == {"A", "B"}
    assert all("no answer" in reason for reason in status.invalid_points.values())
