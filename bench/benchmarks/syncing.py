"""Is telemetry later while an edge takes in 10,000 entities than while nothing else goes on?

Decides whether a full sync needs a place behind the readings: they should wait at most twice as
long, and never for its end. A real hub and a real edge, a process each; the edge stores 100 polls
a second of 10 readings, and a poll's clock runs from its commit on the edge's disk to the ack.
A gateway with a new disk meets its hub: first it keeps no keys, and what its polls take is what is
normal; then it opens them (a daemon has done so before, and loaded the code, so that is not
counted), and all 10,000 come, a record and shared attributes each. Polls begun until the last is
there count as meanwhile. `python -m bench.benchmarks.syncing` prints it.
"""

import gc
import importlib
import json
import os
import shutil
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Final

import trio

from bench.benchmarks.entities import A_WRITE
from bench.benchmarks.rig import open_rig
from edgesync import EdgeNode, Reading
from edgesync.entities import attributes, records
from edgesync.entities.model import Scope, entity
from edgesync.entities.view import Command, SpaceView

COUNT: Final = 10_000
ROUNDS: Final = 5
POLLS_S, READINGS = 100, 10
WARM_UP_S, NORMAL_S = 1.0, 5.0


async def fill(config: Path, count: int) -> None:
    """Make so many entities, and have the hub know them."""
    async with EdgeNode(config) as node:
        cells, name = node.cells, node.settings.edge.name
        view = SpaceView(cells.space, cells.now_ms)
        for number in range(count):
            one = entity(name, "device", f"Scale {number:05}")
            plan: list[Command] = [
                *records.plan_save(view, one, {"label": f"Pen {number}"}, cells.now_ms()),
                *attributes.plan_set(view, one, Scope.SHARED, {"limit": number, "unit": "kg"}),
            ]
            for command in plan:
                cells.run(command)
            if number % A_WRITE == 0:
                await cells.wait_durable()
        await node.sync()
    print(json.dumps({}))


async def take_in(config: Path, count: int) -> None:
    """Store polls, and after a while take in all entities; prints how long each poll took."""
    async with EdgeNode(config) as node:
        driver, taken_s, is_over = node.part("link").driver, list[float](), False

        async def poll(number: int) -> None:
            now = time.time_ns()
            values = [(number * 7 + n) % 997 / 10 for n in range(READINGS)]
            await node.ingest([Reading("plant", f"s{n}", one, now) for n, one in enumerate(values)])
            tails, committed = node.recorder.tails(), time.perf_counter()
            await driver.wait_durable(tails)
            taken_s.append(time.perf_counter() - committed)

        async def keep_polling(polls: trio.Nursery) -> None:
            begun, number = trio.current_time(), 0
            while not is_over:
                await trio.sleep_until(begun + number / POLLS_S)
                polls.start_soon(poll, number)
                number += 1

        await driver.wait_session()
        for module in ("edgesync.parts.keys", "edgesync.sync.cells"):
            importlib.import_module(module)
        gc.freeze()  # as the daemon does
        async with trio.open_nursery() as polls:
            polls.start_soon(keep_polling, polls)
            await trio.sleep(WARM_UP_S + NORMAL_S)
            normal, begun = len(taken_s), time.perf_counter()
            node.part("keys")
            while node.cells.space.keys < 2 * count:  # noqa: ASYNC110 - nobody tells
                await trio.sleep(0.005)
            seconds, is_over = time.perf_counter() - begun, True
    warm = int(POLLS_S * WARM_UP_S)
    found = {"normal": taken_s[warm:normal], "meanwhile": taken_s[normal:], "seconds": seconds}
    print(json.dumps(found))


def measure(count: int = COUNT, rounds: int = ROUNDS) -> dict[str, float]:
    """Return milliseconds from commit to ack, normally and meanwhile, and how they compare."""
    found: list[dict[str, Any]] = []
    with open_rig() as rig:
        rig.program("syncing", "fill", rig.config, count)
        for _ in range(rounds):
            shutil.rmtree(rig.data_dir)
            found.append(rig.program("syncing", "take_in", rig.config, count))
    normal = sorted(one for each in found for one in each["normal"])
    meanwhile = sorted(one for each in found for one in each["meanwhile"])
    marks: dict[str, float] = {
        "sync_s": statistics.median(one["seconds"] for one in found), "polls": len(meanwhile),
    }  # fmt: skip
    for name, part in (("p50", 50), ("p95", 95), ("p99", 99)):
        before, during = (
            1e3 * statistics.quantiles(each, n=100)[part - 1] for each in (normal, meanwhile)
        )
        marks |= {
            f"{name}_normal_ms": before,
            f"{name}_ms": during,
            f"{name}_ratio": during / before,
        }
    return marks | {"max_normal_ms": 1e3 * normal[-1], "max_ms": 1e3 * meanwhile[-1]}


class Syncing:
    """asv: how many times longer a poll takes to its ack while 10,000 entities come."""

    timeout = 600
    unit = "of normal"

    def setup_cache(self) -> dict[str, float]:
        return measure()

    def track_p50(self, marks: dict[str, float]) -> float:
        return marks["p50_ratio"]

    def track_p99(self, marks: dict[str, float]) -> float:
        return marks["p99_ratio"]


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", config, count]:
            trio.run(fill, Path(config), int(count))
        case ["take_in", config, count]:
            trio.run(take_in, Path(config), int(count))
        case _:
            for name, value in measure(*map(int, sys.argv[1:])).items():
                print(f"{name:15} {value:8.2f}")
            print("load", os.getloadavg())
