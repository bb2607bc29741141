"""A typed program against the public interface, as its author's type checker sees it.

Never run: `make check` (mypy --strict) reads it with the rest of the tests. It finds a call that no
longer type-checks, a type that became Any, and a mistake that is no longer seen (an ignore that is
not needed is an error too).
"""

from typing import assert_type

import trio

from edgesync import (
    Action,
    EdgeAggregator,
    EdgeNode,
    Event,
    EventType,
    Lane,
    Reading,
    SensorConfig,
    SensorIngestion,
)
from edgesync.cells import Reply
from edgesync.errors import CommandError, ConfigError, EdgesyncError, StoreFull
from edgesync.status import Status
from hubd.client import HubClient
from hubd.errors import HubRefused, HubUnreachable


async def run_edge() -> None:
    async with EdgeNode({"edge": {"node_id": "edge-001"}}) as node:
        assert_type(node, EdgeNode)
        readings = [Reading("meter0", "power", 2.5, time_ns=1)]
        assert_type(await node.ingest(readings), None)
        event = Event(type=EventType.LIFECYCLE, action=Action.ADDED, time_ns=1)
        assert_type(await node.emit(event, Lane.CRITICAL), None)
        assert_type(await node.execute("HSET", "h", "f", 1), Reply)
        assert_type(await node.sync(timeout_s=3), None)
        assert_type(node.status(), Status)
        use_keys(node)


def use_keys(node: EdgeNode) -> None:
    try:
        node.set("k", "v")
        assert_type(node.get("k"), bytes | None)
        assert_type(node.incr("n"), int)
    except StoreFull as error:
        raise RuntimeError from error
    except (CommandError, ConfigError, EdgesyncError):
        pass


async def make_mistakes(node: EdgeNode) -> None:
    Reading("meter0", "power", 2.5, time_ns="now")  # type: ignore[arg-type]
    await node.emit("started")  # type: ignore[arg-type]
    node.incr("n", 1.5)  # type: ignore[arg-type]
    node.command("SET", object())  # type: ignore[arg-type]


def use_sensors(node: EdgeNode) -> None:
    ingestion = SensorIngestion(node, SensorConfig())
    assert_type(ingestion, SensorIngestion)
    aggregator = EdgeAggregator(width_s=60)
    for bucket in aggregator.drain_pending():
        assert_type(bucket.window.mean, float | None)


async def use_hub() -> None:
    try:
        async with HubClient("https://hub.example", token="esapi.secret") as hub:
            assert_type(await hub.get("k"), bytes | None)
            assert_type(await hub.incr("n", 2), int)
    except (HubRefused, HubUnreachable):
        pass


if __name__ == "__main__":
    trio.run(run_edge)
    trio.run(use_hub)
