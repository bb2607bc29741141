"""Each node type: where messages go, what becomes of them, what is wanted done."""

import json
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from edgesync.errors import ConfigError
from edgesync.model import Action, EventType, Lane, Reading
from edgesync.rules.catalog import NODES, REFUSED
from edgesync.rules.effects import (
    DeleteAttributes,
    LogLine,
    PushEvent,
    PushReadings,
    ReplyToDevice,
    SaveReadings,
    SetAttributes,
    TellAlarm,
)
from edgesync.rules.message import (
    CALL_FROM_DEVICE,
    POST_ATTRIBUTES,
    POST_TELEMETRY,
    RELATIONS,
    Message,
    Originator,
    device_message,
    telemetry_messages,
)
from edgesync.rules.nodes.profile import alarms_of_profile
from tests.edgesync.rules.chains import (
    EDGE,
    SECOND_NS,
    START_NS,
    Node,
    Site,
    behind,
    exported,
    read_of,
)

Config = dict[str, Any]


def node(kind: str, configuration: Config, *relations: str) -> Site:
    return Site(behind((kind, "Node", configuration), *(relations or ("Success",))))


def message(kind: str = POST_TELEMETRY, data: Any = None, **metadata: str) -> Message:
    found = device_message(kind, "d1", {} if data is None else data, START_NS)
    return found.with_metadata(**metadata)


def out(site: Site, relation: str = "Success") -> Message:
    (found,) = site.came_to(relation)
    return found


def error(site: Site) -> str:
    return out(site, "Failure").metadata["error"]


# -- filters ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("expression", "relation"),
    [("msg.t > 5", "True"), ("msg.t > 50", "False"), ("msg.t", "Failure")],
)
def test_a_filter_lets_through_by_true_and_false(expression: str, relation: str) -> None:
    site = node("filter.TbJsFilterNode", {"jsScript": f"return {expression};"}, "True", "False")
    site.post(t=7)
    assert site.came_to(relation)


def test_a_switch_leaves_by_each_label_once() -> None:
    script = {"jsScript": "return ['hot', 'any', 'hot'];"}
    site = node("filter.TbJsSwitchNode", script, "hot", "any", "cold")
    site.post(t=7)
    assert [len(site.came_to(one)) for one in ("hot", "any", "cold")] == [1, 1, 0]


def test_the_type_switch_has_a_relation_for_each_type() -> None:
    relations = [*RELATIONS.values(), "Other"]
    site = node("filter.TbMsgTypeSwitchNode", {}, *relations)
    for kind in [*RELATIONS, "SOMETHING"]:
        site.send(message(kind))
    assert [len(site.came_to(one)) for one in relations] == [1] * len(relations)


def test_filters_by_type_originator_fields_and_profile() -> None:
    site = node("filter.TbMsgTypeFilterNode", {"messageTypes": ["ALARM"]}, "True", "False")
    site.send(message("ALARM"))
    site.send(message("OTHER"))
    assert site.left_by("Node") == ["True", "False"]
    site = node(
        "filter.TbOriginatorTypeFilterNode", {"originatorTypes": ["ASSET"]}, "True", "False"
    )
    site.send(message())
    site.send(message().changed(originator=Originator("ASSET", "a")))
    assert site.left_by("Node") == ["False", "True"]
    fields = {"messageNames": ["a", "b"], "metadataNames": ["deviceName"]}
    for check_all, found in ((True, "False"), (False, "True")):
        site = node(
            "filter.TbCheckMessageNode", {**fields, "checkAllKeys": check_all}, "True", "False"
        )
        site.post(a=1)
        assert site.left_by("Node") == [found]
    site = node("filter.TbDeviceTypeSwitchNode", {}, "tank", "default")
    site.facts.profiles["d1"] = "tank"
    site.post(a=1)
    assert site.left_by("Node") == ["tank"]


# -- transforms ------------------------------------------------------------------------------------


def test_a_transform_makes_another_message_or_several() -> None:
    body = "return [{msg: {v: msg.t}, metadata: {n: 1}, msgType: 'A'}, {msg: 5}];"
    site = node("transform.TbTransformMsgNode", {"jsScript": body})
    site.post(t=7)
    first, second = site.came_to("Success")
    assert (first.type, first.data, first.metadata) == ("A", {"v": 7}, {"n": "1"})
    assert (second.type, second.data) == (POST_TELEMETRY, 5)
    assert second.metadata["deviceName"] == "d1"


@pytest.mark.parametrize("body", ["5", "{x: 1}", "{msg: 1, metadata: 5}", "{msg: 1, msgType: {}}"])
def test_what_is_no_message_is_a_failure(body: str) -> None:
    site = node("transform.TbTransformMsgNode", {"jsScript": f"return {body};"})
    site.post(t=7)
    assert "the script returned" in error(site)


