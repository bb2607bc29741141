"""A store's rows with changes on top that are not committed yet."""

from typing import final

from edgesync._native.store import Store
from edgesync._native.wal import Wal
from edgesync._native.write import Write

@final
class Overlay:
    """The rows of database `db` of a store, changed or not. One thread at a time."""

    touched: set[bytes] | None

    def __new__(cls, store: Store, db: str) -> Overlay: ...
    @property
    def is_changed(self) -> bool:
        """Whether there is something to commit."""

    @property
    def is_committing(self) -> bool:
        """Whether a frozen layer is under way to the disk."""

    @property
    def rows_unstored(self) -> int:
        """Up to how many rows the store does not have as they are."""

    @property
    def rows_logged(self) -> int:
        """How many rows this lap of the write-ahead log has."""

    def get(self, key: bytes, /) -> bytes | None:
        """Return the value of a row; None without one."""

    def put(self, key: bytes, value: bytes, /) -> None:
        """Set a row."""

    def delete(self, key: bytes, /) -> None:
        """Delete a row; a missing one is no error."""

    def mark(self) -> None:
        """Take note of changes from here on, so that `undo` can take them back."""

    def keep(self) -> None:
        """Changes since `mark` stay."""

    def undo(self) -> None:
        """Take back what has changed since `mark`; nothing may have been frozen meanwhile."""

    def scan(
        self, start: bytes, stop: bytes, /, *, limit: int, reverse: bool = False
    ) -> list[tuple[bytes, bytes]]:
        """Return up to `limit` rows of [start, stop) in order, or the last ones backwards."""

    def freeze(self) -> Write:
        """Return the changes, and what is logged, as one write; further ones go on top of them."""

    def freeze_all(self) -> Write:
        """Return a write of all layers; those above the logged one are one from here on."""

    def freeze_into(self, wal: Wal) -> bool:
        """Give the changes to the write-ahead log, which may have no room for them."""

    def committed(self) -> None:
        """The frozen layer is on disk, and what was logged: the store has it now."""

    def landed(self) -> None:
        """The frozen layer is in the write-ahead log."""

    def abandon(self) -> None:
        """The frozen layer was refused: neither it nor what was built on it has happened."""

    def forget_logged(self) -> None:
        """What is logged is in the store, under what it was changed to since; `abandon` follows."""

    def restore(self, rows: dict[bytes, bytes | None]) -> None:
        """Take what the write-ahead log has and the store has not, when nothing has changed yet."""

    def settle(self, lap_row: bytes, lap: bytes) -> Write:
        """Return what is logged as a write, with the next lap; further entries go on top of it."""

    def settled(self, is_stored: bool) -> None:
        """The settling layer is in the store, or is only in the log as it was."""
