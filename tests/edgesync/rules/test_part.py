"""Rules in a node: what chains say is what is stored, durable before it is acknowledged."""

import contextlib
import json
import time
from collections.abc import AsyncIterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.lowlevel

from edgesync import EdgeNode, Event, EventType, Reading
from edgesync._native import batch
from edgesync.demo.cable import open_cable
from edgesync.entities.alarms import Alarm, all_alarms, plan_clear
from edgesync.entities.view import SpaceView
from edgesync.errors import StoreFull, TooManySeries
from edgesync.model import Action, EntityType, Lane, RecordKind
from edgesync.rules.defaults import default_chain
from edgesync.serve.http import health, metrics
from edgesync.sources.sink import GatheringSink
from edgesync.status import RulesStatus
from tests.edgesync.rules.chains import Node, exported
from tests.sites import Sites, settle, until

PATIENCE_S = 30
LOG: Node = ("action.TbLogNode", "Log", {"jsScript": "return 'x';"})
SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
PUSH: Node = ("edge.TbMsgPushToCloudNode", "Push", {"scope": "SERVER_SCOPE"})


def site(folder: Path, *files: bytes, **rules: Any) -> dict[str, Any]:
    """Write chains, and return settings that use them."""
    place = folder / "rules"
    place.mkdir(exist_ok=True)
    for index, raw in enumerate(files):
        (place / f"{index}.json").write_bytes(raw)
    return {
        "edge": {"name": "barn", "data_dir": "data"},
        "rules": {"chains": "rules", **rules},
        "http": {"port": 0},
    }


@contextlib.asynccontextmanager
async def opened(folder: Path, settings: dict[str, Any], **options: Any) -> AsyncIterator[EdgeNode]:
    with trio.fail_after(PATIENCE_S):
        async with EdgeNode(settings, folder=folder, **options) as node:
            yield node


def rules_of(node: EdgeNode) -> RulesStatus:
    found = node.status().rules
    assert found is not None
    return found


def sent(node: EdgeNode, lane: Lane = Lane.BULK) -> list[tuple[str, Any]]:
    """Return key and value of the readings that a lane holds for the hub."""
    found: list[tuple[str, Any]] = []
    state = node.store.state(lane)
    for record in batch.records(node.store.read(lane, state.trimmed + 1).data):
        if record.kind == RecordKind.READINGS:
            _, _, ids, values = batch.parse_readings(record.body)
            for number, value in zip(ids, values, strict=True):
                series = node.store.series.get(number)
                # Between the commit and what is noted of it, a new series has no name here.
                found.append((series.key if series else "", value))
    return found


def told(node: EdgeNode, kind: EventType) -> list[Any]:
    found = [one for one in node.events() if one.type == kind.name]
    return [json.loads(one.body) for one in reversed(found)]


def reading(key: str, value: Any, entity: str = "meter", unit: str = "") -> Reading:
    return Reading(entity, key, value, time.time_ns(), unit)


@pytest.mark.feature("S18")
async def test_the_default_chain_saves_and_sends_what_comes(tmp_path: Path) -> None:
    settings = site(tmp_path, default_chain())
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("P", 1.5, unit="W"), reading("E", 7), reading("on", True)])
        assert sorted(sent(node)) == [("E", 7), ("P", 1.5), ("on", True)]
        assert [(one.key, one.value, one.unit) for one in node.latest()] == [
            ("E", 7, ""), ("P", 1.5, "W"), ("on", True, ""),
        ]  # fmt: skip
        kept = node.points.find("meter", "P")
        assert kept is not None
        assert [point.value for point in node.points.readings(kept)] == [1.5]
        status = rules_of(node)
        assert (status.messages, status.unhandled, status.problem) == (3, 0, "")
        saved = next(one for one in status.nodes if one.node == "Save Timeseries")
        assert saved.messages == 3


async def test_what_no_node_saves_or_pushes_is_neither_saved_nor_sent(tmp_path: Path) -> None:
    warm: Node = ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 5;"})
    settings = site(tmp_path, exported([warm, SAVE, PUSH], [(0, 1, "True"), (0, 2, "False")]))
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 7)])
        await node.ingest([reading("t", 3)])
        kept = node.points.find("meter", "t")
        assert kept is not None
        assert [point.value for point in node.points.readings(kept)] == [7]
        assert sent(node) == [("t", 3)]


