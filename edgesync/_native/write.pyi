"""What one transaction will do, collected before it begins."""

from collections.abc import Iterable
from typing import final

@final
class Write:
    """Filled by one thread, carried out once by `Store.apply`; after a failure it may be tried again.

    Raises ValueError for a key LMDB cannot take (1 to 511 bytes) or a value above 64 MiB.
    """

    def __new__(cls) -> Write: ...
    def put(self, db: str, key: bytes, value: bytes, *, essential: bool = False) -> None:
        """Set `key` to `value`. Essential: let in although the store is full to 90 %."""

    def delete(self, db: str, key: bytes) -> None:
        """Delete one key; a missing key is no error."""

    def put_all(self, db: str, rows: dict[bytes, bytes | None], *, essential: bool = False) -> None:
        """Set many rows, or delete those whose value is None.

        They are carried out in the order of their keys, whatever theirs: it is the thread that
        carries them out that sorts them.
        """

    def append(
        self,
        lane: int,
        kind: int,
        body: bytes,
        origin: int = 0,
        number: int = 0,
        *,
        essential: bool = False,
    ) -> None:
        """Append a record; origin 0 means "this opening of the store, next number"."""

    def append_many(self, lane: int, kind: int, bodies: Iterable[bytes]) -> None: ...
    def mark(self, lane: int, floor: int, safe: int) -> None:
        """Remember what the hub has (I3); floors only grow, except by `rewind`.

        A floor beyond the tail fails the write with ValueError: it is of another history.
        """

    def rewind(self, lane: int, floor: int) -> None:
        """Let the floor fall back, not below what is trimmed."""

    def trim(self, lane: int, up_to: int) -> None:
        """Delete records with seq <= up_to, but none above safe (I3)."""

    def drop(self, lane: int, up_to: int, kind: int, body: bytes, *, told_in: int = 0) -> None:
        """Delete records with seq <= up_to whoever has them, and append what says so (I3).

        `body` is the loss record, which goes into the lane `told_in`. The lane's floor stays: what
        was dropped is never taken for delivered.
        """

    def replace(self, lane: int, seq: int, kind: int, body: bytes) -> None:
        """Put a record in place of a damaged one (a loss record), keeping its seq.

        The running hashes after it follow anew, so a side that has records above `seq` sees
        another history there.
        """

    def reserve(self, nbytes: int) -> None:
        """Have so much more of the disk allocated than this needs, if there is that much."""

    def new_origin(self) -> None:
        """Draw a new origin for event ids from here on (a fork)."""

    def extend(self, other: Write) -> None:
        """Do all of `other` after what is in here; `other` itself stays usable."""

    @property
    def appends(self) -> tuple[int, int, int]:
        """Records appended per lane."""

    @property
    def intake(self) -> tuple[int, int, int]:
        """Records appended per lane that may be refused: those not essential."""

    @property
    def intake_bytes(self) -> tuple[int, int, int]:
        """Bytes those take in the journal, headers included."""

    @property
    def nbytes(self) -> int:
        """Bytes of all keys, values and bodies in it."""

    def clear(self) -> None:
        """Do nothing after all: what waits to be carried out has been overtaken."""

    def __len__(self) -> int: ...
