"""Entries that stand for far more than they weigh; `python -m` prints what they take."""

import sys
from collections.abc import Callable
from pathlib import Path

import trio

from edgesync._native import batch
from edgesync._native.window import Window, pack_windows
from edgesync.model import RecordKind, ValueType, series_id
from hubd.log.base import Entry
from hubd.project.live import Live
from hubd.project.projectors import Projectors, run_projectors
from hubd.state import open_state
from tests.hubd.batches import START_NS, Edge, Shelf

HOUR = 3600 * 10**9
MIB = 1 << 20


def hours(
    position: int, series: int, count: int, *, edge: str = "barn", columns: bool = True
) -> Entry:
    """So many series with a reading an hour each: every point has buckets of its own."""
    one = Edge(edge, origin=position)
    ids = [series_id("meter", f"P{n}") for n in range(series)]
    for nth in range(count):
        body = batch.readings(START_NS + nth * HOUR, ValueType.F64, ids, [1.0] * series)
        one.record(RecordKind.READINGS, body)
    return one.entry(position, columns=columns)


def strangers(position: int, count: int) -> Entry:
    """Readings of series that nobody has heard of, each once."""
    one = Edge("barn", origin=position)
    for at in range(0, count, 1000):
        ids = [series_id("x", f"{position}.{n}") for n in range(at, at + 1000)]
        one.record(RecordKind.READINGS, batch.readings(START_NS, ValueType.F64, ids, [1.0] * 1000))
    return one.entry(position)


def texts(position: int, count: int, *, series: int = 1) -> Entry:
    """One long text again and again: LZ4 and the dictionary of texts make a few KB of it."""
    one = Edge("barn", origin=position)
    for nth in range(count):
        ids = [series_id("text", f"T{nth % series}")]
        body = batch.readings(START_NS + nth, ValueType.TEXT, ids, ["x" * 60_000])
        one.record(RecordKind.READINGS, body)
    return one.entry(position)


def windows(position: int, records: int) -> Entry:
    """Windows of nothing, as many as a record may have."""
    one = Edge("barn", origin=position)
    rows = [(n, Window()) for n in range(4096)]
    for nth in range(records):
        one.record(RecordKind.WINDOWS, pack_windows(60 * 10**9, nth * 60 * 10**9, 1, rows))
    return one.entry(position)


def events(position: int, count: int) -> Entry:
    one = Edge("barn", origin=position)
    for _ in range(count):
        one.event(100)
    return one.entry(position)


SHAPES: dict[str, Callable[[], list[Entry]]] = {
    "hours": lambda: [hours(1, 100, 1200)],
    "series": lambda: [strangers(n, 20_000) for n in (3, 4)],
    "texts": lambda: [texts(6, 300)],
    "sealed": lambda: [texts(n, 300, series=30) for n in (8, 9)],
    "windows": lambda: [windows(11, 6)],
    "events": lambda: [events(12, 30_000)],
}


async def project(path: Path) -> None:
    state = open_state(path, b"g" * 16)
    for shape, make in SHAPES.items():
        entries = make()
        reset_peak()
        before = memory("VmRSS")
        shelf, projectors = Shelf(entries), Projectors(Live())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(run_projectors, shelf, state, projectors)
            await projectors.reach(shelf.head)
            nursery.cancel_scope.cancel()
        assert not any(one.skipped for one in projectors.progress), projectors.progress[0].error
        print(shape, (memory("VmHWM") - before) // MIB, flush=True)
    state.close()


def reset_peak() -> None:
    """Let VmHWM begin anew."""
    Path("/proc/self/clear_refs").write_text("5")


def memory(name: str) -> int:
    """Return a figure of /proc/self/status in bytes."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name + ":"):
            return int(line.split()[1]) * 1024
    raise LookupError(name)


if __name__ == "__main__":
    trio.run(project, Path(sys.argv[1]))
