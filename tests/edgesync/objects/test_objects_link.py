"""Objects of a real hub at a real edge, over real sockets: cut, damaged, refused, taken back."""

import contextlib
import errno
import functools
import io
import os
import random
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from edgesync import EdgeNode, Reading
from edgesync.demo.cable import Cable, open_cable
from edgesync.errors import EdgesyncError
from edgesync.objects import part as part_module
from edgesync.objects import plan as plan_module
from edgesync.objects.files import Index, ObjectFiles
from edgesync.objects.model import ObjectRef, listing_of
from edgesync_transport.messages import ObjectListing, ObjectPart
from hubd.objects import service as service_module
from hubd.objects.store import Objects
from hubd.owned import tables
from tests.edgesync.sync.test_driver import until
from tests.hubd.yard import Yard

pytestmark = [pytest.mark.feature("S22"), pytest.mark.slow]

PATIENCE_S = 120
OBJECTS = "/api/v1/edges/barn/objects"
QUICK = {
    "heartbeat": "1s", "reconnect_base": "50ms", "reconnect_cap": "200ms", "breaker_failures": 1000,
}  # fmt: skip


@pytest.fixture
def yard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Yard:
    monkeypatch.setattr(service_module, "TICK_S", 0.1)
    monkeypatch.setattr(part_module, "PROGRESS_S", 0.1)
    made = Yard(tmp_path / "hub", "")
    (made.folder / "barn").mkdir()
    made.enrol("barn")
    return made


@contextlib.contextmanager
def kept(yard: Yard) -> Iterator[Objects]:
    """The objects as a command beside the hub has them."""
    with contextlib.closing(yard.registry()) as registry:
        yield Objects(registry.owned, yard.folder / "objects")


def assign(yard: Yard, name: str, data: bytes) -> Path:
    """Put an object and have the edge hold it; returns its file at the hub."""
    with kept(yard) as objects:
        made = objects.put("default", name, io.BytesIO(data))
        objects.assign("default", name, ["barn"])
        return objects.path(made.sha256)


@contextlib.asynccontextmanager
async def edge(yard: Yard, cable: Cable | None = None, **settings: Any) -> AsyncIterator[EdgeNode]:
    endpoint = yard.settings.hub.listen[0]
    if cable is not None:
        endpoint = "tcp://{}:{}".format(*cable.address)
    hub = {"endpoint": endpoint, "server_key": yard.server_key}
    table = {"edge": {"name": "barn"}, "hub": hub, "sync": QUICK, **settings}
    async with EdgeNode(table, folder=yard.folder / "barn") as node:
        yield node


async def told(yard: Yard, name: str, is_so: Callable[[Any], bool]) -> Any:
    """Wait until the hub is told that of an object, of what is assigned now."""

    def holds(found: Any) -> bool:
        return found["is_current"] and any(
            one["name"] == name and is_so(one) for one in found["objects"]
        )

    found = await yard.wait_for(OBJECTS, holds)
    return next(one for one in found["objects"] if one["name"] == name)


def stands(standing: str) -> Callable[[Any], bool]:
    return lambda one: bool(one["standing"] == standing)


def here(node: EdgeNode, name: str = "model") -> str:
    found = [one.standing.value for one in node.objects.states() if one.name == name]
    return found[0] if found else ""


async def test_an_object_arrives_whole_is_replaced_and_taken_back(yard: Yard) -> None:
    data = random.Random(1).randbytes(300_001)
    async with yard.running():
        assign(yard, "model", data)
        waiting = await yard.wait_for(OBJECTS, lambda found: found["objects"] != [])
        assert (waiting["is_current"], waiting["told_ns"]) == (False, None)
        assert "since this hub started" in waiting["objects"][0]["reason"]
        async with edge(yard) as node:
            shown = await told(yard, "model", stands("held"))
            assert (shown["have"], shown["size"]) == (300_001, 300_001)
            first = node.objects.path("model")
            assert first.read_bytes() == data
            status = node.status().objects
            assert status is not None
            assert (status.used_bytes, status.strays, status.broken) == (300_001, 0, 0)
            assign(yard, "model", data[:100])
            assign(yard, "same", data[:100])
            await until(lambda: here(node, "same") == here(node) == "held")
            await until(lambda: not first.exists())
            assert node.objects.path("model").read_bytes() == data[:100]
            with kept(yard) as objects:
                objects.unassign("default", "model", ["barn"])
            await until(lambda: here(node) == "")
            assert node.objects.path("same").read_bytes() == data[:100]
            with pytest.raises(EdgesyncError, match="no object 'model' here"):
                node.objects.path("model")
            # Once the edge has told so, nothing of it is left at the hub either.
            await yard.wait_for(OBJECTS, lambda one: one["is_current"] and len(one["objects"]) == 1)
            with kept(yard) as objects:
                await until(lambda: objects.listings()["barn"].removed == ())
        async with edge(yard) as node:
            assert node.objects.path("same").read_bytes() == data[:100]


