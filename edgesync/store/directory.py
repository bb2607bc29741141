"""The directory of a store: who may open it, and whether its file can be mapped at all.

Everything here happens before LMDB opens the file. LMDB trusts what it maps: a file shorter than
its own header claims ends the process with SIGBUS, so the size is compared first. And a store
appears under its name only when it is complete: a power cut during the first start leaves none.

    data.mdb   the store       lock.mdb   LMDB's reader table       owner   flock and pid
    wal        changes of keys that the store has not got yet (native/wal.pyx)
"""

import contextlib
import errno
import fcntl
import os
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from edgesync.errors import StoreCorrupt, StoreLocked, StoreUnwritable, StoreVersion

DATA: Final = "data.mdb"
LOCK: Final = "lock.mdb"
LOCK_BYTES: Final = 8192  # what LMDB takes for its 126 readers
OWNER: Final = "owner"
NEWBORN: Final = "new"
WAL: Final = "wal"

# LMDB needs one coherent page cache and working locks for all who map the file.
REMOTE_FILESYSTEMS: Final = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "fuse.sshfs", "fuse.glusterfs"}
)

# Of a meta page, after the 16-byte page header: magic, version, address, map size, the free list's
# description (which begins with the page size), the main database's, last page, transaction.
META: Final = struct.Struct("<II8xQI92xQQ")
META_AT: Final = 16
META_AT_32: Final = 12  # where 32-bit machines have it
MAGIC: Final = 0xBEEFC0DE
LMDB_FORMAT: Final = 1
PAGE_SIZES: Final = frozenset(1 << bits for bits in range(9, 17))


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn what the operating system refuses into the remedy-shaped error."""
    try:
        yield
    except OSError as error:
        problem = os.strerror(error.errno) if error.errno else str(error)
        raise StoreUnwritable(path=str(path), problem=problem) from error


def sync_directory(path: Path) -> None:
    """Make names in `path` durable: a new or renamed file is not, until its directory is."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def sync_file(path: Path) -> None:
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def replace_file(path: Path, data: bytes) -> os.stat_result:
    """Let `path` hold `data`, for its owner alone: the old or the new, whole (OSError).

    Returns the status of that very file, whoever replaces it again meanwhile.
    """
    draft = path.with_name(f"{path.name}.draft")
    with open(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb") as out:
        out.write(data)
        out.flush()
        os.fsync(out.fileno())
        written = os.fstat(out.fileno())
    draft.replace(path)
    sync_directory(path.parent)
    return written


def replace_by(path: Path, draft: Path) -> None:
    """Let `path` be the file `draft`, also after a power cut: the old or the new, whole."""
    sync_file(draft)
    draft.replace(path)
    sync_directory(path.parent)


def filesystem_of(path: Path) -> str:
    """Name of the file system that holds `path`; "" when it is not told."""
    device = path.stat().st_dev
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError), open("/proc/self/mountinfo", encoding="utf-8") as mounts:
        for line in mounts:
            fields = line.split()
            if fields[2] == wanted:
                return fields[fields.index("-") + 1]
    return ""


def free_bytes(path: Path) -> int:
    """Bytes an unprivileged process may still write there; very many when it is not told."""
    try:
        status = os.statvfs(path)
    except OSError:
        return 1 << 62
    return status.f_bavail * status.f_frsize


