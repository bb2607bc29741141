"""One bad device never delays the others: ages in periods, in virtual time."""

from dataclasses import dataclass

import pytest
import trio
from trio.testing import MockClock

from edgesync.sources.simulate.server import Faults
from tests.edgesync.sources.modbus.lab import Lab, device

PERIOD_S = 1.0
SECONDS = 120.0


@dataclass
class Case:
    faults: Faults
    overlap: bool = False


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        Case(Faults(silent=True)),
        Case(Faults(silent=True), overlap=True),
        Case(Faults(delay_s=1.5)),  # every answer comes after its time-out
        Case(Faults(delay_s=0.8)),
        Case(Faults(delay_s=0.8), overlap=True),
        Case(Faults(dribble_s=0.02)),
        Case(Faults(exception=4)),
        Case(Faults(exception=11)),
        Case(Faults(busy=10**9)),
        Case(Faults(drop=True)),
        Case(Faults(garbage=True)),
        Case(Faults(wrong_unit=True)),
        Case(Faults(wrong_count=True)),
        Case(Faults(wrong_id=True)),
        # A gateway that answers nobody while it waits for the silent unit on its serial line.
        Case(Faults(hold_s=0.9, exception=11)),
    ],
    ids=lambda case: repr(case).replace("Case(faults=Faults", "").rstrip(")"),
)
@pytest.mark.feature("C17")
async def test_nine_good_devices_beside_a_bad_one_stay_younger_than_two_periods(
    case: Case, autojump_clock: MockClock
) -> None:
    devices = [device(unit, overlap=case.overlap) for unit in range(1, 11)]
    lab = Lab(*devices)
    for unit in range(1, 11):
        lab.server.faults[unit] = Faults(delay_s=0.02)
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        await trio.sleep(5.5)
        start_s = trio.current_time()
        lab.server.faults[5] = case.faults
        await trio.sleep(SECONDS)
        end_s = trio.current_time()
        nursery.cancel_scope.cancel()
    ages = {u: lab.notes.oldest(f"d{u}", start_s, end_s) for u in range(1, 11) if u != 5}
    assert max(ages.values()) <= 2 * PERIOD_S, ages
    for unit in ages:
        assert lab.notes.states(f"d{unit}") == ["online"], "a neighbour's trouble is not its own"


@pytest.mark.feature("C17")
@pytest.mark.setting("modbus.overlap")
async def test_one_good_device_beside_nine_silent_ones(autojump_clock: MockClock) -> None:
    lab = Lab(*[device(unit, overlap=True) for unit in range(1, 11)])
    for unit in range(1, 11):
        lab.server.faults[unit] = Faults(delay_s=0.005)
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        await trio.sleep(5.5)
        start_s = trio.current_time()
        for unit in range(2, 11):
            lab.server.faults[unit] = Faults(silent=True)
        await trio.sleep(SECONDS)
        age_s = lab.notes.oldest("d1", start_s, trio.current_time())
        nursery.cancel_scope.cancel()
    assert age_s <= 2 * PERIOD_S


async def test_a_device_dead_from_the_start_delays_nobody(autojump_clock: MockClock) -> None:
    lab = Lab(*[device(unit) for unit in range(1, 5)])
    lab.server.faults[1] = Faults(silent=True)
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        await trio.sleep(30)
        nursery.cancel_scope.cancel()
    for unit in (2, 3, 4):
        assert lab.notes.oldest(f"d{unit}", 0.0, 30.0) <= 2 * PERIOD_S
    assert lab.notes.states("d1") == ["offline"]


@pytest.mark.slow
@pytest.mark.feature("C17")
async def test_a_silent_device_is_probed_after_2_4_8_seconds(autojump_clock: MockClock) -> None:
    lab = Lab(device(1), device(2))
    lab.server.faults[1] = Faults(silent=True)
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        await trio.sleep(3600)
        nursery.cancel_scope.cancel()
    # 2 + 4 + … + 256 is 510 s, then every 300 s; each probe is two requests.
    assert lab.server.requests[1] in range(2 * 17, 2 * 22)
    assert len(lab.notes.arrivals["d2"]) in (3600, 3601)


async def test_a_slow_commit_of_one_device_delays_no_other(autojump_clock: MockClock) -> None:
    lab = Lab(device(1), device(2))
    slow = lab.notes.readings

    async def readings(values: object) -> None:
        if values[0].entity == "d1":  # type: ignore[index]
            await trio.sleep(7)
        await slow(values)  # type: ignore[arg-type]

    lab.notes.readings = readings  # type: ignore[method-assign,assignment]
    async with trio.open_nursery() as nursery:
        await lab.run(nursery)
        await trio.sleep(30)
        first, second = lab.source.statuses()
        nursery.cancel_scope.cancel()
    assert lab.notes.oldest("d2", 0.0, 30.0) <= 2 * PERIOD_S
    assert first.overruns > 10
    assert second.overruns == 0
