"""How fast does a backlog leave an edge and arrive: in the hub's log, and in its state?

Decides how long a site is behind after an outage. A day of 50 sensors at 1 Hz is 4.3 million
readings. `python -m bench.benchmarks.drain` prints medians of five.
"""

import json
import statistics
import time
from typing import Any

from bench.benchmarks.rig import open_rig, preload, rss_bytes

READINGS = 1_000_000
RUNS = 5


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


class Drain:
    """asv: readings a second from a preloaded journal into the hub's log, durable both sides."""

    timeout = 300
    number = repeat = 1

    def track_log(self) -> float:
        return float(drain_once(200_000)["log_readings_s"])

    def track_state(self) -> float:
        return float(drain_once(200_000)["state_readings_s"])

    track_log.unit = track_state.unit = "readings/s"  # type: ignore[attr-defined]


def main() -> None:
    runs = [drain_once() for _ in range(RUNS)]
    for one in runs:
        print({name: round(value, 1) for name, value in one.items()})
    medians = {name: statistics.median(run[name] for run in runs) for name in runs[0]}
    print(json.dumps(medians, indent=2))


if __name__ == "__main__":
    main()
