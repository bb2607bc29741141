"""How long do questions take when the state holds 50 million points, while more come in?

Decides the shape of pages, compaction and the indexes beside them. Rows are written by the code
that always writes them (memtable, flush, compaction), in bulk: seventy days of machines (a series
a second), plants (thirty series a minute), one large site (1,000 series) and five hundred small
ones. Then a real hub serves them over HTTP, while a real edge hands it 2,000 readings a second.
Cold is when the operating system has forgotten the database's files before each question.
`python -m bench.benchmarks.questions [sqlite|postgresql] [points]` prints milliseconds:

    still_ms  with nothing else going on, and the processor time of hub and server
    latest    the newest readings of an edge, up to 1,000
    day       one day of one series, raw
    hours     30 days of one series by the hour
    writer    how long others wait for the writer while a month is removed and meanwhile compacted

and what a point takes. PostgreSQL is a private server from Debian's package.
"""

import argparse
import array
import contextlib
import functools
import gc
import http.client
import json
import math
import operator
import os
import random
import statistics
import subprocess
import sys
import time
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, NamedTuple, cast

import psutil
import sqlalchemy as sa
import trio

from bench.benchmarks.rig import Rig, open_rig
from edgesync._native.memtable import Memtable
from edgesync.model import ValueType, series_id
from edgesync.units import Seconds
from hubd import data_folder, serve
from hubd.db.engine import parse_url
from hubd.project import directory
from hubd.project.directory import Declaration
from hubd.project.flush import flush
from hubd.project.totals import Totals
from hubd.registry import open_registry
from hubd.settings import RetentionSection, read_settings
from hubd.state import State, points, tables, views
from hubd.state.fresh import EdgeFresh
from hubd.state.rollups import HOURS
from hubd.state.upkeep import carry_out, passes
from tests.postgresql import Server

if TYPE_CHECKING:
    from edgesync._native import batch

SECOND_NS: Final = 10**9
HOUR_NS: Final = 3600 * SECOND_NS
DAY_NS: Final = 24 * HOUR_NS
DAYS: Final = 70
POINTS: Final = 50_000_000
ASKED: Final = 200
COLD: Final = 50


class Kind(NamedTuple):
    """Edges of a kind; `slot_ns` is what is written at a time."""

    name: str
    edges: int
    series: int
    period_s: int
    slot_ns: int


KINDS: Final = (
    Kind("machine", 2, 1, 1, HOUR_NS),
    Kind("plant", 6, 30, 60, HOUR_NS),
    Kind("large", 1, 1000, 900, HOUR_NS),
    Kind("site", 490, 8, 1800, DAY_NS),
)


class Columns(NamedTuple):
    """What `Memtable.append` takes, as `batch.table` gives it."""

    series: "array.array[int]"
    vtypes: "array.array[int]"
    counts: "array.array[int]"
    times: "array.array[int]"
    values: "array.array[int]"
    texts: list[str]


class Walks:
    """Values that wander, and jitter of times: slices of arrays that are made once."""

    LENGTH: Final = 1 << 17

    def __init__(self) -> None:
        chance, level = random.Random(1), 200.0
        digits = array.array("d")
        for _ in range(self.LENGTH):
            level += chance.gauss(0, 0.5)
            digits.append(level)
        decimals = array.array("d", [round(level, 1) for level in digits])
        self._digits, self._decimals = (
            array.array("Q", values.tobytes()) for values in (digits, decimals)
        )
        self._jitter = array.array("q", [chance.randrange(50) * 10**6 for _ in digits])
        self.chance = chance

    def values(self, count: int, *, is_decimal: bool) -> "array.array[int]":
        at = self.chance.randrange(self.LENGTH - count)
        return (self._decimals if is_decimal else self._digits)[at : at + count]

    def times(self, begin_ns: int, count: int, period_ns: int) -> "array.array[int]":
        at = self.chance.randrange(self.LENGTH - count)
        even = range(begin_ns, begin_ns + count * period_ns, period_ns)
        return array.array("q", map(operator.add, even, self._jitter[at : at + count]))


