"""Whatever a client or a peer makes of the keys of entities costs those entities, not the edge."""

import contextlib
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edgesync import EdgeNode
from edgesync.entities import alarms
from edgesync.errors import CommandError, EntityError
from tests.edgesync.test_entities import at_hub, told
from tests.sites import Sites, settle, until

pytestmark = [pytest.mark.feature("S8", "S19"), pytest.mark.slow]

LONG = 100_000
ABOUT = ["device", "Scale 7", "x"]


def alarm(about: Any = ABOUT, *, n: int = 1, **more: Any) -> list[bytes]:
    """Return what a client writes that knows how alarms are kept, and nothing of their limits."""
    raised = {"at": 1, "end": 1, "severity": "MAJOR", **more}
    fields = {"about": json.dumps(about), f"raise:{n}": json.dumps(raised)}
    return [b"HSET", b"@/alarm/barn/x", *(one.encode() for pair in fields.items() for one in pair)]


def entity(verb: bytes, room: bytes, name: bytes, *rest: bytes) -> list[bytes]:
    return [verb, b"@/%s/barn/%s" % (room, name), *rest]


SCALE = b"device/Scale 7"
CREATED = entity(b"HSET", b"entity", SCALE, b"created", b"1")
REMOVED = entity(b"DEL", b"entity", SCALE)
OLD = b"device/" + b"n" * 470
KIND = b"K" * 400 + b"/n"
# Each ends in something that nobody can read, tell or remove.
CASES: list[list[list[bytes]]] = [
    [[b"SET", b"@/alarm/barn/x", b"y"]],
    [[b"RPUSH", b"@/alarm/barn/x", b"y"]],
    *(
        [one] for one in (
            alarm(["device", "n" * 10_000, "x"]),
            alarm(["device", "", "x"]),
            alarm(["device", "a\0\n/@", "x"]),
            alarm(["Z" * LONG, "a", "x"]),
            alarm(["device", "a", "x" * LONG]),
            alarm([[["a"]] * 10_000, "a", {"x": 1}]),
            alarm(details="n" * LONG),
            alarm(details=[1e15] * 4000),  # told, each takes more room than it does here
            alarm(details=10**30),
            alarm(by="b" * LONG),
            alarm(severity="S" * LONG),
            alarm(n=999_999_999_999_999),
            [b"HSET", b"@/alarm/barn/" + b"\xff" * 100, b"about", b"[]", b"raise:1", b"{}"],
            [b"HSET", b"@/alarm/barn/x", b"raise:1", b'{"at":' + b"[" * 900 + b"]" * 900 + b"}"],
        )
    ),
    [entity(b"SET", b"entity", SCALE, b"y"), entity(b"HSET", b"shared", SCALE, b"a", b"1")],
    [CREATED, entity(b"SET", b"shared", SCALE, b"y"), REMOVED],
    [CREATED, entity(b"SET", b"relation", SCALE, b"y"), REMOVED],
    [
        entity(b"HSET", b"entity", OLD, b"created", b"1"), entity(b"DEL", b"entity", OLD),
        entity(b"HSET", b"shared", OLD, b"a", b"1"),
    ],
    [
        entity(b"HSET", b"entity", KIND, b"created", b"1"), entity(b"DEL", b"entity", KIND),
        entity(b"HSET", b"shared", KIND, b"a", b"1"),
    ],
    [
        entity(b"HSET", b"entity", b"device/", b"created", b"1"),
        entity(b"DEL", b"entity", b"device/"),
    ],
    [
        entity(b"HSET", b"entity", b"/", b"label", b"1"),
        entity(b"HSET", b"shared", b"/", b"a", b"1"),
    ],
]  # fmt: skip


@asynccontextmanager
async def met(tmp_path: Path, **sections: Any) -> AsyncIterator[tuple[Sites, EdgeNode]]:
    sites = Sites(tmp_path)
    async with sites.hub(), sites.node("barn", **sections) as node:
        node.entities.alarms()
        await settle(node)
        yield sites, node


@pytest.mark.parametrize("where", ["edge", "hub"])
async def test_whatever_is_in_its_keys_an_edge_goes_on_and_starts_again(
    tmp_path: Path, where: str
) -> None:
    async with met(tmp_path) as (sites, node):
        for commands in CASES:
            left = {one[1] for one in commands}
            for one in [*commands, *([b"DEL", key] for key in left)]:
                if where == "edge":
                    node.entities.carry_out([one])
                else:
                    await sites.answers.run_commands([one])
                await settle(node)
        for one in [one for commands in CASES for one in commands]:
            with contextlib.suppress(CommandError):  # of what is of another type by now
                node.entities.carry_out([one])
        await settle(node)
    async with sites.hub(), sites.node("barn") as node:
        node.entities.alarms()
        node.entities.records()
        node.entities.delete("device", "Scale 7")
        await settle(node)
        node.entities.raise_alarm("device", "Scale 7", "Too heavy", "MAJOR")
        await until(lambda: "Too heavy" in [one["type"] for one in told(node)])


