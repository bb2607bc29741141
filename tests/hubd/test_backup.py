"""A copy of a hub beside one that runs, and every piece of it restored, into either database."""

import hashlib
import io
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
from click.testing import CliRunner

from edgesync.errors import StoreVersion
from edgesync_transport.keys import new_key_pair
from hubd import backup as backup_module
from hubd import data_folder, serve
from hubd.backup import OWNED, SETTINGS, Source, backup, check, restore, restore_state
from hubd.cli import main as hubd_command
from hubd.db.engine import parse_url
from hubd.errors import EnrolRefused, HubHeld, OwnedUnusable, RestoreUnfinished
from hubd.hold import holding_folder
from hubd.log.base import Append
from hubd.log.lmdb import LmdbLog
from hubd.manifest import MANIFEST, UNFINISHED, BackupRefused
from hubd.objects.store import FOLDER as OBJECTS
from hubd.objects.store import Objects
from hubd.owned import Owned, dump
from hubd.owned.database import FILE
from hubd.owned.dump import DumpRefused
from hubd.project.gaps import read_gaps
from hubd.registry import Registry, open_registry
from hubd.settings import Settings
from hubd.state import views
from hubd.state.copies import StateRefused
from tests.hubd.batches import INCARNATION, START_NS, Edge
from tests.hubd.keys import open_answers
from tests.hubd.log.test_contract import NOWHERE
from tests.hubd.owned.test_migrations import edges_of, lay
from tests.hubd.project.test_follow import following
from tests.hubd.project.test_gaps import press, stored
from tests.hubd.test_settings_act import served, settings_of
from tests.hubd.yard import Yard, send
from tests.postgresql import Server
from tests.sites import PATIENCE_S

pytestmark = pytest.mark.feature("K6", "S32")

CONTENTS = f"{OBJECTS}/{hashlib.sha256(b'weights').hexdigest()}"
TOML = '[hub]\npublic = "tcp://hub.example:7"\n'


def settings_on(url: sa.URL | None) -> Settings:
    """Return the settings of a hub with this database, None: with files."""
    hub = {"database": text_of(url)} if url is not None else {}
    return settings_of(hub=hub)


def text_of(url: sa.URL) -> str:
    return url.set(drivername="postgresql").render_as_string(hide_password=False)


