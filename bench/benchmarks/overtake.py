"""How late is an alarm that overtakes a backlog, and what does a lane get beside one that is full?

Decides whether a site that was away for days can be called about what happens now. A million
records wait at the edge, readings or events; while they drain an alarm is raised every so often,
and counted is from its commit until the hub has it durably. `share`: what the bulk lane gets while
the normal one never runs empty, of what it gets alone, in the same run.
`python -m bench.benchmarks.overtake [readings|events|share]` prints medians of three.
"""

import json
import os
import statistics
import sys
from typing import Any

from bench.benchmarks.rig import open_rig, preload_records
from edgesync import Lane

RECORDS = 1_000_000
EVERY_S = 0.05
SECONDS = 30.0
SHARE_S = 8.0
# What is wanted: milliseconds at p99, and as the windows of both lanes are of one size, a half.
WANTED_MS, WANTED_SHARE = 200.0, 0.5
RUNS = 3


def overtake(shape: str, records: int = RECORDS, seconds: float = SECONDS) -> dict[str, Any]:
    with open_rig() as rig:
        preload_records(rig.data_dir, Lane.BULK, shape, records)
        found = rig.program("overtaker", rig.config, seconds, EVERY_S)
    return found | {"of_wanted": found["alarm_p99_ms"] / WANTED_MS}


def share(records: int = RECORDS, seconds: float = SHARE_S) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, lanes in (("alone", [Lane.BULK]), ("beside", [Lane.NORMAL, Lane.BULK])):
        with open_rig() as rig:
            for lane in lanes:
                preload_records(rig.data_dir, lane, "events", records)
            one = rig.program("overtaker", rig.config, seconds, 0.0)
            assert one["waiting"], "a lane ran empty"
            found |= {f"{name}_bulk_s": one["bulk_s"], f"{name}_normal_s": one["normal_s"]}
    found["share"] = found["beside_bulk_s"] / (found["beside_bulk_s"] + found["beside_normal_s"])
    found["of_alone"] = found["beside_bulk_s"] / found["alone_bulk_s"]
    return found | {"of_wanted": found["share"] / WANTED_SHARE}


class Overtake:
    """asv: an alarm through a backlog, p99, as a part of 200 ms."""

    timeout = 300
    number = repeat = 1
    params = (("readings", "events"),)
    param_names = ("backlog",)

    def track_p99_of_wanted(self, shape: str) -> float:
        return float(overtake(shape, 300_000, 10.0)["of_wanted"])


class Share:
    """asv: what the bulk lane gets beside a normal one that never runs empty, of a half."""

    timeout = 300
    number = repeat = 1

    def track_share_of_wanted(self) -> float:
        return float(share(400_000, 5.0)["of_wanted"])


def main() -> None:
    for shape in sys.argv[1:] or ["readings", "events", "share"]:
        runs = [share() if shape == "share" else overtake(shape) for _ in range(RUNS)]
        for one in runs:
            print(shape, {key: round(value, 2) for key, value in one.items()}, flush=True)
        medians = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
        print(shape, json.dumps(medians), "load", os.getloadavg()[0], flush=True)


if __name__ == "__main__":
    main()
