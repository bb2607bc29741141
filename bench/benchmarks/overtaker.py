"""An edge with a backlog that raises alarms while it drains: `overtaker EDGE.TOML SECONDS EVERY_S`.

Prints how long each alarm took from its commit until the hub had it, the records a second of each
lane, and how many were still waiting at the end: when none does, at the latest after SECONDS. With
EVERY_S 0 it raises no alarm.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import trio

from bench.benchmarks.pacer import percentiles
from edgesync import EdgeNode, Event, EventType, Lane

LOOK_S = 0.01


async def main(config: Path, seconds: float, every_s: float) -> None:
    took_s: list[float] = []
    async with EdgeNode(config) as node:
        driver = node.part("link").driver
        assert driver is not None
        while not driver.epoch:  # noqa: ASYNC110 - as a user would
            await trio.sleep(LOOK_S)
        lanes, begun = driver.sender.lanes, time.perf_counter()
        had = [lane.floor for lane in lanes]
        while driver.sender.backlog and time.perf_counter() < begun + seconds:
            await trio.sleep(every_s or LOOK_S)
            if every_s:
                alarm = Event(type=EventType.ALARM, entity_id="pump", time_ns=time.time_ns())
                await node.emit(alarm, Lane.CRITICAL)
                committed = time.perf_counter()
                await driver.wait_floor(Lane.CRITICAL, lanes[Lane.CRITICAL].tail)
                took_s.append(time.perf_counter() - committed)
        spent, waiting = time.perf_counter() - begun, driver.sender.backlog
        found: dict[str, Any] = {"alarms": len(took_s), "waiting": waiting, "seconds": spent}
        for lane, first in zip(lanes, had, strict=True):
            found[f"{lane.lane.name.lower()}_s"] = (lane.floor - first) / spent
    print(json.dumps(found | percentiles("alarm_", took_s)))


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3]))
