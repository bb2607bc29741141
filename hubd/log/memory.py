"""A log in memory: for tests and for programs that embed a hub without a disk."""

import secrets
import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from edgesync_transport.messages import LaneFloor
from hubd.log.base import (
    Append,
    Appended,
    Backup,
    Entry,
    EntrySize,
    LogFull,
    LogStats,
    NotAppended,
    Session,
)
from hubd.log.book import Book, Changes, IdKey, LaneKey


class EmptyShelf:
    """Nothing is anywhere but in the book."""

    def epoch(self, edge: str) -> int:
        return 0

    def lane(self, key: LaneKey) -> LaneFloor | None:
        return None

    def ids(self, key: IdKey) -> int:
        return 0


class MemoryLog:
    """Durable as long as the object lives."""

    def __init__(
        self, *, limit_bytes: int = 1 << 40, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        self.generation = secrets.token_bytes(16)
        self.newest_backup: Backup | None = None
        self._clock_ns = clock_ns
        self._limit_bytes = limit_bytes
        self._used_bytes = 0
        self._is_full = False
        self._refused = 0
        self._book = Book(EmptyShelf())
        self._entries: list[Entry] = []
        self._dropped = 0
        self._grown = trio.Event()

    @property
    def head(self) -> int:
        return self._dropped + len(self._entries)

    @property
    def oldest(self) -> int:
        return self._dropped + 1

    async def open_session(
        self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor]
    ) -> Session:
        await trio.lowlevel.checkpoint()
        return self._book.open_session(edge, incarnation, starts, Changes())

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        await trio.lowlevel.checkpoint()
        coming = sum(len(asked.payload) for asked in batches)
        self._is_full = self._used_bytes + coming > self._limit_bytes
        if self._is_full:
            self._refused += 1
            raise LogFull(used_bytes=self._used_bytes, limit_bytes=self._limit_bytes)
        answers: list[Appended | NotAppended] = []
        for asked in batches:
            changes = Changes()
            answer = self._book.decide(asked, changes)
            for piece in changes.pieces:
                self._used_bytes += len(piece.payload)
                self._entries.append(
                    Entry(
                        position=self.head + 1,
                        edge=asked.edge,
                        incarnation=asked.incarnation,
                        lane=asked.lane,
                        first=piece.first,
                        last=piece.last,
                        codec=piece.codec,
                        payload=piece.payload,
                        stored_at_ns=self._clock_ns(),
                        reason=asked.reason,
                    )
                )
            if changes.pieces and isinstance(answer, Appended):
                answer = msgspec.structs.replace(answer, position=self.head)
            answers.append(answer)
        self._grown.set()
        self._grown = trio.Event()
        return answers

    def stats(self) -> LogStats:
        return LogStats(
            entries=len(self._entries),
            damaged=0,
            used_bytes=self._used_bytes,
            limit_bytes=self._limit_bytes,
            is_full=self._is_full,
            refused=self._refused,
            oldest=self.oldest,
            oldest_at_ns=self.stored_at_ns(self.oldest) or 0,
            dropped=self._dropped,
            backup=self.newest_backup,
        )

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        taken: list[Entry] = []
        total = 0
        for entry in self._entries[max(0, after - self._dropped) :]:
            total += len(entry.payload)
            if taken and total > limit_bytes:
                break
            taken.append(entry)
        return taken

    async def wait_beyond(self, position: int) -> None:
        while self.head <= position:
            await self._grown.wait()
        await trio.lowlevel.checkpoint()

    def sizes(self, *, limit: int = 1000, limit_bytes: int = 4 << 20) -> Sequence[EntrySize]:
        found: list[EntrySize] = []
        for entry in self._entries[:limit]:
            limit_bytes -= len(entry.payload)
            if found and limit_bytes < 0:
                break
            found.append(EntrySize(entry.position, len(entry.payload)))
        return found

    def stored_at_ns(self, position: int) -> int | None:
        nth = position - self.oldest
        return self._entries[nth].stored_at_ns if 0 <= nth < len(self._entries) else None

    async def drop(self, upto: int) -> None:
        await trio.lowlevel.checkpoint()
        count = max(0, min(upto, self.head - 1) - self._dropped)
        self._used_bytes -= sum(len(entry.payload) for entry in self._entries[:count])
        del self._entries[:count]
        self._dropped += count

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
