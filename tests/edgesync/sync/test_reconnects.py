"""A line that is cut a thousand times: one session, nothing that grows, and everything arrives."""

import os
from collections import defaultdict
from pathlib import Path
from random import Random

import pytest
import trio

from edgesync import EdgeNode, Event, EventType, Lane
from edgesync._native import batch, event
from edgesync.demo.cable import Cable, open_cable
from edgesync.model import RecordKind
from edgesync_transport.keys import write_keys
from hubd.log.base import Log
from hubd.log.lmdb import LmdbLog
from tests.edgesync.sync.test_driver import BARN, PATIENCE_S, Hub, entries, readings, values
from tests.outages.test_short import anonymous_bytes

pytestmark = [pytest.mark.slow, pytest.mark.feature("S26", "S3", "S4")]

A_TURN = 5
WARM = 20


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("cuts", [80, pytest.param(1000, marks=pytest.mark.long)])
async def test_a_line_cut_again_and_again_leaves_one_session_and_nothing_else(
    tmp_path: Path, cuts: int
) -> None:
    hub = Hub(tmp_path)
    log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    host, port = hub.address.removeprefix("tcp://").split(":")
    async with open_cable((host, int(port))) as cable, hub.running(log) as presence:
        hub.address = f"tcp://{cable.address[0]}:{cable.address[1]}"
        async with impatient_node(hub) as edge:
            driver = edge.part("link").driver
            epoch = held = memory = 0
            for nth in range(cuts):
                await edge.ingest(readings(nth * A_TURN, A_TURN))
                with trio.fail_after(PATIENCE_S):
                    epoch = await driver.wait_session(epoch)
                if nth == WARM:
                    held, memory = descriptors(), anonymous_bytes()
                cable.cut()
                cable.plug()
            await edge.sync(PATIENCE_S)
            assert driver.epoch >= cuts
            assert await values(log) == [float(n) for n in range(cuts * A_TURN)]
            presence.set_registered([BARN])
            assert [(one.edge, one.epoch) for one in presence.edges()] == [("barn", driver.epoch)]
            told = presence.link_events(edge="barn", before=None, limit=10_000)
            assert "flapping" in {one.kind for one in told}
            assert descriptors() <= held + 8
            assert anonymous_bytes() - memory < 16 << 20
    await log.aclose()


def impatient_node(hub: Hub) -> EdgeNode:
    folder = hub.folder / "edge"
    folder.mkdir()
    write_keys(folder / "edge.keys", hub.edge_keys)
    return EdgeNode(
        {
            "edge": {"name": "barn"},
            "hub": {"endpoint": hub.address, "server_key": hub.keys.public},
            "sync": {
                "heartbeat": "1s", "reconnect_base": "5ms", "reconnect_cap": "10ms",
                "breaker_failures": 100_000,
            },
        },
        folder=folder,
    )  # fmt: skip


ENTITIES = 100


async def seqs(log: Log) -> dict[str, list[int]]:
    """Return the numbers of each entity's events, in the order in which the hub has them."""
    found: dict[str, list[int]] = defaultdict(list)
    for entry in await entries(log):
        if not entry.payload:
            continue
        for _, record in batch.events(entry.codec, entry.payload):
            if record.kind == RecordKind.EVENT:
                kind, _, _, entity, body, *_ = event.decode(record.body)
                if kind == EventType.CUSTOM:
                    found[entity].append(int(body))
    return found


async def cut_now_and_then(edge: EdgeNode, cable: Cable, cuts: int, events: int) -> None:
    """Cut the line after so many events that the hub has, by chance, in each session."""
    driver = edge.part("link").driver
    chance, sender, epoch = Random(cuts), driver.sender, 0
    for _ in range(cuts):
        with trio.fail_after(PATIENCE_S):
            epoch = await driver.wait_session(epoch)
        have = sum(lane.floor for lane in sender.lanes)
        wanted = min(events, have + chance.randrange(2 * events // cuts))
        while sum(lane.floor for lane in sender.lanes) < wanted and driver.epoch:  # noqa: ASYNC110
            await trio.sleep(0.001)
        cable.cut()
        cable.plug()


@pytest.mark.parametrize(
    ("events", "cuts"),
    [
        (20_000, 20),
        pytest.param(1_000_000, 200, marks=[pytest.mark.long, pytest.mark.timeout(7200)]),
    ],
)
async def test_events_of_an_entity_are_in_order_whatever_the_line_does(
    tmp_path: Path, events: int, cuts: int
) -> None:
    """Each of 100 entities has its next event stored as soon as the one before is on disk."""
    hub = Hub(tmp_path)
    log = LmdbLog(tmp_path / "log", map_bytes_max=4 << 30)
    host, port = hub.address.removeprefix("tcp://").split(":")
    async with open_cable((host, int(port))) as cable, hub.running(log):
        hub.address = f"tcp://{cable.address[0]}:{cable.address[1]}"
        async with impatient_node(hub) as edge:

            async def keep_emitting(entity: int) -> None:
                for number in range(events // ENTITIES):
                    await edge.emit(
                        Event(
                            type=EventType.CUSTOM, entity_id=f"pump{entity}", time_ns=0,
                            body=b"%d" % number,
                        ),
                        list(Lane)[entity % 3],
                    )  # fmt: skip

            async with trio.open_nursery() as nursery:
                for entity in range(ENTITIES):
                    nursery.start_soon(keep_emitting, entity)
                nursery.start_soon(cut_now_and_then, edge, cable, cuts, events)
            # After the last cut it may take minutes on a busy machine until a handshake is in time.
            await edge.sync(10 * PATIENCE_S)
            assert edge.part("link").driver.epoch >= cuts
    found = await seqs(log)
    wanted = list(range(events // ENTITIES))
    assert len(found) == ENTITIES
    assert [entity for entity, numbers in found.items() if numbers != wanted] == []
    await log.aclose()
