"""What a backup consists of: each file with its size and checksum, and which version made it.

It is written last, and read first: without it a backup was not finished.
"""

import hashlib
import os
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Final

import msgspec

from edgesync.store.directory import LOCK, OWNER, replace_file, sync_directory
from hubd.errors import HubError

MANIFEST: Final = "backup.json"
# Is there as long as a backup is being made.
UNFINISHED: Final = "backup.unfinished"
FORMAT: Final = 1
CHUNK_BYTES: Final = 1 << 20


class BackupRefused(HubError):
    """Nothing was copied; the sentence names the remedy."""


class FileFact(msgspec.Struct, frozen=True):
    bytes: int
    sha256: str


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """`files` by their path below the backup's folder; `edgesync` is the version that made it."""

    format: int
    edgesync: str
    made_at_ns: int
    head: int
    files: dict[str, FileFact]


class _Format(msgspec.Struct, frozen=True):
    """What is read of a manifest of any format."""

    format: int
    edgesync: str = "of an unknown version"


def file_facts(folder: Path) -> dict[str, FileFact]:
    """Read back all files below `folder`, once they are on the disk."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    found = {
        str(path.relative_to(folder)): _fact_of(path)
        for path in paths
        if path.name not in (UNFINISHED, MANIFEST)
    }
    for path in {path.parent for path in paths}:
        sync_directory(path)
    return found


def _fact_of(path: Path) -> FileFact:
    digest, nbytes = hashlib.sha256(), 0
    with path.open("rb", buffering=0) as file:
        os.fsync(file.fileno())
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
            nbytes += len(chunk)
    return FileFact(nbytes, digest.hexdigest())


def begin(folder: Path) -> None:
    (folder / UNFINISHED).touch(mode=0o600)


def finish(folder: Path, manifest: Manifest) -> None:
    """Say that the backup is whole, durably."""
    text = msgspec.json.format(msgspec.json.encode(manifest)) + b"\n"
    replace_file(folder / MANIFEST, text)
    (folder / UNFINISHED).unlink()
    sync_directory(folder)


def check(folder: Path, pieces: Iterable[str] = ()) -> Manifest | None:
    """Return the manifest of a backup that is as it was made; None for one of before manifests.

    pieces   files and folders that hold nothing else, should they be there

    Raises BackupRefused for what is not whole, has changed, or was made by a newer version.
    """
    if (folder / UNFINISHED).exists():
        raise BackupRefused(f"{folder}: this backup was not finished; take another one")
    try:
        text = (folder / MANIFEST).read_bytes()
    except FileNotFoundError:
        return None
    try:
        made_by = msgspec.json.decode(text, type=_Format)
        if made_by.format > FORMAT:
            raise BackupRefused(
                f"{folder} was made by edgesync {made_by.edgesync} in format {made_by.format}, "
                f"this one knows up to {FORMAT}; upgrade edgesync"
            )
        manifest = msgspec.json.decode(text, type=Manifest)
    except msgspec.DecodeError as error:
        raise BackupRefused(f"{folder / MANIFEST} is damaged: {error}") from error
    _check_files(folder, manifest.files.items())
    _check_others(folder, pieces, manifest.files)
    return manifest


def _check_files(folder: Path, files: Iterable[tuple[str, FileFact]]) -> None:
    for name, fact in files:
        path = folder / name
        if not path.resolve().is_relative_to(folder.resolve()):
            raise BackupRefused(f"{folder / MANIFEST} names {name}, which is outside of it")
        try:
            found = _fact_of(path)
        except FileNotFoundError:
            raise BackupRefused(f"{path} is missing; take another backup") from None
        except OSError as error:
            raise BackupRefused(f"{path} cannot be read: {error}") from error
        if found != fact:
            raise BackupRefused(
                f"{path} is not what was backed up ({found.bytes} bytes, {fact.bytes} then); "
                "take another backup"
            )


def _check_others(folder: Path, pieces: Iterable[str], files: Container[str]) -> None:
    """Raise BackupRefused for what came from elsewhere: two backups copied into one folder, say."""
    for piece in pieces:
        for path in (folder / piece, *(folder / piece).rglob("*")):
            is_own = str(path.relative_to(folder)) in files or path.name in (LOCK, OWNER)
            if path.is_symlink() or (path.is_file() and not is_own):
                raise BackupRefused(f"{path} is not of this backup; move it aside")
