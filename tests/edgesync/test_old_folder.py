"""An edge's data folder of an earlier version is gone on with, whole, by the first start."""

import math
import tarfile
from pathlib import Path
from typing import Any, Final

import pytest

from edgesync import EdgeNode
from edgesync.sensors import SensorIngestion, SensorReading
from edgesync.store.point_rows import DATABASE, Point

pytestmark = pytest.mark.feature("L10")

GOLDEN = Path(__file__).parents[1] / "golden" / "edge_folder"
START_NS: Final = 1_767_225_600 * 10**9


def unpack(place: Path) -> Path:
    """Return the folder of an earlier version, unpacked there."""
    with tarfile.open(GOLDEN / "before-batches.tar.xz") as archive:
        # Debian 12's Python 3.11.2 has no filters yet; the archive is our own.
        safely: Any = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        archive.extractall(place, **safely)
    return place / "edge"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return unpack(tmp_path)


async def test_points_of_before_rows_of_batches_are_there_and_go_on(folder: Path) -> None:
    """They were a row for each series of a batch, raw, and blocks."""
    settings = {"edge": {"name": "barn-7"}}
    for start in range(2):  # once as it was left, once with what this version has added
        async with EdgeNode(settings, folder=folder) as node:
            rows = node.store.store.scan(DATABASE, b"b", b"c", limit=10)
            assert len(rows) == start
            sensors = SensorIngestion(node)
            meter = [Point(START_NS + n * 10**9, n / 2) for n in range(700 + start)]
            assert sensors.readings("meter") == meter
            assert sensors.latest("meter") == meter[-1]
            found = sensors.aggregate("meter")
            assert found is not None
            assert (found.count, found.sum) == (700 + start, sum(one.value for one in meter))
            kept = node.points.find("meter", "value")
            assert kept is not None
            assert (kept.series.unit, kept.metadata) == ("kW", {"room": "north"})
            assert len(kept.blocks) == 2
            scale = [Point(START_NS + n * 10**9, float(n)) for n in range(10)]
            assert sensors.readings("scale") == scale
            tank = sensors.readings("tank")
            assert [one.time_ns - START_NS for one in tank] == [3, 4, 5, 5]
            assert math.isnan(tank[1].value)
            assert sensors.latest("tank") == Point(START_NS + 5, 3.0)
            assert [one.value for one in sensors.ahead("tank")] == [9.0]
            if not start:
                await sensors.ingest(
                    SensorReading("meter", 350.0, timestamp=START_NS + 700 * 10**9)
                )
