"""What does a reading cost on the line, and how late does the hub have it?

The bytes decide what a mobile contract costs: a backlog of 50 decimal sensors at 1 Hz is drained
through a relay that counts every byte both ways, with CURVE, handshake, heartbeats and acks. The
latency is that of a site that is online: from the commit on the edge's disk to the hub's ack, which
is after the commit there. The last shapes are readings with times of their own, 2,000 a second in
groups of 20 and 1,000 in groups of 50: there also how long a commit takes (beside it that of the
outbox of `mixed`), until when the hub's API shows it, and what it costs on the line.
`python -m bench.benchmarks.online [--runs 5] [--seconds 20] [shape …]` prints runs and medians.
A run takes twice the seconds at most, and some ten: all shapes five times a quarter of an hour.
"""

import argparse
import functools
import json
import math
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from bench.benchmarks.outbox import Outbox
from bench.benchmarks.pacer import WARM_UP_S, percentiles
from bench.benchmarks.rig import open_rig, preload
from edgesync import Reading
from edgesync.demo.cable import open_cable

if TYPE_CHECKING:
    from collections.abc import Callable

READINGS = 1_000_000
LATENCY_S = 20.0
RUNS = 5
# Commits a second, and readings in each.
OWN, FIFTIES = (100, 20), (20, 50)
# Bytes of a reading on the line, acks and all, that are wanted in batches of 50.
WANTED_BYTES = 30.0


async def count_bytes(readings: int) -> dict[str, float]:
    with open_rig() as rig:
        preload(rig.data_dir, readings)
        async with open_cable(("127.0.0.1", rig.link_port)) as cable:
            rig.plug_into(cable.address)
            drain = functools.partial(rig.program, "drainer", rig.config)
            await trio.to_thread.run_sync(drain)
            return {
                "bytes_per_reading": (cable.bytes_to + cable.bytes_back) / readings,
                "of_which_back": cable.bytes_back / readings,
            }


def latency(commits_s: int, readings: int, seconds: float = LATENCY_S) -> dict[str, Any]:
    with open_rig() as rig:
        return rig.program("pacer", rig.config, commits_s, readings, seconds)


async def own_times(pace: tuple[int, int], seconds: float = LATENCY_S) -> dict[str, Any]:
    """Return what commits of readings take, each reading with a time of its own."""
    with open_rig() as rig:
        async with open_cable(("127.0.0.1", rig.link_port)) as cable:
            rig.plug_into(cable.address)
            run = functools.partial(rig.program, "pacer", rig.config, *pace, seconds, rig.url)
            found = await trio.to_thread.run_sync(run)
            readings = math.prod(pace) * (seconds + WARM_UP_S)
            found["bytes_per_reading"] = (cable.bytes_to + cable.bytes_back) / readings
    return found | await outbox_commits(pace, seconds)


async def outbox_commits(pace: tuple[int, int], seconds: float) -> dict[str, Any]:
    """Return what the same commits take the outbox."""
    commits_s, readings = pace
    taken_s = []
    with tempfile.TemporaryDirectory(prefix="edgesync-bench-") as folder:
        box = Outbox(Path(folder) / "outbox.db")
        begun = trio.current_time()
        for number in range(int(commits_s * seconds)):
            await trio.sleep_until(begun + number / commits_s)
            now = time.time_ns()
            group = [Reading("device", f"key{n}", float(n), now - n) for n in range(readings)]
            at = time.perf_counter()
            box.ingest(group)
            taken_s.append(time.perf_counter() - at)
    return percentiles("outbox_commit_", taken_s)


class Line:
    """asv: bytes of a reading on the line, both ways, while a backlog is drained."""

    timeout = 300
    number = repeat = 1

    def track_bytes(self) -> float:
        return trio.run(count_bytes, 200_000)["bytes_per_reading"]

    def track_fifties_of_wanted(self) -> float:
        """Return the bytes of a reading with a time of its own, online, of what is wanted."""
        found = trio.run(own_times, FIFTIES, 5.0)
        return float(found["bytes_per_reading"]) / WANTED_BYTES

    track_bytes.unit = "bytes/reading"  # type: ignore[attr-defined]


class Latency:
    """asv: milliseconds from commit to ack at 1,000 readings/s, in 20 polls or one by one."""

    timeout = 300
    number = repeat = 1
    params = (((20, 50), (1000, 1)),)
    param_names = ("commits and readings",)

    def track_p99(self, pace: tuple[int, int]) -> float:
        return float(latency(*pace, seconds=5.0)["p99_ms"])

    track_p99.unit = "ms"  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("shapes", nargs="*")
    parser.add_argument("--runs", type=int, default=RUNS)
    parser.add_argument("--seconds", type=float, default=LATENCY_S)
    wanted = parser.parse_args()
    shapes: dict[str, Callable[[], dict[str, Any]]] = {
        "line": lambda: trio.run(count_bytes, READINGS),
        "20 x 50": lambda: latency(20, 50, wanted.seconds),
        "1000 x 1": lambda: latency(1000, 1, wanted.seconds),
        "own times": lambda: trio.run(own_times, OWN, wanted.seconds),
        "own times in fifties": lambda: trio.run(own_times, FIFTIES, wanted.seconds),
    }
    if unknown := set(wanted.shapes) - set(shapes):
        parser.error(f"no shape: {', '.join(sorted(unknown))}; there are {', '.join(shapes)}")
    for name in wanted.shapes or shapes:
        runs = []
        for _ in range(wanted.runs):
            runs.append(shapes[name]())
            print(name, {key: round(value, 3) for key, value in runs[-1].items()}, flush=True)
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(name, json.dumps(medians, indent=2), "load", os.getloadavg()[0], flush=True)


if __name__ == "__main__":
    main()