async def test_readings_go_by_the_lane_that_the_node_names(tmp_path: Path) -> None:
    push: Node = ("edge.TbMsgPushToCloudNode", "Push", {"lane": "critical"})
    async with opened(tmp_path, site(tmp_path, exported([push]))) as node:
        await node.ingest([reading("t", 7.5)])
        assert sent(node, Lane.CRITICAL) == [("t", 7.5)]
        assert sent(node) == []


async def test_attributes_of_a_device_are_what_the_chain_makes_of_them(tmp_path: Path) -> None:
    async with opened(tmp_path, site(tmp_path, default_chain())) as node:
        for values in ({"model": "X", "fw": 2}, {"model": "X", "fw": 3}):
            body = json.dumps({"scope": "client", "values": values}).encode()
            event = Event(
                type=EventType.ATTRIBUTES, action=Action.ATTRIBUTES_UPDATED, body=body,
                entity_type=EntityType.DEVICE, entity_id="scale", time_ns=time.time_ns(),
            )  # fmt: skip
            await node.emit(event)
        assert told(node, EventType.ATTRIBUTES) == [
            {"scope": "client", "values": {"model": "X", "fw": fw}} for fw in (2, 3)
        ]
    get: Node = ("metadata.TbGetAttributesNode", "Get", {"clientAttributeNames": ["fw"],
                                                         "fetchTo": "DATA"})  # fmt: skip
    settings = site(tmp_path, exported([get, PUSH], [(0, 1, "Success")]))
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("w", 1, entity="scale")])
        assert sent(node)[-2:] == [("w", 1), ("cs_fw", 3)]


async def test_an_alarm_is_told_and_remembered_over_a_restart(tmp_path: Path) -> None:
    warm: Node = ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 5;"})
    kind = {"alarmType": "Hot", "severity": "CRITICAL"}
    nodes = [warm, ("action.TbCreateAlarmNode", "Raise", kind),
             ("action.TbClearAlarmNode", "Clear", {"alarmType": "Hot"})]  # fmt: skip
    settings = site(tmp_path, exported(nodes, [(0, 1, "True"), (0, 2, "False")]))
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 7)])
        await node.ingest([reading("t", 8)])
        (alarm,) = node.entities.alarms()
        assert (alarm.type, alarm.status) == ("Hot", "ACTIVE_UNACK")
        await until(lambda: statuses(node) == ["ACTIVE_UNACK"])
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 9)])
        await node.ingest([reading("t", 1)])
        assert [one.status for one in node.entities.alarms()] == ["CLEARED_UNACK"]
        await until(lambda: statuses(node) == ["ACTIVE_UNACK", "CLEARED_UNACK"])


async def test_an_alarm_that_somebody_else_clears_may_begin_anew(tmp_path: Path) -> None:
    """And chains hear of it."""
    kind = {"alarmType": "Hot", "severity": "MAJOR"}
    nodes: list[Node] = [
        ("filter.TbMsgTypeSwitchNode", "Switch", {}),
        ("action.TbCreateAlarmNode", "Raise", kind),
        ("action.TbLogNode", "Acknowledged", {"jsScript": "return 'x';"}),
        ("action.TbLogNode", "Cleared", {"jsScript": "return 'x';"}),
    ]
    wires = [(0, 1, "Post telemetry"), (0, 2, "Alarm Acknowledged"), (0, 3, "Alarm Cleared")]
    async with opened(tmp_path, site(tmp_path, exported(nodes, wires))) as node:
        await node.ingest([reading("t", 7)])
        (alarm,) = node.entities.alarms()
        node.entities.ack_alarm(alarm.id, "Ann")
        await until(lambda: counted(node, "Acknowledged") == 1)
        node.entities.clear_alarm(alarm.id, "Ann")
        await until(lambda: counted(node, "Cleared") == 1)
        await node.ingest([reading("t", 8)])
        (again,) = node.entities.alarms()
        assert (again.status, again.n) == ("ACTIVE_UNACK", 2)
        assert [counted(node, name) for name in ("Acknowledged", "Cleared")] == [1, 1]


