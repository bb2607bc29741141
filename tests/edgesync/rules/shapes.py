"""Twenty chains of the shapes that public ones have: sizes, node types, fan-out, generations.

Made for these tests: names, keys and thresholds are invented. Each has messages and what they
must lead to, so that a chain that merely runs is not enough.
"""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

from edgesync.rules.message import (
    CALL_FROM_DEVICE,
    CALL_TO_DEVICE,
    CONNECT,
    POST_ATTRIBUTES,
    POST_TELEMETRY,
)
from tests.edgesync.rules.chains import Node, Site, Wire, exported


class Post(NamedTuple):
    """A message, how long to wait after it, and what must follow: (kind of effect, what of it)."""

    data: Any
    expected: list[Any]
    kind: str = POST_TELEMETRY
    wait_s: float = 0.0
    entity: str = "d1"
    metadata: tuple[tuple[str, str], ...] = ()


class Shape(NamedTuple):
    name: str
    files: list[bytes]
    posts: list[Post]
    prepare: Callable[[Site], None] = lambda site: None


def js(body: str) -> dict[str, Any]:
    """A script of the first generation."""
    return {"jsScript": body}


def tbel(body: str) -> dict[str, Any]:
    return {"scriptLang": "TBEL", "jsScript": "return 'unused';", "tbelScript": body}


def both(body: str) -> dict[str, Any]:
    return {"scriptLang": "JS", "jsScript": body, "tbelScript": "unused("}


SWITCH: Node = ("filter.TbMsgTypeSwitchNode", "Message Type Switch", {"version": 0})
SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save Timeseries", {"defaultTTL": 0})
SAVE_NEW: Node = (
    "telemetry.TbMsgTimeseriesNode", "Save",
    {"defaultTTL": 0, "useServerTs": False, "processingSettings": {"type": "ON_EVERY_MESSAGE"}},
)  # fmt: skip
ATTRIBUTES: Node = ("telemetry.TbMsgAttributesNode", "Save Attributes", {"scope": "CLIENT_SCOPE"})
LOG: Node = ("action.TbLogNode", "Log Other", js("return 'other ' + msgType;"))
CALL: Node = ("rpc.TbSendRPCRequestNode", "RPC Call Request", {"timeoutInSeconds": 60})
PUSH: Node = ("edge.TbMsgPushToCloudNode", "Push to cloud", {"scope": "SERVER_SCOPE"})


def filtering(name: str, script: dict[str, Any]) -> Node:
    return ("filter.TbJsFilterNode", name, script)


def transforming(name: str, script: dict[str, Any]) -> Node:
    return ("transform.TbTransformMsgNode", name, script)


def raising(kind: str, severity: str = "CRITICAL", **more: Any) -> Node:
    details = "return {seen: msg};"
    found = {"alarmType": kind, "severity": severity, "propagate": False, "relationTypes": [],
             "useMessageAlarmData": False, "alarmDetailsBuildJs": details, **more}  # fmt: skip
    return ("action.TbCreateAlarmNode", f"Create {kind}", found)


def clearing(kind: str) -> Node:
    body = """
    var details = {};
    if (metadata.prevAlarmDetails) {
        details = JSON.parse(metadata.prevAlarmDetails);
    }
    details.cleared = msg;
    return details;"""
    found = {"alarmType": kind, "alarmDetailsBuildJs": body}
    return ("action.TbClearAlarmNode", f"Clear {kind}", found)


def root_like() -> Shape:
    """Nine nodes, the median: the root that most collections begin with."""
    nodes = [SWITCH, SAVE, ATTRIBUTES, LOG, CALL, PUSH]
    wires: list[Wire] = [
        (0, 1, "Post telemetry"), (0, 2, "Post attributes"), (0, 3, "Other"),
        (0, 4, "RPC Request to Device"), (1, 5, "Success"), (2, 5, "Success"),
    ]  # fmt: skip
    posts = [
        Post({"t": 5}, [("save", {"t": 5}), ("push", {"t": 5})]),
        Post({"fw": "1"}, [("attributes", {"fw": "1"}), ("event", {"fw": "1"})], POST_ATTRIBUTES),
        Post({"method": "on", "params": 1}, [("call", "on")], CALL_TO_DEVICE),
        Post({}, [("log", "other SOMETHING")], "SOMETHING"),
    ]
    return Shape("root with a type switch", [exported(nodes, wires)], posts)


