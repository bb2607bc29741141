"""SLOWLOG: which commands took long, and whose they were."""

from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

if TYPE_CHECKING:
    from edgesync.serve.resp.session import House

WORDS_MAX: Final = 32
WORD_BYTES_MAX: Final = 128
ENTRIES_MAX: Final = 10_000


class SlowCommand(NamedTuple):
    """A command that took long; `words` are cut short."""

    number: int
    time_s: int
    micros: int
    words: tuple[bytes, ...]
    address: str
    name: bytes


class SlowLog:
    """The newest slow commands.

    slower_than_us   from which on they are kept; negative: none is
    """

    def __init__(self, house: "House") -> None:
        self._house = house
        self._next = 0
        self.entries: deque[SlowCommand] = deque(maxlen=128)
        self.slower_than_us = 0
        self.configure(10_000)
        house.cells.on_slow = self.note

    def configure(self, slower_than_us: int) -> None:
        self.slower_than_us = slower_than_us
        self._house.cells.slow_ns = -1 if slower_than_us < 0 else slower_than_us * 1000

    @property
    def length_max(self) -> int:
        return self.entries.maxlen or 0

    def resize(self, length_max: int) -> None:
        self.entries = deque(self.entries, maxlen=min(length_max, ENTRIES_MAX))

    def look(self, request: Sequence[bytes], took_ns: int) -> None:
        """Note a command that is none on keys, if it was slow."""
        if 0 <= self._house.cells.slow_ns <= took_ns:
            self.note(request, took_ns)

    def note(self, request: Sequence[bytes], took_ns: int) -> None:
        words = [_cut(word) for word in request[:WORDS_MAX]]
        if len(request) > WORDS_MAX:
            words[-1] = b"... (%d more arguments)" % (len(request) - WORDS_MAX + 1)
        client = self._house.serving
        self.entries.appendleft(SlowCommand(
            self._next, self._house.facts.wall_ns() // 1_000_000_000, took_ns // 1000,
            tuple(words), "" if client is None else client.address,
            b"" if client is None else client.name,
        ))  # fmt: skip
        self._next += 1


def _cut(word: bytes) -> bytes:
    if len(word) <= WORD_BYTES_MAX:
        return word
    return word[:WORD_BYTES_MAX] + b"... (%d more bytes)" % (len(word) - WORD_BYTES_MAX)
