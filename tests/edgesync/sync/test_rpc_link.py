"""Calls from the hub to a program at the edge, and back: once, in order, on time or told."""

import functools
import shutil
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import trio
from msgspec import Raw

from edgesync import EdgeNode
from edgesync.parts.rpc import TICK_S, ServedCall
from edgesync.rpc.model import DEPTH_MAX, State
from edgesync.rpc.queue import UnknownCall
from edgesync_transport.receiver import Load, Loaded, LoadedNothing
from hubd.downlink.delivery import Delivery
from hubd.log.lmdb import LmdbLog
from hubd.rpc.calls import CallView
from hubd.rpc.service import EXPIRE_S, GIVEN_UP, RpcService
from tests.edgesync.sync.rpc_hub import RpcHub, call, clocked, final
from tests.edgesync.sync.test_driver import SECOND, until

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


async def sent_for_a_minute(service: RpcService, node: EdgeNode) -> CallView:
    """Call a device that is away; returns when the call waits at the edge."""
    sender = node.part("link").driver.sender
    await until(lambda: sender.clock_offset_s is not None)
    # They go by one clock: what is measured besides is how busy the machine is.
    sender.clock_offset_s, sender._ponged = 0.0, lambda *_: []
    sent = await service.send("default", "barn", call("wake", ttl_s=60))
    await until(lambda: waiting_at(node) == 1)
    return sent


async def until_looked() -> None:
    """Let hub and edge look at their clock."""
    await trio.sleep(2 * max(TICK_S, EXPIRE_S))


def waiting_at(node: EdgeNode) -> int:
    rpc = node.status().rpc
    assert rpc is not None
    return rpc.queued


def is_over_in_time(found: CallView | None) -> bool:
    assert found is not None
    assert found.expires_ns - found.created_ns == 60 * SECOND
    if found.state is State.QUEUED:
        return False
    assert found.state is State.EXPIRED
    assert found.expired_ns is not None
    assert abs(found.expired_ns - found.expires_ns) <= SECOND
    return True


async def test_an_edge_gives_a_call_up_when_its_time_is_over_and_not_before(
    tmp_path: Path,
) -> None:
    """And tells the hub, which would have waited for a second more."""
    told: list[CallView] = []
    async with (
        clocked(tmp_path) as (hub, clock), hub.serving() as service, hub.node() as node,
        trio.open_nursery() as nursery,
    ):  # fmt: skip

        async def wait() -> None:
            told.append(await final(service, sent))

        sent = await sent_for_a_minute(service, node)
        nursery.start_soon(wait)
        clock.passed_s = 59.9
        await until_looked()
        assert not is_over_in_time(hub.calls.one(None, sent.id))
        clock.passed_s = 60.0
        await until(lambda: bool(told))
        assert is_over_in_time(told[0])
        assert waiting_at(node) == 0
        clock.passed_s = 70.0
        await until_looked()
        assert (told, hub.calls.one(None, sent.id)) == (told[:1], told[0])


async def test_a_hub_gives_a_call_up_a_second_after_its_time_while_the_edge_is_away(
    tmp_path: Path,
) -> None:
    """The edge does the same by itself, and nothing is told twice when they meet."""
    async with clocked(tmp_path) as (hub, clock):
        async with hub.serving() as service:
            async with hub.node() as node:
                sent = await sent_for_a_minute(service, node)
            clock.passed_s = 60.9
            await until_looked()
            assert not is_over_in_time(hub.calls.one(None, sent.id))
            clock.passed_s = 61.0
            gone = await final(service, sent)
            assert is_over_in_time(gone)
        seen: list[str] = []
        async with hub.node() as node, programmed(node, seen):
            await until(lambda: waiting_at(node) == 0)
            async with hub.serving() as service:
                later = await service.send("default", "barn", call("now"))
                assert (await final(service, later)).state is State.ANSWERED
                assert (seen, hub.calls.one(None, sent.id)) == (["now"], gone)