def threshold_alarm() -> Shape:
    nodes = [SAVE, filtering("Is hot", js("return msg.temperature > 30;")), raising("High"),
             clearing("High")]  # fmt: skip
    wires: list[Wire] = [(0, 1, "Success"), (1, 2, "True"), (1, 3, "False")]
    posts = [
        Post({"temperature": 31}, [("save", {"temperature": 31}), ("alarm", "High ACTIVE_UNACK")]),
        Post({"temperature": 29}, [("save", {"temperature": 29}), ("alarm", "High CLEARED_UNACK")]),
        Post({"temperature": 28}, [("save", {"temperature": 28})]),
    ]
    return Shape("save, filter, create and clear", [exported(nodes, wires)], posts)


def converter() -> Shape:
    body = """
    var out = {};
    out.celsius = Math.round((msg.fahrenheit - 32) / 1.8 * 10) / 10;
    if (msg.battery) { out.batteryPercent = Math.min(100, msg.battery / 42 * 100).toFixed(0); }
    metadata.converted = 'yes';
    return {msg: out, metadata: metadata, msgType: msgType};"""
    nodes = [transforming("Convert", js(body)), SAVE]
    posts = [
        Post({"fahrenheit": 71.6, "battery": 21},
             [("save", {"celsius": 22, "batteryPercent": "50"})]),
    ]  # fmt: skip
    return Shape("old script that converts units", [exported(nodes, [(0, 1, "Success")])], posts)


def label_switch() -> Shape:
    body = """
    function nextRelation(metadata, msg) {
        if (metadata.deviceType === 'default' && msg.kind) { return [msg.kind, 'all']; }
        return ['unknown'];
    }
    return nextRelation(metadata, msg);"""
    nodes = [("filter.TbJsSwitchNode", "By kind", js(body)), SAVE, PUSH, LOG]
    wires: list[Wire] = [(0, 1, "weight"), (0, 2, "all"), (0, 3, "unknown")]
    posts = [
        Post({"kind": "weight"}, [("save", {"kind": "weight"}), ("push", {"kind": "weight"})]),
        Post({"kind": "door"}, [("push", {"kind": "door"})]),
        Post({"x": 1}, [("log", "other POST_TELEMETRY_REQUEST")]),
    ]
    return Shape("switch with labels of its own", [exported(nodes, wires)], posts)


def split_gateway_payload() -> Shape:
    body = """
    var out = [];
    for (var i = 0; i < msg.sensors.length; i++) {
        var m = {};
        m[msg.sensors[i].id] = msg.sensors[i].v;
        out.push({msg: m, metadata: metadata, msgType: 'POST_TELEMETRY_REQUEST'});
    }
    return out;"""
    nodes = [transforming("Split", both(body)), SAVE_NEW]
    posts = [Post({"sensors": [{"id": "a", "v": 1}, {"id": "b", "v": 2}]},
                  [("save", {"a": 1}), ("save", {"b": 2})])]  # fmt: skip
    return Shape("several messages of one", [exported(nodes, [(0, 1, "Success")])], posts)


def tbel_loop() -> Shape:
    body = """
    var total = 0;
    foreach (item : msg.items) { total = total + item.w; }
    msg.total = total;
    msg.count = msg.items.size();
    msg.remove('items');
    return {msg: msg, metadata: metadata, msgType: msgType};"""
    nodes = [transforming("Sum", tbel(body)), SAVE_NEW]
    posts = [Post({"items": [{"w": 1.5}, {"w": 2}]}, [("save", {"total": 3.5, "count": 2})])]
    return Shape("TBEL with foreach", [exported(nodes, [(0, 1, "Success")])], posts)


def tbel_expression() -> Shape:
    nodes = [filtering("Plausible", tbel("msg.containsKey('t') && msg.t > -40 && msg.t < 85")),
             SAVE_NEW, LOG]  # fmt: skip
    wires: list[Wire] = [(0, 1, "True"), (0, 2, "False")]
    posts = [Post({"t": 20}, [("save", {"t": 20})]),
             Post({"t": 99}, [("log", "other POST_TELEMETRY_REQUEST")])]  # fmt: skip
    return Shape("TBEL expression that filters", [exported(nodes, wires)], posts)


