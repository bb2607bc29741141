"""Records an edge may send with any bytes in them: only that record suffers, not its batch (I8)."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgesync._native import event
from edgesync.model import EventType, RecordKind
from hubd.project.base import apply_entries
from hubd.project.live import Live
from hubd.project.projectors import Projectors
from hubd.state import State, views
from tests.hubd.batches import START_NS, Edge

NAME = ("meter", "Power")
I64 = 1 << 63

HOSTILE_JSON = [
    b"", b"null", b"[]", b"{", b"{}", b"[" * 5000, b'{"a":' * 5000, b"9" * 5000, b"1e999", b"NaN",
    b'{"entity": "\\ud800", "key": "x"}', b'{"entity": "x", "key": "\\udfff", "unit": "\\ud800"}',
    b'{"entity": "x", "key": "k", "unit": 5}', b'{"entity": "a\\u0000b", "key": "\\u0000"}',
    b'{"entity": "' + b"x" * 60_000 + b'", "key": "long"}',
    b'{"entity": "x", "key": "k", "entity": "y", "key": "z"}',
    b'{"lane": 1, "first": 1, "last": 9, "reason": "\\ud800"}',
    b'{"lane": 1, "first": -5, "last": 9}', b'{"lane": 1e3, "first": 0, "last": 1}',
    b'{"lane": 1, "first": 0, "last": 9223372036854775807}',
    b'{"lane": 1, "first": 0, "last": ' + b"9" * 30 + b"}",
    b'{"lane": 70000, "first": 9, "last": 1}', b"\xff\xfe", b'"\xed\xa0\x80"',
]  # fmt: skip

bodies = st.one_of(
    st.sampled_from(HOSTILE_JSON),
    st.binary(max_size=80),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).encode()),
)
times = st.sampled_from([0, -1, I64 - 1, -I64, START_NS])
events = st.builds(
    lambda kind, body, time_ns: (
        RecordKind.EVENT, event.encode(kind, 0, 0, "door", body, time_ns, time_ns, 0)
    ),
    st.sampled_from([*map(int, EventType), 99, 65535]), bodies, times,
)  # fmt: skip
# READINGS that are malformed are refused at the link; every other kind of record comes through.
others = st.tuples(st.sampled_from([RecordKind.EVENT, 3, 4, 5, 200, 255]), st.binary(max_size=200))


_count = iter(range(1, 1 << 30))


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(events | others, min_size=1, max_size=4))
def test_a_hostile_record_leaves_its_neighbours_alone(
    state: State, hostile: list[tuple[int, bytes]]
) -> None:
    check(state, hostile)


def check(state: State, hostile: list[tuple[int, bytes]]) -> None:
    position = next(_count)
    edge = Edge(f"edge{position}")
    edge.declare(NAME, "W")
    for kind, body in hostile:
        edge.record(kind, body)
    edge.readings(START_NS, {NAME: 42.0})
    edge.event(100, b'{"honest": true}')
    entry = edge.entry(position)
    for projector in Projectors(Live()).all:
        state.write_now(lambda c, one=projector: apply_entries(one, c, [entry]))  # type: ignore[misc]
    row = state.read_now(lambda c: views.find_series(c, edge.name, *NAME))
    assert row is not None
    assert (row.value, row.unit, row.points) == (42.0, "W", 1)
    found = state.read_now(lambda c: views.events(c, views.EventFilter(edge=edge.name), None, 99))
    assert sum(one.body == {"honest": True} for one in found) == 1
    assert len(found) == len([one for one in hostile if one[0] != RecordKind.CELLS]) + 2
    assert state.read_now(lambda c: views.totals(c, [edge.name]))[edge.name].lost >= 0


@pytest.mark.parametrize("body", HOSTILE_JSON)
@pytest.mark.parametrize("kind", [EventType.SERIES, EventType.LOSS])
def test_each_hostile_body_alone(state: State, kind: EventType, body: bytes) -> None:
    hostile = event.encode(kind, 0, 0, "door", body, START_NS, START_NS, 0)
    check(state, [(RecordKind.EVENT, hostile)] * 3)


def test_sums_at_the_end_of_what_a_float_holds_are_stored(state: State) -> None:
    """An infinite sum and one of the other sign would be no number, which no column takes."""
    edge, largest = Edge("far"), 1.7e308
    projector = Projectors(Live()).all[0]
    for sign in (1, -1, 1):
        for nth in range(3):
            edge.readings(START_NS + nth, {NAME: sign * largest})
        entry = edge.entry(next(_count))
        state.write_now(lambda c, entry=entry: apply_entries(projector, c, [entry]))  # type: ignore[misc]
    assert state.read_now(lambda c: views.totals(c, ["far"]))["far"].readings == 9
