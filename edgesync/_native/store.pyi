"""One LMDB environment: everything one process keeps durably."""

from collections.abc import Sequence
from typing import Literal, final

@final
class Write:
    """What one transaction will do, collected in memory; used once, by one thread."""

    def __new__(cls) -> Write: ...
    def put(self, db: str, key: bytes, value: bytes) -> None: ...
    def delete(self, db: str, key: bytes) -> None:
        """Delete one key; a missing key is no error."""

    def append(self, lane: int, kind: int, body: bytes, origin: int = 0, number: int = 0) -> None:
        """Append a record; origin 0 means "this opening of the store, next number"."""

    def append_many(self, lane: int, kind: int, bodies: Sequence[bytes]) -> None: ...
    def mark(self, lane: int, floor: int, safe: int) -> None:
        """Remember what the hub has (I3); floors only grow, except by `rewind`."""

    def rewind(self, lane: int, floor: int) -> None: ...
    def trim(self, lane: int, up_to: int) -> None:
        """Delete records with seq <= up_to."""

    def replace(self, lane: int, seq: int, kind: int, body: bytes) -> None:
        """Put a record in place of a damaged one (a loss record), keeping its seq."""

    def __len__(self) -> int: ...

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
    def used_bytes(self) -> int: ...
    @property
    def map_bytes(self) -> int: ...
    @property
    def map_bytes_max(self) -> int: ...
    def apply(self, write: Write) -> tuple[int, int, int]:
        """Carry `write` out in one transaction with one sync, the GIL released.

        Returns the tails of the three lanes. When it returns, the write is on disk (I1); when it
        raises (StoreFull, StoreUnwritable, StoreCorrupt), nothing of it happened.
        """

    def get(self, db: str, key: bytes) -> bytes | None: ...
    def scan(
        self, db: str, start: bytes = b"", stop: bytes | None = None, *,
        limit: int = 1000, limit_bytes: int = 4 << 20, reverse: bool = False,
    ) -> list[tuple[bytes, bytes]]:
        """Keys in [start, stop) in order (reverse: from the top of that range)."""

    def count(self, db: str) -> int: ...
    def copy(self, path: str) -> None:
        """Write a consistent compacted copy of the environment into directory `path`."""

    def check_readers(self) -> int: ...
    def release_pages(self) -> None:
        """Give the mapped pages back to the page cache; they no longer count as resident."""

    def close(self) -> None: ...

def versions() -> dict[str, str]:
    """Versions of the C libraries linked in, and where they came from."""
