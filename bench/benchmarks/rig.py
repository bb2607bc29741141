"""A real hub and a real edge, as processes, for measuring them from outside."""

import json
import os
import random
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from edgesync import EdgeNode, Reading
from edgesync.demo.site import free_ports

SERIES = 50
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


class Rig:
    """A hub that runs, and an enrolled edge that does not yet."""

    def __init__(self, folder: Path, database: str = "") -> None:
        self.folder = folder
        self.link_port, self.http_port = free_ports(2)
        self.url = f"http://127.0.0.1:{self.http_port}"
        self.config = folder / "edge" / "edge.toml"
        self.hub_config = folder / "hub" / "hub.toml"
        listen = f"tcp://127.0.0.1:{self.link_port}"
        self._hubd("init", "--listen", listen, "--port", str(self.http_port))
        if database:
            text = self.hub_config.read_text()
            self.hub_config.write_text(text.replace("[hub]", f'[hub]\ndatabase = "{database}"'))
        self.start_hub()
        self.until_ready()
        token = json.loads(self._hubd("enroll", "edge", "--json"))["token"]
        command = [sys.executable, "-m", "edgesync", "--config", str(self.config)]
        subprocess.run([*command, "init", "--token", token], check=True, capture_output=True)
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
        direct = f"127.0.0.1:{self.link_port}"
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
        command = [sys.executable, "-m", f"bench.benchmarks.{name}", *map(str, arguments)]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run(
            command, check=True, capture_output=True, text=True, cwd=root, env=environment
        )
        found: dict[str, Any] = json.loads(done.stdout)
        return found

    def close(self) -> None:
        self.hub.terminate()
        self.hub.wait()


@contextmanager
def open_rig(database: str = "") -> Iterator[Rig]:
    """Yield a rig, its hub with a database by URL or with files."""
    with tempfile.TemporaryDirectory(prefix="edgesync-bench-") as folder:
        rig = Rig(Path(folder), database)
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
