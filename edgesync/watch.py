"""Changes of keys as something to iterate over, for programs."""

from collections import deque
from collections.abc import Sequence
from types import TracebackType
from typing import Final, Self

import trio

from edgesync.cells.changes import Change, Changes

OVERFLOW: Final = "overflow"


class KeyWatch:
    """Changes of keys with a prefix, from the time it was made until it is closed.

    At most `limit` wait to be read. What comes beyond is counted in `lost`, and a change with the
    event `overflow` and no key stands in its place: read the keys again then.
    """

    def __init__(self, changes: Changes, prefix: bytes, limit: int) -> None:
        self._changes, self._prefix, self._limit = changes, prefix, limit
        self._waiting: deque[Change] = deque()
        self._has_come = trio.Event()
        self._is_open = True
        self.lost = 0
        changes.listen(self._note)

    def close(self) -> None:
        """Watch no more; who waits for a change is told that there is none."""
        if self._is_open:
            self._is_open = False
            self._changes.leave(self._note)
            self._has_come.set()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Change:
        while not self._waiting:
            if not self._is_open:
                raise StopAsyncIteration
            self._has_come = trio.Event()
            await self._has_come.wait()
        return self._waiting.popleft()

    def _note(self, changes: Sequence[Change]) -> None:
        for change in changes:
            if not change.key.startswith(self._prefix):
                continue
            if len(self._waiting) < self._limit:
                self._waiting.append(change)
                continue
            self.lost += 1
            if self._waiting[-1].event != OVERFLOW:
                self._waiting.append(Change(b"", OVERFLOW))
        self._has_come.set()