def test_the_originator_is_changed_by_name_relation_alarm_or_to_the_edge() -> None:
    site = node(
        "transform.TbChangeOriginatorNode",
        {"originatorSource": "ENTITY", "entityType": "ASSET", "entityNamePattern": "of $[where]"},
    )
    site.post(where="barn 3")
    assert out(site).originator == Originator("ASSET", "of barn 3")
    query = {"direction": "TO", "filters": [{"relationType": "Contains", "entityTypes": ["ASSET"]}]}
    related = {"originatorSource": "RELATED", "relationsQuery": query}
    site = node("transform.TbChangeOriginatorNode", related)
    site.facts.relations[("d1", "TO", "Contains")] = [EDGE, Originator("ASSET", "pen")]
    site.post(a=1)
    site.post(a=1, entity="d2")
    assert out(site).originator == Originator("ASSET", "pen")
    assert "no related entity" in error(site)
    with pytest.raises(ConfigError, match="which no edge knows"):
        node("transform.TbChangeOriginatorNode", {"originatorSource": "CUSTOMER"})


def test_keys_are_copied_renamed_and_deleted_in_old_and_new_exports() -> None:
    cases: list[tuple[str, Config, Any, dict[str, str]]] = [
        ("Copy", {"fromMetadata": False, "keys": ["a"]}, {"a": 1, "b": 2}, {"a": "1"}),
        ("Copy", {"copyFrom": "METADATA", "keys": ["device.*"]},
         {"a": 1, "b": 2, "deviceName": "d1", "deviceType": "default"}, {}),
        ("Rename", {"renameIn": "DATA", "renameKeysMapping": {"a": "x"}}, {"x": 1, "b": 2}, {}),
        ("Delete", {"deleteFrom": "DATA", "keys": ["b"]}, {"a": 1}, {}),
    ]  # fmt: skip
    for what, configuration, data, added in cases:
        site = node(f"transform.Tb{what}KeysNode", configuration)
        site.post(a=1, b=2)
        assert out(site).data == data
        assert added.items() <= out(site).metadata.items()


def test_a_list_is_split_and_a_member_is_chosen() -> None:
    site = node("transform.TbSplitArrayMsgNode", {})
    site.send(message(data=[{"a": 1}, {"a": 2}]))
    site.post(a=1)
    assert [one.data for one in site.came_to("Success")] == [{"a": 1}, {"a": 2}]
    assert "is no list" in error(site)
    site = node("transform.TbJsonPathNode", {"jsonPath": "$.items[1]['x y']"})
    site.send(message(data={"items": [0, {"x y": 5}]}))
    assert out(site).data == 5
    with pytest.raises(ConfigError, match="only names and positions"):
        node("transform.TbJsonPathNode", {"jsonPath": "$..a[?(@.b)]"})


# -- what is known ---------------------------------------------------------------------------------


def test_attributes_and_newest_readings_are_added_under_their_prefixes() -> None:
    configuration = {
        "clientAttributeNames": ["model"], "sharedAttributeNames": ["$[which]"],
        "serverAttributeNames": [], "latestTsKeyNames": ["t"], "tellFailureIfAbsent": True,
    }  # fmt: skip
    site = node("metadata.TbGetAttributesNode", configuration)
    site.facts.of[("d1", "client")] = {"model": "X"}
    site.facts.of[("d1", "shared")] = {"limit": 5.5}
    site.facts.points[("d1", "t")] = [(0, 7)]
    site.post(which="limit")
    expected = {"cs_model": "X", "shared_limit": "5.5", "t": "7"}
    assert expected.items() <= out(site).metadata.items()
    site.post(which="nothing")
    assert error(site) == "DEVICE:d1 has no shared attribute 'nothing'"
    site = node("metadata.TbGetAttributesNode", {**configuration, "fetchTo": "DATA"})
    site.facts = site.engine.facts = node("metadata.TbGetAttributesNode", configuration).facts
    site.facts.of[("d1", "client")], site.facts.of[("d1", "shared")] = {"model": "X"}, {"l": 1}
    site.facts.points[("d1", "t")] = [(0, 7)]
    site.post(which="l")
    assert out(site).data == {"which": "l", "cs_model": "X", "shared_l": 1, "t": 7}


