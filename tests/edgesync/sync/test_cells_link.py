"""Keys of several edges and their hub over the real link: what everybody shows in the end."""

from pathlib import Path

import pytest

from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L4", "L5")


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


async def test_what_one_edge_writes_the_others_and_the_hub_show(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        a.set("greeting", "hello")
        b.hset("basket", {"apples": 3})
        async with sites.hub() as hub:
            await settle(a, b)
            assert b.get("greeting") == b"hello"
            assert a.hgetall("basket") == {b"apples": b"3"}
            assert hub.ask("GET", ["greeting"]) == b"hello"
            a.delete("greeting")
            await settle(a, b)
            assert b.get("greeting") is None
            assert hub.ask("GET", ["greeting"]) is None


async def test_what_is_new_arrives_by_itself(sites: Sites) -> None:
    async with sites.hub() as hub, sites.node("a") as a, sites.node("b") as b:
        await settle(a, b)
        b.get("k")
        await a.execute("SET", "k", "v")
        await until(lambda: b.get("k") == b"v")
        hub.ask("SET", ["k", "from the hub"])
        await until(lambda: a.get("k") == b.get("k") == b"from the hub")


async def test_a_node_closes_while_operations_are_given_to_the_link(sites: Sites) -> None:
    async with sites.hub() as hub:
        async with sites.node("a") as a:
            await settle(a)
            a.cells.ask("SET", ("k", "v"))
            assert a.cells.tell(0)
        async with sites.node("a") as a:
            await settle(a)
            assert hub.ask("GET", ["k"]) == b"v"


async def test_increments_made_apart_add_up(sites: Sites) -> None:
    async with sites.node("a") as a, sites.node("b") as b:
        for _ in range(100):
            a.incr("sold")
            b.incr("sold", 2)
        async with sites.hub() as hub:
            await settle(a, b)
            assert int(a.get("sold") or 0) == int(b.get("sold") or 0) == 300
            assert hub.ask("GET", ["sold"]) == b"300"
