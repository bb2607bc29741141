"""What a file says of a device is what is done with it: a key that is read and ignored is red."""

import struct
from typing import Any

import msgspec
import pytest
from trio.testing import MockClock

from edgesync.model import Value
from edgesync.sources.modbus.layout import Limits, resolve
from edgesync.sources.modbus.planner import Planner
from edgesync.sources.modbus.profile import load_layout, parse_profile
from edgesync.sources.modbus.settings import ModbusDeviceSettings
from edgesync.units import dec_hook
from tests.edgesync.sources.modbus.gateway import Asked, Gateway, Script

pytestmark = pytest.mark.feature("C17")


def device(*points: dict[str, Any], **fields: Any) -> ModbusDeviceSettings:
    """Return a device as edge.toml would say it; points are fast unless they say otherwise."""
    named = [{"name": f"P{nth}", "group": "fast"} | point for nth, point in enumerate(points)]
    raw = {"name": "d", "host": "lab", "points": named, **fields}
    return msgspec.convert(raw, ModbusDeviceSettings, dec_hook=dec_hook)


def decoded(words: list[int], *points: dict[str, Any], **fields: Any) -> dict[str, Value | None]:
    """Return what a device with the registers `words` is read as."""
    base = fields.get("address_base", 0)
    found: dict[str, Value | None] = {}
    for block in Planner(resolve(device(*points, **fields), None)).plan(["fast"]):
        held = words[block.address : block.address + block.count]
        assert len(held) == block.count, (block.address, base)
        found.update(block.decode(struct.pack(f">{len(held)}H", *held)))
    return found


def requests(*points: dict[str, Any], **fields: Any) -> list[tuple[str, int, int]]:
    blocks = Planner(resolve(device(*points, **fields), None)).plan(["fast"])
    return [(block.table, block.address, block.count) for block in blocks]


@pytest.mark.setting("modbus.points.type", "modbus.points.length", "modbus.points.bit")
def test_a_point_is_read_as_its_shape_says() -> None:
    words = [0x4248, 0, 0x4142, 0x4300, 0b0111, 0xFFFE]
    found = decoded(
        words,
        {"address": 0, "type": "float32"},
        {"address": 2, "type": "string", "length": 2},
        {"address": 4, "type": "bool", "bit": 3},
        {"address": 5, "type": "int16"},
    )
    assert found == {"P0": 50.0, "P1": "ABC", "P2": False, "P3": -2}


@pytest.mark.setting("modbus.points.table")
def test_a_point_is_read_from_its_table() -> None:
    assert requests({"address": 7, "table": "input"}) == [("input", 7, 1)]


@pytest.mark.setting("modbus.points.word_order", "modbus.points.byte_order")
@pytest.mark.setting("modbus.points.dword_order")
def test_a_point_has_orders_of_its_own() -> None:
    number = 0x0102030405060708
    orders = {"word_order": "little", "byte_order": "little", "dword_order": "big"}
    words = [0x0403, 0x0201, 0x0807, 0x0605]
    assert decoded(words, {"address": 0, "type": "uint64", **orders}) == {"P0": number}


@pytest.mark.setting("modbus.word_order", "modbus.byte_order", "modbus.address_base")
def test_a_device_has_orders_and_a_first_address_for_all_its_points() -> None:
    orders = {"word_order": "little", "byte_order": "little", "address_base": 1}
    assert decoded([0x0403, 0x0201], {"address": 1, "type": "uint32"}, **orders) == {
        "P0": 0x01020304
    }


@pytest.mark.setting("modbus.points.scale", "modbus.points.offset", "modbus.points.sf")
@pytest.mark.setting("modbus.points.invalid", "modbus.points.min", "modbus.points.max")
@pytest.mark.setting("modbus.points.enum", "modbus.points.bits")
def test_a_points_number_means_what_its_settings_say() -> None:
    points: tuple[dict[str, Any], ...] = (
        {"address": 0, "scale": 0.1, "offset": -40},
        {"address": 1, "sf": "Sf"},
        {"name": "Sf", "address": 2, "type": "int16"},
        {"address": 3, "invalid": [9999]},
        {"address": 4, "min": 5},
        {"address": 5, "max": 5},
        {"address": 6, "type": "enum", "enum": {"2": "charging"}},
        {"address": 7, "type": "bits", "bits": {"1": "Fan"}},
    )
    assert decoded([650, 5, 0xFFFF, 9999, 4, 6, 2, 2], *points) == {
        "P0": 25.0, "P1": 0.5, "Sf": -1, "P3": None, "P4": None, "P5": None, "P6": "charging",
        "P7.Fan": True,
    }  # fmt: skip


