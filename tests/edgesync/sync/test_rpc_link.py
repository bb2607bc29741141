"""Calls from the hub to a program at the edge, and back: once, in order, on time or told."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from msgspec import Raw

from edgesync import EdgeNode
from edgesync.parts.rpc import ServedCall
from edgesync.rpc.model import State
from hubd.log.lmdb import LmdbLog
from tests.edgesync.sync.rpc_hub import RpcHub, call, final
from tests.edgesync.sync.test_driver import until

pytestmark = [pytest.mark.feature("S24", "S7", "S8"), pytest.mark.slow]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[RpcHub]:
    made = RpcHub(tmp_path)
    yield made
    made.registry.close()


async def answering(calls: AsyncIterator[ServedCall], seen: list[str]) -> None:
    async for one in calls:
        seen.append(one.method)
        if one.method == "fail":
            await one.fail("no water")
        elif not one.one_way:
            await one.answer({"did": one.method, "with": one.params})


@asynccontextmanager
async def programmed(node: EdgeNode, seen: list[str]) -> AsyncIterator[None]:
    """Have a program answer for the pump."""
    async with trio.open_nursery() as nursery, node.part("rpc").serve("pump") as calls:
        nursery.start_soon(answering, calls, seen)
        yield
        nursery.cancel_scope.cancel()


async def test_a_call_is_answered_and_its_way_is_told(hub: RpcHub) -> None:
    seen: list[str] = []
    async with hub.serving() as service, hub.node() as node, programmed(node, seen):
        sent = await service.send("default", "barn", call("start", [1, "é"]))
        done = await final(service, sent)
        assert done.state is State.ANSWERED
        assert done.answer == Raw('{"did":"start","with":[1,"é"]}'.encode())
        times = (done.created_ns, done.sent_ns, done.delivered_ns, done.answered_ns)
        assert list(times) == sorted(t for t in times if t is not None)
        assert done.edge_ns is not None
        failed = await service.send("default", "barn", call("fail"))
        assert (await final(service, failed)).error == "no water"
        one_way = await service.send("default", "barn", call("ping", one_way=True))
        assert (await final(service, one_way)).state is State.DELIVERED


async def test_calls_to_a_device_that_is_away_wait_for_it_at_the_edge(hub: RpcHub) -> None:
    seen: list[str] = []
    async with hub.serving() as service:
        async with hub.node() as node:
            views = [await service.send("default", "barn", call(f"m{n}")) for n in range(20)]
            await until(lambda: hub.journal.view("barn").records == 0)
            assert node.status().rpc is not None
            assert {one.state for one in hub.calls.some(None)} == {State.QUEUED}
            await until(lambda: node.status().rpc.queued == 20)  # type: ignore[union-attr]
        # The edge is started again, and only now is the device there.
        async with hub.node() as node, programmed(node, seen):
            for view in views:
                assert (await final(service, view)).state is State.ANSWERED
    assert seen == [f"m{n}" for n in range(20)]


async def test_calls_made_while_the_cable_is_out_are_answered_after_it(hub: RpcHub) -> None:
    seen: list[str] = []
    async with hub.node() as node, programmed(node, seen):
        made = [hub.calls.send("default", "barn", call(f"m{n}"))[0] for n in range(5)]
        async with hub.serving() as service:
            for view in made:
                assert (await final(service, view)).state is State.ANSWERED
    assert seen == [f"m{n}" for n in range(5)]


async def test_a_call_whose_time_passes_is_given_up_at_both_sides_and_never_made(
    hub: RpcHub,
) -> None:
    seen: list[str] = []
    async with hub.serving() as service, hub.node() as node:
        short = await service.send("default", "barn", call("short", ttl_s=1))
        long = await service.send("default", "barn", call("long"))
        gone = await final(service, short)
        assert gone.state is State.EXPIRED
        assert "passed" in gone.reason
        await until(lambda: node.status().rpc.queued == 1)  # type: ignore[union-attr]
        async with programmed(node, seen):
            assert (await final(service, long)).state is State.ANSWERED
    assert seen == ["long"]


async def test_an_answer_after_the_time_is_kept(hub: RpcHub) -> None:
    async with hub.serving() as service, hub.node() as node:
        async with node.part("rpc").serve("pump") as calls:
            sent = await service.send("default", "barn", call("slow", ttl_s=1))
            one = await anext(calls)
            assert (await final(service, sent)).state is State.EXPIRED
            await one.answer("at last")
            await node.sync(60)
            await until(lambda: hub.calls.one(None, sent.id).is_late)  # type: ignore[union-attr]
            found = hub.calls.one(None, sent.id)
            assert found is not None
        assert (found.state, found.answer, found.is_late) == (
            State.EXPIRED, Raw(b'"at last"'), True,
        )  # fmt: skip


async def test_an_edge_with_an_old_store_makes_no_call_twice(hub: RpcHub, tmp_path: Path) -> None:
    """What it had before is not known any more: the hub says so, and what is new is made."""
    seen: list[str] = []

    async def answer_all(node: EdgeNode, count: int) -> None:
        async with programmed(node, seen):
            await until(lambda: len(seen) == count)
            await node.sync(60)

    async with hub.serving() as service:
        async with hub.node() as node:
            await service.send("default", "barn", call("a"))
            await answer_all(node, 1)
        shutil.copytree(tmp_path / "edge", tmp_path / "image")
        async with hub.node() as node:
            done = await service.send("default", "barn", call("b"))
            await answer_all(node, 2)
            waits = await service.send("default", "barn", call("away", device="fan"))
            await until(lambda: hub.journal.view("barn").records == 0)
        shutil.rmtree(tmp_path / "edge")
        (tmp_path / "image").rename(tmp_path / "edge")
        async with hub.node() as node:
            await service.send("default", "barn", call("c"))
            await answer_all(node, 3)
            lost = await final(service, waits)
            assert (lost.state, (await final(service, done)).state) == (
                State.EXPIRED, State.ANSWERED,
            )  # fmt: skip
            assert "before its store was restored" in lost.reason
    assert seen == ["a", "b", "c"]


async def test_a_hub_that_starts_again_reads_on_and_knows_answers(
    hub: RpcHub, tmp_path: Path
) -> None:
    """Answers come while no task reads the log; the next start takes them in, once."""
    seen: list[str] = []
    hub.log = log = LmdbLog(tmp_path / "log", map_bytes_max=64 << 20)
    try:
        async with hub.node() as node, programmed(node, seen):
            for start in range(3):
                async with hub.serving() as service:
                    sent = await service.send("default", "barn", call(f"m{start}"))
                    if start == 1:
                        continue  # the hub ends before it is answered
                    assert (await final(service, sent)).state is State.ANSWERED
        assert seen == ["m0", "m1", "m2"]
        assert {one.state for one in hub.calls.some(None)} == {State.ANSWERED}
    finally:
        await log.aclose()
