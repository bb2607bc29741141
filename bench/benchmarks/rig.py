"""A real hub and a real edge, as processes, for measuring them from outside."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesync import EdgeNode, EventType, Lane, Reading
from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.demo.site import free_ports
from edgesync.model import Action, RecordKind, ValueType, series_id

SERIES = 50
COMMIT = 10_000
# A handshake has three seconds, which a lost packet may take by itself on a long line.
JOINS = 6
# No program takes so long; one that does waits for what will not come.
PROGRAM_S = 900.0
MS = 1_000_000
START_NS = 1_767_225_600 * 10**9


def sensors(polls: int, seed: int = 1) -> Iterator[list[Reading]]:
    """Yield polls of 50 decimal sensors at 1 Hz, stamped to the millisecond with jitter."""
    chance = random.Random(seed)
    levels = [chance.uniform(10, 400) for _ in range(SERIES)]
    for poll in range(polls):
        at = START_NS + poll * 1000 * MS + chance.randrange(-5, 6) * MS
        for n in range(SERIES):
            levels[n] += chance.gauss(0, 0.3)
        yield [Reading("plant", f"s{n}", round(level, 1), at) for n, level in enumerate(levels)]


def preload(data_dir: Path, readings: int) -> None:
    """Fill a journal without a hub."""
    with EdgeNode.local(data_dir) as node:
        group: list[Reading] = []
        for poll in sensors(readings // SERIES):
            group += poll
            if len(group) >= 2000:
                node.ingest_sync(group)
                group = []
        if group:
            node.ingest_sync(group)


def reading(number: int) -> bytes:
    """Return a record of one reading, with a time that no other has."""
    key = series_id("plant", f"s{number % SERIES}")
    return batch.readings(START_NS + number * MS, ValueType.F64, [key], [number % 997 / 10])


def told(number: int) -> bytes:
    """Return an event about one key of an entity."""
    at_ns, body = START_NS + number * MS, b'{"set":{"state":%d}}' % (number % 997)
    entity = f"device-{number % SERIES:03}"
    return event.encode(
        EventType.ATTRIBUTES, Action.ATTRIBUTES_UPDATED, 0, entity, body, at_ns, at_ns, number
    )


SHAPES = {"readings": (RecordKind.READINGS, reading), "events": (RecordKind.EVENT, told)}


def preload_records(
    data_dir: Path, lane: Lane, shape: str, records: int, config: Path | None = None
) -> None:
    """Fill a lane with so many records of one reading or event each, without a hub."""
    kind, make = SHAPES[shape]
    with EdgeNode(config) if config else EdgeNode.local(data_dir) as node:
        for first in range(0, records, COMMIT):
            write = Write()
            bodies = [make(number) for number in range(first, min(first + COMMIT, records))]
            write.append_many(lane, kind, bodies)
            node.store.submit_sync(write)


class Rig:
    """A hub that runs, and an enrolled edge that does not yet.

    ip      where the hub listens
    enter   what programs of the edge are run by, to be elsewhere
    """

    def __init__(
        self, folder: Path, database: str = "", ip: str = "127.0.0.1", enter: Sequence[str] = ()
    ) -> None:
        self.folder = folder
        self.ip = ip
        self._enter = enter
        self.link_port, self.http_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.config = folder / "edge" / "edge.toml"
        self.hub_config = folder / "hub" / "hub.toml"
        listen = f"tcp://{ip}:{self.link_port}"
        self._hubd("init", "--listen", listen, "--port", str(self.http_port))
        if database:
            text = self.hub_config.read_text()
            self.hub_config.write_text(text.replace("[hub]", f'[hub]\ndatabase = "{database}"'))
        self.start_hub()
        self.until_ready()
        token = json.loads(self._hubd("enroll", "edge", "--json"))["token"]
        command = [*enter, sys.executable, "-m", "edgesync", "--config", str(self.config)]
        problem = ""
        for _ in range(JOINS):
            join = [*command, "init", "--token", token]
            done = subprocess.run(join, capture_output=True, text=True)
            if not done.returncode:
                break
            problem = done.stderr
        else:
            self.close()
            raise RuntimeError(problem)
        text = self.config.read_text().replace("port = 9464", "port = 0")
        self.config.write_text(text.replace("[hub]", '[store]\nretain = "0b"\n\n[hub]'))

    @property
    def data_dir(self) -> Path:
        return self.config.parent / "data"

    def _hubd(self, *arguments: str) -> str:
        command = [sys.executable, "-m", "hubd", "--config", str(self.hub_config), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    def until_ready(self) -> None:
        for _ in range(300):
            if self.stats() is not None:
                return
            time.sleep(0.1)
        raise RuntimeError((self.folder / "hub.log").read_text())

    def start_hub(self) -> None:
        with (self.folder / "hub.log").open("ab") as log:
            command = [sys.executable, "-m", "hubd", "--config", str(self.hub_config), "run"]
            self.hub = subprocess.Popen(command, stdout=log, stderr=log)

    def plug_into(self, address: tuple[str, int]) -> None:
        """Let the edge reach the hub through something that listens there."""
        text = self.config.read_text()
        direct = f"{self.ip}:{self.link_port}"
        assert direct in text
        self.config.write_text(text.replace(direct, f"{address[0]}:{address[1]}"))

    def stats(self) -> dict[str, Any] | None:
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/stats", timeout=5) as answer:
                found: dict[str, Any] = json.load(answer)
                return found
        except OSError:
            return None

    def lag(self) -> int:
        stats = self.stats()
        return 1 if stats is None else sum(one["lag"] for one in stats["projectors"])

    def program(self, name: str, *arguments: object) -> dict[str, Any]:
        """Run one of the programs beside this file as a process; returns the JSON it prints."""
        module = f"bench.benchmarks.{name}"
        command = [*self._enter, sys.executable, "-m", module, *map(str, arguments)]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=root, env=environment,
            timeout=PROGRAM_S,
        )  # fmt: skip
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        self.hub.terminate()
        self.hub.wait()


@contextmanager
def open_rig(database: str = "", ip: str = "127.0.0.1", enter: Sequence[str] = ()) -> Iterator[Rig]:
    """Yield a rig, its hub with a database by URL or with files."""
    with tempfile.TemporaryDirectory(prefix="edgesync-bench-") as folder:
        rig = Rig(Path(folder), database, ip, enter)
        try:
            yield rig
        finally:
            rig.close()


def peak_rss_bytes(pid: int | str = "self") -> int:
    """High-water mark of resident memory; reset by writing 5 to clear_refs."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("no VmHWM")


def rss_bytes(pid: int | str = "self") -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