@pytest.mark.setting("modbus.points.atomic_with")
def test_points_that_belong_together_come_from_one_request() -> None:
    together = ({"address": 0, "atomic_with": ["P1"]}, {"address": 60})
    assert requests(*together) == [("holding", 0, 61)]


@pytest.mark.setting("modbus.max_words", "modbus.max_bits", "modbus.max_gap")
def test_requests_are_as_long_as_the_device_can_take() -> None:
    coil = {"type": "bool", "table": "coil"}
    points = [{"address": a} for a in (0, 1, 6, 7, 8, 9)] + [{"address": a, **coil} for a in (0, 3)]
    assert requests(*points, max_words=3, max_bits=2, max_gap=3) == [
        ("coil", 0, 1), ("coil", 3, 1), ("holding", 0, 2), ("holding", 6, 3), ("holding", 9, 1),
    ]  # fmt: skip
    assert requests({"address": 0}, {"address": 5}, max_gap=3) == [
        ("holding", 0, 1), ("holding", 5, 1),
    ]  # fmt: skip


@pytest.mark.setting("modbus.points", "modbus.unit_id", "modbus.poll_groups")
@pytest.mark.setting("modbus.poll_groups.every", "modbus.poll_groups.points")
@pytest.mark.setting("modbus.points.group", "modbus.points.unit")
async def test_each_group_is_polled_at_its_own_rate(autojump_clock: MockClock) -> None:
    groups = {"fast": {"every": "2s"}, "hourly": {"every": "3s", "points": ["P1"]}}
    points = ({"address": 0, "unit": "V"}, {"address": 100})
    gateway = Gateway([0, 100], device(*points, unit_id=9, poll_groups=groups))
    await gateway.run(12.9)
    assert {one.unit_id for one in gateway.asked} == {9}
    assert len(gateway.times(0)) in (6, 7)
    assert len(gateway.times(100)) in (4, 5)
    assert {reading.unit for reading in gateway.notes.values if reading.key == "P0"} == {"V"}


