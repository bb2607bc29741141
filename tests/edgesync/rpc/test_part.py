"""The part of a node that keeps calls: on disk when it says so, and each once."""

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest
from msgspec import Raw

from edgesync import EdgeNode
from edgesync._native.write import Write
from edgesync.errors import StoreFull
from edgesync.parts import rpc as rpc_module
from edgesync.parts.rpc import DATABASE, NUMBER_MAX, RpcPart
from edgesync.rpc import queue as queue_module
from edgesync.rpc.model import SELF, Report, Request, State, request_event
from edgesync.rpc.queue import EFFECTS_MAX, Call, Effect
from edgesync.store.commit import Tails
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


async def place(rpc: RpcPart, device: str = "pump", timeout_s: float = 600) -> int:
    """Call a device; returns the call's number."""
    known = {call.number for call in stored(rpc)}
    await rpc.place(device, "go", 1, timeout_s=timeout_s, one_way=False, ended=lambda _: None)
    (number,) = {call.number for call in stored(rpc)} - known
    return number


async def test_a_call_gets_no_number_that_another_one_has(tmp_path: Path) -> None:
    """Or it would lie on top of that in the store, and its answer be the other's."""
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        rpc._number = NUMBER_MAX - 1
        assert [await place(rpc) for _ in range(3)] == [NUMBER_MAX, 1, 2]
        rpc._number = NUMBER_MAX - 1
        assert await place(rpc) == 3
        assert len(stored(rpc)) == len(rpc.queue) == 4


async def test_calls_go_in_their_order_over_restarts(tmp_path: Path) -> None:
    placed = list[int]()
    for count in (2, 1, 1):
        async with Hub(tmp_path).node() as node:
            rpc: RpcPart = node.part("rpc")
            placed += [await place(rpc) for _ in range(count)]
            if len(placed) == 4:
                assert [call.number for call in rpc.queue.open_calls()] == placed
    async with Hub(tmp_path).node() as node:
        rpc = node.part("rpc")
        assert [call.number for call in rpc.queue.open_calls()] == placed


async def test_all_calls_that_may_wait_are_there_after_a_restart(tmp_path: Path) -> None:
    """Together they are larger than what the store gives at once."""
    params = "x" * 48_000
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        for _ in range(100):
            await rpc.place("pump", "go", params, timeout_s=600, one_way=False, ended=print)
    async with Hub(tmp_path).node() as node:
        rpc = node.part("rpc")
        assert len(rpc.queue) == len(list(rpc.queue.open_calls())) == 100


async def test_a_damaged_row_costs_its_call_alone(tmp_path: Path) -> None:
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        lost, kept = await place(rpc), await place(rpc)
        write = Write()
        write.put(DATABASE, lost.to_bytes(8, "big"), b"\xc1damaged")
        await rpc.context.recorder.store.submit(write)
    async with Hub(tmp_path).node() as node:
        rpc = node.part("rpc")
        assert [call.number for call in rpc.queue.open_calls()] == [kept]
        await rpc.flush()
        assert [call.number for call in stored(rpc)] == [kept]


@pytest.mark.parametrize("is_of_the_hub", [False, True])
async def test_what_made_room_for_a_call_is_gone_from_the_disk_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_of_the_hub: bool
) -> None:
    monkeypatch.setattr(queue_module, "ROWS_MAX", 1)
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        old = await place(rpc, timeout_s=0)
        await until(lambda: stored(rpc)[0].state is State.EXPIRED)
        if is_of_the_hub:
            now_ns, write = rpc.now_ns(), Write()
            request = Request(id="a", method="go", expires_ns=now_ns + 60 * 10**9)
            done = rpc.stage(write, request_event("pump", request, now_ns))
            await rpc.context.recorder.store.submit(write)
            done()
        else:
            await rpc.place("pump", "go", 1, timeout_s=60, one_way=False, ended=lambda _: None)
        (call,) = stored(rpc)
        assert (call.number != old, call.state) == (True, State.QUEUED)


