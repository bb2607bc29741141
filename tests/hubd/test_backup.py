"""A copy of a hub beside one that runs, and every piece of it restored, into either database."""

import json
import shutil
import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
import trio

from edgesync_transport.keys import new_key_pair
from hubd import serve
from hubd.backup import OWNED, SETTINGS, Source, backup, check, restore
from hubd.db.engine import parse_url
from hubd.errors import EnrolRefused, HubHeld, OwnedUnusable
from hubd.hold import holding_folder
from hubd.log.lmdb import LmdbLog
from hubd.manifest import MANIFEST, UNFINISHED, BackupRefused
from hubd.owned.database import FILE
from hubd.owned.dump import DumpRefused
from hubd.registry import Registry, open_registry
from tests.hubd.keys import open_answers
from tests.hubd.owned.test_migrations import edges_of, lay
from tests.hubd.test_settings_act import served
from tests.hubd.yard import Yard, send
from tests.sites import PATIENCE_S

pytestmark = pytest.mark.feature("K6")

TOML = '[hub]\npublic = "tcp://hub.example:7"\n'


class Copied:
    """A hub of two tenants, and where its copies go."""

    def __init__(self, folder: Path, url: sa.URL | None) -> None:
        self.folder = folder / "hub"
        self.target = folder / "copy"
        self.restored = folder / "restored"
        self.url = url
        self.keys = serve.load_keys(self.folder)
        self.lost, self.kept = new_key_pair().public, new_key_pair().public

    def fill(self) -> None:
        with closing(open_registry(self.folder, self.url)) as registry:
            registry.tenants.add("acme")
            registry.api_tokens.add("ab" * 32, tenant="acme", label="their\0own", may_write=True)
            registry.enrolments.invite("mill", tenant="acme", site="Halle 4 ☃", valid_s=900)
            for key in (self.lost, self.kept):
                token = registry.enrolments.invite("barn", valid_s=900, again=True)
                registry.enrolments.redeem(token.routing_key, token.secret, key)

    async def backup(self, log_type: type[LmdbLog] = LmdbLog) -> None:
        with (
            closing(open_registry(self.folder, self.url)) as registry,
            open_answers(self.folder / "cells") as answers,
        ):
            hub_log = log_type(self.folder / serve.LOG)
            source = Source(
                folder=self.folder, hub_log=hub_log, owned=registry.owned, settings=TOML,
                copy_keys={"default": answers.cells.copy, "acme": answers.cells.copy},
            )  # fmt: skip
            try:
                await backup(source, self.target)
            finally:
                await hub_log.aclose()


@pytest.fixture
def copied(tmp_path: Path, owned_url: sa.URL | None) -> Copied:
    found = Copied(tmp_path, owned_url)
    found.fill()
    return found


@pytest.fixture
def filed(tmp_path: Path) -> Copied:
    """Return a hub without PostgreSQL."""
    found = Copied(tmp_path, None)
    found.fill()
    return found


def check_owned(registry: Registry, copied: Copied) -> None:
    assert edges_of(registry) == {
        "barn": ("default", False, (copied.kept,)),
        "mill": ("acme", False, ()),
    }
    assert {edge.name: edge.site for edge in registry.edges.all()}["mill"] == "Halle 4 ☃"
    assert [token.label for token in registry.api_tokens.all()] == ["their\0own"]
    token = registry.enrolments.invite("barn", valid_s=900, again=True)
    with pytest.raises(EnrolRefused, match="was revoked"):
        registry.enrolments.redeem(token.routing_key, token.secret, copied.lost)


async def test_every_piece_comes_back(copied: Copied) -> None:
    with closing(LmdbLog(copied.folder / serve.LOG)) as hub_log:
        generation = hub_log.generation
    await copied.backup()
    assert not (copied.target / UNFINISHED).exists()
    assert (copied.target / SETTINGS).read_text() == TOML
    manifest = check(copied.target)
    assert manifest is not None
    stores = {"cells/data.mdb", "tenants/acme/cells/data.mdb", "log/data.mdb"}
    assert set(manifest.files) == {*stores, serve.KEYS, OWNED, SETTINGS}
    assert restore(copied.target, copied.restored) == manifest.head
    assert serve.load_keys(copied.restored) == copied.keys
    for name in ("cells/data.mdb", "tenants/acme/cells/data.mdb"):
        assert (copied.restored / name).read_bytes() == (copied.target / name).read_bytes()
    with closing(LmdbLog(copied.restored / serve.LOG)) as hub_log:
        assert hub_log.generation != generation
    with closing(open_registry(copied.restored)) as registry:
        check_owned(registry, copied)
    for name in (serve.KEYS, FILE):
        assert (copied.restored / name).stat().st_mode & 0o777 == 0o600


