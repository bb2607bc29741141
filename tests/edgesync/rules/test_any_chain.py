"""Whatever chains and messages there are: the engine ends, and the store takes what it is given."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from edgesync._native.write import Write
from edgesync.intake import Intake
from edgesync.rules import effects as wanted
from edgesync.rules.catalog import NODES
from edgesync.rules.engine import EFFECTS_MAX
from edgesync.rules.message import RELATIONS, Message, Originator
from edgesync.rules.node import ScriptAnswer, ScriptCall
from edgesync.store.journal import EdgeStore
from tests.edgesync.rules.chains import START_NS, Node, Site, Wire, exported

# A configuration that each type can be built with.
RULE = {"condition": {"condition": [
    {"key": {"type": "TIME_SERIES", "key": "a"},
     "predicate": {"operation": "GREATER", "value": {"defaultValue": 3}, "hysteresis": 1}}],
    "spec": {"type": "DURATION", "value": 5}}}  # fmt: skip
SCRIPT = {"jsScript": "return msg.a > 3;"}
CONFIGURED: dict[str, dict[str, Any]] = {
    "filter.TbJsFilterNode": SCRIPT,
    "filter.TbJsSwitchNode": {"jsScript": "return msg.a > 3 ? ['x', 'y'] : msg.b;"},
    "filter.TbMsgTypeFilterNode": {"messageTypes": ["POST_TELEMETRY_REQUEST"]},
    "filter.TbOriginatorTypeFilterNode": {"originatorTypes": ["DEVICE"]},
    "filter.TbCheckAlarmStatusNode": {"alarmStatusList": ["ACTIVE_UNACK"]},
    "filter.TbCheckMessageNode": {"messageNames": ["a"]},
    "transform.TbTransformMsgNode": {
        "jsScript": "return [{msg: {a: msg.a, b: [msg]}}, {msg: msg.b, msgType: 'X'}];"
    },
    "transform.TbChangeOriginatorNode": {
        "originatorSource": "ENTITY",
        "entityNamePattern": "n $[b]",
    },
    "transform.TbCopyKeysNode": {"keys": ["a", "b"]},
    "transform.TbDeleteKeysNode": {"keys": ["a"]},
    "transform.TbRenameKeysNode": {"renameKeysMapping": {"a": "b"}},
    "transform.TbJsonPathNode": {"jsonPath": "$.b"},
    "metadata.TbGetAttributesNode": {"clientAttributeNames": ["a", "$[b]"]},
    "metadata.TbGetRelatedAttributeNode": {"dataMapping": {"a": "b"}},
    "metadata.TbGetOriginatorFieldsNode": {"dataMapping": {"name": "n"}},
    "metadata.CalculateDeltaNode": {"inputValueKey": "a", "outputValueKey": "d"},
    "metadata.TbGetTelemetryNode": {"latestTsKeyNames": ["a"]},
    "telemetry.TbMsgAttributesNode": {"sendAttributesUpdatedNotification": True},
    "telemetry.TbMsgDeleteAttributesNode": {"keys": ["$[b]"]},
    "action.TbLogNode": {"jsScript": "return JSON.stringify(msg) + metadata.ts;"},
    "action.TbCreateAlarmNode": {"alarmType": "A $[b]", "alarmDetailsBuildJs": "return {m: msg};"},
    "action.TbClearAlarmNode": {"alarmType": "A $[b]"},
    "edgesync.AlarmRulesNode": {"alarms": [{"alarmType": "R", "createRules": {"MAJOR": RULE}}]},
    "edgesync.DeadbandNode": {"deadband": "5%", "maxAgeSeconds": 9},
    "edgesync.WindowNode": {"intervalSeconds": 5, "functions": ["AVG", "LAST"]},
    "debug.TbMsgGeneratorNode": {"jsScript": "return {msg: prevMsg, metadata: {}, msgType: 'G'};"},
    "delay.TbMsgDelayNode": {"periodInSeconds": 3, "maxPendingMsgs": 3},
    "deduplication.TbMsgDeduplicationNode": {"interval": 4},
    "rest.TbRestApiCallNode": {"restEndpointUrlPattern": "http://h/$[b]"},
}
TYPES = sorted(set(NODES) - {"flow.TbRuleChainInputNode"})
LABELS = ["Success", "Failure", "True", "False", "Other", "x", "Created", "Cleared", "Late"]

SCALARS = st.one_of(
    st.none(), st.booleans(), st.integers(-(1 << 70), 1 << 70),
    st.floats(), st.text(max_size=8), st.just("\ud800"), st.just("x" * 20_000),
)  # fmt: skip
VALUES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)  # fmt: skip
DATA = st.one_of(
    st.fixed_dictionaries({}, optional={"a": VALUES, "b": VALUES, "ts": VALUES, "values": VALUES}),
    VALUES,
)
KINDS = st.sampled_from([*list(RELATIONS)[:8], "ALARM", "X"])
MESSAGES = st.builds(
    lambda kind, name, data, metadata: Message(
        type=kind, originator=Originator("DEVICE", name), data=data, metadata=metadata,
        time_ns=START_NS,
    ),
    KINDS, st.sampled_from(["d1", "d2", "", "\ud800", "y" * 300]), DATA,
    st.dictionaries(st.sampled_from(["ts", "scope", "requestId", "b"]), st.text(max_size=5)),
)  # fmt: skip


@st.composite
def chains(draw: st.DrawFn) -> bytes:
    """Return a chain without circles, of any types and wires that they can have."""
    kinds = draw(st.lists(st.sampled_from(TYPES), min_size=1, max_size=8))
    nodes: list[Node] = [
        (kind, f"n{at}", CONFIGURED.get(kind, {})) for at, kind in enumerate(kinds)
    ]
    wires: list[Wire] = []
    for at, kind in enumerate(kinds):
        relations = [*sorted(NODES[kind].relations or LABELS), "Failure"]
        for target in range(at + 1, len(kinds)):
            if draw(st.booleans()):
                wires.append((at, target, draw(st.sampled_from(relations))))
    return exported(nodes, wires)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Any:
    with EdgeStore(tmp_path_factory.mktemp("any") / "store") as found:
        yield found


def answered(call: ScriptCall) -> ScriptAnswer:
    return ScriptAnswer(value=call.arguments[0])


@pytest.mark.slow
@example(
    exported([("edge.TbMsgPushToCloudNode", "n0", {})], []),
    [Message(type="POST_ATTRIBUTES_REQUEST", originator=Originator("DEVICE", "\ud800"), data={},
             metadata={}, time_ns=START_NS)],
)  # fmt: skip
@example(
    exported([("action.TbCreateAlarmNode", "n0", CONFIGURED["action.TbCreateAlarmNode"])], []),
    [Message(type="POST_TELEMETRY_REQUEST", originator=Originator("DEVICE", "d1"),
             data={"a": -(1 << 63) - 1}, metadata={}, time_ns=START_NS)],
)  # fmt: skip
@given(chains(), st.lists(MESSAGES, max_size=6))
@settings(
    max_examples=60,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_the_store_takes_whatever_any_chain_makes_of_any_message(
    store: EdgeStore, raw: bytes, messages: list[Message]
) -> None:
    site = Site(raw, ask=answered)
    found = [effect for one in messages for effect in site.send(one)]
    found += site.wait(6)
    assert len(found) <= EFFECTS_MAX * (len(messages) + 50)
    intake, write = Intake(store.series), Write()
    for effect in found:
        match effect:
            case wanted.SaveReadings(readings):
                intake.stage_names(write, readings)
            case wanted.PushReadings(readings, lane):
                intake.stage(write, readings, lane)
            case wanted.PushEvent(event):
                event.entity_id.encode()
                assert len(event.body) <= 60 * 1024
    for key, row in site.engine.state.changes().items():
        write.put("rules", key, row or b"")
    unexpected = [
        one for one in site.engine.counts()
        if "Error" in one.last_error and "TypeError: cannot read" not in one.last_error
        and "has no" not in one.last_error
    ]  # fmt: skip
    assert unexpected == [], unexpected


def test_every_type_has_a_configuration_that_works(tmp_path: Path) -> None:
    for kind in TYPES:
        Site(exported([(kind, "n", CONFIGURED.get(kind, {}))]), ask=answered)
