"""The hub's durable log: what a conforming one must do.

The log is the hub's truth. A batch is in it or it is not; once `append` has returned, it is on
disk together with the new floor (I4). Projectors read it by position, each with its own cursor.
Its oldest entries are dropped once nobody needs them (retention.py); what it knows of edges stays:
floors, sessions, and which records it has stored.

A conforming log passes tests/hubd/log/test_contract.py, unchanged.
"""

import hashlib
from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import msgspec

from edgesync.errors import StoreError, StoreFull
from edgesync_transport.messages import Codec, Lane, LaneFloor, NackCode

# Rows that one entry may stand for: 20 times what an edge puts into a batch by itself. What unpacks
# to more is refused at the link, and an older entry of that kind is skipped by who reads the log.
ENTRY_BYTES_MAX: Final = 20 << 20


class LogFull(StoreFull):
    """The log has reached `[log] limit`; nothing was stored, edges keep what they have."""

    def __init__(self, *, used_bytes: int, limit_bytes: int) -> None:
        StoreError.__init__(
            self,
            f"the hub's log is full: {used_bytes} of {limit_bytes} bytes used; "
            "what holds back its oldest entries is in `hubd status`; raise `limit` under [log] in "
            "hub.toml",
        )
        self.used_bytes = used_bytes
        self.limit_bytes = limit_bytes
        self.where = "log"


class Append(msgspec.Struct, frozen=True, kw_only=True):
    """One batch to be stored for the session `epoch` of `edge`.

    is_essential   small and needed to go on: it may take the room kept for that in a full log
    """

    edge: str
    epoch: int
    incarnation: bytes
    lane: Lane
    first: int
    last: int
    prev_chain: int
    last_chain: int
    codec: Codec
    payload: bytes
    reason: str = ""
    is_essential: bool = False


class Appended(msgspec.Struct, frozen=True, kw_only=True):
    """Stored, or already there: `position` is 0 for a batch at or below the floor."""

    position: int
    floor: int
    safe: int


class NotAppended(msgspec.Struct, frozen=True, kw_only=True):
    """Refused; nothing of the batch was stored. `code` None: the epoch is stale (I6)."""

    code: NackCode | None
    floor: int
    reason: str


class Session(msgspec.Struct, frozen=True, kw_only=True):
    """What `open_session` has made durable: the epoch, and where each lane stands."""

    epoch: int
    floors: tuple[LaneFloor, LaneFloor, LaneFloor]


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One stored batch. Positions start at 1 and grow; they may have holes."""

    position: int
    edge: str
    incarnation: bytes
    lane: Lane
    first: int
    last: int
    codec: Codec
    payload: bytes
    stored_at_ns: int
    reason: str = ""

    @property
    def seed(self) -> bytes:
        """What is left to chance in it is drawn from here: the same for whoever reads it."""
        place = b"%d %d %d" % (self.position, self.first, self.stored_at_ns)
        return hashlib.blake2b(place + self.edge.encode() + self.incarnation).digest()


class Backup(msgspec.Struct, frozen=True, kw_only=True):
    """A copy of the hub that is complete.

    head     its log has every entry up to here that this one had
    stored   its state has them in rows up to here; 0: there is no state in it
    """

    at_ns: int
    path: str
    head: int
    stored: int = 0


class LogStats(msgspec.Struct, frozen=True):
    """How full a log is. `damaged`: values whose checksum did not fit, since it was opened.

    is_full        the newest append found no room
    refused        appends that found none since the log was opened
    oldest         position of the oldest entry; those before it were dropped
    oldest_at_ns   when that was stored; 0 if there is none
    dropped        entries that were dropped since the log was opened
    backup         the newest one
    """

    entries: int
    damaged: int
    used_bytes: int
    limit_bytes: int
    is_full: bool = False
    refused: int = 0
    oldest: int = 1
    oldest_at_ns: int = 0
    dropped: int = 0
    backup: Backup | None = None


class EntrySize(NamedTuple):
    position: int
    nbytes: int


class Log(Protocol):
    @property
    def generation(self) -> bytes:
        """16 random bytes, new when the log is created or restored from a backup."""
        ...

    @property
    def head(self) -> int:
        """Position of the newest entry; 0 when the log is empty."""
        ...

    @property
    def oldest(self) -> int:
        """Position of the oldest entry; one beyond the head when the log is empty."""
        ...

    @property
    def newest_backup(self) -> Backup | None: ...

    def stats(self) -> LogStats: ...

    async def open_session(
        self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor]
    ) -> Session:
        """Begin a session of `edge`, durably: its epoch is higher than any before it (I6).

        An incarnation never seen begins on each lane at `starts`: a fork keeps its seqs, so it
        need not begin at 0. For a known one `starts` means nothing.
        """
        ...

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        """Store `batches` in one durable step and answer each in its place.

        A batch at or below the floor is answered `Appended` and changes nothing; one that starts
        inside what is stored keeps only its new tail; a gap, another chain or a stale epoch is
        refused. Records whose event id is already stored for this edge (re-issued after a fork)
        are dropped, the floor still moves.
        """
        ...

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        """Entries with position > `after` in order; at least one if there is any."""
        ...

    async def wait_beyond(self, position: int) -> None:
        """Return once `head` > `position`."""
        ...

    def sizes(self, *, limit: int = 1000, limit_bytes: int = 4 << 20) -> Sequence[EntrySize]:
        """Return the oldest entries, from the oldest on; at least one if there is any."""
        ...

    def stored_at_ns(self, position: int) -> int | None:
        """Return when the entry at `position` was stored; None if it is damaged or not there."""
        ...

    async def drop(self, upto: int) -> None:
        """Drop the entries up to `upto`, in one durable step; the newest one stays in any case.

        Positions, floors, and which records are stored (event ids) are as before.
        """
        ...

    async def aclose(self) -> None: ...
