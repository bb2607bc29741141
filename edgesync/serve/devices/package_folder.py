"""Packages of firmware and software for devices, read by chunks from a folder.

    FOLDER/TITLE/VERSION        the file

A chunk is told only of a file that had the checksum of the device's attributes when it was read
whole, and that nobody has touched since: parts of two files never meet in a device.
"""

import hashlib
import os
import stat
import threading
from pathlib import Path
from typing import Final

import trio

from edgesync.serve.devices.package import NoPackage, Package

# Of one answer, which is in memory until the device has taken it.
CHUNK_BYTES_MAX: Final = 1 << 20
FILES_KNOWN_MAX: Final = 100
READERS: Final = 4


class PackageFolder:
    """The packages in a folder, which may not be there yet."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        # Checksums by file and algorithm, those that no device's attributes name, too: a mistake
        # there must not have the file read anew with each request.
        self._known: dict[tuple[Path, str], tuple[object, str]] = {}
        self._checking = threading.Lock()
        self._readers = trio.CapacityLimiter(READERS)

    async def chunk(self, package: Package, number: int, size: int) -> bytes:
        """Return bytes of a package from `number * size` on; all of it if `size` is 0.

        Raises NoPackage.
        """
        return await trio.to_thread.run_sync(
            self._chunk, package, number, size, limiter=self._readers
        )

    def _chunk(self, package: Package, number: int, size: int) -> bytes:
        path = self._path(package)
        try:
            # A pipe would be waited for, and is no regular file.
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        except OSError as error:
            raise NoPackage(f"{_said(package)}: {error.strerror}") from error
        try:
            return self._read(descriptor, path, package, number, size)
        except OSError as error:
            raise NoPackage(f"{_said(package)}: {error.strerror}") from error
        finally:
            os.close(descriptor)

    def _path(self, package: Package) -> Path:
        for name, text in (("title", package.title), ("version", package.version)):
            if text in ("", ".", "..") or "/" in text:
                raise NoPackage(f"{package.kind}_{name} is no name of a file: {text[:40]!r}")
        return self._folder / package.title / package.version

    def _read(self, descriptor: int, path: Path, package: Package, number: int, size: int) -> bytes:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode):
            raise NoPackage(f"{_said(package)}: is no file")
        if package.size is not None and package.size != found.st_size:
            raise NoPackage(
                f"{_said(package)}: has {found.st_size} bytes, and {package.kind}_size says "
                f"{package.size}"
            )
        size = size or found.st_size
        if min(size, found.st_size) > CHUNK_BYTES_MAX:
            raise NoPackage(
                f"{_said(package)}: has {found.st_size} bytes; ask for chunks of at most "
                f"{CHUNK_BYTES_MAX}"
            )
        if number and number * size >= found.st_size:
            raise NoPackage(f"{_said(package)}: has {found.st_size} bytes, and no chunk {number}")
        identity = _identity(found)
        checksum = self._checksum(descriptor, path, package.algorithm)
        if checksum != package.checksum:
            raise NoPackage(
                f"{_said(package)}: its {package.algorithm} is {checksum}, and not "
                f"{package.kind}_checksum"
            )
        data = os.pread(descriptor, size, number * size)
        if _identity(os.fstat(descriptor)) != identity:
            raise NoPackage(f"{_said(package)}: is being replaced; ask again")
        return data

    def _checksum(self, descriptor: int, path: Path, algorithm: str) -> str:
        """Return the checksum of a file as it is now, computed once for as long as it is that."""
        key, identity = (path, algorithm), _identity(os.fstat(descriptor))
        if (known := self._known.get(key)) is not None and known[0] == identity:
            return known[1]
        with self._checking:  # whoever asks meanwhile
            if (known := self._known.get(key)) is not None and known[0] == identity:
                return known[1]
            with open(descriptor, "rb", closefd=False) as file:
                checksum = hashlib.file_digest(file, algorithm).hexdigest()
            if _identity(os.fstat(descriptor)) == identity:
                self._known.pop(key, None)
                self._known[key] = identity, checksum
                if len(self._known) > FILES_KNOWN_MAX:
                    del self._known[next(iter(self._known))]
        return checksum


def _identity(found: os.stat_result) -> object:
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _said(package: Package) -> str:
    return f"{package.title[:60]} {package.version[:60]}"