RAISING: tuple[Node, ...] = (
    ("filter.TbMsgTypeSwitchNode", "Switch", {}),
    ("action.TbCreateAlarmNode", "Raise", {"alarmType": "Hot", "severity": "MAJOR"}),
    ("action.TbLogNode", "Created", {"jsScript": "return 'x';"}),
    ("action.TbLogNode", "Updated", {"jsScript": "return 'x';"}),
)
RAISED = exported(RAISING, [(0, 1, "Post telemetry"), (1, 2, "Created"), (1, 3, "Updated")])


async def test_two_who_raise_an_alarm_at_once_raise_one(tmp_path: Path) -> None:
    async with opened(tmp_path, site(tmp_path, RAISED)) as node:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.ingest, [reading("t", 7)])
            nursery.start_soon(node.ingest, [reading("t", 8)])
        assert [counted(node, name) for name in ("Created", "Updated")] == [1, 1]
        assert [one.n for one in node.entities.alarms(is_active=True)] == [1]
        await until(lambda: statuses(node) == ["ACTIVE_UNACK"])


async def test_an_alarm_that_the_hub_clears_while_the_edge_is_away_may_begin_anew(
    tmp_path: Path,
) -> None:
    """Cleared on both sides, and the next value that is too high raises another."""
    sites = Sites(tmp_path)
    rules = site(tmp_path, RAISED)["rules"] | {"chains": str(tmp_path / "rules")}
    host, port = sites.address.removeprefix("tcp://").split(":")
    async with open_cable((host, int(port))) as cable, sites.hub() as cells:
        sites.address = f"tcp://{cable.address[0]}:{cable.address[1]}"

        def at_hub() -> Alarm:
            (found,) = all_alarms(SpaceView(cells.space, cells.now_ms), "barn")
            return found

        async with sites.node("barn", rules=rules) as node:
            await node.ingest([reading("t", 7)])
            await settle(node)
            cable.cut()
            await until(lambda: node.status().link.state in ("Disconnected", "Queuing"))
            await sites.answers.run_commands(plan_clear(at_hub(), cells.now_ms(), "ann"))
            await node.ingest([reading("t", 8)])  # it lasts, and the edge cannot know
            assert [one.status for one in node.entities.alarms()] == ["ACTIVE_UNACK"]
            cable.plug()
            await settle(node)
            assert [one.status for one in node.entities.alarms()] == ["CLEARED_UNACK"]
            assert (at_hub().n, at_hub().status) == (1, "CLEARED_UNACK")
            await node.ingest([reading("t", 9)])
            await settle(node)
            (here,) = node.entities.alarms()
            assert (here.n, here.status) == (at_hub().n, at_hub().status) == (2, "ACTIVE_UNACK")
            assert [counted(node, name) for name in ("Created", "Updated")] == [2, 1]


