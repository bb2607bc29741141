"""One LMDB environment: everything one process keeps durably."""

from collections.abc import Sequence
from types import TracebackType
from typing import Literal, Self, final

from edgesync._native.write import Write as Write

@final
class Store:
    """Open an environment; raises StoreLocked, StoreVersion, StoreCorrupt, StoreUnwritable."""

    def __new__(
        cls,
        path: str,
        *,
        databases: Sequence[str],
        integer_databases: Sequence[str] = (),
        map_bytes: int = 64 << 20,
        map_bytes_max: int = 1 << 30,
        sync: Literal["always", "meta", "none"] = "always",
        readonly: bool = False,
    ) -> Store: ...
    @property
    def path(self) -> str: ...
    @property
    def mended_lanes(self) -> tuple[int, ...]:
        """Lanes whose positions were damaged and have been derived from their records."""

    @property
    def origin(self) -> int:
        """The random half of the event ids given since this store was opened, or forked."""

    @property
    def used_bytes(self) -> int:
        """Bytes of pages in use; what was freed is used again and does not count."""

    @property
    def map_bytes(self) -> int:
        """Bytes the file has now."""

    @property
    def map_bytes_max(self) -> int: ...
    @property
    def is_durable(self) -> bool:
        """Whether what `apply` returns from is on disk (`sync="always"`)."""

    @property
    def intake_bytes_max(self) -> int: ...
    @property
    def page_bytes(self) -> int: ...
    @property
    def room_bytes(self) -> int:
        """Bytes of the map between the last page ever used and its reserve."""

    def take_widest(self) -> int:
        """Return the bytes that the widest commit since the last call may have needed at once."""
    def has_room(self, nbytes: int) -> bool:
        """Whether the map has so many bytes below its reserve, and the file has them allocated."""

    def apply(self, write: Write) -> tuple[int, int, int]:
        """Carry `write` out in one transaction with one sync, the GIL released.

        Returns the tails of the three lanes. When it returns, the write is on disk (I1); when it
        raises (StoreFull, StoreUnwritable, StoreCorrupt), nothing of it happened.
        """

    def get(self, db: str, key: bytes) -> bytes | None: ...
    def scan(
        self,
        db: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int = 1000,
        limit_bytes: int = 4 << 20,
        reverse: bool = False,
    ) -> list[tuple[bytes, bytes]]:
        """Keys in [start, stop) in order (reverse: from the top of that range)."""

    def sizes(
        self,
        db: str,
        start: bytes = b"",
        stop: bytes | None = None,
        *,
        limit: int = 1000,
        limit_bytes: int = 4 << 20,
    ) -> list[tuple[bytes, int]]:
        """Keys in [start, stop) in order, with the sizes of their values, which are not read."""

    def count(self, db: str) -> int: ...
    def tree_bytes(self, db: str) -> int:
        """Return the bytes of all pages of one database."""

    def copy(self, path: str) -> None:
        """Write a consistent compacted copy of the environment into directory `path`."""

    def check_readers(self) -> int:
        """Free the slots of readers whose process died; returns how many."""

    def release_pages(self) -> None:
        """Give the mapped pages back to the page cache; they no longer count as resident."""

    def reopen(self) -> None:
        """Close and open again, as after an input/output error; a new origin is drawn."""

    def close(self) -> None:
        """Wait for calls under way, then close; closing twice is no error."""

    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

def versions() -> dict[str, str]:
    """Versions of the C libraries linked in, and where they came from."""