def submitting(node: EdgeNode, monkeypatch: pytest.MonkeyPatch, before: Callable[[], None]) -> None:
    """Have `before` called before each write of what became of calls."""
    store = node.part("rpc").context.recorder.store
    submit = store.submit

    async def first(write: Write) -> Tails:
        before()
        tails: Tails = await submit(write)
        return tails

    monkeypatch.setattr(store, "submit", first)


async def test_what_the_disk_refuses_of_calls_is_stored_once_it_can_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "RETRY_S", 0.01)
    refusals = 0

    def refuse() -> None:
        nonlocal refusals
        refusals += 1
        if refusals <= 3:
            raise StoreFull(used_bytes=9, limit_bytes=9)

    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        number = await place(rpc)
        submitting(node, monkeypatch, refuse)
        with pytest.raises(StoreFull):
            await rpc.answered("pump", number, Raw(b"2"))
        await until(lambda: stored(rpc)[0].state is State.ANSWERED)
        assert refusals > 3


async def test_an_answer_that_comes_while_another_is_stored_is_stored_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        number, others = await place(rpc), [await place(rpc, "fan")]

        def answer() -> None:
            while others:
                rpc.take_answer("fan", others.pop(), Raw(b"3"))

        submitting(node, monkeypatch, answer)
        await rpc.answered("pump", number, Raw(b"2"))
        await until(lambda: {one.state for one in stored(rpc)} == {State.ANSWERED})


class Ear:
    """Speaks for a device, and acknowledges nothing yet."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    def send_call(self, call: Call) -> bool:
        self.calls.append(call.number)
        return True


async def test_who_spoke_for_a_device_before_takes_no_call_from_who_does_now(
    tmp_path: Path,
) -> None:
    old, new, own = Ear(), Ear(), Ear()
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        rpc.attach("pump", old)
        rpc.attach("pump", new)
        rpc.detach("pump", old)
        number = await place(rpc)
        assert (old.calls, new.calls) == ([], [number])
        rpc.resume("pump", old)
        assert (old.calls, new.calls) == ([], [number])
        rpc.detach("pump", new)
        rpc.delivered("pump", number)
        await rpc.flush()
        await place(rpc)
        assert (old.calls, new.calls) == ([], [number])
        rpc.attach_self(own)
        rpc.attach(SELF, old)  # a device of that name is not the edge
        mine = await place(rpc, SELF)
        assert (old.calls, own.calls) == ([], [mine])


async def test_no_more_calls_of_an_edges_own_wait_than_may(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rpc_module, "UNDER_WAY_MAX", 2)
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        numbers = [await place(rpc) for _ in range(2)]
        with pytest.raises(LookupError, match="no more may"):
            await place(rpc)
        await rpc.answered("pump", numbers[0], Raw(b"2"))
        await place(rpc)


def stored(rpc: RpcPart) -> list[Call]:
    rows = rpc.context.recorder.store.store.scan(DATABASE, limit=1000)
    return [msgspec.msgpack.decode(raw, type=Call) for _, raw in rows]


async def test_what_happens_to_many_calls_at_once_is_stored_in_portions(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with Hub(tmp_path).node() as node:
        rpc: RpcPart = node.part("rpc")
        store, now_ns, write = rpc.context.recorder.store, rpc.now_ns(), Write()
        for number in range(count := EFFECTS_MAX + 100):
            request = Request(id=f"c{number}", method="go", expires_ns=now_ns + 600 * 10**9)
            done = rpc.stage(write, request_event(f"pump{number}", request, now_ns))
            done()
        await store.submit(write)
        before = {one.id: one.expires_ns for one in stored(rpc)}
        assert len(before) == count
        noted, writes = rpc._write, list[Write]()

        def noting(write: Write, effect: Effect) -> None:
            writes.append(write)
            noted(write, effect)

        monkeypatch.setattr(rpc, "_write", noting)
        rpc._carry_out(rpc.queue.stepped(7))
        await rpc.flush()
        assert [writes.count(write) for write in dict.fromkeys(writes)] == [EFFECTS_MAX, 100]
        assert {one.id: one.expires_ns - 7 for one in stored(rpc)} == before
