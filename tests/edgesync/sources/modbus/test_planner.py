"""Merged reads: nothing split, nothing too long, nothing left out."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.errors import ConfigError
from edgesync.sources.modbus.layout import Layout, resolve
from edgesync.sources.modbus.planner import Block, Planner
from edgesync.sources.modbus.profile import bundled_profiles, load_layout
from edgesync.sources.modbus.settings import ModbusDeviceSettings, PointSettings

GROUPS = ("fast", "slow")


def layout(*points: dict[str, Any], **fields: Any) -> Layout:
    named = [{"name": f"P{index}"} | point for index, point in enumerate(points)]
    settings = tuple(PointSettings(**point) for point in named)
    return resolve(ModbusDeviceSettings(name="d", host="h", points=settings, **fields), None)


def spans(blocks: tuple[Block, ...]) -> list[tuple[str, int, int]]:
    return [(block.table, block.address, block.count) for block in blocks]


def plan(*points: dict[str, Any], **fields: Any) -> list[tuple[str, int, int]]:
    return spans(Planner(layout(*points, **fields)).plan(GROUPS))


def test_neighbours_and_small_gaps_are_one_request() -> None:
    assert plan({"address": 0}, {"address": 1, "type": "int32"}, {"address": 19}) == [
        ("holding", 0, 20)
    ]
    assert plan({"address": 0}, {"address": 18}) == [("holding", 0, 1), ("holding", 18, 1)]
    assert plan({"address": 0}, {"address": 1}, max_gap=0) == [("holding", 0, 2)]


def test_a_request_stays_within_125_words_and_2000_bits() -> None:
    words = plan(*[{"address": 2 * i, "type": "int32"} for i in range(100)])
    assert words == [("holding", 0, 124), ("holding", 124, 76)]
    bits = plan(*[{"address": i, "type": "bool", "table": "coil"} for i in range(2001)])
    assert bits == [("coil", 0, 2000), ("coil", 2000, 1)]


def test_tables_are_never_mixed_and_groups_only_when_both_are_due() -> None:
    planner = Planner(layout({"address": 0}, {"address": 1, "group": "fast"}))
    assert spans(planner.plan(["fast"])) == [("holding", 1, 1)]
    assert spans(planner.plan(GROUPS)) == [("holding", 0, 2)]
    assert len(plan({"address": 0}, {"address": 1, "table": "input"})) == 2


@pytest.mark.feature("C17")
def test_a_value_and_its_scale_factor_come_from_one_reply() -> None:
    far = layout(
        {"name": "W", "address": 0, "type": "int16", "sf": "Sf", "group": "fast"},
        {"name": "Sf", "address": 60, "type": "int16"},
        {"name": "V", "address": 120, "type": "int16", "sf": "Sf", "group": "fast"},
        max_words=70,
    )
    blocks = Planner(far).plan(["fast"])
    assert spans(blocks) == [("holding", 0, 61), ("holding", 60, 61)]
    words = [0] * 61
    words[0], words[60] = 2301, 0xFFFF
    data = struct.pack(">61H", *words)
    assert dict(blocks[0].decode(data)) == {"W": 230.1}


def test_single_reads_for_devices_that_cannot_do_more() -> None:
    merged = load_layout(ModbusDeviceSettings(name="m", host="h", profile="edgesync-sim-meter"))
    fields = {name: getattr(merged, name) for name in merged.__struct_fields__}
    single = Layout(**fields | {"quirks": frozenset({"single_reads"})})
    assert len(Planner(single).plan(GROUPS)) == len(single.points)


@pytest.mark.parametrize("name", bundled_profiles())
def test_bundled_profiles_need_far_fewer_requests_than_points(name: str) -> None:
    found = load_layout(ModbusDeviceSettings(name="m", host="h", profile=name))
    assert len(Planner(found).plan(GROUPS)) <= 0.4 * len(found.points)


def test_a_refused_read_is_parted_at_its_gaps_then_in_half() -> None:
    planner = Planner(layout(*[{"address": a} for a in (0, 1, 5, 6, 7, 8)]))
    [whole] = planner.plan(GROUPS)
    assert spans(planner.refuse(whole, "2", 0.0)) == [("holding", 0, 2), ("holding", 5, 4)]
    [_, second] = planner.plan(GROUPS)
    assert planner.refuse(second, "2", 0.0)
    assert spans(planner.plan(GROUPS))[1:] == [("holding", 5, 2), ("holding", 7, 2)]
    assert planner.withheld == {}


def test_a_refused_single_point_is_left_out_until_forgiven() -> None:
    planner = Planner(layout({"address": 0}, {"address": 50}))
    first, second = planner.plan(GROUPS)
    assert not planner.refuse(first, "refused", 0.0)
    assert planner.plan(GROUPS) == (second,)
    assert planner.withheld == {"P0": "refused"}
    assert planner.probe().address == 50
    planner.forgive()
    assert planner.plan(GROUPS) == (first, second)


def test_the_probe_is_the_cheapest_read() -> None:
    planner = Planner(layout({"address": 9, "type": "int64"}, {"address": 30}, {"address": 20}))
    assert spans((planner.probe(),)) == [("holding", 20, 1)]


TYPES = st.sampled_from(["uint16", "int32", "uint64", "float32"])
POINTS = st.lists(
    st.fixed_dictionaries(
        {
            "address": st.integers(0, 400),
            "type": TYPES,
            "table": st.sampled_from(["holding", "input"]),
            "group": st.sampled_from(GROUPS),
            "atomic_with": st.lists(st.integers(0, 30), max_size=2),
        }
    ),
    min_size=1,
    max_size=30,
)


def build(points: list[dict[str, Any]], max_words: int, max_gap: int) -> Layout | None:
    """Return the layout, or None if an atomic set cannot be."""
    named = [
        point | {"atomic_with": tuple(f"P{i}" for i in point["atomic_with"] if i < len(points))}
        for point in points
    ]
    try:
        return layout(*named, max_words=max_words, max_gap=max_gap)
    except ConfigError:
        return None


@given(POINTS, st.integers(4, 125), st.integers(0, 20))
@pytest.mark.feature("C17")
def test_no_plan_splits_exceeds_or_forgets(
    points: list[dict[str, Any]], max_words: int, max_gap: int
) -> None:
    found = build(points, max_words, max_gap)
    if found is None:
        return
    blocks = Planner(found).plan(GROUPS)
    seen: list[str] = []
    for block in blocks:
        assert 1 <= block.count <= max_words
        for item in block.items:
            assert block.address <= item.start
            assert item.end <= block.end
        names = {point.name for item in block.items for point in item.points}
        seen += names
        for together in found.atomic:
            assert not names & together or together <= names
        used = {a for item in block.items for a in range(item.start, item.end)}
        gap = 0
        for address in range(block.address, block.end):
            gap = 0 if address in used else gap + 1
            assert gap <= max_gap
    assert sorted(seen) == sorted(point.name for point in found.points)


@given(POINTS, st.sets(st.integers(0, 404), max_size=12))
@pytest.mark.feature("C17")
def test_illegal_addresses_cost_only_the_points_on_them(
    points: list[dict[str, Any]], illegal: set[int]
) -> None:
    found = build([point | {"atomic_with": []} for point in points], 125, 16)
    assert found is not None
    planner = Planner(found)
    answered: set[str] = set()
    queue = list(planner.plan(GROUPS))
    for _ in range(500):
        if not queue:
            break
        block = queue.pop(0)
        if illegal.isdisjoint(range(block.address, block.end)):
            answered |= {point.name for item in block.items for point in item.points}
        else:
            queue += planner.refuse(block, "refused", 0.0)
    assert not queue
    for point in found.points:
        touched = not illegal.isdisjoint(range(point.address, point.end))
        shares = any(
            other is not point and other.table == point.table
            and other.address < point.end and point.address < other.end
            for other in found.points
        )  # fmt: skip
        assert (point.name in answered) == (not touched) or shares
