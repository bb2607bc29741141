"""Attributes over MQTT, from a device to the hub and back, over real sockets and stores."""

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode
from edgesync.demo.site import free_ports
from edgesync.entities import attributes, claims
from edgesync.entities.model import Scope, entity
from edgesync.entities.view import SpaceView
from edgesync.errors import EntityError
from edgesync.serve.mqtt.client import UNSENT_MAX
from edgesync.serve.mqtt.connection import OUTGOING_MAX
from edgesync.serve.mqtt.packets import (
    V5,
    V311,
    Filter,
    Pingreq,
    Pingresp,
    Puback,
    Publish,
    Suback,
    Subscribe,
)
from tests.edgesync.serve.mqtt.door import DEVICES, Door, Gated, RawClient, RefusingKeys, open_door
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("S29", "S11", "S15")

ME = "v1/devices/me/"
GATE = "v1/gateway/"


def publish(topic: str, payload: Any, packet_id: int) -> Publish:
    return Publish(topic=topic, payload=json.dumps(payload).encode(), qos=1, packet_id=packet_id)


async def subscribe(client: RawClient, *topics: str) -> None:
    filters = tuple(Filter(topic, 1) for topic in topics)
    assert isinstance(await client.ask(Subscribe(packet_id=1, filters=filters)), Suback)


async def told(client: RawClient) -> tuple[str, Any]:
    """Return topic and payload of the next message, and acknowledge it."""
    message = await client.hear()
    assert isinstance(message, Publish), message
    assert message.packet_id is not None
    await client.say(Puback(packet_id=message.packet_id))
    return message.topic, json.loads(message.payload)


def says_nothing_else(client: RawClient) -> None:
    assert client.parser.held_bytes == 0


@pytest.mark.parametrize("level", [V311, V5])
async def test_a_device_reports_and_asks(tmp_path: Path, level: int) -> None:
    async with open_door(tmp_path) as door, door.client(level) as client:
        await subscribe(client, ME + "attributes/response/+")
        report = {"model": "S7", "net": {"ip": "10.0.0.7", "big": 12345678901234567890}}
        answer = await client.ask(publish(ME + "attributes", report, 2))
        assert isinstance(answer, Puback)
        assert door.node.entities.attributes("device", "Scale") == {
            "model": "S7", "net": {"ip": "10.0.0.7", "big": "12345678901234567890"},
        }  # fmt: skip
        assert door.node.entities.find("device", "Scale") is not None
        door.node.entities.set_attributes("device", "Scale", {"limit": 900}, "shared")
        asked = {"clientKeys": "model", "sharedKeys": "limit"}
        await client.ask(publish(ME + "attributes/request/9", asked, 3))
        assert await told(client) == (
            ME + "attributes/response/9", {"client": {"model": "S7"}, "shared": {"limit": 900}}
        )  # fmt: skip


