"""Readings that share no time: what do they cost, beside a plain SQLite outbox?

200 devices with 8 keys report when they like, in batches of 500; each batch is on disk before the
next. Then the backlog is drained into what a hub can be asked for. Both sides in one run, by turns,
on one disk. This is the shape of work that does not flatter edgesync, whose records are polls of
one time. `python -m bench.benchmarks.mixed` prints medians of five.
"""

import json
import random
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.benchmarks.outbox import Outbox
from bench.benchmarks.rig import START_NS, open_rig
from edgesync import EdgeNode, Reading

DEVICES, KEYS = 200, 8
BATCH = 500
READINGS = 200_000
RUNS = 5
ROOT = Path(__file__).parent.parent.parent


def batches(readings: int, seed: int = 1) -> Iterator[list[Reading]]:
    """Yield batches of decimals that wander, each with a time of its own, to the microsecond."""
    chance = random.Random(seed)
    names = [(f"device-{d:03}", f"key{k}") for d in range(DEVICES) for k in range(KEYS)]
    levels = {name: chance.uniform(10, 400) for name in names}
    now_us = START_NS // 1000
    for _ in range(readings // BATCH):
        found = []
        for _ in range(BATCH):
            name = chance.choice(names)
            now_us += chance.randrange(1, 1000)
            levels[name] += chance.gauss(0, 0.3)
            found.append(Reading(*name, round(levels[name], 1), now_us * 1000))
        yield found


def ingest(take: Callable[[Sequence[Reading]], None], work: list[list[Reading]]) -> dict[str, Any]:
    """Readings a second, and the process's CPU a reading; the first tenth warms up."""
    warm = len(work) // 10
    for batch in work[:warm]:
        take(batch)
    started, cpu = time.perf_counter(), time.process_time()
    for batch in work[warm:]:
        take(batch)
    count = sum(map(len, work[warm:]))
    return {
        "ingest_s": count / (time.perf_counter() - started),
        "ingest_cpu_us": (time.process_time() - cpu) / count * 1e6,
    }


def cpu_s(pid: int) -> float:
    """Return the CPU seconds a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / 100


def disk_bytes(folder: Path) -> int:
    return sum(path.stat().st_blocks * 512 for path in folder.rglob("*") if path.is_file())


def ours(work: list[list[Reading]]) -> dict[str, Any]:
    count = sum(map(len, work))
    with open_rig() as rig:
        with EdgeNode.local(rig.data_dir) as node:
            found = ingest(node.ingest_sync, work)
        used, size = cpu_s(rig.hub.pid), disk_bytes(rig.folder / "hub")
        drained = rig.program("drainer", rig.config)
        while rig.lag():
            time.sleep(0.005)
        seconds = time.time() - drained["ended_at"] + drained["seconds"]
        return found | {
            "drain_s": count / seconds,
            "hub_cpu_us": (cpu_s(rig.hub.pid) - used) / count * 1e6,
            "hub_disk": (disk_bytes(rig.folder / "hub") - size) / count,
        }


def yardstick(work: list[list[Reading]]) -> dict[str, Any]:
    count = sum(map(len, work))
    with tempfile.TemporaryDirectory(prefix="edgesync-bench-") as name:
        hub_folder = Path(name) / "hub"
        hub_folder.mkdir()
        box = Outbox(Path(name) / "outbox.db")
        found = ingest(box.ingest, work)
        command = [sys.executable, "-m", "bench.benchmarks.outbox", str(hub_folder / "hub.db")]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as hub:
            assert hub.stdout is not None
            port = int(hub.stdout.readline())
            used, started = cpu_s(hub.pid), time.perf_counter()
            box.drain(port)
            seconds = time.perf_counter() - started
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/") as answer:
                assert json.load(answer)["rows"] == count
            found |= {
                "drain_s": count / seconds,
                "hub_cpu_us": (cpu_s(hub.pid) - used) / count * 1e6,
                "hub_disk": disk_bytes(hub_folder) / count,
                "line": box.sent_bytes / count,
            }
            hub.terminate()
        return found


class Mixed:
    """asv: our share of the outbox's rate, durable readings a second into the edge."""

    timeout = 300
    number = repeat = 1

    def track_ingest_of_outbox(self) -> float:
        work = list(batches(50_000))
        return float(ours(work)["ingest_s"] / yardstick(work)["ingest_s"])

    track_ingest_of_outbox.unit = "of the outbox"  # type: ignore[attr-defined]


def main() -> None:
    work = list(batches(READINGS))
    runs: dict[str, list[dict[str, Any]]] = {"edgesync": [], "outbox": []}
    for _ in range(RUNS):
        runs["edgesync"].append(ours(work))
        runs["outbox"].append(yardstick(work))
    for name, found in runs.items():
        medians = {key: statistics.median(run[key] for run in found) for key in found[0]}
        print(f"{name:9}", {key: round(value, 1) for key, value in medians.items()})


if __name__ == "__main__":
    main()
