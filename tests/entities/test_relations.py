"""Relations, what waits for something missing, cycles, and what a removal leaves: nothing."""

from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities import index as index_module
from edgesync.entities.index import EntityIndex
from edgesync.entities.keys import alarm_key, relations_key
from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.relations import CONTAINS, Waiting, cycles
from edgesync.entities.removal import plan_delete, plan_sweep, plan_unrelate_all, remains
from edgesync.entities.view import Command, SpaceView
from edgesync.errors import EntityError, RecordError
from tests.entities.replicas import Pair, Side, both

pytestmark = pytest.mark.feature("S19", "S20")

BARN = entity("barn-7", "asset", "Barn")
ROOM = entity("barn-7", "asset", "Room")
SCALE = entity("barn-7", "device", "Scale 7")


def save(side: Side[Any], one: EntityId, **fields: object) -> None:
    side.do(records.plan_save(side.view, one, fields, side.now_ms()))


def relate(side: Side[Any], source: EntityId, type_: str, to: EntityId) -> None:
    side.do(relations.plan_relate(side.view, source, type_, to))


def of(view: SpaceView) -> list[records.Record]:
    return records.list_records(view, "barn-7", limit=1000)


def waits(view: SpaceView) -> object:
    return relations.waiting(of(view), relations.all_relations(view, "barn-7"))


def named_cycles(view: SpaceView) -> object:
    return relations.find_cycles(of(view), relations.all_relations(view, "barn-7"))


def test_add_delete_add_of_a_relation_ends_in_being_there() -> None:
    pair = Pair()
    relate(pair.edge, BARN, CONTAINS, SCALE)
    pair.meet()
    pair.edge.do(relations.plan_unrelate(pair.edge.view, BARN, CONTAINS, SCALE))
    relate(pair.edge, BARN, CONTAINS, SCALE)
    pair.meet()
    assert both(pair, lambda view: len(list(chain(*relations.relations_to(view, SCALE))))) == 1
    assert relations.plan_relate(pair.edge.view, BARN, CONTAINS, SCALE) == []


def test_what_lacks_its_parent_is_parked_until_that_comes() -> None:
    pair = Pair()
    save(pair.edge, SCALE, profile="scales")
    relate(pair.edge, BARN, CONTAINS, SCALE)
    pair.meet()
    assert both(pair, waits) == [
        Waiting("device/Scale 7", "device_profile/scales"),
        Waiting("asset/Barn Contains device/Scale 7", "asset/Barn"),
    ]
    save(pair.hub, BARN)
    save(pair.hub, entity("barn-7", "device_profile", "scales"))
    pair.meet()
    assert both(pair, waits) == []
    assert both(
        pair, lambda view: [str(one.to) for one in relations.relations_from(view, BARN)]
    ) == ["device/Scale 7"]


def test_a_cycle_is_refused_by_name() -> None:
    pair = Pair()
    relate(pair.edge, BARN, CONTAINS, ROOM)
    relate(pair.edge, ROOM, CONTAINS, SCALE)
    with pytest.raises(EntityError) as refused:
        relate(pair.edge, SCALE, CONTAINS, BARN)
    assert "device/Scale 7 contains asset/Barn contains asset/Room contains device/Scale 7" in str(
        refused.value
    )
    relate(pair.edge, SCALE, "Manages", BARN)  # that is no containment
    with pytest.raises(EntityError, match=r"to: .* an entity of barn-7"):
        relate(pair.edge, BARN, CONTAINS, entity("barn-8", "device", "Scale 7"))


def test_a_cycle_that_two_sides_made_is_named() -> None:
    pair = Pair()
    relate(pair.edge, BARN, CONTAINS, ROOM)
    relate(pair.hub, ROOM, CONTAINS, BARN)
    pair.meet()
    named = both(pair, named_cycles)
    assert named == [["asset/Barn", "asset/Room"]]


@given(st.dictionaries(st.sampled_from("abcdef"), st.lists(st.sampled_from("abcdef"), max_size=3)))
def test_a_cycle_is_named_if_there_is_one(edges: dict[str, list[str]]) -> None:
    found = cycles(edges)
    for cycle in found:
        for at, name in enumerate(cycle):
            assert cycle[(at + 1) % len(cycle)] in edges[name]
    assert bool(found) == has_cycle(edges)


def has_cycle(edges: dict[str, list[str]]) -> bool:
    """By taking away, again and again, what leads nowhere."""
    left = {name: set(to) for name, to in edges.items()}
    while ends := [name for name, to in left.items() if not to & left.keys()]:
        for name in ends:
            del left[name]
    return bool(left)


def test_thousands_in_a_row_are_walked() -> None:
    chain = {f"n{at:05}": [f"n{at + 1:05}"] for at in range(20_000)}
    assert cycles(chain) == []
    chain["n20000"] = ["n00000"]
    assert len(cycles(chain)[0]) == 20_001