async def test_what_the_hub_says_of_entities_is_here_before_a_chain_asks(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    rules = site(tmp_path, RAISED)["rules"] | {"chains": str(tmp_path / "rules")}
    async with sites.hub(), sites.node("barn", rules=rules) as node:
        await until(lambda: (keys := node.status().keys) is not None and keys.state == "idle")


async def test_attributes_and_relations_are_those_of_the_entities(tmp_path: Path) -> None:
    save: Node = ("telemetry.TbMsgAttributesNode", "Save", {"scope": "SHARED_SCOPE"})
    get: Node = (
        "metadata.TbGetRelatedAttributeNode", "Get",
        {"dataMapping": {"limit": "limit"}, "fetchTo": "DATA",
         "relationsQuery": {"direction": "TO", "filters": [{"relationType": "Contains"}]}},
    )  # fmt: skip
    nodes = [("filter.TbMsgTypeSwitchNode", "Switch", {}), save, get, PUSH]
    wires = [(0, 1, "Post attributes"), (0, 2, "Post telemetry"), (2, 3, "Success")]
    async with opened(tmp_path, site(tmp_path, exported(nodes, wires))) as node:
        node.entities.save("asset", "pen")
        node.entities.set_attributes("asset", "pen", {"limit": 400}, "server")
        node.entities.relate(("asset", "pen"), "Contains", ("device", "scale"))
        body = json.dumps({"scope": "client", "values": {"setpoint": {"low": 5}}}).encode()
        event = Event(
            type=EventType.ATTRIBUTES, action=Action.ATTRIBUTES_UPDATED, body=body,
            entity_type=EntityType.DEVICE, entity_id="scale", time_ns=time.time_ns(),
        )  # fmt: skip
        await node.emit(event)
        assert node.entities.attributes("device", "scale", "shared") == {"setpoint": {"low": 5}}
        await node.ingest([reading("w", 1.5, entity="scale")])
        assert dict(sent(node)) == {"w": 1.5, "limit": 400}


@pytest.mark.parametrize("direction", ["FROM", "TO"])
async def test_a_related_node_reads_no_relations_of_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, direction: str
) -> None:
    query = {"direction": direction, "filters": [{"relationType": "Contains"}]}
    get: Node = ("metadata.TbGetRelatedAttributeNode", "Get",
                 {"dataMapping": {"limit": "limit"}, "fetchTo": "DATA",
                  "relationsQuery": query})  # fmt: skip
    read: list[bytes] = []
    fields = SpaceView.fields

    def noting(view: SpaceView, key: bytes) -> dict[bytes, bytes]:
        read.append(key)
        return fields(view, key)

    async with opened(tmp_path, site(tmp_path, exported([get, PUSH], [(0, 1, "Success")]))) as node:
        scale, pen = ("device", "scale"), ("asset", "pen")
        node.entities.set_attributes(*pen, {"limit": 400}, "server")
        ends = (scale, pen) if direction == "FROM" else (pen, scale)
        node.entities.relate(ends[0], "Contains", ends[1])
        for n in range(50):
            node.entities.relate(("asset", f"pen {n}"), "Contains", ("device", f"scale {n}"))
        await node.ingest([reading("w", 1, entity="scale")])
        monkeypatch.setattr(SpaceView, "fields", noting)
        await node.ingest([reading("w", 2, entity="scale")])
        assert dict(sent(node)) == {"w": 2, "limit": 400}
        assert len([key for key in read if key.startswith(b"@/relation/")]) == 1


def statuses(node: EdgeNode) -> list[str]:
    return [one["status"] for one in told(node, EventType.ALARM)]


def counted(node: EdgeNode, name: str) -> int:
    return next(one.messages for one in rules_of(node).nodes if one.node == name)


async def test_a_window_outlives_a_restart_without_a_reading_lost_or_doubled(
    tmp_path: Path,
) -> None:
    window: Node = (
        "edgesync.WindowNode", "Window", {"intervalSeconds": 3600, "functions": ["COUNT", "SUM"]},
    )  # fmt: skip
    settings = site(tmp_path, exported([window, PUSH], [(0, 1, "Success")]))
    base = 1_790_000_000 // 3600 * 3600 * 10**9
    times = [base + at * 10**9 for at in range(40)]
    for part in (times[:15], times[15:30], times[30:]):
        async with opened(tmp_path, settings) as node:
            for time_ns in part:
                await node.ingest([Reading("meter", "t", 2.0, time_ns)])
    async with opened(tmp_path, settings) as node:
        await node.ingest([Reading("meter", "t", 2.0, base + 3601 * 10**9)])
        assert sent(node) == [("t_count", 40), ("t_sum", 80.0)]


async def test_a_store_that_is_full_takes_nothing_and_nodes_remember_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    delta: Node = (
        "metadata.CalculateDeltaNode", "Delta", {"inputValueKey": "a", "outputValueKey": "d"},
    )  # fmt: skip
    settings = site(tmp_path, exported([delta, PUSH], [(0, 1, "Success")]))
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("a", 10)])
        submit = node.store.submit

        async def full(write: Any) -> Any:
            raise StoreFull(used_bytes=9, limit_bytes=10)

        monkeypatch.setattr(node.store, "submit", full)
        with pytest.raises(StoreFull):
            await node.ingest([reading("a", 50)])
        monkeypatch.setattr(node.store, "submit", submit)
        await node.ingest([reading("a", 12)])
        assert sent(node) == [("a", 10), ("d", 0), ("a", 12), ("d", 2)]