def test_related_attributes_fields_and_readings() -> None:
    pen = Originator("ASSET", "pen")
    for configuration, expected in (
        ({"attrMapping": {"limit": "l"}}, "5"),
        ({"dataMapping": {"limit": "l"}, "dataToFetch": "LATEST_TELEMETRY"}, "7"),
        ({"dataMapping": {"name": "l"}, "dataToFetch": "FIELDS"}, "pen"),
    ):
        site = node("metadata.TbGetRelatedAttrNode", configuration)
        site.facts.relations[("d1", "FROM", "Contains")] = [pen]
        site.facts.of[("pen", "server")] = {"limit": 5}
        site.facts.points[("pen", "limit")] = [(0, 7)]
        site.post(a=1)
        assert out(site).metadata["l"] == expected


def test_a_delta_is_what_a_counter_has_grown() -> None:
    configuration = {
        "inputValueKey": "pulse", "outputValueKey": "delta", "addPeriodBetweenMsgs": True,
        "periodValueKey": "ms", "round": 1, "tellFailureIfDeltaIsNegative": True,
    }  # fmt: skip
    site = node("metadata.CalculateDeltaNode", configuration, "Success", "Other")
    for at_s, pulse in ((0, 10), (5, 12.26), (6, 3), (7, "4")):
        site.post(at_s, pulse=pulse)
    site.post(8, entity="d2", pulse=1)
    site.post(9, other=1)
    told = [(one.data["delta"], one.data["ms"]) for one in site.came_to("Success")]
    assert told == [(0, 0), (2.3, 5000), (1, 1000), (0, 0)]
    assert "fell by" in error(site)
    assert len(site.came_to("Other")) == 1


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"fetchMode": "FIRST"}, "1"),
        ({"fetchMode": "LAST"}, "3"),
        ({"fetchMode": "ALL", "orderBy": "DESC", "limit": 2}, [3, 2]),
        ({"fetchMode": "ALL", "aggregation": "AVG"}, [2]),
    ],
)
def test_readings_of_a_time_span_are_fetched(configuration: Config, expected: Any) -> None:
    span = {"latestTsKeyNames": ["t"], "startInterval": 30, "startIntervalTimeUnit": "SECONDS",
            "endInterval": 5, "endIntervalTimeUnit": "SECONDS"}  # fmt: skip
    site = node("metadata.TbGetTelemetryNode", {**span, **configuration})
    site.facts.points[("d1", "t")] = [
        (START_NS - at * SECOND_NS, value)
        for at, value in ((60, 0), (30, 1), (20, 2), (5, 3), (1, 4))
    ]
    site.post(a=1)
    text = out(site).metadata["t"]
    found = [one["value"] for one in json.loads(text)] if isinstance(expected, list) else text
    assert found == expected


# -- storing and telling ---------------------------------------------------------------------------


def test_readings_are_saved_and_pushed_as_they_came() -> None:
    time_ns = START_NS + 123_456_789
    readings = [
        Reading("meter", "P", 1.5, time_ns, "W"), Reading("meter", "on", True, time_ns),
        Reading("meter", "n", 1 << 60, time_ns), Reading("meter", "s", "x", time_ns),
    ]  # fmt: skip
    (one,) = telemetry_messages(readings)
    for kind, expected in (
        ("telemetry.TbMsgTimeseriesNode", SaveReadings(tuple(readings))),
        ("edge.TbMsgPushToCloudNode", PushReadings(tuple(readings), Lane.BULK)),
    ):
        site = node(kind, {})
        assert site.send(one) == [expected]
        assert out(site) is one
    site = node("edge.TbMsgPushToCloudNode", {"lane": "critical"})
    assert site.send(one) == [PushReadings(tuple(readings), Lane.CRITICAL)]


def test_readings_of_one_time_are_one_message_and_doubles_are_kept() -> None:
    readings = [read_of("a", "x", 1), read_of("b", "x", 2), read_of("a", "y", 3),
                read_of("a", "x", 4), read_of("a", "x", 5, at_s=1)]  # fmt: skip
    found = [(one.originator.name, one.data) for one in telemetry_messages(readings)]
    assert found == [("a", {"x": 1, "y": 3}), ("b", {"x": 2}), ("a", {"x": 4}), ("a", {"x": 5})]


@pytest.mark.parametrize(
    ("data", "metadata", "problem"),
    [
        ({"a": 1 << 70}, {}, "beyond 64 bits"),
        ({"": 1}, {}, "1 to 255 characters"),
        ({"a": "x" * 20_000}, {}, "16384 are the most"),
        ({"a": "\ud800"}, {}, "surrogate"),
        ([1], {}, "no object"),
        ({"a": 1}, {"ts": "soon"}, "no time"),
        ({"a": 1}, {"ts": "9" * 29}, "1678 and 2262"),
    ],
)
def test_what_the_store_would_refuse_is_a_failure_of_the_node(
    data: Any, metadata: dict[str, str], problem: str
) -> None:
    site = node("telemetry.TbMsgTimeseriesNode", {})
    site.send(message(data=data, **metadata))
    assert problem in error(site)