class Writer:
    """Writes an edge's readings, slot after slot, as the telemetry projector does."""

    def __init__(self, kind: Kind, number: int) -> None:
        self.kind = kind
        self.name = f"{kind.name}{number}"
        self.names = [(f"meter{n // 10}", f"P{n % 10}") for n in range(kind.series)]
        self._ids = [series_id(*name) for name in self.names]
        self._table = Memtable()

    def enter(self, connection: sa.Connection) -> None:
        for one in directory.enter(connection, self.name, self._ids):
            self._table.add(one.series, one.ref, one.points, one.time_ns)
        named = {series_id(*name): Declaration(*name, "W") for name in self.names}
        directory.declare(connection, self.name, named)
        totals = Totals()
        totals.add_counts(self.name, 0, series=len(self._ids))
        totals.store(connection)

    def write(self, connection: sa.Connection, begin_ns: int, walks: Walks) -> int:
        """Write what is between `begin_ns` and the slot's end; returns how many points it is."""
        kind, count = self.kind, self.kind.slot_ns // (self.kind.period_s * SECOND_NS)
        times, values = array.array("q"), array.array("Q")
        for n in range(kind.series):
            times += walks.times(begin_ns + n * 10**6, count, kind.period_s * SECOND_NS)
            values += walks.values(count, is_decimal=n % 5 != 0)
        columns = Columns(
            array.array("Q", self._ids), array.array("B", [ValueType.F64] * kind.series),
            array.array("I", [count] * kind.series), times, values, [],
        )  # fmt: skip
        readings, _, _ = self._table.append(cast("batch.Table", columns))
        end_ns = begin_ns + kind.slot_ns
        fresh = EdgeFresh(self._table, readings=readings, stored_at_ns=end_ns)
        flush(connection, self.name, fresh)
        self._table = self._table.emptied()
        return int(readings)


EDGES_A_TRANSACTION: Final = 50


def fill(state: State, writers: Sequence[Writer], days: int, now_ns: int) -> int:
    """Write so many days up to now; returns how many points they are."""
    walks, written = Walks(), 0
    begin_ns = now_ns // DAY_NS * DAY_NS - (days - 1) * DAY_NS

    def enter(connection: sa.Connection) -> None:
        for writer in writers:
            writer.enter(connection)

    def write(connection: sa.Connection, some: Sequence[Writer], at_ns: int) -> int:
        return sum(
            writer.write(connection, slot_ns, walks)
            for writer in some
            for slot_ns in range(at_ns, at_ns + DAY_NS, writer.kind.slot_ns)
            if slot_ns + writer.kind.slot_ns <= now_ns
        )

    state.write_now(enter)
    for day in range(days):
        for at in range(0, len(writers), EDGES_A_TRANSACTION):
            some = writers[at : at + EDGES_A_TRANSACTION]
            change = functools.partial(write, some=some, at_ns=begin_ns + day * DAY_NS)
            written += state.write_now(change)
    return written


def written_by(kinds: Sequence[Kind]) -> list[Writer]:
    return [Writer(kind, n) for kind in kinds for n in range(kind.edges)]


class Waits:
    """How long others wait for the writer of a state, while a block runs."""

    def __init__(self) -> None:
        self.ms: list[float] = []

    async def measure(self, state: State) -> None:
        while True:
            begun = time.perf_counter()
            await state.write(lambda _connection: None)
            self.ms.append((time.perf_counter() - begun) * 1e3)
            await trio.sleep(0.002)

    def figures(self) -> dict[str, float]:
        return percentiles(self.ms) | {"max": max(self.ms)}


