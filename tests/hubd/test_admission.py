"""A hub whose registry is away: whom it knows comes and goes, and everybody is told the rest."""

import os
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from click.testing import CliRunner

from edgesync_transport.zap import KeyTable
from hubd import data_folder, serve
from hubd.admission import Admission
from hubd.cells import Keyspaces
from hubd.cli import main as hubd_command
from hubd.errors import HubHeld, OwnedUnusable
from hubd.hold import DatabaseHold
from hubd.link.sessions import HubLink
from hubd.owned import open_owned
from hubd.owned.database import FILE
from hubd.registry import ApiToken, Changes, RegisteredEdge, Registry, open_registry
from hubd.registry.known import FILE as KNOWN
from hubd.registry.known import load
from hubd.settings import HubSettings
from tests.hubd.conftest import RegistryPlace
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard, send
from tests.postgresql import Server
from tests.sites import PATIENCE_S, until

pytestmark = pytest.mark.feature("S6")


@pytest.fixture
def yard(tmp_path: Path, database: str) -> Yard:
    for name in ("barn", "shed"):
        (tmp_path / name).mkdir()
    return Yard(tmp_path, database)


def is_away(health: str) -> bool:
    return "the registry cannot be read" in health


@pytest.mark.slow
async def test_known_edges_come_and_go_while_the_registry_is_away(
    yard: Yard, postgresql: Server
) -> None:
    yard.enrol("barn")
    with closing(yard.registry()) as registry:
        token = registry.enrolments.invite("mill", valid_s=900)
    async with served(yard.settings, yard.folder):
        async with yard.edge("barn") as node:
            await send(node)
            postgresql.kill()
            try:
                problem = await yard.health(is_away)
                assert "nobody enrols" in problem
                assert "postgresql://hub@/hub" in problem
                await send(node)
                status, answer = await yard.redeem(token)
                assert (status, answer["code"]) == (503, "busy")
                assert "cannot look at its registry" in answer["error"]
            except BaseException:
                postgresql.start()
                raise
        async with yard.edge("barn") as node:  # again, from nothing
            await send(node)
    # So far nobody has asked the hub that begins now.
    async with served(yard.settings, yard.folder), yard.edge("barn") as node:
        await send(node)
        assert is_away(await yard.health(is_away))
        postgresql.start()
        await yard.health(lambda text: not is_away(text))
        assert (await yard.redeem(token))[0] == 200
        with closing(yard.registry()) as registry:
            registry.edges.revoke("barn")
        await yard.wait_for("/api/v1/edges/barn", lambda edge: edge["link"]["state"] == "revoked")


