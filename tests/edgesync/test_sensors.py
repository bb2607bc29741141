"""Sensors as a program sees them: stored with one commit, added up, there after a restart."""

import array
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from random import Random

import msgspec
import pytest
import trio

from edgesync import EdgeNode, Reading, SensorConfig, SensorIngestion, SensorReading
from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.errors import RecordError, StoreFull
from edgesync.model import EventType, Lane, RecordKind

pytestmark = pytest.mark.feature("L10", "L13")

NOW = 1_700_000_000 * 10**9
SECOND = 10**9


def local(folder: Path, **more: object) -> EdgeNode:
    return EdgeNode({"http": {"port": 0}, **more}, folder=folder, wall_ns=lambda: NOW)


def records(node: EdgeNode, lane: Lane, kind: RecordKind) -> list[bytes]:
    rows = batch.records(node.store.read(lane, 1).data)
    return [row.body for row in rows if row.kind == kind]


async def test_the_example_of_the_seed(tmp_path: Path) -> None:
    async with local(tmp_path) as node:
        sensors = SensorIngestion(
            node, SensorConfig(max_readings_per_sensor=1000, auto_aggregate=True)
        )
        await sensors.ingest(SensorReading("temp-001", 22.5, unit="celsius"))
        await sensors.ingest_batch([SensorReading("temp-001", 23.5), SensorReading("p", 1.0)])
        stats = sensors.aggregate("temp-001")
        assert stats is not None
        assert (stats.count, stats.min, stats.max, stats.avg, stats.sum) == (2, 22.5, 23.5, 23, 46)
        assert stats.last == (NOW, 23.5)
        assert sensors.metadata("temp-001") == {"unit": "celsius"}
        assert sensors.sensors() == ["p", "temp-001"]
        assert [(one.entity, one.value) for one in node.latest()] == [
            ("p", 1.0),
            ("temp-001", 23.5),
        ]
        assert node.status().readings == 3
        assert sensors.aggregate("nobody") is None
        assert sensors.latest("nobody") is None


def test_everything_is_the_same_after_a_restart(tmp_path: Path) -> None:
    random = Random(3)
    before = []
    with local(tmp_path) as node:
        sensors = SensorIngestion(node, SensorConfig(max_readings_per_sensor=300))
        for _ in range(40):
            sensors.ingest_batch_sync(
                [
                    SensorReading(random.choice("abc"), random.gauss(20, 5), "K",
                                  NOW - random.randrange(10**9), {"room": "cellar"})
                    for _ in range(random.randrange(1, 60))
                ]
            )  # fmt: skip
        before = [answers(sensors, name) for name in "abc"]
    with local(tmp_path) as node:
        sensors = SensorIngestion(node, SensorConfig(max_readings_per_sensor=300))
        sensors.ingest_columns_sync(["d"], [NOW], [1.0])  # a neighbour changes nothing
        for name in "abc":
            sensors._enter(name, "")
        assert [answers(sensors, name) for name in "abc"] == before


def answers(sensors: SensorIngestion, name: str) -> tuple[object, ...]:
    return (
        sensors.aggregate(name), sensors.latest(name), sensors.readings(name),
        sensors.metadata(name),
    )  # fmt: skip


def test_columns_and_objects_leave_what_the_plain_path_leaves(tmp_path: Path) -> None:
    random = Random(4)
    rows = [
        (random.choice("abcde"), NOW - random.randrange(9), random.random()) for _ in range(999)
    ]
    found = []
    for way in ("plain", "objects", "columns"):
        with local(tmp_path / way) as node:
            if way == "plain":
                node.ingest_sync([Reading(one, "value", value, at) for one, at, value in rows])
            elif way == "objects":
                sensors = SensorIngestion(node)
                sensors.ingest_batch_sync(
                    [SensorReading(one, value, timestamp=at) for one, at, value in rows]
                )
            else:
                times, values = [row[1] for row in rows], [row[2] for row in rows]
                sensors = SensorIngestion(node)
                sensors.ingest_columns_sync([row[0] for row in rows], times, values)
            found.append(
                (
                    records(node, Lane.BULK, RecordKind.READINGS),
                    {event.decode(one)[4] for one in records(node, Lane.BULK, RecordKind.EVENT)},
                    {one.entity: one.value for one in node.latest()},
                )
            )
    plain, objects, columns = found
    assert objects == columns
    assert objects[:2] == plain[:2]
    # Of one time the plain path shows the last that came, and so do the others.
    assert objects[2].keys() == plain[2].keys()