@pytest.mark.parametrize("met_beside", [False, True])
def test_removing_an_entity_leaves_no_orphan(met_beside: bool) -> None:
    """Unassigned at the hub while the edge is away and goes on writing to it."""
    pair = Pair()
    save(pair.edge, SCALE)
    save(pair.edge, BARN)
    relate(pair.edge, BARN, CONTAINS, SCALE)
    relate(pair.edge, SCALE, "Manages", BARN)
    for scope in Scope:
        pair.edge.do(attributes.plan_set(pair.edge.view, SCALE, scope, {"a": 1}))
    pair.edge.do(alarms.plan_raise(pair.edge.view, SCALE, "x", alarms.Severity.MINOR, 1))
    pair.meet()
    pair.hub.do(plan_delete(pair.hub.view, SCALE))
    if met_beside:
        view = pair.edge.view
        pair.edge.do(attributes.plan_set(view, SCALE, Scope.CLIENT, {"a": 2, "b": 3}))
        relate(pair.edge, SCALE, "Manages", BARN)
        save(pair.edge, SCALE, label="still here")
        pair.edge.do(alarms.plan_raise(view, SCALE, "y", alarms.Severity.MINOR, 1))
    pair.meet()
    assert records.find(pair.edge.view, SCALE) is None
    left = remains(pair.edge.view, SCALE)
    assert left == ({"client": 2, "entity": 1, "alarm": 1} if met_beside else {})
    pair.edge.do(plan_sweep(pair.edge.view, SCALE))
    pair.meet()
    assert both(pair, lambda view: remains(view, SCALE)) == {}
    assert both(pair, lambda view: list(relations.all_relations(view, "barn-7"))) == []
    assert both(pair, lambda view: [str(one.id) for one in of(view)]) == ["asset/Barn"]
    save(pair.edge, SCALE)
    assert plan_sweep(pair.edge.view, SCALE) == []


def test_a_removal_reads_what_the_entity_has_and_not_what_all_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = Pair().edge
    for n in range(100):
        other = entity("barn-7", "device", f"Scale {n}")  # one of them is the one
        relate(side, other, "Manages", BARN)
        side.do(alarms.plan_raise(side.view, other, "x", alarms.Severity.MINOR, 1))
    relate(side, BARN, CONTAINS, SCALE)
    index, turns = EntityIndex(side.view, "barn-7"), 0
    while index.catch_up(20):
        turns += 1
    assert turns >= 9
    expected, reads, keys = plan_delete(side.view, SCALE), 0, SpaceView.keys
    fields, field = SpaceView.fields, SpaceView.field

    def count(read: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*asked: Any) -> Any:
            nonlocal reads
            reads += 1
            return read(*asked)

        return counting

    monkeypatch.setattr(SpaceView, "fields", count(fields))
    monkeypatch.setattr(SpaceView, "field", count(field))
    monkeypatch.setattr(SpaceView, "keys", count(keys))
    assert plan_delete(side.view, SCALE, index) == expected
    assert reads <= 5
    assert remains(side.view, SCALE, index) == {"alarm": 1, "relation": 1}
    assert reads <= 15


