"""How many bytes of windows travel for a sensor and minute?

Decides what a metered line costs: at most 40 bytes without quantiles, 120 with. 1,000 sensors at
1 Hz, one decimal, in windows of a minute, as the batch that goes to the hub.

jitter   times in ms instead of whole seconds
noise    readings beside each other differ at random, instead of wandering
"""

import random
import tempfile
from pathlib import Path
from typing import ClassVar

from edgesync._native import batch
from edgesync.model import Lane, RecordKind
from edgesync.node import EdgeNode
from edgesync.sensors import SensorIngestion

SENSORS = 1000
SECOND = 10**9
START = 1_700_000_040 * SECOND


def wire_bytes(folder: Path, *, sketch: bool, send: str, jitter: bool, noise: bool) -> float:
    """Bytes of the batch of a minute, of each sensor."""
    chance = random.Random(1)
    rollup = [{"send": send, "sketch": sketch}]
    settings = {"edge": {"data_dir": str(folder)}, "series": {"rollup": rollup}}
    clock = START + 200 * SECOND
    with EdgeNode(settings, wall_ns=lambda: clock) as node:
        sensors = SensorIngestion(node)
        for n in range(SENSORS):
            value, times, values = chance.uniform(10, 30), [], []
            for second in range(60):
                value = chance.gauss(20, 5) if noise else value + chance.gauss(0, 0.2)
                late_ms = chance.randrange(1000) if jitter else 0
                times.append(START + second * SECOND + late_ms * 10**6)
                values.append(round(value, 1))
            sensors.ingest_columns_sync([f"temp-{n}"] * 60, times, values)
        rows = batch.records(node.store.read(Lane.BULK, 1, limit_bytes=1 << 28).data)
        wanted = RecordKind.READINGS if send == "raw" else RecordKind.WINDOWS
        with tempfile.TemporaryDirectory() as other, EdgeNode.local(other) as fresh:
            # A batch of nothing but these: declarations travel once in a lifetime.
            from edgesync._native.write import Write

            write = Write()
            write.append_many(Lane.BULK, wanted, [row.body for row in rows if row.kind == wanted])
            fresh.store.submit_sync(write)
            taken = fresh.store.read(Lane.BULK, 1, limit_bytes=1 << 28)
            _, payload = batch.pack(taken.data, prev_chain=taken.prev_chain)
            return len(payload) / SENSORS


class Wire:
    params: ClassVar = [["windows", "windows and sketch", "raw"], [False, True], [False, True]]
    param_names: ClassVar = ["what", "jitter", "noise"]
    timeout = 300
    unit = "bytes/sensor/minute"

    def track_bytes(self, what: str, jitter: bool, noise: bool) -> float:
        send = "raw" if what == "raw" else "aggregates"
        with tempfile.TemporaryDirectory() as folder:
            return wire_bytes(
                Path(folder), sketch="sketch" in what, send=send, jitter=jitter, noise=noise
            )


if __name__ == "__main__":
    for kind in ("windows", "windows and sketch", "raw"):
        for has_jitter in (False, True):
            for has_noise in (False, True):
                found = Wire().track_bytes(kind, has_jitter, has_noise)
                print(f"{kind:20} jitter={has_jitter!s:5} noise={has_noise!s:5} {found:6.1f} B")
