"""What rules have done, where the process ends or keys are refused before the entities have it."""

import json
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Event, EventType
from edgesync.errors import EntityError, RecordError, StoreFull
from edgesync.model import Action, EntityType
from edgesync.parts.entities import EntitiesPart
from edgesync.rules import facts as facts_module
from edgesync.rules.alarm import Alarm
from edgesync.rules.engine import ALARMS
from edgesync.rules.facts import EdgeFacts
from edgesync.store.edgecells import EdgeCells
from tests.edgesync.rules.chains import Node, exported
from tests.edgesync.rules.test_part import PUSH, counted, opened, reading, sent, site, statuses
from tests.sites import until

pytestmark = [pytest.mark.feature("S18"), pytest.mark.slow]

NODES: list[Node] = [
    ("filter.TbMsgTypeSwitchNode", "Switch", {}),
    ("filter.TbJsFilterNode", "Warm", {"jsScript": "return msg.t > 5;"}),
    ("action.TbCreateAlarmNode", "Raise", {"alarmType": "Hot", "severity": "MAJOR"}),
    ("action.TbClearAlarmNode", "Clear", {"alarmType": "Hot"}),
    ("action.TbLogNode", "Created", {"jsScript": "return 'x';"}),
    ("action.TbLogNode", "Updated", {"jsScript": "return 'x';"}),
    ("action.TbLogNode", "Others", {"jsScript": "return 'x';"}),
]
CHAIN = exported(NODES, [
    (0, 1, "Post telemetry"), (1, 2, "True"), (1, 3, "False"), (2, 4, "Created"),
    (2, 5, "Updated"), (0, 6, "Alarm Cleared"),
])  # fmt: skip


async def share_nothing(_self: EdgeFacts, _alarms: Iterable[Alarm]) -> None:
    """End where a process may: what nodes remember is stored, and the entities lack it."""


@pytest.mark.parametrize("begins", [True, False])
async def test_what_a_life_has_not_shared_the_next_one_shares(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, begins: bool
) -> None:
    settings = site(tmp_path, CHAIN)
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 1 if begins else 7)])
        await until(lambda: statuses(node) == ([] if begins else ["ACTIVE_UNACK"]))
        with monkeypatch.context() as ending:
            ending.setattr(EdgeFacts, "share", share_nothing)
            await node.ingest([reading("t", 7 if begins else 1)])
        assert len(node.entities.alarms(is_active=True)) == (not begins)
    async with opened(tmp_path, settings) as node:
        status = "ACTIVE_UNACK" if begins else "CLEARED_UNACK"
        await until(lambda: [one.status for one in node.entities.alarms()] == [status])


async def test_an_alarm_that_is_not_shown_is_not_ended_by_the_end_of_an_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = site(tmp_path, CHAIN)

    def refuse(*_: object) -> None:
        raise EntityError("entity", problem="no room", remedy="wait")

    async with opened(tmp_path, settings) as node:
        for value in (7, 1):
            await node.ingest([reading("t", value)])
        assert [one.status for one in node.entities.alarms()] == ["CLEARED_UNACK"]
        monkeypatch.setattr(EntitiesPart, "plan_save", refuse)
        await node.ingest([reading("t", 8)])
        assert counted(node, "Created") == 2
    async with opened(tmp_path, settings) as node:
        await node.ingest([reading("t", 9)])
        assert [counted(node, name) for name in ("Created", "Updated", "Others")] == [0, 1, 0]


FULL = StoreFull(used_bytes=9, limit_bytes=9)
SAVE: Node = ("telemetry.TbMsgAttributesNode", "Save", {"scope": "SERVER_SCOPE"})
SAVING = exported([*NODES, SAVE, PUSH], [
    (0, 1, "Post telemetry"), (1, 2, "True"), (1, 3, "False"), (2, 4, "Created"),
    (2, 5, "Updated"), (0, 6, "Alarm Cleared"), (0, 7, "Post attributes"), (0, 8, "Post telemetry"),
])  # fmt: skip


async def report(node: EdgeNode, value: int) -> None:
    body = json.dumps({"scope": "client", "values": {"low": value}}).encode()
    event = Event(
        type=EventType.ATTRIBUTES, action=Action.ATTRIBUTES_UPDATED, body=body,
        entity_type=EntityType.DEVICE, entity_id="meter", time_ns=time.time_ns(),
    )  # fmt: skip
    await node.emit(event)


def saved(node: EdgeNode) -> dict[str, Any]:
    return node.entities.attributes("device", "meter", "server")


