"""Readings become records of a `Write`, grouped by time and type."""

import array
from collections.abc import Sequence
from typing import TypeVar, final

from edgesync._native.write import Write
from edgesync.model import Reading

_T = TypeVar("_T")

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
    @property
    def newest(self) -> Reading | None:
        """The last reading noted of it, with the series' unit; None for none."""

@final
class Newest:
    """Readings of a `Write` that is on its way, to be noted once it is stored."""

    def __len__(self) -> int: ...
    def note(self, newest: dict[tuple[str, str], _T | Reading | Ready]) -> None:
        """Set what `newest` has of each series, by entity and key, to the last reading of it.

        Its Ready is there, which has the reading.
        """

@final
class ReadyTable:
    """The series whose readings need no look, by entity and key."""

    def __len__(self) -> int: ...
    def __contains__(self, name: tuple[str, str], /) -> bool: ...
    def add(self, one: Ready) -> None:
        """Add a series, or put it in the place of one of that name."""

    def discard(self, name: tuple[str, str]) -> None:
        """Let the readings of a series be looked at again."""

    def clear(self) -> None: ...
    def stage(
        self, write: Write, lane: int, readings: Sequence[Reading], limit: int
    ) -> Newest | None:
        """Append READINGS records to `write`, as `stage` does; if any needs a look, none and None.

        readings   a list or tuple of `Reading`

        A reading needs a look when its series is not here, has another unit, or its value or time
        would not be stored as it is.
        """

def put_newest(
    newest: dict[tuple[str, str], _T | Reading | Ready], name: tuple[str, str], one: _T | Reading
) -> None:
    """Set what a dict of newest readings has under a name."""

def stage(
    write: Write,
    lane: int,
    places: array.array[int],
    ids: array.array[int],
    times: array.array[int],
    values: array.array[float],
    limit: int,
) -> None:
    """Append READINGS records to `write`: one for each time, at most `limit` readings in one.

    ids   array("Q"): the series id of each place

    Times come in the order of their first reading, readings of a time in the order they came: what
    `Intake.stage` makes of the same readings. Raises RecordError as `parts` does.
    """