async def test_chains_that_changed_go_on_and_mistakes_change_nothing(tmp_path: Path) -> None:
    settings = site(tmp_path, exported([LOG]))
    path = tmp_path / "rules" / "0.json"
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 1)])
        path.write_bytes(b"{}")
        await until(lambda: "is no export" in rules_of(node).problem)
        await node.ingest([reading("t", 2)])
        assert [(one.node, one.messages) for one in rules_of(node).nodes] == [("Log", 2)]
        path.write_bytes(exported([LOG, PUSH], [(0, 1, "Success")]))
        await until(lambda: len(rules_of(node).nodes) == 2)
        await node.ingest([reading("t", 3)])
        assert sent(node) == [("t", 3)]
        assert [(one.node, one.messages) for one in rules_of(node).nodes] == [
            ("Log", 3),
            ("Push", 1),
        ]


async def test_an_edge_without_good_chains_stores_and_sends_everything(tmp_path: Path) -> None:
    settings = site(tmp_path, b"not json")
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 1)])
        assert sent(node) == [("t", 1)]
        assert "is not JSON" in rules_of(node).problem
        (tmp_path / "rules" / "0.json").write_bytes(exported([LOG]))
        await until(lambda: rules_of(node).root == "Root")
        await node.ingest([reading("t", 2)])
        assert sent(node) == [("t", 1)]


@pytest.mark.setting("rules.chains", "rules.root")
async def test_an_edge_without_good_chains_rests_whatever_those_before_have_left(
    tmp_path: Path,
) -> None:
    window: Node = ("edgesync.WindowNode", "Window", {"intervalSeconds": 1})
    wires = [(0, 1, "Post telemetry"), (0, 4, "Post telemetry")]
    async with opened(tmp_path, site(tmp_path, exported([*RAISING, window], wires))) as node:
        await node.ingest([reading("t", 7)])
    settings = site(tmp_path, b"no chains")
    later_ns = 3600 * 10**9
    async with opened(tmp_path, settings, wall_ns=lambda: time.time_ns() + later_ns) as node:
        part = node.part("rules")
        assert part._facts.has_news
        assert part._state.next_due_ns <= time.monotonic_ns()
        assert part._left_s() > 0


async def test_the_chains_and_the_root_of_the_settings_are_used(tmp_path: Path) -> None:
    files = [exported([LOG], name="A"), exported([PUSH], name="B")]
    async with opened(tmp_path, site(tmp_path, *files, root="B")) as node:
        await node.ingest([reading("t", 1)])
        assert (rules_of(node).root, rules_of(node).chains) == ("B", ("A", "B"))
        assert [one.messages for one in rules_of(node).nodes] == [0, 1]


async def test_a_generator_and_profiles_of_devices_work_in_a_node(tmp_path: Path) -> None:
    tick: Node = (
        "debug.TbMsgGeneratorNode", "Tick",
        {"msgCount": 2, "periodInSeconds": 0.05,
         "jsScript": "return {msg: {n: 1}, metadata: {}, msgType: 'POST_TELEMETRY_REQUEST'};"},
    )  # fmt: skip
    async with opened(
        tmp_path, site(tmp_path, exported([tick, PUSH], [(0, 1, "Success")]))
    ) as node:
        await until(lambda: len(sent(node)) == 2)
    hot = {"condition": {"condition": [
        {"key": {"key": "t"}, "predicate": {"operation": "GREATER", "value": {"defaultValue": 5}}}
    ]}}  # fmt: skip
    profile = {"name": "tank", "profileData": {"alarms": [
        {"alarmType": "Hot", "createRules": {"MAJOR": hot}}]}}  # fmt: skip
    settings = site(tmp_path, default_chain(), json.dumps(profile).encode())
    async with opened(tmp_path, settings) as node:
        body = json.dumps({"state": "online", "gateway": "g", "type": "tank"}).encode()
        event = Event(type=EventType.SOURCE, entity_id="d1", body=body, time_ns=time.time_ns())
        await node.emit(event)
        await node.ingest([reading("t", 9, entity="d1"), reading("t", 9, entity="d2")])
        (alarm,) = node.entities.alarms()
        assert (alarm.originator.name, alarm.type) == ("d1", "Hot")


# -- scripts ---------------------------------------------------------------------------------------

FOREVER: Node = ("filter.TbJsFilterNode", "For ever", {"jsScript": "while (true) {} return true;"})
BY_DEVICE: Node = (
    "filter.TbJsSwitchNode", "Which", {"jsScript": "return metadata.deviceName;"},
)  # fmt: skip
DOUBLE: Node = (
    "transform.TbTransformMsgNode", "Double",
    {"jsScript": "var d = {}; for (var k in msg) { d[k] = 2 * msg[k]; } return {msg: d};"},
)  # fmt: skip