class Copied:
    """A hub of two tenants, and where its copies go."""

    def __init__(self, folder: Path, url: sa.URL | None) -> None:
        self.folder = folder / "hub"
        self.target = folder / "copy"
        self.restored = folder / "restored"
        self.url = url
        self.keys = data_folder.load_keys(self.folder)
        self.lost, self.kept = new_key_pair().public, new_key_pair().public

    def fill(self) -> None:
        with closing(open_registry(self.folder, self.url)) as registry:
            registry.tenants.add("acme")
            registry.api_tokens.add("ab" * 32, tenant="acme", label="their\0own", may_write=True)
            registry.enrolments.invite("mill", tenant="acme", site="Halle 4 ☃", valid_s=900)
            for key in (self.lost, self.kept):
                token = registry.enrolments.invite("barn", valid_s=900, again=True)
                registry.enrolments.redeem(token.routing_key, token.secret, key)
            objects = Objects(registry.owned, self.folder / OBJECTS)
            objects.put("default", "model", io.BytesIO(b"weights"))
            objects.put("acme", "theirs", io.BytesIO(b"weights"))
            objects.assign("default", "model", ["barn"])

    async def backup(self, log_type: type[LmdbLog] = LmdbLog) -> None:
        with (
            closing(open_registry(self.folder, self.url)) as registry,
            open_answers(self.folder / "cells") as answers,
        ):
            hub_log = log_type(self.folder / data_folder.LOG)
            source = Source(
                folder=self.folder, hub_log=hub_log, owned=registry.owned, settings=TOML,
                copy_state=serve.copier_of(settings_on(self.url), self.folder, hub_log),
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
    with closing(LmdbLog(copied.folder / data_folder.LOG)) as hub_log:
        generation = hub_log.generation
    await copied.backup()
    assert not (copied.target / UNFINISHED).exists()
    assert (copied.target / SETTINGS).read_text() == TOML
    manifest = check(copied.target)
    assert manifest is not None
    stores = {"cells/data.mdb", "tenants/acme/cells/data.mdb", "log/data.mdb"}
    assert set(manifest.files) == {*stores, CONTENTS, data_folder.KEYS, OWNED, SETTINGS}
    assert restore(copied.target, copied.restored) == manifest.head
    assert data_folder.load_keys(copied.restored) == copied.keys
    for name in ("cells/data.mdb", "tenants/acme/cells/data.mdb"):
        assert (copied.restored / name).read_bytes() == (copied.target / name).read_bytes()
    with closing(LmdbLog(copied.restored / data_folder.LOG)) as hub_log:
        assert hub_log.generation != generation
    with closing(open_registry(copied.restored)) as registry:
        check_owned(registry, copied)
        objects = Objects(registry.owned, copied.restored / OBJECTS)
        assert [one.name for one in objects.all()] == ["theirs", "model"]
        (ref,) = objects.listings()["barn"].wanted
        assert objects.path(ref.sha256).read_bytes() == b"weights"
    for name in (data_folder.KEYS, FILE, CONTENTS):
        assert (copied.restored / name).stat().st_mode & 0o777 == 0o600


async def test_an_object_whose_contents_are_gone_is_named_and_no_backup_is_made(
    filed: Copied,
) -> None:
    (filed.folder / CONTENTS).unlink()
    with pytest.raises(BackupRefused, match=r"object (theirs of acme|model of default) are"):
        await filed.backup()
    assert (filed.target / UNFINISHED).exists()


async def test_an_object_that_is_replaced_meanwhile_is_what_it_was_in_the_copy(
    filed: Copied, monkeypatch: pytest.MonkeyPatch
) -> None:
    def put(data: bytes) -> None:
        with closing(open_registry(filed.folder)) as registry:
            objects = Objects(registry.owned, filed.folder / OBJECTS)
            objects.put("default", "model", io.BytesIO(data))

    def write_dump(owned: Owned, path: Path) -> None:
        dump.write_dump(owned, path)
        put(b"newer")

    put(b"of before")
    monkeypatch.setattr(backup_module, "write_dump", write_dump)
    await filed.backup()
    restore(filed.target, filed.restored)
    with closing(open_registry(filed.restored)) as registry:
        objects = Objects(registry.owned, filed.restored / OBJECTS)
        model = objects.one("default", "model")
        assert objects.path(model.sha256).read_bytes() == b"of before"


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
    assert not (filed.restored / "again" / data_folder.LOG).exists()


async def test_a_registry_that_was_not_lost_may_stay(copied: Copied) -> None:
    """The hub's disk is lost, its database is not: that knows more than the backup."""
    await copied.backup()
    with closing(open_registry(copied.folder, copied.url)) as registry:
        registry.edges.revoke("barn")
    shutil.rmtree(copied.folder / data_folder.LOG)
    shutil.rmtree(copied.folder / "cells")
    with pytest.raises(DumpRefused, match="--keep-registry"):
        restore(copied.target, copied.folder, copied.url)
    restore(copied.target, copied.folder, copied.url, keeps_owned=True)
    with closing(open_registry(copied.folder, copied.url)) as registry:
        assert registry.edges.live_keys() == {}
    assert (copied.folder / CONTENTS).read_bytes() == b"weights"
    assert (copied.folder / data_folder.LOG).exists()


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
    with closing(LmdbLog(filed.folder / data_folder.LOG)) as hub_log:
        assert hub_log.newest_backup is None
    assert (filed.target / UNFINISHED).exists()
    with pytest.raises(BackupRefused, match="was not finished"):
        check(filed.target)


@pytest.fixture
async def sound(filed: Copied) -> Copied:
    await filed.backup()
    return filed


@pytest.mark.parametrize(
    "name", ["log/data.mdb", "cells/data.mdb", data_folder.KEYS, OWNED, SETTINGS, CONTENTS]
)
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


async def test_part_of_a_backup_is_none(sound: Copied) -> None:
    """A copy of it may have been cut short anywhere, before its manifest, too."""
    manifest = sound.target / MANIFEST
    text = manifest.read_bytes()
    manifest.unlink()
    with pytest.raises(BackupRefused, match=f"lacks {MANIFEST}: it is part of a backup"):
        check(sound.target)
    manifest.write_bytes(text)
    (sound.target / OWNED).unlink()
    (sound.target / OWNED).mkdir()
    with pytest.raises(BackupRefused, match=f"{OWNED} cannot be read"):
        check(sound.target)


@pytest.mark.parametrize(
    "name",
    [data_folder.STATE, "log/more.mdb", "tenants/theirs/cells/data.mdb", f"{OBJECTS}/{'0' * 64}"],
)
async def test_what_a_backup_does_not_list_is_not_restored(sound: Copied, name: str) -> None:
    """Two backups copied into one folder, say."""
    assert not (sound.target / name).exists()
    (sound.target / name).parent.mkdir(parents=True, exist_ok=True)
    (sound.target / name).write_bytes(b"of another one")
    (sound.target / "lost+found").mkdir()  # is nobody's
    (sound.target / "note.txt").write_text("of whoever copied it")
    with pytest.raises(BackupRefused, match=f"{name} is not of this backup"):
        check(sound.target)
    (sound.target / name).unlink()
    assert check(sound.target) is not None
    (sound.target / name).symlink_to("/etc/hostname")
    with pytest.raises(BackupRefused, match=f"{name} is not of this backup"):
        check(sound.target)


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
    manifest["files"]["../hub/hub.keys"] = manifest["files"][data_folder.KEYS]
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
        assert not (sound.restored / data_folder.LOG).exists()
    path.write_text("".join(lines))
    restore(sound.target, sound.restored)
    with closing(open_registry(sound.restored)) as registry:
        check_owned(registry, sound)


@pytest.mark.parametrize("is_file", [True, False])
async def test_owned_state_of_an_earlier_version_is_migrated(
    sound: Copied, database: str, is_file: bool
) -> None:
    """0001 had no prefixes; the database that takes it was made by this version."""
    path = sound.target / OWNED
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    lines = [line for line in lines if not line.get("table", "").startswith("object")]
    lines[-1]["rows"] = len(lines) - 2
    lines[0]["revision"] = "0001"
    for line in lines:
        if line.get("table") == "edge":
            del line["row"]["prefixes"]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    url = None if is_file else parse_url(database)
    restore(sound.target, sound.restored, url)
    with closing(open_registry(sound.restored, url)) as registry:
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


@pytest.mark.parametrize("name", ["cells", "tenants", data_folder.STATE])
async def test_what_is_in_the_way_is_named_before_anything_is_done(
    sound: Copied, name: str
) -> None:
    (sound.target / name).mkdir(exist_ok=True)
    (sound.restored / name).mkdir(parents=True)
    with pytest.raises(BackupRefused, match=f"{name} exists; move it aside"):
        restore(sound.target, sound.restored)
    assert [path.name for path in sound.restored.iterdir()] == [name]


async def test_a_copy_of_the_copy_is_compared(sound: Copied) -> None:
    manifest = check(sound.target)
    assert manifest is not None
    path = sound.target / "cells" / "data.mdb"
    text = path.read_bytes()
    path.write_bytes(text[:100] + b"?" + text[101:])  # as it is read the second time
    with pytest.raises(BackupRefused, match=r"data\.mdb is not what was backed up; is the disk"):
        restore(sound.target, sound.restored, manifest=manifest)
    assert not (sound.restored / FILE).exists()
    path.write_bytes(text)
    with closing(LmdbLog(sound.target / data_folder.LOG, readonly=True)):  # somebody looks into it
        pass
    assert restore(sound.target, sound.restored, manifest=manifest) == manifest.head


async def test_a_key_pair_that_was_there_is_kept_beside(sound: Copied) -> None:
    made = data_folder.load_keys(sound.restored)
    restore(sound.target, sound.restored)
    assert data_folder.load_keys(sound.restored) == sound.keys != made
    aside = sound.restored / f"{data_folder.KEYS}.replaced"
    assert made.public in aside.read_text()


@pytest.mark.parametrize("is_put", [False, True])
async def test_a_restore_that_was_killed_begins_again(sound: Copied, is_put: bool) -> None:
    """Until then no hub starts there: to an empty log edges would hand what they have."""
    draft = sound.restored / data_folder.RESTORE_DRAFT
    shutil.copytree(sound.target, draft)
    if is_put:
        (draft / "cells").rename(sound.restored / "cells")
    with pytest.raises(RestoreUnfinished, match="run `hubd restore` again"):
        await serve.run(Settings(), sound.restored, stop=trio.Event())
    assert not (sound.restored / data_folder.LOG).exists()
    restore(sound.target, sound.restored)
    assert not draft.exists()
    assert (sound.restored / "cells" / "data.mdb").exists()


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


async def test_a_file_of_before_a_database_permits_no_dropping(
    tmp_path: Path, database: str
) -> None:
    """A hub that moved to PostgreSQL, and has made no state there yet."""
    moved = Trimmed(Copied(tmp_path, None))
    await moved.make()
    copied = moved.copied
    copied.url, copied.target = parse_url(database), tmp_path / "later"
    await copied.backup()
    assert not (copied.target / data_folder.STATE).exists()
    with closing(LmdbLog(copied.folder / data_folder.LOG)) as hub_log:
        assert hub_log.newest_backup is not None
        assert (hub_log.newest_backup.head, hub_log.newest_backup.stored) == (8, 0)


class Trimmed:
    """A hub whose log has dropped what a backup has the state of, and which went on since."""

    def __init__(self, copied: Copied) -> None:
        self.folder, self.target = copied.folder, copied.target
        self.copied, self.edge, self.epoch = copied, Edge("barn"), 0
        self.url = copied.url

    async def append(self, hub_log: LmdbLog, count: int) -> None:
        if not self.epoch:
            self.epoch = (await hub_log.open_session("barn", INCARNATION, NOWHERE)).epoch
        for _ in range(count):
            self.edge.readings(START_NS + self.edge.tail, {("meter", "Power"): 1.0})
            entry = self.edge.entry(0)
            asked = Append(
                edge="barn", epoch=self.epoch, incarnation=INCARNATION, lane=entry.lane,
                first=entry.first, last=entry.last, prev_chain=entry.first - 1,
                last_chain=entry.last, codec=entry.codec, payload=entry.payload,
            )  # fmt: skip
            await hub_log.append([asked])

    async def follow(self, hub_log: LmdbLog) -> None:
        """Read the log to its end, and store all of it."""
        keys = data_folder.load_keys(self.folder)
        with closing(
            serve.open_derived(settings_on(self.url), self.folder, keys, hub_log)
        ) as state:
            async with following(hub_log, state) as projectors:
                await projectors.reach(hub_log.head)
                press(state, projectors, hub_log.head)
                await stored(state, hub_log.head)

    async def make(self) -> None:
        """Five entries are in a backup and dropped but for the newest, three came later."""
        with closing(LmdbLog(self.folder / data_folder.LOG)) as hub_log:
            await self.append(hub_log, 5)
            await self.follow(hub_log)
        await self.copied.backup()
        with closing(LmdbLog(self.folder / data_folder.LOG)) as hub_log:
            backup = hub_log.newest_backup
            assert backup is not None
            assert (backup.head, backup.stored) == (5, 5)
            await self.append(hub_log, 3)
            await self.follow(hub_log)
            await hub_log.drop(5)

    def lose_state(self) -> None:
        if self.url is None:
            (self.folder / data_folder.STATE).unlink()
        else:
            self._execute("DROP SCHEMA edgesync_state_1 CASCADE")

    def damage_state(self) -> None:
        if self.url is None:
            path = self.folder / data_folder.STATE
            path.write_bytes(path.read_bytes()[: 3 * 4096])
        else:
            self._execute("DROP TABLE edgesync_state_1.latest")

    def _execute(self, statement: str) -> None:
        assert self.url is not None
        with sa.create_engine(self.url, poolclass=sa.NullPool).begin() as connection:
            connection.exec_driver_sql(statement)


def history(folder: Path, url: sa.URL | None = None) -> tuple[int, list[int]]:
    """Return how many readings the state has, and up to where entries are missing."""
    found = serve.open_derived_beside(settings_on(url), folder)
    assert found is not None
    with closing(found) as state:
        totals = state.read_now(views.totals)
        return totals["barn"].readings, [gap.until for gap in state.read_now(read_gaps)]


@pytest.fixture
async def trimmed(copied: Copied) -> Trimmed:
    made = Trimmed(copied)
    await made.make()
    return made


async def test_a_restored_hub_has_the_history_that_its_log_had_dropped(
    trimmed: Trimmed, postgresql: Server
) -> None:
    """Whichever of the two databases it was in, and whichever it goes into."""
    later = trimmed.target.with_name("later")
    trimmed.copied.target = later
    await trimmed.copied.backup()
    for url in (None, parse_url(postgresql.new_database())):
        restored = trimmed.copied.restored / str(url is None)
        restore(later, restored, url)
        with closing(LmdbLog(restored / data_folder.LOG)) as hub_log:
            assert (hub_log.oldest, hub_log.head) == (6, 8)
            trimmed.folder, trimmed.url, trimmed.epoch = restored, url, 0
            await trimmed.follow(hub_log)
            assert history(restored, url) == (8, [])
            await trimmed.append(hub_log, 2)
            await trimmed.follow(hub_log)
        assert history(restored, url) == (10, [])
        assert (restored / data_folder.STATE).exists() is (url is None)
        trimmed.edge.tail -= 2


async def test_the_state_of_a_backup_is_put_back_alone(trimmed: Trimmed) -> None:
    folder, url = trimmed.folder, trimmed.url
    trimmed.lose_state()
    with closing(LmdbLog(folder / data_folder.LOG)) as hub_log:
        await trimmed.follow(hub_log)
    assert history(folder, url) == (3, [5, 5, 5])
    assert restore_state(trimmed.target, folder, url) == 5
    assert history(folder, url) == (5, [])
    with closing(LmdbLog(folder / data_folder.LOG)) as hub_log:
        await trimmed.follow(hub_log)
    assert history(folder, url) == (8, [])
    assert (folder / f"{data_folder.STATE}.replaced").exists() is (url is None)
    assert (folder / f"{data_folder.STATE}.draft").exists() is False


async def test_a_command_puts_the_state_back(trimmed: Trimmed) -> None:
    config = trimmed.folder / "hub.toml"
    database = text_of(trimmed.url) if trimmed.url else ""
    config.write_text(f'[hub]\ndata_dir = "."\ndatabase = "{database}"\n')
    words = ["--config", str(config), "restore", "--state", str(trimmed.target)]
    found = CliRunner().invoke(hubd_command, words)
    assert (found.exit_code, "that of the backup up to 5" in found.output) == (0, True), found
    assert history(trimmed.folder, trimmed.url) == (5, [])


async def test_the_state_of_before_a_restore_is_of_the_same_log(trimmed: Trimmed) -> None:
    restored, trimmed.url = trimmed.copied.restored, None
    restore(trimmed.target, restored)
    (restored / data_folder.STATE).unlink()
    assert restore_state(trimmed.target, restored) == 5
    with closing(LmdbLog(restored / data_folder.LOG)) as hub_log:
        assert hub_log.generation == next(reversed(hub_log.lives()))
        trimmed.folder = restored
        await trimmed.follow(hub_log)
    assert history(restored) == (5, [])


async def test_a_state_that_does_not_fit_the_log_is_refused(trimmed: Trimmed) -> None:
    folder, url = trimmed.folder, trimmed.url
    state, head = trimmed.target / data_folder.STATE, history(folder, url)
    with closing(sqlite3.connect(state)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersion, match="upgrade edgesync"):
        restore_state(trimmed.target, folder, url)
    with closing(LmdbLog(folder / data_folder.LOG)) as hub_log:
        await hub_log.drop(7)
    with pytest.raises(StateRefused, match=r"up to 5, and this log begins at 8.*newer backup"):
        restore_state(trimmed.target, folder, url)
    shutil.rmtree(folder / data_folder.LOG)
    with closing(LmdbLog(folder / data_folder.LOG)):
        pass
    with pytest.raises(StateRefused, match="another log"):
        restore_state(trimmed.target, folder, url)
    state.write_bytes(b"no database, " * 1000)
    with pytest.raises(StateRefused, match="is no state"):
        restore_state(trimmed.target, folder, url)
    state.unlink()
    with pytest.raises(BackupRefused, match="holds no state"):
        restore_state(trimmed.target, folder, url)
    assert history(folder, url) == head == (8, [])


async def test_a_state_of_a_newer_version_is_refused_before_anything_is_put(
    trimmed: Trimmed,
) -> None:
    with closing(sqlite3.connect(trimmed.target / data_folder.STATE)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = '9999'")
    with pytest.raises(StoreVersion, match="upgrade edgesync"):
        restore(trimmed.target, trimmed.copied.restored)
    assert not (trimmed.copied.restored / FILE).exists()
    assert not (trimmed.copied.restored / data_folder.LOG).exists()


async def test_a_state_that_is_damaged_permits_no_dropping(trimmed: Trimmed) -> None:
    trimmed.damage_state()
    trimmed.copied.target = trimmed.target.with_name("later")
    await trimmed.copied.backup()
    assert not (trimmed.copied.target / data_folder.STATE).exists()
    with closing(LmdbLog(trimmed.folder / data_folder.LOG)) as hub_log:
        assert hub_log.newest_backup is not None
        assert (hub_log.newest_backup.head, hub_log.newest_backup.stored) == (8, 0)
