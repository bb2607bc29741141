"""Copies of a hub: `backup` beside a running one or of one that stands still, and `restore`.

A copy holds the log, the keys of each tenant, owned and derived state, the contents of objects, the
hub's own key pair and hub.toml, and a manifest of them. Derived state is in it because it can be
made again only from what the log still has. State and keys are copied before the log, they must not
know more than it; owned state after it, for it must know whose all its edges are. Nothing may be
dropped from the log meanwhile. Objects follow the owned state that names them. Whichever databases
a hub has, copies of it are alike.
"""

import contextlib
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
import trio

from edgesync import __version__
from edgesync.store.directory import LOCK, OWNER, sync_directory
from hubd import data_folder, serve
from hubd import manifest as manifests
from hubd.cells.keyspaces import CELLS, OTHERS, cells_path
from hubd.db.engine import shown
from hubd.hold import DatabaseHold, holding_folder
from hubd.log.lmdb import LmdbLog
from hubd.manifest import BackupRefused, Manifest
from hubd.objects.store import FOLDER as OBJECTS
from hubd.owned import Owned, open_owned, tables
from hubd.owned.database import FILE, translated
from hubd.owned.dump import load_dump, rows_in, write_dump
from hubd.project.projectors import VIEWS
from hubd.registry.known import forget_identity
from hubd.state.copies import adopt, forget_wal, load_copy, put_back

OWNED, SETTINGS = "owned.jsonl", "hub.toml"
# What a look into a copy leaves behind in it.
OF_READERS: Final = shutil.ignore_patterns(LOCK, OWNER)
# What `restore` puts into a data folder; the log last: without it nothing has been restored.
PIECES: Final = (data_folder.STATE, CELLS, OTHERS, OBJECTS, data_folder.LOG)


class Source(msgspec.Struct, frozen=True, kw_only=True):
    """A hub to be copied.

    copy_keys   by tenant: what writes the store of its keys into a folder
    copy_state  what writes derived state into a file, and returns up to where that has the log
    settings    the text of hub.toml
    """

    folder: Path
    hub_log: LmdbLog
    copy_keys: Mapping[str, Callable[[str], None]]
    owned: Owned
    copy_state: Callable[[Path], int]
    settings: str


async def backup(hub: Source, target: Path) -> None:
    """Copy a hub into `target`, a folder of its own; raises BackupRefused.

    Appends go on meanwhile. Once the copy is on the disk, edges may forget what it holds (I3). An
    error leaves it unfinished, which `restore` refuses.
    """
    stored = await trio.to_thread.run_sync(_begin, hub, target)

    async def finish() -> None:
        await trio.to_thread.run_sync(_finish, hub, target)

    await hub.hub_log.backup(target / data_folder.LOG, stored=stored, before_safe=finish)


def stored_in(hub_log: LmdbLog) -> int:
    """Return up to where the state in the newest backup has the log, 0 if there is none in it."""
    return hub_log.newest_backup.stored if hub_log.newest_backup else 0