def refuse_keys(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Have the store refuse so many commits of keys, and no other."""
    commit = EdgeCells._commit_changes

    async def refuse(self: EdgeCells) -> None:
        nonlocal times
        if not times:
            return await commit(self)
        times -= 1
        self._freeze(self.rows.freeze)
        self._refused(FULL)

    monkeypatch.setattr(EdgeCells, "_commit_changes", refuse)


@pytest.mark.parametrize("times", [1, 3])
async def test_keys_that_are_refused_delay_an_alarm_and_lose_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Once, it may have been for what a client wrote: then it is there at the answer."""
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        assert node.entities.alarms() == []
        await node.cells.wait_durable()  # no other commit is to be refused in their place
        refuse_keys(monkeypatch, times)
        await node.ingest([reading("t", 7)])
        if times > 1:
            await until(lambda: len(node.entities.alarms()) == 1)
        (alarm,) = node.entities.alarms()
        assert (alarm.type, alarm.status, alarm.n) == ("Hot", "ACTIVE_UNACK", 1)
        assert sent(node) == [("t", 7)]
        await until(lambda: statuses(node) == ["ACTIVE_UNACK"])
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        assert [one.n for one in node.entities.alarms()] == [1]


@pytest.mark.parametrize("times", [1, 2])
async def test_keys_that_are_refused_delay_attributes_and_lose_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    monkeypatch.setattr(facts_module, "AGAIN_NS", 1 << 62)
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        assert node.entities.alarms() == []
        await node.cells.wait_durable()  # no other commit is to be refused in their place
        refuse_keys(monkeypatch, times)
        await report(node, 1)
        if times > 1:
            with pytest.raises(StoreFull):  # what waits is of one batch
                await report(node, 2)
            node.part("rules")._facts.again_ns = 0
            await until(lambda: saved(node) == {"low": 1})
        assert saved(node) == {"low": 1}
        await until(lambda: node.part("rules")._facts.again_ns is None)
        await report(node, 3)
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        assert saved(node) == {"low": 3}


async def test_alarms_and_attributes_of_chains_pass_when_a_resource_is_critical(
    tmp_path: Path,
) -> None:
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        assert node.entities.alarms() == []
        node.part("keys").cells.call.guard.refusal = lambda: "the disk is nearly full"
        await node.ingest([reading("t", 7)])
        assert [one.status for one in node.entities.alarms()] == ["ACTIVE_UNACK"]
        await report(node, 1)
        assert saved(node) == {"low": 1}
        await node.ingest([reading("t", 1)])
        assert [one.status for one in node.entities.alarms()] == ["CLEARED_UNACK"]


async def test_a_node_starts_while_the_keys_that_its_rules_need_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = site(tmp_path, CHAIN)
    async with opened(tmp_path, settings) as node:
        with monkeypatch.context() as ending:
            ending.setattr(EdgeFacts, "share", share_nothing)
            await node.ingest([reading("t", 7)])
    refuse_keys(monkeypatch, 2)
    async with opened(tmp_path, settings) as node:
        await until(lambda: [one.status for one in node.entities.alarms()] == ["ACTIVE_UNACK"])


async def test_a_batch_that_is_refused_does_not_cost_who_ends_an_alarm(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, site(tmp_path, CHAIN)) as node:
        await node.ingest([reading("t", 7)])
        with monkeypatch.context() as full:
            full.setattr(node.recorder, "store_together", refuse)
            with pytest.raises(StoreFull):
                await node.ingest([reading("t", 8)])
        (alarm,) = node.entities.alarms()
        node.entities.clear_alarm(alarm.id, "Ann")
        await until(lambda: counted(node, "Others") == 1)


async def refuse(*_: Any) -> None:
    raise FULL


@pytest.mark.parametrize("error", [FULL, RecordError("too long")])
async def test_what_others_have_done_is_worked_on_again_after_a_batch_that_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    async with opened(tmp_path, site(tmp_path, CHAIN)) as node:
        await node.ingest([reading("t", 7)])
        store, failed = node.recorder.store_together, trio.Event()

        async def fail_once(*args: Any) -> None:
            if not failed.is_set():
                failed.set()
                raise error
            await store(*args)

        monkeypatch.setattr(node.recorder, "store_together", fail_once)
        (alarm,) = node.entities.alarms()
        node.entities.clear_alarm(alarm.id, "Ann")
        await failed.wait()
        await until(lambda: counted(node, "Others") == 2)  # once in vain
        await node.ingest([reading("t", 8)])
        assert [one.n for one in node.entities.alarms(is_active=True)] == [2]


async def test_what_others_have_done_and_cannot_be_stored_costs_no_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with opened(tmp_path, site(tmp_path, SAVING)) as node:
        await node.ingest([reading("t", 7)])
        store, failed = node.recorder.store_together, trio.Event()

        async def fail(*args: Any) -> None:
            rows = [msgspec.msgpack.decode(raw) for raw in args[-1].values() if raw]
            if any(node == ALARMS and alarm["clear_ns"] for node, _, alarm in rows):
                failed.set()
                raise RecordError("too long")
            await store(*args)

        monkeypatch.setattr(node.recorder, "store_together", fail)
        (alarm,) = node.entities.alarms()
        node.entities.clear_alarm(alarm.id, "Ann")
        await node.ingest([reading("t", 3, "other")])
        await failed.wait()
        await node.ingest([reading("t", 4, "other")])
        assert sent(node) == [("t", 7), ("t", 3), ("t", 4)]
