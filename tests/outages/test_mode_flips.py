"""A gateway whose clock runs back while an attribute changes: nobody sees the old value again.

`operatingMode` is MANUAL, and a moment later AUTO, but the clock says a minute less by then. What
orders them is the order in which they were written, so hub and edge show AUTO from then on.
"""

from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Reading
from tests.outages.ship import HubAsked, Ship
from tests.sites import PATIENCE_S, until

pytestmark = [pytest.mark.slow, pytest.mark.feature("S4", "S19", "S25")]

MINUTE_NS = 60 * 10**9
YEAR_NS = 365 * 24 * 60 * MINUTE_NS
SCOPES = ("client", "server")


class Watched:
    """Every value that a screen of the hub would have shown, without repetitions."""

    def __init__(self, hub: HubAsked) -> None:
        self._hub = hub
        self.shown: dict[str, list[Any]] = {scope: [] for scope in SCOPES}

    async def look(self) -> None:
        answer = await self._hub.one("/edges/ship/attributes", entity="pump")
        for scope, shown in self.shown.items():
            if (found := answer[scope].get("operatingMode")) and shown[-1:] != [found["value"]]:
                shown.append(found["value"])

    async def run(self) -> None:
        while True:
            await self.look()
            await trio.sleep(0.005)


def write(node: EdgeNode, value: str) -> None:
    for scope in SCOPES:
        node.entities.set_attributes("device", "pump", {"operatingMode": value}, scope)


@pytest.mark.parametrize("back_ns", [MINUTE_NS, 60 * MINUTE_NS, 10 * YEAR_NS])
async def test_the_older_value_is_never_shown_again(tmp_path: Path, back_ns: int) -> None:
    ship = Ship(tmp_path)
    modes = [f"{mode} {n}" for n in range(5) for mode in ("MANUAL", "AUTO")]
    async with ship.hub() as hub, ship.node() as node, trio.open_nursery() as nursery:
        watched = Watched(hub)
        nursery.start_soon(watched.run)
        for n, mode in enumerate(modes):
            ship.clock.off_ns = -back_ns if n % 2 else 0
            write(node, mode)
            await node.sync(PATIENCE_S)
            await watched.look()
        nursery.cancel_scope.cancel()
        assert watched.shown == everywhere(modes)
        assert has(node, modes[-1])


async def test_a_reading_of_years_ahead_does_not_stand_for_years(tmp_path: Path) -> None:
    ship = Ship(tmp_path)
    async with ship.hub() as hub, ship.node() as node:
        for off_ns, value in ((0, 1.0), (10 * YEAR_NS, 2.0), (0, 3.0)):
            ship.clock.off_ns = off_ns
            await node.ingest([Reading("pump", "power", value, ship.clock.wall_ns())])
            await node.sync(PATIENCE_S)
            while (await hub.one("/edges/ship"))["state"]["readings"] < value:  # noqa: ASYNC110
                await trio.sleep(0.01)
            found = await hub.one("/edges/ship/latest")
            assert found["latest"]["pump"]["power"]["value"] == value
            assert [one.value for one in node.latest()] == [value]


async def test_what_was_written_offline_by_a_clock_that_ran_back_is_the_last(
    tmp_path: Path,
) -> None:
    ship = Ship(tmp_path)
    async with ship.node() as node:
        write(node, "MANUAL")
        ship.clock.off_ns = -60 * MINUTE_NS
        write(node, "AUTO")
    async with ship.node() as node, ship.hub() as hub:
        await node.sync(PATIENCE_S)
        watched = Watched(hub)
        await watched.look()
        assert watched.shown == everywhere(["AUTO"])
        assert has(node, "AUTO")


async def test_a_clock_that_is_wrong_is_told_at_both_ends(tmp_path: Path) -> None:
    """From five seconds on; and nothing is refused for it."""
    ship = Ship(tmp_path)
    ship.clock.off_ns = -MINUTE_NS
    async with ship.hub() as hub, ship.node() as node:
        write(node, "AUTO")
        await node.sync(PATIENCE_S)
        await until(lambda: is_off(node.status().link.clock_offset_s))
        edge = await hub.until("/edges/ship", lambda edge: is_off(edge["link"]["clock_offset_s"]))
        assert edge["health"] == "warning"
        await hub.until("/link-events", lambda found: "clock_skew" in kinds(found["events"]))
        watched = Watched(hub)
        await watched.look()
        assert watched.shown == everywhere(["AUTO"])


def everywhere(values: list[str]) -> dict[str, list[str]]:
    return {scope: values for scope in SCOPES}


def kinds(found: list[Any]) -> set[str]:
    return {one["kind"] for one in found}


def is_off(offset_s: float | None) -> bool:
    return offset_s is not None and -90 < offset_s < -30


def has(node: EdgeNode, value: str) -> bool:
    found = [node.entities.attributes("device", "pump", scope) for scope in SCOPES]
    return found == [{"operatingMode": value}] * len(SCOPES)