def percentiles(times_ms: Sequence[float]) -> dict[str, float]:
    ordered = sorted(times_ms)
    return {"p50": statistics.median(ordered), "p99": ordered[math.ceil(len(ordered) * 0.99) - 1]}


async def kept_up(state: State, keep: RetentionSection, now_ns: int) -> dict[str, Any]:
    """Take all steps of upkeep; returns for how long others waited."""
    waits, begun = Waits(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(waits.measure, state)
        for one in passes(keep, {}, now_ns):
            await carry_out(one, state)
        nursery.cancel_scope.cancel()
    return {"writer_ms": waits.figures(), "seconds": time.perf_counter() - begun}


class Asker:
    """Asks a hub over HTTP, one question after the other on one connection."""

    def __init__(self, port: int, writers: Sequence[Writer], days: int, now_ns: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port)
        self._by_kind: dict[str, list[Writer]] = {}
        for writer in writers:
            self._by_kind.setdefault(writer.kind.name, []).append(writer)
        self.kinds = list(self._by_kind)
        self._chance = random.Random(2)
        self._today_ns = now_ns // DAY_NS * DAY_NS
        self._days = min(30, days - 1)  # whole ones that there are

    def ask(self, path: str, **parameters: object) -> tuple[float, Any]:
        """Return milliseconds and the answer."""
        target = f"/api/v1/edges/{path}?{urllib.parse.urlencode(parameters)}"
        begun = time.perf_counter()
        self._connection.request("GET", target)
        answer = self._connection.getresponse()
        body = answer.read()
        taken_ms = (time.perf_counter() - begun) * 1e3
        assert answer.status == 200, body
        return taken_ms, json.loads(body)

    def close(self) -> None:
        """Begin another connection with the next question."""
        self._connection.close()

    def latest(self, kind: str) -> float:
        writer = self._chance.choice(self._by_kind[kind])
        taken_ms, answer = self.ask(f"{writer.name}/latest", limit=1000)
        assert sum(map(len, answer["latest"].values())) == writer.kind.series
        return taken_ms

    def day(self, kind: str) -> float:
        """Ask for all of a day's readings; of a series a second, for what shows a day."""
        days = self._chance.randrange(1, self._days + 1)
        return self._history(kind, days, 1, "auto" if kind == "machine" else "raw", "raw")

    def hours(self, kind: str) -> float:
        return self._history(kind, self._days, self._days, "1h", "buckets")

    def _history(self, kind: str, days_ago: int, days: int, resolution: str, part: str) -> float:
        writer = self._chance.choice(self._by_kind[kind])
        entity, key = self._chance.choice(writer.names)
        from_ns = self._today_ns - days_ago * DAY_NS
        taken_ms, answer = self.ask(
            f"{writer.name}/history", entity=entity, key=key, resolution=resolution, limit=1500,
            **{"from": from_ns, "to": from_ns + days * DAY_NS},
        )  # fmt: skip
        found = answer[part] or answer["buckets"]
        per_day = (
            1440
            if resolution == "auto"
            else 24
            if part == "buckets"
            else 86400 // writer.kind.period_s
        )
        assert abs(len(found["time_ns"]) - days * per_day) <= per_day // 24 + 2, answer
        return taken_ms


def forget_files(folder: Path) -> None:
    """Have the operating system forget what it holds of the files in a folder."""
    for path in folder.rglob("*"):
        if path.is_file() and not path.is_symlink():
            descriptor = os.open(path, os.O_RDONLY)
            os.fsync(descriptor)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)


def servers(folder: Path | None) -> list[int]:
    """Return the first process of a database server in `folder`, if there is one."""
    if folder is None:
        return []
    return [int((folder / "data" / "postmaster.pid").read_text().split()[0])]


def processor_s(*pids: int) -> float:
    """Return the seconds that processes and all they have started have used."""
    found = 0.0
    for pid in pids:
        first = psutil.Process(pid)
        for process in (first, *first.children(recursive=True)):
            found += sum(process.cpu_times()[:2])
    return found


