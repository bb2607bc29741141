"""Readings that share no time: what do they cost, beside a plain SQLite outbox?

200 devices with 8 keys report when they like, in batches of 500; each batch is on disk before the
next. Then the backlog is drained into what a hub can be asked for. Both sides in one run, by turns,
on one disk. This is the shape of work that does not flatter edgesync, whose records are polls of
one time. A Redis client brings the same to a daemon by `TS.ADD`, pipelined: the next batch when
the last one is answered. `python -m bench.benchmarks.mixed` prints medians of five, and the load
of the machine.
"""

import contextlib
import json
import os
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import trio

from bench.benchmarks.outbox import Outbox
from bench.benchmarks.resp import open_edge
from bench.benchmarks.rig import START_NS, open_rig
from edgesync import EdgeNode, Reading
from edgesync._native.write import Write
from edgesync.demo.cable import open_cable

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


async def line_bytes(work: list[list[Reading]]) -> float:
    """Bytes a reading, both ways, while the backlog is drained through a relay that counts."""
    with open_rig() as rig:
        with EdgeNode.local(rig.data_dir) as node:
            for batch in work:
                node.ingest_sync(batch)
        async with open_cable(("127.0.0.1", rig.link_port)) as cable:
            rig.plug_into(cable.address)
            await trio.to_thread.run_sync(rig.program, "drainer", rig.config)
            return (cable.bytes_to + cable.bytes_back) / sum(map(len, work))


def request(words: Sequence[bytes]) -> bytes:
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(w), w) for w in words)


def requests(batch: Sequence[Reading]) -> bytes:
    """A TS.ADD for each reading."""
    return b"".join(
        request([
            b"TS.ADD", f"{one.entity}:{one.key}".encode(), b"%d" % (one.time_ns // 1_000_000),
            repr(one.value).encode(),
        ])
        for one in batch
    )  # fmt: skip


def take_replies(client: socket.socket, left: int) -> None:
    while left:
        chunk = client.recv(1 << 16)
        assert b"-" not in chunk, chunk
        left -= chunk.count(b"\n")


def clients(work: list[list[Reading]]) -> dict[str, Any]:
    """What a Redis client reaches that brings the batches by TS.ADD."""
    batches_ = [requests(batch) for batch in work]
    with (
        tempfile.TemporaryDirectory(prefix="edgesync-bench-") as name,
        open_edge(Path(name)) as port,
        socket.create_connection(("127.0.0.1", port)) as client,
    ):
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(request([b"INFO", b"server"]))
        pid = int(client.recv(1 << 16).partition(b"process_id:")[2].split()[0])

        def take(batch: bytes) -> None:
            client.sendall(batch)
            take_replies(client, BATCH)

        warm = len(batches_) // 10
        for batch in batches_[:warm]:
            take(batch)
        started, used = time.perf_counter(), cpu_s(pid)
        for batch in batches_[warm:]:
            take(batch)
        count = BATCH * (len(batches_) - warm)
        return {
            "ingest_s": count / (time.perf_counter() - started),
            "ingest_cpu_us": (cpu_s(pid) - used) / count * 1e6,
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


class Intake:
    """asv: making records of readings whose series are known, and noting the newest of each."""

    timeout = 300

    def setup(self) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="edgesync-bench-")
        self.open = contextlib.ExitStack()
        self.node = self.open.enter_context(EdgeNode.local(Path(self.folder.name)))
        *known, self.batch = batches(50_000)
        for batch in known:
            self.node.ingest_sync(batch)
        self.staged = self.node.recorder.intake.stage(Write(), self.batch)

    def teardown(self) -> None:
        self.open.close()
        self.folder.cleanup()

    def time_stage(self) -> None:
        self.node.recorder.intake.stage(Write(), self.batch)

    def time_note(self) -> None:
        self.node.recorder.note_readings(self.batch, self.staged)


def main() -> None:
    work = list(batches(READINGS))
    runs: dict[str, list[dict[str, Any]]] = {"edgesync": [], "TS.ADD": [], "outbox": []}
    for _ in range(RUNS):
        line = {"line": trio.run(line_bytes, work)}
        runs["edgesync"].append(ours(work) | line)
        runs["TS.ADD"].append(clients(work))
        runs["outbox"].append(yardstick(work))
    medians = {
        name: {key: statistics.median(run[key] for run in found) for key in found[0]}
        for name, found in runs.items()
    }
    for name, one in medians.items():
        print(f"{name:9}", {key: round(value, 2) for key, value in one.items()})
    mark = medians["outbox"]
    for name in ("edgesync", "TS.ADD"):
        ratios = {key: value / mark[key] for key, value in medians[name].items() if key in mark}
        print(f"{name:9} of the outbox", {key: round(value, 2) for key, value in ratios.items()})
    print("load", os.getloadavg())


if __name__ == "__main__":
    main()