def own(path: Path) -> int:
    """Make the directory if there is none and take it for this process; returns the lock's fd.

    Raises StoreLocked with the pid of the owner. The lock goes with the process, however it dies.
    """
    with explained(path):
        if not path.exists():
            path.mkdir(parents=True)
            sync_directory(path.parent)
        kind = filesystem_of(path)
        if kind in REMOTE_FILESYSTEMS:
            raise StoreUnwritable(path=str(path), problem=f"{kind} is not a local file system")
        fd = os.open(path / OWNER, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        text = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
        os.close(fd)
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise StoreUnwritable(path=str(path), problem=os.strerror(error.errno or 0)) from error
        pid = int(text) if text.isdigit() else None
        raise StoreLocked(path=str(path), pid=pid) from None
    # The pid is only for the message above: a full disk must not keep a store from opening, and
    # with it from being emptied.
    with contextlib.suppress(OSError):
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
    return fd


def is_there(path: Path) -> bool:
    """True if a store stands in `path`, False if one may be made there.

    Raises StoreCorrupt where one was and is gone: an empty store would pass for a new one.
    """
    with explained(path):
        if (path / DATA).exists():
            return True
        if (path / LOCK).exists():
            raise StoreCorrupt(path=str(path), problem=f"{DATA} is missing beside its lock file")
        return False


def newborn(path: Path) -> Path:
    """Return an empty directory inside `path` to make a new store in."""
    child = path / NEWBORN
    with explained(path):
        if child.exists():
            shutil.rmtree(child)  # of a first start that did not end
        child.mkdir()
    return child


def publish(path: Path) -> None:
    """Move a complete, closed and synced new store to its name."""
    child = path / NEWBORN
    with explained(path):
        sync_file(child / DATA)
        (child / DATA).rename(path / DATA)
        shutil.rmtree(child)
        sync_directory(path)


def allocate_lock(path: str) -> None:
    """Give LMDB's lock file its blocks; raises StoreUnwritable when the disk has none.

    LMDB maps it: where the disk is full the first write to it would end the process (SIGBUS).
    """
    with explained(Path(path).parent), open(path, "ab") as file:
        os.posix_fallocate(file.fileno(), 0, LOCK_BYTES)


def make_wal(path: Path, nbytes: int, *, is_needed: bool = True) -> None:
    """Make the write-ahead log of the store in `path`, in its full size, if there is none.

    is_needed   one of another size stays: it has changes that the store has not

    Zeros, not a hole: a sync of what replaces them writes nothing but the data.
    """
    wal = path / WAL
    with explained(path):
        if wal.exists() and (is_needed or wal.stat().st_size == nbytes):
            return
        unfinished = path / f"{WAL}.new"
        try:
            unfinished.write_bytes(bytes(nbytes))
            sync_file(unfinished)
            unfinished.rename(wal)
        except OSError:
            unfinished.unlink(missing_ok=True)
            if wal.exists():
                return  # it will do
            raise
        sync_directory(path)


def check_file(path: Path) -> None:
    """Refuse a file that could not be mapped safely; raises StoreCorrupt, StoreVersion."""
    with explained(path), open(path / DATA, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        first = _meta(path, file.read(META_AT + META.size))
        page_bytes = first[3]
        if page_bytes not in PAGE_SIZES:
            raise StoreCorrupt(path=str(path), problem=f"a page size of {page_bytes} bytes")
        file.seek(page_bytes)
        second = _meta(path, file.read(META_AT + META.size))
    newest = max(first, second, key=lambda meta: meta[5])
    claimed = (newest[4] + 1) * page_bytes
    if size < claimed:
        problem = f"{DATA} is cut short: {size} bytes where its header says {claimed}"
        raise StoreCorrupt(path=str(path), problem=problem)


def _meta(path: Path, page: bytes) -> tuple[int, int, int, int, int, int]:
    """Decode (magic, version, map bytes, page bytes, last page, transaction)."""
    if len(page) < META_AT + META.size:
        raise StoreCorrupt(path=str(path), problem=f"{DATA} is cut short within its header")
    magic, version, map_bytes, page_bytes, last, txn = META.unpack_from(page, META_AT)
    if magic != MAGIC and page[META_AT_32 : META_AT_32 + 4] == MAGIC.to_bytes(4, "little"):
        raise StoreCorrupt(
            path=str(path),
            problem=f"{DATA} was written by a 32-bit machine, whose file format is another one",
        )
    if magic != MAGIC:
        raise StoreCorrupt(path=str(path), problem=f"{DATA} has no LMDB header")
    if version != LMDB_FORMAT:
        raise StoreVersion(path=str(path), found=version, known=LMDB_FORMAT)
    return magic, version, map_bytes, page_bytes, last, txn


def mapped_at(path: Path) -> int:
    """Address at which this process maps the store's file; 0 where the kernel does not tell."""
    status = (path / DATA).stat()
    device = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}"
    with contextlib.suppress(OSError), open("/proc/self/maps", encoding="utf-8") as maps:
        for line in maps:
            fields = line.split(maxsplit=5)
            if fields[3] == device and fields[4] == str(status.st_ino):
                return int(fields[0].partition("-")[0], 16)
    return 0