def asked(
    asker: Asker, times: int, *, cold: Path | None = None, used_s: Callable[[], float] | None = None
) -> dict[str, Any]:
    """Ask so many questions of each sort about each kind of edge.

    used_s   returns the processor time of those who answer
    """
    found: dict[str, Any] = {}
    for sort in (asker.latest, asker.day, asker.hours):
        for kind in asker.kinds:
            times_ms, before_s = [], used_s() if used_s is not None else 0.0
            for _ in range(times):
                if cold is not None:
                    forget_files(cold)
                    asker.close()
                times_ms.append(sort(kind))
            figures = percentiles(times_ms)
            if used_s is not None:
                figures["cpu"] = (used_s() - before_s) / times * 1e3
            found[f"{sort.__name__} {kind}"] = figures
    return found


async def with_state(rig: Rig, work: Callable[[State], Any]) -> Any:
    """Do something with the state of a hub that does not run."""
    settings, folder = read_settings(rig.hub_config), rig.hub_config.parent / "data"
    async with serve.open_log(settings, folder) as hub_log:
        keys = data_folder.load_keys(folder)
        with contextlib.closing(serve.open_derived(settings, folder, keys, hub_log)) as state:
            return await work(state)


async def fill_state(
    state: State, writers: Sequence[Writer], days: int, now_ns: int
) -> dict[str, Any]:
    begun, cpu = time.perf_counter(), time.process_time()
    readings = await trio.to_thread.run_sync(fill, state, writers, days, now_ns)
    found: dict[str, Any] = {
        "points": readings, "fill_s": time.perf_counter() - begun,
        "fill_cpu_s": time.process_time() - cpu, "hours_before_ms": hours_ms(state, now_ns),
    }  # fmt: skip
    found["compaction"] = await kept_up(state, RetentionSection(), now_ns)
    return found | {"hours_after_ms": hours_ms(state, now_ns)}


def hours_ms(state: State, now_ns: int) -> float:
    """Return how long the hours of a plant's month take, without HTTP: a median."""
    name = ("meter0", "P1")
    row = state.read_now(
        functools.partial(views.find_series, edge="plant0", entity=name[0], key=name[1])
    )
    assert row is not None
    times_ms = []
    for _ in range(5):
        begun = time.perf_counter()
        state.read_now(
            lambda c: points.bucket_page(
                c, HOURS, row.ref, now_ns - 30 * DAY_NS, now_ns, points.NOWHERE[0], 720
            )
        )
        times_ms.append((time.perf_counter() - begun) * 1e3)
    return statistics.median(times_ms)


async def remove_month(state: State, days: int, now_ns: int) -> dict[str, Any]:
    """Remove what is older than four sevenths: of seventy days, thirty."""
    waits = Waits()
    with trio.move_on_after(5):
        await waits.measure(state)
    keep = RetentionSection(
        readings=Seconds(days * 86400 * 4 / 7), hours=Seconds(days * 86400 * 5 / 7)
    )
    held = readings(state)
    removed = await kept_up(state, keep, now_ns)
    found = {"before": waits.figures(), "readings_before": held, "readings": readings(state)}
    return found | removed


def readings(state: State) -> int:
    counted = sa.select(sa.func.sum(tables.page.c.points))
    return state.read_now(lambda c: int(c.scalar(counted) or 0), limit_s=60)


@contextlib.contextmanager
def place(database: str) -> Iterator[tuple[str, Path | None]]:
    """Yield the URL of a database and its folder, "" and None for the hub's own files."""
    if database == "sqlite":
        yield "", None
        return
    server = Server(is_durable=True)
    try:
        server.start("autovacuum=on", "shared_buffers=128MB", "max_wal_size=1GB")
        yield server.new_database(), server.folder
    finally:
        server.close()


