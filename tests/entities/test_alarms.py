"""Alarms raised, acknowledged and cleared on two sides that may be out of touch."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgesync.entities import alarms
from edgesync.entities.alarms import Alarm, Severity, Transition
from edgesync.entities.keys import alarm_key
from edgesync.entities.model import entity
from edgesync.entities.view import SpaceView
from edgesync.errors import EntityError
from tests.entities.replicas import Pair, Side, both

pytestmark = pytest.mark.feature("S19")

SCALE = entity("barn-7", "device", "Scale 7")
HEAVY = "Too heavy"


def the_alarm(view: SpaceView) -> Alarm | None:
    return alarms.find_alarm(view, "barn-7", alarms.alarm_id(SCALE, HEAVY))


def there(view: SpaceView) -> Alarm:
    found = the_alarm(view)
    assert found is not None
    return found


def shown(view: SpaceView) -> object:
    found = the_alarm(view)
    return None if found is None else (found.n, found.status, found.raised.severity)


def raise_(side: Side[Any], severity: Severity = Severity.MAJOR, **more: Any) -> int:
    """Raise it; returns how many commands that took."""
    plan = alarms.plan_raise(side.view, SCALE, HEAVY, severity, side.now_ms(), **more)
    side.do(plan)
    return len(plan)


def ack(side: Side[Any]) -> None:
    if (found := the_alarm(side.view)) is not None:
        side.do(alarms.plan_ack(found, side.now_ms(), "ann"))


def clear(side: Side[Any]) -> None:
    if (found := the_alarm(side.view)) is not None:
        side.do(alarms.plan_clear(found, side.now_ms(), "ann"))


def test_the_states_of_an_alarm() -> None:
    pair = Pair()
    assert raise_(pair.edge) == 1
    assert shown(pair.edge.view) == (1, "ACTIVE_UNACK", "MAJOR")
    ack(pair.edge)
    assert shown(pair.edge.view) == (1, "ACTIVE_ACK", "MAJOR")
    clear(pair.edge)
    assert shown(pair.edge.view) == (1, "CLEARED_ACK", "MAJOR")
    raise_(pair.edge, Severity.MINOR)
    assert shown(pair.edge.view) == (2, "ACTIVE_UNACK", "MINOR")
    clear(pair.edge)
    assert shown(pair.edge.view) == (2, "CLEARED_UNACK", "MINOR")
    ack(pair.edge)
    assert shown(pair.edge.view) == (2, "CLEARED_ACK", "MINOR")


def test_raised_on_and_on_it_is_one_alarm_and_hardly_a_write() -> None:
    """Over the threshold twice within a millisecond is created once."""
    pair = Pair()
    assert raise_(pair.edge, details={"kg": 900}) == 1
    assert sum(raise_(pair.edge, details={"kg": 900}) for _ in range(50)) == 0
    assert raise_(pair.edge, Severity.CRITICAL) == 1
    assert there(pair.edge.view).raised.details == {"kg": 900}
    pair.wait(alarms.REFRESH_MS)
    assert raise_(pair.edge, Severity.CRITICAL) == 1
    found = there(pair.edge.view)
    assert (found.n, found.raised.end - found.raised.at) == (1, alarms.REFRESH_MS)


def test_raised_on_both_sides_it_is_one_alarm() -> None:
    pair = Pair()
    raise_(pair.edge)
    pair.wait(10)
    raise_(pair.hub, Severity.MINOR)
    pair.meet()
    assert both(pair, shown) == (1, "ACTIVE_UNACK", "MINOR")
    assert both(pair, lambda view: len(list(alarms.all_alarms(view, "barn-7")))) == 1


def test_cleared_at_the_hub_while_the_edge_was_away() -> None:
    """It is cleared on both sides; the next value raises another, and nothing is blocked."""
    pair = Pair()
    raise_(pair.edge)
    pair.meet()
    clear(pair.hub)
    pair.wait(1000)
    raise_(pair.edge)  # it lasts, and the edge does not know
    pair.meet()
    assert both(pair, shown) == (1, "CLEARED_UNACK", "MAJOR")
    raise_(pair.edge)
    pair.meet()
    assert both(pair, shown) == (2, "ACTIVE_UNACK", "MAJOR")


def test_a_late_acknowledgement_is_of_what_was_seen() -> None:
    pair = Pair()
    raise_(pair.edge)
    pair.meet()
    clear(pair.edge)
    raise_(pair.edge)
    ack(pair.hub)  # of the first, which is all the hub knows
    clear(pair.hub)
    pair.meet()
    assert both(pair, shown) == (2, "ACTIVE_UNACK", "MAJOR")


def test_what_is_not_there_is_neither_acknowledged_nor_cleared() -> None:
    pair = Pair()
    assert the_alarm(pair.edge.view) is None
    raise_(pair.edge, details={"kg": 1})
    clear(pair.edge)
    assert there(pair.edge.view).raised.details == {"kg": 1}
    assert alarms.plan_clear(there(pair.edge.view), 1) == []
    ack(pair.edge)
    assert alarms.plan_ack(there(pair.edge.view), 1) == []


def test_an_occurrence_leaves_nothing_of_the_one_before() -> None:
    pair = Pair()
    for _ in range(20):
        raise_(pair.edge)
        ack(pair.edge)
        clear(pair.edge)
        pair.meet()
    fields = pair.hub.view.fields(alarm_key("barn-7", alarms.alarm_id(SCALE, HEAVY)))
    assert sorted(fields) == [b"about", b"ack:20", b"clear:20", b"raise:20"]


def test_the_journal_is_told_each_transition_once() -> None:
    pair = Pair()
    told: list[list[Transition]] = []

    def tell(view: SpaceView) -> None:
        told.append(alarms.untold(there(view)))
        pair.edge.do(alarms.plan_told(there(view)))

    raise_(pair.edge)
    tell(pair.edge.view)
    tell(pair.edge.view)
    pair.meet()
    ack(pair.hub)
    clear(pair.hub)
    pair.meet()
    tell(pair.edge.view)
    raise_(pair.edge, Severity.CRITICAL)
    tell(pair.edge.view)
    raise_(pair.edge, Severity.WARNING)
    tell(pair.edge.view)
    assert told == [
        [Transition.RAISED], [], [Transition.ACKED, Transition.CLEARED], [Transition.RAISED],
        [Transition.SEVERITY],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "field"),
    [({"details": "x" * 20_000}, "details"), ({"by": "a\nb"}, "by")],
)
def test_what_an_alarm_cannot_be(more: dict[str, Any], field: str) -> None:
    with pytest.raises(EntityError) as refused:
        raise_(Pair().edge, **more)
    assert refused.value.field == field
    with pytest.raises(EntityError, match="one of CRITICAL, MAJOR"):
        Severity.named("loud")


def test_an_edge_with_too_many_alarms(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(alarms, "ALARMS_MAX", 1)
    side = Pair().edge
    raise_(side)
    raise_(side, Severity.CRITICAL)
    with pytest.raises(EntityError, match="barn-7 has 1 alarms"):
        alarms.plan_raise(side.view, SCALE, "other", Severity.MAJOR, 1)


def test_what_some_client_made_of_it_is_no_alarm() -> None:
    pair = Pair()
    key = alarm_key("barn-7", "0" * 24)
    for fields in ([b"about", b"[]"], [b"raise:1", b"nonsense"], [b"raise:x", b"{}"]):
        pair.edge.do([[b"HSET", key, *fields]])
        assert list(alarms.all_alarms(pair.edge.view, "barn-7")) == []


steps = st.lists(
    st.tuples(st.sampled_from(["edge", "hub"]), st.sampled_from([raise_, ack, clear]),
              st.booleans()), max_size=14,
)  # fmt: skip


@settings(max_examples=100, deadline=None)
@given(steps)
def test_both_sides_see_the_same_alarm(acts: list[tuple[str, object, bool]]) -> None:
    pair = Pair()
    highest = 0
    for side, act, do_meet in acts:
        act(pair.edge if side == "edge" else pair.hub)  # type: ignore[operator]
        pair.wait(10)
        if do_meet:
            pair.meet()
            found = both(pair, shown)
            if isinstance(found, tuple):  # an occurrence is never taken back
                assert found[0] >= highest
                highest = found[0]
    pair.meet()
    both(pair, shown)


@pytest.mark.parametrize("name", ["Scale 7", 'a "b"', "back\\slash", "Wägezelle ½"])
def test_an_entitys_alarms_are_found_whatever_its_name_and_whoever_wrote_it(name: str) -> None:
    pair, mine = Pair(), entity("barn-7", "device", name)
    side = pair.edge
    for one in (mine, entity("barn-7", "asset", name), entity("barn-7", "device", f"{name}7")):
        side.do(alarms.plan_raise(side.view, one, HEAVY, Severity.MINOR, 1))
    id_ = alarms.alarm_id(mine, HEAVY)
    assert [one.id for one in alarms.alarms_of(side.view, mine)] == [id_]
    escaped = "".join(f"\\u{ord(one):04x}" for one in name)
    about = f'["device", "{escaped}", "{HEAVY}"]'.encode()
    side.do([[b"HSET", alarm_key("barn-7", id_), b"about", about]])
    assert [one.id for one in alarms.alarms_of(side.view, mine)] == [id_]


def test_of_alarms_of_others_only_whose_they_are_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Or to remove one of a thousand devices with alarms would cost what all of them did."""
    side = Pair().edge
    for n in range(50):
        other = entity("barn-7", "device", f"Scale {n}")
        side.do(alarms.plan_raise(side.view, other, HEAVY, Severity.MINOR, 1))
    read: list[str] = []
    find = alarms.find_alarm

    def noting(view: Any, edge: str, id_: str) -> Alarm | None:
        read.append(id_)
        return find(view, edge, id_)

    monkeypatch.setattr(alarms, "find_alarm", noting)
    assert [one.originator for one in alarms.alarms_of(side.view, SCALE)] == [SCALE]
    assert read == [alarms.alarm_id(SCALE, HEAVY)]
