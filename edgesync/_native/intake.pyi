"""Readings become bodies of journal records, grouped by time and type."""

import array
from collections.abc import Sequence
from typing import TypeVar, final

from edgesync.model import Reading

_T = TypeVar("_T")

@final
class Ready:
    """A series whose readings need no further look, if their values are of its type.

    name     its entity and key
    number   its id in records
    unit     its unit
    kind     the type of its values: F64, I64 or BOOL
    newest   the last reading noted of it; None for none

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
    def newest(self) -> Reading | None: ...

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
    def bodies(self, readings: Sequence[Reading], limit: int) -> list[bytes] | None:
        """Return the bodies of READINGS records, as `bodies` does; None if any needs a look.

        readings   a list or tuple of `Reading`

        A reading needs a look when its series is not here, has another unit, or its value or time
        would not be stored as it is.
        """

    def note_newest(
        self, newest: dict[tuple[str, str], _T | Reading | Ready], readings: Sequence[Reading]
    ) -> None:
        """Set what `newest` has of each series, by entity and key, to the last reading of it.

        A series that is here has its Ready there, which has the reading: to note another one is to
        set a pointer.
        """

def put_newest(
    newest: dict[tuple[str, str], _T | Reading | Ready], name: tuple[str, str], one: _T | Reading
) -> None:
    """Set what a dict of newest readings has under a name."""

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
