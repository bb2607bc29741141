"""Objects of an edge on its disk: contents named by their SHA-256, a draft of one, and an index.

    index.json     which name is which contents, and the hub's listing
    <sha256>       contents, whole: they were compared with their name before they got it
    <sha256>.part  what there is of the object under way; how long it is, is where it goes on

A power cut may leave a draft that is wrong; the comparison finds that, and it begins anew.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import msgspec

from edgesync.objects.model import Listing, ObjectRef
from edgesync.store.directory import free_bytes, replace_file, sync_directory, sync_file

FOLDER: Final = "objects"
INDEX: Final = "index.json"
PART: Final = ".part"
OURS: Final = re.compile(r"[0-9a-f]{64}(\.part)?|index\.json\.draft")
CHUNK_BYTES: Final = 256 * 1024


class Index(msgspec.Struct, frozen=True):
    listing: Listing = Listing()
    held: tuple[ObjectRef, ...] = ()


class ObjectFiles:
    """See the module. Methods raise OSError; none is called by two threads at once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def path(self, sha256: str) -> Path:
        return self.folder / sha256

    def load(self) -> Index:
        """Return what the index says, without objects whose contents are not there.

        One that cannot be read is that of an edge that has nothing: what is assigned comes again.
        """
        try:
            found = msgspec.json.decode((self.folder / INDEX).read_bytes(), type=Index)
        except (FileNotFoundError, msgspec.DecodeError):
            return Index()
        held = tuple(ref for ref in found.held if self._size(self.path(ref.sha256)) == ref.size)
        return Index(found.listing, held)

    def save(self, index: Index) -> None:
        """Store the index, durably."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        replace_file(self.folder / INDEX, msgspec.json.encode(index))

    def drafts(self) -> dict[str, int]:
        """Return how many bytes there are of each draft, by SHA-256."""
        if not self.folder.exists():
            return {}
        return {path.stem: self._size(path) for path in self.folder.glob(f"*{PART}")}

    def tidy(self, held: Mapping[str, ObjectRef], draft: str) -> None:
        """Remove contents and drafts that are neither held nor under way.

        What else is there is somebody else's, as lost+found on a disk of its own. Contents that
        were renamed, and that the index does not know yet, are the draft again: they are compared
        once more.
        """
        if not self.folder.exists():
            return
        contents = {ref.sha256 for ref in held.values()}
        for path in self.folder.iterdir():
            if path.name == draft and draft not in contents:
                path.replace(self._draft(draft))
            elif OURS.fullmatch(path.name) and path.name not in {*contents, f"{draft}{PART}"}:
                path.unlink(missing_ok=True)

    def begin(self, ref: ObjectRef) -> int:
        """Return where the draft of an object goes on; one that is too long begins anew."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        have = self._size(self._draft(ref.sha256))
        if have > ref.size:
            self.discard(ref.sha256)
            have = 0
        return max(have, 0)

    def write(self, sha256: str, offset: int, data: bytes) -> None:
        """Put bytes at the end of a draft, which has `offset` of them."""
        fd = os.open(self._draft(sha256), os.O_WRONLY | os.O_CREAT, 0o600)
        with open(fd, "wb", buffering=0) as out:
            os.ftruncate(fd, offset)
            out.seek(offset)
            view = memoryview(data)
            while view:
                view = view[out.write(view) or 0 :]

    def finish(self, sha256: str) -> bool:
        """Give a whole draft its name, durably; False, and it is gone, if it is something else."""
        draft = self._draft(sha256)
        sync_file(draft)
        if _sha256(draft) != sha256:
            self.discard(sha256)
            return False
        draft.replace(self.path(sha256))
        sync_directory(self.folder)
        return True

    def is_sound(self, sha256: str) -> bool:
        """Return whether contents are still what they are called (I14)."""
        return _sha256(self.path(sha256)) == sha256

    def discard(self, sha256: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._draft(sha256).unlink()

    def free_bytes(self) -> int:
        """Return what the disk has free for this process."""
        return free_bytes(self.folder if self.folder.exists() else self.folder.parent)

    def _draft(self, sha256: str) -> Path:
        return self.folder / f"{sha256}{PART}"

    def _size(self, path: Path) -> int:
        try:
            return path.stat().st_size
        except FileNotFoundError:
            return -1


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
