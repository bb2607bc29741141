"""Windows travel beside readings or instead of them, and are what all readings give."""

import json
import math
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import pytest
import sqlalchemy as sa

from edgesync import EdgeNode, SensorIngestion
from edgesync._native import batch
from edgesync._native.window import Window, unpack_windows
from edgesync._native.write import Write
from edgesync.errors import StoreFull
from edgesync.model import Lane, RecordKind, series_id
from edgesync.store.commit import Tails
from edgesync.store.journal import EdgeStore
from edgesync_transport.messages import Codec
from hubd.log.base import Entry
from hubd.project.base import apply_entries
from hubd.project.live import Live
from hubd.project.telemetry import TelemetryProjector
from hubd.project.windows import WindowsProjector
from hubd.state import State, open_state, points, tables, windows
from hubd.state.windows import WindowQuery
from tests.terminal import Terminal, open_terminal

pytestmark = pytest.mark.feature("L11")

SECOND = 10**9
MINUTE = 60 * SECOND
START = 1_700_000_040 * SECOND  # on the grid of minutes
assert START % MINUTE == 0


class Clock:
    def __init__(self) -> None:
        self.now_ns = START + 10 * MINUTE

    def __call__(self) -> int:
        return self.now_ns


def local(folder: Path, clock: Clock, *rules: dict[str, object]) -> EdgeNode:
    settings = {"http": {"port": 0}, "series": {"rollup": list(rules), "keep": 5000}}
    return EdgeNode(settings, folder=folder, wall_ns=clock)


def sent(store: EdgeStore) -> list[tuple[int, int, int, int, Window]]:
    """(series, start, revision, width, window) of every window in the journal, in order."""
    rows = batch.records(store.read(Lane.BULK, 1).data)
    found = []
    for row in rows:
        if row.kind == RecordKind.WINDOWS:
            width, start, revision, some = unpack_windows(row.body)
            found += [(series, start, revision, width, window) for series, window in some]
    return found


def readings(store: EdgeStore) -> int:
    rows = batch.records(store.read(Lane.BULK, 1).data)
    return sum(row.kind == RecordKind.READINGS for row in rows)


@pytest.fixture
def state(tmp_path: Path) -> Iterator[State]:
    made = open_state(tmp_path / "state.db", b"g" * 16)
    yield made
    made.close()


def project(state: State, store: EdgeStore) -> None:
    """Give the hub's projectors what the journal holds."""
    rows = store.read(Lane.BULK, 1)
    codec, payload = batch.pack(rows.data, prev_chain=0)
    entry = Entry(
        position=1, edge="barn", incarnation=b"i" * 16, lane=Lane.BULK, first=rows.first,
        last=rows.last, codec=Codec(codec), payload=payload, reason="", stored_at_ns=START,
    )  # fmt: skip
    for one in (TelemetryProjector(Live()), WindowsProjector()):
        state.write_now(partial(apply_entries, one, entries=[entry]))


def at_hub(state: State, name: str, merge_ns: int = MINUTE) -> list[windows.WindowRow]:
    wanted = WindowQuery(
        edge="barn", series=series_id(name, "value"), width_ns=MINUTE, merge_ns=merge_ns,
        from_ns=0, to_ns=1 << 62,
    )  # fmt: skip
    return state.read_now(lambda c: windows.page(c, wanted, 1000))[0]


def at_hub_raw(connection: sa.Connection, name: str) -> list[points.Point]:
    table = tables.series
    ref = connection.scalar(sa.select(table.c.ref).where(table.c.entity == name))
    assert ref is not None
    return list(points.all_points(connection, ref))