def test_the_time_of_a_reading_comes_from_the_message_the_metadata_or_the_edge() -> None:
    for metadata, configuration, expected in (
        ({}, {}, START_NS),
        ({"ts": "1000"}, {}, 1000 * 10**6),
        ({"ts": "1000"}, {"useServerTs": True}, START_NS + SECOND_NS),
    ):
        site = node("telemetry.TbMsgTimeseriesNode", configuration)
        site.wait(1)
        (saved,) = site.send(message(data={"a": 1}, **metadata))
        assert isinstance(saved, SaveReadings)
        assert saved.readings[0].time_ns == expected
    site = node("telemetry.TbMsgTimeseriesNode", {})
    (saved,) = site.send(message(data=[{"ts": 5, "values": {"a": 1, "b": None}}, {"a": 2}]))
    assert isinstance(saved, SaveReadings)
    assert [(one.value, one.time_ns) for one in saved.readings] == [(1, 5 * 10**6), (2, START_NS)]


def test_processing_settings_thin_out_what_is_saved() -> None:
    settings = {"type": "DEDUPLICATE", "deduplicationIntervalSecs": 10}
    for configuration, saved in (
        ({"processingSettings": settings}, [1, 0, 1]),
        ({"processingSettings": {"type": "ADVANCED", "timeseries": settings}}, [1, 0, 1]),
        ({"processingSettings": {"type": "WEBSOCKETS_ONLY"}}, [0, 0, 0]),
        ({"processingSettings": {"type": "ON_EVERY_MESSAGE"}}, [1, 1, 1]),
    ):
        site = node("telemetry.TbMsgTimeseriesNode", configuration)
        found = [len(site.post(a=1)), len(site.post(a=1))]
        site.wait(10)
        assert [*found, len(site.post(a=1))] == saved


def test_attributes_are_saved_in_their_scope_and_only_when_changed() -> None:
    site = node(
        "telemetry.TbMsgAttributesNode",
        {"scope": "SHARED_SCOPE", "notifyDevice": "true",
         "updateAttributesOnlyOnValueChange": "true"},
    )  # fmt: skip
    entity = Originator("DEVICE", "d1")
    site.facts.of[("d1", "shared")] = {"a": 1}
    assert site.send(message(POST_ATTRIBUTES, {"a": 1, "b": {"c": [2]}})) == [
        SetAttributes(entity, "shared", {"b": {"c": [2]}}, True)
    ]
    assert site.send(message(POST_ATTRIBUTES, {"a": 1})) == []
    assert site.send(message(POST_ATTRIBUTES, {"a": True}, scope="CLIENT_SCOPE")) == [
        SetAttributes(entity, "client", {"a": True}, False)
    ]
    site.post(a=1)
    assert "POST_ATTRIBUTES_REQUEST is needed" in error(site)


def test_attributes_are_deleted() -> None:
    site = node(
        "telemetry.TbMsgDeleteAttributesNode", {"scope": "SERVER_SCOPE", "keys": ["$[k]", "no"]}
    )
    site.facts.of[("d1", "server")] = {"a": 1}
    assert site.post(k="a") == [DeleteAttributes(Originator("DEVICE", "d1"), "server", ("a",))]


def test_a_change_of_attributes_is_told_to_the_root_chain() -> None:
    nodes = [
        ("filter.TbMsgTypeSwitchNode", "Switch", {}),
        ("telemetry.TbMsgAttributesNode", "Save", {"sendAttributesUpdatedNotification": True}),
        ("edge.TbMsgPushToCloudNode", "Push", {}),
    ]
    site = Site(exported(nodes, [(0, 1, "Post attributes"), (0, 2, "Attributes Updated")]))
    saved, pushed = site.send(message(POST_ATTRIBUTES, {"a": 1}))
    assert isinstance(saved, SetAttributes)
    assert isinstance(pushed, PushEvent)
    assert pushed.event.type == EventType.ATTRIBUTES
    assert json.loads(pushed.event.body) == {"scope": "server", "values": {"a": 1}}


def test_what_was_told_already_is_not_pushed_again_and_what_nobody_knows_is_a_failure() -> None:
    site = node("edge.TbMsgPushToCloudNode", {})
    for kind in ("ALARM", "CONNECT_EVENT"):
        assert site.send(message(kind)) == []
    (called,) = site.send(message(CALL_FROM_DEVICE, {"method": "m", "params": {}}))
    assert isinstance(called, PushEvent)
    assert called.event.type == EventType.RPC_REQUEST
    site.send(message("MY_TYPE"))
    assert "MY_TYPE is nothing for the hub" in error(site)


