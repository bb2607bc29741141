"""Chains that a hub assigns, at an edge, over real sockets: run, refused, taken back, converged."""

import contextlib
import shutil
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import Action, EdgeNode, Reading
from edgesync.rules import assigned as assigned_module
from edgesync.rules.bundle import Bundle, pieces_of
from hubd.rules import service as service_module
from hubd.rules.bundles import Bundles
from tests.edgesync.rules.chains import Node, exported
from tests.edgesync.rules.test_part import rules_of, sent
from tests.hubd.yard import Yard
from tests.sites import until

pytestmark = [pytest.mark.feature("S18"), pytest.mark.slow]

PATIENCE_S = 60
SAVE: Node = ("telemetry.TbMsgTimeseriesNode", "Save", {"defaultTTL": 0})
PUSH: Node = ("edge.TbMsgPushToCloudNode", "Push", {"scope": "SERVER_SCOPE"})
MANY: Node = ("filter.TbJsFilterNode", "Many", {"jsScript": "var a = 1; return a > 0;"})


def only(key: str) -> str:
    """A chain that keeps what comes and pushes only readings of `key`."""
    check: Node = ("filter.TbJsFilterNode", "Check", {"jsScript": f"return msg.{key} != null;"})
    nodes = [SAVE, check, PUSH]
    return exported(nodes, [(0, 1, "Success"), (1, 2, "True")], name="Root").decode()


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(assigned_module, "TOLD_EVERY_S", 0.2)
    monkeypatch.setattr(service_module, "TICK_S", 0.1)
    monkeypatch.setattr(service_module, "LOOK_S", 0.5)
    monkeypatch.setattr(service_module, "AGAIN_S", 1.0)
    made = Yard(tmp_path / "hub", "")
    (made.folder / "barn").mkdir()
    made.enrol("barn")
    return made


@contextlib.contextmanager
def kept(yard: Yard) -> Iterator[Bundles]:
    """The bundles as a command beside the hub has them."""
    with contextlib.closing(yard.registry()) as registry:
        yield Bundles(registry.owned)


def assign(yard: Yard, *texts: str) -> int:
    """Keep a version of the bundle and have the edge run it."""
    with kept(yard) as bundles:
        files = {f"{n}.json": text for n, text in enumerate(texts)}
        version = bundles.upload("default", "cold", files).version
        bundles.assign("default", "cold", ["barn"], version=version)
    return version


@contextlib.asynccontextmanager
async def edge(yard: Yard, place: str = "barn", **settings: Any) -> AsyncIterator[EdgeNode]:
    hub = {"endpoint": yard.settings.hub.listen[0], "server_key": yard.server_key}
    table = {"edge": {"name": "barn"}, "hub": hub, **settings}
    async with EdgeNode(table, folder=yard.folder / place) as node:
        yield node


async def told(yard: Yard, is_so: Callable[[Any], bool]) -> Any:
    return await yard.wait_for("/api/v1/edges/barn/rules", is_so)


def runs(version: int) -> Callable[[Any], bool]:
    return lambda one: (one["state"], one["version"]) == ("running", version)


async def pushed(node: EdgeNode) -> set[str]:
    """Return which of two readings are sent to the hub."""
    now = time.time_ns()
    await node.ingest([Reading(f"m{key}", key, now / 1e9, now) for key in "ab"])
    return {key for key, value in sent(node) if value == now / 1e9}


async def until_pushed(node: EdgeNode, keys: set[str]) -> None:
    while True:
        if await pushed(node) == keys:
            return
        await trio.sleep(0.1)


