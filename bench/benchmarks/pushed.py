"""How soon is a device told of a shared attribute that was edited at the hub?

Decides whether pushes need a way of their own, or keys are soon enough: a device that is connected
should be told within 100 ms and the round trip (99 of 100). A real hub, edge and MQTT client on one
machine; counted from before the edit is proposed to the hub's log until the client has the packet,
two synced commits and the link in between. `python -m bench.benchmarks.pushed` prints it.
"""

import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Final

import trio

from edgesync.entities import attributes
from edgesync.entities.model import Scope, entity
from edgesync.entities.view import SpaceView
from edgesync.serve.mqtt.packets import Filter, Puback, Publish, Subscribe
from tests.edgesync.serve.mqtt.door import open_door
from tests.sites import Sites, settle

ROOT: Final = Path(__file__).parent.parent.parent
EDITS: Final = 300
PAUSE_S: Final = 0.02
TOPIC: Final = "v1/devices/me/attributes"


async def latencies_s(edits: int) -> list[float]:
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        sites = Sites(Path(name))
        async with sites.node("barn"):
            pass  # makes its keys
        async with (
            sites.hub(),
            open_door(Path(name) / "barn", **sites.settings("barn")) as door,
            door.client() as client,
        ):
            await client.ask(Subscribe(packet_id=1, filters=(Filter(TOPIC, 1),)))
            await settle(door.node)
            cells, scale = sites.cells, entity("barn", "device", "Scale")
            view = SpaceView(cells.space, cells.now_ms)
            found = []
            for number in range(edits):
                await trio.sleep(PAUSE_S)
                plan = attributes.plan_set(view, scale, Scope.SHARED, {"limit": number})
                begun = time.perf_counter()
                await sites.answers.run_commands(plan)
                message = await client.hear()
                found.append(time.perf_counter() - begun)
                assert isinstance(message, Publish)
                assert json.loads(message.payload) == {"limit": number}, (number, message)
                assert message.packet_id is not None
                await client.say(Puback(packet_id=message.packet_id))
            return found


class Pushed:
    """A shared attribute from the hub to a device, in milliseconds."""

    timeout = 300
    unit = "ms"

    def setup_cache(self) -> list[float]:
        return trio.run(latencies_s, EDITS)

    def track_p50(self, found: list[float]) -> float:
        return statistics.median(found) * 1000

    def track_p99(self, found: list[float]) -> float:
        return statistics.quantiles(found, n=100)[98] * 1000


if __name__ == "__main__":
    taken = trio.run(latencies_s, EDITS)
    print(
        f"p50 {statistics.median(taken) * 1000:.1f} ms, "
        f"p99 {statistics.quantiles(taken, n=100)[98] * 1000:.1f} ms, "
        f"longest {max(taken) * 1000:.1f} ms"
    )
