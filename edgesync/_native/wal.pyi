"""The write-ahead log: changes of keys that are on disk before LMDB has them."""

from typing import final

@final
class Wal:
    """The log in the file at `path`, which is there in its full size (`directory.make_wal`).

    is_usable   whether it may be appended to: from `begin` until something goes wrong

    One thread at a time. Whoever appends asks `landed()` once; it does not have to wait when
    `fileno()` is readable.
    """

    def __new__(cls, path: str) -> Wal: ...
    @property
    def is_usable(self) -> bool: ...
    def close(self) -> None:
        """Wait for what is being written, then close; closing twice is no error."""

    def fileno(self) -> int:
        """Return what becomes readable when an entry has been written, or has not been."""

    def begin(self, lap: bytes) -> None:
        """Start a new lap: all entries up to now are in the store.

        lap   8 bytes, and 8 of the one after it: then that has half of the file
        """

    def turn(self, lap: bytes) -> None:
        """Go on with the lap after this one, while what this one has is on its way to the store."""

    def spoil(self) -> None:
        """Append nothing before the next lap: what the file has is not what was answered."""

    def append(self, rows: dict[bytes, bytes | None]) -> bool:
        """Begin to write an entry; False when there is no room for it, or the log is spoiled.

        False, too, before it is known of the one before whether it has landed.
        """

    def landed(self) -> bool:
        """Whether the entry appended last is on disk, waiting for it; else the log is spoiled."""

def replay(data: bytes, lap: bytes) -> dict[bytes, bytes | None]:
    """Return the rows that the entries of a lap set, and those of the lap after it, if it names
    one; None for those they delete, as they end up.
    """

def unread(data: bytes, lap: bytes) -> list[tuple[int, bytes, int, dict[bytes, bytes | None]]]:
    """Return what `replay` passes over, as (byte, lap, whole entries, the rows they set).

    lap   of the entries: b"" for what is none, because it is torn or damaged; then the entries are
          the whole ones behind it that belong to `lap`. Else they are of another state than `lap`
          is, earlier or later
    """
