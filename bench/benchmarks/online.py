"""What does a reading cost on the line, and how late does the hub have it?

The bytes decide what a mobile contract costs: a backlog of 50 decimal sensors at 1 Hz is drained
through a relay that counts every byte both ways, with CURVE, handshake, heartbeats and acks. The
latency is that of a site that is online: from the commit on the edge's disk to the hub's ack, which
is after the commit there. `python -m bench.benchmarks.online` prints medians of five.
"""

import functools
import json
import statistics
from typing import Any

import trio

from bench.benchmarks.rig import open_rig, preload
from edgesync.demo.cable import open_cable

READINGS = 1_000_000
LATENCY_S = 20.0
RUNS = 5


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


class Line:
    """asv: bytes of a reading on the line, both ways, while a backlog is drained."""

    timeout = 300
    number = repeat = 1

    def track_bytes(self) -> float:
        return trio.run(count_bytes, 200_000)["bytes_per_reading"]

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
    found: dict[str, list[dict[str, Any]]] = {"line": [], "20 x 50": [], "1000 x 1": []}
    for _ in range(RUNS):
        found["line"].append(trio.run(count_bytes, READINGS))
        found["20 x 50"].append(latency(20, 50))
        found["1000 x 1"].append(latency(1000, 1))
    for name, runs in found.items():
        for one in runs:
            print(name, {key: round(value, 3) for key, value in one.items()})
    medians = {
        name: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        for name, runs in found.items()
    }
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
