"""What another site wrote is heard: by subscribers, by those who wait, by programs."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis
import trio
import trio.testing

from edgesync import EdgeNode
from edgesync.cells.changes import Change
from tests.edgesync.serve.resp.test_edge_commands import served
from tests.sites import Sites, settle

pytestmark = pytest.mark.feature("L2", "L9")


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


async def with_client(port: int, use: Callable[[Any], Any]) -> Any:
    def run() -> Any:
        with redis.Redis(port=port, socket_timeout=100) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)


def take(node_watch: Any) -> list[Change]:
    """Return what waits to be read."""
    found = list(node_watch._waiting)
    node_watch._waiting.clear()
    return found


@pytest.mark.slow
async def test_a_program_hears_what_another_site_wrote_once_and_its_own_writes_once(
    sites: Sites,
) -> None:
    async with sites.hub() as hub, sites.node("a") as a, sites.node("b") as b:
        b.set("price:tea", "1")
        a.set("other", "x")  # an edge without keys asks for none
        await settle(a, b)
        watch = b.watch("price:")
        a.set("price:milk", "1.20")
        a.incr("price:count", 5)
        assert a.delete("price:tea") == 1
        await settle(a, b)
        assert sorted(take(watch)) == [
            Change(b"price:count", "set", is_remote=True),
            Change(b"price:milk", "set", is_remote=True),
            Change(b"price:tea", "del", is_remote=True),
        ]
        b.incr("price:count")
        b.hset("price:h", {"f": 1})
        assert take(watch) == [Change(b"price:count", "incrby"), Change(b"price:h", "hset")]
        await settle(a, b)
        await settle(a, b)
        assert take(watch) == [], "our own writes come back from the hub, and are no news"
        while b.cells.rows.get(b"kprice:tea") is not None:
            a.incr("turns")
            await settle(a, b)
        assert take(watch) == [], "that a key is gone is told once, not when it is forgotten"
        hub.ask("HSET", ["price:h", "g", 2])
        hub.note_changes()
        await settle(a, b)
        assert take(watch) == [Change(b"price:h", "hset", is_remote=True)]
        a.expire("price:h", 1000)
        await settle(a, b)
        assert [change.key for change in take(watch)] == [b"price:h"]
        watch.close()
        a.set("price:milk", "2")
        await settle(a, b)
        assert take(watch) == []


async def test_a_watch_is_an_iterator_that_shows_what_it_lost(sites: Sites) -> None:
    async with sites.node("a") as a, a.watch(limit=3) as changes:
        for n in range(10):
            a.set(f"k{n}", n)
        seen = [await anext(changes) for _ in range(4)]
        assert [change.key for change in seen] == [b"k0", b"k1", b"k2", b""]
        assert seen[-1].event == "overflow"
        assert changes.lost == 7
        a.set("again", 1)
        assert (await anext(changes)).key == b"again"
        async with trio.open_nursery() as nursery:
            got: list[Change] = []

            async def read() -> None:
                got.extend([change async for change in changes])

            nursery.start_soon(read)
            await trio.testing.wait_all_tasks_blocked(0.01)
            a.set("last", 1)
            await trio.testing.wait_all_tasks_blocked(0.01)
            changes.close()
        assert [change.key for change in got] == [b"last"]


async def test_subscribers_hear_of_another_sites_writes(sites: Sites) -> None:
    async with sites.hub(), sites.node("a") as a, sites.node("b") as b, served(b) as port:
        listening = trio.Event()
        heard: list[tuple[bytes, bytes]] = []
        token = trio.lowlevel.current_trio_token()

        def listen(client: Any) -> None:
            client.config_set("notify-keyspace-events", "KEA")
            pubsub = client.pubsub()
            pubsub.psubscribe("__key*__:*")
            pubsub.get_message(timeout=100)
            token.run_sync_soon(listening.set)
            for _ in range(4):
                message = pubsub.get_message(timeout=100)
                heard.append((message["channel"], message["data"]))
            pubsub.close()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(with_client, port, listen)
            await listening.wait()
            a.set("price", "1")
            await settle(a, b)
            a.delete("price")
            await settle(a, b)
        assert heard == [
            (b"__keyspace@0__:price", b"set"), (b"__keyevent@0__:set", b"price"),
            (b"__keyspace@0__:price", b"del"), (b"__keyevent@0__:del", b"price"),
        ]  # fmt: skip


async def wait_blocked(port: int) -> None:
    def look(client: Any) -> None:
        while client.info("clients")["blocked_clients"] != 1:
            pass

    await with_client(port, look)


async def test_an_element_of_another_site_serves_who_waits(sites: Sites) -> None:
    async with sites.hub(), sites.node("a") as a, sites.node("b") as b, served(b) as port:
        popped: list[Any] = []

        async def pop() -> None:
            popped.append(await with_client(port, lambda client: client.blpop(["q", "r"], 0)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(pop)
            await wait_blocked(port)
            a.rpush("r", "job")
            await settle(a, b)
        assert popped == [(b"r", b"job")]
        await settle(a, b)
        assert a.command("LLEN", "r") == 0


async def test_an_expired_key_is_told(sites: Sites) -> None:
    async with sites.node("a") as a:
        watch = a.watch()
        a.command("SET", "soon", "1", "PX", "1")
        assert take(watch) == [Change(b"soon", "set")]
        with trio.fail_after(100):
            while not a.cells.expire():
                await trio.lowlevel.checkpoint()
        assert take(watch) == [Change(b"soon", "expired")]


def test_telling_the_hub_is_no_change(tmp_path: Path) -> None:
    with EdgeNode.local(tmp_path) as node:
        node.set("a", 1)
        watch = node.watch()
        assert node.cells.tell(0)
        node.set("b", 1)
        node.command("EVAL", "redis.call('SET', 'c', 1) redis.call('DEL', 'a')", 0)
        found = take(watch)
        assert found[0] == Change(b"b", "set")
        assert sorted(found[1:]) == [Change(b"a", "del"), Change(b"c", "set")]
        node.command("FLUSHALL", "YES")
        assert {change.key for change in take(watch)} == {b"b", b"c"}


def test_a_plain_program_can_watch_too(tmp_path: Path) -> None:
    with EdgeNode.local(tmp_path) as node:
        watch = node.watch("a")
        node.set("a", 1)
        node.command("RENAME", "a", "b")
        assert take(watch) == [Change(b"a", "set"), Change(b"a", "rename_from")]


@pytest.mark.slow
async def test_a_key_that_two_sites_made_of_two_types_is_heard_of(sites: Sites) -> None:
    """Beside the string there is what was made of it here."""
    async with sites.node("a") as a, sites.node("b") as b:
        async with sites.hub():
            b.set("other", "x")  # an edge without keys asks for none
            await settle(a, b)
        watch = b.watch("k")
        b.hset("k", {"f": 1})
        a.set("k", "text")
        async with sites.hub():
            await settle(a, b)
            a.set("k", "more")
            await settle(a, b)
            assert b.command("GET", "k") == a.command("GET", "k") == b"more"
            assert take(watch)[-1] == Change(b"k", "set", is_remote=True)
