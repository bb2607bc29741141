"""Entries of the log in parts of a known cost, as many at a time as a transaction takes. [sans-IO]

Work is bounded, not bytes: a kilobyte of the log may stand for a million readings. Where the parts
of an entry lie is given by the entry alone: a cursor inside it means the same after a restart (I9).
"""

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import msgspec

from edgesync._native import batch
from edgesync_transport.messages import Codec
from hubd.log.base import Entry

# Units of one transaction. A unit costs about what a point does: 16 bytes and some tenths of a
# microsecond; a row of an aggregate is 4, a name 32, an event 64. So it takes some tenths of a
# second, for which other projectors wait, and some 25 MB.
WORK_MAX: Final = 1 << 17
# Units of one part of an entry: what is made of it in memory at a time.
PART_WORK: Final = 1 << 16
# A batch of no more rows, unpacked, is looked at where edges are answered: some 500 readings.
LIGHT_BYTES: Final = 16 * 1024


class Part(msgspec.Struct, frozen=True):
    """Some of an entry. `done` is how many of the entry's items are in with this part."""

    entry: Entry
    content: Any
    cost: int
    done: int
    is_last: bool


class Cursor(msgspec.Struct, frozen=True):
    """All up to `position` is in, and of the entry `part_of` its first `done` items."""

    position: int = 0
    part_of: int = 0
    done: int = 0


def is_light(entry: Entry) -> bool:
    """Whether an entry is a small batch, of which a look takes some tens of microseconds."""
    if entry.codec not in (Codec.ROWS, Codec.COLUMNS) or len(entry.payload) < 4:
        return False
    return batch.raw_size(entry.payload) <= LIGHT_BYTES


class Parted(Protocol):
    def parts(self, entry: Entry, done: int) -> Iterator[Part]:
        """Yield what of `entry` follows its first `done` items, always alike; at least one part.

        Raises RecordError, LookupError, TypeError... for an entry that cannot be used.
        """
        ...


class BadEntry(Exception):
    """An entry that its projector cannot decode."""

    def __init__(self, reason: Exception) -> None:
        super().__init__(str(reason))
        self.reason = reason


class Feed:
    """Parts of consecutive entries, as many at a time as one transaction may take."""

    def __init__(self, projector: Parted, entries: Sequence[Entry], cursor: Cursor) -> None:
        self._projector = projector
        self._entries = deque(entries)
        self._cursor = cursor
        self._parts: Iterator[Part] | None = None
        self._ahead: deque[Part] = deque()
        self._alone_until = 0
        self.taken: list[Part] = []

    @property
    def is_empty(self) -> bool:
        return not (self._entries or self._parts or self._ahead)

    @property
    def entry(self) -> Entry:
        """The entry that comes next, or that the taken parts begin with."""
        if self.taken:
            return self.taken[0].entry
        return self._ahead[0].entry if self._ahead else self._entries[0]

    def take(self) -> list[Part]:
        """Return the next parts; the same again until they are `done` or given back.

        Raises BadEntry when the next entry cannot be decoded, MemoryError when there is no room to.
        """
        cost = 0
        parts: list[Part] = []
        while not self.taken and (part := self._peek(is_first=not parts)):
            is_alone = part.entry.position <= self._alone_until
            if parts and (
                cost + part.cost > WORK_MAX or (is_alone and part.entry is not parts[0].entry)
            ):
                break
            parts.append(self._ahead.popleft())
            cost += part.cost
        self.taken = self.taken or parts
        return self.taken

    def _peek(self, *, is_first: bool) -> Part | None:
        if not self._ahead and (self._parts or self._entries):
            try:
                self._ahead.append(self._next_part())
            except MemoryError:
                raise
            except Exception as error:  # A bad entry may be bad in any way: I8.
                if not is_first:
                    return None  # what was taken before it goes first
                raise BadEntry(error) from error
        return self._ahead[0] if self._ahead else None

    def _next_part(self) -> Part:
        entry = self._entries[0]
        if self._parts is None:
            done = self._cursor.done if self._cursor.part_of == entry.position else 0
            self._parts = self._projector.parts(entry, done)
        try:
            part = next(self._parts)
        except BaseException:
            self._parts = None
            raise
        if part.is_last:
            self._entries.popleft()
            self._parts = None
        return part

    def after(self) -> Cursor:
        """Return the cursor behind the taken parts."""
        position = self._cursor.position
        for part in self.taken:
            if part.is_last:
                position = part.entry.position
        last = self.taken[-1]
        if last.is_last:
            return Cursor(position)
        return Cursor(position, last.entry.position, last.done)

    def done(self) -> Cursor:
        """Go on behind the taken parts."""
        self._cursor = self.after()
        self.taken = []
        return self._cursor

    def take_alone(self) -> None:
        """Give the taken parts back: their entries are taken one at a time now."""
        self._alone_until = self.taken[-1].entry.position
        self._ahead.extendleft(reversed(self.taken))
        self.taken = []

    def skip(self) -> Cursor:
        """Go on behind the entry that came next or was taken; what of it is in stays."""
        entry = self.entry
        self.taken = []
        self._ahead = deque(part for part in self._ahead if part.entry is not entry)
        if self._entries and self._entries[0] is entry:
            self._entries.popleft()
            self._parts = None
        self._cursor = Cursor(entry.position)
        return self._cursor