def test_log_reply_and_call() -> None:
    site = node("action.TbLogNode", {"jsScript": "return 'got ' + JSON.stringify(msg);"})
    assert site.post(a=1) == [LogLine("Root / Node", 'got {"a":1}')]
    site = node("rpc.TbSendRpcReplyNode", {"requestIdMetaDataAttribute": "requestId"})
    device = Originator("DEVICE", "d1")
    assert site.send(message(data={"t": 1}, requestId="9")) == [
        ReplyToDevice(device, "9", {"t": 1})
    ]
    site.post(a=1)
    assert "no requestId" in error(site)
    site = node("rpc.TbSendRPCRequestNode", {})
    site.post(params=1)
    assert "has no method" in error(site)


# -- alarms ----------------------------------------------------------------------------------------


def alarm_site() -> Site:
    raising = {
        "alarmType": "Hot ${deviceType}", "severity": "MAJOR", "propagate": True,
        "alarmDetailsBuildJs": "return {seen: msg.t, before: metadata.prevAlarmDetails};",
    }  # fmt: skip
    clearing = {"alarmType": "Hot ${deviceType}", "alarmDetailsBuildJs": "return {last: msg.t};"}
    nodes: list[Node] = [
        ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 6;"}),
        ("action.TbCreateAlarmNode", "Raise", raising),
        ("action.TbClearAlarmNode", "Clear", clearing),
        *(("filter.TbMsgTypeFilterNode", one, {"messageTypes": ["ALARM"]})
          for one in ("Created", "Updated", "Cleared", "False")),
    ]  # fmt: skip
    wires = [(0, 1, "True"), (0, 2, "False"), (1, 3, "Created"), (1, 4, "Updated"),
             (2, 5, "Cleared"), (2, 6, "False")]  # fmt: skip
    return Site(exported(nodes, wires))


def bodies(effects: Any) -> list[tuple[int, int, Any]]:
    return [
        (one.action, one.alarm.lane, json.loads(msgspec.json.encode(one.alarm.told())))
        for one in effects
        if isinstance(one, TellAlarm)
    ]


def test_an_alarm_begins_goes_on_and_ends_and_is_told_when_something_changed() -> None:
    site = alarm_site()
    assert site.post(0, t=5) == []
    ((action, lane, body),) = bodies(site.post(1, t=7))
    assert (action, lane) == (Action.ADDED, Lane.CRITICAL)
    assert (body["type"], body["severity"], body["status"]) == (
        "Hot default", "MAJOR", "ACTIVE_UNACK",
    )  # fmt: skip
    assert body["details"] == {"seen": 7}
    ((action, _, second),) = bodies(site.post(2, t=8))
    assert (action, second["id"]) == (Action.UPDATED, body["id"])
    assert second["details"] == {"seen": 8, "before": '{"seen":7}'}
    ((action, _, third),) = bodies(site.post(3, t=4))
    assert (action, third["status"], third["details"]) == (
        Action.ALARM_CLEAR, "CLEARED_UNACK", {"last": 4},
    )  # fmt: skip
    assert third["endTs"] - third["startTs"] == 2000
    ((_, _, again),) = bodies(site.post(4, t=9))
    assert again["id"] != body["id"]
    assert [len(site.came_to(one)) for one in ("Created", "Updated", "Cleared", "False")] == [
        2, 1, 1, 1,
    ]  # fmt: skip
    assert site.came_to("Created")[0].metadata["isNewAlarm"] == "true"
    assert site.came_to("Created")[0].type == "ALARM"


def test_an_alarm_that_is_only_confirmed_is_not_told_again() -> None:
    raising = {"alarmType": "Hot", "severity": "WARNING", "alarmDetailsBuildJs": "return {};"}
    site = node("action.TbCreateAlarmNode", raising, "Created", "Updated")
    told = [len(bodies(site.post(at, t=7))) for at in range(100)]
    assert told == [1] + [0] * 99
    assert len(site.came_to("Updated")) == 99
    assert bodies(site.post(1, entity="d2", t=7))[0][1] == Lane.NORMAL