def _begin(hub: Source, target: Path) -> int:
    """Copy what comes before the log; returns up to where the state has that in the copy."""
    if target.exists() and any(target.iterdir()):
        raise BackupRefused(f"{target} is not empty; name a folder of its own for each backup")
    target.mkdir(parents=True, exist_ok=True, mode=0o700)
    manifests.begin(target)
    for tenant, copy in hub.copy_keys.items():
        path = cells_path(target, tenant)
        path.mkdir(parents=True, mode=0o700)
        copy(str(path))
    if (hub.folder / data_folder.KEYS).exists():
        shutil.copy2(hub.folder / data_folder.KEYS, target / data_folder.KEYS)
    with open(os.open(target / SETTINGS, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(hub.settings)
    return hub.copy_state(target / data_folder.STATE)


def _finish(hub: Source, target: Path) -> None:
    write_dump(hub.owned, target / OWNED)
    _copy_objects(hub, target)
    with contextlib.closing(LmdbLog(target / data_folder.LOG, readonly=True)) as copied:
        head = copied.head
    (target / data_folder.LOG / LOCK).unlink(missing_ok=True)  # of that reader alone
    manifest = Manifest(
        format=manifests.FORMAT,
        edgesync=__version__,
        made_at_ns=time.time_ns(),
        head=head,
        files=manifests.file_facts(target),
    )
    manifests.finish(target, manifest)


def _copy_objects(hub: Source, target: Path) -> None:
    """Copy what the objects of the dump consist of; raises BackupRefused for one that is gone."""
    here, there = hub.folder / OBJECTS, target / OBJECTS
    for one in rows_in(target / OWNED, tables.object_):
        name = one["sha256"]
        if (there / name).exists():
            continue
        there.mkdir(exist_ok=True, mode=0o700)
        try:
            shutil.copy2(here / name, there / name)
        except FileNotFoundError:
            raise BackupRefused(
                f"the contents of the object {one['name']} of {one['tenant']} are not there; "
                "`hubd object put` it again, or remove it, and back up again"
            ) from None


def check(source: Path) -> Manifest | None:
    """Return the manifest of a backup that can be restored, None for one of an earlier version.

    Raises BackupRefused.
    """
    manifest = manifests.check(source, (*PIECES, data_folder.KEYS, OWNED))
    if not (source / data_folder.LOG).is_dir():
        raise BackupRefused(
            f"{source} holds no backup of a hub: it has no folder {data_folder.LOG}"
        )
    if manifest is None and (source / OWNED).exists():  # both came with the same version
        raise BackupRefused(
            f"{source} lacks {manifests.MANIFEST}: it is part of a backup; copy all of it again"
        )
    return manifest


def restore(
    source: Path,
    folder: Path,
    url: sa.URL | None = None,
    *,
    manifest: Manifest | None = None,
    keeps_owned: bool = False,
) -> int:
    """Put a backup that was checked into an empty data folder, and its tables into a database.

    url           of that database; None: in the folder
    manifest      of the backup, with which its copy is compared
    keeps_owned   what is in that database stays: it is newer than the backup

    Returns the log's head. Raises BackupRefused, DumpRefused, HubHeld, OwnedUnusable,
    DatabaseTaken, and StoreVersion for a state of a newer version.
    """
    names = [name for name in PIECES if (source / name).exists()]
    files = [name for name in names if url is None or name != data_folder.STATE]
    draft = folder / data_folder.RESTORE_DRAFT
    # Contents are called what they are: those of the backup join what is there.
    alone = [name for name in files if name != OBJECTS]
    # The log would have been put there last, so beside one nothing is of a restore that was killed.
    in_the_way = {data_folder.LOG} if draft.exists() else {*alone, data_folder.LOG}
    for name in in_the_way:
        if (folder / name).exists():
            raise BackupRefused(f"{folder / name} exists; move it aside first")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    with holding_folder(folder), contextlib.closing(DatabaseHold(url)) as hold:
        hold.take()
        _make_room(folder, alone)
        head = _draft(source, draft, names, manifest)
        if not keeps_owned:
            _restore_owned(source, folder, url)
        forget_identity(folder)
        if (draft / data_folder.KEYS).exists():
            _put_keys(draft / data_folder.KEYS, folder / data_folder.KEYS)
        if data_folder.STATE in files:
            forget_wal(folder / data_folder.STATE)
        elif data_folder.STATE in names and url is not None:
            _load_state(draft, folder, url)
        if OBJECTS in files:
            _put_objects(draft / OBJECTS, folder / OBJECTS)
        for name in alone:
            (draft / name).replace(folder / name)
        draft.rmdir()
        sync_directory(folder)
        return head


def _draft(source: Path, draft: Path, names: Sequence[str], manifest: Manifest | None) -> int:
    """Make what is to be put into the data folder, on the disk; returns the log's head."""
    draft.mkdir(mode=0o700)
    for name in (*names, data_folder.KEYS):
        if (source / name).is_dir():
            shutil.copytree(source / name, draft / name, ignore=OF_READERS)
        elif (source / name).exists():
            shutil.copy2(source / name, draft / name)
    for name, fact in manifests.file_facts(draft).items():
        if manifest is not None and manifest.files.get(name) != fact:
            raise BackupRefused(f"{draft / name} is not what was backed up; is the disk sound?")
    with contextlib.closing(LmdbLog(draft / data_folder.LOG)) as hub_log:
        hub_log.renew_generation()
        if data_folder.STATE in names:
            adopt(draft / data_folder.STATE, hub_log.generation)
        return hub_log.head


def _load_state(draft: Path, folder: Path, url: sa.URL) -> None:
    with contextlib.closing(LmdbLog(draft / data_folder.LOG, readonly=True)) as hub_log:
        generation = hub_log.generation
    hub = serve.hub_of(folder, data_folder.load_keys(folder))
    with translated(shown(url)):
        load_copy(draft / data_folder.STATE, url, hub, generation)
    (draft / data_folder.STATE).unlink()


def restore_state(source: Path, folder: Path, url: sa.URL | None = None) -> int:
    """Put the state of a backup that was checked in the place of the hub's own.

    url   of the database where that is; None: in the folder

    Returns up to where it has the log. Raises BackupRefused, StateRefused, HubHeld, StoreVersion
    and OwnedUnusable.
    """
    if not (source / data_folder.STATE).exists():
        raise BackupRefused(f"{source} holds no state; take a backup that has {data_folder.STATE}")
    if not (folder / data_folder.LOG).exists():
        raise BackupRefused(f"there is no hub in {folder}; restore all of it, without --state")
    into = None if url is None else (url, serve.hub_of(folder, data_folder.load_keys(folder)))
    with holding_folder(folder), translated(shown(url) if url is not None else data_folder.STATE):
        with contextlib.closing(LmdbLog(folder / data_folder.LOG, readonly=True)) as hub_log:
            lives, oldest = hub_log.lives(), hub_log.oldest
        stored = put_back(
            source / data_folder.STATE, folder / data_folder.STATE, lives, oldest, VIEWS, into=into
        )
        sync_directory(folder)
    return stored


def restore_registry(source: Path, folder: Path, url: sa.URL | None = None) -> None:
    """Put the registry of a backup that was checked into an empty database of the hub in `folder`.

    Raises BackupRefused, DumpRefused, HubHeld and OwnedUnusable.
    """
    with holding_folder(folder), contextlib.closing(DatabaseHold(url)) as hold:
        hold.take()
        if not _restore_owned(source, folder, url):
            raise BackupRefused(f"{source} holds no registry; take a backup that has {OWNED}")
        forget_identity(folder)


def _make_room(folder: Path, names: Sequence[str]) -> None:
    """Remove what a restore that was killed has left: no hub starts beside its draft."""
    draft = folder / data_folder.RESTORE_DRAFT
    if not draft.exists():
        return
    for name in names:
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        else:
            (folder / name).unlink(missing_ok=True)
    shutil.rmtree(draft)


def _put_keys(source: Path, target: Path) -> None:
    """Put the key pair in the place of one that `hubd init` made, and gateways may know by now."""
    if target.exists() and target.read_bytes() != source.read_bytes():
        target.replace(target.with_name(f"{target.name}.replaced"))
    source.replace(target)


def _put_objects(source: Path, target: Path) -> None:
    target.mkdir(exist_ok=True, mode=0o700)
    for path in source.iterdir():
        path.replace(target / path.name)
    sync_directory(target)
    source.rmdir()


def _restore_owned(source: Path, folder: Path, url: sa.URL | None) -> bool:
    """Put owned state into an empty database; return whether the backup has any."""
    with contextlib.ExitStack() as stack:
        dump = source / OWNED
        if not dump.exists():
            if not (source / FILE).exists():
                return False
            dump = _dump_of_file(source / FILE, stack)
        owned = stack.enter_context(contextlib.closing(open_owned(folder, url)))
        load_dump(owned, dump)
        return True


def _dump_of_file(registry: Path, stack: contextlib.ExitStack) -> Path:
    """Return a dump of the database that backups of earlier versions hold."""
    scratch = Path(stack.enter_context(tempfile.TemporaryDirectory()))
    shutil.copy2(registry, scratch / FILE)
    with contextlib.closing(open_owned(scratch)) as owned:
        write_dump(owned, scratch / OWNED)
    return scratch / OWNED
