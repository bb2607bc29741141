"""A line that is cut a thousand times: one session, nothing that grows, and everything arrives."""

import os
from pathlib import Path

import pytest
import trio

from edgesync import EdgeNode
from edgesync.demo.cable import open_cable
from edgesync_transport.keys import write_keys
from hubd.log.lmdb import LmdbLog
from tests.edgesync.sync.test_driver import BARN, PATIENCE_S, Hub, readings, values
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