def call_on_threshold() -> Shape:
    body = """
    var m = {method: msg.t > 50 ? 'fanOn' : 'fanOff', params: {t: msg.t}};
    msgType = 'RPC message';
    return {msg: m, metadata: metadata, msgType: msgType};"""
    nodes = [transforming("To RPC", js(body)), CALL]
    posts = [Post({"t": 60}, [("call", "fanOn")]), Post({"t": 20}, [("call", "fanOff")])]
    return Shape("a device is called by its own reading", [exported(nodes, [(0, 1, "Success")])],
                 posts)  # fmt: skip


def reply_to_device() -> Shape:
    reply = "return {msg: {time: 1, asked: msg.method}, metadata: metadata, msgType: msgType};"
    nodes = [SWITCH, transforming("Answer", js(reply)), ("rpc.TbSendRPCReplyNode", "Reply",
             {"requestIdMetaDataAttribute": "requestId"})]  # fmt: skip
    wires: list[Wire] = [(0, 1, "RPC Request from Device"), (1, 2, "Success")]
    posts = [Post({"method": "getTime", "params": {}}, [("reply", {"time": 1, "asked": "getTime"})],
                  CALL_FROM_DEVICE, metadata=(("requestId", "7"),))]  # fmt: skip
    return Shape("a call of a device is answered", [exported(nodes, wires)], posts)


def limit_from_attribute() -> Shape:
    get = {"clientAttributeNames": [], "sharedAttributeNames": ["limit"],
           "serverAttributeNames": [],
           "latestTsKeyNames": ["lastWeight"], "tellFailureIfAbsent": False,
           "getLatestValueWithTs": False, "fetchTo": "METADATA"}  # fmt: skip
    nodes = [("metadata.TbGetAttributesNode", "Limits", get),
             filtering("Over", both("return msg.weight > Number(metadata.shared_limit);")),
             raising("Too heavy ${shared_limit}", "MAJOR")]  # fmt: skip
    wires: list[Wire] = [(0, 1, "Success"), (1, 2, "True")]

    def prepare(site: Site) -> None:
        site.facts.of[("d1", "shared")] = {"limit": 400}

    posts = [Post({"weight": 412.5}, [("alarm", "Too heavy 400 ACTIVE_UNACK")]),
             Post({"weight": 399}, [])]  # fmt: skip
    return Shape("limit from an attribute", [exported(nodes, wires)], posts, prepare)


def counter_delta() -> Shape:
    delta = {"inputValueKey": "pulses", "outputValueKey": "delta", "useCache": True,
             "addPeriodBetweenMsgs": False, "periodValueKey": "periodInMs", "round": 2,
             "tellFailureIfDeltaIsNegative": True}  # fmt: skip
    nodes = [("metadata.CalculateDeltaNode", "Delta", delta), SAVE,
             ("action.TbLogNode", "Log RPC", js("return 'bad ' + metadata.error;"))]  # fmt: skip
    wires: list[Wire] = [(0, 1, "Success"), (0, 2, "Failure")]
    posts = [Post({"pulses": 10}, [("save", {"pulses": 10, "delta": 0})]),
             Post({"pulses": 15}, [("save", {"pulses": 15, "delta": 5})]),
             Post({"pulses": 2}, [("log", "bad pulses fell by 13")])]  # fmt: skip
    return Shape("counter with a delta", [exported(nodes, wires)], posts)


def generator() -> Shape:
    made = {"msgCount": 2, "periodInSeconds": 10, "originatorId": None, "originatorType": None,
            "jsScript": "var msg = { temp: 42, humidity: 77 };\nvar metadata = { data: 40 };\n"
            "var msgType = \"POST_TELEMETRY_REQUEST\";\n\n"
            "return { msg: msg, metadata: metadata, msgType: msgType };"}  # fmt: skip
    nodes: list[Node] = [("debug.TbMsgGeneratorNode", "Every ten seconds", made), SAVE]
    saved = ("save", {"temp": 42, "humidity": 77})
    posts = [Post(None, [saved], wait_s=10), Post(None, [saved], wait_s=10),
             Post(None, [], wait_s=10)]  # fmt: skip
    raw = exported(nodes, [(0, 1, "Success")], first=None)
    return Shape("generator without a first node", [raw], posts)


