"""The engine: order, bounds, failures, chains in chains, swaps, and what is remembered."""

import json
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgesync.model import EventType
from edgesync.rules import engine as engine_module
from edgesync.rules.effects import CallDevice, LogLine, PushEvent
from edgesync.rules.engine import ALARMS
from edgesync.rules.message import CALL_TO_DEVICE, device_message
from edgesync.rules.model import FAILURE
from edgesync.rules.node import NodeFailure, Now, Outs, ScriptAnswer, ScriptCall, Step
from edgesync.rules.state import NAMES_MAX, WAKE, State
from tests.edgesync.rules.chains import SINK, START_NS, Node, Site, behind, exported, loaded


def log(text: str) -> Node:
    return ("action.TbLogNode", text, {"jsScript": f"return '{text}';"})


def filtered(name: str, expression: str) -> Node:
    return ("filter.TbJsFilterNode", name, {"jsScript": f"return {expression};"})


def delta(name: str = "Delta") -> Node:
    return ("metadata.CalculateDeltaNode", name, {"inputValueKey": "a", "outputValueKey": "d"})


def lines(effects: Any) -> list[str]:
    return [one.text for one in effects if isinstance(one, LogLine)]


def test_nodes_are_reached_in_one_order_whatever_branches_there_are() -> None:
    nodes = [filtered("First", "true"), log("b"), log("c"), log("d"), log("e")]
    wires = [(0, 2, "True"), (0, 1, "true"), (2, 3, "Success"), (1, 4, "SUCCESS"), (0, 2, "True")]
    site = Site(exported(nodes, wires))
    for _ in range(3):
        assert lines(site.post(a=1)) == ["c", "b", "d", "e"]
    first = site.engine.counts()[0]
    assert (first.node, first.messages) == ("First", 3)


def test_a_failure_leaves_with_node_reason_and_input_and_is_counted() -> None:
    site = Site(behind(filtered("Warm", "msg.a.b.c > 5"), "True", "False"))
    assert site.post(a=1) == []
    (failed,) = site.came_to("Failure")
    assert failed.data == {"a": 1}
    assert failed.metadata["failedNode"] == "Root / Warm"
    assert "reading 'c'" in failed.metadata["error"]
    warm = site.engine.counts()[0]
    assert (warm.messages, warm.failures) == (1, 1)
    assert "reading 'c'" in warm.last_error
    assert warm.last_error_ns == START_NS


def test_a_failure_that_nobody_takes_is_told_as_an_event_but_not_each_time() -> None:
    site = Site(exported([filtered("Warm", "msg.a.b > 5"), SINK], [(0, 1, "True")]))
    found = [effect for _ in range(20) for effect in site.post(b=2)]
    assert len(found) == 5
    assert isinstance(found[0], PushEvent)
    body = json.loads(found[0].event.body)
    assert found[0].event.type == EventType.LIFECYCLE
    assert (body["what"], body["chain"], body["node"]) == ("rule_failed", "Root", "Warm")
    assert (body["originator"], body["message"]) == ("DEVICE:d1", '{"b":2}')
    assert site.engine.unhandled == 20
    site.now = Now(START_NS + 60 * 10**9, 1)
    assert len(site.post(b=2)) == 1


def test_a_node_that_failed_a_thousand_times_goes_on() -> None:
    """Each failure leaves with node, line, reason and input; the next message is worked on."""
    site = Site(behind(filtered("Deep", "msg.a.b > 1"), "True"))
    for number in range(1000):
        site.post(n=number)
    site.post(a={"b": 2})
    failures = site.came_to("Failure")
    assert [one.data["n"] for one in failures] == list(range(1000))
    assert {one.metadata["failedNode"] for one in failures} == {"Root / Deep"}
    (reason,) = {one.metadata["error"] for one in failures}
    assert reason.endswith("(reading 'b') (line 1 of the script)")
    assert [one.data for one in site.came_to("True")] == [{"a": {"b": 2}}]
    count = next(one for one in site.engine.counts() if one.node == "Deep")
    assert (count.messages, count.failures) == (1001, 1000)


def test_what_a_node_began_before_it_failed_is_not_done() -> None:
    raising = {"alarmType": "Hot", "severity": "MAJOR", "alarmDetailsBuildJs": "return 5;"}
    site = Site(behind(("action.TbCreateAlarmNode", "Raise", raising), "Created"))
    assert site.post(a=1) == []
    assert "details are an object" in site.came_to("Failure")[0].metadata["error"]
    assert site.engine.state.all_of(ALARMS) == {}


