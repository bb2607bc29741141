"""What does a series with a point a minute cost the hub, from its log to rows and back?

Decides the shape of pages and how long points stay in memory (`hubd.project.schedule`). Thousands
of series that report once a minute are what sites of meters send: no poll of many points shares a
batch with the next one, and rows or leaves of the tree of one series each are written for a point.
`python -m bench.benchmarks.sparse [series] [minutes]` prints:

    stored     bytes of the database a reading, checkpointed: points, index, latest, aggregates
    written    bytes given to write() a reading, the database's own log and checkpoints included
    cpu        microseconds of the process a reading, from the log to memory and rows
    resident   bytes of memory a series at the end
    replay     readings/s of a hub that starts: what was in memory is read again from the log
    latest, day, hours    ms of questions: newest readings of an edge, one series' day, its hours
"""

import json
import random
import resource
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import msgspec
import trio

from edgesync._native import batch
from edgesync.model import RecordKind, ValueType, series_id
from hubd.log.base import Entry
from hubd.project import Live, Projectors, TelemetryProjector, run_projectors
from hubd.state import State, open_state, points, views
from tests.hubd.batches import Edge, Shelf

SERIES_AN_EDGE = 1000
MINUTE = 60 * 10**9
START_NS = 1_767_225_600 * 10**9


class Fleet:
    """Edges whose series report once a minute, with jitter, one value in five with all digits."""

    def __init__(self, series: int) -> None:
        self._chance = random.Random(1)
        self.edges = [Edge(f"edge{n}", origin=n) for n in range(-(-series // SERIES_AN_EDGE))]
        self._ids = [series_id("meter", f"P{n}") for n in range(SERIES_AN_EDGE)]
        self._levels = {edge.name: [100.0] * SERIES_AN_EDGE for edge in self.edges}
        self.position = 0

    def minute(self, minute: int) -> list[Entry]:
        """Return what all send in a minute: an entry an edge, twenty readings share a time."""
        made = []
        for edge in self.edges:
            levels, chance = self._levels[edge.name], self._chance
            for n in range(SERIES_AN_EDGE):
                levels[n] += chance.gauss(0, 0.5)
            for at in range(0, SERIES_AN_EDGE, 20):
                late_ms = 40 * at + chance.randrange(50)
                time_ns = START_NS + minute * MINUTE + late_ms * 10**6
                values = [
                    level if n % 5 == 0 else round(level, 1)
                    for n, level in enumerate(levels[at : at + 20])
                ]
                body = batch.readings(time_ns, ValueType.F64, self._ids[at : at + 20], values)
                edge.record(RecordKind.READINGS, body)
            self.position += 1
            entry = edge.entry(self.position)
            at_ns = START_NS + minute * MINUTE + 59 * 10**9
            made.append(msgspec.structs.replace(entry, stored_at_ns=at_ns))
        return made


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def counted(file: str, name: str) -> int:
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def database_bytes(path: Path, state: State) -> int:
    with state.engines.writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    return path.stat().st_size


def projectors_at(now_ns: list[int]) -> Projectors:
    """Return projectors whose clock is that of the simulated log."""
    projectors = Projectors(Live())
    telemetry = TelemetryProjector(Live(), clock_ns=lambda: now_ns[0])
    projectors.all = (telemetry, *projectors.all[1:])
    return projectors


def milliseconds(ask: Any) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return sorted(times)[2] * 1e3


async def measure(series: int, minutes: int, path: Path) -> dict[str, float]:
    fleet, log, now_ns = Fleet(series), Shelf(), [START_NS]
    state = open_state(path, b"g" * 16)
    readings = len(fleet.edges) * SERIES_AN_EDGE * minutes
    before = counted("status", "VmRSS") * 1024
    used = written = held = 0.0
    async with trio.open_nursery() as nursery:
        projectors = projectors_at(now_ns)
        nursery.start_soon(run_projectors, log, state, projectors)
        for minute in range(minutes):
            entries = fleet.minute(minute)
            held += sum(len(entry.payload) for entry in entries)
            now_ns[0] = START_NS + (minute + 1) * MINUTE
            cpu, wrote = cpu_s(), counted("io", "wchar")
            log.put(*entries)
            await projectors.reach(fleet.position)
            while projectors.all[0].is_due(is_idle=False):  # noqa: ASYNC110
                await trio.sleep(0.001)
            used += cpu_s() - cpu
            written += counted("io", "wchar") - wrote
        resident = counted("status", "VmRSS") * 1024 - before - held
        nursery.cancel_scope.cancel()
    wrote = counted("io", "wchar")
    stored = database_bytes(path, state)
    written += counted("io", "wchar") - wrote
    fresh = sum(one.table.points for one in state.fresh.edges.values())
    found = {
        "stored": stored / max(1, readings - fresh),
        "written": written / max(1, readings - fresh),
        "cpu": used / readings * 1e6,
        "resident": resident / series,
    }
    row = state.read_now(lambda c: views.series_by_id(c, "edge0", series_id("meter", "P7")))
    assert row is not None
    assert row.points == minutes
    end_ns = START_NS + minutes * MINUTE
    ask: dict[str, Any] = {
        "latest": lambda c: views.series_of(c, "edge0", 0, 1000),
        "day": lambda c: points.page(c, row.ref, START_NS, end_ns, points.NOWHERE, 1440),
    }
    for name, question in ask.items():
        found[name] = milliseconds(lambda question=question: state.read_now(question))
    state.close()
    return found | await replay(path, log, now_ns, fleet.position, fresh)


async def replay(
    path: Path, log: Shelf, now_ns: list[int], position: int, fresh: int
) -> dict[str, float]:
    state = open_state(path, b"g" * 16)
    started, cpu = time.perf_counter(), cpu_s()
    async with trio.open_nursery() as nursery:
        projectors = projectors_at(now_ns)
        nursery.start_soon(run_projectors, log, state, projectors)
        await projectors.reach(position)
        nursery.cancel_scope.cancel()
    seconds, used = time.perf_counter() - started, cpu_s() - cpu
    state.close()
    return {"replay": fresh / seconds, "replay_s": seconds, "replay_cpu_s": used}


class Sparse:
    """asv: a part of the fleet for three hours."""

    timeout = 600
    number = repeat = 1

    def setup_cache(self) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            return trio.run(measure, 10_000, 180, Path(folder) / "state.db")

    def track_stored(self, found: dict[str, float]) -> float:
        return found["stored"]

    def track_written(self, found: dict[str, float]) -> float:
        return found["written"]

    def track_cpu(self, found: dict[str, float]) -> float:
        return found["cpu"]

    track_stored.unit = track_written.unit = "B/reading"  # type: ignore[attr-defined]
    track_cpu.unit = "us/reading"  # type: ignore[attr-defined]


def main() -> None:
    series, minutes = (int(one) for one in [*sys.argv[1:], "10000", "180"][:2])
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(measure, series, minutes, Path(folder) / "state.db")
    print(json.dumps({name: round(value, 3) for name, value in found.items()}, indent=2))


if __name__ == "__main__":
    main()