async def test_a_script_for_ever_leaves_by_failure_and_others_do_not_notice(tmp_path: Path) -> None:
    wires = [(0, 1, "bad"), (0, 2, "good"), (2, 3, "Success"), (1, 4, "Failure")]
    chain = exported([BY_DEVICE, FOREVER, DOUBLE, PUSH, PUSH], wires)
    async with opened(tmp_path, site(tmp_path, chain)) as node:
        await node.ingest([reading("t", 1.5, entity="good")])
        assert rules_of(node).is_worker_running
        await node.ingest([reading("t", 5.5, entity="bad")])
        failing = next(one for one in rules_of(node).nodes if one.node == "For ever")
        assert (failing.messages, failing.failures) == (1, 1)
        assert "took" in failing.last_error
        assert sent(node) == [("t", 3), ("t", 5.5)]
        for number in range(20):
            await node.ingest([reading("t", 5.5, entity="bad")])
            await node.ingest([reading("t", number, entity="good")])
        failing = next(one for one in rules_of(node).nodes if one.node == "For ever")
        assert "left out for" in failing.last_error
        assert [value for _, value in sent(node) if value not in (3, 5.5)][:3] == [0, 2, 4]


async def test_a_script_that_throws_costs_the_messages_that_it_throws_for(tmp_path: Path) -> None:
    """One of a hundred, and then a thousand in a row: the next one is worked on all the same."""
    strict: Node = (
        "transform.TbTransformMsgNode", "Strict",
        {"jsScript": "var t = msg.t;\nif (t < 0) {\n  throw new Error('below zero');\n}\n"
         "return {msg: {good: t}, metadata, msgType};"},
    )  # fmt: skip
    why = "{msg: {bad: msg.t, of: metadata.failedNode, why: metadata.error}, metadata, msgType}"
    tell: Node = ("transform.TbTransformMsgNode", "Tell", {"jsScript": f"return {why};"})
    chain = exported(
        [strict, tell, PUSH], [(0, 2, "Success"), (0, 1, "Failure"), (1, 2, "Success")]
    )
    mixed = [-n if n % 100 == 0 else n for n in range(1, 501)]
    numbers = [*mixed, *range(-3000, -2000), 5000]
    async with opened(tmp_path, site(tmp_path, chain)) as node:
        for at in range(0, len(numbers), 250):
            some = numbers[at : at + 250]
            await node.ingest([Reading(f"m{n % 25}", "t", n, n) for n in some])
        found = sent(node)
        for key, expected in (("good", [n for n in numbers if n > 0]),
                              ("bad", [n for n in numbers if n < 0])):  # fmt: skip
            assert sorted(value for name, value in found if name == key) == sorted(expected)
        told = {value for key, value in found if key in ("of", "why")}
        assert told == {"Root / Strict", "Error: below zero (line 3 of the script)"}
        counts = next(one for one in rules_of(node).nodes if one.node == "Strict")
        assert (counts.messages, counts.failures) == (1501, 1005)
        lines = metrics(node.status()).decode().splitlines()
        failures = 'edgesync_rules_failures_total{edge="barn",chain="Root",node="Strict"} 1005'
        assert failures in lines


async def test_messages_of_a_device_stay_in_order_whatever_their_scripts_take(
    tmp_path: Path,
) -> None:
    slow: Node = (
        "transform.TbTransformMsgNode", "Slow",
        {"jsScript": "var n = 0; while (msg.t % 3 == 0 && n < 200000) { n++; } return {msg: msg};"},
    )  # fmt: skip
    async with opened(
        tmp_path, site(tmp_path, exported([slow, PUSH], [(0, 1, "Success")]))
    ) as node:
        async with trio.open_nursery() as nursery:
            for number in range(30):
                nursery.start_soon(node.ingest, [reading("t", number, entity=f"d{number % 3}")])
                await trio.lowlevel.checkpoint()
        values = [value for _, value in sent(node)]
        assert sorted(values) == list(range(30))
        for device in range(3):
            own = [value for value in values if value % 3 == device]
            assert own == sorted(own)