def test_an_effect_of_a_node_that_failed_after_it_is_not_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    site = Site(behind(log("x"), "Success"))
    node = next(iter(site.engine.chains.nodes.values())).node

    def late(_message: Any, step: Step) -> Outs:
        step.effect(LogLine("x", "begun"))
        raise NodeFailure("late")

    monkeypatch.setattr(node, "process", late)
    assert site.post(a=1) == []
    assert site.came_to("Failure")[0].metadata["error"] == "late"


def test_a_message_has_so_many_effects_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine_module, "EFFECTS_MAX", 2)
    site = Site(exported([log("a"), log("b"), log("c"), log("end")],
                         [(0, 1, "Success"), (1, 2, "Success"), (2, 3, "Failure")]))  # fmt: skip
    site.post(a=1)
    counts = {one.node: one.last_error for one in site.engine.counts()}
    assert "2 effects of one message" in counts["c"]
    assert (counts["a"], counts["b"]) == ("", "")


def test_a_message_comes_back_through_each_chain_that_it_went_into() -> None:
    def inner(name: str, into: str) -> bytes:
        nodes: list[Node] = [
            ("flow.TbRuleChainInputNode", "Into", {"ruleChainId": into}), log(f"back in {name}"),
            ("flow.TbRuleChainOutputNode", "Done", {}),
        ]  # fmt: skip
        return exported(
            nodes, [(0, 1, "Done"), (1, 2, "Success")], name=name, is_root=name == "One",
            id={"id": name},
        )  # fmt: skip

    last = exported(
        [("flow.TbRuleChainOutputNode", "Done", {})], name="Three", is_root=False,
        id={"id": "Three"},
    )  # fmt: skip
    site = Site(inner("One", "Two"), inner("Two", "Three"), last)
    assert lines(site.post(t=1)) == ["back in Two", "back in One"]


def test_an_answer_that_failed_is_told_where_nothing_is_connected_to_failure() -> None:
    site = Site(exported([("rpc.TbSendRPCRequestNode", "Call", {})]))
    (call,) = site.send(device_message(CALL_TO_DEVICE, "f", {"method": "m", "params": 0}, 0))
    assert isinstance(call, CallDevice)
    assert call.reply_to is not None
    late = call.reply_to.message.with_metadata(error="no answer")
    (told,) = site.effects(site.engine.answer(call.reply_to, FAILURE, late, site.now))
    assert isinstance(told, PushEvent)
    assert json.loads(told.event.body)["error"] == "no answer"
    assert site.engine.unhandled == 1


def test_a_bug_in_a_node_is_a_failure_of_that_message(monkeypatch: pytest.MonkeyPatch) -> None:
    site = Site(behind(log("x"), "Success"))
    node = next(iter(site.engine.chains.nodes.values())).node
    monkeypatch.setattr(node, "process", lambda message, step: 1 / 0)
    site.post(a=1)
    assert "ZeroDivisionError" in site.came_to("Failure")[0].metadata["error"]


def test_a_message_visits_so_many_nodes_and_no_more() -> None:
    """Three copies each of seven layers would be 3,000 visits."""
    nodes: list[Node] = [log(f"n{layer}{copy}") for layer in range(8) for copy in range(3)]
    wires = [
        (3 * layer + one, 3 * layer + 3 + two, "Success")
        for layer in range(7)
        for one in range(3)
        for two in range(3)
    ]
    site = Site(exported(nodes, wires), steps_max=200)
    effects = site.post(a=1)
    assert len(lines(effects)) == 200
    assert sum(one.messages for one in site.engine.counts()) == 201
    (event,) = [one.event for one in effects if isinstance(one, PushEvent)]
    assert b"through 200 nodes" in event.body
    assert lines(site.post(a=1))[:3] == ["n00", "n10", "n11"]


def test_messages_go_into_another_chain_and_come_back_by_its_labels() -> None:
    outer = exported(
        [("flow.TbRuleChainInputNode", "Inner", {"ruleChainId": "f1"}), log("hot"), log("cold")],
        [(0, 1, "Hot"), (0, 2, "cold")],
    )
    out: tuple[Node, Node] = (
        ("flow.TbRuleChainOutputNode", "Hot", {}),
        ("flow.TbRuleChainOutputNode", "Cold", {}),
    )
    inner = exported(
        [filtered("Warm", "msg.t > 5"), *out], [(0, 1, "True"), (0, 2, "False")],
        name="Inner", is_root=False, id={"entityType": "RULE_CHAIN", "id": "f1"},
    )  # fmt: skip
    site = Site(outer, inner)
    assert lines(site.post(t=7)) == ["hot"]
    assert lines(site.post(t=3)) == ["cold"]