async def test_a_transfer_goes_on_where_it_was_cut_wherever_that_was(yard: Yard) -> None:
    data = random.Random(2).randbytes(4 << 20)
    chance = random.Random(3)
    host, _, port = yard.settings.hub.listen[0].removeprefix("tcp://").rpartition(":")
    async with open_cable((host, int(port))) as cable:
        cable.cut()
        async with yard.running(), contextlib.AsyncExitStack() as stack:
            assign(yard, "model", data)
            node = await stack.enter_async_context(edge(yard, cable))
            for cut in range(6):
                cable.plug()
                reached = (cut + 1) * len(data) // 8
                await until(functools.partial(_has, node, reached))
                if cut % 2:
                    cable.hush()
                    await trio.sleep(chance.uniform(0.0, 0.05))
                cable.cut()
                await until(functools.partial(_is_cut, node))
                if cut == 3:  # and the edge starts anew
                    await stack.aclose()
                    node = await stack.enter_async_context(edge(yard, cable))
                    assert _have(node) >= reached - plan_module.CREDIT_BYTES_MAX
            cable.plug()
            await until(lambda: here(node) == "held")
            assert node.objects.path("model").read_bytes() == data
            await stack.aclose()
        # What was under way at a cut came twice, and nothing else did.
        assert cable.bytes_back < len(data) * 3 // 2 + 6 * 2 * plan_module.CREDIT_BYTES_MAX


def _have(node: EdgeNode) -> int:
    return sum(one.have for one in node.objects.states())


def _has(node: EdgeNode, nbytes: int) -> bool:
    return _have(node) >= nbytes


def _is_cut(node: EdgeNode) -> bool:
    return bool(node.part("link").driver.epoch == 0)


async def test_readings_are_acknowledged_while_an_object_is_on_its_way(yard: Yard) -> None:
    beside = 0
    async with yard.running():
        assign(yard, "model", random.Random(4).randbytes(8 << 20))
        async with edge(yard) as node:
            await until(lambda: _have(node) > 0)
            for n in range(1000):
                if here(node) == "held":
                    break
                await node.ingest([Reading("m", "P", float(n), n + 1)])
                await node.sync(PATIENCE_S)
                beside += here(node) == "fetching"
            await until(lambda: here(node) == "held")
    assert beside > 0


async def test_what_a_hub_lost_is_kept_until_it_says_that_it_is_to_go(yard: Yard) -> None:
    async with yard.running():
        assign(yard, "model", b"precious")
        async with edge(yard) as node:
            await told(yard, "model", stands("held"))
            # As a registry that was restored from before: neither the object nor who has it.
            with contextlib.closing(yard.registry()) as registry, registry.owned.change() as change:
                change.execute(tables.object_assignment.delete())
                change.execute(tables.object_.delete())
            await told(yard, "model", stands("kept"))
            assert node.objects.path("model").read_bytes() == b"precious"
        async with edge(yard) as node:
            await told(yard, "model", stands("kept"))
            assert node.objects.path("model").read_bytes() == b"precious"
            with kept(yard) as objects:
                objects.unassign("default", "model", ["barn"])
            await until(lambda: here(node) == "")


async def test_an_edge_that_lost_its_files_has_them_again(yard: Yard) -> None:
    async with yard.running():
        assign(yard, "model", b"precious")
        async with edge(yard) as node:
            await until(lambda: here(node) == "held")
            folder = node.objects.files.folder
        shutil.rmtree(folder)
        async with edge(yard) as node:
            await until(lambda: here(node) == "held")
            assert node.objects.path("model").read_bytes() == b"precious"


async def test_bytes_that_rotted_at_the_edge_come_again_and_those_of_nobody_stay(
    yard: Yard,
) -> None:
    async with yard.running():
        assign(yard, "model", b"precious")
        assign(yard, "lost", b"nobody's")
        async with edge(yard) as node:
            await until(lambda: here(node) == here(node, "lost") == "held")
            with contextlib.closing(yard.registry()) as registry, registry.owned.change() as change:
                table = tables.object_assignment
                change.execute(table.delete().where(table.c.name == "lost"))
            await until(lambda: here(node, "lost") == "kept")
            paths = [node.objects.path(name) for name in ("model", "lost")]
        for path in paths:
            path.write_bytes(path.read_bytes()[:-1] + b"?")
        async with edge(yard) as node:
            await until(lambda: node.objects.broken == 2)
            await until(lambda: here(node) == "held")
            assert node.objects.path("model").read_bytes() == b"precious"
            assert node.objects.path("lost").read_bytes() == b"nobody'?"


