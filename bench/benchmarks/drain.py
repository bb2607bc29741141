"""How fast does a backlog leave an edge and arrive: in the hub's log, and in its state?

Decides how long a site is behind after an outage. A day of 50 sensors at 1 Hz is 4.3 million
readings. `python -m bench.benchmarks.drain [backlog] [depth] [lines]` prints medians of five runs;
`depth` once, what ten million records that wait cost beside ten thousand (DEPTH=1000000 in the
environment for fewer); `lines` three, over a long way and one that loses packets, as root.
"""

import functools
import json
import os
import statistics
import sys
import time
from typing import TYPE_CHECKING, Any

from bench.benchmarks.mixed import batches
from bench.benchmarks.rig import open_rig, preload, preload_records, rss_bytes
from bench.line import EDGE_SIDE, HUB, Long, open_line
from edgesync import EdgeNode, Lane

if TYPE_CHECKING:
    from collections.abc import Callable

READINGS = 1_000_000
RUNS = 5
DEEP, SHALLOW = 10_000_000, 10_000
# Lines, and the readings a second that are wanted over each.
LINES = {"20 ms": (Long(0.02), 10_000), "600 ms, 1 % lost": (Long(0.6, 0.01), 5_000)}
LINE_READINGS = 200_000


def drain_once(readings: int = READINGS) -> dict[str, Any]:
    with open_rig() as rig:
        preload(rig.data_dir, readings)
        found = rig.program("drainer", rig.config)
        while rig.lag():
            time.sleep(0.02)
        state_s = time.time() - found["ended_at"] + found["seconds"]
        return {
            "log_readings_s": readings / found["seconds"],
            "state_readings_s": readings / state_s,
            "edge_peak_mb": found["peak_rss"] / 1e6,
            "hub_mb": rss_bytes(rig.hub.pid) / 1e6,
        }


def drain_records(records: int) -> dict[str, float]:
    """Return what a backlog of so many records of one reading each takes."""
    with open_rig() as rig:
        rig.config.write_text(rig.config.read_text().replace("[store]", '[store]\nlimit = "4gb"'))
        preload_records(rig.data_dir, Lane.BULK, "readings", records, rig.config)
        found = rig.program("drainer", rig.config)
        return {"records_s": records / found["seconds"], "edge_peak_mb": found["peak_rss"] / 1e6}


def deep(records: int) -> dict[str, float]:
    """Return the rate of a deep backlog, and how much that is of a shallow one's."""
    shallow = [drain_records(SHALLOW)["records_s"] for _ in range(RUNS)]
    found = drain_records(records)
    return found | {
        "records": records, "shallow_s": statistics.median(shallow),
        "of_shallow": found["records_s"] / statistics.median(shallow),
    }  # fmt: skip


def over(name: str, readings: int = LINE_READINGS) -> dict[str, float]:
    """Return how fast readings with times of their own go over a line."""
    line, wanted_s = LINES[name]
    with open_line(line) as carried, open_rig(ip=HUB, enter=EDGE_SIDE) as rig:
        with EdgeNode.local(rig.data_dir) as node:
            for group in batches(readings):
                node.ingest_sync(group)
        nbytes = carried.nbytes
        found = rig.program("drainer", rig.config)
        per_s = readings / found["seconds"]
        return {
            "readings_s": per_s, "of_wanted": per_s / wanted_s,
            "bytes_per_reading": (carried.nbytes - nbytes) / readings,
        }  # fmt: skip


class Drain:
    """asv: readings a second from a preloaded journal into the hub's log, durable both sides."""

    timeout = 300
    number = repeat = 1

    def track_log(self) -> float:
        return float(drain_once(200_000)["log_readings_s"])

    def track_state(self) -> float:
        return float(drain_once(200_000)["state_readings_s"])

    track_log.unit = track_state.unit = "readings/s"  # type: ignore[attr-defined]


class Depth:
    """asv: the rate of a million records that wait, of that of ten thousand; 0.95 is wanted."""

    timeout = 300
    number = repeat = 1

    def track_of_shallow(self) -> float:
        return deep(1_000_000)["of_shallow"]


class LongLine:
    """asv: readings a second over a long line, of what is wanted. As root."""

    timeout = 300
    number = repeat = 1
    params = tuple(LINES)
    param_names = ("line",)

    def track_of_wanted(self, line: str) -> float:
        return over(line)["of_wanted"]


def main() -> None:
    depth = int(os.environ.get("DEPTH", DEEP))
    shapes: dict[str, tuple[int, Callable[[], dict[str, Any]]]] = {
        "backlog": (RUNS, drain_once), "depth": (1, functools.partial(deep, depth)),
    }  # fmt: skip
    shapes |= {f"lines {name}": (3, functools.partial(over, name)) for name in LINES}
    asked = sys.argv[1:] or ["backlog"]
    for shape, (count, measure) in shapes.items():
        if shape.split()[0] not in asked:
            continue
        runs = []
        for _ in range(count):
            runs.append(measure())
            print(shape, {name: round(value, 2) for name, value in runs[-1].items()}, flush=True)
        medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
        print(shape, json.dumps(medians, indent=2), "load", os.getloadavg()[0], flush=True)


if __name__ == "__main__":
    main()
