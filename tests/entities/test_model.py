"""Names, limits and keys of entities; what is wrong says which field and what would do."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync._native.keyspace import KEY_BYTES_MAX, NAME_BYTES_MAX, is_in
from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.keys import (
    ALARM,
    ROOMS,
    alarm_key,
    attributes_key,
    entity_key,
    entity_of,
    keys_of,
    policies,
    relations_key,
    room_of,
    scoped,
)
from edgesync.entities.model import (
    ATTRIBUTES_MAX,
    VALUE_BYTES_MAX,
    EntityId,
    Scope,
    decode_value,
    encode_value,
    entity,
)
from edgesync.errors import EntityError
from edgesync.model import Strategy
from tests.entities.replicas import NOW_MS, Pair

pytestmark = pytest.mark.feature("S19")

GOLDEN = Path(__file__).parent.parent / "golden" / "entities-1.json"
SCALE = entity("barn-7", "device", "Scale 7")

names = st.text(
    st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=90
)  # fmt: skip
kinds = st.sampled_from(["device", "asset", "rule_chain", "quantum_gate"])
ids = st.builds(entity, st.just("barn-7"), kinds, names)


@pytest.mark.parametrize(
    ("given_", "field"),
    [
        (("barn/7", "device", "a"), "edge"), (("", "device", "a"), "edge"),
        (("barn", "de vice", "a"), "kind"), (("barn", "", "a"), "kind"),
        (("barn", "device", ""), "name"), (("barn", "device", "a\0b"), "name"),
        (("barn", "device", "ü" * 200), "name"), (("barn", "device", "a" * 256), "name"),
        (("barn", "device", "\ud800"), "name"),
    ],
)  # fmt: skip
def test_a_wrong_name_says_which_and_what_would_do(
    given_: tuple[str, str, str], field: str
) -> None:
    with pytest.raises(EntityError) as refused:
        entity(*given_)
    assert refused.value.field == field
    assert str(refused.value).startswith(f"{field}: ")
    assert refused.value.remedy


def test_an_unknown_kind_is_kept() -> None:
    assert entity("barn-7", "Quantum_Gate", "a/b") == EntityId("barn-7", "quantum_gate", "a/b")
    with pytest.raises(EntityError, match="one of client, shared, server"):
        Scope.named("private")
    assert Scope.named("SHARED_SCOPE") is Scope.SHARED


@given(ids)
def test_a_key_says_whose_it_is(one: EntityId) -> None:
    for key in keys_of(one):
        assert len(key) <= KEY_BYTES_MAX
        found = entity_of(key)
        assert found is not None
        assert found[1] == one


def test_the_longest_names_fit_keys_and_fields() -> None:
    longest = entity("e" * 63, "k" * 32, "ü" * 190)
    assert max(map(len, keys_of(longest))) <= KEY_BYTES_MAX
    field = relations.field_of("t" * 64, longest)
    assert len(field) + 1 <= NAME_BYTES_MAX


def test_keys_of_other_rooms_are_no_entities() -> None:
    alarm = alarm_key("barn-7", alarms.alarm_id(SCALE, "Too heavy"))
    for key in (b"user:1", b"@/", b"@/shared/barn-7", b"@/shared/barn-7/device/\xff", alarm):
        assert entity_of(key) is None
    assert alarm.startswith(room_of(ALARM, "barn-7"))


def test_keys_of_version_1() -> None:
    kept = json.loads(GOLDEN.read_text())
    gate = entity("barn-7", "rule_chain", "Root/1")
    pair = Pair()
    view = pair.edge.view
    pair.edge.do(records.plan_save(view, SCALE, {"label": "by the gate"}, NOW_MS))
    pair.edge.do(records.plan_save(view, gate, {}, NOW_MS))
    pair.edge.do(attributes.plan_set(view, SCALE, Scope.SHARED, {"limit": 21.5, "on": True}))
    pair.edge.do(relations.plan_relate(view, gate, "Uses", SCALE, {"node": 3}))
    pair.edge.do(alarms.plan_raise(
        view, SCALE, "Too heavy", alarms.Severity.MAJOR, NOW_MS, details={"kg": 900}, by="rule",
    ))  # fmt: skip
    (alarm,) = alarms.all_alarms(view, "barn-7")
    pair.edge.do(alarms.plan_ack(alarm, NOW_MS + 1, "ann"))
    pair.edge.do(alarms.plan_clear(alarm, NOW_MS + 2, "rule"))
    found = {
        key.decode(): {
            name.decode(): raw.decode() for name, raw in view.fields(key).items()
        }
        for key in view.keys(b"@/")
    }  # fmt: skip
    assert found == kept
    assert set(found) == {
        key.decode() for key in (
            entity_key(SCALE), entity_key(gate), attributes_key(SCALE, Scope.SHARED),
            relations_key(gate), alarm_key("barn-7", alarm.id),
        )
    }  # fmt: skip


def test_an_edge_asks_for_its_own_entities_and_what_it_wishes() -> None:
    wish = [(b"prices/", True), (b"", False)]
    scope = scoped("barn-7", wish)
    assert is_in(b"prices/milk", scope)
    assert not is_in(b"user:1", scope)
    for key in keys_of(SCALE):
        assert is_in(key, scope)
    for key in keys_of(entity("barn-70", "device", "Scale 7")):
        assert not is_in(key, scope)
    assert is_in(b"user:1", scoped("barn-7", []))
    # Whoever says something of a room himself is heard.
    assert not is_in(keys_of(SCALE)[0], scoped("barn-7", [(room_of(b"client", "barn-7"), False)]))
    assert {prefix for prefix, _ in scope} >= {room_of(room, "barn-7") for room in ROOMS}


def test_what_the_settings_say_of_a_room_counts() -> None:
    found = dict(policies([(b"", Strategy.EDGE_WINS), (b"@/shared/", Strategy.LAST_WRITE_WINS)]))
    assert found[b""] is Strategy.EDGE_WINS
    assert found[b"@/shared/"] is Strategy.LAST_WRITE_WINS
    assert found[b"@/client/"] is Strategy.EDGE_WINS
    assert found[b"@/"] is Strategy.CRDT_MERGE


texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | texts
    | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner),
    max_leaves=8,
)  # fmt: skip


@given(json_values)
def test_a_value_comes_back_as_it_was(value: object) -> None:
    assert decode_value(encode_value("v", value)) == value


@pytest.mark.parametrize(
    "value", [float("nan"), 2**63, "x" * VALUE_BYTES_MAX, object(), {1: {2: object()}}]
)
def test_a_value_that_is_none_is_refused(value: object) -> None:
    with pytest.raises(EntityError, match=r"values\.a: "):
        encode_value("values.a", value)


def test_a_value_nested_without_end_is_refused() -> None:
    deep: list[object] = []
    for _ in range(5000):
        deep = [deep]
    with pytest.raises(EntityError, match="32 deep"):
        encode_value("values.a", deep)


@given(st.binary(max_size=30))
def test_whatever_some_client_wrote_is_read(raw: bytes) -> None:
    decode_value(raw)


def test_too_many_or_too_large_attributes_are_refused_whole() -> None:
    pair = Pair()
    many = {f"a{number}": number for number in range(ATTRIBUTES_MAX)}
    view, edge = pair.edge.view, pair.edge
    edge.do(attributes.plan_set(view, SCALE, Scope.CLIENT, many))
    with pytest.raises(EntityError, match="at most 1000: delete some"):
        attributes.plan_set(view, SCALE, Scope.CLIENT, {"one more": 1})
    assert attributes.plan_set(view, SCALE, Scope.CLIENT, many) == []  # nothing changes
    assert len(attributes.plan_set(view, SCALE, Scope.CLIENT, {"a1": "x", "a2": 2})[0]) == 4
    large = {f"b{number}": "x" * 60_000 for number in range(5)}
    with pytest.raises(EntityError, match="what is larger is a file"):
        attributes.plan_set(view, SCALE, Scope.SERVER, large)
    gone = attributes.plan_delete(view, SCALE, Scope.CLIENT, ["a1", "nowhere", "a1"])
    assert [command[2:] for command in gone] == [[b"a1"]]


def test_what_two_sites_made_too_large_together_can_be_changed_and_not_grow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    side = Pair().edge
    one = EntityId("barn", "device", "Scale")
    values = {"a": 1, "b": 2, "c": 3}
    side.do(attributes.plan_set(side.view, one, Scope.SHARED, values))
    monkeypatch.setattr(attributes, "ATTRIBUTES_MAX", 2)
    assert attributes.plan_set(side.view, one, Scope.SHARED, {"a": 5})
    with pytest.raises(EntityError, match="would have 4 shared attributes"):
        attributes.plan_set(side.view, one, Scope.SHARED, {"d": 4})
    monkeypatch.setattr(attributes, "ATTRIBUTES_BYTES_MAX", 2)
    assert attributes.plan_set(side.view, one, Scope.SHARED, values) == []
    with pytest.raises(EntityError, match="bytes of shared attributes"):
        attributes.plan_set(side.view, one, Scope.SHARED, {"a": 5})
