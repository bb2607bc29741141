"""Time that orders causes before effects, and vectors that say which events a replica has seen."""

from collections.abc import Iterable, Mapping
from typing import final

def stamp_of(wall_ms: int) -> int:
    """Return the lowest stamp of that millisecond."""

def wall_ms_of(stamp: int) -> int:
    """Return the millisecond a stamp stands for."""

@final
class Clock:
    """A hybrid logical clock; `last` is the newest stamp given or heard, to be kept durably."""

    def __new__(cls, last: int = 0) -> Clock: ...
    @property
    def last(self) -> int: ...
    def tick(self, wall_ms: int) -> int:
        """Return the stamp of a new local event at that wall-clock time."""

    def hear(self, stamp: int) -> int:
        """Take note of a stamp from elsewhere: what follows is stamped later."""

@final
class VersionVector:
    """How many events of each replica have been seen; a replica not in it: none (0)."""

    __hash__: None  # type: ignore[assignment]

    def __new__(
        cls, entries: Mapping[int, int] | Iterable[tuple[int, int]] = ()
    ) -> VersionVector: ...
    def advance(self, replica: int, count: int) -> None:
        """Note that events 1 to `count` of that replica are seen; never goes back."""

    def __getitem__(self, replica: int, /) -> int: ...
    def __len__(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...
    def entries(self) -> dict[int, int]:
        """Return the replicas seen and their counts, ordered by replica."""

    def covers(self, replica: int, number: int) -> bool:
        """Whether that event has been seen."""

    def merge(self, other: VersionVector) -> VersionVector:
        """Return a vector of everything either has seen."""

    def descends(self, other: VersionVector) -> bool:
        """Whether this has seen all that `other` has."""

    def concurrent(self, other: VersionVector) -> bool:
        """Whether each has seen something the other has not."""

    def encode(self) -> bytes:
        """Return its bytes; equal vectors give equal bytes."""

    @classmethod
    def decode(cls, data: bytes) -> VersionVector:
        """Undo `encode`; raises RecordError on anything else."""
