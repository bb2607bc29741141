"""Fresh points of the series of one edge: in memory, in the order of their arrival."""

import array
from typing import Protocol, final

from edgesync._native.batch import Table
from edgesync.model import Value

class _Columns(Protocol):
    """What a `batch.Table` has, made elsewhere."""

    @property
    def series(self) -> array.array[int]: ...
    @property
    def vtypes(self) -> array.array[int]: ...
    @property
    def counts(self) -> array.array[int]: ...
    @property
    def times(self) -> array.array[int]: ...
    @property
    def values(self) -> array.array[int]: ...
    @property
    def texts(self) -> list[str]: ...

@final
class Memtable:
    """Series by id, each with its fresh points.

    points   how many are fresh
    nbytes   what all of it takes, about
    """

    @property
    def points(self) -> int: ...
    @property
    def nbytes(self) -> int: ...
    def __len__(self) -> int: ...
    def __contains__(self, series: int, /) -> bool: ...
    def add(self, series: int, ref: int, first: int, newest_ns: int) -> None:
        """Enter a series of which `first` points are stored elsewhere; a known one stays."""

    def missing(self, table: Table) -> list[int]:
        """Return the series of a `batch.Table` that are not entered, in order."""

    def append(self, table: _Columns, until_ns: int = ...) -> tuple[int, int, list[int]]:
        """Append what a `batch.Table`, or its like, has.

        Returns (readings, refused, series with a new newest). Times after `until_ns` are still to come. Refused are the points of series that are not
        entered. Raises MemoryError with some of it done.
        """

    def tail(
        self, series: int
    ) -> tuple[int, int, int, Value] | tuple[int, None, None, None] | None:
        """Return (points, time_ns, vtype, value): how long the series is, and its newest point.

        The last three are None when the newest point is stored elsewhere; all of it is None for a
        series without fresh points.
        """

    def runs(
        self, series: int
    ) -> list[tuple[int, int, array.array[int], array.array[float] | array.array[int] | list[str]]]:
        """Return the fresh points in order: (place of the first, vtype, times, values) each."""

    def fresh(self) -> list[tuple[int, int]]:
        """Return (ref, series) of all that have fresh points, by ref."""

    def emptied(self) -> Memtable:
        """Return a memtable that follows: the same series, all points of this one stored."""
