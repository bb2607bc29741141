"""Copies of a hub: `backup` beside a running one or of one that stands still, and `restore`.

A copy holds the log, the keys, the registry and the hub's own key pair. The SQL state is made again
from the log. The keys are copied first: they must not know more than the log beside them.
"""

import contextlib
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path

import trio

from hubd import serve
from hubd.cells.keyspaces import CELLS, OTHERS, cells_path
from hubd.errors import HubError
from hubd.log.lmdb import LmdbLog
from hubd.owned.database import FILE


class BackupRefused(HubError):
    """Nothing was copied; the sentence names the remedy."""


async def backup(
    hub_log: LmdbLog, copy_keys: Mapping[str, Callable[[str], None]], folder: Path, target: Path
) -> None:
    """Copy the hub in `folder` into `target`, which must not hold one; raises BackupRefused.

    copy_keys  by tenant: what writes the store of its keys into a folder

    Appends go on meanwhile. Afterwards edges may forget what the copy holds (I3).
    """
    await trio.to_thread.run_sync(_copy_files, copy_keys, folder, target)
    await hub_log.backup(target / serve.LOG)
    # Again: the log may have edges that came meanwhile, and whose they are must stand beside it.
    await trio.to_thread.run_sync(_copy_registry, folder, target)


def _copy_files(copy_keys: Mapping[str, Callable[[str], None]], folder: Path, target: Path) -> None:
    if target.exists() and any(target.iterdir()):
        raise BackupRefused(f"{target} is not empty; name a folder of its own for each backup")
    (target / serve.LOG).mkdir(parents=True, mode=0o700)
    for tenant, copy in copy_keys.items():
        path = cells_path(target, tenant)
        path.mkdir(parents=True, mode=0o700)
        copy(str(path))
    _copy_registry(folder, target)
    if (folder / serve.KEYS).exists():
        shutil.copy2(folder / serve.KEYS, target / serve.KEYS)


def _copy_registry(folder: Path, target: Path) -> None:
    """Copy a database that others may be writing to."""
    if not (folder / FILE).exists():
        return
    with (
        contextlib.closing(sqlite3.connect(folder / FILE)) as database,
        contextlib.closing(sqlite3.connect(target / FILE)) as copy,
    ):
        database.backup(copy)
    (target / FILE).chmod(0o600)


def restore(source: Path, folder: Path) -> int:
    """Put a backup into an empty data folder; returns the log's head. Raises BackupRefused."""
    if (folder / serve.LOG).exists():
        raise BackupRefused(f"{folder / serve.LOG} exists; move it aside first")
    if not (source / serve.LOG).is_dir():
        raise BackupRefused(f"{source} holds no backup of a hub: it has no folder {serve.LOG}")
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    for name in (serve.KEYS, FILE):
        if (source / name).exists():
            shutil.copy2(source / name, folder / name)
    for name in (serve.LOG, CELLS, OTHERS):
        if (source / name).exists():
            shutil.copytree(source / name, folder / name)
    with contextlib.closing(LmdbLog(folder / serve.LOG)) as hub_log:
        hub_log.renew_generation()
        return hub_log.head