def test_an_alarm_cleared_without_a_script_keeps_its_details_and_none_is_told_twice() -> None:
    raising = {"alarmType": "Hot", "alarmDetailsBuildJs": "return {seen: msg.t};"}
    nodes: list[Node] = [
        ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 6;"}),
        ("action.TbCreateAlarmNode", "Raise", {"severity": "MAJOR", **raising}),
        ("action.TbClearAlarmNode", "Clear", {"alarmType": "Hot"}),
        ("filter.TbMsgTypeFilterNode", "False", {"messageTypes": ["ALARM"]}),
    ]
    site = Site(exported(nodes, [(0, 1, "True"), (0, 2, "False"), (2, 3, "False")]))
    assert site.post(0, t=1) == []
    site.post(1, t=7)
    ((action, _, body),) = bodies(site.post(2, t=1))
    assert (action, body["details"]) == (Action.ALARM_CLEAR, {"seen": 7})
    assert site.post(3, t=1) == []
    assert len(site.came_to("False")) == 2


def test_severity_from_the_message_and_alarms_from_the_message() -> None:
    raising = {"alarmType": "Hot", "severity": "$[how]", "dynamicSeverity": True}
    site = node("action.TbCreateAlarmNode", raising, "Created", "Updated")
    assert bodies(site.post(how="minor"))[0][2]["severity"] == "MINOR"
    assert bodies(site.post(how="critical"))[0][:2] == (Action.UPDATED, Lane.CRITICAL)
    site.post(how="loud")
    assert "'LOUD' is none of" in error(site)
    site = node("action.TbCreateAlarmNode", {"useMessageAlarmData": True}, "Created")
    told = bodies(site.post(type="Wet", severity="MINOR", details={"a": 1}))[0][2]
    assert (told["type"], told["severity"], told["details"]) == ("Wet", "MINOR", {"a": 1})


def test_alarm_status_filter() -> None:
    states = {"alarmStatusList": ["CLEARED_ACK", "CLEARED_UNACK"]}
    site = node("filter.TbCheckAlarmStatusNode", states, "True", "False")
    site.post(status="CLEARED_ACK")
    site.post(status="ACTIVE_UNACK")
    assert site.left_by("Node") == ["True", "False"]


def numeric(operation: str, limit: float, **more: Any) -> Config:
    return {"key": {"type": "TIME_SERIES", "key": "t"}, "valueType": "NUMERIC",
            "predicate": {"type": "NUMERIC", "operation": operation,
                          "value": {"defaultValue": limit}, **more}}  # fmt: skip


def rule(*conditions: Config, **spec: Any) -> Config:
    return {"condition": {"condition": list(conditions), "spec": spec or {"type": "SIMPLE"}},
            "alarmDetails": "t is $[t]"}  # fmt: skip


RELATIONS_OF_RULES = (
    "Success", "Alarm Created", "Alarm Updated", "Alarm Severity Updated", "Alarm Cleared",
)  # fmt: skip


@pytest.fixture(params=["profile", "own"])
def rules_site(request: pytest.FixtureRequest) -> Callable[[Config], Site]:
    """Rules in the device's profile, and the same rules in a node of its own."""

    def made(alarm: Config) -> Site:
        if request.param == "own":
            return node("edgesync.AlarmRulesNode", {"alarms": [alarm]}, *RELATIONS_OF_RULES)
        site = node("profile.TbDeviceProfileNode", {}, *RELATIONS_OF_RULES)
        site.facts.rules = alarms_of_profile({"profileData": {"alarms": [alarm]}})
        return site

    return made


Rules = Callable[[Config], Site]


def happened(site: Site) -> list[str]:
    return [one.removeprefix("Alarm ") for one in site.left_by("Node") if one != "Success"]


def test_alarm_rules_of_a_profile_by_severity_and_with_a_rule_to_clear(rules_site: Rules) -> None:
    site = rules_site(
        {
            "alarmType": "Hot",
            "createRules": {"WARNING": rule(numeric("GREATER", 5)),
                            "CRITICAL": rule(numeric("GREATER", 10))},
            "clearRule": rule(numeric("LESS_OR_EQUAL", 3)),
        }
    )  # fmt: skip
    told = [bodies(site.post(at, t=t)) for at, t in enumerate((4, 6, 7, 12, 6, 4, 3, 2))]
    assert happened(site) == [
        "Created", "Updated", "Severity Updated", "Severity Updated", "Cleared",
    ]  # fmt: skip
    assert [len(one) for one in told] == [0, 1, 1, 1, 1, 0, 1, 0]
    assert told[1][0][2]["details"] == {"data": "t is 6"}
    assert len(site.came_to("Success")) == 8


def test_hysteresis_keeps_an_alarm_and_clears_it_by_itself(rules_site: Rules) -> None:
    hot = rule(numeric("GREATER", 10, hysteresis=2))
    site = rules_site({"alarmType": "Hot", "createRules": {"MAJOR": hot}})
    for at, t in enumerate((9, 11, 9, 10.5, 8.1, 8, 9.9, 10.1)):
        site.post(at, t=t)
    assert [one for one in happened(site) if one != "Updated"] == ["Created", "Cleared", "Created"]