async def test_what_was_acknowledged_is_there_after_the_edge(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        await client.ask(publish(ME + "attributes", {"model": "S7"}, 2))
    async with open_door(tmp_path) as door:
        assert door.node.entities.attributes("device", "Scale") == {"model": "S7"}


async def test_what_the_store_took_back_is_not_acknowledged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its event was stored, and by then nothing was refused any more."""
    monkeypatch.setattr("edgesync.serve.mqtt.server.UNAVAILABLE_S", 0.0)
    async with open_door(tmp_path, recorder=RefusingKeys) as door:
        for answer in (None, Puback(packet_id=2)):
            async with door.client() as client:
                assert await client.ask(publish(ME + "attributes", {"seen": 1}, 2)) == answer
        assert door.node.entities.attributes("device", "Scale") == {"seen": 1}


@pytest.mark.parametrize("level", [V311, V5])
async def test_reports_go_on_when_a_resource_is_critical(tmp_path: Path, level: int) -> None:
    """Version 3.1.1 could not tell that they do not, and a device says it once."""
    async with open_door(tmp_path) as door, door.client(level) as client:
        door.node.entities.set_attributes("device", "Scale", {"seen": 1})
        guard = door.node.part("keys").cells.call.guard
        guard.refusal = lambda: "edge resource critical: disk"
        assert await client.ask(publish(ME + "attributes", {"seen": 2}, 2)) == Puback(packet_id=2)
        assert door.node.entities.attributes("device", "Scale") == {"seen": 2}
        assert guard.refused() is not None


async def test_shared_attributes_are_pushed_as_they_change(tmp_path: Path) -> None:
    async with (
        open_door(tmp_path) as door,
        door.client() as client,
        door.client(client_id="other") as deaf,
    ):
        entities = door.node.entities
        entities.set_attributes("device", "Scale", {"limit": 900, "unit": "kg"}, "shared")
        await subscribe(client, ME + "attributes")
        await subscribe(deaf, ME + "attributes/response/+")
        entities.set_attributes("device", "Scale", {"limit": 950, "unit": "kg"}, "shared")
        assert await told(client) == (ME + "attributes", {"limit": 950})
        entities.set_attributes("device", "Scale", {"secret": 1}, "server")
        entities.set_attributes("device", "Pump", {"limit": 1}, "shared")
        entities.delete_attributes("device", "Scale", ["unit", "nowhere"], "shared")
        assert await told(client) == (ME + "attributes", {"deleted": ["unit"]})
        await deaf.ask(publish(ME + "attributes", {"a": 1}, 5))
        says_nothing_else(deaf)


async def test_what_changed_between_asking_and_subscribing_is_pushed(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client() as client:
        entities = door.node.entities
        entities.set_attributes("device", "Scale", {"limit": 900, "unit": "kg"}, "shared")
        await subscribe(client, ME + "attributes/response/+")
        await client.ask(publish(ME + "attributes/request/1", {}, 2))
        assert (await told(client))[1] == {"shared": {"limit": 900, "unit": "kg"}}
        entities.set_attributes("device", "Scale", {"limit": 950}, "shared")
        await client.say(Subscribe(packet_id=3, filters=(Filter(ME + "attributes", 1),)))
        came = [await client.hear(), await client.hear()]
        (message,) = [one for one in came if isinstance(one, Publish)]
        assert json.loads(message.payload) == {"limit": 950}


async def test_an_answer_is_no_older_than_what_was_pushed_before_it(tmp_path: Path) -> None:
    """It may have waited for the disk; a device keeps what comes last."""
    gates: list[Gated] = []

    def gated(node: EdgeNode) -> Gated:
        gates.append(Gated(node))
        return gates[0]

    async with (
        open_door(tmp_path, recorder=gated) as door,
        door.client() as client,
        door.client(token="GATE_TOKEN") as gateway,
    ):
        entities = door.node.entities
        await subscribe(client, ME + "attributes", ME + "attributes/response/+")
        await subscribe(gateway, GATE + "attributes", GATE + "attributes/response")
        await client.say(
            publish(ME + "telemetry", {"a": 1}, 2), publish(ME + "attributes/request/1", {}, 3)
        )
        asked = {"id": 1, "device": "A", "client": False, "key": "limit"}
        await gateway.say(publish(GATE + "attributes/request", asked, 4))
        await until(lambda: door.server.status().messages == 3)
        for name in ("Scale", "A"):
            entities.set_attributes("device", name, {"limit": 950}, "shared")
        assert await told(client) == (ME + "attributes", {"limit": 950})
        assert (await told(gateway))[1] == {"device": "A", "data": {"limit": 950}}
        gates[0].gate.set()
        assert [await client.hear(), await client.hear()] == [
            Puback(packet_id=2), Puback(packet_id=3)
        ]  # fmt: skip
        assert (await told(client))[1] == {"shared": {"limit": 950}}
        assert await gateway.hear() == Puback(packet_id=4)
        assert (await told(gateway))[1] == {"id": 1, "device": "A", "value": 950}


async def test_what_an_answer_tells_is_on_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or the answer after a kill would be older than the one before."""
    async with open_door(tmp_path) as door, door.client() as client:
        await subscribe(client, ME + "attributes/response/+")
        entities, cells = door.node.entities, door.node.part("keys").cells
        entities.set_attributes("device", "Scale", {"limit": 1}, "shared")
        commit, is_let = cells._commit_changes, trio.Event()

        async def held() -> None:
            await is_let.wait()
            await commit()

        monkeypatch.setattr(cells, "_commit_changes", held)
        # In memory, as what comes from the hub is at first.
        entities.apply(entities.plan_attributes(entities.id("device", "Scale"), "shared",
                                                {"limit": 2}))  # fmt: skip
        await client.say(publish(ME + "attributes/request/1", {"sharedKeys": "limit"}, 2))
        assert await client.ask(Pingreq()) == Pingresp()
        is_let.set()
        assert await client.hear() == Puback(packet_id=2)
        assert (await told(client))[1] == {"shared": {"limit": 2}}


async def test_a_session_that_is_kept_is_pushed_to_without_a_new_subscription(
    tmp_path: Path,
) -> None:
    async with open_door(tmp_path) as door:
        async with door.client(clean_start=False) as client:
            await subscribe(client, ME + "attributes")
        async with door.client(clean_start=False) as client:
            door.node.entities.set_attributes("device", "Scale", {"limit": 900}, "shared")
            assert await told(client) == (ME + "attributes", {"limit": 900})


async def test_a_gateway_is_told_of_the_devices_it_speaks_for(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(token="GATE_TOKEN") as client:
        await subscribe(client, GATE + "attributes", GATE + "attributes/response")
        await client.ask(publish(GATE + "connect", {"device": "A", "type": "scale"}, 2))
        await client.ask(publish(GATE + "attributes", {"B": {"model": "S7"}}, 3))
        entities = door.node.entities
        for name in ("A", "B", "C"):
            entities.set_attributes("device", name, {"limit": 900}, "shared")
        assert await told(client) == (GATE + "attributes", {"device": "A", "data": {"limit": 900}})
        assert await told(client) == (GATE + "attributes", {"device": "B", "data": {"limit": 900}})
        entities.delete_attributes("device", "A", ["limit"], "shared")
        gone = {"device": "A", "data": {"deleted": ["limit"]}}
        assert await told(client) == (GATE + "attributes", gone)
        await client.ask(publish(GATE + "disconnect", {"device": "A"}, 4))
        entities.set_attributes("device", "A", {"limit": 1}, "shared")
        entities.set_attributes("device", "B", {"limit": 1}, "shared")
        assert (await told(client))[1]["device"] == "B"
        asked = {"id": 3, "device": "B", "client": True, "key": "model"}
        await client.ask(publish(GATE + "attributes/request", asked, 5))
        assert await told(client) == (
            GATE + "attributes/response", {"id": 3, "device": "B", "value": "S7"}
        )  # fmt: skip


@pytest.mark.parametrize("qos", [0, 1])
async def test_more_changes_at_once_than_a_client_takes_are_told_as_it_takes_them(
    tmp_path: Path, qos: int
) -> None:
    """Such as those of devices behind a gateway whose edge was away; the newest count."""
    names = [f"d{number}" for number in range(2 * OUTGOING_MAX + 100)]
    large = "x" * (UNSENT_MAX // 100)
    async with open_door(tmp_path) as door, door.client(token="GATE_TOKEN") as client:
        entities = door.node.entities
        filters = (Filter(GATE + "attributes", qos),)
        await client.ask(Subscribe(packet_id=1, filters=filters))
        await client.ask(publish(GATE + "telemetry", {name: [{"a": 1}] for name in names}, 2))
        for turn in range(2):
            for name in names:
                entities.set_attributes("device", name, {"text": large, "turn": turn}, "shared")
        (served,) = door.server._clients.values()
        assert len(served.out) < 2 * UNSENT_MAX
        entities.delete_attributes("device", names[-1], ["text"], "shared")
        told: dict[str, dict[str, Any]] = {name: {} for name in names}
        wanted = {name: {"text": large, "turn": 1} for name in names}
        wanted[names[-1]] = {"turn": 1}
        while told != wanted:
            message = await client.hear()
            assert isinstance(message, Publish)
            if message.packet_id:
                await client.say(Puback(packet_id=message.packet_id))
            said = json.loads(message.payload)
            for gone in said["data"].pop("deleted", ()):
                told[said["device"]].pop(gone, None)
            told[said["device"]].update(said["data"])


async def test_a_name_that_no_entity_has_costs_only_its_attributes(tmp_path: Path) -> None:
    """A name has 255 characters, and that of an entity 380 bytes."""
    async with open_door(tmp_path) as door, door.client(token="GATE_TOKEN") as client:
        await subscribe(client, GATE + "attributes")
        await client.ask(publish(GATE + "connect", {"device": "\N{COW}" * 200}, 2))
        await client.ask(publish(GATE + "connect", {"device": "A"}, 3))
        door.node.entities.set_attributes("device", "A", {"limit": 900}, "shared")
        wanted = {"device": "A", "data": {"limit": 900}}
        assert await told(client) == (GATE + "attributes", wanted)


class Later:
    """Trio, two hours later."""

    def current_time(self) -> float:
        return trio.current_time() + 7200

    def __getattr__(self, name: str) -> Any:
        return getattr(trio, name)


async def test_a_child_that_was_silent_for_hours_is_told_of_changes_at_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = Sites(tmp_path)
    async with (
        site(sites) as door, door.client(token="GATE_TOKEN") as client, sites.hub()
    ):  # fmt: skip
        await subscribe(client, GATE + "attributes")
        await client.ask(publish(GATE + "connect", {"device": "A"}, 2))
        await settle(door.node)
        monkeypatch.setattr("edgesync.serve.mqtt.server.trio", Later())
        await trio.sleep(1.5)  # the door has looked around since
        await edit(sites, Scope.SHARED, "A", limit=900)
        assert await told(client) == (GATE + "attributes", {"device": "A", "data": {"limit": 900}})


@pytest.mark.parametrize("door", ["mqtt", "device_http"])
async def test_what_the_hub_says_of_devices_is_here_before_one_asks(
    tmp_path: Path, door: str
) -> None:
    """After a start of the edge, too: the first answer is not what the hub said before."""
    sites = Sites(tmp_path)
    (port,) = free_ports(1)
    sections: dict[str, Any] = {door: {"port": port}}
    made = sites.node("barn", **sections)
    (sites.folder / "barn" / "mqtt-devices.toml").write_text(DEVICES)
    (sites.folder / "barn" / "mqtt-devices.toml").chmod(0o600)
    async with sites.hub():
        async with made as node, node.serving():
            await edit(sites, Scope.SHARED, limit=1)
            await until(lambda: shared(node) == {"limit": 1})
        await edit(sites, Scope.SHARED, limit=2)
        async with sites.node("barn", **sections) as node, node.serving():
            assert node.status().keys is not None
            await until(lambda: shared(node) == {"limit": 2})


def shared(node: EdgeNode) -> dict[str, Any]:
    """Return what is here already; a question does not fetch it."""
    return node.entities.attributes("device", "Scale", "shared") if node.status().keys else {}


async def test_a_device_that_was_away_while_attributes_changed_asks_and_is_told_the_new_ones(
    tmp_path: Path,
) -> None:
    """And no answer is older than one before, whatever it was away from."""
    sites, seen = Sites(tmp_path), list[int]()

    async def ask(door: Door) -> None:
        async with door.client() as client:
            await subscribe(client, ME + "attributes/response/+")
            await client.ask(publish(ME + "attributes/request/1", {"sharedKeys": "limit"}, 2))
            seen.append((await told(client))[1]["shared"]["limit"])

    async with site(sites) as door:
        async with sites.hub():
            for limit in (1, 2, 3):
                door.node.part("keys")
                await edit(sites, Scope.SHARED, limit=limit)
                await settle(door.node)
                await ask(door)
        await ask(door)  # without the hub
    async with site(sites) as door:
        await ask(door)  # after a start of the edge
        async with sites.hub():
            await edit(sites, Scope.SHARED, limit=4)
            while seen[-1] != 4:
                await ask(door)
    assert seen == sorted(seen)
    assert seen[:5] == [1, 2, 3, 3, 3]


async def test_nothing_is_kept_of_who_has_gone(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door:
        for _ in range(3):
            async with door.client(token="GATE_TOKEN") as client:
                await subscribe(client, GATE + "attributes", ME + "attributes")
                for number in range(20):
                    name = f"child {number}"
                    await client.ask(publish(GATE + "connect", {"device": name}, 2))
        held = door.server._attributes
        await until(lambda: not held._clients and not held._told)


async def test_too_large_attributes_are_refused_and_the_next_are_taken(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as client:
        for batch in range(10):
            many = {f"a{batch}-{number}": number for number in range(100)}
            answer = await client.ask(publish(ME + "attributes", many, 2))
            assert isinstance(answer, Puback)
            assert answer.reason == 0
        answer = await client.ask(publish(ME + "attributes", {"one more": 1}, 3))
        assert isinstance(answer, Puback)
        assert answer.reason == 0x99
        assert "at most 1000" in str(answer.properties)
        answer = await client.ask(publish(ME + "attributes", {"a0-0": "new"}, 4))
        assert isinstance(answer, Puback)
        assert answer.reason == 0


# -- with a hub ----------------------------------------------------------------------------------


@asynccontextmanager
async def site(sites: Sites) -> AsyncIterator[Door]:
    sections = sites.settings("barn")
    async with sites.node("barn"):
        pass  # makes its keys
    async with open_door(sites.folder / "barn", **sections) as door:
        yield door


async def edit(sites: Sites, scope: Scope, device: str = "Scale", **values: Any) -> None:
    """Change attributes of a device at the hub; None deletes one."""
    cells = sites.answers.cells
    view, scale = SpaceView(cells.space, cells.now_ms), entity("barn", "device", device)
    given = {name: value for name, value in values.items() if value is not None}
    gone = [name for name in values if values[name] is None]
    await sites.answers.run_commands([
        *attributes.plan_set(view, scale, scope, given),
        *attributes.plan_delete(view, scale, scope, gone),
    ])  # fmt: skip


def at_hub(sites: Sites, scope: Scope) -> dict[str, Any]:
    cells = sites.cells
    return attributes.read(
        SpaceView(cells.space, cells.now_ms), entity("barn", "device", "Scale"), scope
    )


async def test_edited_at_the_hub_while_the_edge_is_away(tmp_path: Path) -> None:
    """The device is connected all the time, and is told when the edge hears of it."""
    sites = Sites(tmp_path)
    async with site(sites) as door, door.client() as client:
        await subscribe(client, ME + "attributes", ME + "attributes/response/+")
        await client.ask(publish(ME + "attributes", {"firmware": "v1"}, 2))
        async with sites.hub():
            await settle(door.node)
            assert at_hub(sites, Scope.CLIENT) == {"firmware": "v1"}
            await edit(sites, Scope.SHARED, limit=900, unit="kg")
            assert await told(client) == (ME + "attributes", {"limit": 900, "unit": "kg"})
        async with sites.hub(is_reachable=False):
            pass
        async with sites.hub():
            await edit(sites, Scope.SHARED, limit=950, unit=None)
            await edit(sites, Scope.SERVER, note="not for devices")
            found = [await told(client), await told(client)]
            assert found == [
                (ME + "attributes", {"limit": 950}), (ME + "attributes", {"deleted": ["unit"]})
            ]  # fmt: skip
            await settle(door.node)
            says_nothing_else(client)
            entities = door.node.entities
            assert entities.attributes("device", "Scale", "server") == {"note": "not for devices"}


async def test_changed_on_both_sides_the_hubs_word_counts_for_shared(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with site(sites) as door:
        entities = door.node.entities
        entities.set_attributes("device", "Scale", {"limit": 1, "other": 1}, "shared")
        async with sites.hub():
            await edit(sites, Scope.SHARED, limit=2)
            await settle(door.node)
            assert entities.attributes("device", "Scale", "shared") == {"limit": 2, "other": 1}
            assert at_hub(sites, Scope.SHARED) == {"limit": 2, "other": 1}


async def test_a_program_watches_attributes(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    async with (
        sites.node("barn") as node, sites.hub(),
        node.entities.watch("device", "Scale") as changes,
    ):  # fmt: skip
        await edit(sites, Scope.SHARED, limit=2)
        with trio.fail_after(30):
            room, one = await anext(changes)
        assert (room, one.name) == ("shared", "Scale")
        node.entities.set_attributes("device", "Other", {"a": 1})
        node.entities.set_attributes("device", "Scale", {"a": 1})
        with trio.fail_after(30):
            rooms = [(await anext(changes))[0] for _ in range(2)]
        assert rooms == ["entity", "client"]


async def test_a_watch_that_is_not_read_says_what_it_lost(tmp_path: Path) -> None:
    async with Sites(tmp_path).node("barn") as node, node.entities.watch(limit=3) as changes:
        for number in range(10):
            node.entities.set_attributes("device", "Scale", {"a": number})
        rooms = [(await anext(changes))[0] for _ in range(4)]
        assert rooms == ["entity", "client", "client", "overflow"]
        assert changes.lost == 8


# -- claims ------------------------------------------------------------------------------------


async def test_a_device_offers_itself_without_telling_its_secret(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5) as client:
        before_ms = door.node.wall_ns() // 1_000_000
        offer = {"secretKey": "s3cret", "durationMs": 60_000}
        assert await client.ask(publish(ME + "claim", offer, 2)) == Puback(packet_id=2)
        held = door.node.entities.attributes("device", "Scale", "server")["claim"]
        assert "s3cret" not in json.dumps(held)
        assert 0 <= held["until_ms"] - before_ms - 60_000 < 60_000
        made = claims.claim(held, None, "s3cret", "ana", before_ms)
        assert made == {"by": "ana", "at_ms": before_ms}
        for secret, at_ms in (("wrong", before_ms), ("s3cret", held["until_ms"])):
            with pytest.raises(EntityError):
                claims.claim(held, None, secret, "ana", at_ms)
        # Without a payload: with no secret, for a day.
        empty = Publish(topic=ME + "claim", payload=b"", qos=1, packet_id=3)
        assert await client.ask(empty) == Puback(packet_id=3)
        held = door.node.entities.attributes("device", "Scale", "server")["claim"]
        assert claims.claim(held, None, "", "ana", before_ms + 86_000_000)
    async with open_door(tmp_path) as door:  # what was acknowledged is on disk
        assert door.node.entities.attributes("device", "Scale", "server")["claim"] == held


async def test_a_gateway_offers_its_devices_and_a_mistake_costs_one(tmp_path: Path) -> None:
    async with open_door(tmp_path) as door, door.client(V5, token="GATE_TOKEN") as client:
        offers = {
            "A": {"secretKey": "a"}, "Scale": {"secretKey": "b"}, "B": {"durationMs": "soon"},
            "C": {"durationMs": 2**40}, "D": {"secretKey": 7}, "E": {"secretKey": "x" * 300},
        }  # fmt: skip
        answer = await client.ask(publish(GATE + "claim", offers, 2))
        assert isinstance(answer, Puback)
        refused = door.server.status().refusals
        assert refused[-1].problem.startswith("Scale: 'Scale' is somebody who speaks for itself")
        for name in ("A", "Scale", "B", "C", "D", "E"):
            held = door.node.entities.attributes("device", name, "server")
            assert ("claim" in held) == (name == "A"), name
