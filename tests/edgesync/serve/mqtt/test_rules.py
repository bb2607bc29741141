"""What devices publish where rule chains decide: alarms of two at once, poisoned messages."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync.entities.alarms import all_alarms
from edgesync.entities.view import SpaceView
from edgesync.model import EventType
from edgesync.serve.mqtt.packets import Puback, Publish
from tests.edgesync.rules.chains import Node, exported
from tests.edgesync.rules.test_part import RAISED, counted, rules_of, sent, told
from tests.edgesync.serve.mqtt.door import Door, RawClient, open_door
from tests.sites import Sites, settle, until

pytestmark = [pytest.mark.slow, pytest.mark.feature("S18", "S29")]

PENS = [f"Pen {n}" for n in range(10)]
ME, GATEWAY = "v1/devices/me/telemetry", "v1/gateway/telemetry"


def publish(topic: str, payload: Any, packet_id: int) -> Publish:
    return Publish(topic=topic, payload=json.dumps(payload).encode(), qos=1, packet_id=packet_id)


@asynccontextmanager
async def door_with_rules(sites: Sites, chain: bytes) -> AsyncIterator[Door]:
    async with sites.node("barn"):
        pass  # makes its keys
    path = sites.folder / "chain.json"
    path.write_bytes(chain)
    sections = sites.settings("barn") | {"rules": {"chains": str(path)}}
    async with open_door(sites.folder / "barn", **sections) as door:
        yield door


@pytest.mark.feature("S19")
async def test_two_connections_that_raise_an_alarm_at_once_raise_one(tmp_path: Path) -> None:
    """Of a device that is there twice, and of devices that two gateways hear."""

    async def report(client: RawClient, topic: str, values: list[Any]) -> None:
        await client.say(*(publish(topic, one, nth) for nth, one in enumerate(values, start=1)))
        for nth in range(1, len(values) + 1):
            assert await client.hear() == Puback(packet_id=nth)

    sites = Sites(tmp_path)
    async with (
        door_with_rules(sites, RAISED) as door,
        door.client(client_id="one") as own, door.client(client_id="two") as again,
        door.client(client_id="east", token="GATE_TOKEN") as east,
        door.client(client_id="west", token="GATE_TOKEN") as west,
    ):  # fmt: skip
        async with trio.open_nursery() as nursery:
            for client, value in ((own, 7), (again, 8)):
                nursery.start_soon(report, client, ME, [{"t": value}])
            for client, value in ((east, 7), (west, 8)):
                behind = [{pen: [{"t": value}]} for pen in PENS]
                nursery.start_soon(report, client, GATEWAY, behind)
        devices = sorted([*PENS, "Scale"])
        assert [counted(door.node, name) for name in ("Created", "Updated")] == [len(devices)] * 2
        await until(lambda: len(told(door.node, EventType.ALARM)) == len(devices))
        async with sites.hub():
            await settle(door.node)
            there = all_alarms(SpaceView(sites.cells.space, sites.cells.now_ms), "barn")
            for alarms in (door.node.entities.alarms(), list(there)):
                assert sorted(one.originator.name for one in alarms) == devices
                assert {(one.n, one.status) for one in alarms} == {(1, "ACTIVE_UNACK")}


PATIENT: Node = (
    "filter.TbJsFilterNode", "Patient", {"jsScript": "while (msg.forever) {} return true;"},
)  # fmt: skip
PUSH: Node = ("edge.TbMsgPushToCloudNode", "Push", {})
LOG: Node = ("action.TbLogNode", "Failed", {"jsScript": "return metadata.error;"})


async def test_messages_that_a_script_never_ends_with_hold_up_no_good_ones(tmp_path: Path) -> None:
    """Neither those of others nor the one of the same device behind ten of them."""
    count = 200
    chain = exported([PATIENT, PUSH, LOG], [(0, 1, "True"), (0, 2, "Failure")])

    async def publish_good(client: RawClient) -> None:
        for number in range(count):
            said = publish(ME, {"forever": False, "n": number}, number + 1)
            assert await client.ask(said) == Puback(packet_id=number + 1)

    async with (
        door_with_rules(Sites(tmp_path), chain) as door, door.client() as bad,
        door.client(client_id="pump-1", token="pump", password=b"secret") as good,
    ):  # fmt: skip
        async with trio.open_nursery() as nursery:
            nursery.start_soon(publish_good, good)
            await bad.say(*(publish(ME, {"forever": True}, nth) for nth in range(1, 11)))
            await bad.say(publish(ME, {"forever": False, "n": -1}, 11))
            for nth in range(1, 12):
                assert await bad.hear() == Puback(packet_id=nth)
        values = [value for key, value in sent(door.node) if key == "n"]
        assert sorted(values) == [-1, *range(count)]
        assert [value for value in values if value >= 0] == list(range(count))
        patient = next(one for one in rules_of(door.node).nodes if one.node == "Patient")
        assert (patient.messages, patient.failures) == (count + 11, 10)
        assert counted(door.node, "Failed") == 10
        assert door.node.part("rules")._worker.starts == 1
