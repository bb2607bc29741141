"""The events projector: stored, refused, lost and unreadable, each visible."""

import msgspec
import pytest
import sqlalchemy as sa

from edgesync.model import Action, EventType
from edgesync.refusal import refusal_event
from hubd.log.base import Entry
from hubd.project.base import apply_entries
from hubd.project.events import EventsProjector
from hubd.project.live import Live
from hubd.state import State, tables, views
from hubd.state.views import EventFilter, EventRow
from tests.hubd.batches import START_NS, Edge


def project(state: State, *entries: Entry) -> None:
    projector = EventsProjector(Live())
    state.write_now(lambda c: apply_entries(projector, c, entries))


def found(state: State, **wanted: object) -> list[EventRow]:
    """Matching events, the oldest first."""
    question = EventFilter(edge="barn", **wanted)  # type: ignore[arg-type]
    return state.read_now(lambda c: views.events(c, question, None, 100))[::-1]


@pytest.mark.feature("S10")
def test_events_can_be_found_by_each_of_their_fields(state: State) -> None:
    edge = Edge("barn")
    edge.event(EventType.ALARM, b'{"text": "Door OPEN"}', entity="door", action=Action.ADDED)
    edge.readings(START_NS, {("meter", "Power"): 1.0})
    edge.event(EventType.ATTRIBUTES, b"{}", entity="meter", time_ns=START_NS + 5)
    edge.event(999, b"from a newer edge", entity="100%_sure")
    project(state, edge.entry(1))
    alarm, attributes, unknown = found(state)
    assert (alarm.type, alarm.action, alarm.seq, alarm.lane) == ("alarm", "added", 1, "bulk")
    assert alarm.body == {"text": "Door OPEN"}
    assert alarm.id == f"{7:016x}{1:016x}"
    assert (attributes.seq, unknown.seq, unknown.type) == (3, 4, "999")
    assert found(state, type=12) == [alarm]
    assert found(state, action=1) == [alarm]
    assert found(state, entity="meter") == [attributes]
    assert found(state, lane=1) == []
    assert found(state, status="stored") == [alarm, attributes, unknown]
    assert found(state, text="door open") == [alarm]
    # % and _ are letters here, not patterns.
    assert found(state, text="0%_s") == [unknown]
    assert found(state, text="%") == [unknown]
    assert found(state, from_ns=START_NS + 1) == [attributes]
    assert found(state, to_ns=START_NS + 1) == [alarm, unknown]


def test_what_was_refused_is_kept_with_the_reason(state: State) -> None:
    edge = Edge("barn")
    project(state, edge.refused(1, b"\xff\x00", "checksum does not fit"))
    (dead,) = found(state, status="dead")
    assert (dead.body, dead.reason, dead.seq) == ("ff00", "checksum does not fit", 1)
    assert state.read_now(views.totals)["barn"].dead == 1


def test_what_an_edge_refused_from_a_device_is_dead_as_well(state: State) -> None:
    told = refusal_event("Gate", "v1/gateway/telemetry", b'{"B": 1}', ["B: is no list"], START_NS)
    edge = Edge("barn")
    edge.event(told.type, told.body, entity=told.entity_id)
    for body in (b'{"refused": 1}', b'{"refused": []}', b'"refused"', b'{"state": "offline"}'):
        edge.event(EventType.SOURCE, body)
    edge.event(EventType.RULES, told.body)
    project(state, edge.entry(1))
    (dead,) = found(state, status="dead")
    assert (dead.entity, dead.reason, dead.seq) == ("Gate", "B: is no list", 1)
    assert isinstance(dead.body, dict)
    assert dead.body["payload"] == '{"B": 1}'
    totals = state.read_now(views.totals)["barn"]
    assert (totals.dead, totals.events) == (1, 5)


def test_losses_are_counted_whoever_tells_them(state: State) -> None:
    edge = Edge("barn")
    edge.event(EventType.LOSS, b'{"lane": 2, "first": 10, "last": 19, "reason": "disk full"}')
    edge.event(EventType.LOSS, b"not json")
    project(state, edge.entry(1), edge.gap(2, 5, "no longer retained"))
    losses = state.read_now(lambda c: c.execute(sa.select(tables.loss)).all())
    assert [(one.first, one.last, one.reason) for one in losses] == [
        (10, 19, "disk full"),
        (3, 7, "no longer retained"),
    ]
    assert state.read_now(views.totals)["barn"].lost == 15
    assert [row.status for row in found(state)] == ["stored", "stored", "lost"]


@pytest.mark.feature("L1")
def test_what_a_policy_took_is_counted_by_its_gap_alone(state: State) -> None:
    """The loss record may name records the hub had without the edge knowing; the gap never does."""
    edge = Edge("barn")
    told = b'{"lane": 2, "first": 1, "last": 7, "reason": "full", "policy": "drop_oldest"}'
    edge.event(EventType.LOSS, told)
    project(state, edge.entry(1), edge.gap(2, 5, "given way"))
    losses = state.read_now(lambda c: c.execute(sa.select(tables.loss)).all())
    assert [(one.first, one.last) for one in losses] == [(2, 6)]
    assert state.read_now(views.totals)["barn"].lost == 5
    assert [row.status for row in found(state)] == ["stored", "lost"]


def test_a_record_this_hub_cannot_read_is_still_shown(state: State) -> None:
    edge = Edge("barn")
    edge.record(1, b"no event at all")
    edge.event(100, b"fine")
    project(state, edge.entry(1))
    bad, good = found(state)
    assert (bad.status, bad.body) == ("unreadable", "no event at all")
    assert bad.reason
    assert (good.status, good.body) == ("stored", "fine")


def test_hostile_bodies_are_shown_as_something(state: State) -> None:
    bodies = [
        b"1" * 400, b"[" * 5000, b"\xff" * 10, b'{"a": 1e999}', b'"\\ud800"', b"NaN", b"",
        b'{"n": 123456789012345678901234567890}', b'{"a": 1, "a": 2}',
    ]  # fmt: skip
    edge = Edge("barn")
    for body in bodies:
        edge.event(100, body)
    project(state, edge.entry(1))
    rows = found(state)
    assert len(rows) == len(bodies)
    for row in rows:
        assert msgspec.json.encode(row)


@pytest.mark.feature("S10")
def test_a_page_looks_at_so_many_events_and_says_where_it_ended(
    state: State, monkeypatch: pytest.MonkeyPatch
) -> None:
    edge = Edge("barn")
    for nth in range(10):
        edge.event(20, b'{"n": %d}' % nth, entity=("pump", "door")[nth == 0])
    project(state, edge.entry(1))
    monkeypatch.setattr(views, "LOOKED_AT_MAX", 4)

    def page(before: int, **wanted: object) -> tuple[list[object], int | None]:
        question = msgspec.convert(wanted, EventFilter)
        rows, least = state.read_now(lambda c: views.event_page(c, question, before, 2))
        return [row.body["n"] for row in rows], least

    assert page(1 << 62) == ([9, 8], 9)
    assert page(1 << 62, text='"n": 0') == ([], 7)
    assert page(7, text='"n": 0') == ([], 3)
    assert page(3, text='"n": 0') == ([0], None)
    # An index leads there: what does not fit is not looked at.
    assert page(1 << 62, edge="barn", entity="door") == ([0], None)
    assert page(1 << 62, edge="barn", type=12) == ([], None)
