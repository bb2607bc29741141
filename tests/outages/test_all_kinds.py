"""Changes of every kind at a whole hub while its edge is cut off: all of them are there after.

Everything goes in by the hub's API, as from its pages and commands, and nobody asks the edge for
anything: what is state comes with its keys, the rest by the lanes, and files beside them.
"""

import hashlib
import io
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode
from edgesync.demo.cable import open_cable
from edgesync.entities.alarms import alarm_id
from edgesync.entities.model import entity
from hubd.objects.store import Objects
from tests.edgesync.rules.chains import exported
from tests.outages.ship import HubAsked, Ship
from tests.outages.test_missed import slowly_until
from tests.sites import PATIENCE_S, until

pytestmark = [
    pytest.mark.slow,
    pytest.mark.feature("S7", "S8", "S9", "S11", "S18", "S22", "S24", "L5"),
]

EDGE = "/edges/ship"
KINDS = 10
CHANGES = 300
FILE = bytes(range(256)) * 2_000
NOW_NS = 1_790_000_000 * 10**9


def chain(name: str) -> str:
    save = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
    return exported([save], name=name).decode()


def secret(n: int) -> str:
    return f"token of reefer {n}"


def prepare(node: EdgeNode, n: int) -> None:
    """Have on both sides what is changed or removed later."""
    entities, name = node.entities, f"reefer {n}"
    match n % KINDS:
        case 0 | 2 | 3:
            entities.save("device", name, label="old")
            entities.set_attributes("device", name, {"old": 1}, "server")
        case 5:
            entities.relate(("asset", "deck"), "Contains", ("device", name))
        case 6:
            entities.raise_alarm("device", name, "too warm", "MAJOR")


async def change(hub: HubAsked, n: int) -> None:
    name = f"reefer {n}"
    match n % KINDS:
        case 0:
            await hub.tell(f"{EDGE}/entities/delete", entity=name)
        case 1:
            await hub.tell(f"{EDGE}/entities", entity=name, fields={"label": f"nr {n}"})
        case 2:
            await hub.tell(f"{EDGE}/attributes", entity=name, scope="shared", set={"limit": n})
        case 3:
            await hub.tell(f"{EDGE}/attributes", entity=name, scope="server", delete=["old"])
        case 4:
            ends = {"entity": "deck", "kind": "asset", "to": name}
            await hub.tell(f"{EDGE}/relations", **ends, type="Contains")
        case 5:
            ends = {"entity": "deck", "kind": "asset", "to": name}
            await hub.tell(f"{EDGE}/relations/delete", **ends, type="Contains")
        case 6:
            await hub.tell(f"{EDGE}/alarms/{raised(n)}/clear", by="ann")
        case 7:
            await hub.tell(f"{EDGE}/rpc", device="winch", method="reel", params=n, ttl_s=86_400)
        case 8:
            told = {"action": "credentials_updated", "entity": name}
            await hub.tell(f"{EDGE}/events", **told, body={"token": secret(n)})
        case _:
            reading = {"key": "forecast", "value": float(n), "time_ns": NOW_NS + n}
            told = {"action": "timeseries_updated", "entity": name}
            await hub.tell(f"{EDGE}/events", **told, body={"readings": [reading]})


def raised(n: int) -> str:
    return alarm_id(entity("ship", "device", f"reefer {n}"), "too warm")


def lacks(node: EdgeNode, tokens: str) -> list[int]:
    """Return which changes are not here."""
    entities = node.entities
    contained = {one.to.name for one in entities.relations("asset", "deck")}
    cleared = {one.id for one in entities.alarms() if one.status == "CLEARED_UNACK"}
    newest = {one.entity: one.value for one in node.latest() if one.key == "forecast"}

    def is_here(n: int) -> bool:
        name = f"reefer {n}"
        match n % KINDS:
            case 0:
                return entities.find("device", name) is None
            case 1:
                found = entities.find("device", name)
                return found is not None and found.fields == {"label": f"nr {n}"}
            case 2:
                return entities.attributes("device", name, "shared") == {"limit": n}
            case 3:
                return entities.attributes("device", name, "server") == {}
            case 4:
                return name in contained
            case 5:
                return name not in contained
            case 6:
                return raised(n) in cleared
            case 8:
                return hashlib.sha256(secret(n).encode()).hexdigest() in tokens
            case 9:
                return newest.get(name) == float(n)
        return True  # calls are for a program

    return [n for n in range(CHANGES) if not is_here(n)]


@asynccontextmanager
async def winch(node: EdgeNode, called: list[Any]) -> AsyncIterator[None]:
    async def answer() -> None:
        async with node.part("rpc").serve("winch") as calls:
            async for one in calls:
                called.append(one.params)
                await one.answer(one.params)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(answer)
        yield
        nursery.cancel_scope.cancel()


async def test_changes_of_every_kind_are_there_after_an_outage(tmp_path: Path) -> None:
    ship, called = Ship(tmp_path), list[Any]()
    host, port = ship.endpoint.removeprefix("tcp://").split(":")
    tokens = tmp_path / "ship" / "data" / "mqtt-provisioned.toml"
    async with open_cable((host, int(port))) as cable, ship.hub(2 * PATIENCE_S) as hub:
        ship.endpoint = "tcp://{}:{}".format(*cable.address)
        async with ship.node() as node, winch(node, called):
            node.entities.save("asset", "deck")
            for n in range(CHANGES):
                prepare(node, n)
            await node.sync(PATIENCE_S)
            await hub.tell("/rules", name="cold", files={"a": chain("First")})
            await hub.tell("/rules/cold/assign", edges=["ship"])
            await hub.until(f"{EDGE}/rules", lambda one: one["state"] == "running")
            cable.cut()
            await until(lambda: node.status().link.state in ("Disconnected", "Queuing"))
            for n in range(CHANGES):
                await change(hub, n)
            await hub.tell("/rules", name="cold", files={"a": chain("Second")})
            await hub.tell("/rules/cold/assign", edges=["ship"])
            with closing(ship.yard.registry()) as registry:
                Objects(registry.owned, ship.yard.folder / "objects").put(
                    "default", "map", io.BytesIO(FILE)
                )
            await hub.tell("/objects/map/assign", edges=["ship"])
            await hub.tell("/keys/command", command=["SET", "price", "1.25"])
            assert len(lacks(node, "")) == CHANGES * (KINDS - 1) // KINDS
            assert called == []
            cable.plug()
            await slowly_until(lambda: tokens.exists() and not lacks(node, tokens.read_text()))
            assert node.cells.ask("GET", ["price"]) == b"1.25"
            await until(lambda: called == list(range(7, CHANGES, KINDS)))
            found = await hub.until(
                f"{EDGE}/rules", lambda one: (one["state"], one["version"]) == ("running", 2)
            )
            assert found["chains"] == ["Second"]
            await until(lambda: [one.standing for one in node.objects.states()] == ["held"])
            assert node.objects.path("map").read_bytes() == FILE
            expected = list(range(7, CHANGES, KINDS))
            while True:
                if await answers(hub) == expected:
                    break
                await trio.sleep(0.2)


async def answers(hub: HubAsked) -> list[Any]:
    """Return what calls were answered, the oldest first."""
    found = await hub.all(f"{EDGE}/rpc", "calls", state="ANSWERED")
    return [one["answer"] for one in reversed(found)]