@pytest.mark.parametrize("hours", [3, -3])
async def test_a_clock_that_is_set_expires_no_call_and_keeps_none(hub: RpcHub, hours: int) -> None:
    step_ns = 0
    seen: list[str] = []
    made = hub.node()
    node = EdgeNode(
        made.settings, folder=hub.folder / "edge", wall_ns=lambda: time.time_ns() + step_ns
    )
    async with hub.serving() as service, node:
        rpc = node.part("rpc")
        await until(lambda: node.part("link").driver.sender.clock_offset_s is not None)
        long = await service.send("default", "barn", call("long"))
        short = await service.send("default", "barn", call("short", ttl_s=2))
        await until(lambda: node.status().rpc.queued == 2)  # type: ignore[union-attr]
        # What the link measures next would put it right; nothing may happen until then.
        node.part("link").driver.sender._ponged = lambda *_: []
        step_ns = hours * 3_600 * 10**9
        assert abs(rpc.now_ns() - time.time_ns()) < 10**10
        assert (await final(service, short)).state is State.EXPIRED
        await until(lambda: node.status().rpc.queued == 1)  # type: ignore[union-attr]
        async with programmed(node, seen):
            assert (await final(service, long)).state is State.ANSWERED
    assert seen == ["long"]


async def test_whatever_a_program_says_is_told(hub: RpcHub) -> None:
    deep: Any = 1
    for _ in range(DEPTH_MAX + 1):
        deep = [deep]
    async with (
        hub.serving() as service, hub.node() as node, node.part("rpc").serve("pump") as calls
    ):  # fmt: skip
        for error, told in (("half \ud800", "half ?"), ("x" * 100_000, "x" * 4096)):
            sent = await service.send("default", "barn", call("start"))
            await (await anext(calls)).fail(error)
            assert (await final(service, sent)).error == told
        sent = await service.send("default", "barn", call("start"))
        await (await anext(calls)).answer(deep)
        assert "no JSON" in (await final(service, sent)).error


async def test_an_answer_to_a_store_that_is_gone_is_no_answer_to_another_call(hub: RpcHub) -> None:
    """A device that still has a call answers it when the edge has begun anew."""
    numbers = []
    async with hub.serving() as service:
        for _ in range(2):
            async with hub.node() as node, node.part("rpc").serve("pump") as calls:
                await service.send("default", "barn", call("start"))
                one = await anext(calls)
                numbers.append(one._call.number)
                if len(numbers) == 2:
                    with pytest.raises(UnknownCall):
                        await node.part("rpc").answered("pump", numbers[0], Raw(b"1"))
            shutil.rmtree(hub.folder / "edge" / "data")
    assert numbers[0] != numbers[1]