@pytest.mark.parametrize("seed", range(8))
def test_windows_at_the_hub_are_those_of_its_own_readings(
    tmp_path: Path, state: State, seed: int
) -> None:
    """Both are sent; readings come late, in any parts, and the node is restarted between them."""
    random, clock = Random(seed), Clock()
    rows = [
        (random.choice(("a", "b")), START + s * SECOND - random.choice((0, 0, 0, 5, 200)) * SECOND,
         round(random.gauss(20, 5), 1) if random.random() > 0.02 else math.nan)
        for s in range(600)
    ]  # fmt: skip
    at = 0
    while at < len(rows):
        with local(tmp_path / "edge", clock, {"send": "both"}) as node:
            sensors = SensorIngestion(node)
            for _ in range(random.randrange(1, 8)):
                part = rows[at : at + random.randrange(1, 90)]
                at += len(part)
                if part:
                    ids, times, values = zip(*part, strict=True)
                    sensors.ingest_columns_sync(ids, times, values)
    clock.now_ns += 2 * MINUTE
    with local(tmp_path / "edge", clock, {"send": "both"}) as node:
        sensors = SensorIngestion(node)
        sensors.ingest_columns_sync(["other"], [clock.now_ns], [1.0])  # silence closes the rest
        project(state, node.store)
    for name in ("a", "b"):
        raw = state.read_now(partial(at_hub_raw, name=name))
        whole: dict[int, Window] = {}
        for point in raw:
            assert isinstance(point.value, float)
            start = point.time_ns // MINUTE * MINUTE
            whole.setdefault(start, Window()).add(point.time_ns, point.value)
        found = {row.start_ns: row for row in at_hub(state, name)}
        assert found.keys() == whole.keys()
        for start, row in found.items():
            agrees(row, whole[start])
        for row in at_hub(state, name, 5 * MINUTE):
            merged = Window()
            for point in raw:
                if row.start_ns <= point.time_ns < row.start_ns + 5 * MINUTE:
                    assert isinstance(point.value, float)
                    merged.add(point.time_ns, point.value)
            agrees(row, merged)


def agrees(row: windows.WindowRow, window: Window) -> None:
    assert (row.count, row.missing) == (window.count, window.missing)
    if window.count:
        assert window.min is not None
        assert window.max is not None
        assert (row.min, row.min_ns, row.max, row.max_ns) == (*window.min, *window.max)
        assert abs(row.sum - window.sum) <= math.ulp(window.sum)
        assert math.isclose(row.deviation or 0, window.deviation or 0, rel_tol=1e-9)
        assert (row.p50, row.p99) == (window.quantile(0.5), window.quantile(0.99))


def test_a_late_reading_within_the_hour_is_a_revision(tmp_path: Path) -> None:
    clock = Clock()
    clock.now_ns = START + 65 * SECOND
    with local(tmp_path, clock, {"send": "both"}) as node:
        sensors = SensorIngestion(node)
        sensors.ingest_columns_sync(["t", "t"], [START, START + 63 * SECOND], [1.0, 2.0])
        assert [(one[2], one[4].count) for one in sent(node.store)] == [(1, 1)]
        sensors.ingest_columns_sync(["t"], [START + SECOND], [5.0])
        assert [(one[2], one[4].sum) for one in sent(node.store)] == [(1, 1.0), (2, 6.0)]
    with local(tmp_path, clock, {"send": "both"}) as node:
        sensors = SensorIngestion(node)
        sensors.ingest_columns_sync(["t"], [START + 2 * SECOND], [6.0])
        last = sent(node.store)[-1]
        assert (last[1], last[2], last[4].sum) == (START, 3, 12.0)
        # An hour later it is too late; the reading itself is stored all the same.
        clock.now_ns += 3600 * SECOND
        sensors.ingest_columns_sync(["t"], [START + 3602 * SECOND], [1.0])
        count = len(sent(node.store))
        sensors.ingest_columns_sync(["t"], [START + SECOND], [7.0])
        assert node.points.rollups is not None
        assert node.points.rollups.late_dropped == 1
        assert [one for one in sent(node.store)[count:] if one[1] == START] == []
        stats = sensors.aggregate("t")
        assert stats is not None
        assert stats.count == 6


