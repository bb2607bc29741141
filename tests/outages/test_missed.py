"""What the hub did while an edge was cut off: all of it is there after, without anybody asking.

The edge's process lives on; only its line is gone. 10,000 changes of every kind are made at the hub
meanwhile, and 1,000 calls for 100 devices that sleep.
"""

from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any

import pytest
import trio

from edgesync import EdgeNode
from edgesync.demo.cable import open_cable
from edgesync.entities import alarms, attributes, records, relations
from edgesync.entities.alarms import Severity
from edgesync.entities.model import EntityId, Scope, entity
from edgesync.entities.removal import plan_delete
from edgesync.rpc.model import State
from hubd.rpc.calls import CallView
from tests.edgesync.sync.rpc_hub import RpcHub, call, send_all
from tests.sites import PATIENCE_S, Sites, settle, until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from edgesync.entities.view import Command, SpaceView

pytestmark = pytest.mark.slow

ENTITIES = 2_000
CHANGES = 10_000
A_WRITE = 500
DEVICES, CALLS = 100, 10  # so many each
SHORT_S = 1.0


def device(n: int) -> EntityId:
    return entity("barn", "device", f"Scale {n:04}")


def site(n: int) -> EntityId:
    return entity("barn", "asset", f"Pen {n // 100}")


