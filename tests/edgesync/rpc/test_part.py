"""The part of a node that keeps calls: on disk when it says so, and each once."""

from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from edgesync._native.write import Write
from edgesync.parts.rpc import DATABASE, RpcPart
from edgesync.rpc.model import Report, Request, State, request_event
from edgesync.rpc.queue import Call
from tests.edgesync.sync.test_driver import Hub, until

pytestmark = [pytest.mark.feature("S24"), pytest.mark.slow]


async def test_what_a_hub_tells_again_is_one_call(tmp_path: Path) -> None:
    """A hub that was restored knows not what the edge has acknowledged."""
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        now_ns = rpc.now_ns()
        request = Request(id="a", method="go", expires_ns=now_ns + 60 * 10**9)
        for _ in range(2):
            write = Write()
            done = rpc.stage(write, request_event("pump", request, now_ns))
            await rpc.context.recorder.store.submit(write)
            done()
        assert len(stored(rpc)) == len(rpc.queue) == rpc.received == 1


async def test_an_answer_is_on_disk_when_it_counts_as_taken(tmp_path: Path) -> None:
    ended: list[Report] = []
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        await rpc.place("pump", "go", 1, timeout_s=60, one_way=False, ended=ended.append)
        async with rpc.serve("pump") as calls:
            call = await anext(calls)
            await rpc.answered("pump", call._call.number, Raw(b"2"))
            assert [(one.state, one.has_answer) for one in stored(rpc)] == [(State.ANSWERED, True)]
            assert [bytes(one.answer) for one in ended] == [b"2"]


@pytest.mark.parametrize("by_s", [-3600, 3600])
async def test_a_hub_whose_clock_is_set_changes_no_time_that_is_left(
    tmp_path: Path, by_s: int
) -> None:
    hub = Hub(tmp_path)
    async with hub.node() as node, hub.running():
        rpc: RpcPart = node.part("rpc")
        await until(lambda: node.part("link").driver.sender.clock_offset_s is not None)
        sender, now_ns = node.part("link").driver.sender, rpc.now_ns()
        request = Request(id="a", method="go", expires_ns=now_ns + 60 * 10**9)
        write = Write()
        done = rpc.stage(write, request_event("pump", request, now_ns))
        await rpc.context.recorder.store.submit(write)
        done()
        (before,) = stored(rpc)
        sender.clock_offset_s -= by_s  # as the next answer to a ping would make it
        moved_ns = rpc.now_ns() - now_ns
        assert abs(moved_ns - by_s * 10**9) < 600 * 10**9
        await rpc.flush()
        (after,) = stored(rpc)
        assert abs(after.expires_ns - before.expires_ns - by_s * 10**9) < 600 * 10**9
        assert [one.state for one in rpc.queue.open_calls()] == [State.QUEUED]


def stored(rpc: RpcPart) -> list[Call]:
    rows = rpc.context.recorder.store.store.scan(DATABASE, limit=10)
    return [msgspec.msgpack.decode(raw, type=Call) for _, raw in rows]
