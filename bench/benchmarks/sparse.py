"""What does a series with a point a minute cost the hub, from its log to rows and back?

Decides the shape of pages and how long points stay in memory (`hubd.project.schedule`). Thousands
of series that report once a minute are what sites of meters send: no poll of many points shares a
batch with the next one, and rows or leaves of the tree of one series each are written for a point.
Simulated minutes go by as fast as they can be worked off; every batch is a commit of the log of its
own, as if no two edges came at once. `python -m bench.benchmarks.sparse [series] [minutes]` prints:

    stored     bytes of the database a reading, checkpointed: points, index, latest, aggregates
    written    bytes that went to the disk a reading for that, by the kernel's count: the database's
               own log, checkpoints and compaction included
    log        … and for the hub's log, of a reading that was acknowledged
    cpu        microseconds of the process a reading, from the log to memory and rows
    resident   bytes of memory a series at the end
    replay     readings/s of a hub that starts: what was in memory is read again from the log
    rebuild    readings/s of a hub whose state is gone; its largest memory over that at the end, and
               how far in the log three that were killed on the way had it in rows
    latest, day, hours    ms of questions: newest readings of an edge, one series' day, its hours
"""

import contextlib
import functools
import json
import random
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import msgspec
import trio

from edgesync._native import batch
from edgesync.model import RecordKind, ValueType, series_id
from edgesync_transport.messages import Lane, LaneFloor
from hubd.log.base import Append, Entry
from hubd.log.lmdb import LmdbLog
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.project.telemetry import TelemetryProjector
from hubd.settings import RetentionSection
from hubd.state import State, open_state, points, views
from hubd.state.compaction import Leftover
from hubd.state.rollups import HOURS
from hubd.state.upkeep import carry_out, passes
from tests.hubd.batches import INCARNATION, Edge

SERIES_AN_EDGE: Final = 1000
MINUTE: Final = 60 * 10**9
DAY_MINUTES: Final = 1440
START_NS: Final = 1_767_225_600 * 10**9
ROOT: Final = Path(__file__).parents[2]
KILLS: Final = 3
VARIANTS: Final = 10