def stored_bytes(rig: Rig, url: str) -> int:
    if url:
        engine = sa.create_engine(parse_url(url), poolclass=sa.NullPool)
        with engine.connect() as c:
            return int(
                c.exec_driver_sql("SELECT pg_database_size(current_database())").scalar_one()
            )
    folder = rig.hub_config.parent / "data"
    return sum(path.stat().st_size for path in folder.glob("state.db*"))


def measure(
    database: str,
    wanted: int,
    *,
    kinds: Sequence[Kind] = KINDS,
    asks: int = ASKED,
    cold: int = COLD,
) -> dict[str, Any]:
    # Of four days, four sevenths leave no whole day to remove in the first hours of a day.
    days = max(5, round(DAYS * wanted / POINTS))
    with place(database) as (url, server_folder), open_rig(url) as rig:
        files = server_folder or rig.hub_config.parent / "data"
        rig.close()
        now_ns = time.time_ns()
        writers = written_by(kinds)
        register(rig, writers)
        found: dict[str, Any] = trio.run(
            with_state, rig, lambda s: fill_state(s, writers, days, now_ns)
        )
        gc.collect()
        print(json.dumps(found), file=sys.stderr)
        found["bytes_a_point"] = stored_bytes(rig, url) / found["points"]
        rig.start_hub()
        rig.until_ready()
        asker = Asker(rig.http_port, writers, days, now_ns)
        used_s = functools.partial(processor_s, rig.hub.pid, *servers(server_folder))
        found["still_ms"] = asked(asker, asks, used_s=used_s)
        asker.close()
        with ingesting(rig):
            found["warm_ms"] = asked(asker, asks)
            asker.close()
            print(json.dumps(found["warm_ms"]), file=sys.stderr)
            if cold:
                found["cold_ms"] = asked(asker, cold, cold=files)
                asker.close()
        print(json.dumps(found), file=sys.stderr)
        rig.close()
        found["removal"] = trio.run(with_state, rig, lambda s: remove_month(s, days, now_ns))
        return found


def register(rig: Rig, writers: Sequence[Writer]) -> None:
    settings, folder = read_settings(rig.hub_config), rig.hub_config.parent / "data"
    with contextlib.closing(open_registry(folder, data_folder.database_url(settings))) as registry:
        for writer in writers:
            registry.enrolments.invite(writer.name, valid_s=3600.0)


@contextlib.contextmanager
def ingesting(rig: Rig) -> Iterator[None]:
    """Have a real edge hand over 40 polls of 50 readings a second."""
    command = [sys.executable, "-m", "bench.benchmarks.pacer", str(rig.config), "40", "50", "3600"]
    with subprocess.Popen(command, cwd=Path(__file__).parents[2]) as edge:
        time.sleep(3)
        try:
            yield
        finally:
            edge.terminate()


class Questions:
    """asv: a fiftieth of it."""

    timeout = 600
    number = repeat = 1
    params: ClassVar = (("sqlite", "postgresql"),)
    param_names = ("database",)

    def setup_cache(self) -> dict[str, Any]:
        return {
            database: measure(database, POINTS // 35, asks=50, cold=0)
            for database in self.params[0]
        }

    def track_hours_p99(self, found: dict[str, Any], database: str) -> float:
        return float(found[database]["warm_ms"]["hours plant"]["p99"])

    def track_latest_p99(self, found: dict[str, Any], database: str) -> float:
        return float(found[database]["warm_ms"]["latest large"]["p99"])

    def track_writer_held(self, found: dict[str, Any], database: str) -> float:
        return float(found[database]["removal"]["writer_ms"]["max"])

    track_hours_p99.unit = track_latest_p99.unit = track_writer_held.unit = "ms"  # type: ignore[attr-defined]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("database", nargs="?", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("points", nargs="?", type=int, default=POINTS)
    wanted = parser.parse_args()
    print(json.dumps(measure(wanted.database, wanted.points), indent=2))


if __name__ == "__main__":
    main()