@pytest.mark.setting("modbus.timeout")
async def test_an_answer_is_waited_for_as_long_as_the_file_says(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        return [(2.0, gateway.answer(asked))]

    gateway = Gateway([0], device({"address": 0}, timeout="3s", retries=0), hook=hook)
    status = await gateway.run(20)
    assert gateway.values("P0")
    assert status.last_error == ""


def silent(gateway: Gateway, asked: Asked) -> Script:
    return []


def busy(gateway: Gateway, asked: Asked) -> Script:
    return [(0.0, gateway.refuse(asked, 6))]


@pytest.mark.setting("modbus.retries", "modbus.timeout")
async def test_a_silent_device_is_asked_again_as_often_as_the_file_says(
    autojump_clock: MockClock,
) -> None:
    gateway = Gateway([0], device({"address": 0}, timeout="100ms", retries=4), hook=silent)
    await gateway.run(0.95)
    assert len(gateway.asked) == 5


@pytest.mark.setting("modbus.busy_retries", "modbus.busy_wait")
async def test_a_busy_device_is_waited_for_as_the_file_says(autojump_clock: MockClock) -> None:
    wanted = device({"address": 0}, busy_retries=2, busy_wait="50ms", retries=0)
    gateway = Gateway([0], wanted, hook=busy)
    await gateway.run(0.9)
    assert len(gateway.asked) == 3
    assert gateway.asked[-1].at_s < 0.2


@pytest.mark.setting("modbus.min_gap")
async def test_requests_keep_the_distance_of_the_file(autojump_clock: MockClock) -> None:
    gateway = Gateway([0, 500], device({"address": 0}, {"address": 500}, min_gap="300ms"))
    await gateway.run(0.9)
    first, second = (one.at_s for one in gateway.asked)
    assert second - first >= 0.3 - 1e-9


@pytest.mark.setting("modbus.quirks")
async def test_a_device_that_wants_a_new_connection_each_time_gets_one(
    autojump_clock: MockClock,
) -> None:
    wanted = device({"address": 0}, {"address": 1}, quirks=["close_after_poll", "single_reads"])
    gateway = Gateway([0, 1], wanted)
    await gateway.run(4.5)
    assert gateway.connections == 5
    assert {one.count for one in gateway.asked} == {1}


@pytest.mark.setting("modbus.quirks")
async def test_another_units_answer_is_taken_where_the_file_says_so(
    autojump_clock: MockClock,
) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        asked.unit_id = 77
        return [(0.0, gateway.answer(asked))]

    gateway = Gateway([0], device({"address": 0}, quirks=["any_unit_id"]), hook=hook)
    await gateway.run(2.5)
    assert gateway.values("P0")


@pytest.mark.setting("modbus.deadband", "modbus.max_age")
@pytest.mark.setting("modbus.points.deadband", "modbus.points.max_age")
async def test_small_changes_are_held_back_as_the_file_says(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        gateway.fixed.update(dict.fromkeys(range(4), int(asked.at_s)))
        return [(0.0, gateway.answer(asked))]

    points = (
        {"address": 0},
        {"address": 1, "deadband": 2, "max_age": "1h"},
        {"address": 2, "deadband": 1000, "max_age": "3s"},
    )
    wanted = device(*points, deadband=4, max_age="1h")
    gateway = Gateway([0, 1, 2], wanted, hook=hook)
    await gateway.run(9.5)
    assert gateway.values("P0") == [0, 4, 8]
    assert gateway.values("P1") == [0, 2, 4, 6, 8]
    assert gateway.values("P2") == [0, 3, 6, 9]
    still = device({"address": 0}, deadband=1000, max_age="4s")
    gateway = Gateway([0], still, hook=hook)
    await gateway.run(9.5)
    assert len(gateway.values("P0")) == 3


@pytest.mark.setting("modbus.points.never_falls", "modbus.points.max_step")
async def test_what_no_counter_and_no_voltage_does_is_no_reading(autojump_clock: MockClock) -> None:
    def hook(gateway: Gateway, asked: Asked) -> Script:
        gateway.fixed.update({0: 0 if asked.at_s > 4 else 50, 1: 900 if asked.at_s > 4 else 230})
        return [(0.0, gateway.answer(asked))]

    points = ({"address": 0, "never_falls": True}, {"address": 1, "max_step": 20})
    gateway = Gateway([0, 1], device(*points), hook=hook)
    await gateway.run(9.5)
    assert 0 not in gateway.values("P0")
    assert 900 not in gateway.values("P1")


PROFILE = b"""
profile = "p"
unit_id = 9
address_base = 1
word_order = "little"
byte_order = "little"
quirks = ["single_reads"]
limits = { max_words = 9, max_bits = 8, max_gap = 7, timeout = "6s", retries = 5, \
busy_retries = 4, busy_wait = "3s", min_gap = "2s", connect_delay = "1s", unit_switch = "4s", \
overlap = true }
poll_groups.fast = { every = "8s", points = ["A"] }
points = [{ name = "A", address = 1, type = "uint32" }]
"""


@pytest.mark.setting("profile.unit_id", "profile.address_base", "profile.word_order")
@pytest.mark.setting("profile.byte_order", "profile.quirks", "profile.poll_groups")
@pytest.mark.setting("profile.limits.max_words", "profile.limits.max_bits")
@pytest.mark.setting("profile.limits.max_gap", "profile.limits.timeout", "profile.limits.retries")
@pytest.mark.setting("profile.limits.busy_retries", "profile.limits.busy_wait")
@pytest.mark.setting("profile.limits.min_gap", "profile.limits.connect_delay")
@pytest.mark.setting("profile.limits.unit_switch", "profile.limits.overlap")
def test_a_profile_says_the_same_of_a_kind_of_device() -> None:
    found = resolve(device(), parse_profile(PROFILE, "p.toml"))
    [point] = found.points
    assert (found.unit_id, list(found.quirks)) == (9, ["single_reads"])
    assert (point.address, point.group, point.order) == (0, "fast", (3, 2, 1, 0))
    assert found.periods == (("fast", 8.0),)
    assert found.limits == Limits(
        max_words=9, max_bits=8, max_gap=7, timeout=6.0, retries=5, busy_retries=4, busy_wait=3.0,
        min_gap=2.0, connect_delay=1.0, unit_switch=4.0, overlap=True,
    )  # fmt: skip


@pytest.mark.setting("modbus.profile")
def test_a_device_has_the_points_of_its_profile() -> None:
    assert len(load_layout(device(profile="edgesync-sim-meter")).points) > 10