class Fleet:
    """Edges whose series report once a minute, with jitter, one value in five with all digits.

    What one sends in a minute every `len(VARIANTS)`th sends, too: making it is not measured.
    """

    def __init__(self, series: int) -> None:
        self._chance = random.Random(1)
        self.edges = [f"edge{n}" for n in range(-(-series // SERIES_AN_EDGE))]
        self._variants = [Edge("") for _ in self.edges[:VARIANTS]]
        self._ids = [series_id("meter", f"P{n}") for n in range(SERIES_AN_EDGE)]
        self._levels = [[100.0] * SERIES_AN_EDGE for _ in self._variants]
        self._epochs: dict[str, int] = {}

    async def begin(self, log: LmdbLog) -> None:
        starts = [LaneFloor(floor=0, chain=0, safe=0) for _ in Lane]
        for edge in self.edges:
            self._epochs[edge] = (await log.open_session(edge, INCARNATION, starts)).epoch

    def minute(self, minute: int) -> list[Append]:
        """Return what all send in a minute: a batch an edge, twenty readings share a time."""
        made = [self._batch(nth, minute) for nth in range(len(self._variants))]
        return [
            msgspec.structs.replace(made[n % VARIANTS], edge=edge, epoch=self._epochs[edge])
            for n, edge in enumerate(self.edges)
        ]

    def _batch(self, nth: int, minute: int) -> Append:
        chance, edge, levels = self._chance, self._variants[nth], self._levels[nth]
        before = edge.tail
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
        entry = edge.entry(0)
        return Append(
            edge="", epoch=0, incarnation=INCARNATION, lane=edge.lane,
            first=entry.first, last=entry.last, prev_chain=before, last_chain=edge.tail,
            codec=entry.codec, payload=entry.payload,
        )  # fmt: skip


def cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def counted(file: str, name: str) -> int:
    for line in Path(f"/proc/self/{file}").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1])
    raise LookupError(name)


def written_bytes() -> int:
    """Return what this process has had written to disks."""
    return counted("io", "write_bytes")


def anonymous_bytes() -> int:
    """Return resident memory without mapped files."""
    return counted("status", "RssAnon") * 1024


def projectors_at(now_ns: list[int]) -> Projectors:
    """Return projectors whose clock is that of the simulated log."""
    projectors = Projectors(Live())
    telemetry = TelemetryProjector(Live(), clock_ns=lambda: now_ns[0])
    projectors.all = (telemetry, *projectors.all[1:])
    return projectors


def milliseconds(ask: Callable[[], object]) -> float:
    times = []
    for _ in range(5):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return sorted(times)[2] * 1e3


class Window:
    """The log as projectors see it: up to where it was when they were last let look."""

    def __init__(self, log: LmdbLog) -> None:
        self.head = log.head
        self._log = log
        self._opened = trio.Event()

    @property
    def oldest(self) -> int:
        return self._log.oldest

    def open(self) -> None:
        self.head = self._log.head
        self._opened.set()
        self._opened = trio.Event()

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        found = await self._log.read(after, limit_bytes=limit_bytes)
        return [entry for entry in found if entry.position <= self.head]

    async def wait_beyond(self, position: int) -> None:
        while self.head <= position:
            await self._opened.wait()
        await trio.lowlevel.checkpoint()


class Sums:
    """Processor time and bytes written of one part of the work."""

    def __init__(self) -> None:
        self.cpu_s = 0.0
        self.written = 0

    @contextlib.contextmanager
    def adding(self) -> Iterator[None]:
        cpu, written = cpu_s(), written_bytes()
        yield
        self.cpu_s += cpu_s() - cpu
        self.written += written_bytes() - written


async def measure(series: int, minutes: int, folder: Path) -> dict[str, Any]:
    fleet, now_ns, logging, storing = Fleet(series), [START_NS], Sums(), Sums()
    log = LmdbLog(folder / "log", clock_ns=lambda: now_ns[0])
    await fleet.begin(log)
    window = Window(log)
    state = open_state(folder / "state.db", log.generation)
    before, left, found = anonymous_bytes(), dict[str, Leftover](), dict[str, Any]()
    async with trio.open_nursery() as nursery:
        projectors = projectors_at(now_ns)
        nursery.start_soon(run_projectors, window, state, projectors)
        for minute in range(minutes):
            appends = fleet.minute(minute)
            now_ns[0] = START_NS + minute * MINUTE + 59 * 10**9
            with logging.adding():
                for one in appends:
                    await log.append([one])
            now_ns[0] += 10**9
            with storing.adding():
                window.open()
                await projectors.reach(log.head)
                while projectors.all[0].is_due(is_idle=False):  # noqa: ASYNC110
                    await trio.sleep(0.001)
                if (minute + 1) % DAY_MINUTES == 0:
                    for upkeep in passes(RetentionSection(), left, now_ns[0]):
                        await carry_out(upkeep, state)
            if minute + 1 in (120, 180, DAY_MINUTES, minutes):
                with storing.adding():
                    stored = database_bytes(folder / "state.db", state)
                readings = len(fleet.edges) * SERIES_AN_EDGE * (minute + 1)
                in_rows = readings - state.fresh.readings
                found[f"after {minute + 1} minutes"] = {
                    "stored": stored / in_rows,
                    "written": storing.written / in_rows,
                    "log": logging.written / readings,
                    "log_cpu": logging.cpu_s / readings * 1e6,
                    "cpu": storing.cpu_s / readings * 1e6,
                    "resident": (anonymous_bytes() - before) / series,
                    "fresh": state.fresh.readings / series,
                }
        nursery.cancel_scope.cancel()
    fresh = state.fresh.readings
    row = state.read_now(lambda c: views.series_by_id(c, "edge0", series_id("meter", "P7")))
    assert row is not None
    assert row.points == minutes
    end_ns = START_NS + minutes * MINUTE
    ask: dict[str, Any] = {
        "latest": lambda c: views.series_of(c, "edge0", 0, 1000),
        "day": lambda c: points.page(
            c, row.ref, end_ns - DAY_MINUTES * MINUTE, end_ns, points.NOWHERE, 1440
        ),
        "hours": lambda c: points.bucket_page(
            c, HOURS, row.ref, START_NS, end_ns, points.NOWHERE[0], 720
        ),
    }
    for name, question in ask.items():
        found[name] = milliseconds(functools.partial(state.read_now, question))
    state.close()
    await log.aclose()
    found["replay"] = run_reader(folder, "state.db") | {"fresh": fresh}
    found["replay"]["readings/s"] = fresh / found["replay"]["seconds"]
    found["rebuild"] = rebuild(folder, log.generation, len(fleet.edges) * SERIES_AN_EDGE * minutes)
    return found


def database_bytes(path: Path, state: State) -> int:
    with state.engines.writer.connect() as connection:
        connection.exec_driver_sql("PRAGMA wal_checkpoint(TRUNCATE)").all()
    return path.stat().st_size


def rebuild(folder: Path, generation: bytes, readings: int) -> dict[str, Any]:
    """Make the state anew, once at a stretch and once with kills on the way."""
    found = run_reader(folder, "whole.db")
    found["readings/s"] = readings / found["seconds"]
    found["in rows when killed"] = []
    for _ in range(KILLS):
        run_reader(folder, "killed.db", kill_after_s=found["seconds"] / 3)
        with contextlib.closing(open_state(folder / "killed.db", generation)) as state:
            totals = state.read_now(views.totals).values()
            found["in rows when killed"].append(sum(one.readings for one in totals) / readings)
    return found | {"after the kills": run_reader(folder, "killed.db")}


def run_reader(folder: Path, name: str, *, kill_after_s: float = 0.0) -> dict[str, Any]:
    """Have a process read the log into a state; returns what it prints once it is done."""
    command = [sys.executable, "-m", "bench.benchmarks.sparse", "read", str(folder), name]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT) as reader:
        assert reader.stdout is not None
        reader.stdout.readline()
        if kill_after_s:
            time.sleep(kill_after_s)
            reader.send_signal(signal.SIGKILL)
            return {}
        return dict(json.loads(reader.stdout.readline()))


