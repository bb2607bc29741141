"""A ship without a network for three days: its hub ends up with exactly what happened on board.

500 devices raise 10 alarms a day, three days long: 15,000, where a queue in memory would have
10,000 places. They report 100,000 readings, 1,000 entities are edited, and 500 calls that came
before the ship left port are answered at sea. The edge is stopped and started each midnight, and
its clocks say what they would; hours pass in moments.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from edgesync import EdgeNode, Lane, Reading
from edgesync.entities import alarms
from edgesync.events import EventQuery
from hubd.rpc.calls import NewCall
from tests.edgesync.sync.rpc_hub import call, send_all
from tests.outages.ship import HOUR_NS, HubAsked, Ship
from tests.sites import PATIENCE_S, until

if TYPE_CHECKING:
    from edgesync.status import EventView

pytestmark = [pytest.mark.slow, pytest.mark.feature("S1", "S2", "S4", "S7", "S8", "S24", "S25")]

DEVICES = 500
HOURS = 72
ALARMS = 15_000
READINGS = 100_000
EDITS = 1_000
CALLS = 500


def share(total: int, hour: int) -> range:
    """Return which of `total` fall into an hour."""
    return range(total * hour // HOURS, total * (hour + 1) // HOURS)


class Voyage:
    """What happens on board; `raised`, `edited` and `answered` are what must be at the hub."""

    def __init__(self, ship: Ship) -> None:
        self.ship = ship
        self.raised: dict[str, tuple[int, str]] = {}
        self.edited: dict[str, dict[str, Any]] = {}
        self.answered: list[str] = []

    async def hour(self, node: EdgeNode, hour: int) -> None:
        self.ship.clock.passed_ns += HOUR_NS
        now_ns = self.ship.clock.wall_ns()
        self._edit(node, hour)
        self._raise(node, hour, now_ns // 10**6)
        await node.entities.wait_durable()
        await node.ingest(
            [
                Reading(f"reefer {n % DEVICES}", "temperature", float(n), now_ns + n)
                for n in share(READINGS, hour)
            ]
        )
        await self._answer(node, len(share(CALLS, hour)))

    def _raise(self, node: EdgeNode, hour: int, now_ms: int) -> None:
        entities = node.entities
        for n in share(ALARMS, hour):
            device, type_ = f"reefer {n % DEVICES}", f"too warm, day {n // 5000}, nr {n // 500}"
            one = entities.id("device", device)
            severity = alarms.Severity.CRITICAL
            plan = alarms.plan_raise(entities.view, one, type_, severity, now_ms, details={"n": n})
            entities.apply(plan)
            self.raised[alarms.alarm_id(one, type_)] = (now_ms, device)

    def _edit(self, node: EdgeNode, hour: int) -> None:
        entities = node.entities
        for n in share(EDITS, hour):
            device = f"reefer {n % DEVICES}"
            values = {"setpoint": n, "unit": "°C"}
            one = entities.id("device", device)
            entities.apply(entities.plan_attributes(one, "client", values))
            self.edited[device] = values

    async def _answer(self, node: EdgeNode, count: int) -> None:
        async with node.part("rpc").serve("winch") as calls:
            for _ in range(count):
                call = await anext(calls)
                await call.answer(call.params)
                self.answered.append(call.id)


async def test_all_of_three_days_without_a_network_arrives_once(tmp_path: Path) -> None:
    ship = Ship(tmp_path)
    voyage = Voyage(ship)
    with ship.calls() as calls:
        asked = send_all(calls, "ship", [winch(n) for n in range(CALLS)])
    ship.clock.off_ns = -HOURS * HOUR_NS
    async with ship.hub(), ship.node() as node:
        await until(lambda: node.status().rpc.queued == CALLS)  # type: ignore[union-attr]
    for day in range(3):
        async with ship.node() as node:
            for hour in range(24 * day, 24 * day + 24):
                await voyage.hour(node, hour)
            await until(lambda: not node.entities._journal._alarms)  # its events are told
    assert voyage.answered == asked
    async with ship.node() as node:
        status = node.status()
        assert status.link.state == "Queuing"
        assert status.lanes[Lane.CRITICAL].pending >= ALARMS + CALLS
        assert {(one.refused, one.dropped) for one in status.lanes} == {(0, 0)}
        told = alarm_events(node)
        assert len(told) == len(set(told)) == ALARMS
        async with ship.hub() as hub:
            await node.sync(PATIENCE_S)
            await is_complete(hub, voyage, told)
            assert node.status().link.state == "Connected"


def winch(n: int) -> NewCall:
    return call("reel", {"metres": n}, device="winch", ttl_s=7 * 86_400.0)


def alarm_events(node: EdgeNode) -> list[str]:
    """Return the ids of the alarms' events in the edge's journal, the oldest first."""
    found: list[EventView] = []
    before = node.status().lanes[Lane.CRITICAL].tail + 1
    while before > 1:
        query = EventQuery(lane="critical", before=before, limit=1000)
        page = node.events(query)
        if not page:
            break
        found += [one for one in page if one.type == "ALARM"]
        before = page[-1].seq
    return [one.event_id for one in reversed(found)]


async def is_complete(hub: HubAsked, voyage: Voyage, told: list[str]) -> None:
    state = (await hub.until("/edges/ship", lambda edge: edge["state"]["readings"] >= READINGS))[
        "state"
    ]
    assert (state["readings"], state["lost"], state["dead"]) == (READINGS, 0, 0)
    series = await hub.all("/edges/ship/series", "series")
    assert {one["points"] for one in series} == {READINGS // DEVICES}
    events = await hub.all("/edges/ship/events", "events", type="ALARM")
    assert [one["id"] for one in reversed(events)] == told
    shown = await hub.all("/edges/ship/alarms", "alarms")
    assert {one["id"]: (one["start_ns"] // 10**6, one["entity"]) for one in shown} == voyage.raised
    assert {(one["status"], one["occurrence"], one["at_edge"]) for one in shown} == {
        ("ACTIVE_UNACK", 1, True)
    }
    entities = await hub.all("/edges/ship/entities", "entities", kind="device")
    assert {one["entity"] for one in entities} == set(voyage.edited)
    for device, values in list(voyage.edited.items())[::10]:
        found = (await hub.one("/edges/ship/attributes", entity=device))["client"]
        assert {name: one["value"] for name, one in found.items()} == values
    answered = await hub.all("/edges/ship/rpc", "calls", state="ANSWERED")
    assert {one["id"] for one in answered} == set(voyage.answered)
    assert all(one["answer"] == one["params"] for one in answered)
