"""A log in memory: for tests and for programs that embed a hub without a disk."""

import secrets
import time
from collections.abc import Callable, Sequence

import msgspec
import trio

from edgesync_transport.messages import LaneFloor
from hubd.log.base import Append, Appended, Entry, LogStats, NotAppended, Session
from hubd.log.book import Book, Changes, IdKey, Interval, LaneKey


class EmptyShelf:
    """Nothing is anywhere but in the book."""

    def epoch(self, edge: str) -> int:
        return 0

    def lane(self, key: LaneKey) -> LaneFloor | None:
        return None

    def ids(self, key: IdKey) -> list[Interval]:
        return []


class MemoryLog:
    """Durable as long as the object lives."""

    def __init__(self, *, clock_ns: Callable[[], int] = time.time_ns) -> None:
        self.generation = secrets.token_bytes(16)
        self._clock_ns = clock_ns
        self._book = Book(EmptyShelf())
        self._entries: list[Entry] = []
        self._grown = trio.Event()

    @property
    def head(self) -> int:
        return len(self._entries)

    async def open_session(
        self, edge: str, incarnation: bytes, starts: Sequence[LaneFloor]
    ) -> Session:
        await trio.lowlevel.checkpoint()
        return self._book.open_session(edge, incarnation, starts, Changes())

    async def append(self, batches: Sequence[Append]) -> Sequence[Appended | NotAppended]:
        await trio.lowlevel.checkpoint()
        answers: list[Appended | NotAppended] = []
        for asked in batches:
            changes = Changes()
            answer = self._book.decide(asked, changes)
            for piece in changes.pieces:
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
        used = sum(len(entry.payload) for entry in self._entries)
        return LogStats(len(self._entries), 0, used, 1 << 40)

    async def read(self, after: int, *, limit_bytes: int = 4 << 20) -> Sequence[Entry]:
        await trio.lowlevel.checkpoint()
        taken: list[Entry] = []
        total = 0
        for entry in self._entries[after:]:
            total += len(entry.payload)
            if taken and total > limit_bytes:
                break
            taken.append(entry)
        return taken

    async def wait_beyond(self, position: int) -> None:
        while self.head <= position:
            await self._grown.wait()
        await trio.lowlevel.checkpoint()

    async def aclose(self) -> None:
        await trio.lowlevel.checkpoint()
