"""Copies of a state in a file: for a backup, and taken into use again.

A state that was copied goes on wherever the log still has what comes after it.
"""

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from hubd.errors import HubError

log = logging.getLogger(__name__)

ASIDE: Final = ".replaced"
DRAFT: Final = ".draft"
WAL: Final = ("-wal", "-shm")


class StateRefused(HubError):
    """The state in use is as it was; the sentence names the remedy."""


class Extent(msgspec.Struct, frozen=True):
    """Which log a state was made of: `stored` is what all its views have, `newest` what one has."""

    generation: bytes
    stored: int
    newest: int


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path)) as database:
        yield database


def extent_of(path: Path, views: Sequence[str]) -> Extent:
    """Return how far the state in `path` has come; raises sqlite3.Error."""
    with _opened(path) as database:
        row = database.execute("SELECT value FROM meta WHERE name = 'generation'").fetchone()
        cursors = dict(database.execute("SELECT name, position FROM projector_cursor"))
        edges = database.execute("SELECT max(position) FROM stored").fetchone()[0] or 0
    newest = max([edges, *cursors.values()])
    return Extent(row[0] if row else b"", min(cursors.get(view, 0) for view in views), newest)


def copy_state(source: Path, target: Path, generation: bytes, views: Sequence[str]) -> int:
    """Copy a state that may be in use; returns up to where the copy has the log, 0 for no copy.

    The copy is as the state was at one moment, and every page of it has been looked at. One that
    is damaged or of another log than `generation` is none.
    """
    if not source.exists():
        return 0
    extent: Extent | None
    try:
        with _opened(source) as database, _opened(target) as copy:
            database.backup(copy)
            copy.execute("PRAGMA journal_mode = DELETE")  # a file by itself
            problem = str(copy.execute("PRAGMA quick_check(1)").fetchone()[0])
        extent = extent_of(target, views)
    except sqlite3.DatabaseError as error:
        extent, problem = None, str(error)
    if extent is not None and problem == "ok":
        if extent.generation == generation:
            target.chmod(0o600)
            return extent.stored
        problem = "it was made from another log"
    log.error("%s is not in the backup: %s", source, problem)
    target.unlink(missing_ok=True)
    return 0


def adopt(path: Path, generation: bytes) -> None:
    """Say that the state in `path` is of a log that goes on under another generation."""
    with _opened(path) as database, database:
        database.execute("UPDATE meta SET value = ? WHERE name = 'generation'", (generation,))


def put_back(
    source: Path, path: Path, lives: dict[bytes, int], oldest: int, views: Sequence[str]
) -> int:
    """Put a copy in the place of the state in `path`, which is kept beside; raises StateRefused.

    lives    the generations of the log, and up to where it went in each; the present one last
    oldest   its oldest entry

    Returns up to where the copy has the log.
    """
    try:
        extent = extent_of(source, views)
    except sqlite3.Error as error:
        raise StateRefused(f"{source} is no state of a hub: {error}") from error
    if extent.newest > lives.get(extent.generation, -1):
        raise StateRefused(f"{source} was made from another log than this hub's")
    if extent.stored + 1 < oldest:
        raise StateRefused(
            f"{source} has the log up to {extent.stored}, and this log begins at {oldest}: what "
            "lies between would be missing; take a newer backup"
        )
    draft = path.with_name(f"{path.name}{DRAFT}")
    shutil.copy2(source, draft)
    adopt(draft, next(reversed(lives)))
    with draft.open("rb") as file:
        os.fsync(file.fileno())
    if path.exists():
        path.replace(path.with_name(f"{path.name}{ASIDE}"))
    forget_wal(path)
    draft.replace(path)
    return extent.stored


def forget_wal(path: Path) -> None:
    """Remove what a state that was in `path` left behind: it would be read as the next one's."""
    for suffix in WAL:
        path.with_name(f"{path.name}{suffix}").unlink(missing_ok=True)
