"""A hub that lost what it had is told everything by those who hold it; nothing is removed there."""

import shutil
from pathlib import Path
from random import Random

import pytest

from edgesync import EdgeNode
from hubd.log.lmdb import LmdbLog
from tests.sites import Sites, settle, until

pytestmark = pytest.mark.feature("L4", "S32")

RECIPES = 30


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


async def lose(sites: Sites, kind: str) -> None:
    """Let the hub's folder be empty, or what it was at the time of `keep`."""
    folder = sites.folder / "hub"
    shutil.rmtree(folder)
    if kind == "empty":
        return
    shutil.copytree(sites.folder / "copy", folder)
    if kind == "older":  # `hubd restore` does so; who copies files does not
        restored = LmdbLog(folder / "log")
        restored.renew_generation()
        await restored.aclose()


def fill(node: EdgeNode) -> None:
    for number in range(20):
        node.set(f"filler:{number}", Random(number).randbytes(20_000))


def recipes(node: EdgeNode) -> list[bytes | None]:
    return [node.get(f"recipe:{number}") for number in range(RECIPES)]


async def check(*nodes: EdgeNode) -> None:
    """Compare digests, as once a day: nothing is asked for again."""
    for node in nodes:
        sync = node.cell_sync
        assert sync is not None
        before = sync.checks
        sync.check_soon()
        await until(lambda sync=sync, before=before: sync.checks > before)  # type: ignore[misc]


@pytest.mark.parametrize("retain", ["8mb", "0b"])
@pytest.mark.parametrize("kind", ["empty", "older", "copy"])
async def test_edges_and_hub_are_complete_and_equal(sites: Sites, kind: str, retain: str) -> None:
    store = {"retain": retain}
    async with sites.node("a", store=store) as a, sites.node("b", store=store) as b:
        assert b.get("old") is None
        a.set("old", "1")
        a.set("removed later", "1")
        a.incr("bottles", 3)
        async with sites.hub():
            await settle(a, b)
        shutil.copytree(sites.folder / "hub", sites.folder / "copy")
        async with sites.hub() as hub:
            for number in range(RECIPES):
                a.set(f"recipe:{number}", number)
                a.incr("bottles")
            b.incr("bottles", 7)
            b.hset("h", {"f": "of b"})
            b.delete("removed later")
            hub.ask("SET", ["from the hub", "1"])
            hub.ask("INCRBY", ["bottles", "100"])
            await settle(a, b)
            fill(a)
            await settle(a, b)
        await lose(sites, kind)
        a.incr("bottles")  # while there is none
        b.set("beside", "1")
        async with sites.hub() as hub:
            await settle(a, b)
            await check(a, b)
            await settle(a, b)
            total = b"%d" % (3 + RECIPES + 7 + 100 + 1)
            assert hub.ask("GET", ["bottles"]) == total
            for node in (a, b):
                assert recipes(node) == [b"%d" % number for number in range(RECIPES)]
                assert node.get("bottles") == total
                assert node.get("from the hub") == node.get("beside") == node.get("old") == b"1"
                assert node.hgetall("h") == {b"f": b"of b"}
                assert node.get("removed later") is None
                assert node.cell_sync is not None
                assert node.cell_sync.refetches == 0
            assert hub.ask("EXISTS", ["removed later"]) == 0
            assert hub.ask("EXISTS", [f"recipe:{n}" for n in range(RECIPES)]) == RECIPES
            assert hub.ask("DBSIZE", []) == a.command("DBSIZE") == b.command("DBSIZE")


async def test_an_edge_keeps_what_its_hub_cannot_take(sites: Sites) -> None:
    """It takes nothing before the hub says that it has carried out the last piece."""

    def fail(*_: object) -> None:
        raise ZeroDivisionError("a mistake of ours")

    async with sites.node("a", store={"retain": "0b"}) as a:
        for number in range(RECIPES):
            a.set(f"recipe:{number}", number)
        async with sites.hub():
            await settle(a)
        await lose(sites, "empty")
        async with sites.hub() as hub:
            restore = hub.hearing._restore
            hub.hearing._restore = fail  # type: ignore[assignment, method-assign]
            sync = a.cell_sync
            assert sync is not None
            await until(lambda: "did not take" in sync.last_problem)
            assert sync.state() == "degraded"
            assert recipes(a) == [b"%d" % number for number in range(RECIPES)]
            hub.hearing._restore = restore  # type: ignore[method-assign]
            await settle(a)
            assert recipes(a) == [b"%d" % number for number in range(RECIPES)]
            assert hub.ask("DBSIZE", []) == RECIPES
            assert sync.state() == "idle"


async def test_two_hubs_with_one_identity_lose_and_double_nothing(sites: Sites) -> None:
    """Sessions alternate between a hub and a running copy of it: nobody's own writes go."""
    hub, other, rest = (sites.folder / name for name in ("hub", "other", "rest"))
    async with sites.node("a") as a, sites.node("b") as b:
        assert b.incr("m") == 1
        a.incr("n")
        async with sites.hub():
            await settle(a, b)
        shutil.copytree(hub, other)
        for turn in range(1, 5):
            hub.rename(rest)
            other.rename(hub)
            rest.rename(other)
            async with sites.hub() as cells:
                for number in range(5):
                    assert a.incr("n") == turn * 5 - 3 + number
                b.incr("m")
                await settle(a, b)
                counts = [b"%d" % (turn * 5 + 1), b"%d" % (turn + 1)]
                for node in (a, b):
                    assert [node.get("n"), node.get("m")] == counts
                assert [cells.ask("GET", [key]) for key in ("n", "m")] == counts