def test_an_index_is_made_in_steps_of_which_none_sees_all_keys(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side, seen, keys = Pair().edge, 0, SpaceView.keys
    for n in range(100):
        relate(side, entity("barn-7", "device", f"Scale {n}"), "Manages", BARN)

    def counting(*asked: Any) -> Iterator[bytes]:
        nonlocal seen
        for key in keys(*asked):
            seen += 1
            yield key

    monkeypatch.setattr(SpaceView, "keys", counting)
    index, is_more = EntityIndex(side.view, "barn-7"), True
    while is_more:
        before = seen
        is_more = index.catch_up(7)
        assert seen - before <= 7
    assert (seen, len(index.relations_to(BARN))) == (100, 100)


ENDS = [BARN, ROOM, SCALE]
CHANGES = st.tuples(st.sampled_from(["relate", "unrelate", "raise", "delete", "look", "other"]),
                    st.sampled_from(ENDS), st.sampled_from(ENDS))  # fmt: skip


def planned(view: SpaceView, what: str, one: EntityId, other: EntityId) -> list[Command]:
    match what:
        case "relate":
            return relations.plan_relate(view, one, "Manages", other)
        case "unrelate":
            return relations.plan_unrelate(view, one, "Manages", other)
        case "raise":
            return alarms.plan_raise(view, one, other.name, alarms.Severity.MINOR, 1)
        case "delete":
            return plan_delete(view, one)
        case "other":
            return [[b"DEL", relations_key(one)], [b"SET", relations_key(one), b"no hash"]]
    return []


@given(st.lists(CHANGES, max_size=30), st.integers(1, 3))
def test_an_index_finds_what_is_found_without_it_whatever_changes_while_it_is_made(
    changes: Sequence[tuple[str, EntityId, EntityId]], step: int
) -> None:
    side = Pair().edge
    view, index = side.view, EntityIndex(side.view, "barn-7")
    for what, one, other in changes:
        try:
            plan = planned(view, what, one, other)
        except EntityError:
            continue
        side.do(plan)
        for command in plan:
            for key in command[1:] if command[0] == b"DEL" else command[1:2]:
                index.note(key)
        index.catch_up(step)
    for one in ENDS:
        assert plan_delete(view, one, index) == plan_delete(view, one)
        assert remains(view, one, index) == remains(view, one)
    left = list(relations.all_relations(view, "barn-7"))
    side.do(plan_unrelate_all(view, SCALE, index))
    others = [it for it in left if SCALE not in (it.source, it.to)]
    assert list(relations.all_relations(view, "barn-7")) == others


def test_an_index_is_made_though_alarms_change_all_the_while(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An edge may have more alarms than may change before all are read anew."""
    monkeypatch.setattr(index_module, "CHANGED_MAX", 10)
    side, keys = Pair().edge, list[bytes]()
    for n in range(40):
        other = entity("barn-7", "device", f"Scale {n}")
        side.do(alarms.plan_raise(side.view, other, "x", alarms.Severity.MINOR, 1))
        keys.append(alarm_key("barn-7", alarms.alarm_id(other, "x")))
    index, turns = EntityIndex(side.view, "barn-7"), 0
    while index.catch_up(5):
        index.note(keys[turns])
        turns += 1
        assert turns < len(keys)
    assert index.alarms_of(SCALE) == [alarm_key("barn-7", alarms.alarm_id(SCALE, "x"))]


def test_a_damaged_row_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """It costs no question its answer: not the first one either."""
    side = Pair().edge
    relate(side, SCALE, "Manages", BARN)
    relate(side, ROOM, CONTAINS, BARN)
    fields = SpaceView.fields

    def damaged(view: SpaceView, key: bytes) -> dict[bytes, bytes]:
        if key == relations_key(ROOM):
            raise RecordError("damaged")
        return fields(view, key)

    monkeypatch.setattr(SpaceView, "fields", damaged)
    assert EntityIndex(side.view, "barn-7").relations_to(BARN) == [relations_key(SCALE)]


def test_entities_are_listed_page_by_page() -> None:
    pair = Pair()
    all_ = [entity("barn-7", kind, f"n{at}") for kind in ("asset", "dashboard", "device")
            for at in range(4)]  # fmt: skip
    for one in [*all_, entity("barn-70", "device", "other")]:
        save(pair.edge, one)
    found: list[EntityId] = []
    after: EntityId | None = None
    while page := records.list_records(pair.edge.view, "barn-7", after=after, limit=5):
        found += [one.id for one in page]
        after = page[-1].id
    assert sorted(found) == all_
    assert len(found) == len(all_)
    boards = records.list_records(pair.edge.view, "barn-7", kind="dashboard", limit=3)
    assert [one.id.name for one in boards] == ["n0", "n1", "n2"]


@pytest.mark.parametrize(
    ("fields", "field"),
    [({"created": 1}, "fields.created"), ({"a\n": 1}, "fields.a\n"), ({"a": 2**70}, "fields.a"),
     ({f"f{n}": n for n in range(80)}, "fields")],
)  # fmt: skip
def test_a_record_that_cannot_be(fields: dict[str, object], field: str) -> None:
    with pytest.raises(EntityError) as refused:
        save(Pair().edge, SCALE, **fields)
    assert refused.value.field == field


def test_an_edge_with_too_many_entities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "ENTITIES_MAX", 3)
    pair = Pair()
    for name in "abc":
        save(pair.edge, entity("barn-7", "device", name))
    with pytest.raises(EntityError, match="has 3 entities; at most 3"):
        save(pair.edge, SCALE)
    save(pair.edge, entity("barn-7", "device", "a"), label="known")
    save(pair.edge, entity("barn-8", "device", "a"))


def test_a_full_set_of_relations_takes_changes_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relations, "RELATIONS_MAX", 2)
    side = Pair().edge
    source = EntityId("barn", "asset", "Barn")
    ends = [EntityId("barn", "device", name) for name in "abc"]
    for end in ends[:2]:
        side.do(relations.plan_relate(side.view, source, "Uses", end))
    with pytest.raises(EntityError, match="from: asset/Barn has 2 relations"):
        relations.plan_relate(side.view, source, "Uses", ends[2])
    assert relations.plan_relate(side.view, source, "Uses", ends[1], {"a": 1})


def test_removing_an_entity_leaves_the_relations_of_others() -> None:
    side = Pair().edge
    for one in (BARN, ROOM, SCALE):
        save(side, one)
    relate(side, BARN, "Contains", ROOM)
    relate(side, ROOM, "Contains", SCALE)
    relate(side, BARN, "Uses", SCALE)
    side.do(plan_delete(side.view, SCALE))
    assert [str(one.to) for one in relations.relations_from(side.view, BARN)] == ["asset/Room"]
    assert relations.relations_from(side.view, ROOM) == []
