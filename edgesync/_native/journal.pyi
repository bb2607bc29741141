"""Lanes of records over a Store: positions, reading ranges, verifying what is read."""

from typing import final

from edgesync._native.store import Store

@final
class LaneState:
    """A snapshot: trimmed <= safe <= floor <= tail."""

    tail: int
    floor: int
    safe: int
    trimmed: int
    tail_chain: int
    stored_bytes: int

@final
class Rows:
    """Consecutive records `first .. last` as they are stored (see rows in native/README.md)."""

    first: int
    last: int
    prev_chain: int
    last_chain: int
    data: bytes

    def __len__(self) -> int: ...

@final
class Journal:
    def __new__(cls, store: Store) -> Journal: ...
    @property
    def origin(self) -> int:
        """The random half of the event ids given since this store was opened."""

    def state(self, lane: int) -> LaneState: ...
    def read(
        self, lane: int, first: int, *, limit_records: int = 65536, limit_bytes: int = 4 << 20
    ) -> Rows:
        """Return records from `first` on: at least one if there is any, none past the limits.

        Verifies every checksum; raises DamagedRecord with the seq of a bad one if it is the first,
        else stops before it. Rows.first > Rows.last means there is nothing at `first`.
        """

    def chain_at(self, lane: int, seq: int) -> int | None:
        """The running hash at `seq`; None when seq is beyond the tail or below what is retained.

        Raises DamagedRecord when the record there is.
        """

    def raw(self, lane: int, seq: int) -> bytes | None:
        """The stored bytes at `seq` as they are, unverified; None when no key carries it."""

class DamagedRecord(Exception):
    """A stored record whose checksum does not fit; it was not delivered (I14)."""

    lane: int
    seq: int

    def __init__(self, lane: int, seq: int) -> None: ...