async def test_either_database_takes_the_copy_of_the_other(filed: Copied, database: str) -> None:
    url = parse_url(database)
    await filed.backup()
    restore(filed.target, filed.restored, url)
    assert not (filed.restored / FILE).exists()
    with closing(open_registry(filed.restored, url)) as registry:
        check_owned(registry, filed)
        registry.tenants.add("bolt")  # and it is migrated and goes on
        assert registry.changes() is not None
    # A second time: the database is somebody's now.
    with pytest.raises(DumpRefused, match=r"postgresql://hub@/hub.* is in use"):
        restore(filed.target, filed.restored / "again", url)
    assert not (filed.restored / "again" / serve.LOG).exists()


async def test_an_edge_that_comes_meanwhile_is_whose_it_is_in_the_copy(copied: Copied) -> None:
    """Its entries are in the copied log; of an edge nobody knows they are the default tenant's."""

    class LongLog(LmdbLog):
        async def backup(self, path: Path, **facts: Any) -> None:
            with closing(open_registry(copied.folder, copied.url)) as registry:
                registry.enrolments.invite("shop", tenant="acme", valid_s=900)
            await super().backup(path, **facts)

    await copied.backup(LongLog)
    restore(copied.target, copied.restored)
    with closing(open_registry(copied.restored)) as registry:
        assert registry.edges.owners()["shop"] == "acme"


async def test_what_was_not_finished_is_no_backup_and_nothing_is_safe(filed: Copied) -> None:
    class BrokenLog(LmdbLog):
        async def backup(self, path: Path, **facts: Any) -> None:
            (filed.folder / FILE).write_bytes(b"no database, " * 1000)
            await super().backup(path, **facts)

    with pytest.raises(OwnedUnusable):
        await filed.backup(BrokenLog)
    assert (filed.target / UNFINISHED).exists()
    with pytest.raises(BackupRefused, match="was not finished"):
        check(filed.target)


@pytest.fixture
async def sound(filed: Copied) -> Copied:
    await filed.backup()
    return filed


@pytest.mark.parametrize("name", ["log/data.mdb", "cells/data.mdb", serve.KEYS, OWNED, SETTINGS])
async def test_a_piece_that_is_not_what_it_was_is_named(sound: Copied, name: str) -> None:
    path = sound.target / name
    text = path.read_bytes()
    for other in (text[:-1], text + b"x", text[:50] + b"?" + text[51:]):
        path.write_bytes(other)
        with pytest.raises(BackupRefused, match=f"{name} is not what was backed up"):
            check(sound.target)
    path.unlink()
    with pytest.raises(BackupRefused, match=f"{name} is missing"):
        check(sound.target)
    path.write_bytes(text)
    assert check(sound.target) is not None


async def test_a_backup_of_another_version_says_so(sound: Copied) -> None:
    path = sound.target / MANIFEST
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps({"format": 2, "edgesync": "7.1", "anything": []}))
    with pytest.raises(BackupRefused, match=r"made by edgesync 7\.1 in format 2.*upgrade edgesync"):
        check(sound.target)
    for damaged in ("", "{", '{"format": 1}'):
        path.write_text(damaged)
        with pytest.raises(BackupRefused, match="is damaged"):
            check(sound.target)
    manifest["files"]["../hub/hub.keys"] = manifest["files"][serve.KEYS]
    path.write_text(json.dumps(manifest))
    with pytest.raises(BackupRefused, match="outside of it"):
        check(sound.target)


