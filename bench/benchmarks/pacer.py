"""An edge that stores at an even pace and prints how late the hub had it.

    pacer EDGE.TOML COMMITS_A_SECOND READINGS_A_COMMIT SECONDS

The clock of a commit starts when it is on the edge's disk.
"""

import json
import statistics
import sys
import time
from pathlib import Path

import trio

from edgesync import EdgeNode, Reading

WARM_UP_S = 1.0


async def one(node: EdgeNode, number: int, readings: int, late_s: list[float]) -> None:
    now = time.time_ns()
    poll = [Reading("plant", f"s{n}", (number * 7 + n) % 997 / 10, now) for n in range(readings)]
    await node.ingest(poll)
    committed = time.perf_counter()
    await node.sync()
    late_s.append(time.perf_counter() - committed)


async def main(config: Path, commits_s: int, readings: int, seconds: float) -> None:
    late_s: list[float] = []
    async with EdgeNode(config) as node:
        while not node.status().link.epoch:  # noqa: ASYNC110 - as a user would
            await trio.sleep(0.001)
        async with trio.open_nursery() as nursery:
            begun = trio.current_time()
            for number in range(int(commits_s * (seconds + WARM_UP_S))):
                await trio.sleep_until(begun + number / commits_s)
                nursery.start_soon(one, node, number, readings, late_s)
    counted = late_s[int(commits_s * WARM_UP_S) :]
    steps = statistics.quantiles(counted, n=1000)
    print(json.dumps({
        "commits": len(counted), "p50_ms": 1e3 * steps[499], "p99_ms": 1e3 * steps[989],
        "p99_9_ms": 1e3 * steps[998], "max_ms": 1e3 * max(counted),
    }))  # fmt: skip


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]), float(sys.argv[4]))
