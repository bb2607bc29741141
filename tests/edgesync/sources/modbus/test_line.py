"""One connection and what gateways do with it: pauses, numbers, one request at a time."""

import itertools
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from trio.testing import MockClock

from edgesync.errors import ConfigError
from edgesync.sources.base import SourceState
from edgesync.sources.modbus.layout import Limits, resolve
from edgesync.sources.modbus.pdu import Request
from edgesync.sources.modbus.settings import PointSettings, ProfileSettings
from edgesync.sources.modbus.tcp import REDIAL_S, Line, LineDown
from edgesync.units import Seconds
from tests.edgesync.sources.modbus.gateway import Asked, Gateway, Script
from tests.edgesync.sources.modbus.lab import device


def points(**addresses: int) -> tuple[PointSettings, ...]:
    return tuple(
        PointSettings(name=name, address=address, group="fast")
        for name, address in addresses.items()
    )


class OneAtATime:
    """A gateway that drops what comes while it works on something, as many RTU gateways do."""

    def __init__(self, takes_s: Sequence[float]) -> None:
        self._takes_s = takes_s
        self._free_s = 0.0
        self.dropped = 0

    def __call__(self, gateway: Gateway, asked: Asked) -> Script:
        if asked.at_s < self._free_s:
            self.dropped += 1
            return []
        takes_s = self._takes_s[asked.unit_id - 1]
        self._free_s = asked.at_s + takes_s
        return [(takes_s, gateway.answer(asked))]


@pytest.mark.feature("C17")
@pytest.mark.parametrize(
    ("takes_s", "least"),
    [
        ((0.28, 0.28, 0.28), 39),  # 0.84 s of each second: no reading may be lost
        ((0.6, 0.6, 0.6), 20),  # more than there is time for: shared fairly
        ((0.7, 0.03, 0.03), 39),
    ],
)
async def test_a_gateway_is_asked_one_thing_at_a_time(
    takes_s: Sequence[float], least: int, autojump_clock: MockClock
) -> None:
    works = OneAtATime(takes_s)
    units = [device(unit, points=points(A=0)) for unit in (1, 2, 3)]
    gateway = Gateway([0], *units, hook=works)
    await gateway.run(40.0)
    assert works.dropped == 0
    for unit in units:
        assert len(gateway.notes.arrivals[unit.name]) >= least
        assert gateway.notes.states(unit.name) == ["online"]


@pytest.mark.parametrize("answer_s", [0.0, 0.2])
async def test_min_gap_is_silence_after_the_last_byte(
    answer_s: float, autojump_clock: MockClock
) -> None:
    ends: list[float] = []

    def hook(gateway: Gateway, asked: Asked) -> Script:
        ends.append(asked.at_s + answer_s)
        return [(answer_s, gateway.answer(asked))]

    far = points(A=0, B=100, C=200)
    gateway = Gateway([0, 100, 200], device(1, points=far, min_gap=Seconds(0.05)), hook=hook)
    status = await gateway.run(10.9)
    starts = [asked.at_s for asked in gateway.asked]
    gaps = [start - end for end, start in zip(ends, starts[1:], strict=False)]
    assert min(gaps) >= 0.05 - 1e-9
    assert (status.timeouts, status.polls, len(starts)) == (0, 11, 33)


@pytest.mark.setting("modbus.unit_switch")
async def test_unit_switch_is_silence_after_the_other_units_answer(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(0.1, gateway.answer(asked))]

    units = [device(unit, points=points(A=0), unit_switch=Seconds(0.15)) for unit in (1, 2)]
    gateway = Gateway([0], *units, hook=hook)
    await gateway.run(10.5)
    for before, after in itertools.pairwise(gateway.asked):
        assert before.unit_id != after.unit_id
        assert after.at_s - before.at_s >= 0.1 + 0.15 - 1e-9


@pytest.mark.setting("modbus.connect_delay")
async def test_the_pause_after_connecting_holds_whichever_unit_connects(
    autojump_clock: MockClock,
) -> None:
    opened: list[float] = []
    first = device(1, points=points(A=0))
    second = device(2, points=points(A=0), connect_delay=Seconds(0.4))
    gateway = Gateway([0], first, second)
    connect = gateway._connect

    async def noting(host: str, port: int) -> trio.abc.Stream:
        opened.append(trio.current_time())
        return await connect(host, port)

    gateway.source._line._connect = noting
    await gateway.run(3.0)
    assert gateway.asked[0].at_s - opened[0] >= 0.4


