"""Merged reads: nothing split, nothing too long, nothing left out."""

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.errors import ConfigError
from edgesync.sources.modbus.layout import Layout, resolve
from edgesync.sources.modbus.planner import (
    PROBES_MAX,
    RETRIES_PER_POLL,
    RETRY_FIRST_S,
    STRIKES,
    Block,
    Planner,
)
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


@pytest.mark.slow
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


def test_what_a_device_taught_that_refuses_everything_is_forgotten() -> None:
    """Everything it refused for a while: breaks, points asked alone, withheld, parted factors."""
    points = (
        {"address": 0}, {"address": 1}, {"address": 9},
        {"address": 0, "type": "uint32"},  # a second view of the same registers
        {"address": 40, "type": "int16", "sf": "Sf"},
        {"name": "Sf", "address": 44, "type": "int16"},
    )  # fmt: skip
    planner = Planner(layout(*points, max_gap=8))
    first = planner.plan(GROUPS)
    assert planner.refuse(first[0], "2", 0.0)
    taught = planner.plan(GROUPS)
    before = planner.learnt()
    queue = list(taught)
    while queue:
        queue += planner.refuse(queue.pop(), "2", 0.0)
    assert planner.plan(GROUPS) == ()
    assert len(planner.withheld) == len(points)
    after = planner.learnt()
    fields = ("breaks", "alone", "withheld", "loose")
    assert [getattr(before, one) != getattr(after, one) for one in fields] == [True] * 4
    planner.unlearn(before)
    assert planner.plan(GROUPS) == taught
    assert planner.withheld == {}
    assert [getattr(planner.learnt(), one) for one in fields] == [
        getattr(before, one) for one in fields
    ]
    # What is learnt from here on is not what was kept.
    planner.refuse(taught[0], "2", 0.0)
    assert planner.learnt() != before
    planner.unlearn(before)
    assert planner.plan(GROUPS) == taught


def test_a_block_is_parted_when_it_was_silent_twice() -> None:
    planner = Planner(layout({"address": 0}, {"address": 5}))
    [whole] = planner.plan(GROUPS)
    planner.silent(whole, "silent", 0.0)
    assert spans(planner.plan(GROUPS)) == spans((whole,))
    planner.answered(whole)
    planner.silent(whole, "silent", 1.0)
    assert spans(planner.plan(GROUPS)) == spans((whole,)), "not in a row"
    planner.silent(whole, "silent", 2.0)
    parts = planner.plan(GROUPS)
    assert len(parts) == 2
    planner.silent(parts[0], "silent", 2.0)  # a part was silent with the whole: once is enough
    assert planner.withheld == {"P0": "silent"}


def test_what_was_parted_for_a_while_is_merged_anew_and_then_later_each_time() -> None:
    planner = Planner(layout({"address": 0}, {"address": 5}))
    [whole] = planner.plan(GROUPS)
    now_s = 0.0
    planner.silent(whole, "silent", now_s)
    for wait_s in (10.0, 20.0, 40.0, 80.0, 160.0, 300.0, 300.0):
        planner.silent(whole, "silent", now_s)  # merged anew, once is enough
        assert len(planner.plan(GROUPS)) == 2
        planner.expire(now_s + wait_s - 0.01)
        assert len(planner.plan(GROUPS)) == 2
        now_s += wait_s
        planner.expire(now_s)
        assert len(planner.plan(GROUPS)) == 1
    planner.answered(whole)
    for _ in range(STRIKES):
        planner.silent(whole, "silent", now_s)
    planner.expire(now_s + RETRY_FIRST_S)
    assert len(planner.plan(GROUPS)) == 1, "answered whole, it begins with the first pause"