@pytest.mark.parametrize(("nodes", "messages", "most"), [(1, 1000, 40), (100, 20, 600)])
async def test_others_have_turns_while_one_device_sends_much(
    tmp_path: Path, nodes: int, messages: int, most: int
) -> None:
    """Counted in visits of nodes. Trio shuffles each round: two of our turns may follow at once."""
    chain: list[Node] = [(LOG[0], f"Log {at}", LOG[2]) for at in range(nodes)]
    links = [(at, at + 1, "Success") for at in range(nodes - 1)]
    async with opened(tmp_path, site(tmp_path, exported(chain, links))) as node:
        seen = [0]

        async def look() -> None:
            while True:
                await trio.lowlevel.checkpoint()
                seen.append(sum(one.messages for one in rules_of(node).nodes))

        burst = [Reading("meter", "t", at, at) for at in range(1, messages + 1)]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            await node.ingest(burst)
            nursery.cancel_scope.cancel()
        assert sum(one.messages for one in rules_of(node).nodes) == nodes * messages
        assert max(after - before for before, after in pairwise(seen)) <= most


async def test_a_worker_that_dies_costs_its_message_and_comes_again(tmp_path: Path) -> None:
    chain = exported([DOUBLE, PUSH], [(0, 1, "Success")])
    async with opened(tmp_path, site(tmp_path, chain)) as node:
        await node.ingest([reading("t", 1)])
        worker = node.part("rules")._worker
        worker._process.kill()
        await node.ingest([reading("t", 2)])
        (double, _) = rules_of(node).nodes
        assert (double.failures, double.last_error) == (1, "the script worker has died")
        await trio.sleep(0.15)
        await node.ingest([reading("t", 3)])
        assert sent(node) == [("t", 2), ("t", 6)]
        assert worker.starts == 2


async def test_devices_whose_type_cannot_be_remembered_cost_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgesync.rules.state.NAMES_MAX", 1)
    async with opened(tmp_path, site(tmp_path, default_chain())) as node:
        for name, kind in (("a", "scale"), ("b", "scale"), ("a", "x" * 300_000), ("a", "tank")):
            event = Event(
                type=EventType.SOURCE, entity_type=EntityType.DEVICE, entity_id=name,
                body=json.dumps({"state": "online", "type": kind[:50_000]}).encode(),
                time_ns=time.time_ns(),
            )  # fmt: skip
            await node.emit(event)
            await node.ingest([reading("t", 1, name)])
        assert rules_of(node).messages == 8
        assert len(sent(node)) == 4


async def test_an_alarm_of_a_time_that_no_clock_shows_is_seen(tmp_path: Path) -> None:
    kind = {"alarmType": "Hot", "severity": "CRITICAL"}
    settings = site(tmp_path, exported([("action.TbCreateAlarmNode", "Raise", kind)]))
    async with opened(tmp_path, settings) as node:
        for entity, time_ns in (("a", -(10**15)), ("b", 2**63 - 1)):
            await node.ingest([Reading(entity, "t", 7, time_ns)])
        assert [one.status for one in node.entities.alarms()] == ["ACTIVE_UNACK"] * 2
        await until(lambda: statuses(node) == ["ACTIVE_UNACK"] * 2)


async def test_metrics_and_health_tell_of_rules(tmp_path: Path) -> None:
    failing: Node = ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.a.b > 5;"})
    settings = site(tmp_path, exported([failing]))
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 1)])
        lines = metrics(node.status()).decode().splitlines()
        assert 'edgesync_rules_messages_total{edge="barn"} 1' in lines
        assert 'edgesync_rules_unhandled_total{edge="barn"} 1' in lines
        assert 'edgesync_rules_good{edge="barn"} 1.0' in lines
        assert 'edgesync_rules_failures_total{edge="barn",chain="Root",node="Warm"} 1' in lines
        (event,) = [one for one in told(node, EventType.LIFECYCLE) if one["what"] == "rule_failed"]
        assert (event["node"], event["message"]) == ("Warm", '{"t":1}')
        (tmp_path / "rules" / "0.json").write_bytes(b"no")
        await until(lambda: bool(rules_of(node).problem))
        code, _, body = health(node.status())
        assert (code, json.loads(body)["ok"]) == (200, True)
        assert "rules: 0.json: (file): is not JSON" in json.loads(body)["problems"][0]
        assert 'edgesync_rules_good{edge="barn"} 0.0' in metrics(node.status()).decode()


