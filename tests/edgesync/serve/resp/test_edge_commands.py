"""EDGE.* and WAIT as Redis clients see them, with a hub and without."""

import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import redis
import trio

from edgesync import EdgeNode
from edgesync.serve.resp.server import RespServer
from tests.sites import Sites, settle

pytestmark = pytest.mark.feature("L9", "L14")

NAMES = ("STATUS", "QUEUE", "CLOCK", "PREFIXES", "STATS", "CONFIG", "PEERS", "SYNC",
         "CONFLICTS")  # fmt: skip


@asynccontextmanager
async def served(node: EdgeNode) -> AsyncIterator[int]:
    async with trio.open_nursery() as nursery:
        server = RespServer(node.cells, site=node, edge=node.settings.edge.name)
        yield await nursery.start(server.serve, "127.0.0.1", 0)
        nursery.cancel_scope.cancel()


async def ask(port: int, use: Callable[[Any], Any], *, protocol: int = 3) -> Any:
    """Use a client in a thread of its own."""

    def run() -> Any:
        with redis.Redis(port=port, protocol=protocol, socket_timeout=100) as client:
            return use(client)

    return await trio.to_thread.run_sync(run)


def said(words: tuple[str, ...], client: Any) -> Any:
    return client.execute_command(*words)


def texts(reply: Any) -> dict[str, Any]:
    """A map, or what stands for one in protocol 2."""
    pairs = reply.items() if isinstance(reply, dict) else zip(reply[::2], reply[1::2], strict=True)
    return {
        key.decode(): value.decode() if isinstance(value, bytes) else value for key, value in pairs
    }


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


@pytest.mark.parametrize("protocol", [2, 3])
async def test_both_spellings_in_both_protocols(sites: Sites, protocol: int) -> None:
    async with sites.hub(), sites.node("till") as node, served(node) as port:
        await settle(node)
        for name in NAMES:
            dotted, spaced = [
                await ask(port, partial(said, words), protocol=protocol)
                for words in ((f"EDGE.{name}",), ("EDGE", name))
            ]
            assert type(dotted) is type(spaced)
            if name == "STATUS":
                assert texts(dotted).keys() == texts(spaced).keys()


async def test_status_says_what_waits_and_when_it_was_heard(sites: Sites) -> None:
    async with sites.node("till") as node, served(node) as port:
        status = texts(await ask(port, lambda c: c.execute_command("EDGE.STATUS")))
        assert list(status)[:3] == ["sync_status", "pending_ops", "last_sync"]
        await ask(port, lambda c: c.hincrby("store:42:daily_revenue", "2025-02-19", 4999))
        status = texts(await ask(port, lambda c: c.execute_command("EDGE.STATUS")))
        assert (status["sync_status"], status["pending_ops"]) == ("offline", 1)
        assert status["last_sync"] == ""
        assert await ask(port, lambda c: c.execute_command("EDGE.SYNC")) == b"QUEUED"
        assert await ask(port, lambda c: c.execute_command("EDGE.SYNC", "WAIT", 20)) == b"QUEUED"
        async with sites.hub():
            assert (
                await ask(port, lambda c: c.execute_command("EDGE.SYNC", "WAIT", 20_000)) == b"OK"
            )
            status = texts(await ask(port, lambda c: c.execute_command("EDGE.STATUS")))
            assert (status["sync_status"], status["pending_ops"]) == ("idle", 0)
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", status["last_sync"])
            assert status["hub_url"] == sites.address


async def test_figures_of_keys_are_those_of_what_happened(sites: Sites) -> None:
    def shown(client: Any) -> dict[str, dict[str, Any]]:
        names = ("QUEUE", "CLOCK", "STATS")
        return {name: texts(client.execute_command(f"EDGE.{name}")) for name in names}

    rules = [{"prefix": "n:", "strategy": "edge_wins"}]
    async with sites.node("till", cells={"prefix": rules}) as node, served(node) as port:
        await ask(port, lambda c: (c.set("a", 1), c.set("b", 2), c.set("a", 3)))
        found = await ask(port, shown)
        queue, clock = found["QUEUE"], found["CLOCK"]
        assert (queue["pending_ops"], queue["sent"], queue["made"]) == (2, 0, 3)
        assert queue["pending_bytes"] > 0
        assert (clock["operations"], clock["hub_has"]) == (3, 0)
        assert abs(clock["stamp_ms"] - clock["wall_ms"]) < 60_000
        assert 0 <= queue["oldest_ms"] < 60_000
        prefixes = await ask(port, lambda c: c.execute_command("EDGE.PREFIXES"))
        assert sorted((one[b"prefix"], one[b"strategy"]) for one in prefixes) == [
            (b"", b"crdt_merge"), (b"n:", b"edge_wins"),
        ]  # fmt: skip
        async with sites.hub() as hub:
            await settle(node)
            found = await ask(port, shown)
            queue, clock, stats = found["QUEUE"], found["CLOCK"], found["STATS"]
            assert (queue["pending_ops"], queue["pending_bytes"], queue["oldest_ms"]) == (0, 0, 0)
            assert queue["sent"] == stats["ops_told"] >= 2
            assert clock["hub_has"] > 0
            assert clock["replica"] == hub.replicas()["till"].r
            assert stats["rounds"] >= 1
            (peer,) = await ask(port, lambda c: c.execute_command("EDGE.PEERS"))
            peer = texts(peer)
            assert (peer["peer"], peer["address"]) == ("hub", sites.address)
            assert peer["known_as"] == clock["replica"]
            assert (peer["hub_seq"], peer["hub_has"]) == (clock["hub_seq"], clock["hub_has"])


