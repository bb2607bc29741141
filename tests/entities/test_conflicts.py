"""One thing changed on both sides, out of touch: what comes out follows the policy of its kind."""

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.entities import attributes, records
from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.removal import plan_delete
from edgesync.entities.view import SpaceView
from tests.entities.replicas import Pair, both

pytestmark = pytest.mark.feature("S19", "L2")

SCALE = entity("barn-7", "device", "Scale 7")
BOARD = entity("barn-7", "dashboard", "Overview")

NAMES = ("limit", "unit", "note")
# (side, attribute, value; None deletes it), in the order of time, a second apart.
writes = st.lists(
    st.tuples(
        st.sampled_from(["edge", "hub"]), st.sampled_from(NAMES), st.none() | st.integers(0, 9)
    ),
    max_size=12,
)  # fmt: skip
clocks = st.sampled_from([0, 500, 3_600_000, -4_000])


def do(pair: Pair, side: str, scope: Scope, name: str, value: int | None) -> None:
    one = pair.edge if side == "edge" else pair.hub
    if value is None:
        one.do(attributes.plan_delete(one.view, SCALE, scope, [name]))
    else:
        one.do(attributes.plan_set(one.view, SCALE, scope, {name: value}))


def read(scope: Scope) -> Callable[[SpaceView], object]:
    return lambda view: attributes.read(view, SCALE, scope)


@settings(max_examples=60, deadline=None)
@given(st.lists(writes, max_size=4), st.sampled_from(list(Scope)), clocks)
def test_both_sides_come_to_the_same(
    rounds: list[list[tuple[str, str, int | None]]], scope: Scope, behind_ms: int
) -> None:
    pair = Pair(behind_ms=behind_ms)
    for one in rounds:
        for side, name, value in one:
            do(pair, side, scope, name, value)
            pair.wait(1000)
        pair.meet()
        both(pair, read(scope))


# What a side makes of an attribute that is 100: another value, nothing, or it does not touch it.
touches = st.dictionaries(st.sampled_from(NAMES), st.none() | st.integers(0, 9))


@settings(max_examples=100, deadline=None)
@given(touches, touches, st.sampled_from([Scope.CLIENT, Scope.SHARED]), clocks, st.booleans())
def test_of_what_met_the_side_of_the_scope_wins(
    at_edge: dict[str, int | None], at_hub: dict[str, int | None], scope: Scope, behind_ms: int,
    is_edge_first: bool,
) -> None:  # fmt: skip
    """Client attributes are the device's word, shared ones the hub's, whatever a clock shows."""
    pair = Pair(behind_ms=behind_ms)
    for name in NAMES:
        do(pair, "hub", scope, name, 100)
    pair.meet()
    sides = [("edge", at_edge), ("hub", at_hub)]
    for side, touched in sides if is_edge_first else sides[::-1]:
        for name, value in touched.items():
            do(pair, side, scope, name, value)
        pair.wait(1000)
    pair.meet()
    merged = at_hub | at_edge if scope is Scope.CLIENT else at_edge | at_hub
    wanted = dict.fromkeys(NAMES, 100) | merged
    expected = {name: value for name, value in wanted.items() if value is not None}
    assert both(pair, read(scope)) == expected


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 9), st.integers(10, 19), st.booleans())
def test_of_server_attributes_the_last_writer_wins(first: int, last: int, edge_last: bool) -> None:
    pair = Pair()
    sides = ["hub", "edge"] if edge_last else ["edge", "hub"]
    do(pair, sides[0], Scope.SERVER, "limit", first)
    pair.wait(1000)
    do(pair, sides[1], Scope.SERVER, "limit", last)
    pair.meet()
    assert both(pair, read(Scope.SERVER)) == {"limit": last}


def record(one: EntityId) -> Callable[[SpaceView], object]:
    def look(view: SpaceView) -> object:
        found = records.find(view, one)
        return None if found is None else found.fields

    return look


def save(pair: Pair, side: str, one: EntityId, **fields: object) -> None:
    where = pair.edge if side == "edge" else pair.hub
    where.do(records.plan_save(where.view, one, fields, where.now_ms()))


def test_one_name_created_on_both_sides_is_one_entity() -> None:
    pair = Pair()
    save(pair, "edge", SCALE, label="by the gate", serial="S1")
    pair.wait(1000)
    save(pair, "hub", SCALE, label="Scale", profile="scales")
    pair.meet()
    assert both(pair, record(SCALE)) == {"label": "Scale", "serial": "S1", "profile": "scales"}
    assert both(pair, lambda view: len(records.list_records(view, "barn-7"))) == 1


def test_fields_changed_on_both_sides_merge() -> None:
    pair = Pair()
    save(pair, "hub", SCALE, label="Scale", profile="scales")
    pair.meet()
    save(pair, "edge", SCALE, label="by the gate")
    save(pair, "hub", SCALE, profile="heavy scales")
    pair.meet()
    assert both(pair, record(SCALE)) == {"label": "by the gate", "profile": "heavy scales"}


def test_of_what_the_hub_manages_its_word_counts() -> None:
    pair = Pair()
    save(pair, "hub", BOARD, title="old")
    pair.meet()
    save(pair, "hub", BOARD, title="hub's")
    pair.wait(3_600_000)
    save(pair, "edge", BOARD, title="edge's")
    pair.meet()
    assert both(pair, record(BOARD)) == {"title": "hub's"}


@pytest.mark.feature("L4")
def test_add_delete_add_ends_in_being_there() -> None:
    pair = Pair()
    save(pair, "hub", SCALE, label="first")
    pair.meet()
    pair.hub.do(plan_delete(pair.hub.view, SCALE))
    save(pair, "hub", SCALE, label="again")
    pair.meet()
    assert both(pair, record(SCALE)) == {"label": "again"}
    pair.edge.do(plan_delete(pair.edge.view, SCALE))
    pair.meet()
    assert both(pair, record(SCALE)) is None
