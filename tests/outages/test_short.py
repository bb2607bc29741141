"""What an outage costs: bytes for what has changed, no memory for what waits, no clock's word."""

import time
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.demo.cable import open_cable
from edgesync.entities import attributes, records
from edgesync.entities.model import Scope, entity
from tests.edgesync.sync.test_driver import Hub, values
from tests.outages.ship import Clock
from tests.sites import PATIENCE_S, Sites, settle, until

pytestmark = pytest.mark.slow

ENTITIES, CHANGED = 2_000, 10
HOUR_NS = 3600 * 10**9
YEAR_NS = 365 * 24 * HOUR_NS
A_BATCH, BATCHES = 1_000, 300


@pytest.mark.feature("S21")
async def test_an_outage_after_which_little_differs_costs_little(tmp_path: Path) -> None:
    """Of 2,000 entities that both have, a reconnect sends none; of ten changes, ten."""
    sites = Sites(tmp_path)
    host, port = sites.address.removeprefix("tcp://").split(":")
    async with open_cable((host, int(port))) as cable, sites.hub() as hub:
        sites.address = f"tcp://{cable.address[0]}:{cable.address[1]}"
        await sites.answers.run_commands(
            [
                command
                for n in range(ENTITIES)
                for command in records.plan_save(
                    hub.view, entity("barn", "device", f"Scale {n}"), {"label": "new"}, 1
                )
            ]
        )
        async with sites.node("barn") as node:
            node.part("keys")
            await settle(node)
            first = cable.bytes_to + cable.bytes_back
            for changed in (0, CHANGED):
                before = cable.bytes_to + cable.bytes_back
                cable.cut()
                await until(lambda: node.status().link.state in ("Disconnected", "Queuing"))
                for n in range(changed):
                    one = entity("barn", "device", f"Scale {n}")
                    plan = attributes.plan_set(hub.view, one, Scope.SHARED, {"limit": n})
                    await sites.answers.run_commands(plan)
                cable.plug()
                await settle(node)
                spent = cable.bytes_to + cable.bytes_back - before
                assert spent < 20_000 < first, f"{changed} changes: {spent} of {first}"
            assert node.entities.attributes("device", "Scale 9", "shared") == {"limit": 9}


@pytest.mark.feature("S4", "S25")
async def test_steps_of_the_clock_lose_stop_and_reorder_nothing(tmp_path: Path) -> None:
    """Back an hour, ahead ten years, back ten: while readings come and the hub takes them."""
    hub, clock = Hub(tmp_path), Clock()
    plain = hub.node()
    node = EdgeNode(plain.settings, folder=plain.folder, wall_ns=clock.wall_ns)
    count = 0
    async with hub.running(), node as edge:
        for off_ns in (0, -HOUR_NS, 10 * YEAR_NS, -10 * YEAR_NS, 0):
            clock.off_ns = off_ns
            for _ in range(20):
                now_ns = clock.wall_ns()
                await edge.ingest(
                    [Reading("m", "P", float(n), now_ns + n) for n in range(count, count + 10)]
                )
                count += 10
            with trio.fail_after(PATIENCE_S):
                await edge.sync(PATIENCE_S)
            assert await values(hub.log) == [float(n) for n in range(count)]


def anonymous_bytes() -> int:
    """Return the memory of this process that is no page of a file."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon:"):
            return int(line.split()[1]) * 1024
    raise LookupError("RssAnon")


@pytest.mark.feature("S2")
async def test_what_waits_for_the_hub_takes_no_memory(tmp_path: Path) -> None:
    """300,000 readings and none of them is held: the queue is what is on disk."""
    hub = Hub(tmp_path)
    async with hub.node() as edge:
        await ingest(edge, BATCHES // 10)
        before = anonymous_bytes()
        await ingest(edge, BATCHES)
        grown = anonymous_bytes() - before
        assert edge.status().lanes[2].pending > A_BATCH * BATCHES
        # In memory they would be 50 bytes each at the very least.
        assert grown < 8 << 20, f"{grown / 1e6:.1f} MB"


async def ingest(edge: EdgeNode, batches: int) -> None:
    for _ in range(batches):
        at_ns = time.time_ns()
        await edge.ingest([Reading("m", "P", float(n), at_ns + n) for n in range(A_BATCH)])