@pytest.mark.parametrize("spec", [{"value": 30}, {"predicate": {"defaultValue": 30}}])
def test_a_condition_must_hold_for_its_time(spec: Config, rules_site: Rules) -> None:
    hot = rule(numeric("GREATER", 10), type="DURATION", unit="SECONDS", **spec)
    alarm = {"alarmType": "Hot", "createRules": {"MAJOR": hot}}
    site = rules_site(alarm)
    for at, t in ((0, 11), (20, 12), (25, 9), (26, 11), (55, 12)):
        site.post(at, t=t)
    assert happened(site) == []
    site.post(56, t=12)
    assert happened(site) == ["Created"]
    silent = rules_site(alarm)
    silent.post(0, t=11)
    silent.wait(29)
    assert happened(silent) == []
    ((_, _, told),) = bodies(silent.wait(1.5))
    assert told["startTs"] == START_NS // 10**6 + 30_000


def test_a_condition_must_hold_so_many_times(rules_site: Rules) -> None:
    hot = rule(numeric("GREATER", 10), type="REPEATING", count=3)
    site = rules_site({"alarmType": "Hot", "createRules": {"MAJOR": hot}})
    for at, t in enumerate((11, 12, 9, 11, 12)):
        site.post(at, t=t)
    assert happened(site) == []
    site.post(9, t=13)
    assert happened(site) == ["Created"]


def test_conditions_on_texts_booleans_attributes_and_several_at_once(rules_site: Rules) -> None:
    door = {"key": {"type": "TIME_SERIES", "key": "door"}, "valueType": "BOOLEAN",
            "predicate": {"type": "BOOLEAN", "operation": "EQUAL",
                          "value": {"defaultValue": True}}}  # fmt: skip
    mode = {"key": {"type": "ATTRIBUTE", "key": "mode"}, "valueType": "STRING",
            "predicate": {"type": "COMPLEX", "operation": "OR", "predicates": [
                {"type": "STRING", "operation": "STARTS_WITH", "value": {"defaultValue": "COOL"},
                 "ignoreCase": True},
                {"type": "STRING", "operation": "IN",
                 "value": {"defaultValue": "a, b"}}]}}  # fmt: skip
    limit = numeric("GREATER", 99)
    limit["predicate"]["value"]["dynamicValue"] = {"sourceType": "CURRENT_DEVICE",
                                                   "sourceAttribute": "limit"}  # fmt: skip
    site = rules_site({"alarmType": "Open", "createRules": {"MINOR": rule(door, mode, limit)}})
    site.facts.of[("d1", "server")] = {"mode": "cooling", "limit": 5}
    site.post(0, door=True)
    assert happened(site) == []
    site.post(1, t=6)
    assert happened(site) == ["Created"]
    site.facts.of[("d1", "server")] = {"mode": "heating", "limit": 5}
    site.post(2, t=7)
    assert happened(site) == ["Created"]


# -- by the clock ----------------------------------------------------------------------------------


def test_a_generator_makes_messages_of_the_edge() -> None:
    script = "return {msg: {n: (prevMsg.n || 0) + 1}, metadata: {}, msgType: 'TICK'};"
    site = node(
        "debug.TbMsgGeneratorNode", {"msgCount": 3, "periodInSeconds": 2, "jsScript": script}
    )
    for _ in range(5):
        site.wait(2)
    made = site.came_to("Success")
    assert [one.data["n"] for one in made] == [1, 2, 3]
    assert (made[0].originator, made[0].type) == (EDGE, "TICK")


def test_a_delay_lets_messages_go_on_later_and_holds_so_many() -> None:
    site = node("delay.TbMsgDelayNode", {"periodInSeconds": 10, "maxPendingMsgs": 2})
    for number in range(3):
        site.post(number, n=number)
    assert "is the most" in error(site)
    site.wait(9)
    assert site.came_to("Success") == []
    site.wait(1)
    assert [one.data["n"] for one in site.came_to("Success")] == [0, 1]
    pattern = {"useMetadataPeriodInSecondsPatterns": True, "periodInSecondsPattern": "$[s]"}
    site = node("delay.TbMsgDelayNode", pattern)
    site.post(s=3)
    site.post(s="soon")
    site.wait(3)
    assert out(site).data == {"s": 3}
    assert "'soon'" in error(site)


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        ({"strategy": "FIRST"}, [{"n": 0}, {"n": 9}]),
        ({"strategy": "LAST"}, [{"n": 2}, {"n": 9}]),
        ({"strategy": "ALL", "outMsgType": "X"}, [[0, 1, 2], [9]]),
    ],
)
def test_one_of_several_messages_in_an_interval(configuration: Config, expected: Any) -> None:
    site = node("deduplication.TbMsgDeduplicationNode", {"interval": 60, **configuration})
    for number in range(3):
        site.post(number, n=number)
    site.post(0, entity="d2", n=9)
    site.wait(60)
    found = [one.data for one in site.came_to("Success")]
    if configuration["strategy"] == "ALL":
        found = [[item["msg"]["n"] for item in one] for one in found]
    assert found == expected


