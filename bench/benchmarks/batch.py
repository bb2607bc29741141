"""What does a reading cost on the wire, and what does packing it cost?

Decides the codec of telemetry: columns must stay under 2 bytes a reading for decimal sensors at
1 Hz in a drained backlog, 25 ns to pack and 15 ns to take apart at the hub.
"""

import random
import shutil
import tempfile
import timeit
from pathlib import Path

from edgesync._native import batch
from edgesync._native.journal import Journal
from edgesync._native.store import Store, Write

BULK, READINGS, F64 = 2, 2, 0
START_MS = 1_700_000_000_000
SENSORS = 50
KINDS = ["poll", "single", "deadband"]
# Records of 50 readings: a poll, a batch while online, a drained backlog.
POLLS = [1, 20, 1000]


def bodies(kind: str, polls: int) -> tuple[list[bytes], int]:
    """READINGS of 50 decimal sensors at 1 Hz, times in milliseconds with +-5 ms of jitter.

    poll      one record a poll
    single    one record a reading
    deadband  one record a poll, of the third of the sensors that changed
    """
    rng = random.Random(3)
    series = [rng.getrandbits(64) for _ in range(SENSORS)]
    at = [rng.uniform(0, 500) for _ in series]
    out, readings = [], 0
    for i in range(polls):
        at = [v + rng.gauss(0, 0.05 * (1 + j % 5)) for j, v in enumerate(at)]
        values = [round(v, 1 + j % 3) for j, v in enumerate(at)]
        time_ns = (START_MS + i * 1000 + rng.randint(-5, 5)) * 10**6
        chosen = list(range(SENSORS))
        if kind == "deadband":
            chosen = [j for j in chosen if rng.random() < 1 / 3]
        groups = [[j] for j in chosen] if kind == "single" else [chosen]
        for group in groups:
            out.append(
                batch.readings(time_ns, F64, [series[j] for j in group], [values[j] for j in group])
            )
        readings += len(chosen)
    return out, readings


class Batch:
    params = (KINDS, POLLS)
    param_names = ("records", "polls")

    def setup(self, kind: str, polls: int) -> None:
        made, self.readings = bodies(kind, polls)
        self.folder = tempfile.mkdtemp()
        store = Store(str(Path(self.folder) / "store"), databases=("lanes",))
        write = Write()
        write.append_many(BULK, READINGS, made)
        store.apply(write)
        self.rows = Journal(store).read(BULK, 1, limit_bytes=64 << 20).data
        store.close()
        self.codec, self.payload = batch.pack(self.rows)

    def teardown(self, kind: str, polls: int) -> None:
        shutil.rmtree(self.folder)

    def cost(self, work: timeit.Timer) -> float:
        """Nanoseconds a reading, best of five."""
        number = max(3, 100_000 // self.readings)
        return min(work.repeat(5, number)) / number / self.readings * 1e9

    def track_pack(self, kind: str, polls: int) -> float:
        return self.cost(timeit.Timer(lambda: batch.pack(self.rows)))

    def track_unpack(self, kind: str, polls: int) -> float:
        return self.cost(timeit.Timer(lambda: batch.unpack(self.codec, self.payload, BULK, 1, 0)))

    def track_columns(self, kind: str, polls: int) -> float:
        return self.cost(timeit.Timer(lambda: batch.columns(self.codec, self.payload)))

    def track_bytes(self, kind: str, polls: int) -> float:
        return len(self.payload) / self.readings

    def track_bytes_as_rows(self, kind: str, polls: int) -> float:
        return len(batch.pack(self.rows, columns=False)[1]) / self.readings

    for _track in (track_pack, track_unpack, track_columns):
        _track.unit = "ns/reading"  # type: ignore[attr-defined]
    track_bytes.unit = track_bytes_as_rows.unit = "bytes/reading"  # type: ignore[attr-defined]


if __name__ == "__main__":
    for name in KINDS:
        for count in POLLS:
            one = Batch()
            one.setup(name, count)
            print(
                f"{name:8} {count:5} {one.track_bytes(name, count):6.2f} B/reading (rows "
                f"{one.track_bytes_as_rows(name, count):.2f}), ns/reading: pack "
                f"{one.track_pack(name, count):.1f}, unpack {one.track_unpack(name, count):.1f}, "
                f"columns {one.track_columns(name, count):.1f}"
            )
            one.teardown(name, count)
