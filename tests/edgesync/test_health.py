"""What an edge says is out of bounds."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from edgesync.health import indicators
from edgesync.model import Lane
from edgesync.serve.http import metrics
from edgesync.status import LaneStatus, LinkStatus, Status, StoreStatus
from tests.edgesync.sync.test_driver import PATIENCE_S, Hub, readings, until

pytestmark = pytest.mark.feature("S27")

LANE = LaneStatus(
    lane="bulk", tail=9, sent=9, floor=9, safe=9, trimmed=0, pending=0, stored_bytes=9
)
LINK = LinkStatus(state="Connected", endpoint="tcp://hub:7400", epoch=7, clock_offset_s=0.1)
STORE = StoreStatus(path="", used_bytes=70, limit_bytes=100, commits=1, last_commit_s=0.0)
GOOD = Status(
    edge="barn", version="1", incarnation="", uptime_s=1.0, readings=1, events=1, series=1, dead=0,
    oldest_pending_s=None, lanes=(LANE,), link=LINK, store=STORE,
)  # fmt: skip


def out_of_bounds(
    lane: dict[str, Any] | None = None,
    link: dict[str, Any] | None = None,
    store: dict[str, Any] | None = None,
    **changes: Any,
) -> list[tuple[str, str]]:
    replace = msgspec.structs.replace
    status = replace(
        GOOD, lanes=(replace(LANE, **(lane or {})),), link=replace(LINK, **(link or {})),
        store=replace(STORE, **(store or {})), **changes,
    )  # fmt: skip
    return [(one.name, one.level) for one in indicators(status)]


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"lane": {"pending": 999}}, []),
        ({"lane": {"pending": 1000}}, [("queue", "warning")]),
        ({"lane": {"pending": 5001}}, [("queue", "critical")]),
        (
            {"lane": {"pending": 5001}, "link": {"epoch": 0}},
            [("queue", "critical"), ("offline", "critical")],
        ),
        ({"lane": {"pending": 5001}, "link": {"endpoint": "", "epoch": 0}}, []),
        ({"lane": {"pending": 1}, "oldest_pending_s": 4.9}, []),
        ({"lane": {"pending": 1}, "oldest_pending_s": 5.0}, [("latency", "warning")]),
        ({"lane": {"pending": 1}, "oldest_pending_s": 30.1}, [("latency", "critical")]),
        ({"link": {"clock_offset_s": -5.0}}, [("clock", "warning")]),
        ({"link": {"sessions_recent": 6}}, []),
        ({"link": {"sessions_recent": 7}}, [("flapping", "warning")]),
        ({"lane": {"ack_p99_s": 1.0}}, []),
        ({"lane": {"ack_p99_s": 1.1}}, [("acks", "warning")]),
        ({"store": {"used_bytes": 80}}, [("store", "warning")]),
        ({"store": {"used_bytes": 90}}, [("store", "critical")]),
        ({"lane": {"filled": 0.8}}, [("lane", "warning")]),
        ({"closed_doors": ("no metrics: taken",)}, [("door", "warning")]),
        (
            {"link": {"clock_offset_s": 9.0}, "store": {"used_bytes": 95}},
            [("store", "critical"), ("clock", "warning")],
        ),
    ],
)
def test_bounds_are_those_operators_know(
    changes: dict[str, Any], found: list[tuple[str, str]]
) -> None:
    assert out_of_bounds(**changes) == found


@pytest.mark.slow
async def test_sessions_and_acks_are_counted_as_they_come(tmp_path: Path) -> None:
    hub = Hub(tmp_path)
    async with hub.node() as edge:
        status = edge.status()
        for nth in range(3):
            async with hub.running():
                await edge.ingest(readings(10 * nth, 10))
                await edge.sync(PATIENCE_S)
                status = edge.status()
            await until(lambda: edge.status().link.epoch == 0)
        assert status.link.sessions_recent == 3
        bulk = status.lanes[Lane.BULK]
        assert sum(bulk.ack_counts) >= 3
        assert bulk.ack_sum_s > 0
        assert status.indicators == ()
        counted = f'edgesync_ack_seconds_count{{edge="barn",lane="bulk"}} {sum(bulk.ack_counts)}'
        assert counted in metrics(status).decode()