def test_numbers_that_are_none_are_counted_apart(tmp_path: Path) -> None:
    with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        values = [1.0, math.nan, math.inf, 3.0, -math.inf]
        sensors.ingest_columns_sync(["t"] * 5, [NOW + n for n in range(5)], values)
        stats = sensors.aggregate("t")
        assert stats is not None
        assert (stats.count, stats.missing, stats.sum, stats.min, stats.max) == (
            2,
            3,
            4.0,
            1.0,
            3.0,
        )
        assert len(sensors.readings("t")) == 5


def test_a_reading_of_the_future_moves_nothing(tmp_path: Path) -> None:
    with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        sensors.ingest_columns_sync(["t", "t"], [NOW, NOW + 301 * SECOND], [1.0, 2.0])
        stats = sensors.aggregate("t")
        assert stats is not None
        assert (stats.count, stats.ahead, stats.last) == (1, 1, (NOW, 1.0))
        assert sensors.ahead("t") == [(NOW + 301 * SECOND, 2.0)]


def test_metadata_is_told_once(tmp_path: Path) -> None:
    with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        for room in ("cellar", "cellar", "attic"):
            sensors.ingest_sync(SensorReading("t", 1.0, metadata={"room": room}))
        told = [event.decode(one) for one in records(node, Lane.NORMAL, RecordKind.EVENT)]
        assert [one[0] for one in told] == [EventType.ATTRIBUTES] * 2
        assert [one[3] for one in told] == ["t", "t"]
        assert [msgspec.json.decode(one[4])["attributes"] for one in told] == [
            {"room": "cellar"},
            {"room": "attic"},
        ]
        assert sensors.metadata("t") == {"room": "attic", "unit": ""}


@pytest.mark.parametrize("is_one_batch", [True, False])
async def test_metadata_of_readings_that_are_stored_together_adds_up(
    tmp_path: Path, is_one_batch: bool
) -> None:
    one, two, again = (
        SensorReading("t", 1.0, metadata=some) for some in ({"a": "1"}, {"b": "2"}, {"a": "1"})
    )
    expected = {"a": "1", "b": "2", "unit": ""}
    async with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        if is_one_batch:
            await sensors.ingest_batch([one, two, again])
        else:
            async with trio.open_nursery() as nursery:
                for some in (one, two, again):
                    nursery.start_soon(sensors.ingest, some)
        assert sensors.metadata("t") == expected
        told = [event.decode(some)[4] for some in records(node, Lane.NORMAL, RecordKind.EVENT)]
        assert [msgspec.json.decode(some)["attributes"] for some in told if b"key" in some][-1] == {
            "a": "1", "b": "2",
        }  # fmt: skip
    async with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        await sensors.ingest(SensorReading("t", 2.0))
        assert sensors.metadata("t") == expected