async def test_what_a_store_that_is_gone_had_confirmed_is_not_waited_for(
    hub: RpcHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ack is noted between two steps of the next session: what comes first then is gone."""
    load, noted = hub.journal.load, list[int]()

    def load_late(edge: str, asked: Load) -> Loaded | LoadedNothing:
        if not noted:
            noted.append(asked.first)
            hub.journal.mark(edge, {asked.lane: asked.first})
        return load(edge, asked)

    async with hub.serving() as service:
        await service.send("default", "barn", call("first"))
        monkeypatch.setattr(hub.journal, "load", load_late)
        async with hub.node() as node, node.part("rpc").serve("pump") as calls:
            await service.send("default", "barn", call("second"))
            assert (await anext(calls)).method == "second"
    assert noted == [1]


async def test_an_answer_to_a_call_that_a_restored_edge_forgot_is_no_answer_to_another(
    hub: RpcHub, tmp_path: Path
) -> None:
    """A copy knows no number that was given after it was made: none may be given again."""
    numbers: list[int] = []
    async with hub.serving() as service:
        for life in range(3):
            async with hub.node() as node, node.part("rpc").serve("pump") as served:
                sent = await service.send("default", "barn", call("start"))
                one = await anext(served)
                numbers.append(one._call.number)
                if life == 2:  # the device answers what it was called before the restore
                    with pytest.raises(UnknownCall):
                        await node.part("rpc").answered("pump", numbers[1], Raw(b"1"))
                if life == 1:  # or the hub sends it to the restored edge once more
                    await until(lambda: hub.journal.view("barn").records == 0)
                else:
                    await one.answer(life)
                    assert (await final(service, sent)).answer == Raw(b"%d" % life)
            if life == 0:
                shutil.copytree(tmp_path / "edge", tmp_path / "image")
            elif life == 1:
                shutil.rmtree(tmp_path / "edge")
                (tmp_path / "image").rename(tmp_path / "edge")


async def test_an_id_is_what_the_caller_makes_of_it(hub: RpcHub) -> None:
    seen: list[str] = []
    async with hub.serving() as service, hub.node() as node, programmed(node, seen):
        for id in ("local.1", "local.2", "..", "-"):
            sent = await service.send("default", "barn", call("start", id=id))
            assert (await final(service, sent)).state is State.ANSWERED


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


async def test_what_is_stored_while_a_session_is_opened_is_sent_in_it(
    hub: RpcHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the journal was read for the session, and before there is one that could be told."""
    begin, seen, sent = Delivery.begin, list[str](), dict[int, CallView]()

    async def begin_late(delivery: Delivery, edge: str, theirs: Any) -> Any:
        offer = await begin(delivery, edge, theirs)
        life = len(sent)
        sent[life] = await service.send("default", "barn", call(f"m{life}"))
        return offer

    monkeypatch.setattr(Delivery, "begin", begin_late)
    async with hub.serving() as service:
        for life in range(2):
            async with hub.node() as node, programmed(node, seen):
                await until(functools.partial(sent.__contains__, life))
                assert (await final(service, sent[life])).state is State.ANSWERED
    assert seen == ["m0", "m1"]


@pytest.mark.parametrize("how", ["clear", "clean"])
async def test_who_waits_for_a_call_is_told_that_it_was_given_up(hub: RpcHub, how: str) -> None:
    async with hub.serving() as service, trio.open_nursery() as nursery:
        waits = await service.send("default", "barn", call("away"))
        found: list[CallView] = []

        async def wait() -> None:
            found.append(await final(service, waits))

        nursery.start_soon(wait)
        await until(lambda: waits.id in service._waiting)
        clean = functools.partial(service.clean, before_ns=time.time_ns())
        assert await (service.clear if how == "clear" else clean)("barn") == 1
        await until(lambda: bool(found))
    assert (found[0].state, found[0].reason) == (State.EXPIRED, GIVEN_UP)


async def test_an_edge_with_an_old_store_makes_no_call_twice(hub: RpcHub, tmp_path: Path) -> None:
    """What it had before is not known any more: the hub says so, and what is new is made."""
    seen: list[str] = []

    async def answered(node: EdgeNode, made: CallView) -> None:
        async with programmed(node, seen):
            assert (await final(service, made)).state is State.ANSWERED

    async with hub.serving() as service:
        async with hub.node() as node:
            await answered(node, await service.send("default", "barn", call("a")))
        shutil.copytree(tmp_path / "edge", tmp_path / "image")
        async with hub.node() as node:
            done = await service.send("default", "barn", call("b"))
            await answered(node, done)
            waits = await service.send("default", "barn", call("away", device="fan"))
            await until(lambda: hub.journal.view("barn").records == 0)
        shutil.rmtree(tmp_path / "edge")
        (tmp_path / "image").rename(tmp_path / "edge")
        async with hub.node() as node:
            await answered(node, await service.send("default", "barn", call("c")))
            lost = await final(service, waits)
            assert lost.state is State.EXPIRED
            assert "before its store was restored" in lost.reason
            assert (await final(service, done)).state is State.ANSWERED
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