async def test_an_assignment_waits_for_its_edge_runs_there_and_is_told_with_counters(
    yard: Yard,
) -> None:
    async with yard.running(PATIENCE_S):
        first = assign(yard, only("a"))
        waiting = await told(yard, lambda one: one["assigned"] is not None)
        assert (waiting["state"], waiting["told_ns"]) == ("waiting", None)
        async with edge(yard) as node:
            found = await told(yard, runs(first))
            assert (found["source"], found["root"], found["chains"]) == ("hub", "Root", ["Root"])
            assert await pushed(node) == {"a"}
            counted = await told(
                yard, lambda one: [n["messages"] for n in one["nodes"]] == [2, 2, 1]
            )
            assert [one["name"] for one in counted["nodes"]] == ["Save", "Check", "Push"]
            second = assign(yard, only("b"))
            await told(yard, runs(second))
            assert await pushed(node) == {"b"}
            # Nodes that kept their id count on.
            assert [one.messages for one in rules_of(node).nodes] == [4, 4, 2]
        # What runs is on the edge's disk.
        async with edge(yard) as node:
            assert await pushed(node) == {"b"}


async def test_what_nodes_count_while_the_hub_is_told_is_told_next(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with yard.running(PATIENCE_S), edge(yard) as node:
        first = assign(yard, only("a"))
        await told(yard, runs(first))
        part: assigned_module.AssignedPart = node.part("chains")
        append, pushes = part._append, [2]

        async def slow(action: Action, bodies: list[bytes]) -> None:
            await append(action, bodies)
            if pushes[0] and b'"changed":' in bodies[0]:
                pushes[0] -= 1
                await pushed(node)

        monkeypatch.setattr(part, "_append", slow)
        await pushed(node)
        await told(yard, lambda one: [n["messages"] for n in one["nodes"]] == [6, 6, 3])


async def test_an_edge_that_is_unassigned_stores_and_sends_everything_again(yard: Yard) -> None:
    async with yard.running(PATIENCE_S), edge(yard) as node:
        await told(yard, lambda one: one["state"] == "none")
        await told(yard, runs(assign(yard, only("a"))))
        with kept(yard) as bundles:
            bundles.unassign("default", ["barn"])
        await told(yard, lambda one: one["state"] == "none" and one["source"] == "none")
        assert await pushed(node) == {"a", "b"}
        assert node.status().rules.chains == ()  # type: ignore[union-attr]
    async with edge(yard) as node:
        assert await pushed(node) == {"a", "b"}


async def test_what_an_edge_cannot_run_is_refused_with_reasons_and_the_chains_before_go_on(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with yard.running(PATIENCE_S):
        async with edge(yard) as node:
            first = assign(yard, only("a"))
            await told(yard, runs(first))
            # Neither side has the worker: the hub doubts, the edge refuses.
            monkeypatch.setattr("edgesync.rules.files.is_installed", lambda: False)
            bad = exported([MANY], name="Scripted").decode()
            refused_version = assign(yard, bad)
            refused = await told(yard, lambda one: one["state"] == "refused")
            assert (refused["assigned"]["version"], refused["version"]) == (refused_version, first)
            assert any("edgesync[scripts]" in reason for reason in refused["refused"])
            assert await pushed(node) == {"a"}
        async with edge(yard) as node:  # and over a restart
            assert await pushed(node) == {"a"}
            back = await told(yard, lambda one: one["state"] == "refused")
            assert back["version"] == first
            with kept(yard) as bundles:
                bundles.assign("default", "cold", ["barn"], version=first)
            await told(yard, runs(first))


async def test_chains_in_the_settings_count_before_those_of_the_hub(yard: Yard) -> None:
    folder = yard.folder / "barn" / "rules"
    folder.mkdir()
    (folder / "root.json").write_text(only("a"))
    async with yard.running(PATIENCE_S):
        async with edge(yard, rules={"chains": "rules"}) as node:
            await told(yard, lambda one: one["state"] == "local")
            assign(yard, only("b"))
            found = await told(yard, lambda one: one["assigned"] is not None)
            assert (found["state"], found["source"]) == ("local", "local")
            await until(lambda: node.part("chains").standing.held != "")
            assert await pushed(node) == {"a"}
        async with edge(yard) as node:  # without them the hub's count
            await told(yard, lambda one: one["state"] == "running")
            assert await pushed(node) == {"b"}


@pytest.mark.parametrize("had", ["nothing", "another version"])
async def test_an_edge_restored_from_an_old_copy_comes_to_run_what_the_hub_says(
    yard: Yard, had: str
) -> None:
    place, copy = yard.folder / "barn", yard.folder / "copy"
    async with yard.running(PATIENCE_S):
        async with edge(yard) as node:
            if had == "another version":
                await told(yard, runs(assign(yard, only("a"))))
            await pushed(node)
            await node.sync(PATIENCE_S)
        shutil.copytree(place, copy)
        async with edge(yard) as node:
            second = assign(yard, only("b"))
            await told(yard, runs(second))
            await pushed(node)
            await node.sync(PATIENCE_S)
        shutil.rmtree(place)
        copy.rename(place)
        async with edge(yard) as node:
            await until_pushed(node, {"b"})
            assert node.part("chains").standing.version == second
            await told(yard, runs(second))


async def test_an_edge_whose_clone_took_what_was_for_it_comes_to_run_what_the_hub_says(
    yard: Yard,
) -> None:
    async with yard.running(PATIENCE_S):
        async with edge(yard) as node:
            await told(yard, runs(assign(yard, only("a"))))
            await node.sync(PATIENCE_S)
        shutil.copytree(yard.folder / "barn", yard.folder / "clone")
        async with edge(yard) as node:
            await node.sync(PATIENCE_S)
            async with edge(yard, "clone") as clone:
                await clone.sync(PATIENCE_S)
                with kept(yard) as bundles:
                    bundles.unassign("default", ["barn"])
                await until_pushed(clone, {"a", "b"})
                await told(yard, lambda one: one["state"] == "none")
            await node.sync(PATIENCE_S)
            await until_pushed(node, {"a", "b"})


async def test_a_hub_restored_from_an_old_copy_has_the_edge_run_what_it_says(yard: Yard) -> None:
    async with yard.running(PATIENCE_S), edge(yard):
        first = assign(yard, only("a"))
        await told(yard, runs(first))
    copy = yard.folder.parent / "copy"
    shutil.copytree(yard.folder, copy)
    async with yard.running(PATIENCE_S), edge(yard):
        await told(yard, runs(assign(yard, only("b"))))
    barn = yard.folder / "barn"
    shutil.rmtree(copy / "barn")
    shutil.copytree(barn, copy / "barn")
    shutil.rmtree(yard.folder)
    copy.rename(yard.folder)
    async with yard.running(PATIENCE_S), edge(yard) as node:
        await until_pushed(node, {"a"})
        assert node.part("chains").standing.version == first
        await told(yard, runs(first))


async def test_what_a_hub_does_not_know_of_runs_on_until_it_is_unassigned(yard: Yard) -> None:
    """I15: a registry from before the first bundle would have no chains to give back."""
    copy = yard.folder.parent / "copy"
    shutil.copytree(yard.folder, copy)
    async with yard.running(PATIENCE_S), edge(yard):
        await told(yard, runs(assign(yard, only("b"))))
    shutil.rmtree(copy / "barn")
    shutil.copytree(yard.folder / "barn", copy / "barn")
    shutil.rmtree(yard.folder)
    copy.rename(yard.folder)
    async with yard.running(PATIENCE_S), edge(yard) as node:
        await told(yard, lambda one: (one["state"], one["bundle"]) == ("kept", "cold"))
        assert await pushed(node) == {"b"}
        with kept(yard) as bundles:
            assert bundles.unassign("default", ["barn"]) == []
        await until_pushed(node, {"a", "b"})
        await told(yard, lambda one: one["state"] == "none")


async def test_a_bundle_of_many_parts_arrives_whole(yard: Yard) -> None:
    import random

    noise = random.Random(7).randbytes(120_000).hex()
    text = exported([SAVE, PUSH], [(0, 1, "Success")], name="Root", note=noise).decode()
    assert len(pieces_of(Bundle(name="cold", version=1, root="Root", files={"0.json": text}))) > 2
    async with yard.running(PATIENCE_S), edge(yard) as node:
        version = assign(yard, text)
        await told(yard, runs(version))
        assert await pushed(node) == {"a", "b"}
        # Only what is held is kept.
        await told(yard, runs(assign(yard, only("a"))))
        assert node.store.store.count("chains") == 3