async def test_events_that_programs_make_their_own_way_are_stored_as_they_are(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, site(tmp_path, default_chain())) as node:
        for kind in (EventType.ATTRIBUTES, EventType.SOURCE):
            for body in (b"not json", b"[1]", b'{"state": 5}'):
                event = Event(type=kind, entity_id="x", body=body, time_ns=time.time_ns())
                await node.emit(event)
        stored = [one for one in node.events() if one.type in ("ATTRIBUTES", "SOURCE")]
        assert len(stored) == 6


async def test_chains_that_change_under_load_lose_and_double_nothing(tmp_path: Path) -> None:
    """Each message goes through one set of chains, the one before or the one after."""

    def version(number: int) -> bytes:
        marked = f"return {{msg: {{t: msg.t, v: {number}}}, metadata, msgType}};"
        mark: Node = ("transform.TbTransformMsgNode", "Mark", {"jsScript": marked})
        delta: Node = (
            "metadata.CalculateDeltaNode", "Delta", {"inputValueKey": "t", "outputValueKey": "d"},
        )  # fmt: skip
        return exported([mark, delta, PUSH], [(0, 1, "Success"), (1, 2, "Success")])

    settings = site(tmp_path, version(0))
    path, number = tmp_path / "rules" / "0.json", 0
    async with opened(tmp_path, settings) as node:
        for current in range(1, 4):
            path.write_bytes(version(current))
            while True:
                number += 1
                await node.ingest([reading("t", number)])
                if sent(node)[-2] == ("v", current):
                    break
        found = sent(node)
        assert [value for key, value in found if key == "t"] == list(range(1, number + 1))
        versions = [value for key, value in found if key == "v"]
        assert versions == sorted(versions)
        # What the node remembered went with it from version to version.
        assert [value for key, value in found if key == "d"] == [0, *[1] * (number - 1)]


async def test_of_a_series_that_is_kept_and_sent_what_is_sent_is_shown(tmp_path: Path) -> None:
    """Whether or not its readings need a look: the first do, the second do not."""
    async with opened(tmp_path, site(tmp_path, exported([SAVE], []))) as node:
        for value in (1.0, 3.0):
            kept, pushed = (Reading("m", "P", value + n, time.time_ns()) for n in range(2))
            await node.recorder.store_together([kept], {Lane.BULK: [pushed]}, [], "meta", {})
            held = node.recorder.context.image.newest("m", "P")
            assert held is not None
            assert held.value == pushed.value


async def test_the_series_limit_is_one_for_what_a_chain_keeps_and_what_it_sends(
    tmp_path: Path,
) -> None:
    """One place is left, and the chain sends what it keeps by a second name."""
    renamed: Node = (
        "transform.TbRenameKeysNode", "Rename",
        {"renameIn": "DATA", "renameKeysMapping": {"a": "b"}},
    )  # fmt: skip
    chain = exported([SAVE, renamed, PUSH], [(0, 1, "Success"), (1, 2, "Success")])
    async with opened(tmp_path, site(tmp_path, chain) | {"series": {"max": 1}}) as node:
        async with trio.open_nursery() as nursery:
            sink = GatheringSink(node, nursery)
            for value in (1.0, 2.0):
                await sink.readings([reading("a", value)])
        assert [one.value for one in node.latest()] == [2.0]
        assert sent(node) == []
        assert node.status().series_refused == 2


async def test_what_is_refused_together_takes_up_no_room(tmp_path: Path) -> None:
    settings = site(tmp_path, exported([SAVE, PUSH], [(0, 1, "Success")]))
    async with opened(tmp_path, settings | {"series": {"max": 2}}) as node:
        kept, pushed = [reading("a", 1.0)], [reading("b", 1.0), reading("c", 1.0)]
        with pytest.raises(TooManySeries):
            await node.recorder.store_together(kept, {Lane.BULK: pushed}, [], "meta", {})
        await node.ingest([reading("d", 1.0), reading("e", 1.0)])
        assert sent(node) == [("d", 1.0), ("e", 1.0)]