def changes(view: "SpaceView", now_ms: int) -> "Iterator[list[Command]]":
    """Yield 10,000 changes: four of each device, and one of seven kinds."""
    for n in range(ENTITIES):
        one = device(n)
        yield attributes.plan_set(view, one, Scope.SHARED, {"limit": n, "unit": "kg"})
        yield attributes.plan_set(view, one, Scope.SERVER, {"owner": f"team {n % 7}"})
        yield records.plan_save(view, one, {"label": f"by gate {n}"}, now_ms)
        yield [[b"HINCRBY", b"visits", b"pen %d" % (n // 100), b"1"]]
        match n % 10:
            case 0:
                yield alarms.plan_raise(view, one, "recall", Severity.MAJOR, now_ms)
            case 5:
                found = alarms.find_alarm(view, "barn", alarms.alarm_id(one, "dusty"))
                assert found is not None
                yield alarms.plan_clear(found, now_ms, "ann")
            case 1:
                yield relations.plan_relate(view, site(n), "Contains", one, None)
            case 6:
                yield relations.plan_unrelate(view, site(n), "Contains", one)
            case 2 | 7:
                yield attributes.plan_delete(view, one, Scope.SHARED, ["old"])
            case 3 | 8:
                yield [[b"SET", b"price:%d" % n, b"1.%d" % n]]
            case _:
                yield plan_delete(view, one)


def content(view: "SpaceView") -> dict[bytes, dict[bytes, bytes]]:
    return {key: view.fields(key) for prefix in (b"@/", b"visits") for key in view.keys(prefix)}


async def carry_out(sites: Sites, plans: "Iterator[list[Command]]") -> int:
    """Do what is planned at the hub, many at a time; returns how many changes it were."""
    count = 0
    commands: list[Command] = []
    for plan in plans:
        count += 1
        commands += plan
        if len(commands) >= A_WRITE:
            await sites.answers.run_commands(commands)
            commands = []
    await sites.answers.run_commands(commands)
    return count


@pytest.mark.feature("S8", "S11", "S21", "L5")
async def test_ten_thousand_changes_arrive_without_anybody_asking(tmp_path: Path) -> None:
    sites = Sites(tmp_path)
    host, port = sites.address.removeprefix("tcp://").split(":")
    async with open_cable((host, int(port))) as cable, sites.hub() as hub:
        sites.address = f"tcp://{cable.address[0]}:{cable.address[1]}"
        view = hub.view

        def planned(n: int) -> "list[Command]":
            one, now_ms = device(n), hub.now_ms()
            plan = records.plan_save(view, one, {"label": "new"}, now_ms)
            plan += attributes.plan_set(view, one, Scope.SHARED, {"old": 1})
            if n % 10 == 5:
                plan += alarms.plan_raise(view, one, "dusty", Severity.MINOR, now_ms)
            elif n % 10 == 6:
                plan += relations.plan_relate(view, site(n), "Contains", one, None)
            return plan

        await carry_out(sites, map(planned, range(ENTITIES)))
        async with sites.node("barn") as node:
            node.part("keys")
            await settle(node)
            assert content(node.entities.view) == content(view)
            cable.cut()
            await until(lambda: node.status().link.state in ("Disconnected", "Queuing"))
            assert await carry_out(sites, changes(view, hub.now_ms())) == CHANGES
            assert content(node.entities.view) != content(view)
            cable.plug()
            with trio.fail_after(PATIENCE_S):
                await until(lambda: node.cells.ask("HGET", ["visits", "pen 19"]) == b"100")
            await slowly_until(lambda: content(node.entities.view) == content(view))
            for n in range(3, ENTITIES, 5):
                assert node.cells.ask("GET", [f"price:{n}"]) == b"1.%d" % n
            assert len(node.entities.alarms(is_active=True)) == ENTITIES // 10
            assert len(node.entities.alarms(is_active=False)) == ENTITIES // 10


async def slowly_until(is_so: Callable[[], bool]) -> None:
    """Look now and then: where a look takes long, it leaves time for the rest."""
    with trio.fail_after(PATIENCE_S):
        while True:
            await trio.sleep(0.5)
            if is_so():
                return


class Sleepers:
    """Devices that wake up now and then; `made` is what each was called, in order."""

    def __init__(self, node: EdgeNode, random: Random) -> None:
        self._node, self._random = node, random
        self.made: dict[str, list[Any]] = defaultdict(list)

    async def wake(self, name: str) -> None:
        """Take calls, drop off after some of them, and come back for the rest."""
        rpc = self._node.part("rpc")
        while any(one.device == name for one in rpc.queue.open_calls()):
            await trio.sleep(self._random.uniform(0.0, 0.2))
            async with rpc.serve(name) as calls:
                with trio.move_on_after(0.5):
                    for _ in range(self._random.randint(1, 4)):
                        one = await anext(calls)
                        self.made[name].append(one.params)
                        await one.answer(one.params)


@pytest.mark.feature("S24", "S7", "S8")
async def test_a_thousand_calls_of_sleeping_devices_are_made_once_in_order_or_expire(
    tmp_path: Path,
) -> None:
    hub = RpcHub(tmp_path)
    names = [f"pump {n}" for n in range(DEVICES)]
    try:
        async with hub.node() as node:
            asked = [
                call("go", nth, device=name, ttl_s=SHORT_S if nth == 4 else 600.0)
                for nth in range(CALLS)
                for name in names
            ]
            send_all(hub.calls, "barn", asked)
            async with hub.serving():
                await until(lambda: hub.journal.view("barn").records == 0)
                sleepers = Sleepers(node, Random(1))
                await until(lambda: states(hub).count(State.EXPIRED) == DEVICES)
                async with trio.open_nursery() as nursery:
                    for name in names:
                        nursery.start_soon(sleepers.wake, name)
                await until(lambda: all(one.is_final for one in all_calls(hub)))
            expected = [n for n in range(CALLS) if n != 4]
            assert sleepers.made == dict.fromkeys(names, expected)
            assert states(hub).count(State.ANSWERED) == DEVICES * (CALLS - 1)
            expired = [one for one in all_calls(hub) if one.state is State.EXPIRED]
            assert {bytes(one.params) for one in expired} == {b"4"}
            assert not any(one.is_late for one in all_calls(hub))
    finally:
        hub.registry.close()


def states(hub: RpcHub) -> list[State]:
    return [one.state for one in all_calls(hub)]


def all_calls(hub: RpcHub) -> list[CallView]:
    return list(hub.calls.some(None, limit=2 * DEVICES * CALLS))
