"""An edge whose queue is full is upgraded, or goes back to the version before: nothing is lost.

What a version before cannot be asked to do here, which is to refuse what this one has written, this
one does with what the next will have written.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from edgesync import EdgeNode, Lane, Reading
from edgesync._native.write import Write
from edgesync.errors import LaneFull, StoreVersion
from tests.edgesync.test_old_folder import START_NS, unpack
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard
from tests.sites import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.feature("S2", "S32")]

EDGE: Final = "barn-7"
# What the old folder's journal has (tests/golden/edge_folder/README.md).
METER, SCALE, TANK = 14 * 50, 10, 5


@pytest.fixture
def yard(tmp_path: Path) -> Yard:
    yard = Yard(tmp_path / "hub", "")
    (yard.folder / EDGE).mkdir()
    yard.enrol(EDGE)
    return yard


def settings_of(yard: Yard, **lanes: Any) -> dict[str, Any]:
    return {
        "edge": {"name": EDGE},
        "hub": {"endpoint": yard.settings.hub.listen[0], "server_key": yard.server_key},
        "sync": {"reconnect_base": "50ms", "lanes": lanes},
    }


def node(yard: Yard, **lanes: Any) -> EdgeNode:
    return EdgeNode(settings_of(yard, **lanes), folder=yard.folder / EDGE)


@contextmanager
def stored_format(yard: Yard) -> Iterator[int]:
    path = yard.folder / "as-stored.toml"
    path.write_text(f'[edge]\ndata_dir = "{yard.folder / EDGE / "data"}"\n')
    with EdgeNode.stored(path) as reading:
        raw = reading.store.store.get("meta", b"format")
        assert raw is not None
        yield int.from_bytes(raw, "little")


def readings(first: int, count: int) -> list[Reading]:
    return [
        Reading("meter", "value", number / 2, START_NS + number * 10**9, unit="kW")
        for number in range(first, first + count)
    ]


async def fill(edge: EdgeNode) -> int:
    """Store readings until no more are taken; returns how many were."""
    for count in range(1000):
        try:
            await edge.ingest(readings(count, 1))
        except LaneFull:
            return count
    raise AssertionError("it never became full")


async def values_of(yard: Yard, entity: str, seconds: int) -> list[Any]:
    path = f"/api/v1/edges/{EDGE}/history?entity={entity}&key=value&resolution=raw"
    _, answer = await yard.ask(f"{path}&from={START_NS}&to={START_NS + seconds * 10**9}")
    found: list[Any] = answer["raw"]["value"]
    return found


async def arrived(yard: Yard, count: int) -> None:
    """Wait until the hub shows so many readings; more would be doubles."""
    await yard.wait_for(f"/api/v1/edges/{EDGE}", lambda edge: edge["state"]["readings"] >= count)
    _, edge = await yard.ask(f"/api/v1/edges/{EDGE}")
    assert edge["state"]["readings"] == count


async def test_a_full_queue_of_a_version_before_arrives_whole(yard: Yard, tmp_path: Path) -> None:
    (unpack(tmp_path) / "data").rename(yard.folder / EDGE / "data")
    with stored_format(yard) as number:
        assert number == 1
    async with node(yard) as upgraded:
        waiting = upgraded.status().lanes[Lane.BULK].pending
    with stored_format(yard) as number:
        assert number == 2
    async with node(yard, bulk={"capacity": waiting}) as upgraded:
        with pytest.raises(LaneFull):
            await upgraded.ingest(readings(METER, 1))
        async with served(yard.settings, yard.folder):
            await upgraded.sync(PATIENCE_S)
            await until(lambda: upgraded.store.state(Lane.BULK).floor >= waiting)
            await upgraded.ingest(readings(METER, 50))
            await upgraded.sync(PATIENCE_S)
            await arrived(yard, METER + SCALE + TANK + 50)
            wanted = [number / 2 for number in range(METER + 50)]
            assert await values_of(yard, "meter", METER + 50) == wanted
            assert await values_of(yard, "scale", METER) == [float(n) for n in range(SCALE)]


def test_what_a_later_version_has_written_is_refused_and_left_alone(yard: Yard) -> None:
    data = yard.folder / EDGE / "data"
    with EdgeNode.local(data) as later:
        later.ingest_sync(readings(0, 100))
        write = Write()
        write.put("meta", b"format", (3).to_bytes(4, "little"))
        later.store.submit_sync(write)
    before = (data / "store" / "data.mdb").read_bytes()
    with (
        pytest.raises(StoreVersion, match="format 3, this edgesync knows up to 2; upgrade"),
        EdgeNode.local(data),
    ):
        pass
    assert (data / "store" / "data.mdb").read_bytes() == before


@pytest.mark.parametrize("is_drained", [True, False])
async def test_going_back_with_a_new_folder_loses_and_doubles_nothing(
    yard: Yard, is_drained: bool
) -> None:
    """As docs/operations.md says: the folder is put aside, and is not to be drained first.

    Who comes next with the edge's key is known not to be the same store.
    """
    data, aside = yard.folder / EDGE / "data", yard.folder / EDGE / "data.newer"
    async with node(yard, bulk={"capacity": 100}) as newer:
        count = await fill(newer)
        if is_drained:
            async with served(yard.settings, yard.folder):
                await newer.sync(PATIENCE_S)
    data.rename(aside)
    async with node(yard) as older:
        await older.ingest(readings(count, 60))
        async with served(yard.settings, yard.folder):
            await older.sync(PATIENCE_S)
            await arrived(yard, count + 60 if is_drained else 60)
    # Upgraded again, or with a copy of the newer version for as long as that takes.
    data.rename(yard.folder / EDGE / "data.older")
    aside.rename(data)
    async with node(yard) as newer, served(yard.settings, yard.folder):
        await newer.sync(PATIENCE_S)
        await newer.ingest(readings(count + 60, 40))
        await newer.sync(PATIENCE_S)
        await arrived(yard, count + 100)
        wanted = [number / 2 for number in range(count + 100)]
        assert await values_of(yard, "meter", len(wanted)) == wanted