async def test_wait_counts_the_hub(sites: Sites) -> None:
    async with sites.node("till") as node, served(node) as port:
        await ask(port, lambda c: c.set("k", 1))
        assert await ask(port, lambda c: c.wait(0, 0)) == 0
        assert await ask(port, lambda c: c.wait(1, 20)) == 0
        async with sites.hub() as hub:

            def write_and_wait(client: Any) -> tuple[int, bytes]:
                client.set("k", 2)
                return client.wait(1, 20_000), client.get("k")

            assert await ask(port, write_and_wait) == (1, b"2")
            assert hub.ask("GET", ["k"]) == b"2"
            assert await ask(port, lambda c: c.wait(1, 0)) == 1
            assert await ask(port, lambda c: c.wait(2, 20)) == 1
            with pytest.raises(redis.ResponseError, match="one hub"):
                await ask(port, lambda c: c.wait(2, 0))


async def test_what_follows_a_wait_comes_after_it(sites: Sites) -> None:
    async with sites.node("till") as node, served(node) as port:
        stream = await trio.open_tcp_stream("127.0.0.1", port)
        await stream.send_all(
            b"SET k v\r\nWAIT 1 200\r\nGET k\r\nMULTI\r\nWAIT 1 0\r\nEXEC\r\nPING\r\n"
        )
        wanted = b"+OK\r\n:0\r\n$1\r\nv\r\n+OK\r\n+QUEUED\r\n*1\r\n:0\r\n+PONG\r\n"
        found = b""
        with trio.fail_after(100):
            while len(found) < len(wanted):
                found += await stream.receive_some()
        assert found == wanted
        # One that hangs up while it waits is nobody's concern.
        await stream.send_all(b"WAIT 1 0\r\n")
        await trio.sleep(0.05)
        await stream.aclose()
        assert await ask(port, lambda c: c.ping())


@pytest.mark.slow
@pytest.mark.parametrize("protocol", [2, 3])
async def test_conflicts_are_listed_and_resolved(sites: Sites, protocol: int) -> None:
    async with sites.node("till") as node, sites.node("other") as other, served(node) as port:
        node.set("price", 10)
        other.set("price", 12)
        async with sites.hub():
            await settle(node, other)
            (one,) = await ask(port, partial(said, ("EDGE.CONFLICTS",)), protocol=protocol)
            found = texts(one)
            winner, (loser,) = texts(found["winner"]), map(texts, found["losers"])
            assert {winner["edge"], loser["edge"]} == {"till", "other"}
            assert await ask(port, partial(said, ("EDGE.CONFLICTS", "COUNT"))) == 1
            none = ("EDGE.CONFLICTS", "PREFIX", "x", "AFTER", "0", "LIMIT", "5")
            assert await ask(port, partial(said, none)) == []
            dot = ("DOT", str(loser["replica"]), str(loser["number"]))
            assert await ask(port, partial(said, ("EDGE.RESOLVE", str(found["id"]), *dot))) == b"OK"
            await settle(node, other)
            assert node.get("price") == other.get("price") == loser["value"].encode()
            assert await ask(port, partial(said, ("EDGE.CONFLICTS", "COUNT"))) == 0
            assert len(await ask(port, partial(said, ("EDGE.CONFLICTS", "ALL")))) == 1


async def test_errors_say_what_to_do(sites: Sites, tmp_path: Path) -> None:
    async with EdgeNode({"edge": {"name": "alone"}}, folder=tmp_path) as node, served(node) as port:
        for words, error in (
            (("EDGE.SYNC",), "there is no hub: join one"),
            (("EDGE.SYNC", "WAIT"), "there is no hub"),
            (("EDGE", "WHAT"), "there are CLOCK, CONFIG"),
            (("EDGE.STATUS", "x"), "takes nothing more"),
            (("EDGE.CONFLICTS", "LIMIT", "0"), "syntax error"),
            (("EDGE.CONFLICTS", "OPEN", "WHAT"), "syntax error"),
            (("EDGE.RESOLVE", "x"), "syntax error"),
            (("EDGE.RESOLVE", "1", "WINNER"), "no conflict 1"),
            (("WAIT", "1", "-1"), "timeout out of range"),
            (("WAIT", "-1", "1"), "must not be negative"),
            (("WAIT", "1", "0"), "one hub to wait for"),
        ):
            with pytest.raises(redis.ResponseError, match=error):
                await ask(port, partial(said, words))
        assert await ask(port, lambda c: c.wait(1, 10)) == 0
        assert await ask(port, lambda c: c.execute_command("EDGE.PEERS")) == []


async def test_the_configuration_is_shown_without_secrets(sites: Sites) -> None:
    node = sites.node("till", cells={"password": "a long secret", "port": 0})
    async with node, served(node) as port:
        shown = texts(await ask(port, lambda c: c.execute_command("EDGE.CONFIG")))
        assert shown["cells.durability"] == "always"
        assert "a long secret" not in str(shown)
        some = texts(await ask(port, lambda c: c.execute_command("EDGE.CONFIG", "cells.strat*")))
        assert set(some) == {"cells.strategy"}
