"""Alarms overtake a backlog of a million records, in their order, whenever the edge is killed."""

import json
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode, Lane
from edgesync._native import batch, event
from edgesync._native.write import Write
from edgesync.model import RecordKind, ValueType, series_id
from hubd.log.base import Append, Appended, NotAppended
from hubd.log.lmdb import LmdbLog
from tests.edgesync.sync.test_driver import PATIENCE_S, Hub, entries

ALARMER = Path(__file__).parent / "alarmer.py"
BACKLOG, COMMIT = 1_000_000, 10_000
KILLS, ALARMS = 3, 5


class NoRoomForBulk(LmdbLog):
    """A log that takes nothing of the bulk lane before it may."""

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self.may_go_on = trio.Event()
        self.is_asked = trio.Event()

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        if any(one.lane is Lane.BULK for one in batches):
            self.is_asked.set()
            await self.may_go_on.wait()
        return await super().append(batches)


@pytest.fixture
def hub(tmp_path: Path) -> Hub:
    return Hub(tmp_path)


@asynccontextmanager
async def open_log(path: Path) -> AsyncIterator[NoRoomForBulk]:
    hub_log = NoRoomForBulk(path)
    try:
        yield hub_log
    finally:
        await hub_log.aclose()


def fill(folder: Path) -> None:
    some = [
        batch.readings(n, ValueType.F64, [series_id("m", f"P{n % 100}")], [float(n)])
        for n in range(COMMIT)
    ]
    with EdgeNode.local(folder / "data") as node:
        for _ in range(BACKLOG // COMMIT):
            write = Write()
            write.append_many(Lane.BULK, RecordKind.READINGS, some)
            node.store.submit_sync(write)


async def alarms_in(hub: Hub) -> list[int]:
    """Return which alarms are in the hub's log, in its order."""
    found = []
    for entry in await entries(hub.log):
        if entry.lane == Lane.CRITICAL:
            rows = batch.unpack(entry.codec, entry.payload, entry.lane, entry.first, 0)
            told = [event.decode(one.body) for one in batch.records(rows)]
            found += [int(one[4]) for one in told if one[3] == "pump"]
    return found


async def one_life(hub: Hub, folder: Path) -> int:
    """Kill an edge once the hub has some of its alarms; returns the last that it had on disk."""
    had = len(await alarms_in(hub))
    command = [sys.executable, str(ALARMER), str(folder), json.dumps(hub.settings())]
    report = folder / "report"
    with report.open("wb") as out:
        async with trio.open_nursery() as nursery:
            start = partial(trio.run_process, command, stdout=out, check=False)
            process = await nursery.start(start)
            while len(await alarms_in(hub)) < had + ALARMS:
                assert process.poll() is None
                await trio.sleep(0.01)
            process.kill()
    return int(report.read_bytes().split(b"\n")[-2])  # a last line may be cut


@pytest.mark.slow
@pytest.mark.feature("S1", "S4", "S5")
async def test_alarms_overtake_a_million_records_that_wait(hub: Hub, tmp_path: Path) -> None:
    async with open_log(tmp_path / "log") as hub_log:
        hub.log, folder = hub_log, tmp_path / "edge"
        hub.node()  # its keys and folder
        await trio.to_thread.run_sync(fill, folder)
        async with hub.running():
            last = 0
            for _ in range(KILLS):
                last = await one_life(hub, folder)
            # All of them came while a batch of the backlog was waiting, and none was stored.
            assert hub_log.is_asked.is_set()
            assert Lane.BULK not in {entry.lane for entry in await entries(hub_log)}
            hub_log.may_go_on.set()
            async with hub.node() as node:
                await node.sync(PATIENCE_S)
            bulk = [one for one in await entries(hub_log) if one.lane == Lane.BULK]
            assert bulk[-1].last == BACKLOG
        alarms = await alarms_in(hub)
        assert alarms == list(range(1, len(alarms) + 1))
        assert len(alarms) >= last