def other_chain() -> Shape:
    inner = exported(
        [filtering("Hot", js("return msg.t > 5;")), ("flow.TbRuleChainOutputNode", "Hot", {}),
         ("flow.TbRuleChainOutputNode", "Cold", {})],
        [(0, 1, "True"), (0, 2, "False")], name="Inner", is_root=False,
        externalId={"entityType": "RULE_CHAIN", "id": "0d5a"},
    )  # fmt: skip
    outer = exported(
        [("flow.TbRuleChainInputNode", "Decide", {"ruleChainId": "0d5a",
                                                  "forwardMsgToDefaultRuleChain": False}),
         SAVE, LOG],
        [(0, 1, "Hot"), (0, 2, "Cold")],
    )  # fmt: skip
    posts = [Post({"t": 7}, [("save", {"t": 7})]),
             Post({"t": 1}, [("log", "other POST_TELEMETRY_REQUEST")])]  # fmt: skip
    return Shape("a chain that comes back by outputs", [outer, inner], posts)


def old_links() -> Shape:
    raw = json.loads(exported([SWITCH, LOG], [(0, 1, "Other")], name="Root"))
    raw["metadata"]["ruleChainConnections"] = [
        {"fromIndex": 0, "targetRuleChainId": {"entityType": "RULE_CHAIN", "id": "77"},
         "additionalInfo": {"layoutX": 1, "layoutY": 2, "ruleChainNodeId": "rule-chain-node-2"},
         "type": "Post telemetry"},
    ]  # fmt: skip
    target = exported([SAVE], name="Telemetry", is_root=False,
                      id={"entityType": "RULE_CHAIN", "id": "77"})  # fmt: skip
    posts = [Post({"t": 1}, [("save", {"t": 1})]), Post({}, [("log", "other X")], "X")]
    return Shape(
        "chains linked as in the first generation", [json.dumps(raw).encode(), target], posts
    )


def change_originator() -> Shape:
    to = {"originatorSource": "ENTITY", "entityType": "ASSET", "entityNamePattern": "Room $[room]",
          "relationsQuery": {"direction": "FROM", "maxLevel": 1, "filters": []}}  # fmt: skip
    nodes = [("transform.TbChangeOriginatorNode", "To the room", to),
             transforming("Only t", both("return {msg: {t: msg.t}, metadata, msgType};")),
             SAVE_NEW]  # fmt: skip
    wires: list[Wire] = [(0, 1, "Success"), (1, 2, "Success")]
    posts = [Post({"t": 5, "room": 3}, [("save of Room 3", {"t": 5})])]
    return Shape("readings of another entity", [exported(nodes, wires)], posts)


def profile_alarms() -> Shape:
    rule = {"alarmDetails": None, "schedule": None, "condition": {
        "condition": [{"key": {"type": "TIME_SERIES", "key": "level"}, "valueType": "NUMERIC",
                       "value": None, "predicate": {"type": "NUMERIC", "operation": "LESS",
                       "value": {"defaultValue": 10, "userValue": None, "dynamicValue": None}}}],
        "spec": {"type": "DURATION", "unit": "SECONDS",
                 "predicate": {"defaultValue": 30, "userValue": None,
                               "dynamicValue": None}}}}  # fmt: skip

    def prepare(site: Site) -> None:
        from edgesync.rules.nodes.profile import alarms_of_profile

        alarms = [{"id": "1", "alarmType": "Empty", "createRules": {"MINOR": rule},
                   "clearRule": None, "propagate": False}]  # fmt: skip
        site.facts.rules = alarms_of_profile({"profileData": {"alarms": alarms}})

    nodes = [
        (
            "profile.TbDeviceProfileNode",
            "Device Profile Node",
            {"persistAlarmRulesState": False, "fetchAlarmRulesStateOnStart": False},
        ),
        SWITCH,
        SAVE,
    ]
    wires: list[Wire] = [(0, 1, "Success"), (1, 2, "Post telemetry")]
    posts = [Post({"level": 5}, [("save", {"level": 5}), ("alarm", "Empty ACTIVE_UNACK")],
                  wait_s=31)]  # fmt: skip
    return Shape("alarm rules of the device's profile", [exported(nodes, wires)], posts, prepare)