async def test_owned_state_of_a_newer_version_or_torn_is_refused(sound: Copied) -> None:
    path = sound.target / OWNED
    lines = path.read_text().splitlines(keepends=True)
    for text, problem in (
        ('{"revision":"0999"}\n' + "".join(lines[1:]), "has format 0999.*upgrade edgesync"),
        ("".join(lines[:-1]), "is not whole"),
        ("".join(lines[:-2]) + lines[-1], "is not whole"),
        ("".join(lines[:2]) + "{", "is damaged"),
    ):
        path.write_text(text)
        with pytest.raises(DumpRefused, match=problem):
            restore(sound.target, sound.restored)
        assert not (sound.restored / serve.LOG).exists()
    path.write_text("".join(lines))
    restore(sound.target, sound.restored)
    with closing(open_registry(sound.restored)) as registry:
        check_owned(registry, sound)


async def test_where_something_is_nothing_is_overwritten(sound: Copied) -> None:
    with pytest.raises(BackupRefused, match="move it aside"):
        restore(sound.target, sound.folder)
    with closing(open_registry(sound.restored.parent)) as registry:
        registry.enrolments.invite("theirs", valid_s=900)
    with pytest.raises(DumpRefused, match="is in use"):
        restore(sound.target, sound.restored.parent)
    with closing(open_registry(sound.restored.parent)) as registry:
        assert [edge.name for edge in registry.edges.all()] == ["theirs"]
    sound.restored.mkdir(exist_ok=True)
    with holding_folder(sound.restored), pytest.raises(HubHeld):
        restore(sound.target, sound.restored)
    with pytest.raises(BackupRefused, match="is not empty"):
        await sound.backup()


async def test_a_restore_that_was_killed_begins_again(sound: Copied) -> None:
    sound.restored.mkdir()
    shutil.copytree(sound.target, sound.restored / "restore.draft")
    restore(sound.target, sound.restored)
    assert not (sound.restored / "restore.draft").exists()


@pytest.mark.parametrize("is_file", [True, False])
async def test_a_backup_from_before_manifests_is_taken(
    sound: Copied, database: str, is_file: bool
) -> None:
    for name in (MANIFEST, OWNED):
        (sound.target / name).unlink()
    lay(sound.target, "1-keys")
    assert check(sound.target) is None
    url = None if is_file else parse_url(database)
    restore(sound.target, sound.restored, url)
    with closing(open_registry(sound.restored, url)) as registry:
        assert registry.edges.owners()["mill"] == "acme"
        assert len(registry.edges.all()) == 5
    with closing(sqlite3.connect(sound.target / FILE)) as db:  # untouched
        assert not db.execute("SELECT 1 FROM sqlite_master WHERE name = 'tenant'").fetchall()


def test_a_folder_that_is_no_backup_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BackupRefused, match="holds no backup"):
        check(tmp_path)


@pytest.mark.slow
async def test_a_hub_that_serves_from_postgresql_is_copied_and_goes_on_from_files(
    tmp_path: Path, database: str
) -> None:
    (tmp_path / "barn").mkdir()
    yard = Yard(tmp_path, database)
    yard.enrol("barn")
    config, restored = tmp_path / "hub.toml", tmp_path / "restored" / "hub.toml"
    config.write_text(f'[hub]\ndata_dir = "."\ndatabase = "{database}"\n')
    restored.parent.mkdir()
    restored.write_text("[hub]\n")

    async def run(config: Path, *words: str) -> str:
        command = [sys.executable, "-m", "hubd", "--config", str(config), *words]
        return (await trio.run_process(command, capture_stdout=True)).stdout.decode()

    copy = tmp_path / "copy"
    async with served(yard.settings, yard.folder), yard.edge("barn") as node:
        await send(node)
        head = json.loads(await run(config, "backup", str(copy), "--json"))["head"]
        assert head > 0
        await send(node)
    assert (copy / SETTINGS).read_text() == config.read_text()
    assert f"up to position {head}" in await run(restored, "restore", str(copy))
    data = restored.parent / "data"
    with closing(open_registry(data)) as registry:
        assert [edge.name for edge in registry.edges.all()] == ["barn"]
    settings = msgspec.structs.replace(
        yard.settings, hub=msgspec.structs.replace(yard.settings.hub, database="")
    )
    async with served(settings, data), yard.edge("barn") as node:
        await node.sync(PATIENCE_S)
        await yard.wait_for("/api/v1/edges/barn", lambda edge: edge["state"]["readings"] == 2)
