"""Whatever a client, a script or a newer peer has made of the keys is read, listed and told."""

from typing import Any

import msgspec
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.keys import ALARM, entity_of, policies, room_of
from edgesync.entities.model import EntityId, Scope, decode_value
from edgesync.entities.removal import plan_delete, remains, was_removed
from edgesync.errors import EntityError
from tests.entities.replicas import NOW_MS, Pair

pytestmark = pytest.mark.feature("S19")

rooms = st.sampled_from([b"entity", b"managed", b"client", b"shared", b"relation", b"alarm", b"x"])
tails = st.sampled_from([b"device/Scale", b"device/", b"/", b"", b"a", b"device/\xff", b"0" * 24])
keys = st.builds(lambda room, tail: b"@/%s/barn/%s" % (room, tail), rooms, tails)
names = st.sampled_from(
    [b"about", b"raise:1", b"raise:2", b"ack:1", b"clear:2", b"told", b"created", b"\xff", b"",
     b"Contains\0device\0Scale", b"Contains\0\0", b"\0\0\0", b"raise:" + b"9" * 30]
) | st.binary(min_size=1, max_size=8)  # fmt: skip
values = st.binary(max_size=12) | st.sampled_from(
    [b'["device","Scale","x"]', b'{"at":1,"end":2}', b'{"at":1e30,"end":2}', b'{"at":-1,"end":"x"}',
     b'{"at":99999999999999999999,"end":0}', b"[1,2,3]", b"123456789012345678901234567890",
     b'{"a":[18446744073709551616]}', b'"\\ud800"', b"[" * 3000 + b"]" * 3000, b"1e999", b"null",
     b'{"at":1,"end":1,"severity":"LOUD","details":{"b":1}}', b'{"at":5,"by":7}']
)  # fmt: skip


def is_told(found: Any) -> None:
    """What the API would answer with."""
    msgspec.json.encode(found)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(keys, names.filter(bool), values), max_size=12))
@example([(b"@/alarm/barn/" + b"0" * 24, b"raise:1", b'{"at":99999999999999999999,"end":0}'),
          (b"@/alarm/barn/" + b"0" * 24, b"about", b'["device","Scale","x"]')])  # fmt: skip
def test_whatever_is_in_the_keys_is_read(rows: list[tuple[bytes, bytes, bytes]]) -> None:
    side = Pair().edge
    view = side.view
    for key, name, value in rows:
        side.do([[b"HSET", key, name, value]])
    found = records.list_records(view, "barn", limit=100)
    is_told([(one.id, one.created_ms * 1_000_000, one.fields) for one in found])
    told = list(relations.all_relations(view, "barn"))
    is_told(told)
    is_told(relations.waiting(found, told))
    is_told(relations.find_cycles(found, told))
    for alarm in alarms.all_alarms(view, "barn"):
        is_told((alarm.raised.at * 1_000_000, alarm.raised, alarm.ack, alarm.clear, alarm.status))
        alarms.untold(alarm)
        side.do(alarms.plan_ack(alarm, NOW_MS))
        side.do(alarms.plan_told(alarm))
    for key, _, _ in rows:
        if (named := entity_of(key)) is None:
            continue
        for scope in Scope:
            is_told(attributes.read(view, named[1], scope))
            is_told(attributes.read_dated(view, named[1], scope))
        remains(view, named[1])
        was_removed(view, named[1])
        side.do(plan_delete(view, named[1]))
        assert not remains(view, named[1])


@given(st.binary(max_size=40) | values)
def test_a_value_can_be_told_again(raw: bytes) -> None:
    is_told(decode_value(raw))


def test_a_key_of_another_type_holds_nothing_and_is_named_to_whoever_writes() -> None:
    side = Pair().edge
    scale = EntityId("barn", "device", "Scale")
    side.do([[b"SET", b"@/shared/barn/device/Scale", b"text"]])
    assert attributes.read(side.view, scale, Scope.SHARED) == {}
    with pytest.raises(EntityError, match="@/shared/barn/device/Scale is no hash"):
        attributes.plan_set(side.view, scale, Scope.SHARED, {"a": 1})
    side.do(plan_delete(side.view, scale))
    assert attributes.plan_set(side.view, scale, Scope.SHARED, {"a": 1})
    assert list(side.view.keys(room_of(ALARM, "barn"))) == []
    assert policies([])
