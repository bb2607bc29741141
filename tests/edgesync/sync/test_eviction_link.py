"""Values that only the hub has, asked for over the real link while somebody waits for them."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import redis

from edgesync import EdgeNode
from edgesync.errors import CommandError
from edgesync_transport.messages import Pull
from hubd.cells.store import Answer
from tests.edgesync.serve.resp.test_edge_commands import ask, served, texts
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L5", "L8", "L9")

LONG = b"a value that is worth the way"


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


@asynccontextmanager
async def till(sites: Sites) -> AsyncIterator[tuple[EdgeNode, int]]:
    """An edge with a few keys that the hub has too, and its port."""
    async with sites.node("till") as node, served(node) as port:
        node.command("MSET", "one", LONG, "two", LONG[::-1], "short", "v")
        node.hset("h", {"f": LONG, "g": "1"})
        await settle(node)
        yield node, port


def evict(node: EdgeNode) -> None:
    space = node.cells.space
    for key in space.names():
        space.evict_key(key)


async def test_a_client_that_asks_for_it_waits_until_it_is_here(sites: Sites) -> None:
    async with sites.hub(), till(sites) as (node, port):
        evict(node)
        assert await ask(port, lambda c: c.get("one")) == LONG
        assert await ask(port, lambda c: c.hgetall("h")) == {b"f": LONG, b"g": b"1"}
        assert await ask(port, lambda c: c.mget("one", "two", "none")) == [LONG, LONG[::-1], None]
        stats = texts(await ask(port, lambda c: c.execute_command("EDGE.STATS")))
        assert (stats["evicted"], stats["restored"]) == (3, 3)
        evict(node)
        assert await ask(port, lambda c: c.append("two", "!")) == len(LONG) + 1
        assert await ask(port, lambda c: c.get("two")) == LONG[::-1] + b"!"


async def test_answers_keep_their_order(sites: Sites) -> None:
    def pipelined(client: Any) -> Any:
        with client.pipeline(transaction=False) as pipe:
            pipe.get("short").get("one").set("one", "new").get("one").strlen("two").hget("h", "f")
            return pipe.execute()

    async with sites.hub(), till(sites) as (node, port):
        evict(node)
        replies = await ask(port, pipelined)
        assert replies == [b"v", LONG, True, b"new", len(LONG), LONG]


async def test_what_needs_no_value_does_not_wait(sites: Sites) -> None:
    async with till_alone(sites) as (_, port):
        assert await ask(port, lambda c: c.exists("one", "two")) == 2
        assert await ask(port, lambda c: c.hkeys("h")) == [b"f", b"g"]
        assert await ask(port, lambda c: c.hset("h", "f", "new")) == 0
        assert await ask(port, lambda c: c.hdel("h", "g")) == 1
        assert await ask(port, lambda c: c.hget("h", "f")) == b"new"
        assert await ask(port, lambda c: c.expire("one", 100)) == 1
        assert await ask(port, lambda c: c.object("encoding", "one")) == b"evicted"
        assert await ask(port, lambda c: c.set("one", "new")) is True
        assert await ask(port, lambda c: c.get("one")) == b"new"
        assert await ask(port, lambda c: c.delete("two")) == 1


@asynccontextmanager
async def till_alone(sites: Sites) -> AsyncIterator[tuple[EdgeNode, int]]:
    """An edge that has left its values to a hub it cannot reach."""
    folder = sites.folder / "till"
    async with sites.hub(), till(sites) as (node, _):
        evict(node)
        await node.cells.wait_durable()
    async with sites.node("till", folder=folder) as node, served(node) as port:
        yield node, port


async def test_without_a_hub_it_says_where_the_value_is(sites: Sites) -> None:
    async with till_alone(sites) as (node, port):
        with pytest.raises(
            redis.ResponseError, match=r"^EVICTED 'one' was moved to the hub to make"
        ):
            await ask(port, lambda c: c.get("one"))
        with pytest.raises(CommandError, match=r"^EVICTED 'h' was moved"):
            node.hgetall("h")
        assert await ask(port, lambda c: c.get("short")) == b"v"
        async with sites.hub():
            await settle(node)
            assert await ask(port, lambda c: c.get("one")) == LONG


async def test_a_program_waits_or_asks_again(sites: Sites) -> None:
    async with sites.hub(), till(sites) as (node, _):
        evict(node)
        assert await node.execute("GET", "one") == LONG
        with pytest.raises(CommandError, match="EVICTED 'two'"):
            node.get("two")
        # It was asked for all the same.
        await until(lambda: not node.cells.space.is_evicted(b"two"))
        assert node.get("two") == LONG[::-1]


async def test_in_a_transaction_nothing_waits(sites: Sites) -> None:
    def transaction(client: Any) -> Any:
        with client.pipeline(transaction=True) as pipe:
            pipe.set("short", "w").get("one").get("short")
            return pipe.execute(raise_on_error=False)

    async with sites.hub(), till(sites) as (node, port):
        evict(node)
        set_, got, short = await ask(port, transaction)
        assert (set_, short) == (True, b"w")
        assert str(got).startswith("EVICTED 'one'")
        await until(lambda: not node.cells.space.is_evicted(b"one"))
        assert (await ask(port, transaction))[1] == LONG


async def test_more_than_one_answer_holds_comes_with_several(sites: Sites) -> None:
    values = {f"large{number}": bytes([number]) + b"x" * 200_000 for number in range(6)}
    small = {f"small{number:03}": LONG for number in range(150)}
    async with sites.hub(), sites.node("till", cells={"compression": False}) as node:
        node.command("MSET", *(part for pair in {**values, **small}.items() for part in pair))
        await settle(node)
        evict(node)
        found = await node.execute("MGET", *values)
        assert found == list(values.values())
        assert await node.execute("MGET", *small) == [LONG] * 150


async def test_a_hub_that_is_not_asked_this_way_answers_without(sites: Sites) -> None:
    """One older than the field reads a question without it."""
    async with sites.hub(), till(sites) as (node, port):
        answer = sites.cells.answer

        def answer_as_before(edge: str, pull: Pull, applied: int) -> Answer:
            return answer(edge, msgspec.structs.replace(pull, wants=()), applied)

        sites.cells.answer = answer_as_before  # type: ignore[method-assign]
        evict(node)
        with pytest.raises(redis.ResponseError, match="EVICTED 'one'"):
            await ask(port, lambda c: c.get("one"))
        node.set("one", "new")
        await settle(node)
        assert await ask(port, lambda c: c.get("one")) == b"new"


async def test_a_damaged_key_at_the_hub_costs_that_key(sites: Sites) -> None:
    async with sites.hub() as hub, till(sites) as (node, port):
        evict(node)
        raw = hub.rows.get(b"kone")
        assert raw is not None
        hub.rows.put(b"kone", raw[:5])
        with pytest.raises(redis.ResponseError, match="EVICTED 'one'"):
            await ask(port, lambda c: c.mget("one", "two"))
        assert await ask(port, lambda c: c.get("two")) == LONG[::-1]
        hub.rows.put(b"kone", raw)
        hub.note_changes()
        assert await ask(port, lambda c: c.get("one")) == LONG


async def test_what_changes_at_the_hub_meanwhile_arrives_as_ever(sites: Sites) -> None:
    async with sites.hub() as hub, till(sites) as (node, port):
        evict(node)
        hub.ask("SET", ["one", LONG * 2])
        hub.ask("HSET", ["h", "g", "2"])
        assert await ask(port, lambda c: c.get("one")) in (LONG, LONG * 2)
        await until(lambda: node.cells.space.get(b"h", b"hg") == b"2")
        assert await ask(port, lambda c: c.hget("h", "f")) == LONG
        await until(lambda: node.get("one") == LONG * 2)


# -- when room is needed -------------------------------------------------------------------------

IOT = {"preset": "iot", "eviction": "lru", "compression": False}


@pytest.mark.feature("L7")
@pytest.mark.setting("cells.eviction")
async def test_with_a_hub_there_is_room_for_more_than_the_preset_has(sites: Sites) -> None:
    values = {f"key{number:03}": b"%03d" % number * 1300 for number in range(900)}
    names = list(values)
    async with sites.hub(), sites.node("till", cells=IOT) as node:
        space = node.cells.space
        for at in range(0, 900, 50):
            node.command(
                "MSET", *(part for key in names[at : at + 50] for part in (key, values[key]))
            )
            await settle(node, rounds=1)
            assert node.get("key000") == values["key000"], "what is read all the time stays"
        assert space.keys == 900
        assert space.data <= 2 << 20 < sum(map(len, values.values()))
        assert space.evicted > 300
        for at in range(0, 900, 50):
            found = await node.execute("MGET", *names[at : at + 50])
            assert found == [values[key] for key in names[at : at + 50]]
        # What came back is more than the preset has; the next write makes room again.
        node.set("key000", values["key000"] + b"!")
        assert space.data <= 2 << 20


@pytest.mark.feature("L7")
async def test_what_the_hub_has_not_heard_of_is_never_left_to_it(sites: Sites) -> None:
    async with sites.node("till", cells=IOT) as node:
        value = b"x" * 4000
        for number in range(500):
            node.set(f"key{number:03}", value)
        with pytest.raises(CommandError, match="OOM preset iot holds at most 2097152 bytes"):
            node.command("MSET", *(part for more in range(30) for part in (f"more{more}", value)))
        for number in range(500):
            assert node.get(f"key{number:03}") == value
        assert node.cells.space.evicted == 0
        async with sites.hub():
            await settle(node)
            node.command("MSET", *(part for more in range(30) for part in (f"more{more}", value)))
            assert node.cells.space.evicted > 0


async def test_nothing_goes_unasked(sites: Sites) -> None:
    async with sites.hub(), sites.node("till", cells={"preset": "iot"}) as node:
        node.set("k", LONG)
        await settle(node)
        assert node.cells.make_room(1 << 30) == 0
        assert node.get("k") == LONG
