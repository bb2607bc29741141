"""Readings of many series in columns: taken apart by series, recent ones, those of clients."""

import array
from collections.abc import Callable
from typing import final

from typing_extensions import disjoint_base

@final
class Part:
    """The readings of one series, in the order in which they came.

    place    of the series, as the caller numbers them
    newest   index of the latest time; of several the one that came last
    earliest, latest   times
    """

    @property
    def place(self) -> int: ...
    @property
    def times(self) -> array.array[int]: ...
    @property
    def values(self) -> array.array[float]: ...
    @property
    def newest(self) -> int: ...
    @property
    def earliest(self) -> int: ...
    @property
    def latest(self) -> int: ...
    def __len__(self) -> int: ...

def parts(
    places: array.array[int], times: array.array[int], values: array.array[float], series: int
) -> list[Part]:
    """Return the readings of each series that has some, in the order of their places.

    places   array("I"), each below `series`; times array("q"); values array("d")

    Raises RecordError for columns that do not belong together.
    """

def check(
    places: array.array[int], times: array.array[int], values: array.array[float], series: int
) -> None:
    """Raise RecordError for columns that do not belong together; as for `parts`."""

def latest(times: array.array[int]) -> int:
    """Return the latest of some times, array("q"); the earliest there can be, of none."""

def unknown(places: array.array[int], marks: bytearray) -> list[int]:
    """Return the places whose mark is not 1, each once, and add 2 to the marks of all.

    marks   a byte for each place
    """

def batch_row(
    key: bytes,
    ids: array.array[int],
    places: array.array[int],
    times: array.array[int],
    values: array.array[float],
) -> bytes:
    """Return the row of a batch: readings of many series as they came, with a checksum.

    ids   array("Q"): the series id of each place

    Raises RecordError as `parts` does.
    """

def batch_columns(
    key: bytes, row: bytes, known: dict[int, int]
) -> tuple[array.array[int], array.array[int], array.array[float]] | None:
    """Return places, times and values of a batch row; None when its checksum does not fit (I14).

    known   the place of each series id; readings of others are left out
    """

@final
class Recent:
    """Readings of many series in memory, in the order in which they came: 24 bytes each.

    live   how many there are, without what was dropped
    """

    @property
    def live(self) -> int: ...
    def __len__(self) -> int: ...
    def append(
        self,
        places: array.array[int],
        times: array.array[int],
        values: array.array[float],
        series: int,
    ) -> int:
        """Take readings; returns the index of the first. Raises RecordError as `parts` does."""

    def drop(self, first: int, count: int) -> None:
        """Take back readings that were appended: the write they belong to was refused."""

    def columns(self, place: int) -> tuple[array.array[int], array.array[float]]:
        """Return times and values of the readings of a series, in the order in which they came."""

    def newest(self, place: int) -> tuple[int, float] | None:
        """Return time and value of the latest reading of a series; of one time the last to come."""

    def all(self) -> tuple[array.array[int], array.array[int], array.array[float]]:
        """Return places, times and values of all readings, in the order in which they came."""

@disjoint_base
class Columns:
    """Readings that clients bring, one by one, until they are taken.

    names     places of series, by the names clients give them
    on_first  is called when there is one after there were none
    """

    def __init__(self, on_first: Callable[[], None] | None = None) -> None: ...
    @property
    def names(self) -> dict[bytes, int]: ...
    def __len__(self) -> int: ...
    def add(self, place: int, time_ns: int, value: float) -> None:
        """Take one reading."""

    def answer(self, request: list[bytes], now_ns: int, ahead_ns: int) -> int | list[int] | None:
        """Carry out TS.ADD or TS.MADD of series that are known, by `names`; returns its reply.

        None, and nothing has happened, when anything about it needs a look: a series that is not
        known, options, a time or a value that is none, a time beyond `ahead_ns` from `now_ns`.
        """

    def take(self) -> tuple[array.array[int], array.array[int], array.array[float]]:
        """Return places, times and values of all readings, and hold none from here on."""