@pytest.mark.setting("series.rollup", "series.rollup.prefix", "series.rollup.width_s")
@pytest.mark.setting("series.rollup.send", "series.rollup.sketch")
def test_what_travels_is_chosen_by_prefix(tmp_path: Path) -> None:
    rules: tuple[dict[str, object], ...] = (
        {"prefix": "", "send": "raw"},
        {"prefix": "temp-", "send": "aggregates", "width_s": 60, "sketch": False},
        {"prefix": "temp-x", "send": "both", "width_s": 10},
    )
    clock = Clock()
    clock.now_ns = START + 75 * SECOND
    with local(tmp_path, clock, *rules) as node:
        sensors = SensorIngestion(node)
        for name in ("other", "temp-1", "temp-x"):
            times = [START + s * SECOND for s in range(0, 75)]
            sensors.ingest_columns_sync([name] * 75, times, [float(s) for s in range(75)])
        assert readings(node.store) == 150
        found = [(one[0], one[1] - START, one[3] // SECOND) for one in sent(node.store)]
        temp, both = series_id("temp-1", "value"), series_id("temp-x", "value")
        assert found == [(temp, 0, 60)] + [(both, s * SECOND, 10) for s in range(0, 70, 10)]
        assert sent(node.store)[0][4].quantile(0.5) is None
        assert sent(node.store)[1][4].quantile(0.5) is not None
        # Whatever travels, questions are answered here.
        assert len(sensors.readings("temp-1")) == 75


async def test_silence_closes_a_window(tmp_path: Path) -> None:
    clock = Clock()
    async with local(tmp_path, clock, {"send": "aggregates"}) as node:
        sensors = SensorIngestion(node)
        clock.now_ns = START + 30 * SECOND
        await sensors.ingest_columns(["t"], [START + 30 * SECOND], [1.0])
        await node.send_windows()
        assert sent(node.store) == []
        clock.now_ns = START + MINUTE + 7 * SECOND
        await node.send_windows()
        assert [(one[1], one[2]) for one in sent(node.store)] == [(START, 1)]


def refuse_windows(submit: Callable[[Write], Tails]) -> Callable[[Write], Tails]:
    """A store whose last room went to the readings."""
    writes = iter((submit, None))

    def one(write: Write) -> Tails:
        carry_out = next(writes)
        if carry_out is None:
            raise StoreFull(used_bytes=1, limit_bytes=1)
        return carry_out(write)

    return one


def test_windows_that_found_no_room_are_sent_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    with local(tmp_path, clock, {"send": "aggregates"}) as node:
        sensors = SensorIngestion(node)
        clock.now_ns = START + SECOND
        sensors.ingest_columns_sync(["t"], [START], [1.0])
        clock.now_ns += 5 * MINUTE
        submit = node.store.submit_sync
        monkeypatch.setattr(node.store, "submit_sync", refuse_windows(submit))
        sensors.ingest_columns_sync(["v"], [clock.now_ns], [1.0])  # its own commit succeeded
        monkeypatch.setattr(node.store, "submit_sync", submit)
        assert node.points.rollups is not None
        assert node.points.rollups.pending == 1
        sensors.ingest_columns_sync(["u"], [clock.now_ns], [1.0])
        assert [one[:3] for one in sent(node.store)] == [(series_id("t", "value"), START, 1)]
    # Killed between a reading and its window: the next start sends it.
    with local(tmp_path, clock, {"send": "aggregates"}) as node:
        sensors = SensorIngestion(node)
        staged = sensors._stage_columns(["t"], [START + SECOND], [3.0])
        node.store.submit_sync(staged.write)
    with local(tmp_path, clock, {"send": "aggregates"}) as node:
        SensorIngestion(node).ingest_columns_sync(["u"], [clock.now_ns], [1.0])
        revised = [one for one in sent(node.store) if one[0] == series_id("t", "value")]
        assert [(one[2], one[4].count, one[4].sum) for one in revised] == [(1, 1, 1.0), (2, 2, 4.0)]


def asked(terminal: Terminal, what: str, **params: object) -> dict[str, Any]:
    names = urllib.parse.urlencode({"entity": "meter0", "key": "Frequency", **params})
    url = f"http://127.0.0.1:{terminal.http_port}/api/v1/edges/barn-7/{what}?{names}"
    try:
        with urllib.request.urlopen(url, timeout=100) as answer:
            found: dict[str, Any] = json.load(answer)
            return found
    except urllib.error.HTTPError as error:
        if error.code == 404:  # nothing has come yet
            return {"windows": []}
        raise


@pytest.mark.slow
def test_a_site_sums_up_its_meter_and_the_hub_agrees(tmp_path: Path) -> None:
    """Real processes: a polled device, the link, the hub's API; the edge is killed in between."""
    with open_terminal(tmp_path) as site:
        site.start_hub()
        site.enrol()
        rule = "[series]\ningested = true\nkeep = 5000\n[[series.rollup]]\nwidth_s = 1\n"
        site.edge_config.write_text(site.edge_config.read_text() + "\n" + rule)
        site.add_meter()
        edge = site.start_edge()
        site.until(lambda: len(asked(site, "windows", width_s=1)["windows"]) >= 3)
        edge.kill()
        edge.wait()
        site.start_edge()
        before = len(asked(site, "windows", width_s=1)["windows"])
        site.until(lambda: len(asked(site, "windows", width_s=1)["windows"]) >= before + 3)
        windows_found = asked(site, "windows", width_s=1)["windows"]
        raw = asked(site, "history", resolution="raw", limit=5000)["raw"]
    readings_found = list(zip(raw["time_ns"], raw["value"], strict=True))
    for one in windows_found:
        inside = [v for at, v in readings_found if 0 <= at - one["start_ns"] < SECOND]
        assert one["count"] == len(inside)
        assert (one["min"], one["max"]) == (min(inside), max(inside))
        assert math.isclose(one["sum"], math.fsum(inside))
