"""Readings of many series, taken apart: by series, and by time for the journal."""

import array
from collections.abc import Sequence
from typing import final

from edgesync.model import Reading

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

def bodies(
    places: array.array[int],
    ids: array.array[int],
    times: array.array[int],
    values: array.array[float],
    limit: int,
) -> list[bytes]:
    """Return the bodies of READINGS records: one for each time, at most `limit` readings in one.

    ids   array("Q"): the series id of each place

    Times come in the order of their first reading, readings of a time in the order they came: what
    `Intake.stage` makes of the same readings. Raises RecordError as `parts` does.
    """

@final
class Ready:
    """A series whose readings need no further look, if their values are of its type.

    name     its entity and key
    number   its id in records
    unit     its unit
    kind     the type of its values: F64, I64 or BOOL

    Raises ValueError for another type.
    """

    def __init__(self, name: tuple[str, str], number: int, unit: str, kind: int) -> None: ...
    @property
    def name(self) -> tuple[str, str]: ...
    @property
    def number(self) -> int: ...
    @property
    def unit(self) -> str: ...
    @property
    def kind(self) -> int: ...

def ready_bodies(
    readings: Sequence[Reading], ready: dict[tuple[str, str], Ready], limit: int
) -> list[bytes] | None:
    """Return the bodies of READINGS records, as `bodies` does; None if any reading needs a look.

    readings   a list or tuple of `Reading`
    ready      Ready of each series that may occur, by entity and key

    A reading needs a look when its series is not in `ready`, has another unit, or its value or time
    would not be stored as it is.
    """