def test_old_links_between_chains_lead_there_for_good() -> None:
    raw = json.loads(exported([log("a")]))
    raw["metadata"]["ruleChainConnections"] = [
        {"fromIndex": 0, "type": "Success", "targetRuleChainId": {"id": "f2"}, "additionalInfo": {}}
    ]
    other = exported([log("b")], name="Other", is_root=False, externalId={"id": "f2"})
    assert lines(Site(json.dumps(raw).encode(), other).post(x=1)) == ["a", "b"]


def test_a_script_elsewhere_holds_up_its_own_message_only() -> None:
    site = Site(
        behind(("filter.TbJsFilterNode", "Slow", {"jsScript": "var x = 1; return true;"}), "True"),
        ask=lambda call: ScriptAnswer(True),
    )
    first = site.engine.begin(device_message("T", "d1", {"n": 1}, 0), site.now)
    second = site.engine.begin(device_message("T", "d2", {"n": 2}, 0), site.now)
    calls = [first.advance(), second.advance()]
    assert [call.arguments[0] for call in calls if call] == [{"n": 1}, {"n": 2}]
    assert isinstance(calls[0], ScriptCall)
    assert second.advance(ScriptAnswer(problem="took longer than 250 ms")) is None
    assert first.advance(ScriptAnswer(True)) is None
    assert site.left_by("Slow") == ["True"]
    assert site.came_to("Failure")[0].data == {"n": 2}
    assert "250 ms" in site.came_to("Failure")[0].metadata["error"]


def test_an_answer_goes_on_behind_the_node_that_asked() -> None:
    site = Site(behind(("rpc.TbSendRPCRequestNode", "Call", {"timeoutInSeconds": 7}), "Success"))
    data = {"method": "setFan", "params": {"on": True}}
    (call,) = site.send(device_message(CALL_TO_DEVICE, "fan", data, 0))
    assert isinstance(call, CallDevice)
    assert (call.device.name, call.method, call.params) == ("fan", "setFan", {"on": True})
    assert call.timeout_s == 7
    assert call.reply_to is not None
    reply = call.reply_to.message.changed(data={"ok": True})
    site.effects(site.engine.answer(call.reply_to, "Success", reply, site.now))
    assert site.came_to("Success")[0].data == {"ok": True}
    late = reply.with_metadata(error="the device did not answer")
    site.effects(site.engine.answer(call.reply_to, FAILURE, late, site.now))
    assert site.came_to("Failure")[0].metadata["error"] == "the device did not answer"


def test_a_swap_keeps_what_nodes_with_the_same_id_remember_and_count() -> None:
    site = Site(exported([delta(), delta("Other")], [(0, 1, "Success")]))
    site.post(a=5)
    changed = exported([log("new"), delta(), log("end")], [(0, 1, "Success"), (1, 2, "Success")])
    site.engine.swap(loaded(changed).chains)
    site.post(a=7)
    assert site.came_to("end")[0].data == {"a": 7, "d": 2}
    assert {one.node: one.messages for one in site.engine.counts()} == {
        "new": 1, "Delta": 2, "end": 1,
    }  # fmt: skip
    assert {node.partition("\0")[2] for node, _, _ in site.engine.state} == {"Delta"}


def test_a_swap_in_the_middle_changes_nothing_for_answers_that_come_too_late() -> None:
    site = Site(behind(("rpc.TbSendRPCRequestNode", "Call", {}), "Success"))
    (call,) = site.send(device_message(CALL_TO_DEVICE, "f", {"method": "m", "params": 0}, 0))
    assert isinstance(call, CallDevice)
    assert call.reply_to is not None
    site.engine.swap(loaded(exported([log("new")])).chains)
    answer = site.engine.answer(call.reply_to, "Success", call.reply_to.message, site.now)
    assert site.effects(answer) == []


