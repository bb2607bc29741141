"""What is made of what edges tell of their chains."""

from typing import Any

import msgspec
import pytest

from edgesync.model import Action, EventType
from hubd.rules import reports as reports_module
from hubd.rules.bundles import Assignment
from hubd.rules.reports import TOO_OLD, Reports, is_of_rules
from hubd.rules.standing import standing

pytestmark = pytest.mark.feature("S18")

UNKNOWN = b'{"what":"downlink_unknown","type":17,"action":0}'
STARTED = b'{"what":"started","version":"0.1.0"}'


def hear(reports: Reports, edge: str = "barn", **facts: Any) -> None:
    action = Action.UPDATED if "life" in facts else Action.NONE
    reports.apply(edge, EventType.RULES, action, msgspec.json.encode(facts), 7)


def rows(count: int) -> list[list[Any]]:
    return [["Root", f"n{at}", f"n{at}", "t", at, 0, "", 0] for at in range(count)]


def assigned(digest: str) -> Assignment:
    return Assignment(
        edge="barn", tenant="default", bundle="cold", version=2, digest=digest, assigned_ns=1
    )


@pytest.mark.parametrize(("told", "state"), [
    (None, "waiting"), ({"held": "1"}, "waiting"), ({"held": "2"}, "refused"),
    ({"held": "2", "running": "2", "source": "hub"}, "running"),
    ({"held": "2", "running": "1", "source": "hub", "refused": ["no"]}, "refused"),
    ({"held": "2", "source": "local", "is_local": True}, "local"),
    ({"held": "1", "source": "local", "is_local": True}, "local"),
])  # fmt: skip
def test_the_state_goes_by_what_is_assigned_and_told(
    told: dict[str, Any] | None, state: str
) -> None:
    reports = Reports()
    if told is not None:
        hear(reports, **told)
    assert standing("barn", assigned("2"), reports.of("barn")).state == state


def test_without_an_assignment_what_is_held_is_waited_for() -> None:
    reports = Reports()
    assert standing("barn", None, reports.of("barn")).state == "none"
    hear(reports, held="1", running="1", source="hub")
    assert standing("barn", None, reports.of("barn")).state == "waiting"
    hear(reports, held="")
    assert standing("barn", None, reports.of("barn")).state == "none"


def test_an_edge_that_is_too_old_is_one_until_it_starts_anew() -> None:
    reports = Reports()
    assert is_of_rules(EventType.LIFECYCLE, UNKNOWN)
    assert is_of_rules(EventType.LIFECYCLE, STARTED)
    assert not is_of_rules(EventType.LIFECYCLE, UNKNOWN.replace(b"17", b"170"))
    assert not is_of_rules(EventType.TELEMETRY, UNKNOWN)
    reports.apply("barn", EventType.LIFECYCLE, 0, UNKNOWN, 7)
    found = standing("barn", assigned("2"), reports.of("barn"))
    assert (found.state, found.refused) == ("refused", (TOO_OLD,))
    reports.apply("barn", EventType.LIFECYCLE, 0, STARTED, 7)
    assert standing("barn", assigned("2"), reports.of("barn")).state == "waiting"
    # What was told before this hub started is still to be looked up.
    assert reports.is_unknown("barn")
    reports.note_looked_up("barn", b'{"held":"2","running":"2","source":"hub"}', 5)
    assert standing("barn", assigned("2"), reports.of("barn")).state == "running"
    reports.note_looked_up("barn", b'{"held":"1"}', 5)
    assert standing("barn", assigned("2"), reports.of("barn")).state == "running"


def test_counters_are_taken_from_their_beginning_on_and_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    reports = Reports()
    hear(reports, life=1, first=2, nodes=rows(2))  # the beginning is missing
    hear(reports, life=1, changed=[[0, 5, 0, "", 0]])
    told = reports.of("barn")
    assert told is not None
    assert told.nodes == []
    hear(reports, life=2, first=0, nodes=rows(2))
    hear(reports, life=2, first=2, nodes=rows(2))
    hear(reports, life=2, changed=[[3, 9, 1, "why", 4], [4, 1, 0, "", 0], [-1, 1, 0, "", 0]])
    hear(reports, life=1, changed=[[0, 99, 0, "", 0]])
    assert [one.messages for one in told.nodes] == [0, 1, 0, 9]
    assert (told.nodes[3].failures, told.nodes[3].last_error) == (1, "why")
    for facts in ({"life": "x"}, {"life": 2, "nodes": [[1]]}, {"life": 2, "changed": [[0]]}):
        hear(reports, **facts)
    reports.apply("barn", EventType.RULES, Action.UPDATED, b"\xff", 7)
    assert [one.messages for one in told.nodes] == [0, 1, 0, 9]
    monkeypatch.setattr(reports_module, "NODES_MAX", 3)
    hear(reports, life=3, first=0, nodes=rows(9))
    assert len(told.nodes) == 3
    monkeypatch.setattr(reports_module, "ALL_NODES_MAX", 3)
    hear(reports, "mill", life=3, first=0, nodes=rows(9))
    other = reports.of("mill")
    assert other is not None
    assert other.nodes == []


def test_what_an_edge_writes_of_a_node_is_kept_within_bounds() -> None:
    reports, long = Reports(), "x" * 100_000
    hear(reports, life=1, first=0, nodes=[[long, long, long, long, 1, 1, long, 0]])
    told = reports.of("barn")
    assert told is not None
    (node,) = told.nodes
    texts = (node.chain, node.id, node.name, node.type, node.last_error)
    assert [len(text) for text in texts] == [255, 255, 255, 255, 500]
    hear(reports, life=1, changed=[[0, 2, 2, long, 0]])
    assert len(told.nodes[0].last_error) == 500
