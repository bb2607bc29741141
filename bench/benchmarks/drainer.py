"""An edge that drains its journal and prints how long that took: `drainer EDGE.TOML`."""

import json
import sys
import threading
import time
from pathlib import Path

import trio

from bench.benchmarks.rig import peak_rss_bytes, rss_bytes
from edgesync.node import EdgeNode


class HighWater(threading.Thread):
    """Looks at resident memory every few milliseconds."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.peak = 0

    def run(self) -> None:
        while True:
            self.peak = max(self.peak, rss_bytes())
            time.sleep(0.005)


async def main(config: Path) -> None:
    high = HighWater()
    high.start()
    async with EdgeNode(config) as node:
        pending = node.status().pending
        while not node.status().link.epoch:  # noqa: ASYNC110 - as a user would
            await trio.sleep(0.001)
        started = time.perf_counter()
        await node.sync()
        spent = time.perf_counter() - started
        print(json.dumps({
            "records": pending, "seconds": spent, "peak_rss": high.peak,
            "hwm": peak_rss_bytes(), "ended_at": time.time(),
        }))  # fmt: skip


if __name__ == "__main__":
    trio.run(main, Path(sys.argv[1]))
