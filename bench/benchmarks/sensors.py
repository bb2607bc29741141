"""How many readings of sensors can an edge store a second, on disk for the hub and for questions?

Decides whether programs may hand every reading to the edge as it comes, or have to thin them out
first: 500,000 a second in batches, from Python. The journal is emptied between batches, outside of
the time measured, as the hub's acknowledgements would.

poll      all sensors share the times: a bus that is read in turns
own       every reading has a time of its own: a record each in the journal
objects   as `poll`, given as SensorReading
"""

import array
import random
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any, ClassVar

from edgesync.model import Lane
from edgesync.node import EdgeNode
from edgesync.sensors import SensorIngestion, SensorReading

ROOT = Path(__file__).parent.parent.parent
SENSORS = 1000
SECOND = 10**9
BATCHES = 8


def batch(shape: str, each: int, start: int) -> tuple[list[str], "array.array[int]"]:
    """Which sensor and when, for `each` readings of every sensor."""
    ids = [f"temp-{n:04}" for n in range(SENSORS)] * each
    if shape == "own":
        step = SECOND // SENSORS
        return ids, array.array("q", range(start, start + len(ids) * step, step))
    times = [start + n * SECOND for n in range(each) for _ in range(SENSORS)]
    return ids, array.array("q", times)


def per_s(folder: Path, shape: str, each: int) -> float:
    chance = random.Random(1)
    start = time.time_ns() - 100_000 * SECOND
    spent = 0.0
    with EdgeNode.local(folder) as node:
        sensors = SensorIngestion(node)
        for _ in range(BATCHES):
            ids, times = batch(shape, each, start)
            start += each * SECOND
            values = array.array("d", [round(chance.gauss(20, 5), 1) for _ in ids])
            objects = []
            if shape == "objects":
                columns = zip(ids, values, times, strict=True)
                objects = [SensorReading(one, value, "C", at) for one, value, at in columns]
            started = time.perf_counter()
            if objects:
                sensors.ingest_batch_sync(objects)
            else:
                sensors.ingest_columns_sync(ids, times, values)
            spent += time.perf_counter() - started
            tail = node.store.state(Lane.BULK).tail
            node.store.acknowledge_sync(Lane.BULK, tail, tail)
    return BATCHES * SENSORS * each / spent


class Ingest:
    params: ClassVar[list[list[Any]]] = [["poll", "own", "objects"], [1, 10, 100]]
    param_names: ClassVar = ["shape", "readings_a_sensor"]
    timeout = 300
    unit = "readings/s"

    def setup(self, shape: str, each: int) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=ROOT / "build"))

    def teardown(self, shape: str, each: int) -> None:
        shutil.rmtree(self.folder)

    def track_readings_per_s(self, shape: str, each: int) -> float:
        return per_s(self.folder, shape, each)


if __name__ == "__main__":
    for shape in Ingest.params[0]:
        for each in Ingest.params[1]:
            one = Ingest()
            one.setup(shape, each)
            found = one.track_readings_per_s(shape, each)
            print(f"{shape:8} {SENSORS} sensors × {each:3} readings: {found:12,.0f}/s")
            one.teardown(shape, each)