async def test_bytes_that_rotted_at_the_hub_are_never_kept_and_come_when_they_are_mended(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan_module, "AGAIN_S", 2.0)
    monkeypatch.setattr(plan_module, "AGAIN_MAX_S", 2.0)
    data = random.Random(5).randbytes(200_000)
    async with yard.running():
        file = assign(yard, "model", data)
        file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
        async with edge(yard) as node:
            shown = await told(yard, "model", stands("refused"))
            assert "SHA-256" in shown["reason"]
            file.write_bytes(data[:10])
            await told(yard, "model", lambda one: "put it there again" in one["reason"])
            status = node.status().objects
            assert status is not None
            assert status.broken > 0
            await until(lambda: here(node) == "refused")  # between two tries
            with pytest.raises(EdgesyncError, match="refused"):
                node.objects.path("model")
            with kept(yard) as objects:
                objects.put("default", "model", io.BytesIO(data))
            await told(yard, "model", stands("held"))
            assert node.objects.path("model").read_bytes() == data


@pytest.mark.setting("objects.limit", "objects.reserve")
async def test_an_edge_without_room_says_why_it_fetches_nothing(yard: Yard) -> None:
    async with yard.running():
        assign(yard, "model", b"x" * 1000)
        async with edge(yard, objects={"limit": 999}):
            shown = await told(yard, "model", stands("refused"))
            assert "`limit` under [objects]" in shown["reason"]
        async with edge(yard, objects={"reserve": "1000 TiB"}):
            await told(yard, "model", lambda one: "`reserve`" in one["reason"])
        async with edge(yard) as node:
            await told(yard, "model", stands("held"))
            assert node.objects.path("model").stat().st_size == 1000


async def test_a_disk_that_takes_nothing_is_told_and_then_it_goes_on_by_itself(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the listing nor bytes can be kept: the hub is told why, and not what it assigned."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(part_module, "DISK_RETRY_S", 0.1)
    async with yard.running(), edge(yard) as node:
        for method, size in (("save", 1000), ("write", 2000)):
            with monkeypatch.context() as full:
                full.setattr(ObjectFiles, method, refuse)
                assign(yard, "model", b"x" * size)
                await yard.wait_for(OBJECTS, lambda found: any(
                    one["standing"] == "refused" and "No space left" in one["reason"]
                    for one in found["objects"]
                ))  # fmt: skip
            await told(yard, "model", stands("held"))
            assert node.objects.path("model").stat().st_size == size


async def test_what_nobody_asked_for_is_counted_and_not_kept(yard: Yard) -> None:
    async with yard.running():
        assign(yard, "model", b"x" * 1000)
        async with edge(yard) as node:
            part = node.objects
            part.hear(ObjectPart(epoch=1, sha256="0" * 64, offset=0, size=7, payload=b"hostile"))
            part.hear(ObjectListing(epoch=1, payload=b"no listing"))
            await until(lambda: here(node) == "held")
            part.hear(ObjectPart(epoch=1, sha256="../x", offset=0, size=1, payload=os.urandom(9)))
            part.hear(ObjectPart(epoch=1, sha256="0" * 64, offset=0, size=7, reason="no"))
            status = node.status().objects
            assert status is not None
            assert status.strays == 4
            assert len(list(part.files.folder.iterdir())) == 2  # the object and the index


@pytest.mark.parametrize("is_over", [False, True])
async def test_listings_that_change_without_end_are_taken_seldom_and_the_newest_counts(
    yard: Yard, monkeypatch: pytest.MonkeyPatch, is_over: bool
) -> None:
    """Each is written to the disk: no hub is to wear that out."""
    saved = list[Index]()
    save = ObjectFiles.save

    def counted(files: ObjectFiles, index: Index) -> None:
        saved.append(index)
        save(files, index)

    monkeypatch.setattr(ObjectFiles, "save", counted)
    monkeypatch.setattr(part_module, "LISTING_EVERY_S", 0.2 if is_over else 3600.0)
    async with edge(yard) as node:
        part, burst = node.objects, part_module.LISTINGS_BURST
        for n in range(burst + 20):
            listing = listing_of([ObjectRef("model", f"{n:064x}", 7)])
            part.hear(ObjectListing(epoch=1, payload=listing.pack()))
            if n < burst:
                await until(lambda: part._listed is None)
            else:
                await trio.sleep(0.01)
        if is_over:
            await until(lambda: part.listing == listing)
        else:
            assert len(saved) == burst
