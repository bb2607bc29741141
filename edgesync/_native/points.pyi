"""Columns of readings of many series, taken apart: by series, and by time for the journal."""

import array
from typing import final

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
