"""Writes that met: listed with who wrote what, at the hub and at the edges concerned; resolved."""

from pathlib import Path

import pytest

from edgesync._native.resp import ReplyError
from edgesync.cells.conflicts import Conflict
from edgesync.errors import CommandError
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L3", "L5")


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


def shape(one: Conflict) -> tuple[bytes, str, str, list[tuple[str, bytes | None]], str]:
    sides = [(side.edge, side.value) for side in (one.winner, *one.losers) if side is not None]
    return one.key, one.cell, one.kind, sorted(sides, key=str), one.status


async def test_a_conflict_is_listed_where_it_concerns_somebody(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b, sites.node("c") as c:
        a.set("price", "10")
        b.set("price", "12")
        assert c.get("price") is None
        async with sites.hub() as hub:
            await settle(a, b, c)
            (one,) = hub.conflicts.find(status="open")
            both = [("a", b"10"), ("b", b"12")]
            assert shape(one) == (b"price", "string", "VALUE", both, "open")
            await until(lambda: bool(a.cells.conflicts()) and bool(b.cells.conflicts()))
            assert a.cells.conflicts() == b.cells.conflicts() == [one]
            assert c.cells.conflicts() == []
            assert one.winner is not None
            assert a.get("price") == b.get("price") == c.get("price") == one.winner.value


@pytest.mark.slow
@pytest.mark.parametrize("where", ["edge", "hub", "any write"])
async def test_resolving_clears_it_everywhere(sites: Sites, where: str) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.hset("item", {"price": "10"})
        b.hset("item", {"price": "12"})
        async with sites.hub() as hub:
            await settle(a, b)
            await until(lambda: bool(a.cells.conflicts(status="open")))
            (one,) = a.cells.conflicts()
            assert one.cell == "field price"
            if where == "edge":
                (loser,) = one.losers
                a.cells.resolve(one.id, [b"DOT", b"%d" % loser.r, b"%d" % loser.n])
                wanted = loser.value
            elif where == "hub":
                hub.resolve(one.id, [b"VALUE", b"11"])
                wanted = b"11"
            else:
                b.hset("item", {"price": "9"})
                wanted = b"9"
            await settle(a, b)
            assert a.hgetall("item") == b.hgetall("item") == {b"price": wanted}
            assert hub.ask("HGET", ["item", "price"]) == wanted
            await until(lambda: [x.status for x in a.cells.conflicts()] == ["resolved"])
            await until(lambda: [x.status for x in b.cells.conflicts()] == ["resolved"])
            assert hub.conflicts.open_count == 0
            with pytest.raises(CommandError, match="is resolved"):
                hub.resolve(one.id, [b"WINNER"])


async def test_a_removal_that_met_an_update(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("k", "v")
        assert b.get("k") is None
        async with sites.hub():
            await settle(a, b)
        a.delete("k")
        b.set("k", "w")
        async with sites.hub() as hub:
            await settle(a, b)
            (one,) = hub.conflicts.find()
            both = [("a", None), ("b", b"w")]
            assert shape(one) == (b"k", "string", "DELETE_UPDATE", both, "open")
            hub.resolve(one.id, [b"WINNER"])
            assert hub.conflicts.open_count == 0
            await settle(a, b)
            assert a.get("k") == b.get("k") == b"w"


async def test_what_adds_up_or_agrees_is_no_conflict(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        for node in (a, b):
            node.incr("count")
            node.sadd("members", "m")
            node.set("same", "value")
            node.rpush("list", "x")
        async with sites.hub() as hub:
            await settle(a, b)
            assert hub.conflicts.detected == 0
            assert hub.ask("LLEN", ["list"]) == 2


async def test_the_list_survives_a_restart_of_the_hub(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("k", "1")
        b.set("k", "2")
        async with sites.hub() as hub:
            await settle(a, b)
            before = hub.conflicts.find()
        async with sites.hub() as hub:
            assert hub.conflicts.find() == before != []
            hub.resolve(before[0].id, [b"WINNER"])
            assert [one.status for one in hub.conflicts.find()] == ["resolved"]


async def test_a_wrong_choice_says_what_there_is(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("k", "1")
        b.set("k", "2")
        async with sites.hub():
            await settle(a, b)
            await until(lambda: bool(a.cells.conflicts()))
        (one,) = a.cells.conflicts()
        for choice, error in (
            ([], "syntax error"),
            ([b"MAYBE"], "syntax error"),
            ([b"DOT", b"7", b"7"], r"is between \d+ \d+, \d+ \d+"),
        ):
            with pytest.raises(ReplyError, match=error):
                a.cells.resolve(one.id, choice)
        with pytest.raises(ReplyError, match="no conflict 99"):
            a.cells.resolve(99, [b"WINNER"])


async def test_what_nobody_resolves_is_open_for_a_time(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("k", "1")
        b.set("k", "2")
        async with sites.hub() as hub:
            await settle(a, b)
            (one,) = hub.conflicts.find(status="open")
            hub.conflicts.expire(one.found_ms)
            assert hub.conflicts.open_count == 1
            hub.conflicts.expire(one.found_ms + 1)
            assert [x.status for x in hub.conflicts.find()] == ["expired"]
            assert a.get("k") == b.get("k")
            hub.resolve(one.id, [b"WINNER"])
            with pytest.raises(CommandError, match="over 1048576 bytes"):
                hub.resolve(one.id, [b"VALUE", bytes(2 << 20)])


async def test_a_key_without_a_name_is_a_key(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("", "nameless")
        a.set("k", "v")
        assert b.get("") is None
        async with sites.hub() as hub:
            await settle(a, b)
            assert b.get("") == hub.ask("GET", [""]) == b"nameless"
            assert b.get("k") == b"v"
            a.delete("")
            await settle(a, b)
            assert b.get("") is None


@pytest.mark.slow
@pytest.mark.parametrize("where", ["edge", "hub", "any write"])
async def test_a_key_made_as_two_things_is_listed_and_loses_nothing(
    sites: Sites, where: str
) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.hset("item", {"price": "10", "name": "milk"})
        b.set("item", "milk")
        async with sites.hub() as hub:
            await settle(a, b)
            (one,) = hub.conflicts.find(status="open")
            sides = [("a", b"hash"), ("b", b"string")]
            assert shape(one) == (b"item", "key", "TYPE", sides, "open")
            await until(lambda: bool(a.cells.conflicts(status="open")))
            assert a.cells.conflicts() == [one]
            (loser,) = one.losers
            shown = one.winner
            assert shown is not None
            assert shown.value is not None
            for node in (a, b):
                assert node.command("TYPE", "item") == shown.value.decode()
            with pytest.raises(ReplyError, match=r"is between .*\(hash\)"):
                a.cells.resolve(one.id, [b"DOT", b"9", b"9"])
            with pytest.raises(ReplyError, match="of several types"):
                a.cells.resolve(one.id, [b"VALUE", b"x"])
            if where == "edge":
                a.cells.resolve(one.id, [b"DOT", b"%d" % loser.r, b"%d" % loser.n])
                wanted = loser.value
            elif where == "hub":
                hub.resolve(one.id, [b"WINNER"])
                wanted = shown.value
            else:
                a.delete("item")
                a.set("item", "new")
                wanted = b"string"
            await settle(a, b)
            await until(lambda: not hub.conflicts.find(status="open"))
            await until(lambda: not a.cells.conflicts(status="open"))
            assert wanted is not None
            for node in (a, b):
                assert node.command("TYPE", "item") == wanted.decode()
                if where != "any write" and wanted == b"hash":
                    assert node.hgetall("item") == {b"price": b"10", b"name": b"milk"}
            with pytest.raises(ReplyError, match="of one type now"):
                a.cells.resolve(one.id, [b"WINNER"])