@pytest.mark.slow
async def test_what_is_revoked_ends_though_who_looks_is_cancelled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a request is whose token goes with the edges: nobody is told of them once more."""
    yard, looked, look = Yard(tmp_path, ""), list[Keyspaces](), serve._look_at_registry

    async def look_and_end(admission: Admission, link: HubLink, keyspaces: Keyspaces) -> None:
        looked[:] = [keyspaces]

        async def refresh() -> list[str]:
            if gone := await Admission.refresh(admission):
                scope.cancel()
            return gone

        with trio.CancelScope() as scope:
            monkeypatch.setattr(admission, "refresh", refresh)
            await look(admission, link, keyspaces)

    monkeypatch.setattr(serve, "_look_at_registry", look_and_end)
    for name in ("barn", "shed"):
        (tmp_path / name).mkdir()
        yard.enrol(name)
    async with (
        served(yard.settings, yard.folder),
        yard.edge("barn") as barn,
        yard.edge("shed") as shed,
    ):
        for node in (barn, shed):
            node.set("k", "v")
            await node.sync(PATIENCE_S)
        await until(lambda: bool(looked))
        (keyspaces,) = looked
        assert keyspaces.default.cells.replicas().keys() == {"barn", "shed"}
        with closing(yard.registry()) as registry:
            registry.edges.revoke("barn")
            registry.edges.revoke("shed")
        await until(lambda: not keyspaces.default.cells.replicas())


async def test_a_hub_that_has_known_nobody_does_not_start_without_its_registry(
    yard: Yard, postgresql: Server
) -> None:
    postgresql.kill()
    try:
        with pytest.RaisesGroup(OwnedUnusable, flatten_subgroups=True, allow_unwrapped=True):
            async with served(yard.settings, yard.folder):
                pytest.fail("it started")
    finally:
        postgresql.start()


async def test_a_damaged_registry_keeps_nobody_out_who_was_in(tmp_path: Path) -> None:
    (tmp_path / "barn").mkdir()
    yard = Yard(tmp_path, "")
    yard.enrol("barn")
    async with served(yard.settings, yard.folder):
        assert (tmp_path / KNOWN).stat().st_mode & 0o777 == 0o600
    (tmp_path / FILE).write_bytes(b"no database, " * 1000)
    async with served(yard.settings, yard.folder), yard.edge("barn") as node:
        await send(node)
        assert "file is not a database" in await yard.health(is_away)


@pytest.mark.slow
@pytest.mark.feature("K6")
async def test_a_registry_that_somebody_emptied_revokes_nobody(
    registry_place: RegistryPlace,
) -> None:
    folder, url = registry_place.folder, registry_place.url
    text = "" if url is None else url.set(drivername="postgresql").render_as_string()
    (folder / "barn").mkdir()
    yard = Yard(folder, text)
    yard.enrol("barn")
    config = folder / "hub.toml"
    config.write_text(f'[hub]\ndata_dir = "."\npublic = "tcp://hub:7"\ndatabase = "{text}"\n')

    def command(*words: str) -> str:
        done = CliRunner().invoke(hubd_command, ["--config", str(config), *words])
        assert (done.exit_code == 0) is (words[0] in ("backup", "restore")), done.output
        return done.output

    async def run(*words: str) -> str:
        return await trio.to_thread.run_sync(command, *words)

    async with served(yard.settings, folder), yard.edge("barn") as node:
        await send(node)
        await run("backup", str(folder / "copy"))
        registry_place.take_away()
        assert "hubd restore --registry" in await yard.health(is_away)
        # This made an empty registry, of which the hub learned that nobody is let in.
        assert "put the registry back" in await run("enroll", "mill")
        await send(node)
        assert registry_place.is_empty
    # And so did a hub that began with nothing there.
    async with served(yard.settings, folder), yard.edge("barn") as node:
        await send(node)
        assert "put the registry back" in await yard.health(is_away)
        assert registry_place.is_empty
    await run("restore", "--registry", str(folder / "copy"))
    async with served(yard.settings, folder), yard.edge("barn") as node:
        await send(node)
        assert (await yard.ask("/healthz"))[1]["status"] == "ok"
    registry_place.put_back()  # that of before is another one now
    async with served(yard.settings, folder), yard.edge("barn") as node:
        assert "holds another registry" in await yard.health(is_away)
        await send(node)


@pytest.mark.feature("K6")
async def test_a_second_hub_of_a_folder_or_a_database_is_refused(
    yard: Yard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hubd.hold.HELD_S", 0.0)
    other = msgspec.structs.replace(yard.settings, hub=HubSettings(listen=("tcp://127.0.0.1:*",)))
    elsewhere = msgspec.structs.replace(
        other, hub=msgspec.structs.replace(other.hub, database=yard.settings.hub.database)
    )
    async with served(yard.settings, yard.folder):
        for settings, folder in ((other, yard.folder), (elsewhere, yard.folder / "shed")):
            with pytest.RaisesGroup(
                pytest.RaisesExc(HubHeld, match=f"in use by another hub: process {os.getpid()} on"),
                flatten_subgroups=True,
            ):
                async with served(settings, folder):
                    pytest.fail("it started")
        assert (await yard.ask("/healthz"))[1]["status"] == "ok"


@pytest.mark.feature("K6")
async def test_a_hub_whose_database_was_taken_meanwhile_stops(
    yard: Yard, postgresql: Server
) -> None:
    with (
        closing(DatabaseHold(data_folder.database_url(yard.settings))) as other,
        pytest.RaisesGroup(HubHeld, flatten_subgroups=True),
    ):
        async with served(yard.settings, yard.folder):
            while True:
                postgresql.execute(
                    "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity "
                    f"WHERE application_name LIKE 'hubd {os.getpid()}@%'",
                    "hub",
                )
                try:
                    other.take()
                except HubHeld:  # it was sooner
                    continue
                break
            await trio.sleep_forever()


class Recorder:
    """Takes what an Admission tells, and keeps the newest of each kind."""

    def __init__(self) -> None:
        self.edges: list[str] = []
        self.has_edges = trio.Event()

    def set_registered(self, edges: list[RegisteredEdge]) -> None:
        self.edges = [edge.name for edge in edges]
        if edges:
            self.has_edges.set()

    def set(self, tokens: list[ApiToken]) -> None: ...

    def set_tenants(self, _tenants: object, _owners: object, grants: dict[str, object]) -> None:
        self.grants = grants


async def test_what_was_read_first_is_applied_first(tmp_path: Path) -> None:
    """`hubd enroll` and an edge that enrols may both have it read, in two threads."""
    first_has_read, go_on = trio.Event(), threading.Event()
    token = trio.lowlevel.current_trio_token()

    class Slow(Registry):
        reads = 0

        def changes(self) -> Changes | None:
            found = super().changes()
            self.reads += 1
            if self.reads == 1:
                token.run_sync_soon(first_has_read.set)
                go_on.wait(PATIENCE_S)
            return found

    with (
        closing(Slow(open_owned(tmp_path))) as registry,
        closing(DatabaseHold(None)) as hold,
        closing(open_registry(tmp_path)) as other,
    ):
        heard: Any = Recorder()
        admission = Admission(registry, hold, tmp_path, KeyTable(), heard, heard, heard, heard)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(admission.refresh)
            await first_has_read.wait()
            other.enrolments.invite("barn", valid_s=900)
            nursery.start_soon(admission.refresh)
            with trio.move_on_after(0.5):  # enough to be first, were it let
                await heard.has_edges.wait()
            go_on.set()
        assert heard.edges == ["barn"]


async def test_what_could_not_be_written_once_is_written_later(tmp_path: Path) -> None:
    """A hub that starts without its registry knows the newest edges, after a full disk too."""
    with closing(open_registry(tmp_path)) as registry, closing(DatabaseHold(None)) as hold:
        heard: Any = Recorder()
        admission = Admission(registry, hold, tmp_path, KeyTable(), heard, heard, heard, heard)
        registry.enrolments.invite("barn", valid_s=900)
        await admission.refresh()
        in_the_way = tmp_path / f"{KNOWN}.draft"
        in_the_way.mkdir()
        await admission.save()
        assert load(tmp_path) is None
        in_the_way.rmdir()
        await admission.refresh()  # finds nothing new
        await admission.save()
        known = load(tmp_path)
        assert known is not None
        assert [edge.name for edge in known.changes.edges] == ["barn"]
        written = (tmp_path / KNOWN).stat().st_ino
        await admission.save()
        assert (tmp_path / KNOWN).stat().st_ino == written  # once


@pytest.mark.feature("C14")
async def test_an_edge_that_is_forgotten_is_told_no_more_than_before(tmp_path: Path) -> None:
    """Its session ends a moment later, and until then it may ask."""
    with closing(open_registry(tmp_path)) as registry, closing(DatabaseHold(None)) as hold:
        heard: Any = Recorder()
        admission = Admission(registry, hold, tmp_path, KeyTable(), heard, heard, heard, heard)
        registry.enrolments.invite("barn", valid_s=900)
        registry.edges.grant("barn", ["a/"])
        await admission.refresh()
        assert heard.grants == {"barn": (b"a/",)}
        registry.edges.forget("barn")
        await admission.refresh()
        assert heard.edges == []
        assert heard.grants == {"barn": (b"a/",)}
        registry.enrolments.invite("barn", valid_s=900)
        await admission.refresh()
        assert heard.grants == {}