# -- less to send ----------------------------------------------------------------------------------


def test_a_deadband_lets_through_what_has_changed() -> None:
    configuration = {"deadband": 0.5, "deadbands": {"p": "10%"}, "maxAgeSeconds": 60}
    site = node("edgesync.DeadbandNode", configuration, "Success", "Unchanged")
    messages: list[dict[str, Any]] = [
        {"t": 5.0, "p": 100}, {"t": 5.4, "p": 109}, {"t": 5.5, "p": 105}, {"t": 5.4, "p": 111},
        {"on": True}, {"on": True},
    ]  # fmt: skip
    for at, data in enumerate(messages):
        site.post(at, **data)
    passed = [one.data for one in site.came_to("Success")]
    assert passed == [{"t": 5.0, "p": 100}, {"t": 5.5}, {"p": 111}, {"on": True}]
    assert len(site.came_to("Unchanged")) == 2
    site.post(64, t=5.4, p=111)
    assert site.came_to("Success")[-1].data == {"t": 5.4, "p": 111}
    with pytest.raises(ConfigError, match="deadband"):
        node("edgesync.DeadbandNode", {"deadband": "much"})


@pytest.mark.feature("S18")
def test_a_thousand_messages_become_one_a_minute() -> None:
    """The seed's own example."""
    configuration = {"intervalSeconds": 60, "functions": ["AVG", "MIN", "MAX", "COUNT"]}
    nodes = [
        ("edgesync.WindowNode", "Window", configuration),
        ("edge.TbMsgPushToCloudNode", "Up", {}),
    ]
    site = Site(exported(nodes, [(0, 1, "Success")]))
    effects = [one for at in range(1000) for one in site.post(at * 0.06, t=at % 10, on=True)]
    assert effects == []
    (pushed,) = site.wait(62)
    assert isinstance(pushed, PushReadings)
    assert {one.key: pytest.approx(one.value) for one in pushed.readings} == {
        "t_avg": 4.5, "t_min": 0, "t_max": 9, "t_count": 1000,
    }  # fmt: skip
    assert {one.time_ns for one in pushed.readings} == {START_NS - START_NS % (60 * SECOND_NS)}


def test_windows_end_by_later_messages_and_late_ones_leave_by_late() -> None:
    site = node("edgesync.WindowNode", {"intervalSeconds": 10}, "Success", "Late")
    for at, t in ((0, 1), (9, 3), (11, 5), (8, 7), (21, 9)):
        site.post(at, t=t)
    closed = [(one.time_ns, one.data) for one in site.came_to("Success")]
    assert closed == [(START_NS, {"t": 2.0}), (START_NS + 10 * SECOND_NS, {"t": 5.0})]
    assert site.came_to("Late")[0].data == {"t": 7}
    site.wait(40)
    assert len(site.came_to("Success")) == 3
    site.post(22, t=1)
    assert len(site.came_to("Late")) == 2


# -- the catalog -----------------------------------------------------------------------------------


def test_the_fifteen_types_that_make_four_fifths_of_public_nodes_and_the_next_are_there() -> None:
    first = """transform.TbTransformMsgNode filter.TbJsFilterNode action.TbCreateAlarmNode
        action.TbClearAlarmNode action.TbLogNode telemetry.TbMsgAttributesNode
        telemetry.TbMsgTimeseriesNode flow.TbRuleChainInputNode rpc.TbSendRPCRequestNode
        filter.TbMsgTypeSwitchNode filter.TbJsSwitchNode metadata.TbGetAttributesNode
        debug.TbMsgGeneratorNode profile.TbDeviceProfileNode edge.TbMsgPushToCloudNode"""
    then = """transform.TbChangeOriginatorNode rpc.TbSendRPCReplyNode
        rest.TbRestApiCallNode metadata.CalculateDeltaNode
        filter.TbOriginatorTypeFilterNode filter.TbMsgTypeFilterNode
        metadata.TbGetTelemetryNode metadata.TbGetRelatedAttributeNode filter.TbCheckMessageNode
        flow.TbRuleChainOutputNode"""
    assert set(first.split()) <= NODES.keys()
    assert set(then.split()) <= NODES.keys()
    assert not NODES.keys() & REFUSED.keys()