def fan_out() -> Shape:
    """Many branches from one node, as every second larger chain has."""
    kinds = ("Low", "High", "Wet", "Dry", "Loud", "Dark", "Open", "Late")
    nodes: list[Node] = [SAVE]
    wires: list[Wire] = []
    for at, kind in enumerate(kinds):
        key = kind.lower()
        filter_at = len(nodes)
        nodes.append(filtering(f"Is {kind}", js(f"return msg.{key} > {at};")))
        nodes += [raising(kind, "WARNING"), clearing(kind)]
        wires += [(0, filter_at, "Success"), (filter_at, filter_at + 1, "True"),
                  (filter_at, filter_at + 2, "False")]  # fmt: skip
    posts = [
        Post({"low": 1, "wet": 9}, [("save", {"low": 1, "wet": 9}), ("alarm", "Low ACTIVE_UNACK"),
                                    ("alarm", "Wet ACTIVE_UNACK")]),
        Post({"low": 0, "wet": 9}, [("save", {"low": 0, "wet": 9}), ("alarm", "Low CLEARED_UNACK"),
                                    ("alarm", "Wet ACTIVE_UNACK")]),
    ]  # fmt: skip
    return Shape("eight alarms side by side", [exported(nodes, wires)], posts)


def largest() -> Shape:
    """As many nodes as the largest public chain: 119."""
    nodes: list[Node] = [SWITCH]
    wires: list[Wire] = []
    for at in range(117):
        body = f"msg.n = (msg.n || 0) + {at % 3}; return {{msg: msg, metadata, msgType}};"
        nodes.append(transforming(f"Step {at}", both(body)))
        wires.append((at, at + 1, "Success" if at else "Post telemetry"))
    nodes.append(SAVE_NEW)
    wires.append((117, 118, "Success"))
    return Shape(
        "119 nodes in a row",
        [exported(nodes, wires)],
        [Post({"a": 1}, [("save", {"a": 1, "n": 117})])],
    )


def check_and_dedupe() -> Shape:
    fields = {"messageNames": ["lat", "lon"], "metadataNames": [], "checkAllKeys": True}
    nodes = [("filter.TbCheckMessageNode", "Has a place", fields),
             ("deduplication.TbMsgDeduplicationNode", "Once a minute",
              {"interval": 60, "strategy": "LAST", "maxPendingMsgs": 100, "maxRetries": 3}),
             PUSH, SAVE]  # fmt: skip
    wires: list[Wire] = [(0, 1, "True"), (1, 2, "Success"), (0, 3, "False")]
    posts = [Post({"lat": 1, "lon": 2}, []), Post({"lat": 3, "lon": 4}, []),
             Post({"lat": 3}, [("save", {"lat": 3})]),
             Post(None, [("push", {"lat": 3, "lon": 4})], wait_s=61)]  # fmt: skip
    return Shape("positions once a minute", [exported(nodes, wires)], posts)


def connection_alarm() -> Shape:
    nodes = [
        SWITCH,
        clearing("Away"),
        raising("Away", "MAJOR"),
        ("delay.TbMsgDelayNode", "Ten minutes", {"periodInSeconds": 600, "maxPendingMsgs": 10}),
    ]
    wires: list[Wire] = [(0, 1, "Connect Event"), (0, 3, "Disconnect Event"), (3, 2, "Success")]
    posts = [Post({}, [], "DISCONNECT_EVENT"),
             Post(None, [("alarm", "Away ACTIVE_UNACK")], wait_s=601),
             Post({}, [("alarm", "Away CLEARED_UNACK")], CONNECT)]  # fmt: skip
    return Shape("a device that is away", [exported(nodes, wires)], posts)


SHAPES = [
    root_like(), threshold_alarm(), converter(), label_switch(), split_gateway_payload(),
    tbel_loop(), tbel_expression(), call_on_threshold(), reply_to_device(),
    limit_from_attribute(), counter_delta(), generator(), other_chain(), old_links(),
    change_originator(), profile_alarms(), fan_out(), largest(), check_and_dedupe(),
    connection_alarm(),
]  # fmt: skip