def test_withheld_points_are_tried_again_a_few_at_a_time_the_longest_waiting_first() -> None:
    planner = Planner(layout(*[{"address": 100 * n} for n in range(7)]))
    for second, block in enumerate(reversed(planner.plan(GROUPS))):
        planner.refuse(block, "2", float(second))
    assert planner.retries(GROUPS, RETRY_FIRST_S - 0.01) == ()
    assert planner.retries(["fast"], 100.0) == ()
    assert [block.address for block in planner.retries(GROUPS, RETRY_FIRST_S + 1)] == [600, 500]
    due = planner.retries(GROUPS, 100.0)
    assert [block.address for block in due] == [600, 500, 400, 300]
    assert len(due) == RETRIES_PER_POLL
    for block in due:
        planner.refuse(block, "2", 100.0)
    assert [block.address for block in planner.retries(GROUPS, 101.0)] == [200, 100, 0]
    assert planner.retries(GROUPS, 100.0 + 2 * RETRY_FIRST_S - 0.01)[0].address == 200
    assert len(planner.retries(GROUPS, 100.0 + 2 * RETRY_FIRST_S)) == 4
    # A device that gives one of them again has been restarted: all are read.
    planner.answered(due[0])
    assert planner.withheld == {}


def test_probes_take_turns_among_eight_cheap_reads() -> None:
    planner = Planner(layout(*[{"address": 100 * n} for n in range(20)]))
    asked = []
    for _ in range(2 * PROBES_MAX):
        asked.append(planner.probe().address)
        planner.probed_in_vain()
    assert asked == 2 * [100 * n for n in range(PROBES_MAX)]


def test_a_probe_is_of_what_was_not_silent_before() -> None:
    planner = Planner(layout({"address": 0}, {"address": 100, "type": "int32"}))
    cheap, _ = planner.plan(GROUPS)
    assert planner.probe().address == 0
    planner.silent(cheap, "silent", 0.0)
    assert planner.probe().address == 100


def test_after_the_device_was_away_only_what_it_refused_for_good_stays_parted() -> None:
    planner = Planner(layout(*[{"address": address} for address in (0, 5, 300, 305)]))
    refused, silent = planner.plan(GROUPS)
    planner.refuse(refused, "2", 0.0)
    planner.refuse(silent, "4", 0.0, for_good=False)
    assert len(planner.plan(GROUPS)) == 4
    planner.forgive()
    assert spans(planner.plan(GROUPS)) == [
        ("holding", 0, 1), ("holding", 5, 1), ("holding", 300, 6),
    ]  # fmt: skip


def test_two_views_of_the_same_registers_are_one_request() -> None:
    views = ({"address": 0, "type": "uint32"}, {"address": 1}, {"address": 2})
    assert plan(*views, quirks=("single_reads",)) == [("holding", 0, 2), ("holding", 2, 1)]


def test_another_read_than_this_one_is_found_if_there_is_one() -> None:
    planner = Planner(layout({"address": 0}, {"address": 1}, {"address": 300, "type": "int32"}))
    pair, far = planner.plan(GROUPS)
    other = planner.other_than(pair)
    assert other is not None
    assert other.address == 300
    planner.refuse(far, "2", 0.0)
    part = planner.other_than(pair)
    assert part is not None
    assert (part.address, part.count) == (0, 1)
    assert planner.other_than(part) is not None
    alone = Planner(layout({"address": 0}))
    assert alone.other_than(alone.plan(GROUPS)[0]) is None
    assert alone.any_read() is not None
    alone.refuse(alone.plan(GROUPS)[0], "2", 0.0)
    assert alone.any_read() is None


def test_a_read_does_not_reach_across_a_withheld_point() -> None:
    planner = Planner(layout({"address": 0}, {"address": 5}, {"address": 10}))
    [whole] = planner.plan(GROUPS)
    for part in planner.refuse(whole, "2", 0.0, for_good=False):
        if part.address == 5:
            planner.refuse(part, "2", 0.0)
    planner.expire(1000.0)  # the cuts are over, the hole is not
    assert spans(planner.plan(GROUPS)) == [("holding", 0, 1), ("holding", 10, 1)]


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


@pytest.mark.slow
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


@pytest.mark.slow
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
