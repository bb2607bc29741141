"""An edge that stores at an even pace and prints how late the hub had it.

    pacer EDGE.TOML COMMITS_A_SECOND READINGS_A_COMMIT SECONDS [URL OF THE HUB]

The clock of a commit starts when it is on the edge's disk. With a URL each reading has a time of
its own and is of one of 1,600 series, and now and then the hub is asked for the newest value of one
of them until it shows what was committed last.
"""

import json
import random
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import trio

from bench.benchmarks.mixed import DEVICES, KEYS
from edgesync import EdgeNode, Reading

WARM_UP_S = 1.0
# So seldom that asking does not become the work that is measured.
ASK_S = 0.1


class Pace:
    """What is committed, and how long it took."""

    def __init__(self, node: EdgeNode, readings: int, *, is_mixed: bool) -> None:
        self._node = node
        self._readings = readings
        self._is_mixed = is_mixed
        self._chance = random.Random(1)
        self._levels: dict[tuple[str, str], float] = {}
        self.commits = 0
        self.commit_s: list[float] = []
        self.ack_s: list[float] = []
        self.shown_s: list[float] = []

    async def one(self, number: int) -> None:
        begun = time.perf_counter()
        await self._node.ingest(self._mixed() if self._is_mixed else self._poll(number))
        committed = time.perf_counter()
        self.commits = max(self.commits, number)
        self.commit_s.append(committed - begun)
        await self._node.sync()
        self.ack_s.append(time.perf_counter() - committed)

    def _poll(self, number: int) -> list[Reading]:
        now = time.time_ns()
        values = [(number * 7 + n) % 997 / 10 for n in range(self._readings)]
        return [Reading("plant", f"s{n}", value, now) for n, value in enumerate(values)]

    def _mixed(self) -> list[Reading]:
        """Return decimals that wander, each with a time of its own, to the microsecond."""
        now_us, chance = time.time_ns() // 1000, self._chance
        found = []
        for _ in range(self._readings):
            name = f"device-{chance.randrange(DEVICES):03}", f"key{chance.randrange(KEYS)}"
            level = self._levels.get(name) or chance.uniform(10, 400)
            self._levels[name] = level + chance.gauss(0, 0.3)
            now_us -= chance.randrange(1, 1000)
            found.append(Reading(*name, round(level, 1), now_us * 1000))
        return found

    async def keep_asking(self, url: str) -> None:
        """Commit a reading every so often and have it asked for until it is there.

        Its series was the first, so it is the first that the hub lists.
        """
        command = [sys.executable, "-m", "bench.benchmarks.asker", url]
        count = 0
        async with trio.open_nursery() as nursery:
            asker: trio.Process = await nursery.start(
                partial(trio.run_process, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                        check=False)
            )  # fmt: skip
            while True:
                await trio.sleep(ASK_S)
                count += 1
                await self._node.ingest([Reading("probe", "count", float(count), time.time_ns())])
                committed = time.perf_counter()
                assert asker.stdin is not None
                await asker.stdin.send_all(f"{count} {committed!r}\n".encode())
                assert asker.stdout is not None
                self.shown_s.append(float(await asker.stdout.receive_some()))


async def main(config: Path, commits_s: int, readings: int, seconds: float, url: str = "") -> None:
    async with EdgeNode(config) as node:
        while not node.status().link.epoch:  # noqa: ASYNC110 - as a user would
            await trio.sleep(0.001)
        if url:
            await node.ingest([Reading("probe", "count", 0.0, time.time_ns())])
            await node.sync()
        pace = Pace(node, readings, is_mixed=bool(url))
        async with trio.open_nursery() as nursery:
            begun = trio.current_time()
            async with trio.open_nursery() as commits:
                if url:
                    nursery.start_soon(pace.keep_asking, url)
                for number in range(int(commits_s * (seconds + WARM_UP_S))):
                    await trio.sleep_until(begun + number / commits_s)
                    commits.start_soon(pace.one, number)
            nursery.cancel_scope.cancel()
    warm = int(commits_s * WARM_UP_S)
    print(json.dumps(
        {"commits": len(pace.ack_s) - warm}
        | percentiles("", pace.ack_s[warm:])
        | percentiles("commit_", pace.commit_s[warm:])
        | percentiles("shown_", pace.shown_s[int(WARM_UP_S / ASK_S) :])
    ))  # fmt: skip


def percentiles(name: str, seconds: list[float]) -> dict[str, float]:
    if len(seconds) < 2:
        return {}
    steps = statistics.quantiles(seconds, n=1000)
    return {
        f"{name}p50_ms": 1e3 * steps[499], f"{name}p99_ms": 1e3 * steps[989],
        f"{name}p99_9_ms": 1e3 * steps[998], f"{name}max_ms": 1e3 * max(seconds),
    }  # fmt: skip


if __name__ == "__main__":
    _, config, commits, group, lasts, *hub = sys.argv
    trio.run(main, Path(config), int(commits), int(group), float(lasts), "".join(hub))