async def test_what_is_no_hash_is_named_and_goes_with_its_entity(tmp_path: Path) -> None:
    async with met(tmp_path) as (_, node):
        entities = node.entities
        for room in (b"entity", b"shared"):
            entities.carry_out([entity(b"SET", room, SCALE, b"y")])
            with pytest.raises(EntityError, match="Scale 7 is no hash; remove"):
                entities.set_attributes("device", "Scale 7", {"a": 1}, "shared")
            assert entities.attributes("device", "Scale 7", "shared") == {}
            entities.delete("device", "Scale 7")
        entities.set_attributes("device", "Scale 7", {"a": 1}, "shared")
        raised = entities.raise_alarm("device", "Scale 7", "Too heavy")
        key = f"@/alarm/barn/{raised.id}".encode()
        entities.carry_out([[b"SET", key, b"y"]])
        with pytest.raises(EntityError, match="is no hash"):
            entities.raise_alarm("device", "Scale 7", "Too heavy")


async def test_an_occurrence_that_cannot_be_read_does_not_hide_the_one_before(
    tmp_path: Path,
) -> None:
    async with met(tmp_path) as (_, node):
        entities = node.entities
        raised = entities.raise_alarm("device", "Scale 7", "Too heavy")
        entities.carry_out([[b"HSET", f"@/alarm/barn/{raised.id}".encode(), b"raise:5", b"{"]])
        assert entities.alarm(raised.id).n == 1


async def test_keys_that_are_full_take_what_the_edge_has_told_of_alarms(tmp_path: Path) -> None:
    """Each transition is told once, though clients may write nothing."""
    async with met(tmp_path) as (sites, node):
        node.entities.raise_alarm("device", "Scale 7", "Too heavy")
        await settle(node)
        guard = node.part("keys").cells.call.guard
        guard.refusal = lambda: "no room"
        plan = alarms.plan_ack(at_hub(sites), sites.cells.now_ms(), "ann")
        await sites.answers.run_commands(plan)
        await settle(node)
        await until(lambda: [one["transition"] for one in told(node)] == ["raised", "acked"])
        await until(lambda: not alarms.untold(node.entities.alarms()[0]))
        assert node.part("keys").cells.call.guard is guard


async def test_values_of_entities_are_not_left_to_the_hub(tmp_path: Path) -> None:
    async with met(tmp_path, cells={"eviction": "lru"}) as (_, node):
        text = "x" * 2000
        node.entities.set_attributes("device", "Scale 7", {"a": text}, "shared")
        node.entities.raise_alarm("device", "Scale 7", "Too heavy", details={"a": text})
        node.command("SET", "mine", text)
        await settle(node)
        cells = node.part("keys").cells
        for _ in range(4):
            cells.make_room(1 << 20)
        assert cells.space.data < len(text) * 3  # the key is gone
        assert node.entities.attributes("device", "Scale 7", "shared") == {"a": text}
        assert node.entities.alarms()[0].raised.details == {"a": text}


async def test_who_flushes_or_lists_keys_means_no_entities(tmp_path: Path) -> None:
    async with met(tmp_path, cells={"flush": "everywhere"}) as (_, node):
        node.entities.set_attributes("device", "Scale 7", {"a": 1}, "shared")
        assert node.command("RANDOMKEY") is None
        node.command("SET", "mine", "1")
        assert node.command("KEYS", "*") == [b"mine"]
        assert node.command("SCAN", "0", "COUNT", "1000") == [b"0", [b"mine"]]
        assert node.command("SCAN", "0", "MATCH", "*/shared/*", "COUNT", "1000") == [b"0", []]
        found = [b"@/shared/barn/device/Scale 7"]
        assert node.command("KEYS", "@/shared/*") == found
        assert node.command("SCAN", "0", "MATCH", "@/sh*", "COUNT", "1000") == [b"0", found]
        for command in (["FLUSHALL"], ["FLUSHALL", "YES"], ["FLUSHDB"]):
            node.command("SET", "mine", "1")
            node.command(command[0], *command[1:])
            assert node.command("GET", "mine") is None
        await settle(node)
        assert node.entities.attributes("device", "Scale 7", "shared") == {"a": 1}


async def test_an_edge_that_the_hub_calls_otherwise_says_so(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
    async with met(tmp_path / "a", edge={"name": "mill"}) as (_, node):
        problem = node.status().link.problem
        assert problem.startswith("edge.name is 'mill' in edge.toml, and the hub calls this edge")
        assert problem.endswith("set edge.name to 'barn'")
    async with met(tmp_path / "b") as (_, node):
        assert node.status().link.problem == ""