async def test_an_exception_of_wrong_length_costs_its_point_only(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        if asked.address == 300:
            return [(0.0, gateway.refuse(asked, 2, length=4))]
        return [(0.0, gateway.answer(asked))]

    gateway = Gateway([0], device(1, points=points(A=0, D=300)), hook=hook)
    status = await gateway.run(70.0)
    assert len(gateway.values("A")) == 70
    assert gateway.connections == 1
    assert gateway.notes.states("d1").count("offline") == 0
    assert "D" in status.invalid_points


@pytest.mark.setting("modbus.quirks")
async def test_answers_with_another_number_are_told_and_a_quirk_takes_them(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(0.0, gateway.answer(asked, transaction=0))]

    strict = Gateway([0], device(1, points=points(A=0)), hook=hook)
    status = await strict.run(10.0)
    assert status.state is SourceState.OFFLINE
    assert "transaction id 0 instead of" in status.last_error
    assert "any_transaction_id" in status.last_error

    patient = Gateway([0], device(1, points=points(A=0), quirks=("any_transaction_id",)), hook=hook)
    status = await patient.run(10.5)
    assert len(patient.values("A")) == len(patient.notes.arrivals["d1"]) >= 10
    assert status.errors == 0


async def test_with_any_number_a_late_answer_is_still_never_another_requests(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        delay_s = 1.2 if len(gateway.asked) % 4 == 0 else 0.0
        return [(delay_s, gateway.answer(asked, transaction=0))]

    fixed = {0: 11, 100: 22, 200: 33}
    quirks = ("any_transaction_id",)
    far = device(1, points=points(A=0, B=100, C=200), quirks=quirks)
    gateway = Gateway([0, 100, 200], far, hook=hook, fixed=fixed)
    status = await gateway.run(60.0)
    assert status.timeouts > 5
    assert {(r.key, r.value) for r in gateway.notes.values} == {("A", 11), ("B", 22), ("C", 33)}


def test_any_transaction_id_needs_one_request_at_a_time() -> None:
    settings: dict[str, Any] = {"points": points(A=0), "quirks": ("any_transaction_id",)}
    with pytest.raises(ConfigError, match="only the order tells the answers"):
        resolve(device(1, overlap=True, **settings), None)
    profile = ProfileSettings(profile="p", points=points(A=0), quirks=("any_transaction_id",))
    with pytest.raises(ConfigError, match="overlap"):
        resolve(device(1, points=(), overlap=True), profile)


async def test_another_units_answer_names_the_quirk(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        answer = gateway.answer(asked)
        return [(0.0, answer[:6] + b"\xff" + answer[7:])]

    gateway = Gateway([0], device(1, points=points(A=0)), hook=hook)
    status = await gateway.run(3.0)
    assert "unit 255 answered for unit 1" in status.last_error
    assert "any_unit_id" in status.last_error


async def test_half_a_frame_is_described_when_time_is_up(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(0.0, bytes.fromhex("01 03 02 00 05 78 47"))]  # RTU, one register

    status = await Gateway([0], device(1, points=points(A=0), retries=0), hook=hook).run(1.5)
    assert "no answer in 1 s, but 7 bytes that are no answer" in status.last_error
    assert "RTU over TCP" in status.last_error


async def test_units_of_a_gateway_that_refuses_share_one_attempt(
    autojump_clock: MockClock, nursery: trio.Nursery
) -> None:
    attempts = 0

    async def refuse(host: str, port: int) -> trio.abc.Stream:
        nonlocal attempts
        attempts += 1
        raise ConnectionRefusedError(111, "Connection refused")

    line = Line("lab", 502, refuse)
    await nursery.start(line.serve)
    for wanted in (1, 2):
        for unit in (1, 2, 3):
            with pytest.raises(LineDown, match="Connection refused"):
                await line.ask(Request(unit, "holding", 0, 1), Limits(), urgency=0.0)
        assert attempts == wanted
        await trio.sleep(REDIAL_S)
