"""How much room do keys take, on the disk and in memory?

Decides whether a gateway can hold what a preset says: strings of 100 random bytes, told to the hub
and confirmed by it, so that nothing is left but what an edge keeps for good. LMDB fills its pages
when rows come in their order, and leaves a third empty when they come in any other.
"""

import re
import subprocess
import sys
import tempfile
import time
from array import array
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from random import Random
from typing import NamedTuple

from bench.benchmarks.resp import open_edge
from bench.benchmarks.rig import rss_bytes
from edgesync._native.cells import Entry
from edgesync.cells import DATABASE
from edgesync.store.edgecells import EdgeCells
from edgesync.store.journal import EdgeStore

ROOT = Path(__file__).parent.parent.parent
VALUE_BYTES = 100
ORDERS = ["by name", "random"]
COUNT = 100_000
A_COMMIT = 2000
SETTLE_S = 8.0
REPLICA = 7


class Room(NamedTuple):
    """Bytes a key: all the store uses, and memory that is no page of a file."""

    disk: float
    memory: float


def private_bytes() -> int:
    status = Path("/proc/self/status").read_text(encoding="ascii")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    assert found is not None
    return int(found[1]) * 1024


def room(order: str, count: int) -> Room:
    names = array("I", range(count))
    if order == "random":
        Random(3).shuffle(names)
    values = Random(2)
    (ROOT / "build").mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=ROOT / "build") as name,
        EdgeStore(Path(name) / "s", map_bytes_max=2 << 30, databases=(DATABASE,)) as store,
    ):
        cells = EdgeCells(store, random=Random(1))
        cells.space.rejoin(REPLICA)
        for at in range(0, count, A_COMMIT):
            for number in names[at : at + A_COMMIT]:
                cells.ask("SET", (f"key:{number:08}", values.randbytes(VALUE_BYTES)))
            ops = cells.space.take(A_COMMIT, 1 << 30)
            entries = []
            for position, op in enumerate(ops, start=at + 1):
                dots = [op.dot(REPLICA, position)]
                entries.append(Entry(op.key, position, False, [], [(op.name, dots)]))
            cells.space.deliver(entries, ops[-1].n)
            cells.commit()
        assert (cells.space.keys, cells.space.pending) == (count, 0)
        return Room(store.store.used_bytes / count, private_bytes() / count)


def resident_bytes() -> int:
    """Return the memory of an edge without a hub that serves the thousand keys of preset `iot`."""
    with tempfile.TemporaryDirectory() as folder, open_edge(Path(folder), "iot") as port:

        def talk(*lines: str) -> str:
            return subprocess.run(
                ["redis-cli", "-p", str(port)],
                input="\n".join(lines), capture_output=True, text=True, check=True,
            ).stdout  # fmt: skip

        value = "v" * VALUE_BYTES
        assert talk(*(f"SET key:{n} {value}{n}" for n in range(1000))) == "OK\n" * 1000
        assert talk(*(f"GET key:{n}" for n in range(1000))).count(value) == 1000
        time.sleep(SETTLE_S)
        found = re.search(r"process_id:(\d+)", talk("INFO server"))
        assert found is not None
        return rss_bytes(int(found[1]))


class Preset:
    timeout = 120
    unit = "bytes"

    def track_rss_of_iot(self) -> int:
        return resident_bytes()


class Keys:
    params = ORDERS
    param_names = ("order",)
    timeout = 600
    unit = "bytes a key"

    def track_room_on_disk(self, order: str) -> float:
        return room(order, COUNT).disk


def main(count: int = 1_000_000) -> None:
    print(f"preset iot with its 1,000 keys: {resident_bytes() / 1e6:.1f} MB resident", flush=True)
    for order in ORDERS:
        with ProcessPoolExecutor(1) as alone:  # so that memory is that of one
            found = alone.submit(room, order, count).result()
        print(
            f"{count} strings of {VALUE_BYTES} bytes, {order}: {found.disk * count / 1e6:.0f} MB "
            f"on disk, {found.memory * count / 1e6:.0f} MB of memory that is no page of the store",
            flush=True,
        )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
