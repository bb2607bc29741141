"""What does it cost to have the same entities at an edge and at its hub?

Decides whether state may be keys, carried by what carries keys, or needs a sync of its own: an
edge that comes back to 10,000 entities that nobody has changed should be up to date within 5 s and
100 KB. A real edge and a real hub, over a cable that counts every byte of TCP, handshake and
encryption too. Each entity is a device with a record of two fields, two shared attributes and one
that the device reports. `python -m bench.benchmarks.entities` prints it.
"""

import sys
import tempfile
import time
from pathlib import Path
from typing import Final

import msgspec
import trio

from edgesync import EdgeNode
from edgesync.demo.cable import Cable, open_cable
from edgesync.entities import attributes, records
from edgesync.entities.model import Scope, entity
from edgesync.entities.view import Command, SpaceView
from hubd.cells import Answers
from tests.sites import Sites

ROOT: Final = Path(__file__).parent.parent.parent
EDGE: Final = "barn-7"
COUNT: Final = 10_000
CHANGED: Final = 100
A_WRITE: Final = 500
PATIENCE_S: Final = 300


class Cost(msgspec.Struct):
    """Seconds until the edge is up to date, and bytes of TCP, both ways."""

    seconds: float
    nbytes: int


class Costs(msgspec.Struct):
    """first: all of it to an edge that has nothing; reported: what devices report, to the hub.

    again: the edge is stopped and started; changed: likewise, after so many changes at the hub;
    missed: the line was cut while one attribute of each entity was changed there
    """

    first: Cost
    reported: Cost
    again: Cost
    changed: Cost
    missed: Cost


class Meter:
    def __init__(self, cable: Cable) -> None:
        self._cable = cable
        self.start()

    def start(self) -> None:
        self._began, self._before = time.perf_counter(), self._total()

    def _total(self) -> int:
        return self._cable.bytes_to + self._cable.bytes_back

    def stop(self) -> Cost:
        return Cost(time.perf_counter() - self._began, self._total() - self._before)


async def create(answers: Answers, count: int) -> None:
    cells = answers.cells
    view = SpaceView(cells.space, cells.now_ms)
    commands: list[Command] = []
    for number in range(count):
        one = entity(EDGE, "device", f"Scale {number:05}")
        commands += records.plan_save(view, one, {"label": f"Pen {number}"}, cells.now_ms())
        shared = {"limit": 900 + number, "unit": "kg"}
        commands += attributes.plan_set(view, one, Scope.SHARED, shared)
        if len(commands) >= A_WRITE:
            await answers.run_commands(commands)
            commands = []
    await answers.run_commands(commands)


async def change(answers: Answers, count: int, value: int) -> None:
    """Change an attribute of so many entities."""
    view = SpaceView(answers.cells.space, answers.cells.now_ms)
    commands: list[Command] = []
    for number in range(count):
        one = entity(EDGE, "device", f"Scale {number:05}")
        commands += attributes.plan_set(view, one, Scope.SHARED, {"limit": value})
    for at in range(0, count, A_WRITE):
        await answers.run_commands(commands[at : at + A_WRITE])


def report(node: EdgeNode, count: int) -> None:
    cells = node.cells
    view = SpaceView(cells.space, cells.now_ms)
    for number in range(count):
        one = entity(EDGE, "device", f"Scale {number:05}")
        for command in attributes.plan_set(view, one, Scope.CLIENT, {"firmware": f"1.{number}"}):
            cells.run(command)
        if number % A_WRITE == 0:
            cells.commit()
    cells.commit()


async def measure(count: int = COUNT) -> Costs:
    (ROOT / "build").mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=ROOT / "build") as name:
        sites = Sites(Path(name))
        host, port = sites.address.removeprefix("tcp://").split(":")
        async with open_cable((host, int(port))) as cable, sites.hub():
            sites.address = f"tcp://{cable.address[0]}:{cable.address[1]}"
            await create(sites.answers, count)
            meter = Meter(cable)

            async def synced(node: EdgeNode) -> Cost:
                node.part("keys")  # opened, or there is nothing to be kept the same
                await node.sync(PATIENCE_S)
                return meter.stop()

            async with sites.node(EDGE) as node:
                first = await synced(node)
                assert node.cells.space.keys == 2 * count
                meter.start()
                report(node, count)
                reported = await synced(node)
            meter.start()
            async with sites.node(EDGE) as node:
                again = await synced(node)
                assert node.cells.space.keys == 3 * count
            await change(sites.answers, min(CHANGED, count), value=1)
            meter.start()
            async with sites.node(EDGE) as node:
                changed = await synced(node)
                cable.cut()
                await change(sites.answers, count, value=2)
                meter.start()
                cable.plug()
                missed = await synced(node)
                one = f"Scale {count - 1:05}"
                assert node.entities.attributes("device", one, "shared")["limit"] == 2
        return Costs(first, reported, again, changed, missed)


class Entities:
    """10,000 entities at an edge and at its hub."""

    timeout = 600

    def setup_cache(self) -> Costs:
        return trio.run(measure)

    def track_again_s(self, costs: Costs) -> float:
        return costs.again.seconds

    def track_again_bytes(self, costs: Costs) -> int:
        return costs.again.nbytes

    def track_missed_s(self, costs: Costs) -> float:
        return costs.missed.seconds

    def track_first_s(self, costs: Costs) -> float:
        return costs.first.seconds

    def track_first_bytes_an_entity(self, costs: Costs) -> float:
        return costs.first.nbytes / COUNT

    def track_changed_bytes_a_change(self, costs: Costs) -> float:
        return (costs.changed.nbytes - costs.again.nbytes) / CHANGED


if __name__ == "__main__":
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else COUNT
    for what, cost in msgspec.structs.asdict(trio.run(measure, wanted)).items():
        print(f"{what:9} {cost.seconds:7.2f} s {cost.nbytes / 1000:10.1f} KB")