async def read(folder: Path, name: str) -> None:
    """Read the log as a hub that starts does, and print how it went."""
    log = LmdbLog(folder / "log")
    state = open_state(folder / name, log.generation)
    last = (await log.read(log.head - 1))[0]
    projectors, peak = projectors_at([last.stored_at_ns]), [anonymous_bytes()]
    before, is_over = peak[0], threading.Event()

    def watch() -> None:
        while not is_over.wait(0.005):
            peak[0] = max(peak[0], anonymous_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    print(flush=True)
    started, cpu = time.perf_counter(), cpu_s()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(run_projectors, log, state, projectors)
        await projectors.reach(log.head)
        nursery.cancel_scope.cancel()
    seconds = time.perf_counter() - started
    is_over.set()
    watcher.join()
    print(json.dumps({
        "seconds": seconds, "cpu_s": cpu_s() - cpu, "fresh": state.fresh.readings,
        "peak": (peak[0] - before) / (anonymous_bytes() - before),
        "peak_mb": (peak[0] - before) / 1e6,
    }))  # fmt: skip
    state.close()
    await log.aclose()


class Sparse:
    """asv: a part of the fleet for three hours."""

    timeout = 600
    number = repeat = 1

    def setup_cache(self) -> dict[str, float]:
        with tempfile.TemporaryDirectory(dir=".") as folder:
            found = trio.run(measure, 10_000, 180, Path(folder))
        return {name: float(value) for name, value in found["after 180 minutes"].items()}

    def track_stored(self, found: dict[str, float]) -> float:
        return found["stored"]

    def track_written(self, found: dict[str, float]) -> float:
        return found["written"]

    def track_cpu(self, found: dict[str, float]) -> float:
        return found["cpu"]

    track_stored.unit = track_written.unit = "B/reading"  # type: ignore[attr-defined]
    track_cpu.unit = "us/reading"  # type: ignore[attr-defined]


def main() -> None:
    if sys.argv[1:2] == ["read"]:
        trio.run(read, Path(sys.argv[2]), sys.argv[3])
        return
    series, minutes = (int(one) for one in (sys.argv[1:] or ("10000", "180")))
    with tempfile.TemporaryDirectory() as folder:
        found = trio.run(measure, series, minutes, Path(folder))
    print(json.dumps(found, indent=2))


if __name__ == "__main__":
    main()