def test_an_answer_does_not_come_back_to_a_chain_that_is_gone() -> None:
    calling: tuple[Node, Node] = (
        ("rpc.TbSendRPCRequestNode", "Call", {}), ("flow.TbRuleChainOutputNode", "Done", {}),
    )  # fmt: skip
    inner = exported(calling, [(0, 1, "Success")], name="Inner", is_root=False, id={"id": "f1"})
    outer = exported(
        [("flow.TbRuleChainInputNode", "Inner", {"ruleChainId": "f1"}), log("after")],
        [(0, 1, "Done")],
    )
    site = Site(outer, inner)
    (call,) = site.send(device_message(CALL_TO_DEVICE, "f", {"method": "m", "params": 0}, 0))
    assert isinstance(call, CallDevice)
    assert call.reply_to is not None
    site.engine.swap(loaded(exported([log("other")]), inner).chains)
    answer = site.engine.answer(call.reply_to, "Success", call.reply_to.message, site.now)
    assert site.effects(answer) == []


def rows_of(state: State) -> Iterator[tuple[bytes, bytes]]:
    for key, raw in state.changes().items():
        if raw is not None:
            yield key, raw


Moves = st.lists(
    st.tuples(
        st.sampled_from(["put", "forget", "wake", "no wake", "confirm", "withdraw"]),
        st.sampled_from(["n1", "n2"]),
        st.sampled_from(["x", "y", "z"]),
        st.integers(0, 9),
    ),
    max_size=40,
)


@given(Moves)
def test_what_is_stored_is_what_is_remembered_after_every_schedule(
    moves: list[tuple[str, str, str, int]],
) -> None:
    state, disk, now = State(), dict[bytes, bytes](), Now(START_NS, 0)
    for what, node, name, number in moves:
        match what:
            case "put":
                state.put(node, name, {"n": number})
            case "forget":
                state.put(node, name, None)
            case "wake":
                state.wake(node, name, number + 1, now)
            case "no wake":
                state.forget_wake(node, name)
            case "confirm":
                for key, raw in state.changes().items():
                    if raw is None:
                        disk.pop(key, None)
                    else:
                        disk[key] = raw
                state.confirm()
            case "withdraw":
                state.withdraw(now)
    state.withdraw(now)
    restored = State()
    restored.restore(disk.items(), now)
    assert sorted(restored) == sorted(state)
    due = (1 << 62, 100)
    assert sorted(restored.take_due(*due)) == sorted(state.take_due(*due))


def test_times_outlive_a_restart_and_a_clock_that_was_set() -> None:
    state = State()
    state.wake("n", "a", 60, Now(START_NS, 0))
    rows = list(rows_of(state))
    for wall_ns, left_s in ((START_NS + 20 * 10**9, 40), (START_NS + 10**15, 0), (0, 60)):
        later = State()
        later.restore(rows, Now(wall_ns, 1000))
        assert later.next_due_ns == 1000 + left_s * 10**9


@pytest.mark.parametrize(
    "raw",
    [
        b"\xc1damaged",
        msgspec.msgpack.encode(["n"]),
        msgspec.msgpack.encode(["n", WAKE + "lost", "soon"]),
        b"\x93\xa1\xff\xa1a\x01",
    ],
)
def test_a_damaged_row_costs_what_was_in_it_and_goes_with_the_next_commit(raw: bytes) -> None:
    state = State()
    state.put("n", "a", 1)
    rows, now = list(rows_of(state)), Now(START_NS, 0)
    restored = State()
    restored.restore([(b"lost", raw), *rows], now)
    assert list(restored) == [("n", "a", 1)]
    restored.put("n", "a", 2)
    restored.withdraw(now)
    assert restored.changes() == {b"lost": None}
    restored.confirm()
    assert restored.changes() == {}


def test_how_many_entities_a_node_remembers_is_limited() -> None:
    site = Site(behind(delta(), "Success"))
    for number in range(NAMES_MAX):
        site.engine.state.put(next(iter(site.engine.chains.nodes)), str(number), 1)
    site.post(a=1)
    assert "is the most" in site.came_to("Failure")[0].metadata["error"]


def test_whatever_is_wrong_with_a_message_it_can_be_told() -> None:
    deep: Any = []
    for _ in range(5000):
        deep = [deep]
    site = Site(exported([("edge.TbMsgPushToCloudNode", "Push", {})]))
    for data in ({"a": "\ud800"}, {"\ud800": 1}, deep):
        (told,) = site.send(device_message("POST_TELEMETRY_REQUEST", "\ud800", data, START_NS))
        assert isinstance(told, PushEvent)
        assert json.loads(told.event.body)["what"] == "rule_failed"
        assert site.engine.counts()[0].last_error.encode()