async def test_metadata_that_came_with_a_refused_reading_is_stored_with_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also with one that was on its way when the first was refused."""
    reading, refused = SensorReading("t", 1.0, metadata={"a": "1"}), 0
    async with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        submit = node.store.submit

        async def refuse_first(write: Write) -> tuple[int, int, int]:
            nonlocal refused
            refused += 1
            if refused == 1:
                await sensors.ingest(reading)
                raise StoreFull(used_bytes=9, limit_bytes=9)
            return await submit(write)

        monkeypatch.setattr(node.store, "submit", refuse_first)
        with pytest.raises(StoreFull):
            await sensors.ingest(reading)
        assert sensors.metadata("t") == {"a": "1", "unit": ""}
    async with local(tmp_path) as node:
        sensors = SensorIngestion(node)
        await sensors.ingest(SensorReading("t", 2.0))
        assert sensors.metadata("t") == {"a": "1", "unit": ""}


def test_limits_say_what_to_do(tmp_path: Path) -> None:
    with local(tmp_path) as node:
        sensors = SensorIngestion(node, SensorConfig(max_sensors=2, auto_aggregate=False))
        with pytest.raises(RecordError, match="1 to 255 characters"):
            sensors.ingest_sync(SensorReading("", 1.0))
        sensors.ingest_columns_sync(["a", "b"], [NOW, NOW], [1.0, 2.0])
        with pytest.raises(RecordError, match="raise max_sensors"):
            sensors.ingest_sync(SensorReading("c", 1.0))
        with pytest.raises(ValueError, match="auto_aggregate is off"):
            sensors.aggregate("a")
        with pytest.raises(RecordError, match="1 series, 2 times and 1 values"):
            sensors.ingest_columns_sync(["a"], [NOW, NOW], [1.0])
        with pytest.raises(RecordError, match="times are 64-bit ns, values are floats"):
            sensors.ingest_columns_sync(["a"], [1 << 63], [1.0])
        with pytest.raises(RecordError, match="times are 64-bit ns, values are floats"):
            sensors.ingest_batch_sync([SensorReading("a", "warm")])  # type: ignore[arg-type]
        with pytest.raises(RecordError, match="at most 4096"):
            sensors.ingest_sync(SensorReading("a", 1.0, metadata={"x": "y" * 5000}))
        assert [len(sensors.readings(one)) for one in "ab"] == [1, 1]


async def test_a_full_store_takes_all_or_nothing(tmp_path: Path) -> None:
    async with local(tmp_path, store={"limit": "8 MiB"}) as node:
        sensors = SensorIngestion(node)
        count, is_full = 0, False
        while not is_full:
            times = array.array("q", range(NOW - 2 * count - 5000, NOW - 2 * count))
            try:
                await sensors.ingest_columns(["t"] * 5000, times, array.array("d", bytes(40_000)))
                count += 5000
            except StoreFull:
                is_full = True
        stats = sensors.aggregate("t")
        assert stats is not None
        assert stats.count == count
        assert len(sensors.readings("t")) == 1000


@pytest.mark.setting("series.ingested")
async def test_readings_of_devices_are_kept_if_the_settings_say_so(tmp_path: Path) -> None:
    readings = [
        Reading("meter0", "Power", 230, NOW),
        Reading("meter0", "On", True, NOW),
        Reading("meter0", "Model", "X1", NOW),
    ]
    async with local(tmp_path / "a", series={"ingested": True}) as node:
        await node.ingest(readings)
        await node.ingest([Reading("meter0", "Power", 231, NOW + 1)])
        kept = node.points.find("meter0", "Power")
        assert kept is not None
        assert node.points.readings(kept) == [(NOW, 230.0), (NOW + 1, 231.0)]
        assert node.points.find("meter0", "Model") is None
        assert node.points.aggregate(kept).count == 2
        # The hub is told whole numbers, as they came.
        types = [msgspec.json.decode(event.decode(one)[4])["type"]
                 for one in records(node, Lane.BULK, RecordKind.EVENT)]  # fmt: skip
        assert types == ["I64", "BOOL", "TEXT"]
    async with local(tmp_path / "b") as node:
        await node.ingest(readings)
        assert node.points.find("meter0", "Power") is None


PROGRAM = """
import sys
from edgesync import EdgeNode, SensorIngestion
with EdgeNode.local(sys.argv[1]) as node:
    sensors = SensorIngestion(node)
    stats = sensors.aggregate("t")
    count = stats.count if stats else 0
    while True:
        size = count % int(sys.argv[2]) + 1
        times = range(1 + count, 1 + count + size)
        sensors.ingest_columns_sync(["t"] * size, times, [1.0] * size)
        count += size
        print(count, flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("most", [130, 9000])
def test_nothing_acknowledged_is_lost_by_a_kill(tmp_path: Path, most: int) -> None:
    """The journal and what is kept here are never apart (I2).

    Of small writes much is in rows of their batches; large ones are followed by flushes.
    """
    random = Random(1)
    acknowledged = 0
    for _ in range(12):
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "data"), str(most)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            first = process.stdout.readline()
            time.sleep(random.uniform(0, 0.15))
            os.kill(process.pid, signal.SIGKILL)
            lines = [first, *process.stdout.read().splitlines(keepends=True)]
        told = [int(line) for line in lines if line.endswith("\n")]
        acknowledged = max([acknowledged, *told])
        with EdgeNode.local(tmp_path / "data") as node:
            sensors = SensorIngestion(node)
            stats = sensors.aggregate("t")
            assert stats is not None
            assert acknowledged <= stats.count <= acknowledged + acknowledged % most + 1
            acknowledged = stats.count
            newest = [point.time_ns for point in sensors.readings("t")]
            assert newest == list(range(max(1, stats.count - 999), stats.count + 1))
            tail = node.store.state(Lane.BULK).tail
            assert tail == stats.count + 1  # each reading has its own time, and one declaration
