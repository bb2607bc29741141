"""Which keys go which way: by prefix, the longest one."""

from pathlib import Path
from typing import Any

import pytest

from edgesync.errors import CommandError
from tests.sites import Sites, settle

pytestmark = pytest.mark.feature("L2", "L4")


def rules(*rules: tuple[str, str]) -> dict[str, Any]:
    return {"prefix": [{"prefix": prefix, "direction": direction} for prefix, direction in rules]}


@pytest.fixture
def sites(tmp_path: Path) -> Sites:
    return Sites(tmp_path)


async def test_directions(sites: Sites) -> None:
    mine = rules(("", "up"), ("shared:", "both"), ("prices:", "down"))
    async with sites.node("a", cells=mine) as a, sites.node("b") as b:
        a.incr("a:count", 3)
        a.incr("shared:count", 1)
        b.incr("shared:count", 1)
        b.set("b:own", 1)
        b.set("prices:milk", "1.20")
        async with sites.hub() as hub:
            await settle(a, b)
            assert a.command("KEYS", "*") == [b"a:count", b"prices:milk", b"shared:count"]
            assert a.cells.space.pending == 0
            assert b.get("a:count") == hub.ask("GET", ["a:count"]) == b"3"
            assert a.get("shared:count") == b"2"
            with pytest.raises(CommandError, match="READONLY 'prices:milk' is only changed"):
                a.set("prices:milk", "1.30")
            with pytest.raises(CommandError, match="READONLY"):
                a.command("MSET", "a:x", "1", "prices:milk", "1.30")
            assert a.get("prices:milk") == b"1.20"
            # What only goes up goes on from what is here.
            for _ in range(3):
                a.incr("a:count", 2)
                await settle(a, b)
            assert a.get("a:count") == b.get("a:count") == b"9"
            a.delete("a:count")
            await settle(a, b)
            assert a.cells.space.pending == 0
            assert b.get("a:count") is None


async def test_other_rules_after_a_restart(sites: Sites) -> None:
    async with sites.hub():
        async with sites.node("a", cells=rules(("", "up"))) as a, sites.node("b") as b:
            b.set("x:1", 1)
            b.set("y:1", 1)
            a.set("mine", 1)
            await settle(a, b)
            assert a.command("KEYS", "*") == [b"mine"]
        for wanted, keys in (
            (rules(("", "up"), ("x:", "both")), [b"mine", b"x:1"]),
            (rules(), [b"mine", b"x:1", b"y:1"]),
        ):
            async with sites.node("a", cells=wanted) as a, sites.node("b") as b:
                await settle(a, b)
                assert a.command("KEYS", "*") == keys
                assert a.cells.space.pending == 0


@pytest.mark.slow
async def test_a_walk_past_many_unwanted_keys_ends(sites: Sites) -> None:
    mine = rules(("", "up"), ("x:", "both"))
    async with sites.node("a", cells=mine) as a, sites.node("b") as b:
        for number in range(25_000):
            b.cells.ask("SET", [f"y:{number}", 1])
        b.set("x:1", 1)
        assert a.get("x:1") is None
        async with sites.hub():
            await settle(b, a)
            assert a.command("KEYS", "*") == [b"x:1"]
